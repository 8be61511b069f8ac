//! ZFS.
mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// Pools that Solaris on SPARC made: everything is big-endian. Each has 300 files that say the same.
#[test]
fn big_endian_pools() {
    let of = |name: &str| foreign(&format!("zfs/zfs-pool-{name}.dat.bz2")).map(in_memory);
    let all = |names: &[&str]| names.iter().map(|name| of(name)).collect::<Option<Vec<_>>>();
    let check = |devices: &[Arc<dyn BlockDevice>], notes: usize, files: usize| {
        let fs = filesystem(devices);
        assert_eq!(fs.info().notes.len(), notes, "{:?}", fs.info().notes);
        let found = walk(fs.as_ref(), usize::MAX, u64::MAX);
        assert!(found.errors.is_empty(), "{:?}", found.errors.first());
        let foo = ('f', 4, "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c".to_owned());
        let names: BTreeSet<_> = found.lines.iter().filter(|(_, line)| **line == foo).map(|(path, _)| path).collect();
        assert_eq!(names.len(), files, "{:?}", found.lines.keys());
    };
    // The last one is empty, as zfs-fuse says too.
    for (name, files) in [("v1", 300), ("v15", 0)] {
        let Some(devices) = all(&[name]) else { return };
        check(&devices, 0, files);
    }
    for names in [["v1raidz1", "v1raidz2", "v1raidz3"], ["v2mirror1", "v2mirror2", "v2mirror3"]] {
        let devices = all(&names).unwrap();
        check(&devices, 0, 300);
        for missing in 0..3 {
            let mut rest = devices.clone();
            rest.remove(missing);
            check(&rest, 1, 300);
        }
    }
}

#[test]
fn unknown_versions_and_keys_are_named() {
    let Some(image) = foreign("zfs/zfs-pool-v999.dat.bz2") else { return };
    let Some(Err(e)) = filesystems(&[in_memory(image)]).pop() else { panic!("version 999 was opened") };
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("version 999"), "{e}");

    let fs = filesystem(&[in_memory(foreign("zfs/cryptv0.dat.bz2").unwrap())]);
    let mut found = walk(fs.as_ref(), usize::MAX, u64::MAX);
    found.errors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let errors: Vec<_> = found.errors.iter().map(|(path, e)| (path.as_str(), e.kind())).collect();
    let locked = [".zfs/volumes/testvol/snap1", "testfs/", "testvol"];
    assert_eq!(errors, locked.map(|path| (path, ErrorKind::Locked)));
}

#[test]
fn zstd_pool() {
    let Some(folder) = unpacked("testpool_zstd.tar.gz") else { return };
    let fs = filesystem(&[device(&folder.path().join("testpool_zstd"))]);
    // Records packed on hosts of both byte orders, with and without the mistakes of early versions.
    let found = walk(fs.as_ref(), usize::MAX, u64::MAX);
    assert!(found.errors.is_empty(), "{:?}", found.errors);
    let files: Vec<_> = found.lines.iter().filter(|(_, (kind, ..))| *kind == 'f').collect();
    let digest = |text: &str| text.to_owned();
    assert_eq!(
        files,
        [
            (
                &"ppc64_fbsd/zstd".to_owned(),
                &('f', 146_040, digest("e762a213e65d11b8688d1808578830cbe80cdf4012caf35431edbf884d9f81d7"))
            ),
            (
                &"x86_64/zstd".to_owned(),
                &('f', 780_248, digest("cc9bfddedd664b9a5334581af786516d149c3fbd2c7e65735985acf17bce5935"))
            )
        ]
    );
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
