//! Many recoveries at once.

use std::{collections::BTreeSet, fs, sync::Mutex, thread};

use tests::{
    case, compare, installed,
    recovery::{Recovery, copy, io, uri},
    temp,
};

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
