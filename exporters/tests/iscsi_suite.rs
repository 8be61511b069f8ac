//! The iSCSI server before libiscsi's test suite: all 228 tests of `iscsi-test-cu`, each in a process of its own.

mod common;
#[path = "common/iscsi.rs"]
mod iscsi;

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use blockdev::{
    file::HostFile,
    overlay::{self, Overlay},
};
use common::installed;
use exporters::{
    Disk,
    iscsi::{Config, Target},
    scsi::{LogicalUnit, Options},
};
use iscsi::{Served, TARGET};

/// Bytes of the disk.
const SIZE: u64 = 96 << 20;
/// Tests at a time: most wait for timeouts on purpose.
const AT_ONCE: usize = 6;

/// Tests whose premise is wrong, and why. Some fail only on a disk that other tests have used.
const ARGUED: [(&str, &str); 4] = [
    (
        "ALL.GetLBAStatus.UnmapSingle",
        "asks for the block i + 1 and wants the first descriptor to begin at i + 8, where physical blocks are eight \
         logical ones; SBC-3 5.7.3 has it begin at the block that was asked for",
    ),
    (
        "ALL.WriteSame10.UnmapUntilEnd",
        "sends a block of FFh with UNMAP and wants zeros; SBC-3 5.45 has a block be unmapped only if it reads as what was \
         sent, and written otherwise",
    ),
    (
        "ALL.MultipathIO.CompareAndWrite",
        "zeroes the blocks 0 to 255 and compares 0 to 256; libiscsi has mended the test after its release 1.19",
    ),
    (
        "ALL.iSCSITMF.LUNResetSimpleAsync",
        "asks for the answer to the reset before it has sent it; libiscsi has mended the test after its release 1.19",
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Passed,
    Skipped,
    Failed,
    Hung,
}

/// The tests that it has, as FAMILY.SUITE.TEST.
fn list() -> Vec<String> {
    let out = Command::new("iscsi-test-cu").arg("--list").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let tests = text.lines().map(str::trim).filter(|line| line.starts_with("ALL.") && line.matches('.').count() == 2);
    tests.map(str::to_owned).collect()
}

fn run(test: &str, url: &str) -> (Outcome, String) {
    let names = ["-i", "iqn.2026-01.example.test:one", "-I", "iqn.2026-01.example.test:two"];
    let mut command = Command::new("timeout");
    command.args(["60", "iscsi-test-cu", "--dataloss", "--verbose"]).args(names);
    command.arg(format!("--test={test}")).arg(url);
    if test.contains("Multipath") {
        command.arg(url);
    }
    let out = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let outcome = match out.status.code() {
        Some(124) => Outcome::Hung,
        _ if text.contains("[SKIPPED]") => Outcome::Skipped,
        // The line of the summary: total, ran, passed, failed, inactive.
        Some(0) if text.lines().any(passed) => Outcome::Passed,
        _ => Outcome::Failed,
    };
    (outcome, text)
}

fn passed(line: &str) -> bool {
    let words: Vec<_> = line.split_whitespace().collect();
    matches!(words[..], ["tests", _, "1", "1", "0", "0"])
}

#[test]
fn libiscsi() {
    if !installed("iscsi-test-cu") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let zeros = folder.path().join("zeros");
    std::fs::File::create(&zeros).and_then(|file| file.set_len(SIZE)).unwrap();
    let base = Arc::new(HostFile::open(&zeros).unwrap());
    // A disk for each that runs at the same time: many tests change what others look at.
    let served: Vec<_> = (0..AT_ONCE)
        .map(|number| {
            let path = folder.path().join(format!("{number}.qcow2"));
            let disk = Overlay::create(&path, base.clone(), &overlay::Options::new("base")).unwrap();
            let options = Options {
                identity: vec![u8::try_from(number).unwrap()],
                reservations: Some(folder.path().join(format!("{number}.reservations"))),
                ..Options::default()
            };
            let unit = LogicalUnit::new(Disk::Writable(Arc::new(disk)), options).unwrap();
            Served::with(Config::default(), Target::new(TARGET).unwrap(), vec![unit])
        })
        .collect();
    let tests = list();
    assert!(tests.len() > 200, "{} tests", tests.len());
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for served in &served {
            scope.spawn(|| {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(test, &served.url(0));
                    outcomes.lock().unwrap().insert(test.clone(), outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    let of = |wanted| outcomes.iter().filter(move |(_, (outcome, _))| *outcome == wanted);
    for outcome in [Outcome::Passed, Outcome::Skipped, Outcome::Failed, Outcome::Hung] {
        println!("{outcome:?}: {}", of(outcome).count());
    }
    println!("skipped: {:?}", of(Outcome::Skipped).map(|(test, _)| test).collect::<Vec<_>>());
    let argued = |test: &String| ARGUED.iter().any(|(known, _)| test == known);
    let mut bad = of(Outcome::Failed).chain(of(Outcome::Hung)).filter(|(test, _)| !argued(test)).peekable();
    if bad.peek().is_some() {
        let said: String = bad.map(|(test, (outcome, text))| format!("=== {test} {outcome:?}\n{text}\n")).collect();
        panic!("{said}");
    }
    // tgtd passes 168.
    assert!(of(Outcome::Passed).count() >= 190, "{}", of(Outcome::Passed).count());
    let compared = of(Outcome::Passed).filter(|(test, _)| test.contains(".CompareAndWrite.")).count();
    assert_eq!(compared, 5, "COMPARE AND WRITE is there");
}
