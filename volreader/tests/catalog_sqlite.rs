//! SQLite catalogs, as Bacula 9.6 and 15 wrote them.

mod common;
#[path = "common/catalog.rs"]
mod expected;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rusqlite::Connection;
use volreader::catalog;

/// Change a catalog as another program would, also in ways that its own constraints forbid.
fn change(file: &Path, sql: &str) {
    let db = Connection::open(file).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    db.execute_batch(sql).unwrap();
}

fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// A catalog file of the corpus in a folder of its own.
fn unpacked(case: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let case = common::case(case)?;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bacula #1?.db");
    assert!(expected::unpack(&case, "catalog.sqlite.zst", &file));
    Some((dir, file))
}

#[test]
fn catalogs_of_the_corpus() {
    let (mut catalogs, mut compared) = (0, 0);
    for case in expected::cases() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bacula.db");
        if !expected::unpack(&case, "catalog.sqlite.zst", &file) {
            continue;
        }
        let before = fs::read(&file).unwrap();
        compared += expected::check(&*catalog::open(&url(&file)).unwrap(), &case);
        assert_eq!(before, fs::read(&file).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the catalog");
        catalogs += 1;
    }
    eprintln!("{catalogs} catalogs, {compared} files compared");
    assert!(catalogs >= 2 && compared >= 50);
}

#[test]
fn names_are_bytes() {
    for (case, is_9) in [("chain-accurate", true), ("r15-chain", false)] {
        let Some((_dir, file)) = unpacked(case) else { return };
        change(&file, "INSERT INTO Path (PathId, Path) VALUES (9001, CAST(x'2ffff02f' AS TEXT))");
        let sql = if is_9 {
            "INSERT INTO Filename (FilenameId, Name) VALUES (9001, CAST(x'e42066' AS TEXT));
                 INSERT INTO File (FileIndex, JobId, PathId, FilenameId, LStat, MD5) VALUES (7, 1, 9001, 9001, 'A', '0');
                 INSERT INTO File (FileIndex, JobId, PathId, FilenameId, LStat, MD5) VALUES (9, 1, 9001, 9001, 'B', '0')"
        } else {
            "INSERT INTO File (FileIndex, JobId, PathId, Filename, LStat, MD5)
                 VALUES (7, 1, 9001, CAST(x'e42066' AS TEXT), 'A', '0'), (9, 1, 9001, CAST(x'e42066' AS TEXT), 'B', '0')"
        };
        change(&file, sql);
        let catalog = catalog::open(&url(&file)).unwrap();
        let found = catalog.find_file(1, b"/\xff\xf0/", b"\xe4 f").unwrap().unwrap();
        assert_eq!((found.file_index, found.lstat.as_slice()), (9, &b"B"[..]));
        assert!(expected::rows(&*catalog, 1).contains(&found));
        assert_eq!(catalog.find_file(1, b"/\xff\xf0/", b"\xe4 g").unwrap(), None);
        assert_eq!(catalog.find_file(2, b"/\xff\xf0/", b"\xe4 f").unwrap(), None);
    }
}

#[test]
fn rows_that_are_no_data() {
    let Some((_dir, file)) = unpacked("r15-chain") else { return };
    change(
        &file,
        "INSERT INTO Job (JobId, Job, Name, Type, Level, JobStatus, SchedTime, ClientId, FileSetId, PoolId)
           VALUES (801, 'c.1', 'c', 'C', 'F', 'T', 0, NULL, 77777, NULL), (802, 'm.1', 'm', 'M', 'F', 'T', '', 1, 1, 1),
                  (803, 'v.1', 'v', 'V', 'C', 'T', '', 1, 1, 1), (804, 'd.1', 'd', 'D', 'F', 'T', '', 1, 1, 1);
         INSERT INTO JobMedia (JobId, MediaId, FirstIndex, LastIndex, StartFile, StartBlock, EndFile, EndBlock)
           VALUES (801, 1, 0, 0, 0, 10, 0, 20), (801, 1, 1, 2, 1, 10, 0, 20), (801, 1, 1, 2, 1, 10, 2, 4294967295)",
    );
    let catalog = catalog::open(&url(&file)).unwrap();
    let jobs = catalog.jobs().unwrap();
    let copy = jobs.iter().find(|j| j.job_id == 801).unwrap();
    assert_eq!((copy.client.as_str(), copy.fileset.as_str(), copy.pool.as_str()), ("", "", ""));
    assert_eq!((copy.session_id, &copy.sched_time, &copy.start_time), (0, &None, &None));
    assert!(jobs.iter().any(|j| j.job_id == 802) && !jobs.iter().any(|j| [803, 804, 2].contains(&j.job_id)));
    let media = catalog.job_media(801).unwrap();
    assert_eq!(media.len(), 1);
    assert_eq!((media[0].start, media[0].end), (1 << 32 | 10, 2 << 32 | 0xffff_ffff));
}

#[test]
fn a_catalog_in_a_folder_that_cannot_be_written() {
    const CHILD: &str = "CATALOG_OF_A_CHILD";
    if let Some(file) = std::env::var_os(CHILD) {
        match catalog::open(&url(Path::new(&file))) {
            // Once now, and once more with each line that is sent.
            Ok(catalog) => {
                println!("{} jobs", catalog.jobs().unwrap().len());
                for _ in std::io::stdin().lines() {
                    println!(
                        "{}",
                        catalog.jobs().map_or_else(|e| e.to_string(), |jobs| format!("{} jobs", jobs.len()))
                    );
                }
            }
            Err(error) => println!("{error}"),
        }
        return;
    }
    let Some((dir, file)) = unpacked("chain-accurate") else { return };
    // In WAL mode SQLite needs files beside the database; where it cannot make them it must read without.
    Connection::open(&file).unwrap().pragma_update(None, "journal_mode", "wal").unwrap();
    // Root can write everywhere: a child of another user reads.
    let program = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let reader = || {
        let mut child = Command::new(&program);
        child.args(["--exact", "a_catalog_in_a_folder_that_cannot_be_written", "--nocapture"]).env(CHILD, &file);
        if is_root {
            child.uid(65534).gid(65534);
        }
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let read = || String::from_utf8(reader().wait_with_output().unwrap().stdout).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let clean = read();
    assert!(clean.contains("4 jobs"), "{clean}");

    // A Director elsewhere, who may write there, adds a job while the catalog is open.
    let mut child = reader();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("4 jobs")));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    change(&file, "DELETE FROM Job WHERE JobId = 7");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    child.stdin.take().unwrap().write_all(b"again\n").unwrap();
    let again: Vec<_> = said.collect();
    assert!(again.iter().any(|line| line.contains("3 jobs")), "{again:?}");
    assert!(child.wait().unwrap().success());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();

    // With changes that are not merged, reading the file alone would tell an old state, or none.
    let wal = dir.path().join("bacula #1?.db-wal");
    fs::write(&wal, [0; 32]).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let changed = read();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(changed.contains("-wal holds changes") && changed.contains("copy both"), "{changed}");
}

#[test]
fn a_director_that_writes_meanwhile() {
    let Some((_dir, file)) = unpacked("r15-chain") else { return };
    let catalog = catalog::open(&url(&file)).unwrap();
    let jobs = catalog.jobs().unwrap().len();
    let writer = Connection::open(&file).unwrap();
    writer
        .execute_batch(
            "PRAGMA foreign_keys = OFF; BEGIN EXCLUSIVE; INSERT INTO Job (Job, Name, Type, Level, JobStatus, SchedTime)
             VALUES ('n.1', 'n', 'B', 'F', 'R', '2030-01-01 00:00:00')",
        )
        .unwrap();
    let (done, committed) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        done.send(()).unwrap();
        writer.execute_batch("COMMIT").unwrap();
    });
    assert_eq!(catalog.jobs().unwrap().len(), jobs + 1);
    assert!(committed.try_recv().is_ok(), "the reader waited for the writer");
    thread.join().unwrap();
}

#[test]
fn a_file_that_is_replaced_is_read_anew() {
    let Some((dir, file)) = unpacked("r15-chain") else { return };
    let catalog = catalog::open(&url(&file)).unwrap();
    let jobs = catalog.jobs().unwrap().len();
    let copy = dir.path().join("copy");
    fs::copy(&file, &copy).unwrap();
    change(&copy, "DELETE FROM Job WHERE JobId = 1");
    fs::rename(&copy, &file).unwrap();
    assert_eq!(catalog.jobs().unwrap().len(), jobs - 1);
}

#[test]
fn a_sink_may_ask_the_catalog_and_may_stop() {
    let Some((_dir, file)) = unpacked("chain-accurate") else { return };
    let catalog = catalog::open(&url(&file)).unwrap();
    let mut seen = 0;
    let stopped = catalog.for_each_file(1, &mut |row| {
        seen += 1;
        assert!(catalog.find_file(1, row.path, row.name)?.is_some());
        if seen == 3 { Err(blockdev::Error::invalid("enough")) } else { Ok(()) }
    });
    assert_eq!((stopped.unwrap_err().to_string().as_str(), seen), ("enough", 3));
    assert!(!catalog.jobs().unwrap().is_empty());
}

#[test]
fn what_is_no_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.db");
    let message = |url: &str| catalog::open(url).err().unwrap().to_string();
    assert!(message(&url(&file)).contains("cannot open the file"));
    assert!(!file.exists());
    fs::write(&file, [b'x'; 4096]).unwrap();
    assert!(message(&url(&file)).contains("it is no SQLite database"));
    fs::remove_file(&file).unwrap();
    change(&file, "CREATE TABLE x (y)");
    let text = message(&url(&file));
    assert!(text.contains("not readable as a Bacula catalog") && text.contains("no such table"), "{text}");
    change(&file, "CREATE TABLE Version (VersionId); INSERT INTO Version VALUES (2230); CREATE TABLE File (Name)");
    assert!(message(&url(&file)).contains("schema version 2230"));
}
