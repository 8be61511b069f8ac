//! Transactions out of records.
//!
//! The data of records is a sequence of operations: a header of 12 bytes and a *region*. Operations of several
//! transactions may be mixed, and a region may go on in the next record. The regions of a transaction are its items, each
//! a description (its type, its number of regions) and what it describes. ("Log Operations", "Log Items".)
//!
//! Only where regions are is kept until a transaction is committed: a large one has tens of MiB.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use blockdev::{
    Error, ErrorKind, ReadAt, Result,
    fields::{be32, le16, le32, slice},
};

use super::{ends::Active, physical::Physical, record::Record};
use crate::xfs::superblock::Superblock;

/// Bytes of an operation's header.
const HEADER: usize = 12;

/// Flags of an operation.
const START: u8 = 0x01;
const COMMIT: u8 = 0x02;
const CONTINUES: u8 = 0x04;
const CONTINUED: u8 = 0x08;
const ENDS: u8 = 0x10;
const UNMOUNT: u8 = 0x20;

/// A transaction begins with these bytes, so many of them.
const TRANSACTION_MAGIC: u32 = 0x5452_414e;
const TRANSACTION_HEADER: usize = 16;

/// Regions that are kept for transactions that are not yet committed.
const REGIONS_MAX: usize = 1 << 20;

/// The largest region: a buffer of 64 KiB, or an attribute's value.
const REGION_MAX: usize = 128 << 10;

/// Regions that an item may have.
const ITEM_REGIONS_MAX: u16 = 0x7fff;

/// Transactions under way at once.
const PENDING_MAX: usize = 1 << 12;

/// Bytes of a record's data.
#[derive(Debug, Clone, Copy)]
struct Piece {
    record: u32,
    at: u32,
    len: u32,
}

/// A region: most are in one piece.
pub struct Region {
    first: Piece,
    more: Vec<Piece>,
}

/// An item: its regions, of which the first describes it.
pub struct Item {
    regions: Vec<Region>,
    total: usize,
}

impl Item {
    /// Its regions.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }
}

/// What reads regions.
pub struct Reader<'a, D: ?Sized> {
    sb: &'a Superblock,
    log: &'a Physical<'a, D>,
    /// The records that were read last, by their block.
    last: RefCell<[Option<(u32, Arc<[u8]>)>; 2]>,
}

impl<D: ReadAt + ?Sized> Reader<'_, D> {
    /// The data of the record at `block`.
    fn data(&self, block: u32) -> Result<Arc<[u8]>> {
        let mut last = self.last.borrow_mut();
        if let Some((_, data)) = last.iter().flatten().find(|(kept, _)| *kept == block) {
            return Ok(Arc::clone(data));
        }
        let data: Arc<[u8]> = Record::at(self.sb, self.log, block.into())?.data(self.log)?.into();
        last.swap(0, 1);
        last[0] = Some((block, Arc::clone(&data)));
        Ok(data)
    }

    /// The bytes of `region`.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn region(&self, region: &Region) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for piece in std::iter::once(&region.first).chain(&region.more) {
            let data = self.data(piece.record)?;
            bytes.extend_from_slice(slice(&data, piece.at as usize, piece.len as usize));
            if bytes.len() > REGION_MAX {
                return Err(Error::damaged("it has a region that is too long"));
            }
        }
        Ok(bytes)
    }
}

/// A transaction that is not yet committed.
struct Pending {
    lsn: u64,
    /// Bytes of its header so far.
    header: usize,
    items: Vec<Item>,
    regions: usize,
}

/// Those that are under way.
#[derive(Default)]
struct Pendings {
    by_id: HashMap<u32, Pending>,
    /// Regions of all of them.
    regions: usize,
}

/// Calls `commit` for each transaction of the part `active` of `log` that was committed, with the sequence number of the
/// record where it began, in the order of commits.
///
/// # Errors
///
/// What `commit` says; when a record is damaged or makes no sense.
pub fn walk<D: ReadAt + ?Sized>(
    sb: &Superblock,
    log: &Physical<'_, D>,
    active: &Active,
    commit: &mut dyn FnMut(&Reader<'_, D>, u64, &[Item]) -> Result<()>,
) -> Result<()> {
    let reader = Reader { sb, log, last: RefCell::default() };
    let mut pending = Pendings::default();
    let mut done = 0;
    while done < active.blocks {
        let block = (active.tail + done) % log.blocks;
        let record = Record::at(sb, log, block)?;
        done += record.blocks();
        if done > active.blocks {
            return Err(Error::damaged(format!("the record at its block {block} goes on behind its end")));
        }
        // A block number has 32 bits.
        operations(&reader, &record, block as u32, &mut pending, commit).map_err(|e| {
            let place = format!("in the record at its block {block}");
            if e.kind() == ErrorKind::Damaged { e.context(place) } else { e }
        })?;
    }
    Ok(())
}

/// Takes the operations of one record apart.
fn operations<D: ReadAt + ?Sized>(
    reader: &Reader<'_, D>,
    record: &Record,
    block: u32,
    pending: &mut Pendings,
    commit: &mut dyn FnMut(&Reader<'_, D>, u64, &[Item]) -> Result<()>,
) -> Result<()> {
    let data = reader.data(block)?;
    let mut at = 0;
    for _ in 0..record.operations {
        if at + HEADER > data.len() {
            break;
        }
        let (id, len) = (be32(&data, at), be32(&data, at + 4) as usize);
        let flags = slice(&data, at + 9, 1).first().copied().unwrap_or_default() & !ENDS;
        at += HEADER;
        let region =
            data.get(at..).and_then(|rest| rest.get(..len)).ok_or_else(|| Error::damaged("an operation is cut off"))?;
        let piece = Piece { record: block, at: at as u32, len: len as u32 };
        at += len;
        if flags & START != 0 {
            let fresh = Pending { lsn: record.lsn, header: 0, items: Vec::new(), regions: 0 };
            pending.by_id.entry(id).or_insert(fresh);
            if pending.by_id.len() > PENDING_MAX {
                return Err(Error::new(ErrorKind::Limit, "it has too many transactions at once"));
            }
            continue;
        }
        // The end of a transaction that began before the log does: all it says is in its place.
        let Some(transaction) = pending.by_id.get_mut(&id) else { continue };
        if flags & (COMMIT | UNMOUNT) != 0 {
            if let Some(transaction) = pending.by_id.remove(&id) {
                pending.regions -= transaction.regions;
                if flags & COMMIT != 0 {
                    commit(reader, transaction.lsn, &transaction.items)?;
                }
            }
            continue;
        }
        let before = transaction.regions;
        if flags & CONTINUED != 0 {
            transaction.go_on(piece)?;
        } else if flags & !CONTINUES == 0 {
            transaction.add(piece, region)?;
        } else {
            return Err(Error::damaged(format!("an operation has the unknown flags {flags:#x}")));
        }
        pending.regions += transaction.regions - before;
        if pending.regions > REGIONS_MAX {
            return Err(Error::new(ErrorKind::Limit, "its transactions are too large to be replayed in memory"));
        }
    }
    Ok(())
}

impl Pending {
    /// A region, or its beginning.
    fn add(&mut self, piece: Piece, region: &[u8]) -> Result<()> {
        if piece.len == 0 {
            return Ok(());
        }
        if self.header < TRANSACTION_HEADER {
            let first = self.header == 0;
            self.header += region.len();
            let valid = self.header <= TRANSACTION_HEADER && (!first || le32(region, 0) == TRANSACTION_MAGIC);
            return if valid { Ok(()) } else { Err(Error::damaged("a transaction has no header")) };
        }
        self.regions += 1;
        let region_ = Region { first: piece, more: Vec::new() };
        if let Some(item) = self.items.last_mut().filter(|item| item.regions.len() < item.total) {
            item.regions.push(region_);
            return Ok(());
        }
        // The description begins with its type and the number of regions: the first four bytes are never apart.
        let total = le16(region, 2);
        if region.len() < 4 || !(1..=ITEM_REGIONS_MAX).contains(&total) {
            return Err(Error::damaged(format!("an item has {total} regions")));
        }
        self.items.push(Item { regions: vec![region_], total: total.into() });
        Ok(())
    }

    /// The rest of a region, from a later record.
    fn go_on(&mut self, piece: Piece) -> Result<()> {
        if self.header < TRANSACTION_HEADER {
            self.header += piece.len as usize;
            return Ok(());
        }
        let region = self.items.last_mut().and_then(|item| item.regions.last_mut());
        let region = region.ok_or_else(|| Error::damaged("a region goes on that did not begin"))?;
        self.regions += 1;
        region.more.push(piece);
        Ok(())
    }
}
