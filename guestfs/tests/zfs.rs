//! ZFS.
mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use blockdev::{BlockDevice, ErrorKind, Result};
use common::*;
use guestfs::{FileId, FileSystem, Kind, Time};
use serde_json::{Value, json};

/// What manifests leave out: snapshots.
fn is_snapshot(path: &str) -> bool {
    path.split('/').any(|part| part == ".zfs")
}

/// The folder with what is in the foreign archive `name`; its devices are sparse files.
fn unpacked(name: &str) -> Option<tempfile::TempDir> {
    let Some(data) = std::env::var_os("REVENANT_TESTDATA") else {
        println!("SKIPPED: REVENANT_TESTDATA is not set: {name} is not at hand");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let archive = Path::new(&data).join("images/zfs").join(name);
    let status = Command::new("tar").arg("-C").arg(folder.path()).arg("-xSf").arg(&archive).status().unwrap();
    assert!(status.success(), "tar {}", archive.display());
    Some(folder)
}

/// `<name>.0.raw`, `<name>.1.raw` and so on in `folder`.
fn members(folder: &Path, name: &str) -> Vec<Arc<dyn BlockDevice>> {
    let paths = (0..).map(|n| folder.join(format!("{name}.{n}.raw"))).take_while(|path| path.exists());
    let devices: Vec<_> = paths.map(|path| device(&path)).collect();
    assert!(!devices.is_empty(), "{name}");
    devices
}

#[test]
fn lab_pools() {
    for name in ["zfs-single", "zfs-mirror", "zfs-raidz1", "zfs-raidz2"] {
        assert_lab(name, is_snapshot);
    }
}

/// All compressions and checksums of OpenZFS 2.1, large and small records, large dnodes, a clone, an encrypted dataset.
#[test]
fn datasets_of_a_pool() {
    let Some(folder) = unpacked("openzfs-2.1-zone.tar.zst") else { return };
    let folder = folder.path();
    let mut manifest = std::fs::read_to_string(folder.join("zone.manifest.tsv")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(dataset) = name.strip_prefix("zone_").and_then(|n| n.strip_suffix(".manifest.tsv")) else { continue };
        for line in std::fs::read_to_string(folder.join(&name)).unwrap().lines() {
            let (fields, path) = line.rsplit_once('\t').unwrap();
            manifest += &format!("{fields}\t{dataset}/{path}\n");
        }
    }
    let fs = filesystem(&members(folder, "zone"));
    let mut found = walk(fs.as_ref(), usize::MAX, u64::MAX);
    let locked = found.errors.iter().position(|(path, e)| path == "enc/" && e.kind() == ErrorKind::Locked);
    println!("{}", found.errors.swap_remove(locked.unwrap()).1);
    assert_walked(found, &manifest, is_snapshot);
}

#[test]
fn pools_of_openzfs() {
    for name in ["zmir", "zold"] {
        let Some(folder) = unpacked(&format!("openzfs-2.1-{name}.tar.zst")) else { return };
        let manifest = std::fs::read_to_string(folder.path().join(format!("{name}.manifest.tsv"))).unwrap();
        assert_manifest(filesystem(&members(folder.path(), name)).as_ref(), &manifest, is_snapshot);
    }
}

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
fn assert_stat(fs: &dyn FileSystem, root: &str, manifest: &str) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in manifest.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let path = format!("{root}{}", line["path"].as_str().unwrap());
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

#[test]
fn pools_of_a_current_kernel() {
    for pool in pools() {
        let name = pool.file_name().unwrap().to_str().unwrap().to_owned();
        let devices: Vec<_> = devices(&pool).into_values().collect();
        let all = filesystems(&devices);
        assert_eq!(all.len(), 1);
        match &all[0] {
            Err(e) => println!("{name}: {e}"),
            Ok(fs) => {
                println!("{name}: {:?} {:?}", fs.info(), fs.usage());
                assert_stat(fs.as_ref(), "", &std::fs::read_to_string(pool.join("tree.jsonl")).unwrap());
            }
        }
    }
}
