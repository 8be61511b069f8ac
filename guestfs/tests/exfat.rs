//! exFAT.
mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use blockdev::{BlockDevice, partitions::FsKind};
use common::*;
use guestfs::{ErrorKind, FileId, FileSystem, Kind, Time};

#[test]
fn lab_images() {
    assert_lab("exfat", |_| false);
}

/// What exfat-fuse reads in the files of the foreign image. (The digests of its manifest are those of zeros.)
const FOREIGN: [(&str, &str); 8] = [
    (".fseventsd/000000000fbd755b", "903f6e9d26eea9ab74cdbccc462532bbd713f1ae432ef927bacff30e2e105d87"),
    (".fseventsd/000000000fbd755c", "0211d8566f515dd77366888216255866f9c680f43e5908f6369f9ec82e60c6a6"),
    (".fseventsd/fseventsd-uuid", "7054e2afc057907b52bb184ca1928d4461b697d0db5518bcb38e102122603a53"),
    ("hello.txt", "1f4bcb515ee75de3de151fda20f6098aee1d2a5ced271c2769c67cd537dd25c3"),
    ("longer.txt", "50b5755c6ab3f3f6bccf1649345750113e4d932bfa39f8453737c63b343a6222"),
    ("subdir/nested.txt", "38c6f19336cc510e2ce988bd649b25f1a7296a88f7d9815f6f70bb9d6fc3d566"),
    ("test.txt", "c0b1d92bea9c43172abf099d299c3b06e336180336dab208df84c7609d6df9f4"),
    ("日本語.txt", "25d3acb8b98223f36cdba68d9208a1ea8f97431438658530da48c963ac0b2950"),
];

/// The manifest of the foreign image with the digests of exfat-fuse.
fn manifest_of_foreign() -> String {
    let manifest = foreign_manifest("hadris-exfat_partition.img");
    let mut lines: Vec<String> = manifest.lines().filter(|line| line.starts_with('d')).map(str::to_owned).collect();
    for (path, digest) in FOREIGN {
        let line = manifest.lines().find(|line| line.ends_with(&format!("\t{path}"))).unwrap();
        lines.push(format!("f\t{}\t{digest}\t{path}", line.split('\t').nth(1).unwrap()));
    }
    assert_eq!(lines.len(), manifest.lines().count());
    lines.join("\n")
}

/// Made by macOS, of which the times are, eight hours behind UTC.
#[test]
fn foreign_image() {
    let Some(bytes) = small() else { return };
    let fs = filesystem(&[in_memory(bytes)]);
    assert_manifest(fs.as_ref(), &manifest_of_foreign(), |_| false);
    let metadata = fs.metadata(find(fs.as_ref(), "hello.txt").unwrap()).unwrap();
    assert_eq!(metadata.modified, Time { seconds: 1_769_163_144, nanos: 90_000_000 });
    assert_eq!(metadata.created, Some(Time { seconds: 1_769_163_144, nanos: 90_000_000 }));
    assert_eq!(metadata.accessed, Time { seconds: 1_769_163_144, nanos: 0 });
}

/// A loop device, and what is mounted on it, for as long as this lives.
struct Mounted {
    folder: PathBuf,
    device: String,
}

impl Mounted {
    fn new(image: &Path, sector: &str, mkfs: &[&str], folder: PathBuf) -> Option<Self> {
        let losetup = ["--find", "--show", "--sector-size", sector, image.to_str().unwrap()];
        let output = std::process::Command::new("losetup").args(losetup).output().ok()?;
        if !output.status.success() {
            println!("SKIPPED: no loop device: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let mounted = Self { folder, device };
        fs::create_dir(&mounted.folder).unwrap();
        run("mkfs.exfat", &[mkfs, &["-L", "ä label", &mounted.device]].concat());
        run("mount.exfat-fuse", &[&mounted.device, mounted.folder.to_str().unwrap()]);
        Some(mounted)
    }

    /// Mounted anew, read-only: only what is on the disk counts.
    fn remount(&self) {
        run("umount", &[self.folder.to_str().unwrap()]);
        run("mount.exfat-fuse", &["-o", "ro,noatime", &self.device, self.folder.to_str().unwrap()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.folder).status();
        let _ = std::process::Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

/// What `stat` says of a file: whether it is a directory, size, last change, last access, write bit.
type Stat = (bool, u64, i64, i64, bool);

fn stats(folder: &Path, below: &Path, found: &mut BTreeMap<String, Stat>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::metadata(&path).unwrap();
        let shown = path.strip_prefix(below).unwrap().to_str().unwrap().to_owned();
        found.insert(shown, (stat.is_dir(), stat.size(), stat.mtime(), stat.atime(), stat.mode() & 0o200 != 0));
        if stat.is_dir() {
            stats(&path, below, found);
        }
    }
}

/// Many files with names of every length, some of them and their directories in many pieces.
fn fill(folder: &Path) {
    for n in (0..150).chain([1000]) {
        let name = format!("{}-{n}", "n".repeat(n % 240));
        let dir = folder.join(["one", "two", "three/four"][n % 3]);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(&name), vec![n as u8; n * 11]).unwrap();
        for grown in ["grown-a", "grown-b"] {
            let mut file = fs::File::options().create(true).append(true).open(folder.join(grown)).unwrap();
            file.write_all(&vec![n as u8; 700 + n]).unwrap();
        }
        let at = UNIX_EPOCH + Duration::from_secs(400_000_000 + n as u64 * 3_456_789);
        fs::File::options().append(true).open(dir.join(&name)).unwrap().set_modified(at).unwrap();
    }
    for n in (0..150).step_by(7) {
        let _ = fs::remove_file(folder.join("one").join(format!("{}-{n}", "n".repeat(n % 240))));
    }
    fs::File::create(folder.join("extended")).unwrap().set_len(300_000).unwrap();
    fs::create_dir(folder.join("empty folder")).unwrap();
}

#[test]
fn every_cluster_and_sector_size() {
    if !["mkfs.exfat", "mount.exfat-fuse", "losetup"].into_iter().all(has_tool) {
        return;
    }
    for (sector, cluster) in [("512", "512"), ("512", "256K"), ("4096", "8K")] {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("volume.raw");
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        let folder = place.path().join("mounted");
        let Some(mounted) = Mounted::new(&image, sector, &["-c", cluster], folder) else { return };
        fill(&mounted.folder);
        mounted.remount();
        let (manifest, mut truth) = (manifest_of(&mounted.folder), BTreeMap::new());
        stats(&mounted.folder, &mounted.folder, &mut truth);
        drop(mounted);

        let fs = filesystem(&[device(&image)]);
        assert_eq!(fs.info().label.as_deref(), Some("ä label"));
        assert!(fs.info().notes.is_empty(), "{:?}", fs.info().notes);
        assert_manifest(fs.as_ref(), &manifest, |_| false);
        assert_free(fs.as_ref(), &image);
        for (path, (is_dir, size, modified, accessed, is_writable)) in truth {
            let metadata = fs.metadata(find(fs.as_ref(), &path).unwrap()).unwrap();
            assert_eq!(metadata.kind == Kind::Dir, is_dir, "{path}");
            assert_eq!(metadata.modified.seconds, modified, "{path}");
            assert_eq!(metadata.accessed.seconds, accessed, "{path}");
            assert_eq!(metadata.size, size, "{path}");
            assert_eq!(metadata.permissions & 0o200 != 0, is_writable, "{path}");
        }
    }
}

/// As many bytes are free as dump.exfat says.
fn assert_free(fs: &dyn FileSystem, image: &Path) {
    if !has_tool("dump.exfat") {
        return;
    }
    let dump = run("dump.exfat", &[image.to_str().unwrap()]);
    let number = |field: &str| -> u64 {
        let line = dump.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_once(':').unwrap().1.trim().parse().unwrap()
    };
    let cluster = u64::from(fs.info().block_size);
    assert_eq!(cluster, number("Cluster size"));
    let usage = fs.usage().unwrap();
    assert_eq!((usage.total, usage.free), (number("Total Clusters") * cluster, number("Free Clusters") * cluster));
}

#[test]
fn free_space_is_that_of_the_bitmap() {
    let Some(image) = lab("vol/exfat.raw") else { return };
    assert_free(filesystem(&[device(&image)]).as_ref(), &image);
}

#[test]
fn lookups_find_what_is_listed() {
    let Some(image) = lab("vol/exfat.raw") else { return };
    assert_lookups(filesystem(&[device(&image)]).as_ref());
}

/// The foreign image and its sector size.
fn small() -> Option<Vec<u8>> {
    let bytes = foreign("exfat/hadris-exfat_partition.img.zst")?;
    assert_eq!(bytes[108], 9, "sectors of 512 bytes");
    Some(bytes)
}

#[test]
fn the_backup_boot_region_helps_where_the_main_one_is_damaged() {
    let Some(bytes) = small() else { return };
    let manifest = manifest_of_foreign();
    // The sector size, where the clusters are, boot code, the checksum, an extended boot sector.
    for at in [108, 88, 200, 11 * 512, 5 * 512 + 17] {
        let mut harmed = bytes.clone();
        harmed[at] ^= 0x10;
        let fs = filesystem(&[in_memory(harmed.clone())]);
        assert_manifest(fs.as_ref(), &manifest, |_| false);
        assert!(fs.info().notes.iter().any(|note| note.contains("backup is used")), "{:?}", fs.info().notes);
        harmed[12 * 512 + 90] ^= 1;
        assert_eq!(filesystems(&[in_memory(harmed)]).remove(0).map(|_| ()).unwrap_err().kind(), ErrorKind::Damaged);
    }
    // What changes without the checksum: the flags and how full the volume is.
    let mut in_use = bytes;
    in_use[106] |= 0x06;
    in_use[112] ^= 0x7f;
    let notes = filesystem(&[in_memory(in_use)]).info().notes.join(" ");
    assert!(notes.contains("in use") && notes.contains("errors on its disk") && !notes.contains("backup"), "{notes}");
}

#[test]
fn an_entry_with_a_wrong_checksum_is_shown_and_refused() {
    let Some(mut bytes) = small() else { return };
    let intact = filesystem(&[in_memory(bytes.clone())]);
    let place = find(intact.as_ref(), "hello.txt").unwrap().number as usize & !1;
    // The length in the second slot.
    bytes[place + 32 + 24] ^= 1;
    let fs = filesystem(&[in_memory(bytes.clone())]);
    let file = find(fs.as_ref(), "hello.txt").unwrap();
    let error = fs.metadata(file).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains(&format!("byte {place} has not the checksum")), "{error}");
    assert!(fs.content(file).is_err());
    let (was, is) = (walk(intact.as_ref(), 1000, u64::MAX), walk(fs.as_ref(), 1000, u64::MAX));
    assert_eq!(is.errors.len(), 1);
    assert_eq!(is.lines.len() + 1, was.lines.len());
    // No set at all: the rest is listed, and then an error tells that something is missing.
    bytes[place + 32] = 0x20;
    let fs = filesystem(&[in_memory(bytes)]);
    let mut names = 0;
    let listed = fs.list(fs.root(), 0, &mut |_| {
        names += 1;
        std::ops::ControlFlow::Continue(())
    });
    assert!(listed.unwrap_err().to_string().contains("a file is missing"));
    assert_eq!(names + 1, entries(intact.as_ref(), intact.root()).unwrap().len());
}

/// Behind the valid length come zeros, whatever is in the clusters.
#[test]
fn what_was_never_written_is_zeros() {
    let Some(mut bytes) = small() else { return };
    let fs = filesystem(&[in_memory(bytes.clone())]);
    let place = find(fs.as_ref(), "longer.txt").unwrap().number as usize & !1;
    let slots = usize::from(bytes[place + 1]) + 1;
    bytes[place + 32 + 8..place + 32 + 16].copy_from_slice(&33_u64.to_le_bytes());
    let set = &bytes[place..place + 32 * slots];
    let sum = set.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    let sum = sum.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
    bytes[place + 2..place + 4].copy_from_slice(&sum.to_le_bytes());
    let read = |fs: &dyn FileSystem| {
        let content = open(fs, find(fs, "longer.txt").unwrap()).unwrap();
        let mut bytes = vec![0xaa; 80];
        assert_eq!(blockdev::ReadAt::read_at(&content, &mut bytes, 0).unwrap(), 80);
        bytes
    };
    let mut wanted = read(fs.as_ref());
    assert!(wanted[33..].iter().all(|byte| *byte != 0), "there was something");
    wanted[33..].fill(0);
    assert_eq!(read(filesystem(&[in_memory(bytes)]).as_ref()), wanted);
}

#[test]
fn numbers_that_were_not_given_are_harmless() {
    let Some(bytes) = small() else { return };
    let size = bytes.len() as u64;
    let mut random = Random(1);
    let odd = [0, 1, 2, 3, 31, 32, 33, u64::MAX, u64::MAX - 31];
    let numbers = odd.into_iter().chain((0..5000).map(|_| random.below(size / 32) * 32 + random.below(2)));
    ask_for(filesystem(&[in_memory(bytes)]).as_ref(), numbers.map(FileId::of));
}

#[test]
fn harmed_metadata_does_no_harm() {
    let open = |disk| guestfs::open(FsKind::ExFat, &[disk]);
    if let Some(image) = lab("vol/exfat.raw") {
        let disk: Arc<dyn BlockDevice> = device(&image);
        flip_metadata(&disk, &open, flip_runs(), 600, Expect::Harmless);
    }
    if let Some(bytes) = small() {
        flip_metadata(&in_memory(bytes), &open, flip_runs(), 600, Expect::Harmless);
    }
}
