//! Files of guests: out of images in a volume of stock Bacula, against the kernel's own loop mount of the raw image and,
//! where it is there, libguestfs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::fixtures::{Fixture, Kind};
use super::groups::Bench;
use super::table::Table;
use crate::cmd::{self, quoted, quoted_path};
use crate::guests;

/// Where what is extracted goes: memory, so that no disk is measured.
const TARGET: &str = "/dev/shm/revenant-bench";

/// An image of one filesystem.
struct Image {
    /// Name without `.raw`.
    name: &'static str,
    /// Options of the kernel's mount; `None` where the kernel here cannot.
    mount: Option<&'static str>,
    holds: Holds,
}

/// What there is to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// A tree of some files.
    Tree,
    /// `one-gib.bin`, incompressible, and `dir100k` with 100,000 entries.
    Large,
    /// `big.log`, compressed by the filesystem.
    Text,
}

const fn image(name: &'static str, mount: Option<&'static str>, holds: Holds) -> Image {
    Image { name, mount, holds }
}

static IMAGES: [Image; 12] = [
    image("big-ext4", Some("ro,noload"), Holds::Large),
    image("big-xfs", Some("ro,norecovery"), Holds::Large),
    image("big-btrfs", Some("ro"), Holds::Large),
    image("big-ntfs", None, Holds::Large),
    image("big-exfat", None, Holds::Large),
    image("fat32", None, Holds::Tree),
    image("zfs-single.0", None, Holds::Tree),
    image("text-btrfs-zstd", Some("ro"), Holds::Text),
    image("text-btrfs-lzo", Some("ro"), Holds::Text),
    image("text-btrfs-zlib", Some("ro"), Holds::Text),
    image("text-ntfs", None, Holds::Text),
    image("ext4", Some("ro,noload"), Holds::Tree),
];

/// Measures the group.
pub fn guests(bench: &Bench) -> Result<Vec<Table>> {
    let fixture = bench.fixtures.get(Kind::Guests)?;
    let all = Guests::new(bench, &fixture)?;
    let tables = vec![all.first_listing(), all.listing(), all.one_file(), all.many_files(), all.four_at_once()];
    let _ = fs::remove_dir_all(TARGET);
    Ok(tables)
}

/// Makes the folder that is backed up: images of the lab, and some with compressed text from `text`.
pub fn make(folder: &Path, text: &Path) -> Result<()> {
    cmd::run(guests::maker()?.args(["big", "ext", "fat", "zfs"]))?;
    fs::create_dir_all(folder)?;
    for Image { name, holds, .. } in &IMAGES {
        let to = folder.join(format!("{name}.raw"));
        if *holds == Holds::Text {
            compressed(name, &to, &text.join("big.log"))?;
            continue;
        }
        let from = guests::folder().join("vol").join(format!("{name}.raw"));
        ensure!(from.exists(), "{} could not be made: root, loop devices and mkfs are needed", from.display());
        if fs::hard_link(&from, &to).is_err() {
            cmd::run(cmd::command("cp", ["--sparse=always"]).arg(&from).arg(&to))?;
        }
    }
    Ok(())
}

/// Makes an image whose filesystem compressed `text`.
fn compressed(name: &str, image: &Path, text: &Path) -> Result<()> {
    let (image, text) = (quoted_path(image), quoted_path(text));
    let (format, mount) = match name {
        "text-ntfs" => ("mkntfs -q -F -Q -C", "ntfs-3g -o compression".to_owned()),
        _ => {
            let method = name.rsplit('-').next().unwrap_or_default();
            ("mkfs.btrfs -q", format!("mount -o loop,compress-force={method}"))
        }
    };
    // A hole would be copied as one, and the image must not be longer than what is in it by much.
    let line = format!(
        "set -e; M=$(mktemp -d); truncate -s 800M {image}; {format} {image}; {mount} {image} $M
        cp {text} $M/ || r=1; sync; umount $M; rmdir $M; exit ${{r:-0}}"
    );
    cmd::run(&mut cmd::command("sh", ["-c", &line]))
}

/// The images in the volume.
struct Guests<'a> {
    bench: &'a Bench,
    fixture: &'a Fixture,
    /// The folder of each disk's volume in the tree, by the name of its file.
    roots: BTreeMap<String, String>,
    /// The raw images.
    folder: PathBuf,
}

impl<'a> Guests<'a> {
    fn new(bench: &'a Bench, fixture: &'a Fixture) -> Result<Self> {
        let line = format!("{} 2>/dev/null", bench.with_catalog(fixture, "points --json"));
        let points: serde_json::Value = serde_json::from_slice(&cmd::output(&mut cmd::command("sh", ["-c", &line]))?)?;
        let mut roots = BTreeMap::new();
        for point in points.as_array().context("`revenant points --json` is no list")? {
            let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
            for disk in point["disks"].as_array().into_iter().flatten() {
                let root = format!("{}/files/{}/whole", text(point, "tree_path"), text(disk, "name"));
                roots.insert(text(disk, "file"), root);
            }
        }
        let folder = fixture.raw.as_ref().and_then(|raw| raw.parent()).context("the images")?.to_owned();
        cmd::run_quietly(&mut cmd::command("cat", [&fixture.volume]).stdout(Stdio::null()))?;
        Ok(Self { bench, fixture, roots, folder })
    }

    /// A line of Revenant, about a path of an image.
    fn ours(&self, words: &str, image: &Image, path: &str, rest: &str) -> String {
        let root = self.roots.get(&format!("{}.raw", image.name)).map_or("", String::as_str);
        let path = quoted(&format!("{root}/{path}"));
        self.bench.with_catalog(self.fixture, &format!("{words} {path} {rest}"))
    }

    /// The same in the kernel's mount, which is `$M`.
    fn mounted(&self, image: &Image, what: &str) -> Option<String> {
        let (raw, options) = (self.raw(image), image.mount?);
        let point = self.bench.scratch("mnt");
        Some(format!("M={point}; mkdir -p $M && mount -o loop,{options} {raw} $M && {what}; umount $M"))
    }

    fn raw(&self, image: &Image) -> String {
        quoted_path(&self.folder.join(format!("{}.raw", image.name)))
    }

    /// Before each run. The volume is in the page cache since the beginning: otherwise the disk below would be measured.
    fn warm(&self, image: &Image) -> String {
        format!("rm -rf {TARGET}; mkdir -p {TARGET}; cat {} >/dev/null", self.raw(image))
    }

    /// Ours, and the kernel's where it can.
    fn measure(&self, table: &mut Table, image: &Image, ours: &str, kernel: &str, bytes: Option<u64>) {
        let warm = self.warm(image);
        self.bench.measure(table, image.name, Some(&warm), ours, bytes);
        if let Some(line) = self.mounted(image, kernel) {
            let what = format!("{}, kernel's loop mount of the raw image", image.name);
            self.bench.measure(table, &what, Some(&warm), &line, bytes);
        }
    }

    fn first_listing(&self) -> Table {
        let mut table = Table::new("From the start of the program to the first listing of a guest's topmost folder");
        for image in &IMAGES {
            self.measure(&mut table, image, &self.ours("ls", image, "", ">/dev/null"), "ls $M >/dev/null", None);
        }
        if cmd::find("guestmount").is_some() {
            let (image, point) = (&IMAGES[0], self.bench.scratch("mnt"));
            let line = format!(
                "{LIBGUESTFS} guestmount -a {} -m /dev/sda --ro {point} && ls {point} >/dev/null; guestunmount {point}",
                self.raw(image)
            );
            self.bench.measure_once(&mut table, "big-ext4, guestmount", Some(&self.warm(image)), &line, None);
        }
        table
    }

    fn listing(&self) -> Table {
        let mut table = Table::new("A folder of 100,000 entries, listed");
        for image in large() {
            let ours = self.ours("ls", image, "dir100k", ">/dev/null");
            self.measure(&mut table, image, &ours, "ls $M/dir100k >/dev/null", None);
        }
        table
    }

    fn one_file(&self) -> Table {
        let mut table = Table::new("One file, extracted to a folder in memory: 1 GiB, or 512 MiB of compressed text");
        for image in &IMAGES {
            let (file, bytes) = match image.holds {
                Holds::Tree => continue,
                Holds::Large => ("one-gib.bin", 1 << 30),
                Holds::Text => ("big.log", 512 << 20),
            };
            let ours = self.ours("extract", image, file, &format!("-o {TARGET} 2>/dev/null"));
            self.measure(&mut table, image, &ours, &format!("cp $M/{file} {TARGET}/"), Some(bytes));
        }
        self.libguestfs(&mut table, "copy-out /one-gib.bin", Some(1 << 30));
        table
    }

    fn many_files(&self) -> Table {
        let mut table = Table::new("100,000 small files, extracted to a folder in memory");
        for image in large() {
            let ours = self.ours("extract", image, "dir100k", &format!("-o {TARGET} 2>/dev/null"));
            self.measure(&mut table, image, &ours, &format!("cp -a $M/dir100k {TARGET}/"), None);
        }
        self.libguestfs(&mut table, "copy-out /dir100k", None);
        table
    }

    /// The same of the first image by guestfish, once.
    fn libguestfs(&self, table: &mut Table, what: &str, bytes: Option<u64>) {
        if cmd::find("guestfish").is_some() {
            let image = &IMAGES[0];
            let line = format!("{LIBGUESTFS} guestfish --ro -a {} -m /dev/sda {what} {TARGET}", self.raw(image));
            self.bench.measure_once(table, "big-ext4, guestfish", Some(&self.warm(image)), &line, bytes);
        }
    }

    fn four_at_once(&self) -> Table {
        let mut table = Table::new("One session alone, and four at once: the bytes of all, read");
        for image in IMAGES.iter().filter(|image| matches!(image.name, "big-btrfs" | "big-ntfs" | "text-btrfs-zstd")) {
            let (file, bytes) =
                if image.holds == Holds::Text { ("big.log", 512 << 20) } else { ("one-gib.bin", 1 << 30) };
            // Through a pipe: `cat` to /dev/null would not even copy.
            let one = self.ours("cat", image, file, "| cat >/dev/null");
            let warm = self.warm(image);
            self.bench.measure(&mut table, &format!("{}, alone", image.name), Some(&warm), &one, Some(bytes));
            let four = format!("for i in 1 2 3 4; do {one} & done; wait");
            self.bench.measure(
                &mut table,
                &format!("{}, four at once", image.name),
                Some(&warm),
                &four,
                Some(4 * bytes),
            );
        }
        table
    }
}

/// What libguestfs needs where /dev/kvm is there and does not work.
const LIBGUESTFS: &str = "LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg";

fn large() -> impl Iterator<Item = &'static Image> {
    IMAGES.iter().filter(|image| image.holds == Holds::Large)
}
