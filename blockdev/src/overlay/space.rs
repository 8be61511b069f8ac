//! Clusters for data, their refcounts, and how much room the overlay may take.
//!
//! Clusters are given out in the order of the file and never taken back: a cluster of the disk keeps its place for
//! good, and what is discarded is given back to the filesystem by a hole in that place. So there is no moment at which
//! a place could belong to two, whatever was made durable and whatever not. Refcounts are written ahead of need, many
//! at once; what is counted and not used after a crash is what `qemu-img check` calls leaked, and [`Space::repair`]
//! takes it back.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    header,
    layout::{CLUSTER, Layout},
    medium::Medium,
    pages::lock,
};
use crate::{Error, ErrorKind, Result};

/// Clusters whose refcounts are written at once (32 MiB of file).
const AHEAD: u64 = 256;

/// Bytes of refcounts handled at once.
const CHUNK: u64 = 64 << 10;

/// Where the next cluster will be.
pub struct Space {
    layout: Layout,
    ends: Mutex<Ends>,
    /// As in [`Ends::counted`], for those who only want to check a place.
    counted: AtomicU64,
    quota: AtomicU64,
    used: AtomicU64,
    /// The quota had no room for what was last asked for.
    refused: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    /// Offset of the next cluster that is given out.
    next: u64,
    /// The end of the file and of what the refcounts count.
    counted: u64,
    /// The header says so.
    dirty: bool,
}

impl Space {
    /// The space of a file whose used part ends at `end`.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    pub fn new(layout: Layout, medium: &dyn Medium, end: u64, dirty: bool, quota: Option<u64>) -> Result<Self> {
        let used = medium.occupied().map_err(|e| Error::io("cannot tell how much room the overlay takes", e))?;
        Ok(Self {
            layout,
            ends: Mutex::new(Ends { next: end, counted: end, dirty }),
            counted: AtomicU64::new(end),
            quota: AtomicU64::new(quota.unwrap_or(u64::MAX)),
            used: AtomicU64::new(used),
            refused: AtomicBool::new(false),
        })
    }

    /// The end of what data clusters there are.
    pub fn end(&self) -> u64 {
        self.counted.load(Ordering::Acquire)
    }

    /// Count `bytes` that are about to be stored.
    ///
    /// # Errors
    ///
    /// `NoSpace` when the quota has no room for them; nothing is counted then.
    pub fn claim(&self, bytes: u64) -> Result<()> {
        let quota = self.quota.load(Ordering::Relaxed);
        let claim = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= quota);
        let claimed = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim);
        self.refused.store(claimed.is_err(), Ordering::Relaxed);
        claimed.map(drop).map_err(|used| {
            Error::new(ErrorKind::NoSpace, format!("the overlay takes {used} bytes and may take {quota}"))
        })
    }

    /// Whether the quota had no room for what was last asked for.
    pub fn is_full(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// From now on it may take `quota` bytes, also when it takes more already.
    pub fn set_quota(&self, quota: Option<u64>) {
        self.quota.store(quota.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// `bytes` are not stored, or no longer.
    pub fn release(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Bytes that the overlay takes, as far as it counts itself.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// `count` clusters in a row; the offset of the first. Their content is unspecified.
    ///
    /// # Errors
    ///
    /// `NoSpace` when the file cannot be made longer; nothing has changed then.
    pub fn allocate(&self, medium: &dyn Medium, count: u64) -> Result<u64> {
        let mut ends = lock(&self.ends);
        let start = ends.next;
        let end = start.saturating_add(count.saturating_mul(CLUSTER));
        if end > self.layout.end_max() {
            return Err(Error::new(ErrorKind::NoSpace, "the overlay has no refcounts left: copy it with qemu-img"));
        }
        if end > ends.counted {
            mark_dirty(&mut ends, medium)?;
            let counted = end.max(ends.counted + AHEAD * CLUSTER).min(self.layout.end_max());
            medium.set_len(counted).map_err(|e| Error::io("cannot make the overlay longer", e))?;
            self.count(medium, ends.counted, counted, 1)?;
            ends.counted = counted;
            self.counted.store(counted, Ordering::Release);
        }
        ends.next = end;
        Ok(start)
    }

    /// Take back what was counted and not used, and say that the file is whole. All else must be durable.
    ///
    /// # Errors
    ///
    /// When the medium fails; the file is then as after a crash.
    pub fn close(&self, medium: &dyn Medium) -> Result<()> {
        let mut ends = lock(&self.ends);
        if !ends.dirty {
            return Ok(());
        }
        self.count(medium, ends.next, ends.counted, 0)?;
        ends.counted = ends.next;
        self.counted.store(ends.next, Ordering::Release);
        medium.set_len(ends.next).and_then(|()| medium.sync()).map_err(close_failed)?;
        header::mark_dirty(medium, false)?;
        ends.dirty = false;
        medium.sync().map_err(close_failed)
    }

    /// The tables in the file are behind from now on: say so in its header, until it is closed.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    pub fn begin_change(&self, medium: &dyn Medium) -> Result<()> {
        mark_dirty(&mut lock(&self.ends), medium)
    }

    /// After a crash: take back all that lies behind `end`, where the last cluster in use ends.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    pub fn repair(layout: &Layout, medium: &dyn Medium, end: u64) -> Result<()> {
        let failed = |e| Error::io("cannot repair the overlay after a crash", e);
        let mut at = layout.refcount_of(end);
        while let Some(data) = medium.next_data(at).map_err(failed)? {
            at = at.max(data - data % 512);
            let len = CHUNK.min(layout.l2.saturating_sub(at)) as usize;
            if len == 0 {
                break;
            }
            let mut counts = vec![0; len];
            medium.read(&mut counts, at).map_err(failed)?;
            if counts.iter().any(|b| *b != 0) {
                counts.fill(0);
                medium.write(&counts, at).map_err(failed)?;
            }
            at += len as u64;
        }
        medium.set_len(end).map_err(failed)
    }

    /// Write `refcount` for all clusters in `from..to`.
    fn count(&self, medium: &dyn Medium, from: u64, to: u64, refcount: u8) -> Result<()> {
        write_refcounts(medium, &self.layout, from, to, refcount)
    }
}

fn mark_dirty(ends: &mut Ends, medium: &dyn Medium) -> Result<()> {
    if !ends.dirty {
        header::mark_dirty(medium, true)?;
        ends.dirty = true;
    }
    Ok(())
}

/// Write `refcount` for all clusters of the file in `from..to`.
///
/// # Errors
///
/// When there is no room, or the medium fails.
pub fn write_refcounts(medium: &dyn Medium, layout: &Layout, from: u64, to: u64, refcount: u8) -> Result<()> {
    let (mut at, end) = (layout.refcount_of(from), layout.refcount_of(to));
    while at < end {
        let len = CHUNK.min(end - at);
        let counts: Vec<u8> = (0..len / 2).flat_map(|_| [0, refcount]).collect();
        medium.write(&counts, at).map_err(|e| Error::io("cannot write the overlay's refcounts", e))?;
        at += len;
    }
    Ok(())
}

fn close_failed(e: std::io::Error) -> Error {
    Error::io("cannot close the overlay properly; nothing that was flushed is lost", e)
}
