//! Recoveries: sessions that outlive their daemon, and leave nothing behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{
    installed, is_root,
    program::{self, run_within},
    recovery::{LIMIT, Recovery, as_guest, io, uri},
    temp,
};

fn is_dead(child: &mut Child) -> bool {
    child.try_wait().expect("waiting").is_some()
}

/// What was written and flushed is there after `kill -9`, at the same address; stopping removes everything, once and twice.
#[test]
fn a_session_outlives_its_daemon() {
    if !installed("recoveries", &["qemu-io"]) {
        return;
    }
    let recovery = Recovery::new();
    let mut daemon = recovery.daemon();
    let session = recovery.run(&["recover", "web01", "--listen", "127.0.0.1:0"]).json();
    assert_eq!((session["state"].as_str(), session["id"].as_str()), (Some("ready"), Some("web01-1")));
    let disk = uri(&session, 0);
    assert!(disk.starts_with("nbd://127.0.0.1:"), "{disk}");
    io(&disk, &["write -P 0x5a 1M 64k", "flush"]);
    io(&uri(&session, 1), &["write -P 0xa5 0 4k", "flush"]);

    daemon.child.kill().expect("a signal");
    daemon.child.wait().expect("its end");
    daemon = recovery.daemon();
    let again = recovery.until(|all| all.iter().all(|s| s["served"] == true)).remove(0);
    assert_eq!(uri(&again, 0), disk, "at the same address");
    io(&disk, &["read -P 0x5a 1M 64k"]);
    io(&uri(&again, 1), &["read -P 0xa5 0 4k"]);

    // In good order, too.
    assert!(daemon.end(Signal::TERM).success(), "{}", daemon.said());
    daemon = recovery.daemon();
    let again = recovery.until(|all| all.iter().all(|s| s["served"] == true)).remove(0);
    io(&disk, &["read -P 0x5a 1M 64k"]);
    assert!(again["overlay_bytes"].as_u64() > Some(64 << 10));

    let _ = recovery.run(&["recover", "stop", "web01-1"]).good();
    assert_eq!(recovery.left(), Vec::<PathBuf>::new());
    let twice = recovery.run(&["recover", "stop", "web01-1"]);
    assert_eq!(twice.code(), Some(2));
    assert!(twice.stderr.contains("there is no session web01-1"), "{}", twice.stderr);
    assert!(recovery.list().is_empty());
    let next = recovery.run(&["recover", "web01"]).json();
    assert_eq!(next["id"], "web01-2", "a name is used once");
    assert!(!is_dead(&mut daemon.child));
    recovery.assert_unchanged();
}

/// The daemon is killed at each step of beginning a session and of ending one: the next daemon goes on, everything can be
/// stopped, and nothing is left.
#[test]
fn a_daemon_may_be_killed_at_any_step() {
    let (begin, end) = Recovery::new().daemon_is_killed_at_each_step(&["recover", "web01"]);
    assert!(begin >= 5 && end >= 2, "{begin} steps, {end} steps");
}

/// Whether QEMU has its NFS client, which is a module of its own.
fn has_nfs() -> bool {
    let mut qemu = Command::new("qemu-system-x86_64");
    // It refuses in any case: nobody serves there.
    qemu.args(["-nodefaults", "-display", "none", "-S", "-blockdev"]);
    qemu.arg("driver=nfs,node-name=a,server.type=inet,server.host=127.0.0.0,path=/a/b");
    let run = run_within(&mut qemu, LIMIT);
    let has = run.stderr.contains("Failed to mount");
    if !has {
        eprintln!("SKIPPED: QEMU has no NFS client (apt install qemu-block-extra): {}", run.stderr);
    }
    has
}

/// Machines of QEMU's through NFS: its client asks a port mapper, which each session has at an address of its own. What their
/// guests were told to be written is there after the daemon was killed, and after their disks have moved.
#[test]
fn machines_through_nfs() {
    if !is_root() || !installed("machines through NFS", &["qemu-system-x86_64", "qemu-img"]) || !has_nfs() {
        eprintln!("SKIPPED: machines through NFS: needs root, for port 111");
        return;
    }
    let recovery = Recovery::new();
    let mut daemon = recovery.daemon();
    let machine = ["recover", "web01", "--through", "nfs", "--on", "qemu", "--memory", "64", "--network", "none"];
    let raw = [&machine[..], &["--format", "raw"]].concat();
    let sessions = [recovery.run(&machine).json(), recovery.run(&raw).json()];
    for (session, file) in sessions.iter().zip(["disk0-flat.vmdk", "disk0.raw"]) {
        assert_eq!(session["machine_state"]["state"], "running");
        assert!(uri(session, 0).starts_with("nfs://127.") && uri(session, 0).ends_with(file), "{session:#}");
        as_guest(session, "disk0", &["write -P 0x31 5M 64k", "flush"]);
    }
    daemon.child.kill().expect("a signal");
    daemon.child.wait().expect("its end");
    daemon = recovery.daemon();
    let again = recovery.until(|all| all.len() == 2 && all.iter().all(|s| s["served"] == true));
    for (session, again) in sessions.iter().zip(&again) {
        assert_eq!(uri(session, 1), uri(again, 1), "at the same address");
        as_guest(session, "disk0", &["read -P 0x31 5M 64k", "write -P 0x32 6M 4k"]);
    }
    let permanent = temp();
    let id = |n: usize| sessions[n]["id"].as_str().expect("a name");
    let to = permanent.path().to_str().expect("a path");
    let _ = recovery.run(&["recover", "migrate", id(0), "--to", to]).good();
    as_guest(&sessions[0], "disk0", &["read -P 0x31 5M 64k", "read -P 0x32 6M 4k"]);
    end(&sessions[0]);
    let _ = recovery.run(&["recover", "stop", id(1)]).good();
    assert_eq!(recovery.left(), Vec::<PathBuf>::new());
    // What QEMU cannot have is refused before anything is made.
    let by = |door: &'static str| [&machine[..2], &["--on", "qemu", "--through", door]].concat();
    for (words, told) in [
        (by("smb"), "from a share"),
        ([&by("nfs")[..], &["--format", "vhdx"]].concat(), "vmdk or raw"),
        ([&by("nbd")[..], &["--format", "raw"]].concat(), "nfs or smb"),
    ] {
        let refused = recovery.run(&words);
        assert!(refused.code() == Some(2) && refused.stderr.contains(told), "{words:?}: {}", refused.stderr);
    }
    assert!(recovery.list().is_empty() && recovery.left().is_empty());
    assert!(!is_dead(&mut daemon.child));
    recovery.assert_unchanged();
}

/// A machine that has moved stays listed, with all that an operator needs, until it is forgotten; it is not ended by mistake.
#[test]
fn machines_that_have_moved() {
    if !installed("machines that have moved", &["qemu-system-x86_64", "qemu-io"]) {
        return;
    }
    let recovery = Recovery::new();
    let daemon = recovery.daemon();
    let begin = ["recover", "web01", "--on", "qemu", "--memory", "64", "--network", "none"];
    let session = recovery.run(&begin).json();
    let refused = recovery.run(&["recover", "forget", "web01-1"]);
    assert!(refused.code() == Some(2) && refused.stderr.contains("recover stop web01-1"), "{}", refused.stderr);
    let permanent = temp();
    let to = permanent.path().to_str().expect("a path");
    let _ = recovery.run(&["recover", "migrate", "web01-1", "--to", to]).good();
    assert!(recovery.list().is_empty() && recovery.left().is_empty());
    // Also by a daemon that has never seen it.
    drop(daemon);
    let _daemon = recovery.daemon();
    let all = || recovery.run(&["recover", "list", "--all"]).json().as_array().expect("a list").clone();
    let moved = all().remove(0);
    assert_eq!((&moved["state"], &moved["machine_state"]["state"]), (&json!("moved"), &json!("running")), "{moved:#}");
    assert_eq!(moved["moved_to"][1]["path"], json!(permanent.path().join("web01-disk1.qcow2")));
    for key in ["pid", "console", "console_log", "vnc", "qmp"] {
        assert_eq!(moved["machine_state"][key], session["machine_state"][key], "{key}");
    }
    let mut shown = recovery.command(&["recover", "show", "web01-1"]);
    let shown = run_within(&mut shown, LIMIT).good().text();
    assert!(shown.contains("web01-disk0.qcow2") && shown.contains("qmp.sock"), "{shown}");

    let refused = recovery.run(&["recover", "stop", "web01-1"]);
    assert!(refused.code() == Some(2) && refused.stderr.contains("--shutdown"), "{}", refused.stderr);
    let refused = recovery.run(&["recover", "renew", "web01-1", "--lease", "0"]);
    assert!(refused.code() == Some(2) && refused.stderr.contains("is over"), "{}", refused.stderr);
    // There is no system in it that could shut down.
    let refused = recovery.run(&["recover", "stop", "--shutdown=1", "web01-1"]);
    assert!(refused.code() == Some(2) && refused.stderr.contains("within 1 s"), "{}", refused.stderr);
    as_guest(&session, "disk0", &["write -P 1 0 4k"]);

    let folder = recovery.state.path().join("machines/web01-1");
    let forgotten = recovery.run(&["recover", "forget", "web01-1"]).good();
    assert!(forgotten.stderr.contains("machines/web01-1") && folder.join("qmp.sock").exists(), "{}", forgotten.stderr);
    assert!(all().is_empty());
    as_guest(&session, "disk0", &["read -P 1 0 4k"]);
    end(&session);

    // One that is off is forgotten with its folder; a recovery whose guest does not listen is ended all the same.
    let session = recovery.run(&begin).json();
    let _ = recovery.run(&["recover", "migrate", "web01-2", "--to", temp().path().to_str().expect("a path")]).good();
    end(&session);
    assert_eq!(all()[0]["machine_state"]["state"], "off");
    let _ = recovery.run(&["recover", "stop", "--shutdown", "web01-2"]).good();
    let _ = recovery.run(&["recover", "forget", "web01-2"]).good();
    assert!(!recovery.state.path().join("machines/web01-2").exists() && all().is_empty());
    let _ = recovery.run(&begin).json();
    let stopped = run_within(&mut recovery.command(&["recover", "stop", "--shutdown=1", "web01-3"]), LIMIT).good();
    assert!(stopped.stderr.contains("has not shut down within 1 s"), "{}", stopped.stderr);
    assert!(all().is_empty() && recovery.left().is_empty());
}

/// A real guest, out of QEMU's NFS client, shuts down when it is asked to, before its recovery is ended.
#[test]
fn a_guest_shuts_down_when_it_is_asked() {
    let guest = std::env::var_os("REVENANT_GUEST_IMAGES").map(|folder| PathBuf::from(folder).join("vm/guest.raw"));
    let Some(guest) = guest.filter(|guest| guest.exists() && is_root()) else {
        eprintln!("SKIPPED: a guest that shuts down: no vm/guest.raw in REVENANT_GUEST_IMAGES, or this is not root");
        return;
    };
    if !installed("a guest that shuts down", &["qemu-system-x86_64"]) || !has_nfs() {
        return;
    }
    let recovery = Recovery::new();
    let _daemon = recovery.daemon();
    let image = ["recover", "images/guest.raw", "--image", guest.to_str().expect("a path")];
    let session = recovery.run(&[&image[..], &["--on", "qemu", "--through", "nfs", "--memory", "512"]].concat()).json();
    let log = PathBuf::from(session["machine_state"]["console_log"].as_str().expect("a log"));
    let said = |word: &str| fs::read(&log).is_ok_and(|said| String::from_utf8_lossy(&said).contains(word));
    let begun = Instant::now();
    while !said("GUEST-READY") {
        assert!(begun.elapsed() < Duration::from_secs(400), "the guest does not come up");
        thread::sleep(Duration::from_millis(200));
    }
    let mut stop = recovery.command(&["recover", "stop", "--shutdown=200", "guest-1"]);
    let stopped = run_within(&mut stop, Duration::from_secs(300)).good();
    assert!(stopped.stderr.contains("shutting down") && !stopped.stderr.contains("has not"), "{}", stopped.stderr);
    assert!(recovery.list().is_empty() && recovery.left().is_empty());
}

/// Ends the QEMU of a session, and waits until it has let go of its files.
fn end(session: &Value) {
    let pid = session["machine_state"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(pid, Signal::TERM).expect("it runs");
    let begun = Instant::now();
    while rustix::process::test_kill_process(pid).is_ok() && begun.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(20));
    }
}

/// A volume that is away when the daemon begins is a problem of its sessions, until it is back.
#[test]
fn a_missing_volume_is_waited_for() {
    let recovery = Recovery::new();
    let daemon = recovery.daemon();
    let _ = recovery.run(&["recover", "web01"]).json();
    drop(daemon);
    let (volume, away) = (recovery.volumes.path().join("web01-0001"), recovery.state.path().join("away"));
    fs::rename(&volume, &away).expect("taking it away");
    let _daemon = recovery.daemon();
    let waiting = recovery.until(|all| all.iter().all(|s| s["problem"].is_string()));
    assert_eq!((waiting.len(), &waiting[0]["served"]), (1, &Value::Bool(false)));
    fs::rename(&away, &volume).expect("bringing it back");
    let back = recovery.until(|all| all.iter().all(|s| s["served"] == true));
    assert_eq!(back[0]["problem"], Value::Null);
}

/// Only machines that were named may connect to the network's side of a door, whatever the protocol.
#[test]
fn doors_are_for_those_that_are_allowed() {
    if !installed("who may connect", &["qemu-io"]) {
        return;
    }
    let recovery = Recovery::new();
    let _daemon = recovery.daemon();
    for (network, is_allowed) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let session = recovery.run(&["recover", "web01", "--listen", "127.0.0.1:0", "--allow", network]).json();
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw", "-c", "read 0 4k"]).arg(uri(&session, 0));
        assert_eq!(run_within(&mut command, LIMIT).code() == Some(0), is_allowed, "{network}");
    }
}

/// A session ends when its time is over; without a daemon one is started, and what cannot be recovered is said.
#[test]
fn leases_quotes_and_refusals() {
    let recovery = Recovery::new();
    let quote = recovery.run(&["recover", "web01", "--quote"]).json();
    assert_eq!((&quote["online"], &quote["volumes"][0]), (&Value::Bool(true), &Value::from("web01-0001")));
    assert!(quote["data_bytes"].as_u64() > Some(1 << 20), "{quote:#}");
    assert!(!Path::new(&recovery.state.path().join("sessions")).exists(), "a quote makes nothing");

    let refused = recovery.run(&["recover", "web02"]);
    assert_eq!(refused.code(), Some(2));
    assert!(refused.stderr.contains("there is no machine web02; there are: web01"), "{}", refused.stderr);
    let refused = recovery.run(&["recover", "web01@1999"]);
    assert!(refused.stderr.contains("is the time of no point"), "{}", refused.stderr);
    assert!(recovery.list().is_empty());

    let _ = recovery.run(&["recover", "web01", "--lease", "0"]).good();
    recovery.until(<[Value]>::is_empty);
    assert_eq!(recovery.left(), Vec::<PathBuf>::new());
    let second = run_within(Command::new(program::path()).args(["serve", "--state"]).arg(recovery.state.path()), LIMIT);
    assert!(second.stderr.contains("another revenant serves"), "{}", second.stderr);
    // The daemon that `recover` started ends with this.
    let _ = run_within(Command::new("pkill").args(["-TERM", "-f"]).arg(recovery.state.path()), LIMIT);
}
