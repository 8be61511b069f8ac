//! Which parts of a disk were read, in the order in which they were first read: what a machine needs to start.
//!
//! A [`Recorder`] notes what a [`Traced`] device reads, in granules of 64 KiB (a block of a Bacula volume has as much, and
//! is read and verified as a whole). A granule counts once, at its first read. A [`Trace`] is what was noted; a
//! [`Prefetched`](super::Prefetched) device reads it ahead the next time.
//!
//! # File
//!
//! All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `RVNTRACE` |
//! | 4 | version, 1 |
//! | 4 | bytes of a granule, 65536 |
//! | 8 | size of the disk in bytes |
//! | 4 | number of runs, at most 65536 |
//! | 8 each | a run: number of its first granule (4), and of granules (4) |
//! | 4 | CRC-32 (ISO-HDLC) of all that |

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use crate::{
    BlockDevice, BlockSizes, Error, Extent, MappedRun, ReadAt, Result,
    fields::{le32, le64},
    origin::Origin,
};

/// Bytes of a granule.
pub const GRANULE: u64 = 64 << 10;
/// Granules that are noted: 4 GiB, more than any system reads to start.
const GRANULES_MAX: usize = 65536;
const MAGIC: &[u8; 8] = b"RVNTRACE";
const VERSION: u32 = 1;
const HEAD: usize = 28;

/// What was read of a disk, in the order of first reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    size: u64,
    /// Granules by number; no granule is in two of them.
    runs: Vec<Range<u32>>,
}

impl Trace {
    /// The disk's size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Granules by number, in the order of their first reads.
    #[must_use]
    pub fn runs(&self) -> &[Range<u32>] {
        &self.runs
    }

    /// Bytes of all runs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.end - run.start) * GRANULE).sum()
    }

    /// The trace as a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((GRANULE as u32).to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend((self.runs.len() as u32).to_le_bytes());
        for run in &self.runs {
            bytes.extend(run.start.to_le_bytes());
            bytes.extend((run.end - run.start).to_le_bytes());
        }
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes
    }

    /// The trace in a file.
    ///
    /// # Errors
    ///
    /// `Unsupported` when it is of another version, `Damaged` when it is none, or contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let no = |why: &str| Error::damaged(format!("a boot trace {why}"));
        if bytes.get(..8) != Some(MAGIC.as_slice()) {
            return Err(no("does not begin as one"));
        }
        if le32(bytes, 8) != VERSION || u64::from(le32(bytes, 12)) != GRANULE {
            return Err(Error::unsupported("a boot trace of another version; delete it"));
        }
        let count = le32(bytes, 24) as usize;
        if count > GRANULES_MAX || bytes.len() != HEAD + 8 * count + 4 {
            return Err(no("has another length than it says"));
        }
        let (body, end) = bytes.split_at(bytes.len() - 4);
        if checksum(body) != le32(end, 0) {
            return Err(no("is damaged: its checksum differs"));
        }
        let (size, mut runs, mut seen) = (le64(bytes, 16), Vec::new(), HashSet::new());
        for number in 0..count {
            let at = HEAD + 8 * number;
            let (start, granules) = (le32(body, at), le32(body, at + 4));
            let end = start.checked_add(granules).filter(|end| u64::from(*end) <= size.div_ceil(GRANULE));
            let Some(end) = end.filter(|_| granules > 0 && granules as usize + seen.len() <= GRANULES_MAX) else {
                return Err(no("has a run that is not within its disk"));
            };
            if !(start..end).all(|granule| seen.insert(granule)) {
                return Err(no("has a granule twice"));
            }
            runs.push(start..end);
        }
        Ok(Self { size, runs })
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// Notes what is read; it stops when it has noted enough.
#[derive(Debug)]
pub struct Recorder {
    size: u64,
    first: OnceLock<Instant>,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    runs: Vec<Range<u32>>,
    seen: HashSet<u32>,
}

impl Recorder {
    /// For a disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Arc<Self> {
        Arc::new(Self { size, first: OnceLock::new(), noted: Mutex::default() })
    }

    /// When it was first read.
    #[must_use]
    pub fn first_read(&self) -> Option<Instant> {
        self.first.get().copied()
    }

    /// What was noted so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        Trace { size: self.size, runs: noted.runs.clone() }
    }

    fn note(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size);
        if end <= offset {
            return;
        }
        self.first.get_or_init(Instant::now);
        let granule = |at: u64| u32::try_from(at / GRANULE).unwrap_or(u32::MAX);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        for granule in granule(offset)..=granule(end - 1) {
            if noted.seen.len() >= GRANULES_MAX {
                return;
            }
            // A disk of more than 256 TiB has a rest that is not noted.
            if granule == u32::MAX || !noted.seen.insert(granule) {
                continue;
            }
            match noted.runs.last_mut() {
                Some(last) if last.end == granule => last.end += 1,
                _ => noted.runs.push(granule..granule + 1),
            }
        }
    }
}

/// A device whose reads are noted.
#[derive(Debug)]
pub struct Traced<D> {
    device: D,
    recorder: Arc<Recorder>,
}

impl<D> Traced<D> {
    /// `device`, whose reads `recorder` notes.
    pub const fn new(device: D, recorder: Arc<Recorder>) -> Self {
        Self { device, recorder }
    }
}

impl<D: ReadAt> ReadAt for Traced<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = self.device.read_at(buf, offset)?;
        self.recorder.note(offset, n as u64);
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.device.extent_at(offset)
    }

    /// What is handed out counts as read.
    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let run = self.device.map(offset, len)?;
        self.recorder.note(offset, run.len);
        Some(run)
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        self.device.origin_at(offset, limit)
    }
}

impl<D: BlockDevice> BlockDevice for Traced<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}
