//! Pools with everything that OpenZFS 2.3 has, made by its kernel module (`tests/lab/make-zfs-pools.sh`).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{BlockDevice, ErrorKind, Result};
use guestfs::{FileId, FileSystem, Kind, Time};
use serde_json::{Value, json};

use crate::{common::*, is_snapshot};

/// Pools that `tests/lab/make-zfs-pools.sh` made, a folder each with the devices and what the kernel says of each file.
fn pools() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("REVENANT_ZFS_POOLS") else {
        println!("SKIPPED: REVENANT_ZFS_POOLS names no folder with pools (tests/lab/make-zfs-pools.sh makes one)");
        return Vec::new();
    };
    let mut pools: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    pools.sort();
    pools
}

/// The devices of a pool, by their names.
fn devices(pool: &Path) -> BTreeMap<String, Arc<dyn BlockDevice>> {
    let files = std::fs::read_dir(pool).unwrap().map(|entry| entry.unwrap().path());
    let images = files.filter(|path| path.extension().is_some_and(|e| e == "raw"));
    images.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), device(&path))).collect()
}

/// The file at `path`.
fn find(fs: &dyn FileSystem, path: &str) -> Result<Option<FileId>> {
    let mut id = fs.root();
    for name in path.split('/') {
        let Some(found) = fs.lookup(id, name.as_bytes())? else { return Ok(None) };
        id = found;
    }
    Ok(Some(id))
}

/// Compares what `stat`, `listxattr`, `readlink` and reading said in the kernel, a line of JSON each.
fn assert_stat(fs: &dyn FileSystem, root: &str, manifest: &str, is_excepted: impl Fn(&str) -> bool) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in manifest.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let path = format!("{root}{}", line["path"].as_str().unwrap());
        if is_excepted(&path) {
            continue;
        }
        let id = match find(fs, &path) {
            Ok(Some(id)) => id,
            Ok(None) => {
                wrong.push(format!("{path}: not found"));
                continue;
            }
            Err(e) => {
                wrong.push(format!("{path}: {e}"));
                continue;
            }
        };
        count += 1;
        match stat(fs, id) {
            Err(e) => wrong.push(format!("{path}: {e}")),
            Ok(found) => {
                for (key, value) in found.as_object().unwrap() {
                    // Reading for the manifest changed it.
                    if key != "atime" && *value != line[key] {
                        wrong.push(format!("{path}: {key} {value} and not {}", line[key]));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    assert!(count > 0);
}

fn stat(fs: &dyn FileSystem, id: FileId) -> Result<Value> {
    let metadata = fs.metadata(id)?;
    let format = match metadata.kind {
        Kind::Fifo => 1,
        Kind::CharDevice => 2,
        Kind::Dir => 4,
        Kind::BlockDevice => 6,
        Kind::File => 8,
        Kind::Symlink => 10,
        Kind::Socket => 12,
    };
    let nanos = |time: Time| time.seconds * 1_000_000_000 + i64::from(time.nanos);
    let mut found = json!({
        "mode": format << 12 | metadata.permissions,
        "uid": metadata.uid,
        "gid": metadata.gid,
        "nlink": metadata.nlink,
        "size": metadata.size,
        "mtime": nanos(metadata.modified),
        "ctime": nanos(metadata.changed),
        "atime": nanos(metadata.accessed),
    });
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let xattrs = fs.xattrs(id)?.into_iter();
    found["xattrs"] = xattrs.map(|x| (String::from_utf8(x.name).unwrap(), json!(hex(&x.value)))).collect();
    match metadata.kind {
        Kind::CharDevice | Kind::BlockDevice => found["rdev"] = json!([metadata.rdev.0, metadata.rdev.1]),
        Kind::Symlink => found["target"] = json!(String::from_utf8(fs.link_target(id)?).unwrap()),
        Kind::File if metadata.size <= 2 << 30 => found["sha256"] = json!(digest(&open(fs, id)?, u64::MAX)?),
        _ => {}
    }
    Ok(found)
}

/// What of a pool is not as the manifest says, for good reasons.
fn is_excepted(pool: &str, path: &str) -> bool {
    match pool {
        // Encrypted; not mounted, so that the kernel shows the folder below; a link whose target the kernel forgot.
        "rz1" => path == "enc" || path.starts_with("enc/") || path == "a/b/c" || path == "v4/links/l301",
        // Copied in the midst of work.
        "dir" => path == "db" || path.starts_with("db/"),
        _ => false,
    }
}

/// The pool in folder `pool`, without the devices `left_out`, against what the kernel said.
fn assert_pool(pool: &Path, left_out: &[&str]) {
    let name = pool.file_name().unwrap().to_str().unwrap();
    let mut devices = devices(pool);
    for device in left_out {
        devices.remove(*device).unwrap();
    }
    let devices: Vec<_> = devices.into_values().collect();
    let fs = filesystem(&devices);
    println!("{name} without {left_out:?}: {:?}", fs.info().notes);
    let manifest = std::fs::read_to_string(pool.join("tree.jsonl")).unwrap();
    assert_stat(fs.as_ref(), "", &manifest, |path| is_excepted(name, path));
    // And nothing else: no content is read, listings go by pages.
    let found = walk(fs.as_ref(), usize::MAX, 0);
    let expected = manifest.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let expected: BTreeSet<_> = expected.map(|line| line["path"].as_str().unwrap().replace('\n', "\\x0a")).collect();
    let more: Vec<_> = found.lines.keys().filter(|path| !is_snapshot(path) && !expected.contains(*path)).collect();
    let volumes = ["a/vol", "thin"];
    assert!(more.iter().all(|path| volumes.contains(&path.as_str()) || is_excepted(name, path)), "{more:?}");
}

#[test]
fn pools_of_a_current_kernel() {
    for pool in pools() {
        let name = pool.file_name().unwrap().to_str().unwrap();
        if name == "dra" {
            let Some(Err(e)) = filesystems(&devices(&pool).into_values().collect::<Vec<_>>()).pop() else {
                panic!("dRAID was opened");
            };
            assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("draid"), "{e}");
        } else {
            assert_pool(&pool, &[]);
        }
    }
}

/// As many devices as there are parities or copies may be missing, whichever they are; one more, and it is an error.
#[test]
fn missing_devices() {
    for pool in pools() {
        let name = pool.file_name().unwrap().to_str().unwrap();
        let sets: &[&[&str]] = match name {
            "rz2" => &[&["rz2-0", "rz2-3"], &["rz2-5", "rz2-4"], &["rz2-2"]],
            "rz3" => &[&["rz3-0", "rz3-1", "rz3-2"], &["rz3-0", "rz3-2", "rz3-4"], &["rz3-4"]],
            "exp" => &[&["exp-0"], &["exp-3"]],
            "rep" => &[&["rep-0"], &["rep-1"], &["rep-3"]],
            "spr" => &[&["spr-0"], &["spr-1", "spr-2"], &["spr-0", "spr-1"]],
            "mix" => &[&["mix-0", "mix-3", "mix-s1", "mix-l"]],
            "sta" => &[&["sta-1"]],
            _ => continue,
        };
        for left_out in sets {
            assert_pool(&pool, left_out);
        }
    }
}

/// One device too many is missing: what is needed is named, and what is elsewhere can be read.
#[test]
fn too_many_missing_devices() {
    for pool in pools() {
        let name = pool.file_name().unwrap().to_str().unwrap();
        let left_out: &[_] = match name {
            // Small blocks lie on three of the six.
            "rz2" => &["rz2-0", "rz2-1", "rz2-2"],
            // Half of the content; the metadata is on a vdev of its own.
            "mix" => &["mix-0", "mix-1"],
            _ => continue,
        };
        let devices = devices(&pool).into_iter().filter(|(name, _)| !left_out.contains(&name.as_str()));
        let fs = filesystem(&devices.map(|(_, device)| device).collect::<Vec<_>>());
        for name in left_out {
            assert!(fs.info().notes.iter().any(|note| note.contains(name)), "{:?}", fs.info().notes);
        }
        let found = walk(fs.as_ref(), usize::MAX, u64::MAX);
        println!("{name}: {} can be read, {} not", found.lines.len(), found.errors.len());
        assert!(found.lines.len() > 40 && found.errors.len() > 10);
        for (path, e) in &found.errors {
            assert!(e.kind() == ErrorKind::Missing && e.to_string().contains(" is not at hand"), "{path}: {e}");
        }
    }
}
