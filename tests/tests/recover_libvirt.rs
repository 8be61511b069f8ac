//! Recoveries by libvirt: domains over a session's disks, moved while they run. Skipped where libvirt is not installed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    libvirt::{Libvirt, Turn, as_guest, domains, virsh},
    recovery::{LIMIT, Recovery, at_step, io, io_as, uri},
    temp,
};

const BEGIN: [&str; 6] = ["recover", "web01", "--on", "libvirt", "--memory", "64"];

/// Folders of sockets for libvirt's user.
fn sockets() -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir("/run/revenant").into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

/// What the guest's device of a disk is called in QEMU. The machine's disks are SCSI disks, in their order.
fn device(session: &Value, disk: usize) -> String {
    let domain = session["machine_state"]["domain"].as_str().expect("a domain");
    let target = ["sda", "sdb"][disk];
    let xml = virsh(&["dumpxml", domain]).good().text();
    let alias = xml.split("<disk ").find(|part| part.contains(&format!("<target dev='{target}'")));
    let alias = alias.and_then(|part| part.split("<alias name='").nth(1)?.split('\'').next());
    alias.unwrap_or_else(|| panic!("no {target}: {xml}")).to_owned()
}

/// The disk through the session's other door.
fn inside(recovery: &Recovery, id: &str, disk: &str) -> String {
    format!("nbd+unix:///{disk}?socket={}/sessions/{id}/nbd.sock", recovery.state.path().display())
}

/// A domain over the session's disks, out of reach of others; it stands a killed daemon, and the end of the session leaves
/// nothing of it.
#[test]
fn a_domain_outlives_the_daemon() {
    let Some(turn) = Turn::wait("a domain of libvirt") else { return };
    let _libvirt = Libvirt::up(turn);
    let recovery = Recovery::new();
    let daemon = recovery.daemon();
    let before = (domains(), sockets());
    let session = recovery.run(&BEGIN).json();
    let id = session["id"].as_str().expect("a name");
    assert_eq!((&session["state"], &session["machine_state"]["state"]), (&json!("running"), &json!("running")));
    assert_eq!((session["machine_state"]["domain"].as_str(), sockets().len()), (Some(id), before.1.len() + 1));
    let xml = virsh(&["dumpxml", id]).good().text();
    assert!(xml.contains("error_policy='stop'") && xml.contains("protocol='nbd'"), "{xml}");
    assert_eq!(xml.matches("<interface ").count(), xml.matches("<link state='down'/>").count(), "{xml}");
    let device = device(&session, 0);
    as_guest(id, &device, "write -P 0x41 5M 64k");
    as_guest(id, &device, "flush");
    io(&inside(&recovery, id, "disk0"), &["read -P 0x41 5M 64k"]);

    drop(daemon);
    let mut daemon = recovery.daemon();
    recovery.until(|all| all.iter().all(|s| s["served"] == true));
    daemon.child.kill().expect("a signal");
    daemon.child.wait().expect("its end");
    let _daemon = recovery.daemon();
    recovery.until(|all| all.iter().all(|s| s["served"] == true && s["machine_state"]["state"] == "running"));
    // QEMU connects again with its next request, which may fail the first time.
    let begun = Instant::now();
    loop {
        as_guest(id, &device, "write -P 0x42 6M 64k");
        as_guest(id, &device, "flush");
        if is_written(&inside(&recovery, id, "disk0"), "read -P 0x42 6M 64k") {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "the domain does not find its disk again");
        thread::sleep(Duration::from_millis(200));
    }

    // A guest that does not listen is ended.
    let _ = recovery.run(&["recover", "stop", "--shutdown=1", id]).good();
    assert_eq!(((domains(), sockets()), recovery.left()), (before, Vec::<PathBuf>::new()));
    assert!(!recovery.state.path().join("machines").join(id).exists());
    recovery.assert_unchanged();
}

fn is_written(disk: &str, command: &str) -> bool {
    let mut io = std::process::Command::new("qemu-io");
    let run = tests::program::run_within(io.args(["-f", "raw", "-c", command, disk]), LIMIT);
    run.code() == Some(0) && !run.text().contains("verification failed")
}

/// The daemon is killed at each step of moving a domain's disks: the next one goes on, what the guest was told to be written is
/// in the files, the domain runs on them and is defined with them, and nothing else is left.
#[test]
fn a_domain_moves_whatever_becomes_of_the_daemon() {
    let Some(turn) = Turn::wait("moving a domain of libvirt") else { return };
    let _libvirt = Libvirt::up(turn);
    let recovery = Recovery::new();
    let before = (domains(), sockets());
    let mut steps = 0;
    loop {
        let daemon = recovery.daemon();
        let session = recovery.run(&BEGIN).json();
        let id = session["id"].as_str().expect("a name");
        let devices = [device(&session, 0), device(&session, 1)];
        as_guest(id, &devices[0], "write -P 0x77 5M 64k");
        as_guest(id, &devices[0], "flush");
        io(&inside(&recovery, id, "disk0"), &["read -P 0x77 5M 64k"]);
        let permanent = temp();
        // libvirt's user has to find the files.
        fs::set_permissions(permanent.path(), fs::Permissions::from_mode(0o711)).expect("its mode");
        let to = permanent.path().to_str().expect("a path");
        let reached = at_step(recovery.command(&["recover", "migrate", id, "--to", to]), steps, || {
            let mut daemon = daemon;
            as_guest(id, &devices[1], "write -P 0x78 1M 4k");
            as_guest(id, &devices[1], "flush");
            daemon.child.kill().expect("a signal");
            daemon.child.wait().expect("its end");
        });
        let _daemon = recovery.daemon();
        recovery.until(<[Value]>::is_empty);
        assert_eq!((recovery.left(), sockets()), (Vec::<PathBuf>::new(), before.1.clone()), "step {steps}");
        let listed = recovery.run(&["recover", "list", "--all"]).json();
        let moved = listed.as_array().and_then(|all| all.last()).expect("it is listed").clone();
        assert_eq!((&moved["state"], &moved["machine_state"]["state"]), (&json!("moved"), &json!("running")));
        for xml in [virsh(&["dumpxml", id]), virsh(&["dumpxml", "--inactive", id])].map(|run| run.good().text()) {
            assert!(xml.contains("web01-disk0.qcow2") && xml.contains("web01-disk1.qcow2"), "{xml}");
            assert!(!xml.contains("protocol='nbd'") && !xml.contains("mirror"), "{xml}");
        }
        as_guest(id, &devices[0], "write -P 0x79 6M 4k");
        as_guest(id, &devices[0], "flush");
        let _ = virsh(&["destroy", id]).good();
        let _ = virsh(&["undefine", "--nvram", id]).good();
        let disk = |name: &str| permanent.path().join(format!("web01-{name}.qcow2")).to_string_lossy().into_owned();
        io_as("qcow2", &disk("disk0"), &["read -P 0x77 5M 64k", "read -P 0x79 6M 4k"]);
        if reached {
            io_as("qcow2", &disk("disk1"), &["read -P 0x78 1M 4k"]);
        }
        let files: Vec<_> =
            fs::read_dir(permanent.path()).expect("the folder").map(|e| e.expect("a file").path()).collect();
        assert_eq!(files.len(), 2, "{files:?}");
        let _ = recovery.run(&["recover", "forget", id]).good();
        assert!(!recovery.state.path().join("machines").join(id).exists());
        if !reached {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 4, "{steps} steps");
    assert_eq!((domains(), sockets()), before);
    recovery.assert_unchanged();
}

/// What cannot be is refused before anything is made, and says what to do; domains of others are not touched.
#[test]
fn refusals() {
    let Some(turn) = Turn::wait("what libvirt refuses") else { return };
    let recovery = Recovery::new();
    let refused = |words: &[&str], told: &str| {
        let run = recovery.run(words);
        assert!(run.code() == Some(2) && run.stderr.contains(told), "{words:?}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        assert!(recovery.list().is_empty() && recovery.left().is_empty(), "{words:?}");
    };
    if virsh(&["list"]).code() != Some(0) {
        let _daemon = recovery.daemon();
        refused(&BEGIN, "systemctl start libvirtd");
    }
    let _libvirt = Libvirt::up(turn);
    {
        let nothing = temp();
        let mut command = recovery.command(&["serve", "--json"]);
        let _daemon = tests::served::Served::start(command.env("PATH", nothing.path()));
        refused(&BEGIN, "apt install libvirt-clients");
    }
    let _daemon = recovery.daemon();
    refused(&["recover", "web01", "--on", "libvirt:xen:///system"], "qemu:///system");
    refused(&[&BEGIN[..], &["--through", "iscsi"]].concat(), "by NBD");
    refused(&[&BEGIN[..], &["--through", "smb"]].concat(), "from a share");
    refused(&["recover", "web01", "--on", "libvirt:qemu+ssh://nowhere.invalid/system"], "--listen");
    refused(&[&BEGIN[..], &["--forward", "2222:22"]].concat(), "bridge");

    // Somebody has the name already. Numbers are used once: it is the next one.
    let state = recovery.run(&["recover", "web01"]).json();
    let number = state["id"].as_str().and_then(|id| id.rsplit('-').next()?.parse::<u32>().ok()).expect("a number");
    let _ = recovery.run(&["recover", "stop", state["id"].as_str().expect("a name")]).good();
    let theirs = format!("web01-{}", number + 1);
    let xml = recovery.state.path().join("theirs.xml");
    let text = format!(
        "<domain type='qemu'><name>{theirs}</name><memory unit='MiB'>32</memory><os><type arch='x86_64'>hvm</type></os></domain>"
    );
    fs::write(&xml, text).expect("a file");
    let _ = virsh(&["define", xml.to_str().expect("a path")]).good();
    refused(&BEGIN, &format!("has a domain {theirs} already"));
    assert!(domains().contains(&theirs));
    let _ = virsh(&["undefine", &theirs]).good();
    // By an address, for hypervisors that may not use sockets.
    let session = recovery.run(&[&BEGIN[..], &["--listen", "127.0.0.1:0"]].concat()).json();
    let id = session["id"].as_str().expect("a name");
    assert!(uri(&session, 0).starts_with("nbd://127.0.0.1:"), "{session:#}");
    let xml = virsh(&["dumpxml", id]).good().text();
    assert!(xml.contains("<host name='127.0.0.1' port='"), "{xml}");
    let run = recovery.run(&["recover", "migrate", id, "--to", Path::new("/tmp").to_str().expect("a path")]);
    assert!(run.code() == Some(2) && run.stderr.contains("without --listen"), "{}", run.stderr);
    let _ = recovery.run(&["recover", "stop", id]).good();
    assert!(!domains().iter().any(|domain| domain == id));
}
