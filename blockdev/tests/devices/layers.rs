//! Every layer against the contracts, and against its own promise.

use std::{
    ops::Range,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use blockdev::{
    BlockDevice, BlockSizes, Error, ErrorKind, Extent, ExtentKind, MappedRun, ReadAt, Result, WriteAt,
    file::HostFile,
    layers::{Cached, Concat, Counted, Counters, Fault, Faulty, Operation, Rates, Rule, Slice, Target, Throttled},
    overlay::{Options, Overlay},
};

use crate::conformance::{reads, writes};

/// A writable disk in memory, plain enough to be right.
#[derive(Default)]
struct Memory {
    bytes: Mutex<Vec<u8>>,
    reads: AtomicU64,
}

impl Memory {
    fn new(bytes: &[u8]) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(bytes.to_vec()), ..Self::default() })
    }

    fn change(&self, range: Range<u64>, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut bytes = self.bytes.lock().unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        bytes.get_mut(range).map(change).ok_or_else(|| Error::invalid("past the end"))
    }
}

impl ReadAt for Memory {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.lock().unwrap().read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let end = self.size().min((offset / 1000).saturating_add(1).saturating_mul(1000));
        Ok((offset < end).then_some(Extent { range: offset..end, kind: ExtentKind::Data }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Memory {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

impl WriteAt for Memory {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.change(offset..offset.saturating_add(buf.len() as u64), |bytes| bytes.copy_from_slice(buf))
    }

    fn write_zeroes(&self, range: Range<u64>, _keep: bool) -> Result<()> {
        self.change(range, |bytes| bytes.fill(0))
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.change(range, |_| {})
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crate::source::pattern(3, 0, &mut bytes);
    // A hole.
    let hole = len / 3..len / 2;
    bytes[hole].fill(0);
    bytes
}

fn counted<D>(device: D) -> Counted<D> {
    Counted::new(device, Arc::new(Counters::default()))
}

fn fast() -> Rates {
    Rates { bytes: Some(1 << 40), operations: Some(1 << 30) }
}

/// Each layer, over memory and over a file that can be mapped, gives what is below it.
#[test]
fn all_read_by_the_contract() {
    let whole = bytes(70_001);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, &whole).unwrap();
    let file: Arc<dyn BlockDevice> = Arc::new(HostFile::open(&path).unwrap());
    for (name, device) in [("memory", Memory::new(&whole) as Arc<dyn BlockDevice>), ("file", file)] {
        reads(&device, &whole, name);
        reads(&Slice::new(device.clone(), 0..70_001).unwrap(), &whole, &format!("all of a {name}"));
        reads(&Slice::new(device.clone(), 99..60_000).unwrap(), &whole[99..60_000], &format!("slice of a {name}"));
        let parts = [0..10, 10..10, 10..33_333, 33_333..70_001].map(|r| Slice::new(device.clone(), r).unwrap());
        reads(&Concat::new(parts).unwrap(), &whole, &format!("parts of a {name}"));
        for (block, max) in [(512, 4096), (4096, 1 << 20), (5000, 10_000), (1 << 20, 2 << 20)] {
            reads(&Cached::new(device.clone(), block, max).unwrap(), &whole, &format!("cache of a {name}"));
        }
        reads(&Throttled::new(device.clone(), fast()), &whole, &format!("throttled {name}"));
        reads(&counted(device.clone()), &whole, &format!("counted {name}"));
        reads(&Faulty::new(device.clone(), Vec::new(), 0), &whole, &format!("faultless {name}"));
        let stack = Faulty::new(Throttled::new(counted(device.clone()), fast()), Vec::new(), 0);
        let stack = Concat::new([Slice::new(Cached::new(stack, 777, 9999).unwrap(), 1..70_000).unwrap()]).unwrap();
        reads(&stack, &whole[1..70_000], &format!("stack on a {name}"));
    }
}

/// Each writable layer writes what it is told where it is told and nowhere else.
#[test]
fn all_write_by_the_contract() {
    let whole = bytes(50_001);
    let check = |device: &dyn WriteAt, what| writes(device, &mut whole.clone(), what);
    check(&Memory::new(&whole), "memory");
    check(&Throttled::new(Memory::new(&whole), fast()), "throttled");
    check(&counted(Memory::new(&whole)), "counted");
    check(&Faulty::new(Memory::new(&whole), Vec::new(), 0), "faultless");
    let parts = [0..7, 7..40_000, 40_000..50_001].map(|r: Range<usize>| Memory::new(&whole[r]));
    check(&Concat::new(parts).unwrap(), "parts");
    let folder = tempfile::tempdir().unwrap();
    let overlay = Overlay::create(&folder.path().join("o"), Memory::new(&whole), &Options::new("memory"));
    check(&overlay.unwrap(), "overlay");

    let memory = Memory::new(&whole);
    writes(&Slice::new(memory.clone(), 500..40_000).unwrap(), &mut whole[500..40_000].to_vec(), "slice");
    let after = memory.bytes.lock().unwrap();
    assert!(after[..500] == whole[..500] && after[40_000..] == whole[40_000..], "written outside the slice");
}

#[test]
fn what_cannot_be_is_refused() {
    let memory = || Memory::new(&[0; 1000]);
    let kind = |e: Error| e.kind();
    assert_eq!(Slice::new(memory(), 10..1001).map(drop).map_err(kind), Err(ErrorKind::Invalid));
    assert_eq!(Concat::<Arc<Memory>>::new([]).map(drop).map_err(kind), Err(ErrorKind::Invalid));
    assert_eq!(Cached::new(memory(), 0, 1000).map(drop).map_err(kind), Err(ErrorKind::Invalid));
    assert_eq!(Cached::new(memory(), 4096, 1000).map(drop).map_err(kind), Err(ErrorKind::Invalid));
}

/// Threads that want the same block at once cause one read; blocks in memory are never more than allowed.
#[test]
fn the_cache_reads_once_and_is_bounded() {
    let whole = bytes(1 << 20);
    let memory = Memory::new(&whole);
    let slow = Rule {
        target: Target::Reads,
        range: 0..u64::MAX,
        probability: 1.0,
        fault: Fault::Delay(Duration::from_millis(30)),
    };
    let cache = Cached::new(Faulty::new(memory.clone(), vec![slow], 0), 4096, 64 << 10).unwrap();
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                assert_eq!(cache.read_at(&mut [0; 10], 5000).unwrap(), 10);
            });
        }
    });
    assert_eq!(memory.reads.load(Ordering::Relaxed), 1);
    let cache = Cached::new(memory.clone(), 4096, 64 << 10).unwrap();
    for offset in (0..1 << 20).step_by(4096) {
        cache.read_at(&mut [0; 1], offset).unwrap();
        assert!(cache.kept() <= 64 << 10, "{} bytes kept", cache.kept());
    }
    assert!(cache.kept() > 32 << 10, "{} bytes kept", cache.kept());
}

/// A failed read is not kept: the next one may succeed.
#[test]
fn the_cache_forgets_failures() {
    let rule = Rule { target: Target::Reads, range: 0..100, probability: 0.5, fault: Fault::Error(ErrorKind::Io) };
    let cache = Cached::new(Faulty::new(Memory::new(&bytes(8192)), vec![rule], 1), 4096, 1 << 16).unwrap();
    let results: Vec<bool> = (0..40).map(|_| cache.read_at(&mut [0; 10], 0).is_ok()).collect();
    let first = results.iter().position(|ok| *ok).expect("one of forty tries succeeds");
    assert!(results[first..].iter().all(|ok| *ok));
}

/// After the first second's worth, both rates are kept, by one thread and by several.
#[test]
fn rates_are_kept() {
    let elapsed = |rates, threads: usize, count: usize, len: usize| {
        let device = Throttled::new(Memory::new(&bytes(100_000)), rates);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope
                    .spawn(|| (0..count / threads).for_each(|_| assert!(device.read_at(&mut vec![0; len], 0).is_ok())));
            }
        });
        begun.elapsed().as_secs_f64()
    };
    let bytes = Rates { bytes: Some(1_000_000), operations: None };
    let operations = Rates { bytes: None, operations: Some(200) };
    for threads in [1, 3] {
        // 1.3 seconds' worth, of which one is there at the start.
        let took = elapsed(bytes, threads, 66, 20_000);
        assert!((0.29..3.0).contains(&took), "{took} s for bytes");
        let took = elapsed(operations, threads, 261, 1);
        assert!((0.29..3.0).contains(&took), "{took} s for operations");
    }
    assert!(elapsed(bytes, 1, 50, 20_000) < 0.9, "a burst of one second's worth does not wait");
}

#[test]
fn counters_count() {
    let device = counted(Memory::new(&bytes(10_000)));
    device.read_at(&mut [0; 100], 9_950).unwrap();
    device.write_at(&[0; 70], 0).unwrap();
    device.write_at(&[0; 70], 9_999).unwrap_err();
    device.write_zeroes(10..30, false).unwrap();
    device.discard(0..7).unwrap();
    device.flush().unwrap();
    let counters = device.counters();
    let all = [Operation::Read, Operation::Write, Operation::Zero, Operation::Discard, Operation::Flush];
    assert_eq!(all.map(|op| counters.count(op)), [1, 2, 1, 1, 1]);
    assert_eq!(all.map(|op| counters.bytes(op)), [50, 70, 20, 7, 0]);
    assert_eq!(all.map(|op| counters.errors(op)), [0, 1, 0, 0, 0]);
    assert_eq!(all.map(|op| counters.latency(op).iter().sum::<u64>()), [1, 2, 1, 1, 1]);

    let delay = Fault::Delay(Duration::from_millis(5));
    let rule = Rule { target: Target::Flushes, range: 0..0, probability: 1.0, fault: delay };
    let device = counted(Faulty::new(Memory::new(&[0]), vec![rule], 0));
    device.flush().unwrap();
    let latency = device.counters().latency(Operation::Flush);
    // 4096 µs are the start of bucket 13.
    assert_eq!(latency[..13].iter().sum::<u64>(), 0);
    assert_eq!(latency[13..].iter().sum::<u64>(), 1);
}

/// Faults strike where they are put, as often as they are told, and the same each time.
#[test]
fn faults_strike() {
    let rule = |target, range, probability, kind| Rule { target, range, probability, fault: Fault::Error(kind) };
    let rules = vec![
        rule(Target::Reads, 100..200, 1.0, ErrorKind::Io),
        rule(Target::Writes, 300..400, 1.0, ErrorKind::NoSpace),
        rule(Target::Reads, 500..600, 0.5, ErrorKind::Damaged),
        rule(Target::Flushes, 0..0, 1.0, ErrorKind::Io),
    ];
    let run = |seed| {
        let whole = bytes(1000);
        let device = Faulty::new(Memory::new(&whole), rules.clone(), seed);
        let read = |at, len: usize| device.read_at(&mut vec![0; len], at).map_err(|e| e.kind());
        assert_eq!(read(0, 100), Ok(100));
        assert_eq!(read(0, 101), Err(ErrorKind::Io));
        assert_eq!(read(199, 1), Err(ErrorKind::Io));
        assert_eq!(read(200, 100), Ok(100));
        assert_eq!(device.write_at(&[9; 10], 395).map_err(|e| e.kind()), Err(ErrorKind::NoSpace));
        assert_eq!(device.write_zeroes(0..1000, false).map_err(|e| e.kind()), Err(ErrorKind::NoSpace));
        let mut now = [0; 10];
        device.read_at(&mut now, 395).unwrap();
        assert_eq!(now, whole[395..405]);
        assert_eq!(device.flush().map_err(|e| e.kind()), Err(ErrorKind::Io));
        (0..200).map(|_| read(550, 1).is_ok()).collect::<Vec<_>>()
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
    let struck = first.iter().filter(|ok| !**ok).count();
    assert!((70..130).contains(&struck), "{struck} of 200");
}
