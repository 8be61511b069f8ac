//! Internal snapshots.

use std::time::{SystemTime, UNIX_EPOCH};

use blockdev::{
    BlockSizes,
    images::{gate::HostFolder, qcow2},
};

use super::*;

impl Lab {
    fn snapshot(&self, name: &str, wanted: &str) -> blockdev::Result<blockdev::images::Opened> {
        qcow2::open_snapshot(self.file(name), &HostFolder::open(self.folder.path()).unwrap(), wanted)
    }
}

#[test]
fn snapshots_are_listed_and_read_as_qemu_reads_them() {
    for (seed, kind) in [(20, "compat=0.10"), (21, "compat=1.1"), (22, "extended_l2=on"), (23, "cluster_size=512")] {
        let mut lab = Lab::new(seed);
        let size = (4 << 20) + 512 * 9;
        lab.img(&format!("create -q -f qcow2 -o {kind} disk.qcow2 {size}"));
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        for name in ["first", "2", "dritte-äöü"] {
            lab.scribble("disk.qcow2", size, 12, true);
            lab.img(&format!("snapshot -c {name} disk.qcow2"));
        }
        lab.scribble("disk.qcow2", size, 12, true);

        let image = lab.check("disk.qcow2");
        let snapshots = &image.members[0].info.snapshots;
        let listed: Vec<_> = snapshots.iter().map(|s| (s.id.as_str(), s.name.as_str())).collect();
        assert_eq!(listed, [("1", "first"), ("2", "2"), ("3", "dritte-äöü")]);
        assert!(snapshots.iter().all(|s| s.vm_state_size == 0 && (started..started + 600).contains(&s.time)));

        for (id, name) in listed {
            lab.img(&format!("convert -t unsafe -f qcow2 -O raw -l snapshot.id={id} disk.qcow2 expected.raw"));
            let expected = HostFile::open(&lab.path("expected.raw")).unwrap();
            for wanted in [id, name] {
                let opened = lab.snapshot("disk.qcow2", wanted).unwrap();
                assert_eq!(opened.info.virtual_size, size);
                let disk = Disk::new(vec![opened.layer], BlockSizes::CLASSIC).unwrap();
                common::assert_same(&disk, &expected, &mut lab.random);
            }
        }
        let error = lab.snapshot("disk.qcow2", "fourth").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("1 (\"first\"), 2 (\"2\")"), "{error}");
    }
}

/// An identifier counts before a name.
#[test]
fn a_snapshot_of_another_size_on_a_backing_file_keeps_its_size() {
    let mut lab = Lab::new(25);
    lab.raw("base.raw", 2 << 20);
    lab.img("create -q -f qcow2 -o cluster_size=512 -b base.raw -F raw disk.qcow2 3M");
    lab.scribble("disk.qcow2", 3 << 20, 8, false);
    let before = read_all(&lab.check("disk.qcow2").disk);
    lab.img("snapshot -c small disk.qcow2");
    lab.img("resize -q disk.qcow2 700M");
    lab.io("disk.qcow2", &["write -P 1 0 64k".to_owned(), "write -P 1 600M 64k".to_owned()]);
    lab.img("snapshot -c 1 disk.qcow2");

    let opened = lab.snapshot("disk.qcow2", "1").unwrap();
    assert_eq!(opened.info.virtual_size, 3 << 20);
    let parent = blockdev::images::raw::open(lab.file("base.raw")).layer;
    let disk = Disk::new(vec![opened.layer, parent], BlockSizes::CLASSIC).unwrap();
    assert!(read_all(&disk) == before);
    assert_eq!(lab.snapshot("disk.qcow2", "2").unwrap().info.virtual_size, 700 << 20);
}

#[test]
fn a_damaged_snapshot_table_does_not_keep_the_disk_from_being_read() {
    let lab = Lab::new(26);
    lab.img("create -q -f qcow2 disk.qcow2 1M");
    lab.io("disk.qcow2", &["write -P 3 0 1M".to_owned()]);
    lab.img("snapshot -c one disk.qcow2");
    let table = be64(&lab.path("disk.qcow2"), 64);
    for (at, bytes) in
        [(60, u32::MAX.to_be_bytes()), (64, [0, 0, 1, 0]), (table + 36, [1, 0, 0, 0]), (table + 4, [0, 0, 2, 1])]
    {
        let name = format!("bad{at}.qcow2");
        fs::copy(lab.path("disk.qcow2"), lab.path(&name)).unwrap();
        lab.patch(&name, at, &bytes);
        let image = common::open(&lab.path(&name)).unwrap();
        assert!(read_all(&image.disk) == vec![3; 1 << 20]);
        let info = &image.members[0].info;
        assert!(info.snapshots.is_empty());
        assert!(
            matches!(info.notes.as_slice(), [n] if n.starts_with("its snapshots cannot be listed: ")),
            "{:?}",
            info.notes
        );
        assert!(lab.snapshot(&name, "one").is_err());
    }
}
