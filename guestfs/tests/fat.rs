//! FAT12, FAT16 and FAT32.
mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{BlockDevice, partitions::FsKind};
use common::*;
use guestfs::{FileId, FileSystem, Kind, Time};

const NAMES: [&str; 3] = ["fat12", "fat16", "fat32"];

#[test]
fn lab_images() {
    for name in NAMES {
        assert_lab(name, |_| false);
    }
}

/// The manifest's maker shows the label of this volume as an empty file: its line is left out.
#[test]
fn foreign_qcow2() {
    let Some(disk) = foreign_disk("qcow2/fat32.qcow2.zst") else { return };
    let manifest = foreign_manifest("fat32.qcow2");
    let (label, rest): (Vec<_>, Vec<_>) = manifest.lines().partition(|line| line.ends_with("\tFAT32_TE.ST"));
    assert_eq!(label.len(), 1);
    let fs = filesystem(&[disk]);
    assert_eq!(fs.info().label.as_deref(), Some("FAT32_TEST"));
    assert_manifest(fs.as_ref(), &rest.join("\n"), |_| false);
}

#[test]
fn foreign_logical_volume() {
    let Some(disk) = foreign_disk("disk/lvm2.vhdx.gz") else { return };
    let is_fat = |fs: &Arc<dyn FileSystem>| matches!(fs.info().kind, FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32);
    let fs = filesystems(&[disk]).into_iter().flatten().find(is_fat).unwrap();
    assert_manifest(fs.as_ref(), &foreign_manifest("lvm2.vhdx.p1.lv-fat"), |_| false);
}

/// A volume that mkfs.fat and mtools made of a folder, and that folder.
struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    /// `files` are names and contents; every other one is read-only and hidden, each has a time of its own.
    fn new(mib: u64, mkfs: &[&str], files: &[(&str, Vec<u8>)]) -> Option<Self> {
        if !["mkfs.fat", "mcopy", "mattrib"].into_iter().all(has_tool) {
            return None;
        }
        let made = Self { folder: tempfile::tempdir().unwrap() };
        let tree = made.tree();
        std::fs::create_dir(&tree).unwrap();
        for (n, (name, content)) in files.iter().enumerate() {
            let path = tree.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            let at = format!("@{}", 1_000_000_000 + n * 12_345_678);
            run("touch", &["-d", &at, path.to_str().unwrap()]);
        }
        let image = made.image();
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let image = image.to_str().unwrap();
        run("mkfs.fat", &[mkfs, &["-i", "DEADBEEF", "-n", "A LABEL", image]].concat());
        let tops = std::fs::read_dir(&tree).unwrap().map(|e| e.unwrap().path().to_str().unwrap().to_owned());
        let tops: Vec<String> = tops.collect();
        let mut arguments = vec!["-i", image, "-s", "-Q", "-m"];
        arguments.extend(tops.iter().map(String::as_str));
        arguments.push("::/");
        if !tops.is_empty() {
            run("mcopy", &arguments);
        }
        for (name, _) in files.iter().step_by(2) {
            run("mattrib", &["-i", image, "+r", "+h", &format!("::/{name}")]);
        }
        Some(made)
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("volume.raw")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.image()).unwrap()
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = Random(len as u64);
    (0..len).map(|_| random.next() as u8).collect()
}

fn some_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", vec![]),
        ("ONE.TXT", b"1".to_vec()),
        ("a name that is long enough for several slots of a directory.text", noise(3000)),
        ("folder/with/deeper/file.bin", noise(200_000)),
        ("folder/Groß und klein.txt", noise(4096)),
        ("folder/x", noise(4097)),
    ]
}

/// All that mkfs.fat can make: sectors of each size, clusters of many sizes, both sides of each limit of the widths.
#[test]
fn every_geometry() {
    let geometries: [(u64, FsKind, &[&str]); 9] = [
        (1, FsKind::Fat12, &["-F", "12", "-s", "1", "-r", "32"]),
        (4, FsKind::Fat12, &["-F", "12", "-S", "1024", "-f", "1"]),
        (8, FsKind::Fat12, &["-F", "12", "-S", "4096", "-s", "1"]),
        (9, FsKind::Fat16, &["-F", "16", "-s", "1"]),
        (40, FsKind::Fat16, &["-F", "16", "-S", "2048", "-s", "4", "-r", "64"]),
        (64, FsKind::Fat16, &["-F", "16", "-S", "4096", "-s", "2"]),
        (40, FsKind::Fat32, &["-F", "32", "-s", "1"]),
        (300, FsKind::Fat32, &["-F", "32", "-S", "4096", "-s", "1", "-R", "8"]),
        (280, FsKind::Fat32, &["-F", "32", "-s", "8"]),
    ];
    for (mib, kind, mkfs) in geometries {
        let Some(made) = Made::new(mib, mkfs, &some_files()) else { return };
        let fs = filesystem(&[device(&made.image())]);
        assert_eq!(fs.info().kind, kind, "{mkfs:?}");
        assert_eq!(fs.info().label.as_deref(), Some("A LABEL"));
        assert_eq!(fs.info().uuid.as_deref(), Some("DEAD-BEEF"));
        assert!(fs.info().notes.is_empty(), "{:?}", fs.info().notes);
        assert_manifest(fs.as_ref(), &manifest_of(&made.tree()), |_| false);
        assert_as_7z(fs.as_ref(), &made.image());
    }
}

/// 7-Zip reads FAT too: all that it says of each file must be what we say.
fn assert_as_7z(fs: &dyn FileSystem, image: &Path) {
    if !has_tool("7z") {
        return;
    }
    let listing = run("7z", &["l", "-slt", image.to_str().unwrap()]);
    let mut parts = listing.split("\n\n").map(|part| -> BTreeMap<&str, &str> {
        part.lines().filter_map(|line| line.split_once(" = ").or(line.split_once(" ="))).collect()
    });
    let volume = parts.by_ref().find(|part| part.contains_key("File System")).unwrap();
    assert_eq!(fs.usage().unwrap().free.to_string(), volume["Free Space"]);
    assert_eq!(fs.info().block_size.to_string(), volume["Cluster Size"]);
    assert_eq!(fs.info().label.as_deref(), Some(volume["Label"]));
    let mut seen = 0;
    for file in parts.filter(|part| part.contains_key("Short Name")) {
        let found = find(fs, file["Path"]).unwrap_or_else(|| panic!("{}: not found", file["Path"]));
        let metadata = fs.metadata(found).unwrap();
        assert_eq!(metadata.kind == Kind::Dir, file["Folder"] == "+", "{file:?}");
        if metadata.kind == Kind::File {
            assert_eq!(metadata.size.to_string(), file["Size"]);
            assert_eq!(metadata.permissions & 0o200 == 0, file["Attributes"].contains('R'), "{file:?}");
            assert_eq!(metadata.allocated.to_string(), file["Packed Size"]);
        }
        assert_eq!(metadata.modified, time(file["Modified"]), "{file:?}");
        assert_eq!(metadata.accessed, time(file["Accessed"]), "{file:?}");
        assert_eq!(metadata.created, Some(time(file["Created"])), "{file:?}");
        seen += 1;
    }
    assert_eq!(seen, walk(fs, usize::MAX, 0).lines.len());
}

/// `2026-11-21 13:16:56.00`, counted day by day.
fn time(text: &str) -> Time {
    let numbers: Vec<i64> = text.split(['-', ' ', ':', '.']).map(|n| n.parse().unwrap()).collect();
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let months = |year| [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let years: i64 = (1970..numbers[0]).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let days = years + months(numbers[0]).iter().take(numbers[1] as usize - 1).sum::<i64>() + numbers[2] - 1;
    Time {
        seconds: ((days * 24 + numbers[3]) * 60 + numbers[4]) * 60 + numbers[5],
        nanos: numbers.get(6).map_or(0, |hundredths| *hundredths as u32 * 10_000_000),
    }
}

#[test]
fn lab_images_as_7z_has_them() {
    for name in NAMES {
        let Some(image) = lab(&format!("vol/{name}.raw")) else { return };
        assert_as_7z(filesystem(&[device(&image)]).as_ref(), &image);
    }
}

/// Names in letters that are not ASCII, without a long name: mtools writes them in code page 850.
#[test]
fn short_names_have_a_code_page() {
    let files = [("ÄÖÜ.TXT", vec![1]), ("ümläut-ß.txt", vec![2]), ("å.é", vec![3]), ("Ñandú", vec![4])];
    let Some(made) = Made::new(1, &["-F", "12"], &files) else { return };
    run("mlabel", &["-i", made.image().to_str().unwrap(), "::MÜSIK ÅÅ"]);
    let bytes = made.bytes();
    assert!(bytes.windows(8).any(|w| w == b"\x8e\x99\x9a     "), "mtools did not write code page 850");
    let fs = filesystem(&[in_memory(bytes)]);
    assert_eq!(fs.info().label.as_deref(), Some("MÜSIK ÅÅ"));
    assert_manifest(fs.as_ref(), &manifest_of(&made.tree()), |_| false);
}

/// Where the tables of a volume are: byte and length of one copy.
fn tables(bytes: &[u8]) -> (usize, usize) {
    let word = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let len = if word(22) == 0 { word(36) } else { word(22) };
    (word(14) * word(11), len * word(11))
}

#[test]
fn the_second_table_helps_where_the_first_is_damaged() {
    for (mib, mkfs) in [(4, ["-F", "12"]), (20, ["-F", "16"]), (40, ["-F", "32"])] {
        let Some(made) = Made::new(mib, &mkfs, &some_files()) else { return };
        let bytes = made.bytes();
        let (start, len) = tables(&bytes);
        let manifest = manifest_of(&made.tree());
        // Overwritten from the beginning, and only behind it.
        for (from, noted) in [(start, true), (start + 12, false)] {
            let mut harmed = bytes.clone();
            harmed[from..start + len].fill(0);
            let fs = filesystem(&[in_memory(harmed.clone())]);
            assert_manifest(fs.as_ref(), &manifest, |_| false);
            assert_eq!(
                fs.info().notes.iter().any(|n| n.contains("second one is read")),
                noted,
                "{:?}",
                fs.info().notes
            );
            // Both: what had clusters beyond its first cannot be read, and says so.
            harmed[start + len + 12..start + 2 * len].fill(0);
            let fs = filesystem(&[in_memory(harmed)]);
            let walked = walk(fs.as_ref(), usize::MAX, u64::MAX);
            assert!(walked.errors.iter().any(|(_, e)| e.to_string().contains("leads to a free cluster")), "{mkfs:?}");
        }
    }
}

/// Of FAT32, a flag says that only one table is kept: the others are old then.
#[test]
fn only_the_active_table_counts() {
    let Some(made) = Made::new(40, &["-F", "32"], &some_files()) else { return };
    let mut bytes = made.bytes();
    let (start, len) = tables(&bytes);
    bytes[start..start + len].fill(0);
    bytes[40] = 0x81;
    let fs = filesystem(&[in_memory(bytes.clone())]);
    assert_manifest(fs.as_ref(), &manifest_of(&made.tree()), |_| false);
    bytes[40] = 0x80;
    assert!(!walk(filesystem(&[in_memory(bytes)]).as_ref(), usize::MAX, u64::MAX).errors.is_empty());
}

#[test]
fn a_volume_in_use_is_noted() {
    let notes = |bytes: Vec<u8>| filesystem(&[in_memory(bytes)]).info().notes.join(" ");
    for (mib, mkfs, state) in [(20, ["-F", "16"], 37), (40, ["-F", "32"], 65)] {
        let Some(made) = Made::new(mib, &mkfs, &[]) else { return };
        let bytes = made.bytes();
        let (start, _) = tables(&bytes);
        assert_eq!(notes(bytes.clone()), "");
        let mut by_linux = bytes.clone();
        by_linux[state] |= 1;
        assert!(notes(by_linux).contains("in use"));
        // The highest bits of the second entry: clean, and without errors.
        let highest = if state == 37 { start + 3 } else { start + 7 };
        let (clean, no_errors) = if state == 37 { (0x80, 0x40) } else { (0x08, 0x04) };
        let mut by_windows = bytes.clone();
        by_windows[highest] &= !clean;
        assert!(notes(by_windows).contains("in use"));
        let mut with_errors = bytes;
        with_errors[highest] &= !no_errors;
        assert!(notes(with_errors).contains("errors on its disk"));
    }
}

#[test]
fn lookups_find_what_is_listed() {
    let Some(image) = lab("vol/fat32.raw") else { return };
    assert_lookups(filesystem(&[device(&image)]).as_ref());
}

#[test]
fn numbers_that_were_not_given_are_harmless() {
    let Some(image) = lab("vol/fat16.raw") else { return };
    let mut random = Random(1);
    let odd = [0, 1, 2, 31, 32, u64::MAX, u64::MAX - 31];
    let numbers = odd.into_iter().chain((0..2000).map(|_| random.below(64 << 20)));
    ask_for(filesystem(&[device(&image)]).as_ref(), numbers.map(FileId::of));
}

#[test]
fn harmed_metadata_does_no_harm() {
    for name in NAMES {
        let Some(image) = lab(&format!("vol/{name}.raw")) else { return };
        let disk: Arc<dyn BlockDevice> = device(&image);
        let open = |disk| guestfs::open(FsKind::Fat32, &[disk]);
        flip_metadata(&disk, &open, flip_runs(), 600, Expect::Harmless);
    }
}
