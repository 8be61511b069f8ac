//! The tree as an SMB share: stock Samba, started by the program, and its client. Skipped where there is none.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tests::{
    can_mount,
    case::{self, Case},
    compare::{sha256, under, walk},
    installed,
    program::{Revenant, Run, run_within},
    served::Served,
    temp,
};

const LIMIT: Duration = Duration::from_secs(60);
/// A user that Debian always has.
const USER: &str = "daemon";
const PASSWORD: &str = "geheim & länger";

fn can_serve(test: &str) -> bool {
    can_mount(test, &["smbd", "smbpasswd", "smbclient"])
}

struct Share {
    served: Served,
    revenant: Revenant,
    _volumes: tempfile::TempDir,
}

impl Share {
    fn of(case: &Case, more: &[&str]) -> Self {
        let volumes = case.unpack();
        let revenant = Revenant::of(case, volumes.path());
        let mut args = vec!["export", "smb", "--share", "test", "--listen", "127.0.0.1:0", "--json"];
        args.extend(more);
        let served = Served::start(revenant.command(args).env("REVENANT_SMB_PASSWORD", PASSWORD));
        Self { served, revenant, _volumes: volumes }
    }

    fn with_user(case: &Case) -> Self {
        Self::of(case, &["--user", USER])
    }

    fn client(&self, login: &[&str], commands: &str) -> Run {
        let mut client = Command::new("smbclient");
        client.args(["-p", &self.served.port().to_string(), "//127.0.0.1/test", "-c", commands]).args(login);
        run_within(&mut client, LIMIT)
    }

    fn do_well(&self, commands: &str) -> String {
        let run = self.client(&["-U", &format!("{USER}%{PASSWORD}")], commands).good();
        assert!(!run.text().contains("NT_STATUS"), "{commands}: {}", run.text());
        run.text()
    }

    /// The folder of the first job, as clients write it.
    fn job(&self) -> String {
        shown(self.revenant.jobs().remove(0)["tree_path"].as_str().expect("a path"))
    }
}

/// A name as clients show it: what Windows does not take is in the private use area.
fn shown(name: &str) -> String {
    let one = |c: char| match "\"*:<>?\\|".chars().position(|special| special == c) {
        Some(n) => char::from_u32(0xf020 + n as u32).expect("a character"),
        None if c < ' ' => char::from_u32(0xf000 + c as u32).expect("a character"),
        None => c,
    };
    name.chars().map(one).collect()
}

/// Processes that have `text` in their arguments.
fn processes(text: &str) -> usize {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let arguments = entries.filter_map(|e| fs::read(e.path().join("cmdline")).ok());
    arguments.filter(|a| a.windows(text.len()).any(|part| part == text.as_bytes())).count()
}

/// The folder that a share has its files in.
fn folder_of(share: &Share) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let children = format!("/proc/{0}/task/{0}/children", share.served.child.id());
    let smbd = fs::read_to_string(children).expect("the children");
    let smbd = smbd.split_whitespace().next().expect("smbd");
    let arguments = fs::read_to_string(format!("/proc/{smbd}/cmdline")).expect("its arguments");
    let folder = arguments.split('\0').find_map(|a| a.strip_suffix("/smb.conf")).expect("its configuration").to_owned();
    assert!(mounts.contains(&folder), "{folder}: {mounts}");
    folder
}

/// Everything of a job is got and is what was backed up; nothing can be put, and nobody else gets in.
#[test]
fn files_as_they_were() {
    if !can_serve("files by SMB") {
        return;
    }
    let case = case::shipped("span3");
    let share = Share::with_user(&case);
    let folder = temp();
    let local = folder.path().display();
    share.do_well(&format!("cd \"{}\"; recurse ON; prompt OFF; lcd {local}; mget *", share.job()));
    let mut files = 0;
    for entry in case.first_manifest().iter().filter(|e| e.text("type") == "file") {
        let got = sha256(&under(folder.path(), &entry.path)).unwrap_or_else(|e| e.to_string());
        assert_eq!(Some(&*got), entry.facts["sha256"].as_str(), "{}", entry.path.escape_ascii());
        files += 1;
    }
    assert!(files >= 3, "{files} files");

    let user = format!("{USER}%{PASSWORD}");
    fs::write(folder.path().join("new"), "new").expect("a file");
    for commands in [format!("lcd {local}; put new"), "mkdir new".into(), format!("rmdir \"{}\"", share.job())] {
        let refused = share.client(&["-U", &user], &commands).text();
        assert!(refused.contains("NT_STATUS_ACCESS_DENIED") || refused.contains("WRITE_PROTECT"), "{refused}");
    }
    let wrong = share.client(&["-U", &format!("{USER}%wrong")], "ls");
    assert!(wrong.code() != Some(0) && wrong.text().contains("NT_STATUS_LOGON_FAILURE"), "{wrong:?}");
    let nobody = share.client(&["-N"], "ls");
    assert!(nobody.code() != Some(0) && nobody.text().contains("NT_STATUS_ACCESS_DENIED"), "{nobody:?}");
    let listed = run_within(
        Command::new("smbclient").args(["-p", &share.served.port().to_string(), "-L", "127.0.0.1", "-U", &user]),
        LIMIT,
    );
    assert!(listed.text().contains("test") && !listed.text().contains("print$"), "{}", listed.text());
}

/// A disk of 64 MiB.
#[test]
fn a_large_file() {
    if !can_serve("a large file by SMB") {
        return;
    }
    let case = case::shipped("disk-raw");
    let share = Share::with_user(&case);
    let folder = temp();
    let large = case.first_manifest().into_iter().find(|e| e.facts["size"].as_u64() > Some(1 << 20)).expect("a disk");
    let path = String::from_utf8(large.path.clone()).expect("a plain name");
    let copy = folder.path().join("copy");
    share.do_well(&format!("get \"{}{path}\" {}", share.job(), copy.display()));
    assert_eq!(Some(&*sha256(&copy).expect("the copy")), large.facts["sha256"].as_str());
}

/// Names that Windows does not take, and some that are not even text.
#[test]
fn odd_names() {
    if !can_serve("odd names by SMB") {
        return;
    }
    let case = case::shipped("special");
    let share = Share::with_user(&case);
    let (folder, entries) = (temp(), case.first_manifest());
    let local = folder.path().display();
    let names = entries.iter().filter(|e| e.text("type") == "file");
    let names: Vec<_> = names.filter(|e| e.path.starts_with(b"/srv/data/src/names/")).collect();
    share.do_well(&format!("cd \"{}/srv/data/src/names\"; prompt OFF; lcd {local}; mget *", share.job()));
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    for entry in names.iter().filter(|e| !e.path.starts_with(b"/srv/data/src/names/deep/")) {
        *wanted.entry(entry.facts["sha256"].as_str().expect("a digest").to_owned()).or_default() += 1;
    }
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for path in walk(folder.path()) {
        *found.entry(sha256(&under(folder.path(), &path)).expect("a copy")).or_default() += 1;
    }
    assert_eq!(
        found,
        wanted,
        "{:?}",
        walk(folder.path()).iter().map(|p| p.escape_ascii().to_string()).collect::<Vec<_>>()
    );
    // By their own names.
    let listed = share.do_well(&format!("ls \"{}/srv/data/src/names/*\"", share.job()));
    for name in ["grüße.txt", "日本語のファイル名", "emoji-💾", "percent%s%n"] {
        assert!(listed.contains(name), "{name}: {listed}");
    }
    assert!(listed.contains("latin1-%") && listed.contains(&shown("tab\there")), "{listed}");
}

/// Everybody gets in where that is wanted, a folder is a share of its own, and the network is warned of.
#[test]
fn guests_and_folders() {
    if !can_serve("SMB for guests") {
        return;
    }
    let case = case::shipped("plain-nosig");
    let volumes = case.unpack();
    let revenant = Revenant::of(&case, volumes.path());
    let job = revenant.jobs().remove(0)["tree_path"].as_str().expect("a path").to_owned();
    let at = temp();
    let mount = at.path().to_str().expect("text");
    let args = ["export", "smb", &job, "--guest", "--listen", "0.0.0.0:0", "--json", "--mount", mount];
    let mut served = Served::start(&mut revenant.command(args));
    assert!(served.said().contains("warning: 0.0.0.0:") && served.said().contains("everybody"), "{}", served.said());
    assert!(at.path().join("srv").is_dir());
    let mut client = Command::new("smbclient");
    client.args(["-N", "-p", &served.port().to_string(), "//127.0.0.1/backup", "-c", "ls"]);
    let listed = run_within(&mut client, LIMIT).good().text();
    assert!(listed.contains("srv") && !listed.contains("jobs"), "{listed}");
    assert!(served.end(Signal::TERM).success(), "{}", served.said());
    assert!(!at.path().join("srv").exists(), "it is still mounted");
}

/// Whatever ends it, nothing is left: no process, no mount, no file.
#[test]
fn nothing_is_left() {
    if !can_serve("the end of SMB") {
        return;
    }
    let case = case::shipped("plain-nosig");
    let gone = |folder: &str| {
        let start = Instant::now();
        while processes(folder) > 0 {
            assert!(start.elapsed() < LIMIT, "{} processes of {folder} are left", processes(folder));
            thread::sleep(Duration::from_millis(20));
        }
    };
    let mounted = |folder: &str| fs::read_to_string("/proc/self/mounts").expect("the mounts").contains(folder);
    for signal in [Signal::TERM, Signal::INT] {
        let mut share = Share::with_user(&case);
        // What lists the shares is a helper that Samba starts and lets go of.
        let user = format!("{USER}%{PASSWORD}");
        let port = share.served.port().to_string();
        let _ = run_within(Command::new("smbclient").args(["-p", &port, "-L", "127.0.0.1", "-U", &user]), LIMIT);
        let folder = folder_of(&share);
        assert!(share.served.end(signal).success(), "{}", share.served.said());
        gone(&folder);
        assert!(!mounted(&folder) && !Path::new(&folder).exists(), "{folder}");
    }
    // Samba dies.
    let mut share = Share::with_user(&case);
    let folder = folder_of(&share);
    let children = format!("/proc/{0}/task/{0}/children", share.served.child.id());
    let smbd =
        fs::read_to_string(children).expect("the children").split_whitespace().next().and_then(|p| p.parse().ok());
    let smbd = rustix::process::Pid::from_raw(smbd.expect("smbd")).expect("a number");
    rustix::process::kill_process(smbd, Signal::KILL).expect("a signal");
    assert_eq!(share.served.wait().code(), Some(2));
    assert!(share.served.said().contains("smbd ended by itself"), "{}", share.served.said());
    gone(&folder);
    assert!(!mounted(&folder) && !Path::new(&folder).exists(), "{folder}");
    // The program is killed: Samba ends by itself; only the dead mount stays, as after every killed mount.
    let mut share = Share::with_user(&case);
    let folder = folder_of(&share);
    share.served.end(Signal::KILL);
    gone(&folder);
    let tree = Path::new(&folder).join("tree");
    let _ = run_within(Command::new("umount").arg("-l").arg(&tree), LIMIT);
    fs::remove_dir_all(&folder).expect("its folder");
}

/// The configuration alone is one that Samba takes without a complaint; what makes no sense is told.
#[test]
fn configuration_and_wrong_words() {
    let case = case::shipped("plain-nosig");
    let volumes = case.unpack();
    let revenant = Revenant::of(&case, volumes.path());
    let run = |args: &[&str]| revenant.run([&["export", "smb"], args].concat());
    let printed = run(&["--user", USER, "--mount", "/mnt/50% off", "--print-config", "--share", "Bücher"]).good();
    assert!(
        printed.text().contains("[Bücher]") && printed.text().contains("path = /mnt/50%% off"),
        "{}",
        printed.text()
    );
    if installed("Samba's own judgement of its configuration", &["testparm"]) {
        let folder = temp();
        let file = folder.path().join("smb.conf");
        fs::write(&file, &printed.stdout).expect("the configuration");
        let judged = run_within(Command::new("testparm").arg("-s").arg(&file), LIMIT).good();
        assert!(judged.stderr.contains("Loaded services file OK"), "{}", judged.stderr);
        for complaint in ["Unknown parameter", "Ignoring", "ERROR", "WARNING"] {
            assert!(!judged.stderr.contains(complaint), "{}", judged.stderr);
        }
    }
    for (args, told) in [
        (&[][..], "--guest"),
        (&["--guest", "--share", "a/b", "--print-config"], "a/b"),
        (&["--guest", "--print-config"], "--mount"),
        (&["--guest", "--allow", "everybody"], "everybody"),
    ] {
        let refused = run(args);
        assert_eq!(refused.code(), Some(2), "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(told) && refused.stderr.lines().count() == 1, "{args:?}: {}", refused.stderr);
    }
    if can_serve("a user whom Samba does not know") {
        let mut command =
            revenant.command(["export", "smb", "--user", "nobody-of-that-name", "--listen", "127.0.0.1:0"]);
        let refused = run_within(command.env("REVENANT_SMB_PASSWORD", "x"), LIMIT);
        assert!(refused.code() == Some(2) && refused.stderr.contains("nobody-of-that-name"), "{}", refused.stderr);
    }
}
