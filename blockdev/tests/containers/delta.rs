//! A chain of qcow2 files: a Full and what has changed since, as `qemu-img` reads it.

use std::{ops::Range, path::Path, sync::Arc};

use blockdev::{
    ReadAt, Result,
    containers::{self, Backing, Kind},
    images::Format,
};

use crate::{
    disk::{Pieces, Random, copy_out},
    oracles,
};

type Ranges = Vec<Range<u64>>;

/// Change the disk here and there: new data, and zeros; gives the ranges, joined.
fn change(disk: &mut Pieces, random: &mut Random) -> Ranges {
    let mut changed = Ranges::new();
    for _ in 0..20 {
        let at = random.below(disk.size);
        let len = (1 + random.below(1 << 18)).min(disk.size - at);
        if random.below(2) == 0 {
            disk.zero(at..at + len);
        } else {
            disk.write(at, &random.bytes(len as usize));
        }
        changed.push(at..at + len);
    }
    changed.sort_unstable_by_key(|range| range.start);
    changed
}

fn delta(disk: &Pieces, changed: &[Range<u64>], backing: &str) -> Result<Arc<dyn ReadAt>> {
    let backing = Backing { name: backing.to_owned(), format: Format::Qcow2 };
    containers::open_delta(&disk.clone().shared(), &mut changed.iter().cloned().map(Ok), &backing)
}

#[test]
fn a_chain_reads_as_the_disk_at_each_time() {
    let random = &mut Random(50);
    let folder = tempfile::tempdir().unwrap();
    let file_name = |number: u32| format!("disk0.{number}.qcow2");
    let mut disk = Pieces::random(40 << 20, 30, random);
    let full = containers::open(Kind::Qcow2, "disk0.qcow2", &disk.clone().shared(), b"").unwrap();
    copy_out(full.as_ref(), &folder.path().join(file_name(0)), random);
    for number in 1..=5 {
        let changed = change(&mut disk, random);
        let file = delta(&disk, &changed, &file_name(number - 1)).unwrap();
        let touched: u64 = changed.iter().map(|r| r.end.div_ceil(1 << 16) - r.start / (1 << 16)).sum();
        assert!(file.size() <= (touched + 10) << 16, "a delta has only what was changed");
        let path = folder.path().join(file_name(number));
        copy_out(file.as_ref(), &path, random);
        let raw = folder.path().join("expected");
        disk.write_raw(&raw);
        oracles::check(Format::Qcow2, &path);
        oracles::compare(Format::Qcow2, &path, &raw);
    }
}

#[test]
fn a_delta_of_nothing_is_its_backing_file() {
    let random = &mut Random(51);
    let folder = tempfile::tempdir().unwrap();
    let disk = Pieces::random(3 << 20, 9, random);
    let write = |file: &dyn ReadAt, name: &Path| copy_out(file, &folder.path().join(name), &mut Random(1));
    disk.write_raw(&folder.path().join("base"));
    let backing = Backing { name: "base".to_owned(), format: Format::Raw };
    let file = containers::open_delta(&disk.shared(), &mut std::iter::empty(), &backing).unwrap();
    write(file.as_ref(), Path::new("delta"));
    oracles::check(Format::Qcow2, &folder.path().join("delta"));
    oracles::compare(Format::Qcow2, &folder.path().join("delta"), &folder.path().join("base"));
}

#[test]
fn ranges_have_to_be_in_order_and_on_the_disk() {
    let disk = Pieces::empty(1 << 20);
    for bad in [[4096..5000, 0..10], [0..10, 20..(1 << 20) + 1]] {
        assert!(delta(&disk, &bad, "base").is_err(), "{bad:?}");
    }
}
