//! Blocks of a pool: read from one of their copies, checked, unpacked.
//!
//! A block has up to three copies, each on a vdev that may have copies or parity of its own. All are tried until one has
//! the checksum that the pointer demands. A copy may be in pieces (a *gang*), under a header with pointers to them.

use std::{
    collections::VecDeque,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard},
};

use blockdev::{Error, ErrorKind, Result};
use quick_cache::{Weighter, sync::Cache};

use super::{
    block_pointer::{Address, BlockPointer, SIZE},
    checksum::{self, Checksums, Verifier},
    compression,
    log::{self, LogBlock},
    order::Order,
    vdev::{Failed, Place, Vdevs},
};

/// The largest block there can be: 16 MiB (feature `large_blocks`).
const BLOCK_MAX: usize = 16 << 20;

/// Bound of the kept metadata, in bytes, and blocks it is made for: a shard of the cache must hold the largest.
const KEPT_MAX: u64 = 48 << 20;
const KEPT_EXPECTED: usize = 256;
const KEPT_BLOCK_MAX: usize = 1 << 20;

/// Bound of the kept large blocks of content, which are read in pieces, in bytes; so many more as there are threads that
/// read one at the same time.
const LARGE_MAX: usize = 32 << 20;

/// The largest block of an intent log.
const LOG_BLOCK_MAX: usize = 1 << 20;

/// Bytes of a gang header in its usual form, and pointers in it.
const GANG_HEADER: usize = 512;
const GANG_POINTERS: usize = 3;

/// How deep gangs may lie in each other.
const GANG_DEPTH_MAX: u32 = 6;

/// An unpacked block and its byte order.
#[derive(Clone)]
pub struct Block {
    bytes: Arc<Vec<u8>>,
    /// Its byte order.
    pub order: Order,
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Block {
    /// The 16-bit number at `at`.
    pub fn u16(&self, at: usize) -> u16 {
        self.order.u16(&self.bytes, at)
    }

    /// The 32-bit number at `at`.
    pub fn u32(&self, at: usize) -> u32 {
        self.order.u32(&self.bytes, at)
    }

    /// The 64-bit number at `at`.
    pub fn u64(&self, at: usize) -> u64 {
        self.order.u64(&self.bytes, at)
    }

    /// The block pointer at `at`.
    pub fn pointer(&self, at: usize) -> BlockPointer {
        BlockPointer::parse(&self.bytes, at, self.order)
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<[u64; 7], Block> for ByBytes {
    fn weight(&self, _: &[u64; 7], block: &Block) -> u64 {
        block.bytes.len() as u64 + 128
    }
}

/// A pool.
pub struct Pool {
    vdevs: Vdevs,
    /// How its blocks are checked.
    pub checksums: Checksums,
    kept: Cache<[u64; 7], Block, ByBytes>,
    large: Mutex<VecDeque<([u64; 7], Block)>>,
}

impl Pool {
    /// The pool on `vdevs`.
    pub fn new(vdevs: Vdevs) -> Self {
        Self {
            vdevs,
            checksums: Checksums::default(),
            kept: Cache::with_weighter(KEPT_EXPECTED, KEPT_MAX, ByBytes),
            large: Mutex::default(),
        }
    }

    /// Its devices.
    pub fn vdevs(&self) -> &Vdevs {
        &self.vdevs
    }

    /// The metadata block that `pointer`, which is no hole, points to.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn metadata(&self, pointer: &BlockPointer) -> Result<Block> {
        let key = pointer.identity();
        // An embedded block has no identity but all its words, and is as near as the pointer.
        if !pointer.is_embedded()
            && let Some(block) = self.kept.get(&key)
        {
            return Ok(block);
        }
        let mut bytes = Vec::new();
        self.read(pointer, &mut bytes)?;
        let block = Block { bytes: Arc::new(bytes), order: pointer.order() };
        if !pointer.is_embedded() && block.bytes.len() <= KEPT_BLOCK_MAX {
            self.kept.insert(key, block.clone());
        }
        Ok(block)
    }

    /// The large block of content that `pointer`, which is no hole, points to; the last few are kept.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn large(&self, pointer: &BlockPointer) -> Result<Block> {
        let key = pointer.identity();
        if let Some((_, block)) = lock(&self.large).iter().find(|(known, _)| *known == key) {
            return Ok(block.clone());
        }
        let room = LARGE_MAX.saturating_sub(pointer.size());
        {
            let mut large = lock(&self.large);
            while large.iter().map(|(_, block)| block.len()).sum::<usize>() > room {
                large.pop_front();
            }
        }
        let mut bytes = Vec::new();
        self.read(pointer, &mut bytes)?;
        let block = Block { bytes: Arc::new(bytes), order: pointer.order() };
        lock(&self.large).push_back((key, block.clone()));
        Ok(block)
    }

    /// The block that `pointer` points to, in `out`, which is empty.
    ///
    /// # Errors
    ///
    /// `Damaged` when no copy has its checksum, `Missing` when the devices it is on are not at hand, `Locked` when it is
    /// encrypted, `Unsupported` when it is packed or checked in a way that is not known.
    pub fn read(&self, pointer: &BlockPointer, out: &mut Vec<u8>) -> Result<()> {
        let (size, stored_size) = (pointer.size(), pointer.stored_size());
        if size > BLOCK_MAX || stored_size > BLOCK_MAX {
            return Err(Error::damaged(format!("a block claims {size} bytes, stored as {stored_size}")));
        }
        if pointer.is_hole() {
            out.resize(size, 0);
            return Ok(());
        }
        if pointer.is_encrypted() && !pointer.is_objset() {
            return Err(Error::new(ErrorKind::Locked, "the guest encrypted it: it can be read in the guest only"));
        }
        if pointer.is_embedded() {
            return embedded(pointer, out);
        }
        if pointer.compression() == compression::OFF {
            if size != stored_size {
                return Err(Error::damaged(format!("a block of {size} bytes is stored as {stored_size}")));
            }
            out.resize(size, 0);
            return self.stored(pointer, out, 0);
        }
        let mut packed = vec![0; stored_size];
        self.stored(pointer, &mut packed, 0)?;
        out.resize(size, 0);
        compression::unpack(pointer.compression(), &mut packed, out)
    }

    /// The block of an intent log that `pointer` points to; `None` where there is none.
    ///
    /// # Errors
    ///
    /// `Missing` when the devices it is on are not at hand.
    pub fn log_block(&self, pointer: &BlockPointer) -> Result<Option<LogBlock>> {
        if pointer.is_hole() || pointer.is_embedded() || pointer.is_encrypted() || pointer.stored_size() > LOG_BLOCK_MAX
        {
            return Ok(None);
        }
        let mut block = vec![0; pointer.stored_size()];
        let mut order = None;
        for address in pointer.addresses().filter(|address| !address.gang) {
            let read = self.vdevs.read(place(pointer, address), &mut block, &mut |block| {
                let (covered, verifier) = log::checked(pointer, block)?;
                order = checksum::verify(block.get(..covered).unwrap_or_default(), verifier);
                Ok(order.is_some())
            });
            match (read, order) {
                (Ok(()), Some(order)) => return Ok(Some(LogBlock::new(pointer, block, order))),
                (Err(e), _) if e.kind() == ErrorKind::Missing => return Err(e),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Fills `buf`, which has its stored size, with what is stored of the block.
    fn stored(&self, pointer: &BlockPointer, buf: &mut [u8], depth: u32) -> Result<()> {
        let (kind, order, expected) = (pointer.checksum_kind(), pointer.order(), pointer.checksum());
        let mut is_right = |block: &[u8]| self.checksums.is_right(kind, order, block, &expected);
        let mut failed = Failed::default();
        for address in pointer.addresses() {
            let read = if address.gang {
                self.gang(pointer, address, buf, depth).and_then(|()| {
                    let right = is_right(buf)?;
                    if right { Ok(()) } else { Err(Error::damaged("the pieces of a block have a wrong checksum")) }
                })
            } else {
                self.vdevs.read(place(pointer, address), buf, &mut is_right)
            };
            match read {
                Ok(()) => return Ok(()),
                Err(e) => failed.add(e),
            }
        }
        Err(failed.or("a block has no copies"))
    }

    /// Fills `buf` with the pieces that the gang header at `address` points to, one after the other.
    fn gang(&self, pointer: &BlockPointer, address: Address, buf: &mut [u8], depth: u32) -> Result<()> {
        if depth >= GANG_DEPTH_MAX {
            return Err(Error::damaged("a block is in pieces of pieces of pieces"));
        }
        // The first copy identifies the block, and so its header, wherever that is.
        let first = pointer.addresses().next().unwrap_or(address);
        let verifier = Verifier::Gang(first.vdev, first.offset, pointer.physical_birth());
        let (mut header, mut order) = ([0; GANG_HEADER], None);
        self.vdevs.read(place(pointer, address), &mut header, &mut |header| {
            order = checksum::verify(header, verifier);
            Ok(order.is_some())
        })?;
        let order = order.unwrap_or(Order::Little);
        let pieces = (0..GANG_POINTERS).map(|n| BlockPointer::parse(&header, n * SIZE, order));
        let mut rest = buf;
        for piece in pieces.filter(|piece| !piece.is_hole()) {
            if piece.is_embedded() || piece.is_encrypted() || piece.compression() != compression::OFF {
                return Err(Error::damaged("a piece of a block is packed"));
            }
            let Some((part, tail)) = rest.split_at_mut_checked(piece.stored_size()) else {
                return Err(Error::damaged("the pieces of a block are larger than the block"));
            };
            self.stored(&piece, part, depth + 1)?;
            rest = tail;
        }
        if rest.is_empty() { Ok(()) } else { Err(Error::damaged("the pieces of a block are smaller than the block")) }
    }
}

/// Where the copy at `address` is.
fn place(pointer: &BlockPointer, address: Address) -> Place {
    Place { vdev: address.vdev, offset: address.offset, born: pointer.physical_birth() }
}

/// What a panic elsewhere left is whole: blocks are put and taken at once.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The content that `pointer` has itself.
fn embedded(pointer: &BlockPointer, out: &mut Vec<u8>) -> Result<()> {
    if pointer.is_redacted() {
        return Err(Error::unsupported("this part was left out when the dataset was sent here (redacted)"));
    }
    if pointer.embedded_kind() != Some(0) {
        return Err(Error::unsupported("a block pointer has content of a kind that is not known"));
    }
    let mut packed = pointer.embedded();
    out.resize(pointer.size(), 0);
    compression::unpack(pointer.compression(), &mut packed, out)
}
