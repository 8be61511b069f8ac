//! What a format cannot hold is refused, with what can; and a huge disk costs little.

use std::time::{Duration, Instant};

use blockdev::containers::{self, Kind};

use crate::disk::{Pieces, Random};

const TIB: u64 = 1 << 40;

#[test]
fn a_disk_that_does_not_fit_is_refused_with_a_remedy() {
    let cases = [
        (Kind::VhdDynamic, 2040 << 30, "VHDX"),
        (Kind::VhdFixed, 2040 << 30, "VHDX"),
        (Kind::VhdxDynamic, 64 * TIB, "qcow2"),
        (Kind::VhdxFixed, 64 * TIB, "qcow2"),
        (Kind::VmdkSparse, 62 * TIB, "qcow2"),
        (Kind::VmdkStream, 62 * TIB, "qcow2"),
        (Kind::VmdkFlat, 62 * TIB, "qcow2"),
        (Kind::Qcow2, 2048 * TIB, "raw"),
    ];
    for (kind, most, remedy) in cases {
        let open = |size| containers::open(kind, "disk0.x", &Pieces::empty(size).shared(), b"");
        assert!(open(most).is_ok(), "{kind} of {most} bytes");
        let error = open(most + 1).err().unwrap().to_string();
        assert!(error.contains("use ") && error.contains(remedy), "{error}");
    }
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Raw) {
        for size in [1 << 62, i64::MAX as u64, u64::MAX - 600, u64::MAX] {
            assert!(containers::open(kind, "disk0.x", &Pieces::empty(size).shared(), b"").is_err(), "{kind}, {size}");
        }
    }
    assert!(containers::open_flat(&Pieces::empty(u64::MAX).shared()).is_err());
}

#[test]
fn sparse_vmdks_store_2_tib_at_most() {
    // As large as is allowed, and all of it data: the disk is never read.
    struct Full;
    impl blockdev::ReadAt for Full {
        fn size(&self) -> u64 {
            3 * TIB
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> blockdev::Result<usize> {
            unreachable!("the layout needs no data")
        }
        fn extent_at(&self, offset: u64) -> blockdev::Result<Option<blockdev::Extent>> {
            Ok(Some(blockdev::Extent { range: offset..3 * TIB, kind: blockdev::ExtentKind::Data }))
        }
        fn map(&self, _: u64, _: u64) -> Option<blockdev::MappedRun<'_>> {
            None
        }
    }
    impl blockdev::BlockDevice for Full {
        fn block_sizes(&self) -> blockdev::BlockSizes {
            blockdev::BlockSizes::CLASSIC
        }
    }
    let disk: std::sync::Arc<dyn blockdev::BlockDevice> = std::sync::Arc::new(Full);
    for kind in [Kind::VmdkSparse, Kind::VmdkStream] {
        let error = containers::open(kind, "disk0.vmdk", &disk, b"").err().unwrap().to_string();
        assert!(error.contains("2 TiB"), "{error}");
    }
    for kind in [Kind::Qcow2, Kind::VhdxDynamic, Kind::VhdxFixed, Kind::VmdkFlat, Kind::Vdi] {
        let file = containers::open(kind, "disk0", &disk, b"").unwrap();
        assert!(kind == Kind::VmdkFlat || file.size() > 3 * TIB);
    }
}

#[test]
fn a_disk_of_60_tib_is_laid_out_at_once() {
    let random = &mut Random(60);
    let mut disk = Pieces::empty(60 * TIB);
    for _ in 0..1000 {
        let at = random.below(60 * TIB - 100);
        disk.write(at, b"data");
    }
    let disk = disk.shared();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.format().name() != "vhd") {
        let start = Instant::now();
        let file = containers::open(kind, "disk0.x", &disk, b"").unwrap();
        let mut end = [0; 4096];
        file.read_at(&mut end, file.size().saturating_sub(4096)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "{kind}: {:?}", start.elapsed());
    }
}

#[test]
fn every_kind_has_a_name_and_files() {
    for kind in Kind::ALL {
        assert_eq!(kind.name().parse::<Kind>().unwrap(), kind);
        let names: Vec<String> = kind.parts("sda").into_iter().map(|part| part.name).collect();
        assert!(names[0].ends_with(&format!(".{}", kind.extension())));
        assert_eq!(names.len(), if matches!(kind, Kind::VmdkFlat | Kind::VmdkVmfs) { 2 } else { 1 });
    }
    assert_eq!(Kind::VmdkFlat.parts("sda")[1].name, "sda-flat.vmdk");
    assert_eq!("vpc".parse::<Kind>().unwrap(), Kind::VhdDynamic);
    let error = "zip".parse::<Kind>().unwrap_err().to_string();
    assert!(error.contains("vmdk-stream"), "{error}");
}
