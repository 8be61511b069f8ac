//! Comparing two sources, in parallel; what both do not store is not read.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crate::{Error, ErrorKind, ExtentKind, ReadAt, Result, copy::is_zero};

/// What a worker takes at once, in bytes.
const SHARE: u64 = 16 << 20;
/// Bytes compared at once.
const CHUNK: u64 = 1 << 20;

/// The first byte at which `a` and `b` differ; what is longer differs at the other's end, unless it goes on with
/// zeros up to a block of 4096 bytes (formats round sizes up). `progress` counts the bytes that are done with.
///
/// # Errors
///
/// When one cannot be read, or [`ErrorKind::Limit`] when `cancel` was set.
pub fn first_difference(
    a: &dyn ReadAt,
    b: &dyn ReadAt,
    workers: usize,
    progress: &AtomicU64,
    cancel: &AtomicBool,
) -> Result<Option<u64>> {
    let (common, longer) = (a.size().min(b.size()), if a.size() > b.size() { a } else { b });
    let (next, first, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX), Mutex::new(None));
    let work = || {
        let mut buffers = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
        while !cancel.load(Ordering::Relaxed) {
            let start = next.fetch_add(SHARE, Ordering::Relaxed);
            // What lies behind a difference does not matter.
            if start >= common.min(first.load(Ordering::Relaxed)) {
                return;
            }
            let end = start.saturating_add(SHARE).min(common);
            match share(a, b, start, end, &mut buffers) {
                Ok(Some(at)) => _ = first.fetch_min(at, Ordering::Relaxed),
                Ok(None) => _ = progress.fetch_add(end - start, Ordering::Relaxed),
                Err(e) => {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    next.store(common, Ordering::Relaxed);
                    return;
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers.max(1) {
            scope.spawn(work);
        }
        work();
    });
    if let Some(e) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(e);
    }
    if cancel.load(Ordering::Relaxed) {
        return Err(Error::new(ErrorKind::Limit, "stopped before the end"));
    }
    let found = first.into_inner();
    if found < u64::MAX {
        return Ok(Some(found));
    }
    if longer.size() == common || longer.size() > common.next_multiple_of(4096) {
        return Ok((longer.size() > common).then_some(common));
    }
    let mut rest = vec![0; (longer.size() - common) as usize];
    let n = longer.read_at(&mut rest, common)?;
    Ok((!is_zero(rest.get(..n).unwrap_or_default())).then_some(common))
}

fn share(
    a: &dyn ReadAt,
    b: &dyn ReadAt,
    start: u64,
    end: u64,
    (left, right): &mut (Vec<u8>, Vec<u8>),
) -> Result<Option<u64>> {
    let mut at = start;
    while at < end {
        let hole = |source: &dyn ReadAt| {
            let extent = source.extent_at(at)?.filter(|e| e.kind == ExtentKind::Hole);
            Ok::<_, Error>(extent.map_or(at, |e| e.range.end))
        };
        let both = hole(a)?.min(hole(b)?);
        if both > at {
            at = both;
            continue;
        }
        let n = CHUNK.min(end - at) as usize;
        for (source, buffer) in [(a, &mut *left), (b, &mut *right)] {
            let buffer = buffer.get_mut(..n).unwrap_or_default();
            if source.read_at(buffer, at)? < n {
                return Err(Error::damaged(format!("bytes are missing behind byte {at}")));
            }
        }
        let (l, r) = (left.get(..n).unwrap_or_default(), right.get(..n).unwrap_or_default());
        if l != r {
            let differs = l.iter().zip(r).position(|(x, y)| x != y).unwrap_or(0);
            return Ok(Some(at + differs as u64));
        }
        at += n as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_wherever_it_is() {
        let a: Vec<u8> = (0..40_000_000_u32).map(|i| (i % 251) as u8).collect();
        let compare = |a: &Vec<u8>, b: &Vec<u8>| {
            first_difference(a, b, 3, &AtomicU64::new(0), &AtomicBool::new(false)).expect("readable")
        };
        assert_eq!(compare(&a, &a), None);
        for at in [0, 1, 16_777_215, 16_777_216, 39_999_999] {
            let mut b = a.clone();
            b[at] ^= 1;
            b[39_999_999] ^= 2;
            assert_eq!(compare(&a, &b), Some(at as u64));
        }
        let mut longer = a.clone();
        longer.resize(a.len().next_multiple_of(4096), 0);
        assert_eq!((compare(&a, &longer), compare(&longer, &a)), (None, None));
        *longer.last_mut().expect("a byte") = 1;
        assert_eq!(compare(&a, &longer), Some(a.len() as u64));
        longer.push(0);
        assert_eq!(compare(&a, &longer), Some(a.len() as u64));
    }
}
