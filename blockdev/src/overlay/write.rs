//! The write side of an overlay.
//!
//! Every operation is done page by page (32 MiB of the disk). Where all its subclusters are stored already, their
//! bytes are written in place, by any number of threads at once. Otherwise the thread takes the page's change lock,
//! finds places for clusters that have none, writes the data, with the rest of a subcluster that it covers in part
//! taken from below, and only then sets the bits that say that the subclusters are stored.

use std::{ops::Range, sync::Arc};

use super::{
    Overlay,
    layout::{CLUSTER, Entry, Kind, PAGE, PAGE_SPAN, SUBCLUSTER, bits},
    pages::Page,
    read::run_in,
};
use crate::{Error, Result, WriteAt};

static ZEROS: [u8; SUBCLUSTER as usize] = [0; SUBCLUSTER as usize];

/// A part of a cluster: its index in the page, and which subclusters.
#[derive(Debug, Clone, Copy)]
struct Part {
    cluster: usize,
    subs: u32,
}

/// The parts that `range` (bytes of a page's span) touches.
fn parts(range: Range<u64>) -> impl Iterator<Item = Part> {
    (range.start / CLUSTER..range.end.div_ceil(CLUSTER)).map(move |cluster| {
        let start = cluster * CLUSTER;
        let from = range.start.saturating_sub(start) / SUBCLUSTER;
        let to = (range.end - start).min(CLUSTER).div_ceil(SUBCLUSTER);
        Part { cluster: cluster as usize, subs: bits(from as u32, to as u32) }
    })
}

/// What is to be done for one write.
#[derive(Debug, Default, Clone, Copy)]
struct Needs {
    clusters: u64,
    subclusters: u64,
}

fn needs(entries: &[Entry], range: Range<u64>) -> Needs {
    let mut needs = Needs::default();
    for part in parts(range) {
        let entry = entries.get(part.cluster).copied().unwrap_or_default();
        needs.clusters += u64::from(entry.host == 0);
        needs.subclusters += u64::from((part.subs & !entry.stored).count_ones());
    }
    needs
}

impl Overlay {
    fn check_range(&self, range: &Range<u64>) -> Result<()> {
        if range.start > range.end || range.end > self.size {
            return Err(Error::invalid(format!(
                "bytes {}..{} are not all within the disk of {} bytes",
                range.start, range.end, self.size
            )));
        }
        self.check_sound()
    }

    /// Do `each` with every page that `range` touches: the page and the bytes of its span.
    fn by_page(&self, range: Range<u64>, mut each: impl FnMut(&Arc<Page>, Range<u64>) -> Result<()>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            self.relieve()?;
            let number = at / PAGE_SPAN;
            let start = number * PAGE_SPAN;
            let end = range.end.min(start + PAGE_SPAN);
            let done = each(&self.page(number)?, at - start..end - start);
            self.commits.written();
            done?;
            at = end;
        }
        Ok(())
    }

    /// Write `buf` at byte `at` of the span of `page`.
    fn write_in_page(&self, page: &Arc<Page>, buf: &[u8], at: u64) -> Result<()> {
        let range = at..at + buf.len() as u64;
        if page.look(|entries| needs(entries, range.clone())).subclusters == 0 {
            return self.write_stored(page, buf, at);
        }
        let _change = page.change();
        let needs = page.look(|entries| needs(entries, range.clone()));
        let claimed = self.prepare(page, needs.subclusters * SUBCLUSTER)?;
        let written = self.place(page, range.clone(), needs.clusters).and_then(|()| {
            let start = page.number * PAGE_SPAN;
            let head = range.start - range.start % SUBCLUSTER..range.start;
            let tail = range.end..range.end.next_multiple_of(SUBCLUSTER);
            self.fill(page, start, head)?;
            self.fill(page, start, tail)?;
            self.write_stored(page, buf, at)
        });
        let stored = written.and_then(|()| {
            self.change(page, |entries| {
                for part in parts(range) {
                    if let Some(entry) = entries.get_mut(part.cluster) {
                        entry.stored |= part.subs;
                        entry.zero &= !part.subs;
                    }
                }
            })
        });
        stored.inspect_err(|_| self.space.release(claimed))
    }

    /// Change what entries of a page say of the disk.
    fn change(&self, page: &Arc<Page>, change: impl FnOnce(&mut [Entry])) -> Result<()> {
        self.space.begin_change(self.medium.as_ref())?;
        let changed = self.pages.update_noted(page, self.journal.as_ref(), change);
        changed.map_err(|e| self.failed("note a write to", e))
    }

    /// Make sure of the quota for `bytes` more, and of room for the page itself: a flush must not be the first to find
    /// that there is none. Gives what was counted for the data.
    fn prepare(&self, page: &Page, bytes: u64) -> Result<u64> {
        let own = if page.has_room() { 0 } else { PAGE };
        self.space.claim(bytes + own).map_err(|e| e.context(&self.name))?;
        if own > 0 {
            if let Err(e) = self.medium.reserve(self.layout.page(page.number), PAGE) {
                self.space.release(bytes + own);
                return Err(self.failed("write an L2 table of", e));
            }
            page.set_has_room();
        }
        Ok(bytes)
    }

    /// Give places to the `count` clusters of `range` that have none. They keep them, also if what follows fails.
    fn place(&self, page: &Arc<Page>, range: Range<u64>, count: u64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let mut host = self.space.allocate(self.medium.as_ref(), count).map_err(|e| e.context(&self.name))?;
        self.pages.update(page, |entries| {
            for part in parts(range) {
                if let Some(entry) = entries.get_mut(part.cluster).filter(|e| e.host == 0) {
                    entry.host = host;
                    host += CLUSTER;
                }
            }
        });
        Ok(())
    }

    /// Bring the bytes `range`, a part of one subcluster of a page that starts at `start`, to its place, unless they are
    /// there.
    fn fill(&self, page: &Page, start: u64, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut bytes = [0; SUBCLUSTER as usize];
        let bytes = bytes.get_mut(..(range.end - range.start) as usize).unwrap_or_default();
        match page.look(|entries| run_in(entries, range.start, 1)).kind {
            Kind::Stored => return Ok(()),
            Kind::Zero => {}
            Kind::Absent => self.read_base(bytes, start + range.start)?,
        }
        self.write_stored(page, bytes, range.start)
    }

    /// Write to the places that the clusters have, whatever their bits say.
    fn write_stored(&self, page: &Page, mut buf: &[u8], mut at: u64) -> Result<()> {
        while !buf.is_empty() {
            let (host, len) = page.look(|entries| places(entries, at, buf.len() as u64));
            let (now, rest) = buf.split_at(usize::try_from(len).unwrap_or(usize::MAX).min(buf.len()));
            self.medium.write(now, host).map_err(|e| self.failed("write", e))?;
            at += now.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    /// Make the subclusters of `range`, which begins and ends with one, zeros; with `only_stored` those alone that are
    /// stored.
    fn zero_in_page(&self, page: &Arc<Page>, range: Range<u64>, keep: bool, only_stored: bool) -> Result<()> {
        let changes = |entry: &Entry, part: Part| part.subs & if only_stored { entry.stored } else { !entry.zero };
        let _change = page.change();
        let any = page.look(|entries| {
            parts(range.clone()).any(|part| entries.get(part.cluster).is_some_and(|e| changes(e, part) != 0))
        });
        if !any {
            return Ok(());
        }
        self.prepare(page, 0)?;
        let mut freed: Vec<Range<u64>> = Vec::new();
        self.change(page, |entries| {
            for part in parts(range) {
                let Some(entry) = entries.get_mut(part.cluster) else { continue };
                let subs = changes(entry, part);
                if !keep {
                    push_runs(&mut freed, entry.host, subs & entry.stored);
                }
                entry.stored &= !subs;
                entry.zero |= subs;
            }
        })?;
        // A crash may find the hole made and the bits not set: zeros all the same.
        for run in freed {
            // Where holes cannot be made the room is not given back, and nothing else is wrong.
            if self.medium.punch(run.start, run.end - run.start).is_ok() {
                self.space.release(run.end - run.start);
            }
        }
        Ok(())
    }

    /// Make `range`, a part of one subcluster, zeros.
    fn zero_edge(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() || self.run_at(range.start, 1)?.kind == Kind::Zero {
            return Ok(());
        }
        self.write_at(ZEROS.get(..(range.end - range.start) as usize).unwrap_or_default(), range.start)
    }

    /// The subclusters that lie in `range` wholly; what is behind the end of the disk counts as in it.
    fn whole_subclusters(&self, range: &Range<u64>) -> Range<u64> {
        let start = range.start.next_multiple_of(SUBCLUSTER);
        let end = if range.end == self.size { range.end.next_multiple_of(SUBCLUSTER) } else { range.end };
        start..(end - end % SUBCLUSTER).max(start)
    }
}

/// Where `at` has its place, and how many bytes (at most `limit`) have theirs in a row with it.
fn places(entries: &[Entry], at: u64, limit: u64) -> (u64, u64) {
    let (cluster, within) = ((at / CLUSTER) as usize, at % CLUSTER);
    let host = entries.get(cluster).map_or(0, |e| e.host);
    let mut len = CLUSTER - within;
    for (next, passed) in entries.iter().skip(cluster + 1).zip(1..) {
        if len >= limit || next.host != host + passed * CLUSTER {
            break;
        }
        len += CLUSTER;
    }
    (host + within, len.min(limit))
}

/// Add the runs of file bytes that `subs` of the cluster at `host` are, joined with the last where they touch.
fn push_runs(runs: &mut Vec<Range<u64>>, host: u64, subs: u32) {
    for sub in (0..32).filter(|sub| subs >> sub & 1 == 1) {
        let start = host + sub * SUBCLUSTER;
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += SUBCLUSTER,
            _ => runs.push(start..start + SUBCLUSTER),
        }
    }
}

impl WriteAt for Overlay {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        self.check_range(&range)?;
        let mut rest = buf;
        self.by_page(range, |page, range| {
            let (now, later) = rest.split_at(((range.end - range.start) as usize).min(rest.len()));
            rest = later;
            self.write_in_page(page, now, range.start)
        })
    }

    fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<()> {
        self.check_range(&range)?;
        let whole = self.whole_subclusters(&range);
        self.zero_edge(range.start..whole.start.min(range.end))?;
        self.by_page(whole.clone(), |page, range| self.zero_in_page(page, range, keep, false))?;
        self.zero_edge(whole.end.max(range.start).min(range.end)..range.end)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.check_range(&range)?;
        let whole = self.whole_subclusters(&range);
        self.by_page(whole, |page, range| self.zero_in_page(page, range, false, true))
    }

    fn flush(&self) -> Result<()> {
        self.commit()
    }
}
