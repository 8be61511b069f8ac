//! Recoveries through SMB: a session's share by stock Samba, used by Samba's own client.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use serde_json::Value;
use tests::{
    can_mount,
    program::run_within,
    recovery::{LIMIT, Recovery, io, io_as, uri},
    temp,
};

/// A user that Debian always has.
const USER: &str = "daemon";
const PASSWORD: &str = "geheim & länger";

fn can_serve(test: &str) -> bool {
    can_mount(test, &["smbd", "smbpasswd", "smbclient", "qemu-io", "qemu-img"])
}

/// Has Samba's client run `commands` on the share of a session; what it says.
fn client(session: &Value, login: &[&str], commands: &str) -> String {
    // smb://ADDRESS:PORT/SHARE/FILE
    let uri = uri(session, 0);
    let mut parts = uri.trim_start_matches("smb://").split('/');
    let (host, port) = parts.next().and_then(|at| at.split_once(':')).expect("an address");
    let share = parts.next().expect("a share");
    let mut client = Command::new("smbclient");
    client.args(["-p", port, &format!("//{host}/{share}"), "-c", commands]).args(login);
    let run = run_within(&mut client, LIMIT);
    format!("{}{}", run.text(), run.stderr)
}

fn do_well(session: &Value, commands: &str) -> String {
    let said = client(session, &["-N"], commands);
    assert!(!said.contains("NT_STATUS") && !said.contains("failed"), "{commands}: {said}");
    said
}

/// Processes that have the state's folder in their arguments and are not the program.
fn samba(recovery: &Recovery) -> usize {
    let folder = recovery.state.path().join("sessions");
    let folder = folder.as_os_str().as_encoded_bytes();
    let lines = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| fs::read(e.path().join("cmdline")).ok());
    lines.filter(|line| line.windows(folder.len()).any(|part| part == folder)).count()
}

fn mounts(recovery: &Recovery) -> usize {
    let folder = recovery.state.path().to_str().expect("a path");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    mounts.lines().filter(|line| line.contains(folder)).count()
}

/// Nothing is left: no mount, no process, no folder.
fn assert_clean(recovery: &Recovery) {
    let begun = Instant::now();
    while samba(recovery) > 0 {
        assert!(begun.elapsed() < LIMIT, "{} processes are left", samba(recovery));
        thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!((mounts(recovery), recovery.left()), (0, Vec::<PathBuf>::new()));
}

fn one(sessions: Vec<Value>) -> Value {
    assert_eq!(sessions.len(), 1);
    sessions.into_iter().next().expect("a session")
}

/// The disks are VHDX files that a client reads, writes and adds files to; the same bytes are behind the session's other
/// door. All of it is there after the daemon was killed, after Samba was, and the end leaves nothing.
#[test]
fn a_share_outlives_its_daemon() {
    if !can_serve("recoveries through SMB") {
        return;
    }
    let recovery = Recovery::new();
    let mut daemon = recovery.daemon();
    let session = recovery.run(&["recover", "web01", "--through", "smb"]).json();
    assert!(uri(&session, 0).ends_with("/web01-1/disk0.vhdx"), "{session:#}");
    assert_eq!(session["warning"], Value::Null);
    let listed = do_well(&session, "ls");
    assert!(listed.contains("disk0.vhdx") && listed.contains("disk1.vhdx"), "{listed}");
    let here = temp();
    let at = |name: &str| here.path().join(name);
    let text = |path: &Path| path.to_str().expect("a path").to_owned();

    // What is written to the disk elsewhere is in the file, and the other way round.
    let socket = recovery.state.path().join("sessions/web01-1/nbd.sock");
    let nbd = format!("nbd+unix:///disk0?socket={}", socket.display());
    io(&nbd, &["write -P 0x5a 1M 64k", "flush"]);
    do_well(&session, &format!("get disk0.vhdx {}", text(&at("got.vhdx"))));
    let _ = run_within(Command::new("qemu-img").args(["check", "-f", "vhdx"]).arg(at("got.vhdx")), LIMIT).good();
    io_as("vhdx", &text(&at("got.vhdx")), &["read -P 0x5a 1M 64k"]);
    // A hypervisor's writes: by qemu-io into the copy, which goes back over the share.
    io_as("vhdx", &text(&at("got.vhdx")), &["write -P 0x77 9M 128k", "flush"]);
    fs::write(at("vm.vmcx"), "what Hyper-V keeps beside the disks").expect("a file");
    do_well(&session, &format!("put {} disk0.vhdx; put {} vm.vmcx", text(&at("got.vhdx")), text(&at("vm.vmcx"))));
    io(&nbd, &["read -P 0x77 9M 128k", "read -P 0x5a 1M 64k"]);
    // The client flushes nothing, as a hypervisor would.
    for name in ["disk0.vhdx", "vm.vmcx"] {
        let file = fs::File::open(recovery.state.path().join("sessions/web01-1/smb/tree").join(name));
        file.and_then(|file| file.sync_all()).expect("a flush");
    }

    let shown = || one(recovery.until(|all| all.iter().all(|s| s["served"] == true)));
    let check = |session: &Value, name: &str| {
        assert_eq!(uri(session, 0), uri(&shown(), 0), "at the same address");
        do_well(session, &format!("get disk0.vhdx {}; get vm.vmcx {}", text(&at(name)), text(&at("vm.back"))));
        io_as("vhdx", &text(&at(name)), &["read -P 0x77 9M 128k", "read -P 0x5a 1M 64k"]);
        assert_eq!(fs::read(at("vm.back")).expect("a file"), fs::read(at("vm.vmcx")).expect("a file"));
    };
    daemon.child.kill().expect("a signal");
    daemon.child.wait().expect("its end");
    daemon = recovery.daemon();
    shown();
    check(&session, "killed.vhdx");
    assert_eq!(mounts(&recovery), 1);

    // Samba dies: it is started again.
    let pid = fs::read_to_string(recovery.state.path().join("sessions/web01-1/smb/pid/smbd.pid")).expect("its number");
    let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw).expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a signal");
    let begun = Instant::now();
    while client(&session, &["-N"], "ls").contains("NT_STATUS") {
        assert!(begun.elapsed() < LIMIT, "it is not shared again: {}", daemon.said());
        thread::sleep(std::time::Duration::from_millis(100));
    }
    check(&session, "again.vhdx");

    let _ = recovery.run(&["recover", "stop", "web01-1"]).good();
    assert_clean(&recovery);
    recovery.assert_unchanged();
}

/// The daemon is killed at each step of beginning a session with a share and of ending one.
#[test]
fn a_daemon_may_be_killed_at_any_step() {
    if !can_serve("killing the daemon of a share") {
        return;
    }
    let recovery = Recovery::new();
    let (begin, end) = recovery.daemon_is_killed_at_each_step(&["recover", "web01", "--through", "smb"]);
    assert!(begin >= 7 && end >= 2, "{begin} steps, {end} steps");
    assert_clean(&recovery);
}

/// A share is for whom it was made: a user with a password, machines that were named; the network is warned of.
#[test]
fn shares_are_for_those_that_are_allowed() {
    if !can_serve("who may use a share") {
        return;
    }
    let recovery = Recovery::new();
    let _daemon = recovery.daemon();
    let begin = ["recover", "web01", "--through", "smb"];
    let refused = recovery.run(&[&begin[..], &["--listen", "0.0.0.0:0"]].concat());
    assert!(refused.code() == Some(2) && refused.stderr.contains("--allow"), "{}", refused.stderr);
    let refused = recovery.run(&[&begin[..], &["--user", USER]].concat());
    assert!(refused.code() == Some(2) && refused.stderr.contains("--password-file"), "{}", refused.stderr);
    let refused = recovery.run(&["recover", "web01", "--format", "vhdx"]);
    assert!(refused.code() == Some(2) && refused.stderr.contains("--through"), "{}", refused.stderr);
    assert_clean(&recovery);

    let folder = temp();
    let file = folder.path().join("password");
    fs::write(&file, PASSWORD).expect("a file");
    let login = ["--user", USER, "--password-file", file.to_str().expect("a path")];
    let more = ["--listen", "0.0.0.0:0", "--allow", "127.0.0.0/8", "--format", "raw"];
    let session = recovery.run(&[&begin[..], &login, &more].concat()).json();
    let warning = session["warning"].as_str().expect("a warning");
    assert!(warning.contains("password of daemon") && warning.contains("--allow names"), "{warning}");
    let shown = recovery.run(&["recover", "show", session["id"].as_str().expect("a name")]).good().text();
    assert!(!shown.contains("geheim"), "{shown}");
    let as_local =
        serde_json::from_str(&session.to_string().replace("smb://0.0.0.0", "smb://127.0.0.1")).expect("JSON");
    let user = format!("{USER}%{PASSWORD}");
    let listed = client(&as_local, &["-U", &user], "ls");
    assert!(listed.contains("disk0.raw") && !listed.contains("NT_STATUS"), "{listed}");
    for login in [&["-N"][..], &["-U", "daemon%wrong"]] {
        assert!(client(&as_local, login, "ls").contains("NT_STATUS_"), "{login:?}");
    }
    let _ = recovery.run(&["recover", "stop", session["id"].as_str().expect("a name")]).good();

    let guests = ["--listen", "0.0.0.0:0", "--allow", "10.0.0.0/8", "--format", "vmdk"];
    let session = recovery.run(&[&begin[..], &guests].concat()).json();
    let as_local =
        serde_json::from_str(&session.to_string().replace("smb://0.0.0.0", "smb://127.0.0.1")).expect("JSON");
    let refused = client(&as_local, &["-N"], "ls");
    assert!(refused.contains("NT_STATUS_") && !refused.contains("disk0"), "{refused}");
    let _ = recovery.run(&["recover", "stop", session["id"].as_str().expect("a name")]).good();
    assert_clean(&recovery);
}
