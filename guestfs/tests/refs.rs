//! ReFS.
//!
//! No whole volume that Windows made was to be had. What is tested: the pages of one that there are, and volumes that
//! `refs_volume` builds by hand from the same descriptions as the reader. The latter prove that the reader does what it
//! means to do, not that this is right.
mod common;
mod refs_volume;

use std::sync::Arc;

use blockdev::{BlockDevice, ReadAt, partitions::FsKind};
use common::*;
use guestfs::{FileId, FileSystem, Kind, Result, Time};
use refs_volume::{Flavour, Sparse, built, fragments};

fn opened(volume: Sparse) -> Result<Arc<dyn FileSystem>> {
    let disk: Arc<dyn BlockDevice> = Arc::new(volume);
    filesystems(&[disk]).remove(0)
}

fn refused(volume: Sparse) -> String {
    opened(volume).map(|_| ()).unwrap_err().to_string()
}

/// The boot sector and the superblock, as Windows 11 wrote them: they lead to the checkpoints, which are not there.
#[test]
fn head_of_a_real_volume() {
    let Some(volume) = refs_volume::head() else { return };
    assert!(refused(volume).contains("none of the checkpoints of ReFS, at blocks [157156, 1885500], can be read"));
    // Without the superblock nothing leads there.
    let mut volume = refs_volume::head().unwrap();
    volume.flip(0x1e000);
    assert!(refused(volume).contains("no superblock"));
    let mut volume = refs_volume::head().unwrap();
    volume.flip(0x28);
    assert!(refused(volume).contains("has not the checksum"));
}

/// A page of the tree of containers, the page of the tree of objects and that of the root directory, as Windows 11 wrote
/// them, behind a real boot sector; superblock and checkpoint, which join them, are made by hand. The way goes through
/// both trees, and over the checksum that the tree of objects has of the directory's page.
#[test]
fn pages_of_a_real_volume() {
    let Some(volume) = fragments() else { return };
    let fs = opened(volume).unwrap();
    let info = fs.info();
    assert_eq!((info.kind, info.block_size), (FsKind::Refs, 4096));
    assert_eq!(info.uuid.as_deref(), Some("4E32FC4432FC3317"));
    assert!(info.notes.iter().any(|note| note.contains("experimental") && note.contains("no whole real volume")));
    assert!(info.notes.iter().any(|note| note.contains("version 3.14")));
    let metadata = fs.metadata(fs.root()).unwrap();
    assert_eq!(metadata.kind, Kind::Dir);
    // 2026-07-15, the day on which the volume was made.
    assert_eq!(metadata.modified, Time { seconds: 1_784_123_602, nanos: 577_954_600 });
    assert_eq!(entries(fs.as_ref(), fs.root()).unwrap(), []);
    // The containers of that volume do not say how many of their clusters are free.
    assert_eq!(fs.usage().unwrap_err().kind(), guestfs::ErrorKind::Unsupported);
    // Objects whose pages are missing are errors, not nothing.
    let missing = fs.metadata(FileId::of(0x520)).unwrap_err().to_string();
    assert!(missing.contains("is not the metadata page of block 79364"), "{missing}");
    assert!(fs.metadata(FileId::of(0x12345)).unwrap_err().to_string().contains("no object 0x12345"));
}

#[test]
fn checksums_of_a_real_volume_are_looked_at() {
    let Some(mut volume) = fragments() else { return };
    // The page of the root directory lies at cluster 0x3a00.
    volume.flip((0x3a00 << 12) + 0x1fff);
    let message = refused(volume);
    assert!(message.contains("at byte 60817408 has a wrong checksum"), "{message}");
}

/// What [`built`] puts in a volume.
fn assert_built(fs: &dyn FileSystem, flavour: Flavour) {
    let find = |path: &str| find(fs, path);
    let content = |path: &str| -> Vec<u8> {
        let file = open(fs, find(path).unwrap()).unwrap();
        let mut bytes = vec![0xaa; file.size() as usize];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
        bytes
    };
    assert_eq!(fs.info().label.as_deref(), Some("built by hand"));
    assert_eq!(content("small.txt"), b"in the row of the file");
    assert_eq!(content("empty"), b"");
    assert_eq!(content("folder/deeper/x"), b"far below");
    // Extents out of order, a hole, and a valid length below the length.
    let unit = flavour.unit() as usize;
    let mut wanted = vec![b'a'; unit];
    wanted.extend(vec![b'b'; 2 * unit]);
    wanted.extend(vec![0; 3 * unit]);
    wanted.extend(vec![b'c'; 5]);
    wanted.extend(vec![0; 1000]);
    assert!(content("big.bin") == wanted);
    let big = fs.metadata(find("big.bin").unwrap()).unwrap();
    assert_eq!((big.size, big.permissions), (wanted.len() as u64, 0o444));
    assert_eq!(big.modified, Time { seconds: 1_600_000_000, nanos: 700 });
    assert_eq!(big.created, Some(Time { seconds: -1, nanos: 999_999_900 }));
    // A directory of several pages, in the order of its tree.
    let many = entries(fs, find("many").unwrap()).unwrap();
    assert_eq!(many.len(), 300);
    for (n, entry) in many.iter().enumerate() {
        assert_eq!(entry.name, format!("entry {n:04}").into_bytes());
        assert_eq!(fs.lookup(find("many").unwrap(), &entry.name).unwrap(), Some(entry.id));
    }
    assert_eq!(content("many/entry 0277"), b"277");
    assert_eq!(fs.lookup(fs.root(), b"Small.txt").unwrap(), None);
    if flavour == Flavour::First {
        return assert!(fs.usage().is_err());
    }
    // Linked files are kept in their home.
    assert_eq!(content("folder/linked"), content("linked"));
    assert_eq!(content("linked"), vec![b'l'; unit]);
    let link = find("link").unwrap();
    assert_eq!(fs.metadata(link).unwrap().kind, Kind::Symlink);
    assert_eq!(fs.link_target(link).unwrap(), b"folder/deeper/x");
    let small = find("small.txt").unwrap();
    let streams = fs.streams(small).unwrap();
    assert_eq!(fs.usage().unwrap().total, refs_volume::SIZE);
    if flavour == Flavour::Old {
        return assert_eq!(streams, []);
    }
    assert_eq!(streams.iter().map(|s| (s.name.as_slice(), s.size)).collect::<Vec<_>>(), [(b"note".as_slice(), 9)]);
    assert_eq!(fs.stream(small, b"note").unwrap().size(), 9);
    assert!(fs.stream(small, b"other").is_err());
}

#[test]
fn volumes_built_by_hand() {
    for flavour in [Flavour::First, Flavour::Old, Flavour::New] {
        let fs = opened(built(flavour)).unwrap();
        assert_built(fs.as_ref(), flavour);
        let walked = walk(fs.as_ref(), usize::MAX, u64::MAX);
        assert!(walked.errors.is_empty(), "{:?}", walked.errors);
    }
}

#[test]
fn copies_help() {
    for flavour in [Flavour::First, Flavour::Old, Flavour::New] {
        let unit = u64::from(flavour.unit());
        // The first superblock; the newer checkpoint.
        for at in [30 * unit, refs_volume::CHECKPOINTS[1] * unit] {
            let mut volume = built(flavour);
            volume.wipe(at);
            assert_built(opened(volume).unwrap().as_ref(), flavour);
        }
    }
}

#[test]
fn other_versions_are_refused() {
    let mut volume = built(Flavour::New);
    volume.set_version(2, 2);
    assert!(refused(volume).contains("ReFS 2.2 with clusters of 4096 bytes is not known"));
}

#[test]
fn numbers_that_were_not_given_are_harmless() {
    let fs = opened(built(Flavour::New)).unwrap();
    let mut random = Random(1);
    let files =
        (0..3000).map(|_| FileId { tree: random.below(3) * 0x600 / 2, number: random.next() >> random.below(64) });
    ask_for(fs.as_ref(), files);
}

#[test]
fn harmed_metadata_does_no_harm() {
    let open = |disk| guestfs::open(FsKind::Refs, &[disk]);
    for flavour in [Flavour::First, Flavour::Old, Flavour::New] {
        // Of the newest flavour all pages have checksums that count.
        let expect = if flavour == Flavour::New { Expect::TrueOrError } else { Expect::Harmless };
        let disk: Arc<dyn BlockDevice> = Arc::new(built(flavour));
        flip_metadata(&disk, &open, flip_runs(), 400, expect);
    }
}
