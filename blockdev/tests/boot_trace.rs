//! Boot traces: what is noted is what is read ahead, in bounded memory, and never anything wrong.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blockdev::{
    BlockDevice, BlockSizes, ErrorKind, Extent, MappedRun, ReadAt, Result,
    layers::{
        Counted, Counters, Fault, Faulty, Operation, Prefetched, Recorder, Rule, Target, Trace, Traced,
        prefetch::Options, trace::GRANULE,
    },
};

/// A disk whose bytes tell where they are.
struct Pattern(u64);

fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl ReadAt for Pattern {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = buf.len().min(usize::try_from(self.0.saturating_sub(offset)).unwrap_or(usize::MAX));
        buf[..n].iter_mut().zip(offset..).for_each(|(b, at)| *b = byte_at(at));
        Ok(n)
    }

    fn extent_at(&self, _offset: u64) -> Result<Option<Extent>> {
        Ok(None)
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Pattern {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

const SIZE: u64 = 20 * (1 << 20) + 777;

fn check(device: &impl ReadAt, offset: u64, len: usize) {
    let mut buf = vec![0; len];
    let n = device.read_at(&mut buf, offset).expect("reading");
    assert_eq!(n as u64, (len as u64).min(SIZE.saturating_sub(offset)));
    assert!(buf[..n].iter().zip(offset..).all(|(b, at)| *b == byte_at(at)), "at {offset}");
}

/// Reads as a machine makes them: here and there, some of them twice.
fn reads(seed: u64, count: usize) -> Vec<(u64, usize)> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| (random.u64(..SIZE), random.usize(1..200_000))).collect()
}

fn traced(reads: &[(u64, usize)]) -> Trace {
    let recorder = Recorder::new(SIZE);
    let device = Traced::new(Pattern(SIZE), Arc::clone(&recorder));
    assert!(recorder.first_read().is_none());
    reads.iter().for_each(|(offset, len)| check(&device, *offset, *len));
    assert!(recorder.first_read().is_some());
    recorder.trace()
}

#[test]
fn first_reads_in_their_order() {
    let trace = traced(&[(5 * GRANULE + 10, 10), (0, 1), (5 * GRANULE, 2 * GRANULE as usize), (SIZE - 1, 100), (0, 1)]);
    let last = (SIZE / GRANULE) as u32;
    assert_eq!(trace.runs(), [5..6, 0..1, 6..7, last..last + 1]);
    let trace = traced(&reads(1, 300));
    assert_eq!(Trace::decode(&trace.encode()).expect("our own"), trace);
}

#[test]
fn files_that_are_no_traces() {
    let good = traced(&reads(2, 50)).encode();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(Trace::decode(&bad).is_err(), "byte {at}");
        assert!(Trace::decode(&good[..at]).is_err(), "cut at {at}");
    }
    assert!(Trace::decode(&[good.clone(), vec![0]].concat()).is_err());
}

#[test]
fn what_is_read_ahead_is_not_read_again() {
    let all = reads(3, 400);
    let trace = traced(&all);
    let counters = Arc::new(Counters::default());
    let slow = Rule {
        target: Target::Reads,
        range: 0..SIZE,
        probability: 1.0,
        fault: Fault::Delay(Duration::from_micros(500)),
    };
    let device = Counted::new(Faulty::new(Pattern(SIZE), vec![slow], 1), Arc::clone(&counters));
    let ahead = Prefetched::new(device, &trace, &Options::default()).expect("reading ahead");
    // Several threads at once, while it is being read.
    thread::scope(|scope| {
        for part in all.chunks(100) {
            let ahead = &ahead;
            scope.spawn(move || part.iter().for_each(|(offset, len)| check(ahead, *offset, *len)));
        }
    });
    let (fetched, used) = ahead.figures();
    assert!(fetched > 0 && used > 0);
    // No granule was fetched twice by the readers ahead, and few by those who did not wait.
    assert!(fetched <= trace.bytes() + 64 * GRANULE * 4, "{fetched} of {}", trace.bytes());
    drop(ahead);
    let once = counters.bytes(Operation::Read);
    check(&Pattern(SIZE), 0, 10);
    assert_eq!(counters.bytes(Operation::Read), once, "the threads have ended");
}

#[test]
fn bounded_memory_and_an_end() {
    let trace = traced(&[(0, SIZE as usize)]);
    let counters = Arc::new(Counters::default());
    let device = Counted::new(Pattern(SIZE), Arc::clone(&counters));
    let memory = 4 << 20;
    let ahead = Prefetched::new(device, &trace, &Options { memory, threads: 3, rate: None }).expect("reading ahead");
    let begun = Instant::now();
    while counters.bytes(Operation::Read) < memory && begun.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(counters.bytes(Operation::Read), memory, "it waits until somebody takes what is there");
    for at in (0..SIZE).step_by(100_000) {
        check(&ahead, at, 100_000);
    }
    let total = counters.bytes(Operation::Read);
    assert!(total < SIZE + SIZE / 4, "{total}");
    drop(ahead);

    // One that waits for room, or is slow by intent, ends at once.
    let device = Pattern(SIZE);
    let options = Options { memory, threads: 2, rate: Some(1000) };
    let ahead = Prefetched::new(device, &trace, &options).expect("reading ahead");
    thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    drop(ahead);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn errors_are_those_of_the_disk() {
    let trace = traced(&[(0, 1 << 20), (8 << 20, 1 << 20)]);
    let bad = Rule {
        target: Target::Reads,
        range: 8 << 20..9 << 20,
        probability: 1.0,
        fault: Fault::Error(ErrorKind::Damaged),
    };
    let ahead =
        Prefetched::new(Faulty::new(Pattern(SIZE), vec![bad], 1), &trace, &Options::default()).expect("reading");
    check(&ahead, 0, 1 << 20);
    for _ in 0..3 {
        let error = ahead.read_at(&mut [0; 100], (8 << 20) + 5).expect_err("a damaged place");
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }
    check(&ahead, 9 << 20, 1000);
    let other = Prefetched::new(Pattern(SIZE - 1), &trace, &Options::default());
    assert_eq!(other.err().expect("another disk").kind(), ErrorKind::Invalid);
}
