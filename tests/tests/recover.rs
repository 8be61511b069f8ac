//! Recoveries: sessions that outlive their daemon, and leave nothing behind.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command},
    sync::Mutex,
    thread,
};

use rustix::process::Signal;
use serde_json::Value;
use tests::{
    case, compare, installed,
    program::{self, run_within},
    recovery::{LIMIT, Recovery, at_step, copy, io, uri},
    served::Served,
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
    recovery.assert_nothing_left("after it was stopped");
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
    let recovery = Recovery::new();
    let kill = |mut daemon: Served| {
        daemon.child.kill().expect("a signal");
        daemon.child.wait().expect("its end");
    };
    let mut steps = 0;
    loop {
        let daemon = recovery.daemon();
        let reached = at_step(recovery.command(&["recover", "web01"]), steps, || kill(daemon));
        let _daemon = recovery.daemon();
        for session in recovery.until(|all| all.iter().all(|s| s["served"] == true && s["state"] == "ready")) {
            let _ = recovery.run(&["recover", "stop", session["id"].as_str().expect("a name")]).good();
        }
        recovery.assert_nothing_left(&format!("step {steps}"));
        if !reached {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 5, "{steps} steps");
    let mut ends = 0;
    loop {
        let daemon = recovery.daemon();
        let session = recovery.run(&["recover", "web01"]).json();
        let id = session["id"].as_str().expect("a name");
        let reached = at_step(recovery.command(&["recover", "stop", id]), ends, || kill(daemon));
        let _daemon = recovery.daemon();
        recovery.until(<[Value]>::is_empty);
        recovery.assert_nothing_left(&format!("step {ends}"));
        if !reached {
            break;
        }
        ends += 1;
    }
    assert!(ends >= 2, "{ends} steps");
    recovery.assert_unchanged();
}

/// A volume that is away when the daemon begins is a problem of its sessions, until it is back.
#[test]
fn a_missing_volume_is_waited_for() {
    let recovery = Recovery::new();
    let daemon = recovery.daemon();
    let _ = recovery.run(&["recover", "web01"]).json();
    drop(daemon);
    let (volume, away) = (recovery.volumes.path().join("web01-0001"), recovery.state.join("away"));
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
    assert!(!Path::new(&recovery.state.join("sessions")).exists(), "a quote makes nothing");

    let refused = recovery.run(&["recover", "web02"]);
    assert_eq!(refused.code(), Some(2));
    assert!(refused.stderr.contains("there is no machine web02; there are: web01"), "{}", refused.stderr);
    let refused = recovery.run(&["recover", "web01@1999"]);
    assert!(refused.stderr.contains("is the time of no point"), "{}", refused.stderr);
    assert!(recovery.list().is_empty());

    let _ = recovery.run(&["recover", "web01", "--lease", "0"]).good();
    recovery.until(<[Value]>::is_empty);
    recovery.assert_nothing_left("its time is over");
    let second = run_within(Command::new(program::path()).args(["serve", "--state"]).arg(&recovery.state), LIMIT);
    assert!(second.stderr.contains("another revenant serves"), "{}", second.stderr);
    // The daemon that `recover` started ends with this.
    let _ = run_within(Command::new("pkill").args(["-TERM", "-f"]).arg(&recovery.state), LIMIT);
}

/// Eight sessions over one volume, begun at once and used at once: each reads the backup and its own writes, the daemon's
/// memory is bounded, and all can be stopped at once.
#[test]
fn eight_sessions_at_once() {
    if !installed("sessions at once", &["qemu-io", "qemu-img"]) {
        return;
    }
    const COUNT: u8 = 8;
    let recovery = Recovery::new();
    let daemon = recovery.daemon();
    let wanted = case::last_digests();
    let begun = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..COUNT {
            let (recovery, begun) = (&recovery, &begun);
            // At sockets of this machine and at ports.
            let through: &[&str] = if number % 2 == 0 { &[] } else { &["--listen", "127.0.0.1:0"] };
            scope.spawn(move || {
                let session = recovery.run(&[&["recover", "web01"], through].concat()).json();
                begun.lock().expect("a list").push(session);
            });
        }
    });
    let sessions = begun.into_inner().expect("a list");
    let ids: BTreeSet<_> = sessions.iter().map(|s| s["id"].as_str().expect("a name")).collect();
    assert_eq!((ids.len(), recovery.list().len()), (usize::from(COUNT), usize::from(COUNT)));
    thread::scope(|scope| {
        for (number, session) in (1..).zip(&sessions) {
            let wanted = &wanted;
            scope.spawn(move || {
                let folder = temp();
                for (disk, wanted) in wanted.iter().enumerate() {
                    let copied = folder.path().join("disk.raw");
                    copy("raw", &uri(session, disk), &copied);
                    assert_eq!(&compare::sha256(&copied).expect("a copy"), wanted, "session {number}");
                }
                let place = format!("{}k 64k", 64 * number);
                io(&uri(session, 0), &[&format!("write -P {number} {place}"), "flush"]);
            });
        }
    });
    // Each has its own writes and nobody else's.
    for (number, session) in (1..).zip(&sessions) {
        let folder = temp();
        let copied = folder.path().join("disk.raw");
        copy("raw", &uri(session, 0), &copied);
        let bytes = fs::read(&copied).expect("a copy");
        for (other, part) in bytes.chunks(64 << 10).enumerate().skip(1).take(usize::from(COUNT)) {
            let is_its = part.iter().all(|b| usize::from(*b) == other);
            assert_eq!(is_its, other == number, "session {number} at the place of {other}");
        }
    }
    let memory = daemon.peak_memory();
    assert!(memory < 256 << 20, "{} MiB for {COUNT} sessions", memory >> 20);
    thread::scope(|scope| {
        for session in &sessions {
            let recovery = &recovery;
            scope.spawn(move || {
                let _ = recovery.run(&["recover", "stop", session["id"].as_str().expect("a name")]).good();
            });
        }
    });
    recovery.assert_nothing_left("all were stopped");
    recovery.assert_unchanged();
}
