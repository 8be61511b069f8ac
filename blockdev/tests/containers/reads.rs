//! The contract of `ReadAt`, for every kind.

use std::sync::Arc;

use blockdev::{
    BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result,
    containers::{self, Kind},
    file::HostFile,
};

use crate::disk::{Pieces, Random, whole};

fn open(kind: Kind, disk: &Arc<dyn BlockDevice>) -> Arc<dyn ReadAt> {
    containers::open(kind, "disk0.x", disk, b"identity").unwrap()
}

#[test]
fn any_read_gives_the_bytes_of_the_whole_file() {
    let random = &mut Random(70);
    for size in [900, 70_000, 5_000_001, 70 << 20] {
        let disk = Pieces::random(size, 12, random).shared();
        for kind in Kind::ALL {
            let file = open(kind, &disk);
            let bytes = whole(file.as_ref());
            // Another one that has not yet been read: nothing may depend on what was read before.
            let file = open(kind, &disk);
            for _ in 0..2000 {
                let at = random.below(bytes.len() as u64) as usize;
                let longest = 1 << random.below(18);
                let len = 1 + random.below(longest) as usize;
                let mut buf = vec![0xaa; len];
                let n = file.read_at(&mut buf, at as u64).unwrap();
                assert_eq!(n, len.min(bytes.len() - at), "{kind}");
                assert!(buf[..n] == bytes[at..at + n], "{kind} of {size}: {len} bytes at {at}");
            }
        }
    }
}

/// Readers of all paces at once: what each remembers must not be taken for another's.
#[test]
fn readers_side_by_side_get_the_same_bytes() {
    let disk = Pieces::random(20 << 20, 12, &mut Random(71)).shared();
    let file = open(Kind::VmdkStream, &disk);
    let bytes = whole(file.as_ref());
    std::thread::scope(|scope| {
        for pace in [1000, 4096, 65_535, 66_048, 100_000, 1 << 20] {
            let (file, bytes) = (&file, &bytes);
            scope.spawn(move || {
                for (index, expected) in bytes.chunks(pace).enumerate() {
                    let mut buf = vec![0xaa; expected.len()];
                    file.read_at(&mut buf, (index * pace) as u64).unwrap();
                    assert!(buf == expected, "{pace} bytes at {}", index * pace);
                }
            });
        }
    });
}

#[test]
fn the_same_disk_gives_the_same_bytes_and_another_identity_others() {
    let disk = Pieces::random(3 << 20, 12, &mut Random(72)).shared();
    for kind in Kind::ALL {
        let first = whole(open(kind, &disk).as_ref());
        assert!(first == whole(open(kind, &disk).as_ref()), "{kind}");
        let other = whole(containers::open(kind, "disk0.x", &disk, b"another").unwrap().as_ref());
        let has_identifiers = !matches!(kind, Kind::Raw | Kind::Qcow2);
        assert_eq!(first != other, has_identifiers, "{kind}");
    }
}

#[test]
fn reads_past_the_end_are_short() {
    let disk = Pieces::random(3 << 20, 12, &mut Random(73)).shared();
    for kind in Kind::ALL {
        let file = open(kind, &disk);
        let size = file.size();
        let mut buf = [0; 100];
        assert_eq!(file.read_at(&mut buf, size - 30).unwrap(), 30, "{kind}");
        for past in [size, size + 1, u64::MAX - 1, u64::MAX] {
            assert_eq!(file.read_at(&mut buf, past).unwrap(), 0, "{kind} at {past}");
            assert!(file.extent_at(past).unwrap().is_none());
            assert!(file.map(past, 10).is_none());
        }
        assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    }
}

#[test]
fn data_is_mapped_to_the_file_below() {
    let folder = tempfile::tempdir().unwrap();
    let random = &mut Random(74);
    Pieces::random(9 << 20, 9, random).write_raw(&folder.path().join("raw"));
    let disk: Arc<dyn BlockDevice> = Arc::new(HostFile::open(&folder.path().join("raw")).unwrap());
    for kind in Kind::ALL {
        let file = open(kind, &disk);
        let bytes = whole(file.as_ref());
        let (mut at, mut mapped) = (0, 0);
        while at < file.size() {
            let Some(run) = file.map(at, file.size() - at) else {
                at += 512;
                continue;
            };
            let mut buf = vec![0; run.len as usize];
            std::os::unix::fs::FileExt::read_exact_at(run.file, &mut buf, run.offset).unwrap();
            assert!(buf == bytes[at as usize..(at + run.len) as usize], "{kind} at {at}");
            at += run.len;
            mapped += run.len;
        }
        let computed = matches!(kind, Kind::VmdkStream | Kind::VmdkFlat | Kind::VmdkVmfs);
        assert_eq!(mapped == 0, computed, "{kind}");
    }
}

/// A disk that breaks its contract: it gives too few bytes, or fails.
struct Broken(bool);

impl ReadAt for Broken {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, buf: &mut [u8], _offset: u64) -> Result<usize> {
        if self.0 { Ok(buf.len() / 2) } else { Err(blockdev::Error::damaged("the medium is bad")) }
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok(Some(Extent { range: offset..1 << 20, kind: ExtentKind::Data }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Broken {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

#[test]
fn a_disk_that_fails_is_an_error_and_never_other_bytes() {
    let kinds = Kind::ALL.into_iter().filter(|k| !matches!(k, Kind::Raw | Kind::VmdkFlat | Kind::VmdkVmfs));
    for kind in kinds {
        for short in [true, false] {
            let disk: Arc<dyn BlockDevice> = Arc::new(Broken(short));
            let file = open(kind, &disk);
            let mut buf = vec![0; file.size() as usize];
            assert!(file.read_at(&mut buf, 0).is_err(), "{kind}");
        }
    }
}
