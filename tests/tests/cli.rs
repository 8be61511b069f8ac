//! The command line as scripts see it: exit codes, errors, fields, bytes.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path, time::Duration};

use serde_json::Value;
use tests::{
    case,
    program::{Revenant, bare, run_within},
    temp,
};

const LIMIT: Duration = Duration::from_secs(20);

fn job_path(revenant: &Revenant) -> String {
    revenant.jobs()[0]["tree_path"].as_str().expect("a path").to_owned()
}

#[test]
fn exit_codes_and_errors() {
    let case = case::shipped("plain-nosig");
    let (volumes, out) = (case.unpack(), temp());
    let revenant = Revenant::new(volumes.path());
    let job = job_path(&revenant);
    assert_eq!(revenant.extract([&job], out.path()).code(), Some(0));
    let wrong: [(&[&str], &str); 6] = [
        (&["ls", "jobs/nothing"], "jobs/nothing"),
        (&["cat", &job], "is no file"),
        (&["cat", "jobs/nothing/at/all"], "jobs/nothing"),
        (&["verify", "nothing"], "nothing"),
        (&["extract", "nothing", "-o", "/nonexistent/out"], "nothing"),
        (&["mount", "/nonexistent/mountpoint", "--foreground"], "/nonexistent/mountpoint"),
    ];
    for (args, told) in wrong {
        let run = revenant.run(args);
        assert_eq!(run.code(), Some(2), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(told), "{args:?}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{args:?}: one line: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{args:?}");
    }
    for args in [&["frobnicate"][..], &["ls", "--frobnicate"], &["extract", "jobs"], &["cat"]] {
        let run = run_within(&mut bare(args), LIMIT);
        assert_eq!(run.code(), Some(2), "{args:?}");
        assert!(run.stderr.contains("Usage"), "{args:?}: {}", run.stderr);
    }
    let run = Revenant::new(Path::new("/nonexistent/volumes")).run(["jobs"]);
    assert_eq!(run.code(), Some(2));
    assert!(run.stderr.contains("/nonexistent/volumes"), "{}", run.stderr);
    let run = Revenant::new(volumes.path()).with("--key", Path::new("/nonexistent/key.pem")).run(["jobs"]);
    assert_eq!(run.code(), Some(2));
    assert!(run.stderr.contains("/nonexistent/key.pem"), "{}", run.stderr);
}

#[test]
fn cat_gives_any_range() {
    let case = case::shipped("sparse");
    let volumes = case.unpack();
    let revenant = Revenant::new(volumes.path());
    let job = job_path(&revenant);
    let entry = case.first_manifest().into_iter().find(|e| e.path.ends_with(b"/holes")).expect("a file with holes");
    let path = format!("{job}{}", entry.text("path"));
    let whole = revenant.run(["cat", &path]).good().stdout;
    let size = entry.facts["size"].as_u64().expect("a size");
    assert_eq!(whole.len() as u64, size);
    let at = |n: u64| whole.len().min(usize::try_from(n).expect("a small number"));
    for (offset, length) in
        [(0, 0), (0, 1), (1, 65_536), (65_535, 2), (size - 1, 10), (size, 1), (size + 7, 1), (9, size)]
    {
        let args = ["cat", &path, "--offset", &offset.to_string(), "--length", &length.to_string()];
        let piece = revenant.run(args).good().stdout;
        assert!(piece == whole[at(offset)..at(offset + length)], "{offset} {length}");
    }
    assert!(revenant.run(["cat", &path, "--offset", "100000"]).good().stdout == whole[at(100_000)..]);
    let most = u64::MAX.to_string();
    assert!(revenant.run(["cat", &path, "--offset", "5", "--length", &most]).good().stdout == whole[5..]);
    assert!(revenant.run(["cat", &path, "--offset", &most]).good().stdout.is_empty());
}

#[test]
fn ls_json_tells_what_the_manifest_says() {
    let case = case::shipped("special");
    let volumes = case.unpack();
    let revenant = Revenant::new(volumes.path());
    let listed = revenant.run(["ls", "-R", "--json", &job_path(&revenant)]).json();
    let listed = listed.as_array().expect("a list");
    for entry in case.first_manifest().iter().filter(|e| e.text("type") != "socket") {
        // Names that are no text are in path_b64, as in the manifest but without the slash.
        let Some(path) = entry.facts["path"].as_str() else { continue };
        let found = listed.iter().find(|l| l["path"] == path[1..]).unwrap_or_else(|| panic!("{path} is not listed"));
        for key in ["type", "uid", "gid", "mtime", "target", "rdev", "nlink"] {
            if let Some(wanted) = entry.facts.get(key).filter(|_| key != "nlink" || entry.text("type") == "file") {
                assert_eq!(&found[key], wanted, "{path}: {key}");
            }
        }
        let mode = entry.text("mode");
        assert_eq!(found["mode"], mode[mode.len() - 4..], "{path}");
        if entry.text("type") == "file" {
            assert_eq!(found["size"], entry.facts["size"], "{path}");
        }
    }
    let coded = case.first_manifest().iter().filter(|e| e.facts["path"].is_null()).count();
    assert!(coded > 0);
    assert_eq!(listed.iter().filter(|l| l["path_b64"].is_string()).count(), coded);
}

#[test]
fn names_that_are_no_text_can_be_given() {
    let case = case::shipped("special");
    let volumes = case.unpack();
    let revenant = Revenant::new(volumes.path());
    let job = job_path(&revenant);
    let wanted = case.first_manifest();
    let odd: Vec<_> = wanted.iter().filter(|e| e.facts["path"].is_null() && e.text("type") == "file").collect();
    assert!(!odd.is_empty());
    for entry in odd {
        let path = [job.as_bytes(), &entry.path].concat();
        let run = revenant.run([OsStr::new("cat"), OsStr::from_bytes(&path)]).good();
        assert_eq!(run.stdout.len() as u64, entry.facts["size"].as_u64().expect("a size"));
        let listed = revenant.run([OsStr::new("ls"), OsStr::from_bytes(&path)]).good().stdout;
        let name = entry.path.rsplit(|b| *b == b'/').next().expect("a name");
        assert_eq!(listed.strip_suffix(b"\n"), Some(name));
    }
}

#[test]
fn jobs_json_has_the_fields_scripts_rely_on() {
    let case = case::shipped("chain-accurate");
    let volumes = case.unpack();
    let revenant = Revenant::new(volumes.path());
    let jobs = revenant.jobs();
    assert_eq!(jobs.len(), 4);
    for job in &jobs {
        let kind = |key: &str, is: fn(&Value) -> bool| assert!(is(&job[key]), "{key}: {}", job[key]);
        for key in ["name", "client", "fileset", "level", "status", "start_time", "tree_path", "point_path"] {
            kind(key, Value::is_string);
        }
        for key in ["job_id", "files", "bytes"] {
            kind(key, Value::is_u64);
        }
        kind("volumes", Value::is_array);
        for (key, top) in [("tree_path", "jobs/"), ("point_path", "clients/")] {
            let path = job[key].as_str().expect("a path");
            assert!(path.starts_with(top), "{path}");
            assert!(!revenant.run(["ls", path]).good().stdout.is_empty());
        }
    }
    let levels: Vec<_> = jobs.iter().map(|j| j["level"].as_str().expect("a level")).collect();
    assert_eq!(levels, ["Full", "Differential", "Incremental", "Incremental"]);
}

#[test]
fn completions_and_manual_pages_come_out() {
    for shell in ["bash", "zsh", "fish"] {
        let run = run_within(&mut bare(["completions", shell]), LIMIT).good();
        assert!(run.text().contains("extract"), "{shell}");
    }
    let folder = temp();
    let args = [OsStr::new("man"), folder.path().as_os_str()];
    let _ = run_within(&mut bare(args), LIMIT).good();
    let page = fs::read_to_string(folder.path().join("revenant-extract.1")).expect("a page for extract");
    assert!(page.contains("restore") || page.contains("Restore"), "{page}");
}

/// Options may stand before the command, as the README has them: their values end where it begins.
#[test]
fn volumes_before_the_command() {
    let case = case::shipped("plain-nosig");
    let (volumes, cache) = (case.unpack(), temp());
    let (volumes, cache) = (volumes.path().to_str().expect("text"), cache.path().to_str().expect("text"));
    let run = run_within(&mut bare(["--cache", cache, "--volumes", volumes, volumes, "jobs", "--json"]), LIMIT).good();
    let job = run.json()[0]["tree_path"].as_str().expect("a path").to_owned();
    for args in [["--volumes", volumes, "ls", &job], ["ls", "--volumes", volumes, &job]] {
        let run = run_within(bare(args).args(["--cache", cache]), LIMIT).good();
        assert_eq!(run.text().lines().next(), Some("srv"), "{args:?}");
    }
}
