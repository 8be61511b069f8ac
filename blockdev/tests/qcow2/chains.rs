//! Images on backing files.

use blockdev::images::{Format, qcow2};

use super::*;

#[test]
fn a_chain_of_many_kinds_reads_as_qemu_reads_it() {
    let mut lab = Lab::new(10);
    let size = (12 << 20) + 512 * 77;
    lab.raw("base.raw", size);
    let kinds = [
        "compat=0.10",
        "extended_l2=on",
        "cluster_size=512",
        "compression_type=zstd",
        "cluster_size=2M",
        "extended_l2=on,cluster_size=16k",
    ];
    let (mut below, mut format) = ("base.raw".to_owned(), "raw");
    for (i, kind) in kinds.iter().enumerate() {
        let name = format!("delta{i}.qcow2");
        lab.img(&format!("create -q -f qcow2 -o {kind} -b {below} -F {format} {name}"));
        lab.scribble(&name, size, 25, true);
        let image = lab.check(&name);
        assert_eq!(image.members.len(), i + 2);
        let parent = image.members[0].info.parent.clone().unwrap();
        assert_eq!((parent.names, parent.format), (vec![below], Some(format.parse().unwrap())));
        (below, format) = (name, "qcow2");
    }
}

#[test]
fn parents_in_other_formats_are_read_too() {
    let mut lab = Lab::new(11);
    lab.raw("base.raw", 5 << 20);
    lab.img("convert -f raw -O vdi base.raw base.vdi");
    lab.img("create -q -f qcow2 -b base.vdi -F vdi top.qcow2");
    lab.scribble("top.qcow2", 5 << 20, 20, true);
    let image = lab.check("top.qcow2");
    assert_eq!(image.members[1].info.format, Format::Vdi);
}

#[test]
fn a_backing_file_may_be_shorter_or_longer_than_the_disk() {
    let mut lab = Lab::new(12);
    // It ends within a cluster.
    lab.raw("short.raw", (3 << 20) + 512 * 5);
    lab.raw("long.raw", 20 << 20);
    for (base, kind) in
        [("short", "compat=1.1"), ("long", "compat=1.1"), ("short", "extended_l2=on"), ("long", "compat=0.10")]
    {
        lab.img(&format!("create -q -f qcow2 -o {kind} -b {base}.raw -F raw {base}.qcow2 7M"));
        lab.scribble(&format!("{base}.qcow2"), 7 << 20, 10, true);
        lab.check(&format!("{base}.qcow2"));
    }
    // Shorter in the middle: what it cuts off is zeros for those above, whatever lies below.
    lab.img("create -q -f qcow2 -b long.raw -F raw cut.qcow2 4M");
    lab.img("create -q -f qcow2 -b cut.qcow2 -F qcow2 above.qcow2 20M");
    lab.check("above.qcow2");
}

/// What a guest writes to its disk does not make it another disk.
#[test]
fn a_backing_file_that_is_said_to_be_raw_is_not_asked_what_it_is() {
    let mut lab = Lab::new(13);
    lab.raw("secret.raw", 1 << 20);
    // The guest's disk begins with an image on another file.
    lab.img("create -q -f qcow2 -b secret.raw -F raw guest.raw");
    lab.img("create -q -f qcow2 -b guest.raw -F raw top.qcow2");
    let image = lab.check("top.qcow2");
    assert_eq!(image.members.len(), 2);
    assert!(read_all(&image.disk).starts_with(b"QFI\xfb"));
}

#[test]
fn without_a_format_the_magic_of_the_backing_file_counts() {
    let mut lab = Lab::new(14);
    lab.raw("disk.raw", 2 << 20);
    lab.img("convert -f raw -O qcow2 disk.raw base.qcow2");
    lab.img("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    // The extension that tells the format becomes one that nobody knows.
    assert_eq!(be32(&lab.path("top.qcow2"), 112), 0xe279_2aca);
    lab.patch("top.qcow2", 112, b"????");
    let image = lab.check("top.qcow2");
    assert_eq!(image.members[1].info.format, Format::Qcow2);
    assert_eq!(image.members[0].info.parent.as_ref().unwrap().format, None);
}

#[test]
fn what_is_no_file_beside_the_image_is_refused() {
    let lab = Lab::new(15);
    lab.img("create -q -f raw base.raw 1M");
    for backing in ["json:{\"driver\":\"nbd\",\"host\":\"::1\"}", "nbd://localhost/x", "https://example.org/base.img"] {
        lab.img(&format!("create -q -f qcow2 -u -b {backing} -F raw top.qcow2 1M"));
        lab.refused("top.qcow2", ErrorKind::Unsupported, &["top.qcow2", "not a file", "qemu-img rebase"]);
    }
    lab.img("create -q -f qcow2 -u -b base.raw -F parallels top.qcow2 1M");
    lab.refused("top.qcow2", ErrorKind::Unsupported, &["base.raw", "parallels"]);
    // Only the last part of a path counts.
    lab.img("create -q -f qcow2 -u -b /elsewhere/base.raw -F raw top.qcow2 1M");
    assert_eq!(common::open(&lab.path("top.qcow2")).unwrap().members[1].name, "base.raw");
    lab.img("create -q -f qcow2 -u -b /etc/passwd -F raw top.qcow2 1M");
    lab.refused("top.qcow2", ErrorKind::Missing, &["/etc/passwd", "not in the same folder"]);
    lab.img("create -q -f qcow2 loop.qcow2 1M");
    lab.img("rebase -u -b loop.qcow2 -F qcow2 loop.qcow2");
    lab.refused("loop.qcow2", ErrorKind::Damaged, &["loop.qcow2 is a parent of itself"]);
}

#[test]
fn an_external_data_file_is_needed_and_looked_for_beside_the_image_only() {
    let lab = Lab::new(16);
    lab.img("create -q -f qcow2 -o data_file=disk.data top.qcow2 1M");
    lab.io("top.qcow2", &["write -P 5 64k 64k".to_owned()]);
    // Its data is there and nowhere else.
    fs::rename(lab.path("disk.data"), lab.path("other")).unwrap();
    lab.refused("top.qcow2", ErrorKind::Missing, &["disk.data", "not in the same folder"]);
    // Cut off: what is missing is not zeros.
    fs::write(lab.path("disk.data"), vec![5; 100 << 10]).unwrap();
    let image = common::open(&lab.path("top.qcow2")).unwrap();
    assert_eq!(image.disk.read_at(&mut [0; 4096], 130_000).unwrap_err().kind(), ErrorKind::Damaged);
    image.disk.read_at(&mut [0; 4096], 70_000).unwrap();
    // Without a name.
    let opened = qcow2::open(lab.file("top.qcow2"), &blockdev::images::gate::Alone);
    assert_eq!(opened.err().map(|e| e.kind()), Some(ErrorKind::Missing));
    let bytes = fs::read(lab.path("top.qcow2")).unwrap();
    let at = bytes.windows(4).position(|w| w == b"DATA").unwrap() as u64;
    lab.patch("top.qcow2", at, b"Atad");
    lab.refused("top.qcow2", ErrorKind::Unsupported, &["qemu-img amend"]);
}
