//! The kept index is a cache: it saves work, and it never changes what is seen.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::{
    case,
    compare::{What, differences},
    program::Revenant,
    random::Random,
    temp,
};

/// Everything that is listed: the jobs and the whole tree.
fn listing(revenant: &Revenant) -> (Vec<Value>, Value) {
    let mut tree = revenant.run(["ls", "-R", "--json"]).json();
    for entry in tree.as_array_mut().expect("an array") {
        // The top folders have the time at which the volume was last written to.
        let path = entry["path"].as_str().unwrap_or_default();
        if matches!(path, "jobs" | "machines") || (path.starts_with("clients") && path.split('/').count() < 4) {
            ["mtime", "atime", "ctime"].iter().for_each(|t| entry[*t] = Value::Null);
        }
    }
    (revenant.jobs(), tree)
}

/// The files the program keeps.
fn kept(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut below = vec![folder.to_path_buf()];
    while let Some(folder) = below.pop() {
        for entry in fs::read_dir(folder).expect("the folder for indexes") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { below.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn an_index_that_is_gone_cut_or_garbled_changes_nothing() {
    let case = case::shipped("chain-accurate");
    let volumes = case.unpack();
    let revenant = Revenant::of(&case, volumes.path());
    let wanted = listing(&revenant);
    let files = kept(revenant.cache.path());
    assert!(!files.is_empty(), "an index is kept");
    assert_eq!(listing(&revenant), wanted, "from the kept index");

    for file in &files {
        let intact = fs::read(file).expect("an index");
        let len = intact.len() as u64;
        let mut random = Random(len);
        fs::remove_file(file).expect("removing");
        assert_eq!(listing(&revenant), wanted, "removed");
        for cut in [0, 1, len / 2, len - 1] {
            fs::write(file, &intact[..cut as usize]).expect("writing");
            assert_eq!(listing(&revenant), wanted, "cut to {cut} bytes");
        }
        for _ in 0..24 {
            let mut bytes = intact.clone();
            let at = random.below(len) as usize;
            bytes[at] ^= 1 + random.below(255) as u8;
            fs::write(file, bytes).expect("writing");
            assert_eq!(listing(&revenant), wanted, "byte {at} garbled");
        }
        let noise: Vec<_> = (0..len).map(|_| random.below(256) as u8).collect();
        fs::write(file, noise).expect("writing");
        assert_eq!(listing(&revenant), wanted, "noise");
        fs::write(file, &intact).expect("writing");
    }
}

/// The second time nothing is scanned: garbage written over the middle of the volume, with its size and times kept, is
/// not seen by a listing.
#[test]
fn the_second_time_the_volume_is_not_scanned() {
    let case = case::shipped("chain-accurate");
    let volumes = case.unpack();
    let revenant = Revenant::of(&case, volumes.path());
    let wanted = revenant.jobs();
    let path = volumes.path().join("job-0001");
    let file = fs::File::options().write(true).open(&path).expect("the volume");
    let times = file.metadata().and_then(|m| m.modified()).expect("its time");
    file.write_all_at(&[0xa5; 200_000], 100_000).expect("writing");
    file.set_modified(times).expect("setting its time");
    assert_eq!(revenant.jobs(), wanted);
    assert_ne!(Revenant::of(&case, volumes.path()).jobs(), wanted, "without the index the damage is seen");
}

#[test]
fn a_volume_that_grew_is_indexed_to_its_end() {
    let case = case::shipped("chain-accurate");
    let whole = case.first_volume();
    let fresh = {
        let volumes = case.unpack();
        listing(&Revenant::of(&case, volumes.path()))
    };
    let folder = temp();
    let path = folder.path().join("job-0001");
    let revenant = Revenant::new(folder.path());
    let ends = case.list("jobmedia").iter().map(|m| m["EndBlock"].as_str().expect("text").parse::<usize>());
    for (n, end) in ends.enumerate() {
        let end = end.expect("a number") + 1;
        // First in the middle of the job, as while it runs, then when it is over.
        fs::write(&path, &whole[..end - 20_000]).expect("writing");
        let running = revenant.jobs();
        assert_eq!(running.len(), n + 1, "job {} runs", n + 1);
        assert!(running[n]["status"].is_null() && running[n]["point_path"].is_null(), "{}", running[n]);
        fs::write(&path, &whole[..end]).expect("writing");
        let jobs = revenant.jobs();
        assert_eq!(jobs.len(), n + 1);
        assert_eq!(jobs[n]["status"], "T", "{}", jobs[n]);
    }
    assert_eq!(listing(&revenant), fresh, "grown step by step, and from scratch");
    let point = case.list("restore_points").last().expect("a point");
    let (out, last) = (temp(), revenant.jobs().pop().expect("a job"));
    let _ = revenant.extract([last["point_path"].as_str().expect("a path")], out.path()).good();
    assert_eq!(differences(&case.wanted(point), out.path(), What::Restored), []);
}

#[test]
fn a_recycled_volume_is_indexed_anew() {
    let (old, new) = (case::shipped("chain-accurate"), case::shipped("plain-nosig"));
    let folder = temp();
    let path = folder.path().join("job-0001");
    let revenant = Revenant::new(folder.path());
    // The same name and, to make it hard, the same size: Bacula may fill a recycled volume to the same limit.
    let (mut first, second) = (old.first_volume(), new.first_volume());
    first.truncate(second.len());
    fs::write(&path, &first).expect("writing");
    let before = revenant.jobs();
    assert!(!before.is_empty());
    fs::write(&path, &second).expect("writing");
    let out = temp();
    let jobs = revenant.jobs();
    let _ = revenant.extract([jobs[0]["tree_path"].as_str().expect("a path")], out.path()).good();
    assert_eq!(differences(&new.first_manifest(), out.path(), What::Restored), []);
    assert_eq!(jobs.len(), new.list("jobs").len());
}
