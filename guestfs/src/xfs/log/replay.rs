//! Transactions put in their places, in memory.
//!
//! What has a newer sequence number on the disk than the transaction is left as it is. A buffer that is *cancelled* later
//! in the log is not replayed: its blocks may have become somebody's content. The order within a transaction is that of
//! the kernel: buffers, then inodes, then what is cancelled. What no reader looks at (free space, quotas, free inodes) is
//! left out. ("Buffer Log Item", "Inode Create".)
//!
//! The checksum of a block is computed anew, since the log has none. A block that was damaged on the disk before must not
//! become sound by that: it keeps the wrong one.

use std::collections::{BTreeMap, HashMap, HashSet};

use blockdev::{
    Error, ReadAt, Result,
    fields::{be16, be32, be64, le16, le32, le64, read, slice},
};

use super::{
    inode::{self, Description},
    transactions::{Item, Reader, Region},
};
use crate::{
    patched::{Patch, Patches},
    xfs::{
        check,
        inode::SUM,
        superblock::{BASIC_LOG, Superblock},
    },
};

/// Bytes of a patch.
const SECTOR: usize = 1 << BASIC_LOG;

/// Sectors that may be patched: a bound for memory, 128 MiB of them.
const SECTORS_MAX: usize = 1 << 18;

/// The largest buffer.
const BUFFER_MAX: u64 = 64 << 10;

/// Bytes of a buffer that a bit of its map stands for.
const CHUNK: usize = 128;

/// Buffers that may be cancelled.
const CANCELLED_MAX: usize = 1 << 20;

/// Types of items.
mod kind {
    pub const EXTENTS_FREE: [u16; 2] = [0x1236, 0x1237];
    pub const UNLINKED: u16 = 0x1238;
    pub const INODE: u16 = 0x123b;
    pub const BUFFER: u16 = 0x123c;
    pub const QUOTA: [u16; 2] = [0x123d, 0x123e];
    pub const INODES_MADE: u16 = 0x123f;
    pub const REVERSE_MAP: [u16; 2] = [0x1240, 0x1241];
    pub const REFERENCES: [u16; 2] = [0x1242, 0x1243];
    /// An intent, and that it was done: changes of extents, of attributes, exchanges of content.
    pub const INTENTS: [(u16, u16); 3] = [(0x1244, 0x1245), (0x1246, 0x1247), (0x1248, 0x1249)];
    /// Intents for the realtime device.
    pub const REALTIME: std::ops::RangeInclusive<u16> = 0x124a..=0x124f;
}

/// Flags of a buffer.
const INODES: u16 = 0x01;
const CANCEL: u16 = 0x02;
const QUOTAS: u16 = 0x04 | 0x08 | 0x10;

/// Types of buffers that no reader looks at: quotas, the list of free blocks, free space of directories, realtime.
const NOT_READ: [u16; 7] = [1, 2, 3, 6, 12, 19, 20];

/// Trees within an allocation group, by their magic number: free space, inodes, reverse map, references.
const GROUP_TREES: [&[u8; 4]; 10] =
    [b"ABTB", b"ABTC", b"AB3B", b"AB3C", b"IABT", b"IAB3", b"FIBT", b"FIB3", b"RMB3", b"R3FC"];

/// The description of a buffer.
struct Buffer {
    flags: u16,
    /// Address and length in sectors.
    start: u64,
    sectors: u64,
    map: Vec<u8>,
}

impl Buffer {
    fn parse(region: &[u8]) -> Self {
        let words = (le32(region, 16) as usize).min(region.len() / 4);
        let map = slice(region, 20, words * 4).to_vec();
        Self { flags: le16(region, 4), start: le64(region, 8), sectors: le16(region, 6).into(), map }
    }

    fn bit(&self, n: usize) -> bool {
        self.map.get(n / 8).is_some_and(|byte| byte >> (n % 8) & 1 != 0)
    }

    /// The kind of content, where the kernel said it.
    const fn content(&self) -> u16 {
        self.flags >> 11
    }
}

/// What the first pass finds out.
#[derive(Default)]
pub struct Cancelled {
    /// How often a buffer at an address is cancelled.
    buffers: HashMap<u64, u32>,
    /// Intents that were not done so far.
    intents: HashSet<(u16, u64)>,
}

impl Cancelled {
    /// Look at the items of a transaction.
    pub fn collect<D: ReadAt + ?Sized>(&mut self, reader: &Reader<'_, D>, items: &[Item]) -> Result<()> {
        for item in items {
            let Some(first) = item.regions().first() else { continue };
            let region = reader.region(first)?;
            let found = le16(&region, 0);
            if found == kind::BUFFER {
                let buffer = Buffer::parse(&region);
                if buffer.flags & CANCEL != 0 {
                    *self.buffers.entry(buffer.start).or_default() += 1;
                }
            }
            for (begun, done) in kind::INTENTS {
                // The identity is behind type and sizes, or the count of extents.
                let id = le64(&region, 8);
                if found == begun {
                    self.intents.insert((begun, id));
                } else if found == done {
                    self.intents.remove(&(begun, id));
                }
            }
            if self.buffers.len() + self.intents.len() > CANCELLED_MAX {
                return Err(Error::damaged("it cancels too many buffers"));
            }
        }
        Ok(())
    }

    /// Intents that were not done in the end.
    pub fn unfinished(&self) -> usize {
        self.intents.len()
    }
}

/// What a replay did.
#[derive(Default)]
pub struct Summary {
    /// Transactions.
    pub transactions: u64,
    /// Blocks and inodes that were damaged before.
    pub damaged: u64,
    /// Items that were not replayed though they matter.
    pub skipped: u64,
}

/// A replay.
pub struct Replay<'a, D: ?Sized> {
    sb: &'a Superblock,
    device: &'a D,
    cancelled: Cancelled,
    patches: Patches,
    /// Buffers that were changed, by address: their length in sectors, and the last transaction that did.
    touched: BTreeMap<u64, (u64, u64)>,
    summary: Summary,
}

impl<'a, D: ReadAt + ?Sized> Replay<'a, D> {
    /// One that changed nothing so far.
    pub fn new(sb: &'a Superblock, device: &'a D, cancelled: Cancelled) -> Self {
        let patches = Patches::new(SECTOR as u32, SECTORS_MAX);
        Self { sb, device, cancelled, patches, touched: BTreeMap::new(), summary: Summary::default() }
    }

    /// Replay the transaction of `items` that began at `lsn`.
    pub fn commit(&mut self, reader: &Reader<'_, D>, lsn: u64, items: &[Item]) -> Result<()> {
        self.summary.transactions += 1;
        // Descriptions are read again where they are needed: there may be a great many.
        let mut classes = Vec::with_capacity(items.len());
        for item in items {
            let region = item.regions().first().map_or(Ok(Vec::new()), |first| reader.region(first))?;
            classes.push(self.class(&region));
        }
        for wanted in [Class::First, Class::Second, Class::Last] {
            for (item, _) in items.iter().zip(&classes).filter(|(_, class)| **class == wanted) {
                self.item(reader, lsn, item.regions())?;
            }
        }
        Ok(())
    }

    fn class(&mut self, description: &[u8]) -> Class {
        match le16(description, 0) {
            kind::BUFFER if Buffer::parse(description).flags & CANCEL != 0 => Class::Last,
            // Of inodes' buffers only lists of deleted ones are taken, which nobody reads.
            kind::BUFFER if Buffer::parse(description).flags & (INODES | QUOTAS) != 0 => Class::None,
            kind::BUFFER | kind::INODES_MADE => Class::First,
            kind::INODE => Class::Second,
            found => {
                let known = [kind::EXTENTS_FREE, kind::QUOTA, kind::REVERSE_MAP, kind::REFERENCES];
                let unread = found == kind::UNLINKED
                    || known.as_flattened().contains(&found)
                    || kind::INTENTS.iter().any(|(begun, done)| [*begun, *done].contains(&found))
                    || kind::REALTIME.contains(&found);
                self.summary.skipped += u64::from(!unread);
                Class::None
            }
        }
    }

    fn item(&mut self, reader: &Reader<'_, D>, lsn: u64, regions: &[Region]) -> Result<()> {
        let Some((description, rest)) = regions.split_first() else { return Ok(()) };
        let description = reader.region(description)?;
        match le16(&description, 0) {
            kind::BUFFER => self.buffer(reader, lsn, &Buffer::parse(&description), rest),
            kind::INODES_MADE => self.inodes_made(&description),
            _ => self.inode(reader, lsn, &description, rest),
        }
    }

    /// What the `sectors` sectors from `start` on are by now.
    fn view(&mut self, start: u64, sectors: u64) -> Result<Vec<u8>> {
        let end = start.checked_add(sectors).filter(|end| *end <= self.sb.len() >> BASIC_LOG);
        let len = sectors << BASIC_LOG;
        if end.is_none() || len == 0 || len > BUFFER_MAX {
            return Err(Error::damaged(format!("it changes {sectors} sectors from {start} on")));
        }
        let mut bytes = read(self.device, start << BASIC_LOG, len as usize)?;
        if bytes.len() < len as usize {
            return Err(Error::damaged("it changes what lies behind the volume's end"));
        }
        for (number, sector) in (start..).zip(bytes.chunks_mut(SECTOR)) {
            if let Some(patch) = self.patches.bytes(number) {
                sector.copy_from_slice(patch);
            }
        }
        Ok(bytes)
    }

    /// Put `bytes` in the place of `before`, the sectors from `start` on.
    fn put(&mut self, start: u64, before: &[u8], bytes: &[u8]) -> Result<()> {
        for (number, (old, new)) in (start..).zip(before.chunks(SECTOR).zip(bytes.chunks(SECTOR))) {
            if old == new {
                continue;
            }
            match self.patches.bytes(number) {
                Some(patch) => patch.copy_from_slice(new),
                None => self.patches.put(number, Patch::Bytes(new.to_vec()))?,
            }
        }
        Ok(())
    }

    fn is_cancelled(&self, start: u64) -> bool {
        self.cancelled.buffers.contains_key(&start)
    }

    fn buffer(&mut self, reader: &Reader<'_, D>, lsn: u64, buffer: &Buffer, regions: &[Region]) -> Result<()> {
        if buffer.flags & CANCEL != 0 {
            // From here on the blocks may be used anew.
            if let Some(left) = self.cancelled.buffers.get_mut(&buffer.start) {
                *left -= 1;
                if *left == 0 {
                    self.cancelled.buffers.remove(&buffer.start);
                }
            }
            return Ok(());
        }
        if self.is_cancelled(buffer.start) || NOT_READ.contains(&buffer.content()) {
            return Ok(());
        }
        let before = self.view(buffer.start, buffer.sectors)?;
        if self.is_newer(buffer.start, &before, lsn) {
            return Ok(());
        }
        let mut bytes = before.clone();
        let (mut bit, mut regions) = (0, regions.iter());
        while bit * CHUNK < bytes.len() {
            if !buffer.bit(bit) {
                bit += 1;
                continue;
            }
            // A region has chunks that follow each other, but not always all of them.
            let run = (bit..).take_while(|n| n * CHUNK < before.len() && buffer.bit(*n)).count();
            let region = regions.next().map(|region| reader.region(region)).transpose()?.unwrap_or_default();
            let len = region.len().min(run * CHUNK) / CHUNK * CHUNK;
            let Some(dest) = bytes.get_mut(bit * CHUNK..bit * CHUNK + len).filter(|_| len > 0) else {
                return Err(Error::damaged(format!("a buffer at sector {} has not what its map says", buffer.start)));
            };
            dest.copy_from_slice(slice(&region, 0, len));
            bit += len / CHUNK;
        }
        if GROUP_TREES.iter().any(|magic| bytes.starts_with(*magic)) {
            return Ok(());
        }
        self.touched.insert(buffer.start, (buffer.sectors, lsn));
        self.put(buffer.start, &before, &bytes)
    }

    /// Whether the block from sector `start` on, `bytes` by now, is newer than what was logged at `lsn`.
    fn is_newer(&self, start: u64, bytes: &[u8], lsn: u64) -> bool {
        if let Some((_, last)) = self.touched.get(&start) {
            return *last > lsn;
        }
        let Some(fields) = check::identify(bytes).filter(|_| self.sb.v5) else { return false };
        let uuid = slice(bytes, fields.uuid, 16);
        let ours = uuid == self.sb.meta_uuid || *fields == check::SUPERBLOCK && uuid == self.sb.uuid;
        let found = be64(bytes, fields.lsn);
        ours && found != 0 && found != u64::MAX && found >= lsn
    }

    fn inode(&mut self, reader: &Reader<'_, D>, lsn: u64, description: &[u8], regions: &[Region]) -> Result<()> {
        let wrong = || Error::damaged("an inode in it makes no sense");
        let item = Description::parse(description).ok_or_else(wrong)?;
        if self.is_cancelled(item.block) {
            return Ok(());
        }
        let (place, _) = self.sb.inode_place(item.inode)?;
        if item.block.checked_mul(SECTOR as u64).and_then(|at| at.checked_add(item.offset.into())) != Some(place) {
            return Err(Error::damaged(format!("inode {} in it lies elsewhere", item.inode)));
        }
        if item.changes_owner() {
            self.summary.skipped += 1;
        }
        let regions = regions.iter().take(3).map(|region| reader.region(region)).collect::<Result<Vec<_>>>()?;
        self.change_inode(place, false, |sb, inode| {
            let is_inode = inode.starts_with(b"IN");
            if !is_inode {
                return Err(Error::damaged(format!("inode {} is none on the disk", item.inode)));
            }
            if sb.v5 {
                let found = inode::lsn_of(inode);
                if found != 0 && found != u64::MAX && found > lsn {
                    return Ok(false);
                }
            } else if let Some(core) = regions.first() {
                // Older versions count writes; the count wraps.
                let (logged, found) = (inode::flushes(core), be16(inode, 30));
                if logged < found && !(found == u16::MAX && logged < u16::MAX >> 1) {
                    return Ok(false);
                }
            }
            if item.apply(sb.v5, lsn, inode, &regions) { Ok(true) } else { Err(wrong()) }
        })
    }

    /// Change the inode at byte `place`, and put its checksum right unless it was damaged and not made `anew`.
    fn change_inode(
        &mut self,
        place: u64,
        anew: bool,
        change: impl FnOnce(&Superblock, &mut [u8]) -> Result<bool>,
    ) -> Result<()> {
        let (sector, skip) = (place >> BASIC_LOG, (place & (SECTOR as u64 - 1)) as usize);
        let len = self.sb.inode_len();
        let sectors = ((skip + len).div_ceil(SECTOR)) as u64;
        let before = self.view(sector, sectors)?;
        let mut bytes = before.clone();
        let inode = bytes.get_mut(skip..skip + len).unwrap_or_default();
        let damaged = self.sb.v5 && !anew && is_damaged_inode(self.sb, inode);
        if !change(self.sb, inode)? {
            return Ok(());
        }
        if self.sb.v5 {
            let sum = check::sum(inode, SUM);
            // Another transaction may come to the same inode: it must find it as damaged.
            let sum = if damaged { !sum } else { sum };
            self.summary.damaged += u64::from(damaged);
            if let Some(field) = inode.get_mut(SUM..SUM + 4) {
                field.copy_from_slice(&sum.to_le_bytes());
            }
        }
        self.put(sector, &before, &bytes)
    }

    /// Inodes that were made: a chunk of free ones.
    fn inodes_made(&mut self, region: &[u8]) -> Result<()> {
        let field = |at| be32(region, at);
        let (group, block, count, len, blocks) = (field(4), field(8), field(12), field(16), field(20));
        let fits = region.len() >= 28
            && len as usize == self.sb.inode_len()
            && u64::from(blocks) << self.sb.block_log <= 2 * BUFFER_MAX
            && u64::from(count) << self.sb.inode_log == u64::from(blocks) << self.sb.block_log;
        if !fits {
            return Err(Error::damaged(format!("it makes {count} inodes in {blocks} blocks")));
        }
        let (start, _) = self.sb.inode_place(self.sb.inode_number(group, block, 0))?;
        if self.is_cancelled(start >> BASIC_LOG) {
            return Ok(());
        }
        for index in 0..count {
            let number = self.sb.inode_number(group, block, index);
            let (place, _) = self.sb.inode_place(number)?;
            self.change_inode(place, true, |sb, inode| {
                inode.fill(0);
                let version = if sb.v5 { 3 } else { 2 };
                let fields: [(usize, &[u8]); 6] = [
                    (0, b"IN"),
                    (4, &[version]),
                    (92, slice(region, 24, 4)),
                    (96, &[0xff; 4]),
                    (152, &number.to_be_bytes()),
                    (160, &sb.meta_uuid),
                ];
                for (at, bytes) in fields.iter().take(if sb.v5 { 6 } else { 4 }) {
                    if let Some(field) = inode.get_mut(*at..at + bytes.len()) {
                        field.copy_from_slice(bytes);
                    }
                }
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// What is to be put in the place of what: with checksums put right.
    pub fn finish(mut self) -> Result<(Patches, Summary)> {
        if self.sb.v5 {
            for (start, (sectors, _)) in std::mem::take(&mut self.touched) {
                self.stamp(start, sectors)?;
            }
        }
        Ok((self.patches, self.summary))
    }

    /// Put the checksum right of the buffer at `start`, unless it was damaged on the disk and is still the same block.
    fn stamp(&mut self, start: u64, sectors: u64) -> Result<()> {
        let before = self.view(start, sectors)?;
        let Some(fields) = check::identify(&before) else { return Ok(()) };
        let on_disk = read(self.device, start << BASIC_LOG, before.len())?;
        let same = |at: usize, len| slice(&on_disk, at, len) == slice(&before, at, len);
        let same_block = fields.is_in(&on_disk)
            && same(fields.uuid, 16)
            && fields.place.is_none_or(|(place, owner)| same(place, 8) && same(owner, 8));
        let mut sum = check::sum(&before, fields.sum);
        if same_block && !check::sum_matches(&on_disk, fields.sum) {
            self.summary.damaged += 1;
            sum = !sum;
        }
        let mut bytes = before.clone();
        if let Some(field) = bytes.get_mut(fields.sum..fields.sum + 4) {
            field.copy_from_slice(&sum.to_le_bytes());
        }
        self.put(start, &before, &bytes)
    }
}

/// When an item is replayed within its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    First,
    Second,
    Last,
    None,
}

/// Whether `inode` is one of this volume, but not sound.
fn is_damaged_inode(sb: &Superblock, inode: &[u8]) -> bool {
    inode.starts_with(b"IN") && slice(inode, 160, 16) == sb.meta_uuid && !check::sum_matches(inode, SUM)
}
