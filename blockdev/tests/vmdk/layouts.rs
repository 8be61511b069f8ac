//! Layouts of ESXi and of Workstation that no free tool writes, made here, and read by `qemu-img` too where it can.

use std::{fs, path::Path, sync::Arc};

use blockdev::{ErrorKind, ExtentKind, ReadAt, images};

use crate::{
    common::{Folder, Random, assert_same, open, qemu_raw, run, write_sparse},
    maker::{Grain, cowd, descriptor, sesparse},
};

/// Grains in groups of all lengths, of the kinds that are given.
fn grains(count: usize, kinds: &[Grain], random: &mut Random) -> Vec<Grain> {
    let mut grains = Vec::new();
    while grains.len() < count {
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        let longest = 1 << random.below(12);
        grains.extend(std::iter::repeat_n(kind, 1 + random.below(longest) as usize));
    }
    grains.truncate(count);
    grains
}

/// What a delta of `content` shows over `parent`.
fn merged(parent: &[u8], content: &[u8], grain: usize, grains: &[Grain]) -> Vec<u8> {
    let mut merged = parent.to_vec();
    for ((to, from), kind) in merged.chunks_mut(grain).zip(content.chunks(grain)).zip(grains) {
        match kind {
            Grain::Absent => {}
            Grain::Zero | Grain::Unmapped => to.fill(0),
            Grain::Data => to.copy_from_slice(from),
        }
    }
    merged
}

/// Write `parent` as a flat disk, and `extent` as the delta on it; compare it with `expected` and with QEMU's reading.
fn check_delta(folder: &Path, kind: (&str, &str), parent: &[u8], extent: &[u8], expected: &Vec<u8>) {
    let (create_type, extent_type) = kind;
    let sectors = parent.len() / 512;
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    write("base-flat.vmdk", parent);
    write("base.vmdk", &descriptor(0x1234, u32::MAX, "vmfs", &format!("RW {sectors} VMFS \"base-flat.vmdk\"")));
    write("delta-x.vmdk", extent);
    let lines = format!("parentFileNameHint=\"base.vmdk\"\nRW {sectors} {extent_type} \"delta-x.vmdk\"");
    write("delta.vmdk", &descriptor(0x77, 0x1234, create_type, &lines));

    let mut random = Random(expected.len() as u64);
    let opened = open(&folder.join("delta.vmdk")).unwrap();
    assert_eq!(opened.members[0].info.variant, create_type);
    assert_eq!(opened.members[1].info.variant, "vmfs");
    assert_same(&opened.disk, expected, &mut random);
    assert_same(&opened.disk, &qemu_raw("vmdk", &folder.join("delta.vmdk"), &folder.join("qemu.raw")), &mut random);
}

#[test]
fn cowd_deltas() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(4);
    // ESXi's grains are one sector; others were larger. The last disk ends within a grain.
    for (grain, size) in [(512, 5 << 20), (4096, 40 << 20), (65536, (20 << 20) + 512)] {
        let (parent, content) = (random.bytes(size), random.bytes(size));
        let grains = grains(size.div_ceil(grain), &[Grain::Absent, Grain::Data], &mut random);
        // In order, with every eighth grain written late.
        let (early, late): (Vec<_>, Vec<_>) = (0..grains.len()).partition(|n| n % 8 != 0 || n % 3 == 0);
        let extent = cowd(&content, grain, &grains, &[early, late].concat());
        let expected = merged(&parent, &content, grain, &grains);
        check_delta(folder.path(), ("vmfsSparse", "VMFSSPARSE"), &parent, &extent, &expected);
    }
}

#[test]
fn sesparse_deltas() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(5);
    // Half a table; more than two tables, one of which is not there; a disk that ends within a grain.
    for (size, base) in [(8 << 20, 0), (48 << 20, 0), ((17 << 20) + 1024, 4090)] {
        let (parent, content) = (random.bytes(size), random.bytes(size));
        let kinds = [Grain::Absent, Grain::Data, Grain::Zero, Grain::Unmapped];
        let mut grains = grains(size.div_ceil(4096), &kinds, &mut random);
        if grains.len() > 8192 {
            grains[4096..8192].fill(Grain::Absent);
        }
        let mut next = base;
        let extent = sesparse(&content, &grains, |number| {
            // Mostly in order; the numbers of a file of 16 MiB and more need all parts of an entry.
            next += 1 + u64::from(number % 16 == 0);
            next
        });
        let expected = merged(&parent, &content, 4096, &grains);
        check_delta(folder.path(), ("seSparse", "SESPARSE"), &parent, &extent, &expected);
    }
}

#[test]
fn an_sesparse_extent_that_was_not_closed_or_is_unknown_is_refused() {
    let content = vec![7; 1 << 20];
    let whole = sesparse(&content, &[Grain::Data; 256], |n| n as u64);
    let open = |bytes| images::open("x.vmdk", Arc::new(bytes), None, &Folder::default());
    let opened = open(whole.clone()).unwrap();
    assert_eq!(opened.members[0].info.variant, "seSparse");
    assert_same(&opened.disk, &content, &mut Random(6));
    for (at, words) in [
        (512 + 24, "journal"),
        (8, "the version 0x200000002"),
        (24, "a grain size of 0x9"),
        (40, "flags 0x1"),
        (48, "in byte 48 of its header 0x1"),
        (504, "in byte 504 of its header 0x1"),
    ] {
        let mut bytes = whole.clone();
        bytes[at] += 1;
        let error = open(bytes).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// Rows of extents: zeros, files, pieces of one file, a sparse one; read-only and inaccessible ones.
#[test]
fn rows_of_extents() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut random = Random(7);
    let flat = random.bytes(100 * 512);
    fs::write(path("the data.bin"), &flat).unwrap();
    fs::write(path("vmfs.bin"), &flat[..7 * 512]).unwrap();
    write_sparse(&path("part.raw"), 300 * 512, &mut random);
    let part = fs::read(path("part.raw")).unwrap();
    let (raw, sparse) = (path("part.raw"), path("part.vmdk"));
    run(
        "qemu-img",
        ["convert", "-t", "unsafe", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap(), sparse.to_str().unwrap()],
    );
    let lines = "RW 40 FLAT \"the data.bin\" 60\r\nRW 0 FLAT \"the data.bin\" 0\r\nRW 9 ZERO\r\n\
                 RDONLY 200 SPARSE \"C:\\Virtual Machines\\part.vmdk\"\r\nNOACCESS 5 FLAT \"gone.bin\" 0\r\n\
                 RW 3 VMFS \"/vmfs/volumes/5a6b/x/vmfs.bin\"\r\nRW 60 FLAT \"the data.bin\" 0";
    fs::write(path("disk.vmdk"), descriptor(1, u32::MAX, "custom", lines)).unwrap();
    let zeros = |sectors: usize| vec![0; sectors * 512];
    let expected =
        [&flat[60 * 512..], &zeros(9), &part[..200 * 512], &zeros(5), &flat[..3 * 512], &flat[..60 * 512]].concat();
    let opened = open(&path("disk.vmdk")).unwrap();
    assert_same(&opened.disk, &expected, &mut random);
    let info = &opened.members[0].info;
    assert!(info.notes.iter().any(|n| n == "5 sectors of the disk are marked NOACCESS and read as zeros"), "{info:?}");
    let hole = opened.disk.extent_at(40 * 512).unwrap().unwrap();
    assert_eq!((hole.kind, hole.range.start), (ExtentKind::Hole, 40 * 512));
}

#[test]
fn names_in_the_encoding_of_the_host() {
    let mut text = b"# Disk DescriptorFile\nversion=1\nencoding=\"GBK\"\nCID=1\nparentCID=ffffffff\n".to_vec();
    text.extend_from_slice(b"createType=\"monolithicFlat\"\nRW 1 FLAT \"\xd0\xc2\xbd\xa8-flat.vmdk\" 0\n");
    let neighbours = Folder::of([("新建-flat.vmdk", vec![9; 512])]);
    let opened = images::open("disk.vmdk", Arc::new(text), None, &neighbours).unwrap();
    assert_same(&opened.disk, &vec![9; 512], &mut Random(8));
}

/// The first grain directory is damaged in every way it can be; the second one serves.
#[test]
fn the_redundant_directory() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut random = Random(9);
    write_sparse(&path("disk.raw"), 90 << 20, &mut random);
    let (raw, image) = (path("disk.raw"), path("disk.vmdk"));
    run(
        "qemu-img",
        ["convert", "-t", "unsafe", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap(), image.to_str().unwrap()],
    );
    let (whole, expected) = (fs::read(&image).unwrap(), fs::read(&raw).unwrap());
    let field = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap()) as usize * 512;
    let (redundant, first) = (field(48), field(56));
    let open = |bytes| images::open("x.vmdk", Arc::new(bytes), None, &Folder::default());
    let entries = 3 * 4;
    for damage in [0_u8, 0xfe] {
        let mut bytes = whole.clone();
        bytes[first..first + entries].fill(damage);
        assert_same(&open(bytes.clone()).unwrap().disk, &expected, &mut random);
        // Both of them: nothing is made up.
        bytes[redundant..redundant + entries].fill(0xfe);
        let disk = open(bytes).unwrap().disk;
        if damage != 0 {
            assert_eq!(disk.read_at(&mut [0; 512], 0).unwrap_err().kind(), ErrorKind::Damaged);
        }
    }
    let mut bytes = whole;
    bytes[56..64].copy_from_slice(&0x7fff_ffff_u64.to_le_bytes());
    let opened = open(bytes.clone()).unwrap();
    assert_same(&opened.disk, &expected, &mut random);
    assert!(opened.members[0].info.notes[0].contains("the other one is used"), "{:?}", opened.members[0].info);
    bytes[48..56].copy_from_slice(&0x7fff_ffff_u64.to_le_bytes());
    assert_eq!(open(bytes).err().unwrap().kind(), ErrorKind::Damaged);
}
