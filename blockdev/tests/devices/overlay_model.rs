//! Random operations on an overlay, with reopening, against the model; and what `open` refuses.

use std::{sync::Arc, time::Duration};

use blockdev::{
    ErrorKind, Extent, ExtentKind, ReadAt, WriteAt,
    file::HostFile,
    layers::{Fault, Faulty, Rule, Target},
    overlay::{Options, Overlay},
};

use crate::{
    model::{Model, areas, read},
    source::{SIZE, Source},
};

fn options() -> Options {
    Options::new("the source")
}

/// Every byte is what was written last, before and after reopening, with plenty of memory and with hardly any.
#[test]
fn random_operations() {
    for (seed, memory) in [(1, 32 << 20), (2, 0), (3, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay.qcow2");
        let options = Options { memory, ..options() };
        let mut random = fastrand::Rng::with_seed(seed);
        let mut model = Model::new(&areas(), &Source);
        let mut overlay = Overlay::create(&path, Arc::new(Source), &options).unwrap();
        for step in 0..600 {
            let op = model.random_op(&mut random);
            op.perform(&overlay).unwrap_or_else(|e| panic!("step {step}, {op:?}: {e}"));
            model.apply(&op);
            match random.u32(..60) {
                0..3 => overlay.flush().unwrap(),
                3 => {
                    overlay.close().unwrap();
                    overlay = Overlay::open(&path, Arc::new(Source), &options).unwrap();
                }
                4..10 => model.check(&overlay, &format!("seed {seed}, step {step}")),
                _ => {}
            }
        }
        model.check(&overlay, "at the end");
        drop(overlay);
        let overlay = Overlay::open(&path, Arc::new(Source), &options).unwrap();
        model.check(&overlay, "after the end");
        check_extents(&overlay);
    }
}

/// Extents cover the disk without gaps, and what they call a hole is zeros.
fn check_extents(overlay: &Overlay) {
    let mut at = 0;
    while let Some(Extent { range, kind }) = overlay.extent_at(at).unwrap() {
        assert!(range.start == at && range.end > at && range.end <= SIZE, "{range:?} at {at}");
        for area in areas().iter().filter(|a| a.start < range.end && a.end > range.start) {
            let part = area.start.max(range.start)..area.end.min(range.end);
            assert!(kind == ExtentKind::Data || read(overlay, &part).iter().all(|b| *b == 0), "{part:?}");
        }
        at = range.end;
    }
    assert_eq!(at, SIZE);
}

/// Threads that write at once to neighbouring bytes of the same subclusters do not disturb each other.
#[test]
fn threads_side_by_side() {
    const THREADS: u64 = 4;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlay.qcow2");
    // A base that takes its time, so that the others come in between the reading and the writing.
    let slow = Fault::Delay(Duration::from_micros(200));
    let rule = Rule { target: Target::Reads, range: 0..SIZE, probability: 0.5, fault: slow };
    let base = Arc::new(Faulty::new(Source, vec![rule], 0));
    let overlay = Overlay::create(&path, base, &Options { memory: 0, ..options() }).unwrap();
    let models: Vec<Model> = std::thread::scope(|scope| {
        let run = |thread: u64| {
            let overlay = &overlay;
            move || {
                // Stripes of 1500 bytes, each thread every fourth.
                let stripes: Vec<_> = (0..400)
                    .map(|i| (32 << 20) - 1_000_000 + (i * THREADS + thread) * 1500)
                    .map(|start| start..start + 1500)
                    .collect();
                let mut model = Model::new(&stripes, &Source);
                let mut random = fastrand::Rng::with_seed(thread);
                for _ in 0..1500 {
                    let op = model.random_op(&mut random);
                    op.perform(overlay).unwrap();
                    model.apply(&op);
                    if random.u32(..100) == 0 {
                        overlay.flush().unwrap();
                    }
                }
                model
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|t| scope.spawn(run(t))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    models.iter().for_each(|model| model.check(&overlay, "before closing"));
    overlay.close().unwrap();
    let overlay = Overlay::open(&path, Arc::new(Source), &options()).unwrap();
    models.iter().for_each(|model| model.check(&overlay, "after reopening"));
}

/// Another base, another size, a second opener, an existing file, another qcow2: each is refused with the right kind.
#[test]
fn refusals() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlay.qcow2");
    let overlay = Overlay::create(&path, Arc::new(Source), &options()).unwrap();
    let kind = |result: blockdev::Result<Overlay>| result.err().map(|e| e.kind());
    assert_eq!(kind(Overlay::open(&path, Arc::new(Source), &options())), Some(ErrorKind::Locked));
    assert_eq!(kind(Overlay::create(&path, Arc::new(Source), &options())), Some(ErrorKind::Invalid));
    overlay.close().unwrap();
    assert_eq!(kind(Overlay::open(&path, Arc::new(Source), &Options::new("another"))), Some(ErrorKind::Invalid));
    assert_eq!(kind(Overlay::open(&path, Arc::new(Source), &options())), None);
    let other = folder.path().join("other");
    std::fs::write(&other, [7; 4096]).unwrap();
    assert_eq!(kind(Overlay::open(&other, Arc::new(Source), &options())), Some(ErrorKind::Unsupported));
    let smaller = Arc::new(HostFile::open(&other).unwrap());
    assert_eq!(kind(Overlay::open(&path, smaller, &options())), Some(ErrorKind::Invalid));
    let missing = folder.path().join("missing");
    assert_eq!(kind(Overlay::open(&missing, Arc::new(Source), &options())), Some(ErrorKind::NotFound));
}

/// What lies past the end is refused and changes nothing; nothing at all is allowed anywhere within.
#[test]
fn past_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let overlay = Overlay::create(&folder.path().join("o"), Arc::new(Source), &options()).unwrap();
    let before = read(&overlay, &(SIZE - 5000..SIZE));
    for result in [
        overlay.write_at(&[1; 100], SIZE - 99),
        overlay.write_at(&[1; 1], u64::MAX),
        overlay.write_zeroes(SIZE - 10..SIZE + 1, false),
        overlay.discard(SIZE..SIZE + 1),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid);
    }
    overlay.write_at(&[], SIZE).unwrap();
    overlay.write_zeroes(SIZE..SIZE, true).unwrap();
    assert_eq!(read(&overlay, &(SIZE - 5000..SIZE)), before);
    assert_eq!(overlay.read_at(&mut [0; 10], SIZE).unwrap(), 0);
    assert_eq!(overlay.read_at(&mut [0; 10], SIZE - 3).unwrap(), 3);
    assert!(!overlay.changed_at(0, 1 << 30).unwrap().1);
}
