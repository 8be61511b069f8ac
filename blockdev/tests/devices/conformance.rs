//! The contracts of `ReadAt` and `WriteAt` as one test, for any device.

use std::os::unix::fs::FileExt;

use blockdev::{Extent, ExtentKind, ReadAt, WriteAt};

/// `device` is a [`ReadAt`] of the bytes `expected`.
pub fn reads(device: &dyn ReadAt, expected: &[u8], what: &str) {
    let size = expected.len() as u64;
    assert_eq!(device.size(), size, "{what}");
    let mut random = fastrand::Rng::with_seed(1);
    let mut buf = vec![0; expected.len() + 100];
    for _ in 0..300 {
        let offset = random.u64(..size + 50);
        let len = if random.bool() { random.usize(..600) } else { random.usize(..buf.len()) };
        let wanted = &expected[offset.min(size) as usize..(offset + len as u64).min(size) as usize];
        let n = device.read_at(&mut buf[..len], offset).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(buf[..n] == *wanted, "{what}: {len} bytes at {offset}");
        if let Some(run) = device.map(offset, len as u64) {
            assert!(run.len > 0 && run.len <= wanted.len() as u64, "{what}: {run:?} for {len} bytes at {offset}");
            let mut mapped = vec![0; run.len as usize];
            run.file.read_exact_at(&mut mapped, run.offset).unwrap();
            assert!(mapped == wanted[..mapped.len()], "{what}: mapped bytes at {offset}");
        }
    }
    for offset in [size, size + 1, u64::MAX] {
        assert_eq!(device.read_at(&mut buf, offset).unwrap(), 0, "{what}");
        assert_eq!(device.extent_at(offset).unwrap(), None, "{what}");
        assert!(device.map(offset, 1).is_none(), "{what}");
    }
    let mut at = 0;
    while let Some(Extent { range, kind }) = device.extent_at(at).unwrap() {
        assert!(range.start == at && range.end > at && range.end <= size, "{what}: {range:?} at {at}");
        let bytes = &expected[range.start as usize..range.end as usize];
        assert!(kind == ExtentKind::Data || bytes.iter().all(|b| *b == 0), "{what}: {range:?} is no hole");
        at = range.end;
    }
    assert_eq!(at, size, "{what}: the extents end early");
}

/// `device`, which holds `expected`, is a [`WriteAt`].
pub fn writes(device: &dyn WriteAt, expected: &mut [u8], what: &str) {
    let size = expected.len() as u64;
    let sizes = device.block_sizes();
    assert!(sizes.logical >= 512 && sizes.physical >= sizes.logical, "{what}: {sizes:?}");
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..300 {
        let (a, b) = (random.u64(..=size), random.u64(..=size));
        let (start, end) = if random.bool() { (a.min(b), a.max(b)) } else { (a, size.min(a + random.u64(..600))) };
        let range = start as usize..end as usize;
        match random.u32(..8) {
            0 => {
                device.discard(start..end).unwrap();
                let mut now = vec![0; range.len()];
                assert_eq!(device.read_at(&mut now, start).unwrap(), range.len(), "{what}");
                for (expected, now) in expected[range].iter_mut().zip(now) {
                    assert!(now == 0 || now == *expected, "{what}: discarded");
                    *expected = now;
                }
            }
            1 => {
                device.write_zeroes(start..end, random.bool()).unwrap();
                expected[range].fill(0);
            }
            2 => device.flush().unwrap(),
            _ => {
                let bytes: Vec<u8> = range.clone().map(|_| random.u8(..)).collect();
                device.write_at(&bytes, start).unwrap();
                expected[range].copy_from_slice(&bytes);
            }
        }
    }
    reads(device, expected, what);
    for result in [
        device.write_at(&[1; 2], size - 1),
        device.write_at(&[1; 2], u64::MAX - 1),
        device.write_zeroes(size - 1..size + 1, true),
        device.discard(size..u64::MAX),
        device.write_zeroes(std::ops::Range { start: 2, end: 1 }, false),
    ] {
        assert_eq!(result.map_err(|e| e.kind()), Err(blockdev::ErrorKind::Invalid), "{what}");
    }
    reads(device, expected, what);
}
