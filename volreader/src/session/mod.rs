//! A session: one job's data over all its volumes, addressed by block number and offset.
//!
//! Two ways of reading, by need. [`SessionData::block`] gives whole verified blocks out of a cache: for small
//! files, attributes and everything that has to be decoded. [`SessionData::peek`] reads a few bytes, unverified,
//! for finding the way along record headers. The bulk path for big files ([`crate::content`]) uses the map and
//! reads into its caller's buffer.

pub mod cursor;
pub mod map;
pub mod probe;
pub mod store;
pub mod verified;

use std::{
    cmp::Ordering,
    sync::{Arc, RwLock},
};

use blockdev::{Error, ErrorKind, Result};

use crate::{
    block::{self, MAX_HEADER_LEN, Session, checksum},
    index::entry::RecordPos,
    layout::clock::Geometry,
    medium::Address,
    session::{
        map::{BlockMap, BlockPlace, VolumeIndex},
        store::{Block, Integrity, Store},
        verified::Verified,
    },
    stream::StreamKind,
};

/// The default block size of Storage daemons.
const DEFAULT_BLOCK_LEN: u32 = 64_512;
/// Records that are passed when looking for a file's first one in and behind the block that must hold it.
const MAX_FIND: u32 = 1_000_000;

/// A block whose place is known, and its number.
pub type Neighbour = (u32, BlockPlace);

/// Finds blocks that are not in the map (when there is a catalog and no index).
pub trait Finder: Send + Sync {
    /// The place of block `number`, by its closest neighbours that are known; `None` when it is nowhere.
    ///
    /// # Errors
    ///
    /// When a volume cannot be read.
    fn find(&self, number: u32, before: Option<Neighbour>, behind: Option<Neighbour>) -> Result<Option<BlockPlace>>;

    /// The number and place of the block in which to look for the first record of file `file_index`.
    ///
    /// # Errors
    ///
    /// When a volume cannot be read, or the file can be in none that is at hand.
    fn find_file(&self, file_index: u32) -> Result<(u32, BlockPlace)>;
}

/// One job's data.
pub struct SessionData {
    /// The job's session.
    pub session: Session,
    /// What to call it in messages: `job 12`.
    pub label: String,
    number: u32,
    store: Arc<Store>,
    map: RwLock<BlockMap>,
    finder: Option<Box<dyn Finder>>,
    verified: Verified,
}

impl std::fmt::Debug for SessionData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionData")
            .field("session", &self.session)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl SessionData {
    /// The data of `session`, whose blocks are in `map` or else found by `finder`. `number` tells sessions of
    /// one store apart.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        number: u32,
        session: Session,
        label: String,
        map: BlockMap,
        finder: Option<Box<dyn Finder>>,
    ) -> Self {
        let end = if finder.is_some() { u64::from(u32::MAX) } else { map.end() };
        Self { session, label, number, store, map: RwLock::new(map), finder, verified: Verified::new(end) }
    }

    /// Tells sessions of one archive apart.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The volumes.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Block size and header length of the session's full blocks.
    ///
    /// # Errors
    ///
    /// When there is no block at all.
    pub fn geometry(&self) -> Result<Geometry> {
        let (mut block_len, first) = self.with_map(|m| (m.full_block_len(), m.at_or_after(0)));
        let (_, place) = first.ok_or_else(|| Error::damaged(format!("{} has no blocks", self.label)))?;
        let volume = self.store.volume(place.volume)?;
        if self.finder.is_some() {
            // Few blocks have been seen: the label says how long full ones are.
            let configured = volume.label().block_size;
            block_len = block_len.max(if configured > 0 { configured } else { DEFAULT_BLOCK_LEN });
        }
        let header = volume.block_header(place.address)?;
        let header = header.ok_or_else(|| self.damaged_at(&place, "there is no block header"))?;
        Ok(Geometry { block_len, header_len: header.header_len() })
    }

    /// Look at the block map.
    pub fn with_map<T>(&self, look: impl FnOnce(&BlockMap) -> T) -> T {
        look(&self.map.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Where block `number` is; `None` behind the last one.
    ///
    /// # Errors
    ///
    /// `Missing` for a block that must exist and is not there.
    pub fn place(&self, number: u32) -> Result<Option<BlockPlace>> {
        let (place, end) = self.with_map(|m| (m.get(number), m.end()));
        if place.is_some() {
            return Ok(place);
        }
        if let Some(finder) = &self.finder {
            // The finder reads the volume; the map must not be locked meanwhile.
            let [before, behind] = self.with_map(|m| [m.before(number), m.at_or_after(number)]);
            // Where one block ends the next begins, unless it is another job's.
            let found = match before {
                Some((last, place)) if last.checked_add(1) == Some(number) => {
                    self.looked_up(number, place.volume, place.address.saturating_add(u64::from(place.len)))
                }
                _ => None,
            };
            let found = found.map_or_else(|| finder.find(number, before, behind), |found| Ok(Some(found)))?;
            if let Some(place) = found {
                self.learn(number, place);
            }
            return Ok(found);
        }
        if u64::from(number) >= end {
            return Ok(None);
        }
        let before = self.with_map(|m| m.before(number));
        let place = match before {
            Some((_, p)) => format!("behind {}", self.store.volume(p.volume)?.place(p.address)),
            None => "on a volume before the first one at hand".to_owned(),
        };
        Err(Error::new(ErrorKind::Missing, format!("block {number} of {} is missing: it was {place}", self.label)))
    }

    /// The first block from `number` on that may be there, for the way behind damage: numbers that are missing are
    /// passed over at once, however many they are.
    #[must_use]
    pub fn from_number(&self, number: u32) -> Option<u32> {
        if self.finder.is_some() {
            return Some(number).filter(|n| u64::from(*n) < self.with_map(BlockMap::end));
        }
        self.with_map(|map| map.at_or_after(number)).map(|(number, _)| number)
    }

    /// Expect block `number` at `address` of `volume`, and take note of it if it is there. Does nothing where
    /// blocks are looked up in an index.
    pub fn expect(&self, number: u32, volume: VolumeIndex, address: Address) {
        if self.finder.is_none() || self.with_map(|m| m.get(number)).is_some() {
            return;
        }
        if let Some(place) = self.looked_up(number, volume, address) {
            self.learn(number, place);
        }
    }

    /// The place of block `number`, if it is at `address` of `volume`.
    fn looked_up(&self, number: u32, volume: VolumeIndex, address: Address) -> Option<BlockPlace> {
        let header = self.store.volume(volume).and_then(|v| v.block_header(address)).ok().flatten()?;
        let is_it = header.session == self.session && header.number == number;
        is_it.then_some(BlockPlace { volume, address, len: header.len })
    }

    fn learn(&self, number: u32, place: BlockPlace) {
        self.map.write().unwrap_or_else(std::sync::PoisonError::into_inner).push(number, place);
    }

    /// Find the attributes record of file `file_index` without an index.
    ///
    /// # Errors
    ///
    /// When it is nowhere in the volumes at hand.
    pub fn find_file(&self, file_index: u32) -> Result<RecordPos> {
        let finder = self.finder.as_ref().ok_or_else(|| Error::damaged("the index does not say where the file is"))?;
        let (number, place) = finder.find_file(file_index)?;
        self.learn(number, place);
        let gone = || Error::damaged(format!("file {file_index} of {} is not where the catalog says", self.label));
        let start = cursor::Cursor::after_continuation(self, number)?.ok_or_else(gone)?;
        let mut cursor = cursor::Cursor::new(self, start);
        for _ in 0..MAX_FIND {
            let Some(record) = cursor.peek()? else { break };
            let is_attributes = matches!(record.id().kind(), StreamKind::Attributes | StreamKind::AttributesUpdate);
            match i64::from(record.file_index).cmp(&i64::from(file_index)) {
                Ordering::Equal if is_attributes => return Ok(record.pos),
                Ordering::Greater => break,
                _ => cursor.skip(&record)?,
            }
        }
        Err(gone())
    }

    /// What is wrong when the blocks end before what is `here` does.
    pub(crate) fn ends(&self, here: &str) -> Error {
        let label = &self.label;
        let why = "it was cut off, or goes on in a volume that is missing";
        Error::damaged(format!("the data of {label} ends {here}: {why}"))
    }

    /// The whole block `number`, verified as the policy says; `None` behind the last one.
    ///
    /// # Errors
    ///
    /// When it is missing, damaged, or cannot be decrypted.
    pub fn block(&self, number: u32) -> Result<Option<Arc<Block>>> {
        if let Some(block) = self.store.cached((self.number, number)) {
            return Ok(Some(block));
        }
        let Some(place) = self.place(number)? else { return Ok(None) };
        let volume = self.store.volume(place.volume)?;
        let mut header = [0; MAX_HEADER_LEN];
        let n = volume.medium().read_at(&mut header, place.address)?;
        let header = self.check_header(&header[..n], number, &place)?;
        let bytes = volume.read_block(place.address, &header)?;
        if bytes.len() < header.len as usize {
            return Err(self.damaged_at(&place, "the volume ends inside this block"));
        }
        if self.must_verify(number) {
            self.verify(&header, &[&bytes], number, &place)?;
        }
        let block = Arc::new(Block { header, bytes: bytes.into() });
        if self.store.integrity() != Integrity::Always {
            self.store.keep((self.number, number), &block);
        }
        Ok(Some(block))
    }

    /// Make sure that block `number` has been verified, if the policy wants it so: before what was peeked in it is
    /// taken for the truth.
    ///
    /// # Errors
    ///
    /// As [`block`](Self::block), and when there is no such block.
    pub fn vouch(&self, number: u32) -> Result<()> {
        if self.must_verify(number) && self.block(number)?.is_none() {
            return Err(self.ends("here"));
        }
        Ok(())
    }

    /// Whether the policy wants block `number` verified before bytes of it are delivered.
    #[must_use]
    pub fn must_verify(&self, number: u32) -> bool {
        match self.store.integrity() {
            Integrity::Always => true,
            Integrity::Once => !self.verified.contains(number),
            Integrity::Never => false,
        }
    }

    /// Check that `bytes` start with the header of this session's block `number`.
    ///
    /// # Errors
    ///
    /// `Damaged` when they do not.
    pub fn check_header(&self, bytes: &[u8], number: u32, place: &BlockPlace) -> Result<block::Header> {
        let header = block::Header::parse(bytes).ok_or_else(|| self.damaged_at(place, "there is no block header"))?;
        if header.session != self.session || header.number != number || header.len > place.len {
            return Err(self.damaged_at(place, "another block stands there than the index says"));
        }
        Ok(header)
    }

    /// Verify a block's checksum and remember that it was right. `pieces` together are its bytes.
    ///
    /// # Errors
    ///
    /// `Damaged` when the checksum does not match.
    pub fn verify(&self, header: &block::Header, pieces: &[&[u8]], number: u32, place: &BlockPlace) -> Result<()> {
        if checksum::verify(header, pieces) == checksum::Verdict::Bad {
            return Err(self.damaged_at(place, "the block does not match its checksum"));
        }
        self.verified.insert(number);
        Ok(())
    }

    /// Read a few bytes of block `number`, unverified unless they are in the cache; short at the block's end,
    /// 0 behind the session's end.
    ///
    /// # Errors
    ///
    /// When the block is missing or cannot be read.
    pub fn peek(&self, number: u32, offset: u32, buf: &mut [u8]) -> Result<usize> {
        let from = |bytes: &[u8], buf: &mut [u8]| {
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            n
        };
        if let Some(block) = self.store.cached((self.number, number)) {
            return Ok(from(&block.bytes, buf));
        }
        let Some(place) = self.place(number)? else { return Ok(0) };
        let volume = self.store.volume(place.volume)?;
        if volume.is_encrypted() {
            return Ok(self.block(number)?.map_or(0, |b| from(&b.bytes, buf)));
        }
        let n = buf.len().min(place.len.saturating_sub(offset) as usize);
        // Short would mean the end of the block; where the volume is cut off it is not.
        if volume.medium().read_at(&mut buf[..n], place.address + u64::from(offset))? < n {
            return Err(self.damaged_at(&place, "the volume ends inside this block"));
        }
        Ok(n)
    }

    /// A `Damaged` error that names the volume and the address.
    #[must_use]
    pub fn damaged_at(&self, place: &BlockPlace, what: &str) -> Error {
        let volume = self.store.volume(place.volume).map_or_else(|_| "?".to_owned(), |v| v.place(place.address));
        Error::damaged(format!("{volume} ({}): {what}", self.label))
    }
}
