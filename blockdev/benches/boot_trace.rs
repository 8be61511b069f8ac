//! The reads of a boot from slow storage (20 MB/s, 10 ms a read), with what an earlier boot was read for read ahead and
//! without: REVENANT_BOOT_TRACE is a trace (`boot-traces/` in the cache after `verify --boot`), REVENANT_BOOT_IMAGE its disk.
//!
//! A guest reads at most 128 KiB at a time, one after the other, and thinks in between.

use std::{
    env, fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blockdev::{
    BlockDevice, ReadAt,
    file::HostFile,
    layers::{Fault, Faulty, Prefetched, Rates, Rule, Target, Throttled, Trace, prefetch::Options, trace::GRANULE},
};

const ROUNDS: usize = 3;

fn main() {
    let (Some(trace), Some(image)) = (env::var_os("REVENANT_BOOT_TRACE"), env::var_os("REVENANT_BOOT_IMAGE")) else {
        return println!("SKIPPED: REVENANT_BOOT_TRACE and REVENANT_BOOT_IMAGE name no trace and no disk");
    };
    let trace = Trace::decode(&fs::read(trace).expect("the trace")).expect("a trace");
    println!("{} runs, {:.1} MiB", trace.runs().len(), trace.bytes() as f64 / f64::from(1 << 20));
    for think in [0, 5, 20].map(Duration::from_millis) {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            without.push(replay(&slow(Path::new(&image)), &trace, think));
            let begun = Instant::now();
            let ahead = Prefetched::new(slow(Path::new(&image)), &trace, &Options::default()).expect("reading ahead");
            replay(&ahead, &trace, think);
            with.push(begun.elapsed());
        }
        without.sort();
        with.sort();
        let (without, with) = (without[ROUNDS / 2].as_secs_f64(), with[ROUNDS / 2].as_secs_f64());
        let ratio = without / with;
        println!("thinking {think:?} a read: {without:.1} s without, {with:.1} s read ahead: {ratio:.2} times as fast");
    }
}

fn slow(image: &Path) -> Arc<dyn BlockDevice> {
    let delay = Rule {
        target: Target::Reads,
        range: 0..u64::MAX,
        probability: 1.0,
        fault: Fault::Delay(Duration::from_millis(10)),
    };
    let disk = Faulty::new(HostFile::open(image).expect("the disk"), vec![delay], 1);
    Arc::new(Throttled::new(disk, Rates { bytes: Some(20_000_000), operations: None }))
}

fn replay(disk: &impl ReadAt, trace: &Trace, think: Duration) -> Duration {
    let begun = Instant::now();
    let mut buf = vec![0; 128 << 10];
    for run in trace.runs() {
        let (mut at, end) = (u64::from(run.start) * GRANULE, (u64::from(run.end) * GRANULE).min(disk.size()));
        while at < end {
            let n = buf.len().min((end - at) as usize);
            disk.read_at(&mut buf[..n], at).expect("reading");
            at += n as u64;
            thread::sleep(think);
        }
    }
    begun.elapsed()
}
