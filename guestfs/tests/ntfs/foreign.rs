//! Images that Windows made.

use std::{path::Path, sync::Arc};

use blockdev::{
    BlockDevice, ReadAt, Result,
    images::{self, gate::Neighbours},
};
use guestfs::FileSystem;

use crate::common::{assert_manifest, filesystem, filesystems, foreign, foreign_manifest, in_memory};
use crate::lab::at;

/// Image files in memory, beside each other.
struct Beside(Vec<(String, Arc<dyn ReadAt>)>);

impl Neighbours for Beside {
    fn find(&self, name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        Ok(self.0.iter().find(|(of, _)| of == name).map(|(_, file)| Arc::clone(file)))
    }
}

/// The disk in the first of the image files `names`; the others are beside it.
fn disk(names: &[&str]) -> Option<Arc<dyn BlockDevice>> {
    let file = |name: &&str| Some((file_name(name).to_owned(), Arc::new(foreign(name)?) as Arc<dyn ReadAt>));
    let files: Vec<_> = names.iter().map(file).collect::<Option<_>>()?;
    let (name, first) = files[0].clone();
    Some(images::open(&name, first, None, &Beside(files)).unwrap().disk)
}

fn file_name(name: &str) -> &str {
    Path::new(name).file_stem().and_then(|name| name.to_str()).unwrap()
}

/// Compares the NTFS in the first of `names` with its manifest, but for lines that `is_other` is true of.
fn assert_foreign(names: &[&str], manifest: &str, is_other: impl Fn(&str) -> bool) -> Option<Arc<dyn FileSystem>> {
    let disk = disk(names)?;
    let mut ntfs = filesystems(&[disk])
        .into_iter()
        .filter_map(Result::ok)
        .filter(|fs| fs.info().kind == blockdev::partitions::FsKind::Ntfs);
    let fs = ntfs.next().unwrap();
    let manifest = foreign_manifest(manifest);
    let lines: Vec<_> = manifest.lines().filter(|line| !is_other(line.rsplit('\t').next().unwrap())).collect();
    assert_manifest(fs.as_ref(), &lines.join("\n"), |path| is_other(path));
    println!("{}: {:?}", names[0], fs.info());
    Some(fs)
}

#[test]
fn trees() {
    for (names, manifest) in [
        (&["ntfs/colinfinck-testfs1.raw.zst"][..], "colinfinck-testfs1.raw"),
        (&["ntfs/windows_volume.qcow2.zst"], "windows_volume.qcow2"),
        (&["vhd/ntfs-parent.vhd.zst"], "ntfs-parent.vhd.p1"),
        (&["vhd/ntfs-differential.vhd.zst", "vhd/ntfs-parent.vhd.zst"], "ntfs-differential.vhd.p1"),
        (&["vhdx/ntfs-parent.vhdx.zst"], "ntfs-parent.vhdx.p1"),
        (&["vhdx/ntfs-differential.vhdx.zst", "vhdx/ntfs-parent.vhdx.zst"], "ntfs-differential.vhdx.p1"),
    ] {
        // What an absolute link of Windows points to, each tells in its way.
        if assert_foreign(names, manifest, |path| path == "a_link").is_none() {
            return;
        }
    }
}

/// The one volume of which the manifest's maker shows NTFS' own files.
#[test]
fn a_logical_volume() {
    assert_foreign(&["disk/lvm2.vhdx.gz"], "lvm2.vhdx.p1.lv-ntfs", |path| path.starts_with('$'));
}

#[test]
fn links_of_windows() {
    let names = ["vhd/ntfs-differential.vhd.zst", "vhd/ntfs-parent.vhd.zst"];
    let Some(fs) = assert_foreign(&names, "ntfs-differential.vhd.p1", |path| path == "a_link") else { return };
    let link = at(fs.as_ref(), "a_link");
    let target = String::from_utf8(fs.link_target(link).unwrap()).unwrap();
    assert_eq!(target, "x:/a_directory/another_file");
    assert_eq!(fs.metadata(link).unwrap().size, target.len() as u64);
}

/// A volume of Windows as it would be if it had been copied while it was in use: both restart pages of its log say so.
#[test]
fn a_log_in_use() {
    let Some(disk) = disk(&["vhd/ntfs-parent.vhd.zst"]) else { return };
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    let pages: Vec<_> = (0..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(b"RSTR")).collect();
    assert_eq!(pages.len(), 2);
    for page in pages {
        let area = page + usize::from(u16::from_le_bytes([bytes[page + 24], bytes[page + 25]]));
        assert_eq!(bytes[area + 14] & 2, 2, "the log was clean");
        bytes[area + 14] = 0;
    }
    let fs = filesystem(&[in_memory(bytes)]);
    assert!(fs.info().notes.iter().any(|note| note.contains("$LogFile")), "{:?}", fs.info().notes);
}
