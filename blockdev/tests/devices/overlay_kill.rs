//! `kill -9` at random moments, hundreds of times.
//!
//! The test runs itself as a child process that writes to an overlay by several threads and reports each flush that has
//! returned, or each write. What a thread writes follows from its seed, so the parent knows it all, whenever the child ends.

use std::{
    io::{BufRead, BufReader, Write},
    ops::Range,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use blockdev::{
    WriteAt,
    overlay::{Options, Overlay},
};

use crate::{
    model::{Model, areas},
    overlay_qemu::checks_but_for_leaks,
    source::{MIB, Source},
};

const CHILD: &str = "OVERLAY_KILL_CHILD";
const THREADS: usize = 2;
const ROUNDS: u64 = 300;
const ROUNDS_UNFLUSHED: u64 = 100;

/// What the child reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reports {
    Flushes,
    /// It never flushes.
    Writes,
}

/// What a thread may write: every second stripe of a stretch, so that threads share subclusters, and areas of its own.
fn ranges(thread: usize) -> Vec<Range<u64>> {
    let stripe = |i: usize| 31 * MIB + 500_000 + (i * THREADS + thread) as u64 * 6100;
    let mut ranges: Vec<_> = (0..30).map(|i| stripe(i)..stripe(i) + 6100).collect();
    ranges.extend(areas().into_iter().skip(2).skip(thread).step_by(THREADS));
    ranges
}

fn options() -> Options {
    // Hardly any memory for tables, so that they are written between flushes too.
    Options { memory: 0, ..Options::new("the source") }
}

fn random_of(seed: u64, thread: usize) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed * 16 + thread as u64)
}

/// The operations of a thread up to its next report.
fn batch(reports: Reports, model: &mut Model, random: &mut fastrand::Rng, mut each: impl FnMut(&crate::model::Op)) {
    let most = if reports == Reports::Flushes { 30 } else { 2 };
    for _ in 0..random.u32(1..most) {
        let op = model.random_op(random);
        each(&op);
        model.apply(&op);
    }
}

/// Not a test: what the killed process does.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let [seed, reports, path] = task.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let seed: u64 = seed.parse().unwrap();
    let reports = if reports == "Flushes" { Reports::Flushes } else { Reports::Writes };
    let overlay = Overlay::open(Path::new(path), Arc::new(Source), &options()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let overlay = &overlay;
            scope.spawn(move || {
                // The contents do not matter here, only the ranges.
                let mut model = Model::new(&ranges(thread), &Source);
                let mut random = random_of(seed, thread);
                loop {
                    batch(reports, &mut model, &mut random, |op| op.perform(overlay).unwrap());
                    if reports == Reports::Flushes {
                        overlay.flush().unwrap();
                    }
                    model.flushed();
                    let mut out = std::io::stdout().lock();
                    out.write_all(format!("flushed {thread}\n").as_bytes()).unwrap();
                    out.flush().unwrap();
                }
            });
        }
    });
}

/// Everything that a flush acknowledged is there after each kill, every byte is one that was written, and QEMU finds
/// nothing worse than leaks.
#[test]
fn killed_hundreds_of_times() {
    kill_many_times(Reports::Flushes);
}

/// Every write that was acknowledged is there after each kill, although nothing was flushed.
#[test]
fn killed_before_any_flush() {
    kill_many_times(Reports::Writes);
}

fn kill_many_times(reports: Reports) {
    let rounds = if reports == Reports::Flushes { ROUNDS } else { ROUNDS_UNFLUSHED };
    let rounds = std::env::var("OVERLAY_KILL_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(rounds);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlay.qcow2");
    let mut models: Vec<Model> = Vec::new();
    let mut timing = fastrand::Rng::with_seed(4);
    let (mut flushes, mut idle) = (0, 0);
    for round in 0..rounds {
        if round % 60 == 0 {
            let _ = std::fs::remove_file(&path);
            drop(Overlay::create(&path, Arc::new(Source), &options()).unwrap());
            models = (0..THREADS).map(|thread| Model::new(&ranges(thread), &Source)).collect();
        }
        let acknowledged = run_and_kill(reports, &path, round, Duration::from_micros(timing.u64(..60_000)));
        for (thread, model) in models.iter_mut().enumerate() {
            let mut random = random_of(round, thread);
            for _ in 0..acknowledged[thread] {
                batch(reports, model, &mut random, |_| {});
                model.flushed();
            }
            // What may have been done after the last flush that was reported, which may be one that was not.
            batch(reports, model, &mut random, |_| {});
        }
        flushes += acknowledged.iter().sum::<u32>();
        idle += u32::from(acknowledged == [0; THREADS]);
        // It takes back what is not flushed.
        if round % 10 == 0 && reports == Reports::Flushes {
            checks_but_for_leaks(&path, &format!("round {round}"));
        }
        let overlay = Overlay::open(&path, Arc::new(Source), &options()).unwrap();
        for (thread, model) in models.iter_mut().enumerate() {
            model.check_crashed(&overlay, &format!("round {round}, thread {thread}"));
        }
        drop(overlay);
        if round % 10 == 0 {
            checks_but_for_leaks(&path, &format!("round {round}, closed"));
        }
    }
    println!("{rounds} kills, {flushes} acknowledged {reports:?}, {idle} kills before the first");
    assert!(u64::from(flushes) > rounds, "the children did hardly anything");
}

/// How many reports each thread had made when the child was killed: `delay` after the first in even rounds, and
/// after a time that is shorter than it needs to open the overlay in odd ones.
fn run_and_kill(reports: Reports, path: &Path, round: u64, delay: Duration) -> [u32; THREADS] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "overlay_kill::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{round} {reports:?} {}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    std::thread::scope(|scope| {
        let (first, begun) = mpsc::channel();
        let reader = scope.spawn(move || {
            let mut acknowledged = [0; THREADS];
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                // Whole lines only: the last one may be cut, and its flush then counts as not acknowledged.
                if let Some((_, thread)) = line.rsplit_once("flushed ").filter(|(_, t)| t.len() == 1) {
                    acknowledged[thread.parse::<usize>().unwrap()] += 1;
                    let _ = first.send(());
                }
            }
            acknowledged
        });
        if round.is_multiple_of(2) {
            begun.recv_timeout(Duration::from_secs(60)).expect("the child writes");
        }
        std::thread::sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap()
    })
}
