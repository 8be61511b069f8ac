//! A qcow2 file that comes in front to back, as a restore writes it: which of its bytes are the disk's, and where they
//! belong, told as they come, without the file ever being somewhere whole.
//!
//! That needs a file whose tables are in front of its data and whose data is in the order of the disk, as
//! [`containers`](crate::containers) lays files out; any other is refused. Only the tables are kept ([`Tables`]).
//!
//! Runs of zeros may be left out of what comes (a File daemon leaves the holes of a sparse file out): what was passed over is
//! told as zeros. The end of the file always comes.

use std::{ops::Range, sync::Arc};

use super::open;
use crate::{
    Error, Extent, ExtentKind, MappedRun, ReadAt, Result,
    fields::{be32, be64},
    images::{
        gate::Alone,
        layer::{Layer, Place, Run},
    },
};

/// Bytes of a cluster.
const CLUSTER: u64 = 64 << 10;
/// The longest L1 table and table of refcounts, in bytes: QEMU opens none that is longer.
const TABLE_MAX: u64 = 32 << 20;
/// Bits 9 to 55 of an entry: an offset in the file.
const OFFSET: u64 = (1 << 56) - (1 << 9);
/// Bytes of a table that are looked at together.
const CHUNK: u64 = 64 << 10;
/// The smallest piece of an L2 table that comes by itself: one with nothing but zeros in it may be passed over.
const TABLE_MIN: u64 = 512;
/// How much of the disk is asked for at once when its map is walked, in bytes.
const STRIDE: u64 = 1 << 30;

/// Where the tables are kept: what was not written reads as zeros.
pub trait Tables: Send + Sync {
    /// Keep `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    fn put(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Fill `buf` from `offset` on.
    ///
    /// # Errors
    ///
    /// When the medium fails.
    fn get(&self, buf: &mut [u8], offset: u64) -> Result<()>;
}

/// Who is told what comes.
pub trait Receiver {
    /// The tables are there: this is what the file is.
    ///
    /// # Errors
    ///
    /// When it is not wanted.
    fn mapped(&mut self, map: &Arc<DiskMap>) -> Result<()>;

    /// These are bytes of the disk.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    fn data(&mut self, bytes: &[u8], offset: u64) -> Result<()>;

    /// These bytes of the disk were passed over: they are zeros.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    fn zeros(&mut self, range: Range<u64>) -> Result<()>;
}

/// What the tables of a file say of its disk.
pub struct DiskMap {
    layer: Arc<dyn Layer>,
    backing: Option<String>,
    /// Where the data begins in the file, and where that ends.
    data: Range<u64>,
}

impl DiskMap {
    /// Size of the disk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layer.size()
    }

    /// The name of the file that it is on top of.
    #[must_use]
    pub fn backing(&self) -> Option<&str> {
        self.backing.as_deref()
    }

    /// Bytes of the file.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.data.end
    }

    /// Whether the file says what the bytes from `offset` on are, or leaves them to the one that it is on top of; and for
    /// how many bytes, of which `limit` are of interest, that is so.
    ///
    /// # Errors
    ///
    /// When the tables contradict themselves.
    pub fn tells(&self, offset: u64, limit: u64) -> Result<(bool, u64)> {
        if offset >= self.size() {
            return Ok((self.backing.is_none(), limit));
        }
        let run = self.layer.run_at(offset, limit)?;
        Ok((run.place != Place::Absent || self.backing.is_none(), run.len.min(limit)))
    }

    /// Call `each` with the ranges that are zeros by the tables alone, ascending.
    ///
    /// # Errors
    ///
    /// When the tables contradict themselves, and what `each` gives.
    pub fn zeros(&self, each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        self.walk(&mut |at, run| match run.place {
            Place::Zero => each(at..at + run.len),
            Place::Absent if self.backing.is_none() => each(at..at + run.len),
            _ => Ok(()),
        })
    }

    fn walk(&self, each: &mut dyn FnMut(u64, Run) -> Result<()>) -> Result<()> {
        let mut at = 0;
        while at < self.size() {
            let run = self.layer.run_at(at, STRIDE)?;
            let len = run.len.clamp(1, self.size() - at);
            each(at, Run { len, ..run })?;
            at += len;
        }
        Ok(())
    }
}

/// How far the file has come.
enum Stage {
    /// Its header is coming: one cluster.
    Header,
    /// Its L1 table and its table of refcounts are coming.
    Roots { l1: Range<u64>, refcounts: Range<u64> },
    /// Everything in front of its data is coming: so many L2 tables among it.
    Tables { data_at: u64, l2_tables: u64 },
    /// Its data is coming.
    Data { map: Arc<DiskMap>, cursor: Cursor },
}

/// Which bytes of the disk come next.
#[derive(Clone, Copy)]
struct Cursor {
    /// A place in the file up to which everything has come.
    next: u64,
    /// A run of stored bytes: where it is in the file and on the disk, and how long.
    file: u64,
    disk: u64,
    len: u64,
}

/// A file that is coming in.
pub struct Arriving {
    tables: Arc<dyn Tables>,
    /// Bytes of the tables that have come.
    came: u64,
    stage: Stage,
}

/// What such a file cannot be.
fn foreign(why: &str) -> Error {
    Error::unsupported(format!(
        "{why}: this is no file that `revenant backup` has made; restore it into a folder of another place, and use \
         `revenant convert` there"
    ))
}

impl Arriving {
    /// A file whose tables are kept in `tables`, which is empty.
    #[must_use]
    pub fn new(tables: Arc<dyn Tables>) -> Self {
        Self { tables, came: 0, stage: Stage::Header }
    }

    /// Whether all of it has come.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(&self.stage, Stage::Data { map, cursor } if cursor.next >= map.data.end)
    }

    /// What the file is, once its tables have come.
    #[must_use]
    pub const fn map(&self) -> Option<&Arc<DiskMap>> {
        match &self.stage {
            Stage::Data { map, .. } => Some(map),
            _ => None,
        }
    }

    /// The end of what has to come before more is known; `None`: nothing has.
    const fn front(&self) -> Option<u64> {
        match &self.stage {
            Stage::Header => Some(CLUSTER),
            Stage::Roots { l1, refcounts } => Some(if l1.end > refcounts.end { l1.end } else { refcounts.end }),
            Stage::Tables { data_at, .. } => Some(*data_at),
            Stage::Data { .. } => None,
        }
    }

    /// Take `bytes`, which are in the file from `offset` on, and tell `receiver` what they are.
    ///
    /// # Errors
    ///
    /// `Unsupported` when the file is laid out otherwise, `Damaged` when it contradicts itself, and what `receiver` gives.
    pub fn take(&mut self, mut bytes: &[u8], mut offset: u64, receiver: &mut dyn Receiver) -> Result<()> {
        while !bytes.is_empty() {
            let Some(front) = self.front() else { return self.take_data(bytes, offset, receiver) };
            let here = usize::try_from(front.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(here);
            if !now.is_empty() {
                self.tables.put(now, offset)?;
                self.came = self.came.saturating_add(now.len() as u64);
            }
            (bytes, offset) = (rest, offset.saturating_add(here as u64));
            // What was passed over in front of it was zeros.
            while self.front().is_some_and(|front| offset >= front) {
                self.advance(receiver)?;
            }
        }
        Ok(())
    }

    /// Goes on as far as what has come tells.
    fn advance(&mut self, receiver: &mut dyn Receiver) -> Result<()> {
        self.stage = match &self.stage {
            Stage::Header => self.roots()?,
            Stage::Roots { l1, refcounts } => {
                let ((l2_tables, last), (_, last_block)) = (self.named_by(l1)?, self.named_by(refcounts)?);
                let last = last.max(last_block).map_or(0, |last| last.saturating_add(CLUSTER));
                Stage::Tables { data_at: last.max(l1.end).max(refcounts.end), l2_tables }
            }
            Stage::Tables { data_at, l2_tables } => {
                // Each has something in it: who walks through them does so for what has come, not for what is claimed.
                if l2_tables.saturating_mul(TABLE_MIN) > self.came {
                    return Err(Error::damaged("L2 tables of a qcow2 file have not come"));
                }
                let map = Arc::new(self.disk_map(*data_at)?);
                receiver.mapped(&map)?;
                let next = map.data.start;
                Stage::Data { map, cursor: Cursor { next, file: next, disk: 0, len: 0 } }
            }
            Stage::Data { .. } => return Ok(()),
        };
        Ok(())
    }

    /// What the header says of the tables that all others are found by.
    fn roots(&self) -> Result<Stage> {
        let mut header = [0; 104];
        self.tables.get(&mut header, 0)?;
        if !header.starts_with(b"QFI\xfb") {
            return Err(foreign("it is no qcow2 file"));
        }
        let features =
            [be64(&header, 72), be64(&header, 88), u64::from(be32(&header, 60)), u64::from(be32(&header, 32))];
        if be32(&header, 4) != 3 || 1_u64.checked_shl(be32(&header, 20)) != Some(CLUSTER) || features != [0; 4] {
            return Err(foreign("it has other clusters, or features"));
        }
        let table = |at: u64, len: u64| {
            let end = at.checked_add(len).filter(|end| *end <= 4 * TABLE_MAX && len <= TABLE_MAX && at >= CLUSTER);
            end.map(|end| at..end.next_multiple_of(CLUSTER)).ok_or_else(|| foreign("its tables are somewhere else"))
        };
        Ok(Stage::Roots {
            l1: table(be64(&header, 40), u64::from(be32(&header, 36)) * 8)?,
            refcounts: table(be64(&header, 48), u64::from(be32(&header, 56)) * CLUSTER)?,
        })
    }

    /// How many places the entries of a table name, which ascend, and the last of them.
    fn named_by(&self, table: &Range<u64>) -> Result<(u64, Option<u64>)> {
        let (mut count, mut last) = (0, None);
        let mut chunk = vec![0; CHUNK as usize];
        for at in (table.start..table.end).step_by(CHUNK as usize) {
            self.tables.get(&mut chunk, at)?;
            let places = chunk.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry) & OFFSET);
            for place in places.filter(|place| *place != 0) {
                if last.is_some_and(|last| place <= last) {
                    return Err(foreign("its tables are not in the order of the disk"));
                }
                (count, last) = (count + 1, Some(place));
            }
        }
        Ok((count, last))
    }

    /// The map, with its data in the order in which it comes.
    fn disk_map(&self, data_at: u64) -> Result<DiskMap> {
        let opened = open(Arc::new(Kept(Arc::clone(&self.tables))), &Alone)?;
        let backing = opened.info.parent.and_then(|parent| parent.names.into_iter().next());
        let mut map = DiskMap { layer: opened.layer, backing, data: data_at..data_at };
        let mut end = data_at;
        map.walk(&mut |_, run| {
            match run.place {
                // The last cluster of a disk goes on behind its end.
                Place::Stored { file: 0, offset } if offset == end => {
                    end = end.saturating_add(run.len.next_multiple_of(CLUSTER));
                }
                Place::Zero | Place::Absent => {}
                _ => return Err(foreign("its data is not in the order of the disk")),
            }
            Ok(())
        })?;
        map.data.end = end;
        Ok(map)
    }

    fn take_data(&mut self, bytes: &[u8], offset: u64, receiver: &mut dyn Receiver) -> Result<()> {
        let Stage::Data { map, cursor } = &mut self.stage else { return Ok(()) };
        let end = offset.saturating_add(bytes.len() as u64);
        if offset < map.data.start || end > map.data.end {
            return Err(Error::damaged(format!(
                "bytes {offset} to {end} of a file come that has its data in bytes {} to {}",
                map.data.start, map.data.end
            )));
        }
        if offset > cursor.next {
            cursor.pieces(map, cursor.next..offset, &mut |disk, range| {
                receiver.zeros(disk..disk.saturating_add(range.end - range.start))
            })?;
        }
        cursor.pieces(map, offset..end, &mut |disk, range| {
            let piece = (range.start - offset) as usize..(range.end - offset) as usize;
            receiver.data(bytes.get(piece).unwrap_or_default(), disk)
        })?;
        cursor.next = cursor.next.max(end);
        Ok(())
    }
}

impl Cursor {
    /// Call `each` with the pieces of `range` of the file: where each is on the disk. What is behind the disk's end is not
    /// told.
    fn pieces(
        &mut self,
        map: &DiskMap,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            if at < self.file {
                // Written again: from the start.
                *self = Self { next: self.next, file: map.data.start, disk: 0, len: 0 };
            }
            while at >= self.file.saturating_add(self.len.next_multiple_of(CLUSTER)) {
                let passed = self.disk.saturating_add(self.len);
                if passed >= map.size() {
                    return Ok(());
                }
                let run = map.layer.run_at(passed, STRIDE)?;
                let len = run.len.clamp(1, map.size() - passed);
                (self.disk, self.len) = match run.place {
                    Place::Stored { offset, .. } => {
                        self.file = offset;
                        (passed, len)
                    }
                    _ => {
                        self.file = self.file.saturating_add(self.len.next_multiple_of(CLUSTER));
                        (passed.saturating_add(len), 0)
                    }
                };
            }
            let skip = at - self.file;
            let end = range.end.min(self.file.saturating_add(self.len.next_multiple_of(CLUSTER)));
            let told = end.min(self.file.saturating_add(self.len));
            if told > at {
                each(self.disk + skip, at..told)?;
            }
            at = end;
        }
        Ok(())
    }
}

/// The tables as a file that is long enough for whatever they say.
struct Kept(Arc<dyn Tables>);

impl ReadAt for Kept {
    fn size(&self) -> u64 {
        i64::MAX as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.get(buf, offset)?;
        Ok(buf.len())
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.size()).then_some(Extent { range: offset..self.size(), kind: ExtentKind::Data }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}
