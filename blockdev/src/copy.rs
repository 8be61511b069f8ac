//! Copying bytes into a file: sparse, parallel, and going on where it was interrupted.
//!
//! The target has the size of the source. It is divided into *shares*; workers take one after the other, read what is
//! stored of it and write it at its place, so that the order in which they finish does not matter. What is a hole in
//! the source, and blocks that are all zeros, are left out: the target is made sparse.
//!
//! With a *journal* beside the target the copy can be continued: a share is noted there after its bytes are on stable
//! storage, and a journal of another source or another size is not believed.

use std::{
    fs::{File, OpenOptions},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Error, ErrorKind, ExtentKind, ReadAt, Result};

/// Bytes that a worker takes at once.
const SHARE: u64 = 16 << 20;
/// Bytes read and written at once.
const CHUNK: usize = 1 << 20;
/// Zeros are looked for in blocks of this many bytes: what filesystems can leave out.
const BLOCK: usize = 4096;
/// How often finished shares are made durable and noted.
const NOTE_INTERVAL: Duration = Duration::from_secs(5);
/// First line of a journal.
const MAGIC: &str = "revenant copy 1";

/// How to copy.
#[derive(Debug, Default)]
pub struct Options<'a> {
    /// Threads.
    pub workers: usize,
    /// Bytes of the source that are done with, read or passed over.
    pub progress: Option<&'a AtomicU64>,
    /// Set it to stop.
    pub cancel: Option<&'a AtomicBool>,
    /// Where to keep the journal and what the source is; `None` keeps none.
    pub journal: Option<(PathBuf, String)>,
}

/// Copy all of `source` into `target`, which exists, and make it durable.
///
/// # Errors
///
/// The first failure to read or write; [`ErrorKind::Limit`] when it was cancelled. With a journal the next call goes on.
pub fn copy(source: &dyn ReadAt, target: &File, options: &Options<'_>) -> Result<()> {
    let size = source.size();
    let mut journal = match &options.journal {
        Some((path, identity)) => Some(Journal::open(path, identity, size)?),
        None => None,
    };
    let done = journal.as_mut().map(|j| std::mem::take(&mut j.done)).unwrap_or_default();
    if done.is_empty() {
        // What a failed attempt left must not shine through where the source has holes.
        target.set_len(0).map_err(|e| Error::io("cannot empty the target", e))?;
    }
    target.set_len(size).map_err(|e| Error::io(format!("cannot make the target {size} bytes long"), e))?;
    let shares = size.div_ceil(SHARE);
    let waiting = (0..shares).filter(|n| !done.contains(n)).collect::<Vec<_>>();
    let passed: u64 = done.iter().map(|n| share(*n, size).end - share(*n, size).start).sum();
    add(options.progress, passed);
    let work = Work {
        source,
        target,
        options,
        waiting: Mutex::new(waiting.into_iter()),
        failed: Mutex::new(None),
        noted: Mutex::new(Noted { journal, fresh: Vec::new(), since: Instant::now() }),
    };
    thread::scope(|scope| {
        for _ in 1..options.workers.max(1) {
            scope.spawn(|| work.run());
        }
        work.run();
    });
    let failure = work.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut noted = work.noted.into_inner().unwrap_or_else(PoisonError::into_inner);
    let synced = noted.note(target);
    if let Some(failure) = failure {
        return Err(failure);
    }
    synced?;
    target.sync_all().map_err(|e| Error::io("cannot make the target durable", e))?;
    match noted.journal {
        Some(journal) => journal.remove(),
        None => Ok(()),
    }
}

fn share(number: u64, size: u64) -> Range<u64> {
    let start = number * SHARE;
    start..start.saturating_add(SHARE).min(size)
}

fn add(counter: Option<&AtomicU64>, n: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

struct Work<'a> {
    source: &'a dyn ReadAt,
    target: &'a File,
    options: &'a Options<'a>,
    waiting: Mutex<std::vec::IntoIter<u64>>,
    failed: Mutex<Option<Error>>,
    noted: Mutex<Noted>,
}

/// Shares that are copied, and the journal of those that are durable.
struct Noted {
    journal: Option<Journal>,
    fresh: Vec<u64>,
    since: Instant,
}

impl Noted {
    fn note(&mut self, target: &File) -> Result<()> {
        self.since = Instant::now();
        let Some(journal) = self.journal.as_mut().filter(|_| !self.fresh.is_empty()) else { return Ok(()) };
        target.sync_data().map_err(|e| Error::io("cannot make the target durable", e))?;
        journal.add(&std::mem::take(&mut self.fresh))
    }
}

impl Work<'_> {
    fn run(&self) {
        let mut buffer = vec![0; CHUNK];
        while !self.is_over() {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(number) = next else { return };
            let copied =
                self.share(share(number, self.source.size()), &mut buffer).and_then(|()| self.finished(number));
            if let Err(e) = copied {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn share(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            if self.options.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Err(Error::new(ErrorKind::Limit, "stopped before the end"));
            }
            let extent = self.source.extent_at(at)?.filter(|e| e.range.end > at);
            let extent = extent.ok_or_else(|| Error::damaged(format!("the source ends at byte {at}")))?;
            let mut end = extent.range.end.min(range.end);
            if extent.kind == ExtentKind::Data {
                end = end.min((at / CHUNK as u64 + 1) * CHUNK as u64);
                let chunk = buffer.get_mut(..(end - at) as usize).unwrap_or_default();
                let n = self.source.read_at(chunk, at)?;
                if n < chunk.len() {
                    return Err(Error::damaged(format!("the source ends at byte {}", at + n as u64)));
                }
                self.write(chunk, at)?;
            }
            add(self.options.progress, end - at);
            at = end;
        }
        Ok(())
    }

    /// Write what is not zeros, in as few calls as that takes.
    fn write(&self, chunk: &[u8], at: u64) -> Result<()> {
        // To the end of the block of the target that the byte after `from` is in.
        let block = |from: usize| {
            let len = BLOCK - (at + from as u64) as usize % BLOCK;
            &chunk[from..chunk.len().min(from + len)]
        };
        let mut from = 0;
        while from < chunk.len() {
            let start = from;
            while from < chunk.len() && !is_zero(block(from)) {
                from += block(from).len();
            }
            if from > start {
                let place = at + start as u64;
                let written = self.target.write_all_at(&chunk[start..from], place);
                written.map_err(|e| Error::io(format!("cannot write at byte {place}"), e))?;
            }
            from += block(from.min(chunk.len())).len();
        }
        Ok(())
    }

    fn finished(&self, number: u64) -> Result<()> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.fresh.push(number);
        if noted.since.elapsed() < NOTE_INTERVAL { Ok(()) } else { noted.note(self.target) }
    }
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    // Whole chunks are joined by OR, which compilers turn into vector instructions.
    chunks.iter().all(|c| c.iter().fold(0, |a, b| a | b) == 0) && rest.iter().all(|b| *b == 0)
}

/// Which shares are durable, as lines of text: a header that says of what, then a number a line.
struct Journal {
    path: PathBuf,
    file: File,
    done: std::collections::HashSet<u64>,
    len: u64,
}

impl Journal {
    fn open(path: &Path, identity: &str, size: u64) -> Result<Self> {
        let failed = |e| Error::io(format!("cannot keep a journal in {}", path.display()), e);
        let header = format!("{MAGIC}\n{}\n{size} {SHARE}\n", identity.replace('\n', " "));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut open = OpenOptions::new();
        let file = open.create(true).write(true).truncate(false).open(path).map_err(failed)?;
        let mut journal = Self { path: path.to_owned(), file, done: std::collections::HashSet::new(), len: 0 };
        if let Some(lines) = text.strip_prefix(&header) {
            // The last line may be half of one.
            let whole = lines.rfind('\n').map_or(0, |i| i + 1);
            let shares = size.div_ceil(SHARE);
            let numbers = lines[..whole].lines().filter_map(|l| l.parse().ok());
            journal.done = numbers.filter(|n| *n < shares).collect();
            journal.len = (header.len() + whole) as u64;
        } else {
            journal.file.write_all_at(header.as_bytes(), 0).map_err(failed)?;
            journal.len = header.len() as u64;
        }
        journal.file.set_len(journal.len).map_err(failed)?;
        Ok(journal)
    }

    fn add(&mut self, shares: &[u64]) -> Result<()> {
        let lines: String = shares.iter().map(|n| format!("{n}\n")).collect();
        let written = self.file.write_all_at(lines.as_bytes(), self.len).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::io(format!("cannot keep a journal in {}", self.path.display()), e))?;
        self.len += lines.len() as u64;
        Ok(())
    }

    fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path)
            .map_err(|e| Error::io(format!("cannot remove the journal {}", self.path.display()), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Extent, MappedRun, file::HostFile};

    /// Data with holes, that fails to be read where it is told.
    struct Source {
        bytes: Vec<u8>,
        hole: Range<u64>,
        fails: AtomicBool,
    }

    impl ReadAt for Source {
        fn size(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
            if self.fails.load(Ordering::Relaxed) && offset > 20 << 20 {
                return Err(Error::damaged("as told"));
            }
            self.bytes.read_at(buf, offset)
        }

        fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
            let extent = |end, kind| Some(Extent { range: offset..end, kind });
            Ok(match offset {
                o if o >= self.size() => None,
                o if o < self.hole.start => extent(self.hole.start, ExtentKind::Data),
                o if o < self.hole.end => extent(self.hole.end, ExtentKind::Hole),
                _ => extent(self.size(), ExtentKind::Data),
            })
        }

        fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
            None
        }
    }

    fn source() -> Source {
        let mut bytes: Vec<u8> = (0..36_000_001_u32).map(|i| (i / 4096 * 31 + i % 251) as u8 | 1).collect();
        let hole = 5_000_000..9_000_000;
        bytes[5_000_000..9_000_000].fill(0);
        bytes[12 << 20..13 << 20].fill(0);
        Source { bytes, hole, fails: AtomicBool::new(false) }
    }

    #[test]
    fn zeros_are_seen() {
        assert!(is_zero(&[0; 200]));
        for at in 0..200 {
            let mut bytes = [0; 200];
            bytes[at] = 1;
            assert!(!is_zero(&bytes));
        }
    }

    #[test]
    fn sparse_and_continued() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, journal) = (folder.path().join("out"), folder.path().join("out.journal"));
        let source = source();
        source.fails.store(true, Ordering::Relaxed);
        let target = File::options().create(true).truncate(false).read(true).write(true).open(&path).expect("a file");
        let progress = AtomicU64::new(0);
        let options = |progress| Options {
            workers: 3,
            progress: Some(progress),
            cancel: None,
            journal: Some((journal.clone(), "a source".to_owned())),
        };
        copy(&source, &target, &options(&progress)).expect_err("it fails where it is told");
        let noted = std::fs::read_to_string(&journal).expect("a journal").lines().skip(3).count();
        assert!(noted >= 1, "{noted} shares");
        source.fails.store(false, Ordering::Relaxed);
        let progress = AtomicU64::new(0);
        copy(&source, &target, &options(&progress)).expect("the rest");
        assert_eq!(progress.load(Ordering::Relaxed), source.size());
        assert!(!journal.exists());
        assert!(std::fs::read(&path).expect("the copy") == source.bytes);
        let copied = HostFile::open(&path).expect("the copy");
        let hole = copied.extent_at(6_000_000).expect("extents").expect("an extent");
        assert_eq!(hole.kind, ExtentKind::Hole);
        let zeros = copied.extent_at(12 << 20).expect("extents").expect("an extent");
        assert_eq!((zeros.kind, zeros.range.end), (ExtentKind::Hole, 13 << 20));
    }

    #[test]
    fn a_journal_of_something_else_is_not_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, journal) = (folder.path().join("out"), folder.path().join("out.journal"));
        let source = source();
        for stale in ["", "garbage", "revenant copy 1\nanother\n36000001 16777216\n0\n1\n2\n"] {
            std::fs::write(&path, vec![7; 100]).expect("written");
            std::fs::write(&journal, stale).expect("written");
            let target = File::options().read(true).write(true).open(&path).expect("a file");
            let options = Options {
                workers: 1,
                progress: None,
                cancel: None,
                journal: Some((journal.clone(), "a source".to_owned())),
            };
            copy(&source, &target, &options).expect("copied");
            assert!(std::fs::read(&path).expect("the copy") == source.bytes);
        }
    }
}
