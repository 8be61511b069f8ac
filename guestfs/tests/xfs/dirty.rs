//! Volumes whose log was not replayed: copied while mounted, and after a crash. What is read of them must be what the
//! kernel shows after its own replay.

use std::{
    fs::{self, File, Permissions},
    ops::Range,
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
    sync::Arc,
};

use blockdev::{
    BlockDevice, BlockSizes, ErrorKind, Extent, MappedRun, ReadAt,
    fields::{be32, be64, read},
};
use guestfs::FileSystem;

use crate::{
    common::{Expect, device, entries, filesystem, flip_metadata, flip_runs, in_memory},
    harmed::open_xfs,
    kernel::{Volume, assert_same, sync},
    tree,
};

/// Compares the volume in `image`, whose log is not replayed, with what the kernel makes of a copy.
fn assert_replayed(image: &Path) {
    let fs = filesystem(&[device(image)]);
    println!("{:?}", fs.info().notes);
    assert!(fs.info().notes[0].contains("its log was replayed in memory"), "{:?}", fs.info().notes);
    assert_eq!(fs.info().notes.len(), 1, "{:?}", fs.info().notes);
    assert_as_kernel(fs.as_ref(), image);
}

/// Compares `fs` with what the kernel makes of a copy of its `image`.
fn assert_as_kernel(fs: &dyn FileSystem, image: &Path) {
    let mut copy = Volume::copy(image).unwrap();
    copy.mount("noatime").unwrap();
    copy.unmount();
    // Mounted for writing it keeps blocks back.
    copy.mount("ro,norecovery").unwrap();
    assert_same(fs, &copy.root());
    assert_usage(fs, &copy.root());
}

/// The kernel finishes what was begun, and keeps some blocks back.
fn assert_usage(fs: &dyn FileSystem, root: &Path) {
    let (found, expected) = (fs.usage().unwrap(), rustix::fs::statvfs(root).unwrap());
    let free = expected.f_bfree * expected.f_frsize;
    assert_eq!(found.total, expected.f_blocks * expected.f_frsize);
    assert!(found.free.abs_diff(free) < found.total / 50, "{found:?}, {free} free");
}

/// Changes of every kind to a tree that is on the disk.
fn change(root: &Path, round: u64) {
    let path = |name: String| root.join(name);
    let dir = path(format!("round-{round}"));
    fs::create_dir(&dir).unwrap();
    for n in 0..300 {
        fs::write(dir.join(format!("late-{n}")), tree::noise(n, n as usize * 11)).unwrap();
    }
    for n in 0..100 {
        fs::remove_file(dir.join(format!("late-{n}"))).unwrap();
    }
    symlink("x".repeat(700), dir.join("link")).unwrap();
    fs::rename(dir.join("late-200"), path(format!("renamed-{round}"))).unwrap();
    let file = File::options().write(true).open(path("files/large".to_owned())).unwrap();
    file.set_len(1_000_000 + round).unwrap();
    file.write_all_at(&tree::noise(round, 5000), 5 << 20).unwrap();
    for n in 0..60 {
        let name = format!("user.late-{round}-{n}");
        rustix::fs::lsetxattr(path("attributes/few".to_owned()), name, b"late", rustix::fs::XattrFlags::empty())
            .unwrap();
    }
    let last = path(format!("dirs/colliding/{round}"));
    fs::write(last, b"among colliding names").unwrap();
    let scattered = File::options().write(true).open(path("files/scattered".to_owned())).unwrap();
    for n in 0..100 {
        scattered.write_all_at(b"between", (n * 7 + round) * 16384 + 8192).unwrap();
    }
}

/// Writes the log, and nothing after it.
fn crash(volume: &Volume) -> Option<()> {
    let crash = Command::new("xfs_io").args(["-x", "-c", "shutdown -f"]).arg(volume.root()).status();
    if !crash.is_ok_and(|status| status.success()) {
        println!("SKIPPED: no xfs_io");
        return None;
    }
    Some(())
}

/// A volume that crashed after `rounds` of changes.
fn crashed(size: u64, options: &[&str], mount: &str, rounds: u64, scale: usize) -> Option<Volume> {
    let mut volume = Volume::make(size, options)?;
    volume.mount(mount)?;
    let root = volume.root();
    tree::fill(&root, scale);
    for round in 0..rounds {
        if round % 3 == 0 {
            sync(&root);
        }
        change(&root, round);
    }
    if rounds > 3 {
        // Blocks of metadata become content, and content metadata.
        fs::remove_dir_all(root.join("round-1")).unwrap();
        fs::remove_dir_all(root.join("dirs/thinned")).unwrap();
        fs::remove_file(root.join("attributes/large")).unwrap();
        fs::write(root.join("files/over-what-was-deleted"), tree::noise(9, 8 << 20)).unwrap();
        File::open(root.join("files/over-what-was-deleted")).unwrap().sync_all().unwrap();
        tree::fill(&root.join("round-2"), 150);
    }
    crash(&volume)?;
    volume.unmount();
    Some(volume)
}

#[test]
fn after_a_crash() {
    let Some(volume) = crashed(320 << 20, &[], "defaults", 2, 600) else { return };
    assert_replayed(&volume.image());
}

#[test]
fn after_a_crash_with_large_records() {
    let options = ["-b", "size=1024", "-n", "size=8192", "-m", "rmapbt=1", "-i", "nrext64=1"];
    let Some(volume) = crashed(320 << 20, &options, "logbsize=256k", 6, 2000) else { return };
    assert_replayed(&volume.image());
}

/// A log of a few MiB goes round and round.
#[test]
fn after_a_crash_with_a_small_log() {
    let options = ["--unsupported", "-l", "size=6m", "-m", "bigtime=0"];
    for rounds in [4, 7] {
        let Some(volume) = crashed(160 << 20, &options, "defaults", rounds, 600) else { return };
        assert_replayed(&volume.image());
    }
}

#[test]
fn copied_while_mounted() {
    let Some(mut volume) = Volume::make(320 << 20, &[]) else { return };
    let Some(()) = volume.mount("defaults") else { return };
    tree::fill(&volume.root(), 600);
    sync(&volume.root());
    change(&volume.root(), 0);
    sync(&volume.root());
    let copy = Volume::copy(&volume.image()).unwrap();
    assert_replayed(&copy.image());

    // As a snapshot with the guest's help is taken.
    let frozen = Command::new("fsfreeze").arg("-f").arg(volume.root()).status();
    if !frozen.is_ok_and(|status| status.success()) {
        return println!("SKIPPED: no fsfreeze");
    }
    let copy = Volume::copy(&volume.image());
    assert!(Command::new("fsfreeze").arg("-u").arg(volume.root()).status().unwrap().success());
    let copy = copy.unwrap();
    assert_as_kernel(filesystem(&[device(&copy.image())]).as_ref(), &copy.image());
}

/// Where the log lies in the volume on `device`, in bytes.
fn log_of(device: &dyn BlockDevice) -> Range<u64> {
    let sector = read(device, 0, 512).unwrap();
    let (block, start) = (u64::from(be32(&sector, 4)), be64(&sector, 48));
    let (group, in_group) = (start >> sector[124], start & ((1 << sector[124]) - 1));
    let start = (group * u64::from(be32(&sector, 84)) + in_group) * block;
    start..start + u64::from(be32(&sector, 96)) * block
}

/// A volume whose log is that of another device, which is not harmed.
struct WithLog {
    device: Arc<dyn BlockDevice>,
    log: Arc<dyn BlockDevice>,
    range: Range<u64>,
}

impl ReadAt for WithLog {
    fn size(&self) -> u64 {
        self.device.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> blockdev::Result<usize> {
        let of = if self.range.contains(&offset) { &self.log } else { &self.device };
        of.read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64) -> blockdev::Result<Option<Extent>> {
        self.device.extent_at(offset)
    }
    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for WithLog {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}

/// The log has no checksums of blocks: where it has only a part of one that is damaged, the rest must not become sound.
#[test]
fn damaged_before() {
    // Small, since it is searched.
    let options = ["--unsupported", "-b", "size=1024", "-l", "size=5500k"];
    let Some(mut volume) = Volume::make(24 << 20, &options) else { return };
    let Some(()) = volume.mount("defaults") else { return };
    let root = volume.root();
    fs::create_dir(root.join("dir")).unwrap();
    for n in 0..30 {
        fs::write(root.join(format!("dir/entry-{n}-to-be-harmed")), "").unwrap();
    }
    fs::write(root.join("file"), "").unwrap();
    rustix::fs::lsetxattr(root.join("file"), "user.name-to-be-harmed", b"", rustix::fs::XattrFlags::empty()).unwrap();
    volume.unmount();
    // Only the cores of the inodes go to the log, and the parts of the block that another entry changes.
    volume.mount("defaults").unwrap();
    fs::set_permissions(root.join("file"), Permissions::from_mode(0o600)).unwrap();
    fs::write(root.join("dir/other"), "").unwrap();
    let Some(()) = crash(&volume) else { return };
    volume.unmount();

    let fs = filesystem(&[device(&volume.image())]);
    let id = |name: &[u8]| fs.lookup(fs.root(), name).unwrap().unwrap();
    let (dir, file) = (id(b"dir"), id(b"file"));
    assert_eq!(entries(fs.as_ref(), dir).unwrap().len(), 31);
    assert_eq!(fs.xattrs(file).unwrap().len(), 1);
    assert_eq!(fs.metadata(file).unwrap().permissions, 0o600);

    let log = log_of(device(&volume.image()).as_ref());
    let mut image = fs::read(volume.image()).unwrap();
    for name in [&b"entry-7-to-be-harmed"[..], b"name-to-be-harmed"] {
        let places = image.windows(name.len()).enumerate().filter(|(_, bytes)| *bytes == name).map(|(at, _)| at);
        let places: Vec<_> = places.filter(|at| !log.contains(&(*at as u64))).collect();
        assert_eq!(places.len(), 1, "{places:?}");
        image[places[0]] ^= 1;
    }
    let fs = filesystem(&[in_memory(image)]);
    assert!(fs.info().notes.iter().any(|note| note.starts_with("2 blocks and inodes")), "{:?}", fs.info().notes);
    assert_eq!(entries(fs.as_ref(), dir).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(fs.xattrs(file).unwrap_err().kind(), ErrorKind::Damaged);
}

/// Harmed in their places; and anywhere, where nobody can know what was true.
#[test]
fn harmed() {
    let options = ["--unsupported", "-l", "size=6m"];
    let Some(volume) = crashed(160 << 20, &options, "defaults", 4, 150) else { return };
    let whole = device(&volume.image());
    let range = log_of(whole.as_ref());
    let with_log = |device| open_xfs(Arc::new(WithLog { device, log: Arc::clone(&whole), range: range.clone() }));
    flip_metadata(&whole, &with_log, flip_runs().div_ceil(4), 10_000, Expect::TrueOrError);
    flip_metadata(&whole, &open_xfs, flip_runs().div_ceil(4), 10_000, Expect::Harmless);
}
