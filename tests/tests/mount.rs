//! The mounted tree, by the tools people use on it. Skipped where nothing can be mounted.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tests::{
    case::{self, Case},
    compare::{What, differences, under},
    program::{Revenant, run_within},
    temp,
};

const LIMIT: Duration = Duration::from_secs(60);

fn can_mount(test: &str) -> bool {
    let can = tests::is_root() && fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !can {
        eprintln!("{test}: skipped, /dev/fuse cannot be used here");
    }
    can
}

/// A mount in the foreground of a process of its own.
struct Mounted {
    child: Child,
    revenant: Revenant,
    at: tempfile::TempDir,
    _volumes: tempfile::TempDir,
}

impl Mounted {
    fn of(case: &Case) -> Self {
        let (volumes, at) = (case.unpack(), temp());
        let revenant = Revenant::of(case, volumes.path());
        let mut command = revenant.command(["mount".as_ref(), at.path().as_os_str(), "--foreground".as_ref()]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program");
        let mounted = Self { child, revenant, at, _volumes: volumes };
        let start = Instant::now();
        while !mounted.at.path().join("jobs").exists() {
            assert!(start.elapsed() < LIMIT, "no mount appears");
            thread::sleep(Duration::from_millis(10));
        }
        mounted
    }

    /// The folder of job `n`, by its point and by itself.
    fn folders(&self, n: usize) -> [PathBuf; 2] {
        let job = self.revenant.jobs().remove(n);
        ["point_path", "tree_path"].map(|k| self.at.path().join(job[k].as_str().expect("a path")))
    }

    /// Ends it by SIGTERM: how long that took, and whether it ended well.
    fn end(&mut self) -> (Duration, bool) {
        let start = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        while start.elapsed() < LIMIT {
            if let Some(status) = self.child.try_wait().expect("waiting") {
                return (start.elapsed(), status.success());
            }
            thread::sleep(Duration::from_millis(5));
        }
        (start.elapsed(), false)
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        mounts.contains(&*self.at.path().to_string_lossy())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.end();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(program: &str, args: &[&str], paths: &[&Path]) -> String {
    let run = run_within(Command::new(program).args(args).args(paths), LIMIT);
    assert_eq!(run.code(), Some(0), "{program} {args:?} {paths:?}: {}", run.stderr);
    run.text()
}

#[test]
fn the_mounted_tree_is_what_was_backed_up() {
    if !can_mount("the mounted tree") {
        return;
    }
    for name in ["special", "sparse", "pki-lzo", "gzip9-sha256", "r15-special", "xattr-acl", "span3"] {
        let Some(case) = case::optional(name) else { continue };
        let mounted = Mounted::of(&case);
        let wanted = case.first_manifest();
        for folder in mounted.folders(0) {
            let found = differences(&wanted, &folder, What::Mounted);
            assert!(found.is_empty(), "{name} {}: {found:#?}", folder.display());
            use std::os::unix::fs::MetadataExt;
            for entry in wanted.iter().filter(|e| e.facts["nlink"].is_u64() && e.text("type") != "socket") {
                let meta = fs::symlink_metadata(under(&folder, &entry.path)).expect("an entry");
                assert_eq!(Some(meta.nlink()), entry.facts["nlink"].as_u64(), "{}", entry.path.escape_ascii());
            }
        }
        if name == "xattr-acl" {
            let listed = tool("getfattr", &["-R", "-d", "-m-", "--absolute-names"], &[&mounted.folders(0)[1]]);
            assert!(listed.contains("user."), "{listed}");
            let listed = tool("getfacl", &["-R", "-p", "-n"], &[&mounted.folders(0)[1]]);
            assert!(listed.contains("default:user:") && listed.contains("mask::"), "{listed}");
        }
    }
}

#[test]
fn tools_copy_out_of_it() {
    if !can_mount("tools") {
        return;
    }
    for name in ["special", "sparse"] {
        let case = case::shipped(name);
        let mounted = Mounted::of(&case);
        let (wanted, folder) = (case.first_manifest(), mounted.folders(0)[0].clone());
        let found = tool("find", &["-P"], &[&folder]);
        assert!(found.lines().count() >= wanted.len(), "{found}");
        let [rsync, cp, tar] = [temp(), temp(), temp()];
        let inside = folder.join(".");
        tool("rsync", &["-aHAX"], &[&inside.join(""), rsync.path()]);
        tool("cp", &["--sparse=always", "-a"], &[&inside, cp.path()]);
        let archive = temp();
        let file = archive.path().join("a.tar");
        let pack = ["-C", folder.to_str().expect("text"), "-cSf", file.to_str().expect("text"), "."];
        tool("tar", &pack, &[]);
        tool("tar", &["-C", tar.path().to_str().expect("text"), "-xpSf", file.to_str().expect("text")], &[]);
        for (tool, copy) in [("rsync", &rsync), ("cp", &cp), ("tar", &tar)] {
            let mut found = differences(&wanted, copy.path(), What::Restored);
            // GNU tar stores each link of a fifo as a fifo of its own, from any filesystem.
            found.retain(|d| tool != "tar" || !d.to_string().contains("fifo"));
            assert!(found.is_empty(), "{name} by {tool}: {found:#?}");
        }
    }
}

#[test]
fn all_points_of_a_chain_are_there() {
    if !can_mount("a chain") {
        return;
    }
    let case = case::shipped("chain-accurate");
    let mounted = Mounted::of(&case);
    for (n, point) in case.list("restore_points").iter().enumerate() {
        let found = differences(&case.wanted(point), &mounted.folders(n)[0], What::Mounted);
        assert!(found.is_empty(), "point {n}: {found:#?}");
    }
}

#[test]
fn sigterm_unmounts_also_under_a_reader() {
    if !can_mount("SIGTERM") {
        return;
    }
    let case = case::shipped("span3");
    for reading in [false, true] {
        let mut mounted = Mounted::of(&case);
        let mut file = reading.then(|| {
            let path = under(&mounted.folders(0)[1], b"/srv/data/src/m-large");
            let mut file = fs::File::open(path).expect("a file");
            file.read_exact(&mut [0; 4096]).expect("reading");
            file
        });
        let (took, well) = mounted.end();
        assert!(well && took < Duration::from_secs(15), "reading {reading}: {well} after {took:?}");
        assert!(!mounted.is_mounted(), "reading {reading}: the mount is left behind");
        file.take();
    }
}
