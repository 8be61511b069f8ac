//! Bitmaps of changed blocks, compared with what `qemu-nbd` tells of them.

use std::{
    ops::Range,
    process::{Command, Stdio},
};

use blockdev::images::qcow2;

use super::*;

impl Lab {
    fn ranges(&self, name: &str, bitmap: &str) -> blockdev::Result<Vec<Range<u64>>> {
        qcow2::dirty_ranges(self.file(name), bitmap)?.collect()
    }

    /// What QEMU says is dirty.
    fn qemu_ranges(&self, name: &str, bitmap: &str) -> Vec<Range<u64>> {
        // Not one name for all: a server removes its files when it ends, which is later than it is told to.
        let socket = self.path(&format!("socket-{bitmap}"));
        let pid = self.path(&format!("pid-{bitmap}"));
        let arguments = ["--read-only", "--fork", "--persistent", "-f", "qcow2", "-B", bitmap];
        let server = Command::new("qemu-nbd")
            .args(arguments)
            .args(["--pid-file".as_ref(), pid.as_os_str(), "-k".as_ref(), socket.as_os_str(), name.as_ref()])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .status();
        assert!(server.unwrap().success());
        let target = format!(
            "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}",
            socket.display()
        );
        let map = Command::new("qemu-img").args(["map", "--output=json", "--image-opts", &target]).output().unwrap();
        let pid = fs::read_to_string(&pid).unwrap();
        run("kill", [pid.trim()]);
        let map: serde_json::Value = serde_json::from_slice(&map.stdout).unwrap();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for extent in map.as_array().unwrap() {
            let (start, length) = (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
            // What is dirty shows as if it had no data.
            if extent["data"] == false {
                match ranges.last_mut() {
                    Some(last) if last.end == start => last.end += length,
                    _ => ranges.push(start..start + length),
                }
            }
        }
        ranges
    }
}

#[test]
fn bitmaps_are_listed_and_tell_what_qemu_says_they_tell() {
    for (seed, cluster_size, size) in
        [(30, "64k", (48_u64 << 20) + 512 * 3), (31, "512", 40 << 20), (32, "4k", 3 << 30)]
    {
        let mut lab = Lab::new(seed);
        lab.img(&format!("create -q -f qcow2 -o cluster_size={cluster_size} disk.qcow2 {size}"));
        lab.img("bitmap --add -g 64k disk.qcow2 coarse");
        lab.img("bitmap --add -g 512 disk.qcow2 fine");
        lab.img("bitmap --add -g 1M --disable disk.qcow2 nothing");
        lab.scribble("disk.qcow2", size, 60, false);
        lab.io("disk.qcow2", &[format!("write -P 9 {} 512", size - 512)]);

        let image = lab.check("disk.qcow2");
        let bitmaps = &image.members[0].info.bitmaps;
        let listed: Vec<_> = bitmaps.iter().map(|b| (b.name.as_str(), b.granularity, b.in_use)).collect();
        assert_eq!(listed, [("coarse", 65536, false), ("fine", 512, false), ("nothing", 1 << 20, false)]);
        for name in ["coarse", "fine"] {
            let ranges = lab.ranges("disk.qcow2", name).unwrap();
            assert_eq!(ranges, lab.qemu_ranges("disk.qcow2", name), "{name}");
            assert!(ranges.len() > 10);
            assert_eq!(ranges.last().unwrap().end, size);
        }
        assert_eq!(lab.ranges("disk.qcow2", "nothing").unwrap(), []);
        let error = lab.ranges("disk.qcow2", "other").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("\"coarse\", \"fine\", \"nothing\""), "{error}");
    }
}

/// All of a disk: the bitmap has no clusters, only entries that say so.
#[test]
fn a_bitmap_that_is_all_ones_is_one_range() {
    let lab = Lab::new(33);
    lab.img("create -q -f qcow2 -o cluster_size=512 disk.qcow2 64M");
    lab.img("bitmap --add -g 512 disk.qcow2 all");
    lab.io("disk.qcow2", &["write -z 0 64M".to_owned()]);
    assert_eq!(lab.ranges("disk.qcow2", "all").unwrap(), [0..64 << 20]);
    assert_eq!(lab.qemu_ranges("disk.qcow2", "all"), [0..64 << 20]);
}

#[test]
fn a_bitmap_that_was_not_stored_properly_is_refused() {
    let lab = Lab::new(34);
    lab.img("create -q -f qcow2 disk.qcow2 64M");
    lab.img("bitmap --add disk.qcow2 changes");
    lab.io_and_crash("disk.qcow2", "write 0 1M");
    let info = common::open(&lab.path("disk.qcow2")).unwrap().members.remove(0).info;
    assert!(info.bitmaps[0].in_use);
    let error = lab.ranges("disk.qcow2", "changes").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("read the whole disk"), "{error}");
}

#[test]
fn bitmaps_that_their_image_has_outlived_are_refused() {
    let lab = Lab::new(35);
    lab.img("create -q -f qcow2 disk.qcow2 64M");
    lab.img("bitmap --add disk.qcow2 changes");
    // What does not know bitmaps clears the autoclear feature.
    lab.patch("disk.qcow2", 88, &[0; 8]);
    let info = common::open(&lab.path("disk.qcow2")).unwrap().members.remove(0).info;
    assert!(info.bitmaps[0].in_use);
    assert!(info.notes[0].contains("out of date"), "{:?}", info.notes);
    assert_eq!(lab.ranges("disk.qcow2", "changes").unwrap_err().kind(), ErrorKind::Damaged);
}

/// Every field of the directory entry and of the table, made impossible.
#[test]
fn impossible_bitmaps_are_refused() {
    let lab = Lab::new(36);
    lab.img("create -q -f qcow2 disk.qcow2 64G");
    lab.img("bitmap --add -g 64k disk.qcow2 changes");
    lab.io("disk.qcow2", &["write 0 1M".to_owned(), "write 40G 1M".to_owned()]);
    let bytes = fs::read(lab.path("disk.qcow2")).unwrap();
    let extension = bytes.windows(8).position(|w| w == [0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24]).unwrap();
    let directory = be64(&lab.path("disk.qcow2"), extension + 24);
    let table = be64(&lab.path("disk.qcow2"), directory as usize);
    for (at, bytes, kind) in [
        (directory + 6, &[1, 0][..], ErrorKind::Damaged), // the table lies within a cluster
        (directory + 11, &[77], ErrorKind::Damaged),      // entries of the table
        (directory + 12, &[0x80], ErrorKind::Unsupported), // flags
        (directory + 16, &[2], ErrorKind::Unsupported),   // type
        (directory + 17, &[8], ErrorKind::Unsupported),   // granularity: 256 bytes
        (directory + 17, &[64], ErrorKind::Damaged),      // 2^64 bytes
        (table, &[0x80], ErrorKind::Damaged),             // reserved bits
        (table + 7, &[1], ErrorKind::Damaged),            // ones, and a cluster
        (table + 2, &[1], ErrorKind::Damaged),            // past the end of the file
        (extension as u64 + 23, &[8], ErrorKind::Damaged), // the directory is too short
        (extension as u64 + 8, &[1], ErrorKind::Limit),   // number of bitmaps
    ] {
        fs::copy(lab.path("disk.qcow2"), lab.path("bad.qcow2")).unwrap();
        lab.patch("bad.qcow2", at, bytes);
        let error = lab.ranges("bad.qcow2", "changes").unwrap_err();
        assert_eq!(error.kind(), kind, "byte {at}: {error}");
        // The disk does not care.
        common::open(&lab.path("bad.qcow2")).unwrap();
    }
}
