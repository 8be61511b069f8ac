//! Each kind, of disks of all sizes: what others make of it.

use std::{path::Path, sync::Arc};

use blockdev::{
    BlockDevice, BlockSizes, ExtentKind, ReadAt,
    containers::{self, Content, Kind},
};

use crate::{
    disk::{Pieces, Random, copy_out, extents},
    oracles,
};

/// The units in which a kind stores data.
fn unit(kind: Kind) -> u64 {
    match kind {
        Kind::Raw => 4096,
        Kind::Qcow2 | Kind::VmdkSparse | Kind::VmdkStream => 64 << 10,
        Kind::Vdi => 1 << 20,
        Kind::VhdDynamic => 2 << 20,
        _ => unreachable!("{kind} has no units that QEMU knows"),
    }
}

/// Make every container of `disk`, and have others look at it.
fn check(disk: &Pieces, kinds: &[Kind], random: &mut Random) {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("expected");
    disk.write_raw(&raw);
    for kind in kinds {
        eprintln!("{kind} of {} bytes", disk.size);
        let device = disk.clone().shared();
        for part in kind.parts("disk0") {
            let file = part_file(*kind, &part.name, part.content, &device);
            copy_out(file.as_ref(), &folder.path().join(&part.name), random);
        }
        let path = folder.path().join(&kind.parts("disk0")[0].name);
        let format = kind.format();
        let size = if *kind == Kind::Raw { disk.size } else { disk.rounded() };
        if *kind != Kind::VmdkVmfs {
            oracles::check(format, &path);
        }
        assert!(oracles::virtual_size(format, &path).is_none_or(|seen| seen == size.next_multiple_of(512)));
        // QEMU does not know the holes of a VHDX and would read them all.
        if format.name() == "vhdx" && disk.size > 1 << 30 {
            for unit in disk.units(1 << 20) {
                let around = unit.start.saturating_sub(1 << 20)..unit.end.saturating_add(1 << 20).min(disk.rounded());
                oracles::compare_range(format, &path, &raw, around);
            }
        } else {
            oracles::compare(format, &path, &raw);
        }
        // Of the others QEMU says that all is data.
        let allocates = [Kind::Raw, Kind::Qcow2, Kind::VmdkSparse, Kind::VmdkStream, Kind::VhdDynamic, Kind::Vdi];
        if allocates.contains(kind) {
            check_map(*kind, disk, &path);
        }
        // 7-Zip takes no VHDX with an odd number of sectors, QEMU's neither.
        let odd = format.name() == "vhdx" && !size.is_multiple_of(1024);
        if disk.size < 1 << 30 && !odd && !matches!(kind, Kind::Raw | Kind::VmdkVmfs) {
            oracles::seven_zip(format, &path, &raw);
        }
        if disk.size > 0 {
            oracles::libyal(format, &path, size);
        }
        for part in kind.parts("disk0") {
            std::fs::remove_file(folder.path().join(&part.name)).unwrap();
        }
    }
}

fn part_file(kind: Kind, name: &str, content: Content, disk: &Arc<dyn BlockDevice>) -> Arc<dyn ReadAt> {
    match content {
        Content::Image => containers::open(kind, name, disk, b"job 7, disk 0").unwrap(),
        Content::Flat => containers::open_flat(disk).unwrap(),
    }
}

/// All data of the disk is data for QEMU, and nothing that is outside the units that hold some.
fn check_map(kind: Kind, disk: &Pieces, path: &Path) {
    let Some(seen) = oracles::data(kind.format(), path) else { return };
    let units = disk.units(unit(kind));
    for range in &seen {
        let next = units.partition_point(|unit| unit.end <= range.start);
        let inside = units.get(next).is_some_and(|unit| unit.start <= range.start && range.end <= unit.end);
        assert!(inside, "{kind}: {range:?} is stored for nothing");
    }
    let stored: u64 = seen.iter().map(|range| range.end - range.start).sum();
    // Of a piece no byte may be missing; those of different pieces can be in one range.
    for (at, piece) in &disk.pieces {
        let end = at + piece.len() as u64;
        let mut covered = *at;
        for range in &seen[seen.partition_point(|range| range.end <= *at)..] {
            if range.start > covered || covered >= end {
                break;
            }
            covered = range.end;
        }
        assert!(covered >= end, "{kind}: {at}..{end} is not stored, of {stored} bytes that are");
    }
}

#[test]
fn small_and_odd_disks() {
    let random = &mut Random(1);
    let kinds = &Kind::ALL;
    for size in [512, 1, 511, 513, 4096, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, (2 << 20) + 512, 7_654_321] {
        check(&Pieces::random(size, 1 + size / 300_000, random), kinds, random);
    }
    // All hole, and all data.
    check(&Pieces::empty(3 << 20), kinds, random);
    let mut full = Pieces::empty(5 << 20);
    full.write(0, &random.bytes(5 << 20));
    check(&full, kinds, random);
}

#[test]
fn an_empty_disk_can_be_raw_and_qcow2() {
    check(&Pieces::empty(0), &[Kind::Raw, Kind::Qcow2], &mut Random(2));
    for kind in Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Raw | Kind::Qcow2)) {
        let error = containers::open(kind, "disk0", &Pieces::empty(0).shared(), b"").err().unwrap();
        assert!(error.to_string().ends_with("use raw or qcow2"), "{error}");
    }
}

#[test]
fn disks_of_100_mib() {
    for seed in 10..12 {
        let random = &mut Random(seed);
        check(&Pieces::random(100 << 20, 60, random), &Kind::ALL, random);
    }
}

#[test]
fn a_sparse_disk_of_200_gib() {
    let random = &mut Random(20);
    check(&Pieces::random(200 << 30, 40, random), &Kind::ALL, random);
}

#[test]
fn a_sparse_disk_of_2_tib() {
    let random = &mut Random(21);
    // QEMU takes a minute for the grains of each sparse VMDK: those of 200 GiB show the same.
    let is_slow = |kind: &Kind| matches!(kind, Kind::VmdkSparse | Kind::VmdkStream);
    let kinds =
        Kind::ALL.into_iter().filter(|kind| kind.format().name() != "vhd" && !is_slow(kind)).collect::<Vec<_>>();
    check(&Pieces::random((2 << 40) + 512, 30, random), &kinds, random);
}

#[test]
fn disks_of_4096_byte_blocks() {
    let random = &mut Random(30);
    let mut disk = Pieces::random((9 << 20) + 4096 + 512, 10, random);
    disk.sizes = BlockSizes::NATIVE_4K;
    // QEMU reads VHDX of 512-byte sectors only.
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| kind.format().name() != "vhdx" && *kind != Kind::Raw).collect();
    check(&disk, &kinds, random);
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("expected");
    disk.write_raw(&raw);
    for kind in [Kind::VhdxDynamic, Kind::VhdxFixed] {
        let path = folder.path().join(kind.name());
        let file = containers::open(kind, "disk0.vhdx", &disk.clone().shared(), b"4Kn").unwrap();
        copy_out(file.as_ref(), &path, random);
        oracles::seven_zip(kind.format(), &path, &raw);
        oracles::libyal(kind.format(), &path, disk.rounded());
    }
}

#[test]
fn what_the_disk_does_not_store_is_a_hole() {
    let disk = Pieces::random(64 << 20, 12, &mut Random(40));
    let data: u64 = disk.pieces.values().map(|piece| piece.len() as u64).sum();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::VmdkStream) {
        let file = containers::open(kind, "disk0", &disk.clone().shared(), b"").unwrap();
        let stored = extents(file.as_ref()).into_iter().filter(|extent| extent.kind == ExtentKind::Data);
        let stored: u64 = stored.map(|extent| extent.range.end - extent.range.start).sum();
        let tables = 400 << 10;
        assert!(stored <= data + tables, "{kind}: {stored} bytes are stored for {data}");
    }
}
