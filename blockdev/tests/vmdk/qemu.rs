//! Everything that `qemu-img` writes, read as `qemu-img` reads it.

use std::path::Path;

use blockdev::{ErrorKind, ReadAt, file::HostFile, images::Format};

use crate::common::{Random, assert_same, open, qemu_raw, run, write_sparse};

fn convert(raw: &Path, options: &str, to: &Path) {
    let arguments = [
        "convert",
        "-t",
        "unsafe",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        options,
        raw.to_str().unwrap(),
        to.to_str().unwrap(),
    ];
    run("qemu-img", arguments);
}

#[test]
fn every_kind_and_option_reads_as_qemu_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut random = Random(1);
    // A whole number of tables, an odd number of sectors, less than a grain.
    for (number, size) in [64 << 20, 30_123 * 512, 11 * 512].into_iter().enumerate() {
        let raw = path("disk.raw");
        write_sparse(&raw, size, &mut random);
        for (kind, grain) in [
            ("monolithicSparse", true),
            ("monolithicFlat", false),
            ("twoGbMaxExtentSparse", true),
            ("twoGbMaxExtentFlat", false),
            ("streamOptimized", true),
        ] {
            for more in ["", ",zeroed_grain=on", ",adapter_type=lsilogic,hwversion=7", ",compat6=on"] {
                // The options change little: one size is enough.
                if !more.is_empty() && (number != 1 || more.contains("zeroed") && !grain) {
                    continue;
                }
                let image = path(&format!("{kind}-{number}.vmdk"));
                convert(&raw, &format!("subformat={kind}{more}"), &image);
                let opened = open(&image).unwrap();
                let info = &opened.members[0].info;
                assert_eq!((info.format, info.variant.as_str()), (Format::Vmdk, kind));
                assert_eq!(info.cluster_size, grain.then_some(65536));
                assert!(info.parent.is_none() && info.notes.is_empty(), "{info:?}");
                assert_same(&opened.disk, &qemu_raw("vmdk", &image, &path("qemu.raw")), &mut random);
                assert_same(&opened.disk, &HostFile::open(&raw).unwrap(), &mut random);
            }
        }
    }
}

#[test]
fn disks_of_several_extents() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut random = Random(2);
    let raw = path("disk.raw");
    write_sparse(&raw, (2 << 30) + 3 * 512, &mut random);
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let image = path(&format!("{kind}.vmdk"));
        convert(&raw, &format!("subformat={kind}"), &image);
        assert_same(&open(&image).unwrap().disk, &HostFile::open(&raw).unwrap(), &mut random);
    }
    let extent = |n: u32| path(&format!("twoGbMaxExtentSparse-s{n:03}.vmdk"));
    assert!(extent(2).exists(), "qemu-img made no second extent");

    // One extent by itself is a part of the disk.
    let alone = open(&extent(2)).unwrap();
    assert_eq!(alone.disk.size(), 3 * 512);
    assert!(alone.members[0].info.notes[0].contains("without its descriptor"), "{:?}", alone.members[0].info);

    std::fs::remove_file(extent(2)).unwrap();
    let error = open(&path("twoGbMaxExtentSparse.vmdk")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert!(error.to_string().contains("twoGbMaxExtentSparse-s002.vmdk"), "{error}");
}

#[test]
fn chains_of_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut random = Random(3);
    const SIZE: u64 = 50 << 20;
    write_sparse(&path("disk.raw"), SIZE, &mut random);
    let bases = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "streamOptimized"];
    for (base, zeroed) in bases.into_iter().zip([true, false, true, false]) {
        convert(&path("disk.raw"), &format!("subformat={base}"), &path("base.vmdk"));
        let mut parent = "base.vmdk".to_owned();
        for generation in 1..4 {
            let child = format!("child-{generation}.vmdk");
            let (parent_path, child_path) = (path(&parent), path(&child));
            let options = if zeroed { "zeroed_grain=on" } else { "zeroed_grain=off" };
            let arguments = ["create", "-q", "-f", "vmdk", "-F", "vmdk", "-o", options, "-b"];
            let paths = [parent_path.to_str().unwrap(), child_path.to_str().unwrap()];
            run("qemu-img", arguments.into_iter().chain(paths));
            for _ in 0..6 {
                let write =
                    format!("write -P {} {}k {}k", random.below(255), random.below(45 << 10), random.below(3000));
                run("qemu-io", ["-t", "unsafe", "-f", "vmdk", "-c", &write, paths[1]]);
            }
            if zeroed {
                let zero = format!("write -z {}k 1M", random.below(700) * 64);
                run("qemu-io", ["-t", "unsafe", "-f", "vmdk", "-c", &zero, paths[1]]);
            }
            parent = child;
        }
        let top = path(&parent);
        let opened = open(&top).unwrap();
        assert_eq!(opened.members.len(), 4);
        for pair in opened.members.windows(2) {
            let wanted = pair[0].info.parent.as_ref().unwrap();
            assert_eq!(wanted.identity, pair[1].info.identity, "parentCID and CID");
        }
        assert_same(&opened.disk, &qemu_raw("vmdk", &top, &path("qemu.raw")), &mut random);
        let error = {
            // A parent that was written to is another disk.
            run(
                "qemu-io",
                ["-t", "unsafe", "-f", "vmdk", "-c", "write -P 1 0 64k", path("child-1.vmdk").to_str().unwrap()],
            );
            open(&top).err().unwrap()
        };
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains("child-1.vmdk is not the state that child-2.vmdk was made on"), "{error}");
    }
}
