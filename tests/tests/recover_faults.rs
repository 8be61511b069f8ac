//! What becomes of running machines when something fails: QEMU killed while its disks move, the daemon at each step of that,
//! both at once; overlays without room. The machine's guest says itself which of its writes were done
//! ([`tests::tiny_guest`]), and every byte of its disks is compared with that.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    installed, is_root,
    program::run_within,
    recovery::{LIMIT, Recovery, Session, at_line, at_step, copy, entries, io},
    temp,
    tiny_guest::Writer,
};

const MIB: u64 = 1 << 20;

/// A guest that writes, if the machine can be run here.
fn writer(what: &str, blocks: u32) -> Option<Writer> {
    let programs = ["qemu-system-x86_64", "qemu-io", "qemu-img"];
    installed(what, &programs).then(|| Writer::new(4 * MIB, blocks)).flatten()
}

/// Blocks from 4 MiB on that end before what [`Moving`] writes beside them.
const MANY: u32 = 4096;

/// A running machine whose guest writes, and where its disks are to go.
struct Moving<'a> {
    recovery: &'a Recovery,
    writer: &'a Writer,
    session: Session,
    scratch: TempDir,
    to: TempDir,
}

impl<'a> Moving<'a> {
    /// With so many MiB of disk that copying them takes a while, or takes none.
    fn new(recovery: &'a Recovery, writer: &'a Writer, mib: u32) -> Self {
        let session = recovery.on_qemu(&[]);
        let scratch = temp();
        io(&session.uri(0), &[&format!("write -P 0x33 24M {mib}M")]);
        session.boot(writer, &scratch.path().join("before.raw"));
        session.as_guest("disk1", &["write -P 0x77 1M 64k", "flush"]);
        Self { recovery, writer, session, scratch, to: temp() }
    }

    fn migrate(&self) -> Command {
        self.recovery.command(&[
            "recover",
            "migrate",
            self.session.id(),
            "--to",
            self.to.path().to_str().expect("text"),
        ])
    }

    /// The session, if there is still one.
    fn now(&self) -> Option<Value> {
        self.recovery.list().into_iter().find(|s| s["id"] == self.session.id())
    }

    fn until_off(&self) -> Value {
        let is_it = |s: &&Value| s["id"] == self.session.id();
        let all = self.recovery.until(|all| all.iter().find(is_it).is_none_or(|s| s["state"] == "off"));
        let session = all.iter().find(is_it).unwrap_or_else(|| panic!("{} is gone", self.session.id())).clone();
        let problem = session["problem"].as_str().expect("a word of it");
        assert!(problem.contains(&format!("recover start {}", self.session.id())), "{problem}");
        assert_eq!(session["machine_state"]["state"], "off");
        session
    }

    fn start_again(&self, start: u8) {
        let again = self.recovery.run(&["recover", "start", self.session.id()]).json();
        assert_eq!((&again["state"], &again["problem"]), (&json!("running"), &Value::Null));
        self.session.writes(start, 10);
    }

    /// The first disk, compared with what the guest said; the second with what was written there.
    fn assert_holds(&self, format: &str, disks: [&str; 2]) {
        let after = self.scratch.path().join("after.raw");
        copy(format, disks[0], &after);
        self.writer.assert_holds(&self.session.said(), &self.scratch.path().join("before.raw"), &after);
        let run = run_within(
            Command::new("qemu-io").args(["-r", "-f", format, "-c", "read -P 0x77 1M 64k", disks[1]]),
            LIMIT,
        );
        assert!(!run.good().text().contains("failed"));
    }

    /// The disks that the session serves, compared.
    fn assert_served_holds(&self) {
        self.assert_holds("raw", [&self.session.uri(0), &self.session.uri(1)]);
    }

    /// The files that its disks are in when they have been moved.
    fn moved_disks(&self) -> [String; 2] {
        ["disk0", "disk1"]
            .map(|name| self.to.path().join(format!("web01-{name}.qcow2")).to_str().expect("text").to_owned())
    }

    /// Ends the machine that has its own disks now, compares those, and takes it away.
    fn assert_moved(&self) {
        assert!(self.now().is_none(), "the session is over");
        self.session.writes_on(10);
        self.session.end(Signal::TERM);
        let disks = self.moved_disks();
        self.assert_holds("qcow2", disks.each_ref().map(String::as_str));
        for disk in &disks {
            let _ = run_within(Command::new("qemu-img").args(["check", "-q", disk]), LIMIT).good();
        }
        assert_eq!(entries(self.to.path()).len(), 2, "{:?}", entries(self.to.path()));
        fs::remove_dir_all(self.session.file("")).expect("the machine's folder");
    }

    fn stop(&self) {
        let _ = self.recovery.run(&["recover", "stop", self.session.id()]).good();
        assert!(self.now().is_none());
    }
}

/// QEMU is killed while it copies: the machine is off, its disks are where they were with all that its guest was told to be
/// written, and nothing is left of the copies. It can be started again and moved, or stopped.
#[test]
fn qemu_dies_while_it_copies() {
    let Some(writer) = writer("QEMU killed on the way", MANY) else { return };
    let recovery = Recovery::new();
    let _daemon = recovery.daemon();
    for goes_on in [true, false] {
        let moving = Moving::new(&recovery, &writer, 38);
        assert!(at_step(moving.migrate(), 0, || moving.session.end(Signal::KILL)), "it copies");
        let off = moving.until_off();
        assert!(off["problem"].as_str().expect("text").contains("while its disks were moved"), "{off:#}");
        assert!(entries(moving.to.path()).is_empty(), "nothing is left of the copies");
        moving.assert_served_holds();
        let refused = run_within(&mut moving.migrate(), LIMIT);
        assert!(refused.stderr.contains("is off"), "{}", refused.stderr);
        if goes_on {
            moving.start_again(2);
            let _ = run_within(&mut moving.migrate(), LIMIT).good();
            moving.assert_moved();
        } else {
            moving.stop();
            assert!(entries(moving.to.path()).is_empty());
        }
        recovery.assert_nothing_left("in the end");
    }
    recovery.assert_unchanged();
}

/// The whole host goes down while disks are copied: daemon and QEMU at once.
#[test]
fn the_host_dies_while_disks_are_copied() {
    let Some(writer) = writer("a host that goes down", MANY) else { return };
    let recovery = Recovery::new();
    let daemon = recovery.daemon();
    let moving = Moving::new(&recovery, &writer, 38);
    let is_reached = at_step(moving.migrate(), 0, || {
        daemon.kill();
        moving.session.end(Signal::KILL);
    });
    assert!(is_reached, "it copies");
    let _daemon = recovery.daemon();
    moving.until_off();
    assert!(entries(moving.to.path()).is_empty(), "nothing is left of the copies");
    moving.assert_served_holds();
    moving.start_again(2);
    let _ = run_within(&mut moving.migrate(), LIMIT).good();
    moving.assert_moved();
    recovery.assert_nothing_left("in the end");
    recovery.assert_unchanged();
}

/// QEMU is killed when its disks are being compared: whether the guest had gone over or not, it starts again from disks that
/// hold all that it was told to be written.
#[test]
fn qemu_dies_when_it_goes_over() {
    let Some(writer) = writer("QEMU killed when it goes over", MANY) else { return };
    let recovery = Recovery::new();
    let _daemon = recovery.daemon();
    // At once, and when the guest has most likely gone over.
    for delay in [0, 150] {
        let moving = Moving::new(&recovery, &writer, 1);
        let is_reached = at_line(
            moving.migrate(),
            |_, step| step.ends_with("comparing"),
            || {
                thread::sleep(Duration::from_millis(delay));
                moving.session.end(Signal::KILL);
            },
        );
        assert!(is_reached, "it is compared");
        if moving.now().is_none() {
            println!("it was compared before it could be killed");
            moving.assert_holds("qcow2", moving.moved_disks().each_ref().map(String::as_str));
            fs::remove_dir_all(moving.session.file("")).expect("the machine's folder");
            continue;
        }
        let off = moving.until_off();
        let has_moved = off["problem"].as_str().expect("text").contains("gone over");
        println!("after {delay} ms it had gone over: {has_moved}");
        assert_eq!(entries(moving.to.path()).len(), if has_moved { 2 } else { 0 }, "{off:#}");
        moving.start_again(2);
        if has_moved {
            let refused = run_within(&mut moving.migrate(), LIMIT);
            assert!(refused.stderr.contains("is on its new disks already"), "{}", refused.stderr);
            moving.stop();
        } else {
            let _ = run_within(&mut moving.migrate(), LIMIT).good();
        }
        moving.assert_moved();
    }
    recovery.assert_nothing_left("in the end");
    recovery.assert_unchanged();
}

/// The daemon is killed at each step of moving a running machine's disks: the next one goes on, what the guest was told to be
/// written is in the files, the machine runs on them, and nothing else is left.
#[test]
fn a_machine_moves_whatever_becomes_of_the_daemon() {
    let Some(writer) = writer("moving a machine", MANY) else { return };
    let recovery = Recovery::new();
    let mut steps = 0;
    loop {
        let daemon = recovery.daemon();
        let moving = Moving::new(&recovery, &writer, 1);
        let is_reached = at_step(moving.migrate(), steps, || daemon.kill());
        let _daemon = recovery.daemon();
        recovery.until(<[Value]>::is_empty);
        moving.assert_moved();
        recovery.assert_nothing_left(&format!("step {steps}"));
        if !is_reached {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 4, "{steps} steps");
    recovery.assert_unchanged();
}

/// Waits until the session's machine stands still for its disk, and gives what the operator is told.
fn until_full(recovery: &Recovery) -> String {
    let all = recovery
        .until(|all| all.iter().all(|s| s["machine_state"]["state"] == "paused: io-error" && s["problem"].is_string()));
    all[0]["problem"].as_str().expect("text").to_owned()
}

fn until_well(recovery: &Recovery) {
    recovery.until(|all| all.iter().all(|s| s["machine_state"]["state"] == "running" && s["problem"] == Value::Null));
}

/// An overlay comes to its quota while the guest writes: the machine stands still, the operator is told why and what to do,
/// also after a restart of the daemon, and with more room it goes on where it was.
#[test]
fn a_quota_is_a_pause() {
    let Some(writer) = writer("an overlay's quota", MANY) else { return };
    let recovery = Recovery::new();
    let mut daemon = recovery.daemon();
    let session = recovery.on_qemu(&["--overlay-quota", "2097152"]);
    let scratch = temp();
    let (before, after) = (scratch.path().join("before.raw"), scratch.path().join("after.raw"));
    session.boot(&writer, &before);
    for round in 0..2 {
        let told = until_full(&recovery);
        let said = session.said();
        assert!(told.contains(&format!("recover quota {}", session.id())) && told.contains("2.0 MiB"), "{told}");
        // The other disk has next to nothing.
        let taken = recovery.list()[0]["overlay_bytes"].as_u64().expect("a number");
        assert!((1 << 20..(2 << 20) + (256 << 10)).contains(&taken), "{taken}");
        // What it was told to be written can be read.
        copy("raw", &session.uri(0), &after);
        writer.assert_holds(&said, &before, &after);
        assert_eq!(session.said(), said, "it stands still");
        if round == 0 {
            daemon.kill();
            daemon = recovery.daemon();
            recovery.until(|all| all.iter().all(|s| s["served"] == true));
        }
    }
    // Who does not stand still gets an error that can be tried again.
    session.as_guest("disk1", &["write -P 0x66 1M 4k", "flush"]);
    let said = session.tried_as_guest("disk1", "write -P 0x66 2M 4M");
    assert!(said.contains("No space left on device"), "{said}");
    let more = recovery.run(&["recover", "quota", session.id(), "33554432"]).json();
    assert_eq!(more["overlay_quota"], 33_554_432);
    until_well(&recovery);
    session.writes_on(100);
    session.as_guest("disk1", &["write -P 0x66 2M 4M", "read -P 0x66 2M 4M", "read -P 0x66 1M 4k"]);
    session.end(Signal::TERM);
    copy("raw", &session.uri(0), &after);
    writer.assert_holds(&session.said(), &before, &after);
    let _ = recovery.run(&["recover", "stop", session.id()]).good();
    recovery.assert_nothing_left("in the end");
    recovery.assert_unchanged();
}

/// A filesystem in memory; it goes with it.
struct Small(TempDir);

impl Small {
    fn new(mib: u32) -> Option<Self> {
        let folder = temp();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "revenant-test"]).arg(folder.path());
        if !is_root() || run_within(&mut mount, LIMIT).code() != Some(0) {
            println!("SKIPPED: a full filesystem: nothing can be mounted here");
            return None;
        }
        Some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// The filesystem with the state is full while the guest writes: the machine stands still, commands go on and say why; with
/// room it goes on where it was; and a session can be stopped to make room.
#[test]
fn a_full_filesystem_is_a_pause() {
    let Some(writer) = writer("a full filesystem", MANY) else { return };
    let Some(small) = Small::new(16) else { return };
    let recovery = Recovery::in_state(tempfile::tempdir_in(small.path()).expect("a folder"));
    let _daemon = recovery.daemon();
    let session = recovery.on_qemu(&[]);
    let scratch = temp();
    let (before, after) = (scratch.path().join("before.raw"), scratch.path().join("after.raw"));
    let ballast = small.path().join("ballast");
    fs::write(&ballast, vec![1; 4 << 20]).expect("a file");
    session.boot(&writer, &before);
    let told = until_full(&recovery);
    assert!(told.contains("no room") && told.contains("goes on by itself"), "{told}");
    copy("raw", &session.uri(0), &after);
    fs::remove_file(&ballast).expect("making room");
    session.writes_on(1);
    // Until it is full again.
    let told = until_full(&recovery);
    assert!(told.contains(small.path().to_str().expect("text")), "{told}");
    copy("raw", &session.uri(0), &after);
    writer.assert_holds(&session.said(), &before, &after);
    let _ = recovery.run(&["recover", "stop", session.id()]).good();
    recovery.assert_nothing_left("in the end");
    recovery.assert_unchanged();
}
