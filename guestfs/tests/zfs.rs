//! ZFS.
mod common;
#[path = "zfs/harm.rs"]
mod harm;
#[path = "zfs/pools.rs"]
mod pools;

use std::{collections::BTreeSet, path::Path, process::Command, sync::Arc};

use blockdev::{BlockDevice, ErrorKind};
use common::*;

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
