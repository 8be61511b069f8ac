//! Files of guests: out of images of stock tools, against the kernel's own loop mount and, where it is there, libguestfs.

use std::path::Path;

use anyhow::{Result, bail};

use super::groups::Bench;
use super::table::Table;
use crate::cmd::{self, quoted, quoted_path};
use crate::guests;

/// Images with one file of 1 GiB and a folder of 100,000 entries, and how the kernel mounts them; `None` where it cannot.
const IMAGES: [(&str, Option<&str>); 6] = [
    ("big-ext4", Some("ro,noload")),
    ("big-xfs", Some("ro,norecovery")),
    ("big-btrfs", Some("ro")),
    ("big-btrfs-zstd", Some("ro")),
    ("big-ntfs", None),
    ("big-exfat", None),
];

/// Measures the group.
pub fn guests(bench: &Bench) -> Result<Vec<Table>> {
    cmd::run(guests::maker()?.arg("big"))?;
    let folder = guests::folder().join("vol");
    let found: Vec<_> = IMAGES.iter().filter(|(name, _)| folder.join(format!("{name}.raw")).exists()).collect();
    if found.is_empty() {
        bail!("no guest images could be made on this machine (root and loop devices are needed)");
    }
    let mut first = Table::new("From the start of the program to the first listing of a guest's topmost folder");
    let mut large = Table::new("A folder of 100,000 entries, listed");
    let mut content = Table::new("One file of 1 GiB, read (page cache warm)");
    for (name, options) in found {
        let image = folder.join(format!("{name}.raw"));
        let root = format!("images/{name}.raw/files/whole");
        let ours = |words: &str| format!("{} --image {} {words}", quoted(&bench.revenant), quoted_path(&image));
        // Pages of the image that are not in memory would measure the disk below.
        let warm = format!("cat {} >/dev/null", quoted_path(&image));
        bench.measure(&mut first, name, Some(&warm), &format!("{} >/dev/null", ours(&format!("ls {root}"))), None);
        bench.measure(
            &mut large,
            name,
            Some(&warm),
            &format!("{} >/dev/null", ours(&format!("ls {root}/dir100k"))),
            None,
        );
        let gib = Some(1 << 30);
        bench.measure(
            &mut content,
            name,
            Some(&warm),
            &format!("{} >/dev/null", ours(&format!("cat {root}/one-gib.bin"))),
            gib,
        );
        let Some(options) = options else { continue };
        let mounted = |what: &str| Mount { image: &image, options, point: &bench.scratch("mnt") }.line(what);
        bench.measure(
            &mut first,
            &format!("{name}, kernel's loop mount"),
            Some(&warm),
            &mounted("ls \"$M\" >/dev/null"),
            None,
        );
        bench.measure(
            &mut large,
            &format!("{name}, kernel's loop mount"),
            Some(&warm),
            &mounted("ls \"$M/dir100k\" >/dev/null"),
            None,
        );
        bench.measure(
            &mut content,
            &format!("{name}, kernel's loop mount"),
            Some(&warm),
            &mounted("cat \"$M/one-gib.bin\" >/dev/null"),
            gib,
        );
    }
    let raw = folder.join("big-ext4.raw");
    if raw.exists() {
        let line = format!("head -c 1G {} >/dev/null", quoted_path(&raw));
        bench.measure(&mut content, "limit: the same number of bytes of the raw image", None, &line, Some(1 << 30));
    }
    Ok(vec![first, large, content])
}

/// A loop mount by the kernel, for one command.
struct Mount<'a> {
    image: &'a Path,
    options: &'a str,
    point: &'a str,
}

impl Mount<'_> {
    fn line(&self, what: &str) -> String {
        let Self { image, options, point } = self;
        let image = quoted_path(image);
        format!("M={point}; mkdir -p \"$M\" && mount -o loop,{options} {image} \"$M\" && {what}; umount \"$M\"")
    }
}
