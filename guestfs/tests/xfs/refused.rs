//! What cannot be read, or not without a word.

use std::{fs::File, process::Command};

use blockdev::ErrorKind;
use guestfs::{FileSystem, Kind};

use crate::{
    common::{device, filesystem, open},
    harmed::open_xfs,
    kernel::Volume,
    tree,
};

#[test]
fn unknown_features() {
    let Some(volume) = Volume::make(320 << 20, &[]) else { return };
    volume.add_incompatible(0x4000_0200);
    let error = open_xfs(device(&volume.image())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("zoned, 0x40000000"), "{error}");
}

#[test]
fn a_volume_to_be_repaired() {
    let Some(volume) = Volume::make(320 << 20, &[]) else { return };
    volume.add_incompatible(0x10);
    let fs = open_xfs(device(&volume.image())).unwrap();
    assert!(fs.info().notes[0].contains("xfs_repair"), "{:?}", fs.info().notes);
}

#[test]
fn a_log_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    File::create(&log).unwrap().set_len(64 << 20).unwrap();
    let Some(volume) = Volume::make(320 << 20, &["-l", &format!("logdev={},size=64m", log.display())]) else { return };
    let fs = open_xfs(device(&volume.image())).unwrap();
    assert!(fs.info().notes[0].contains("device of its own"), "{:?}", fs.info().notes);
    fs.usage().unwrap();
}

/// The content of one file is on a realtime device; another has lost what lies behind the volume's end.
#[test]
fn single_files() {
    let Some(mut volume) = Volume::make(320 << 20, &[]) else { return };
    let Some(()) = volume.mount("defaults") else { return };
    std::fs::write(volume.root().join("realtime"), "x").unwrap();
    for n in 0..64 {
        let dir = volume.root().join(format!("dir-{}", n % 4));
        let _ = std::fs::create_dir(&dir);
        std::fs::write(dir.join(n.to_string()), tree::noise(n, 2 << 20)).unwrap();
    }
    volume.unmount();
    let number = |fs: &dyn FileSystem| fs.lookup(fs.root(), b"realtime").unwrap().unwrap();
    let realtime = number(filesystem(&[device(&volume.image())]).as_ref());
    let write = ["-c", &format!("inode {}", realtime.number), "-c", "write core.realtime 1"];
    let written = Command::new("xfs_db").arg("-x").args(write).arg(volume.image()).output();
    if !written.is_ok_and(|output| output.status.success()) {
        return println!("SKIPPED: no xfs_db");
    }
    let fs = filesystem(&[device(&volume.image())]);
    let error = fs.content(realtime).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("realtime"), "{error}");

    File::options().write(true).open(volume.image()).unwrap().set_len(280 << 20).unwrap();
    let fs = open_xfs(device(&volume.image())).unwrap();
    assert!(fs.info().notes.iter().any(|note| note.contains("the volume ends")), "{:?}", fs.info().notes);
    let (mut whole, mut cut) = (0, 0);
    for dir in crate::common::entries(fs.as_ref(), fs.root()).unwrap().iter().filter(|e| e.kind == Kind::Dir) {
        for file in crate::common::entries(fs.as_ref(), dir.id).unwrap_or_default() {
            match open(fs.as_ref(), file.id).and_then(|content| crate::common::digest(&content, u64::MAX)) {
                Ok(_) => whole += 1,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Damaged, "{e}");
                    cut += 1;
                }
            }
        }
    }
    assert!(whole > 0 && whole + cut <= 64, "{whole} whole, {cut} cut off");
}

/// The first superblock is damaged, so that its checksum does not match: a copy of it tells the same.
#[test]
fn a_damaged_superblock() {
    let Some(mut volume) = Volume::make(320 << 20, &[]) else { return };
    let Some(()) = volume.mount("defaults") else { return };
    tree::fill(&volume.root(), 20);
    volume.unmount();
    let before = filesystem(&[device(&volume.image())]);
    let image = File::options().write(true).open(volume.image()).unwrap();
    // The place of the topmost directory.
    std::os::unix::fs::FileExt::write_all_at(&image, &[0xff; 4], 60).unwrap();
    let after = open_xfs(device(&volume.image())).unwrap();
    assert!(after.info().notes.iter().any(|note| note.contains("a copy of it")), "{:?}", after.info().notes);
    assert_eq!((before.root(), &before.info().uuid), (after.root(), &after.info().uuid));
    let names = |fs: &dyn FileSystem| crate::common::entries(fs, fs.root()).unwrap();
    assert_eq!(names(before.as_ref()), names(after.as_ref()));
    assert!(!names(after.as_ref()).is_empty());
}
