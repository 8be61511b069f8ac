//! Finding a session's blocks by probing, with what the catalog's JobMedia rows tell.
//!
//! Block numbers are dense and rise with the address, so a block is bracketed between known ones and its address
//! guessed: in a volume with one job the guess is right or wrong by the few bytes of short blocks, and one or two
//! reads of a header find it. Between the blocks of other jobs the bracket is halved. Each probe reads less than
//! fifty bytes where the guess is right.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use blockdev::{Error, ErrorKind, Result};

use super::{
    Finder, Neighbour,
    map::{BlockPlace, VolumeIndex},
    store::Store,
};
use crate::{
    block::{self, MAX_HEADER_LEN, Session},
    catalog::MediaRange,
    medium::Address,
    record,
};

/// Bytes before a guess that are searched when nothing stands there: short blocks only make addresses smaller, by a
/// few bytes each, and there are few.
const DRIFTS: [u64; 2] = [128, 2048];
/// The longest run of other jobs' blocks that is stepped through before the bracket is halved instead.
const MAX_FOREIGN: u32 = 64;
/// Halvings and guesses; a volume has fewer bits.
const MAX_PROBES: u32 = 200;

/// A JobMedia row with its volume.
#[derive(Debug)]
struct Range {
    volume: Option<VolumeIndex>,
    media: MediaRange,
    /// Number of the block at its start.
    first_number: OnceLock<Option<u32>>,
}

/// A block of ours that a probe hit.
#[derive(Debug, Clone, Copy)]
struct Hit {
    address: Address,
    header: block::Header,
}

/// Finds the blocks of one session.
#[derive(Debug)]
pub struct Prober {
    store: Arc<Store>,
    session: Session,
    ranges: Vec<Range>,
}

impl Prober {
    /// For `session`, whose data is in `ranges` of the volumes in `by_name`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        session: Session,
        ranges: Vec<MediaRange>,
        by_name: &HashMap<String, VolumeIndex>,
    ) -> Self {
        let range = |media: MediaRange| Range {
            volume: by_name.get(&media.volume).copied(),
            media,
            first_number: OnceLock::new(),
        };
        Self { store, session, ranges: ranges.into_iter().map(range).collect() }
    }

    fn header(&self, range: &Range, address: Address) -> Result<Option<block::Header>> {
        let volume = range.volume.ok_or_else(|| missing(range))?;
        let header = self.store.volume(volume)?.block_header(address)?;
        // Any session of any time may be there, but not garbage: the range's end bounds it.
        Ok(header.filter(|h| address + u64::from(h.len) <= range.media.end + 1))
    }

    /// A block at `guess`, or a little before it.
    fn near(&self, range: &Range, guess: Address) -> Result<Option<Hit>> {
        if let Some(header) = self.header(range, guess)? {
            return Ok(Some(Hit { address: guess, header }));
        }
        let volume = self.store.volume(range.volume.ok_or_else(|| missing(range))?)?;
        let longest = u64::from(volume.label().block_size.max(super::DEFAULT_BLOCK_LEN));
        // First where drift leads, then wherever a block must begin.
        let behind = longest + MAX_HEADER_LEN as u64;
        for (before, behind) in [(DRIFTS[0], 0), (DRIFTS[1], 0), (0, behind)] {
            let start = guess.saturating_sub(before).max(range.media.start);
            let mut bytes = vec![0; (before + behind) as usize + MAX_HEADER_LEN];
            let n = volume.medium().read_at(&mut bytes, start)?;
            for i in memchr::memmem::find_iter(&bytes[..n], b"BB0") {
                let Some(address) = (start + i as u64).checked_sub(12) else { continue };
                if let Some(header) = self.header(range, address)?
                    && self.is_followed(range, address, &header)?
                {
                    return Ok(Some(Hit { address, header }));
                }
            }
        }
        Ok(None)
    }

    /// Whether another block, or the end, follows: a magic alone may stand in a file's data.
    fn is_followed(&self, range: &Range, address: Address, header: &block::Header) -> Result<bool> {
        let next = address + u64::from(header.len);
        Ok(next > range.media.end || self.header(range, next)?.is_some())
    }

    /// The first block of ours at or behind `guess`, if it is not behind too many of others.
    fn ours(&self, range: &Range, guess: Address) -> Result<Option<Hit>> {
        let Some(mut hit) = self.near(range, guess)? else { return Ok(None) };
        for _ in 0..MAX_FOREIGN {
            if hit.header.session == self.session {
                return Ok(Some(hit));
            }
            let address = hit.address + u64::from(hit.header.len);
            let Some(header) = self.header(range, address)? else { return Ok(None) };
            hit = Hit { address, header };
        }
        Ok(None)
    }

    /// The first block of ours in a range. Where jobs run side by side, a range can begin with others' blocks.
    fn first(&self, range: &Range) -> Result<Option<Hit>> {
        let mut address = range.media.start;
        while let Some(header) = self.header(range, address)? {
            if header.session == self.session {
                return Ok(Some(Hit { address, header }));
            }
            address += u64::from(header.len);
        }
        Ok(None)
    }

    fn first_number(&self, range: &Range) -> Result<Option<u32>> {
        if let Some(known) = range.first_number.get() {
            return Ok(*known);
        }
        let number = if range.volume.is_some() { self.first(range)?.map(|h| h.header.number) } else { None };
        Ok(*range.first_number.get_or_init(|| number))
    }

    /// The range that holds block `number`.
    fn range_of(&self, number: u32) -> Result<Option<&Range>> {
        let (mut low, mut high) = (0, self.ranges.len());
        while low < high {
            let mut middle = low + (high - low) / 2;
            // Ranges on volumes that are not at hand tell nothing.
            while middle > low && self.first_number(&self.ranges[middle])?.is_none() {
                middle -= 1;
            }
            match self.first_number(&self.ranges[middle])? {
                Some(first) if first > number => high = middle,
                _ => low = (low + (high - low) / 2).max(middle) + 1,
            }
        }
        Ok(low.checked_sub(1).and_then(|i| self.ranges.get(i)))
    }

    /// Search `range` from `low` on, and below `high` if that is known, for the last block that is `before` what is
    /// looked for. Where its number is known, `aim` is that.
    fn bisect(
        &self,
        range: &Range,
        mut low: Hit,
        mut high: Option<Hit>,
        aim: Option<u32>,
        before: &mut dyn FnMut(&Hit) -> Result<bool>,
    ) -> Result<Hit> {
        let mut end = high.map_or(range.media.end + 1, |h| h.address);
        for round in 0..MAX_PROBES {
            let next = low.address + u64::from(low.header.len);
            if next >= end || aim == Some(low.header.number) {
                return Ok(low);
            }
            let at = aim.and_then(|number| guess(number, &low, high.as_ref(), round));
            let at = at.unwrap_or_else(|| halfway(&low, end)).clamp(next, end - 1);
            match self.ours(range, at)? {
                Some(hit) if hit.address > low.address && hit.address < end => {
                    if before(&hit)? {
                        low = hit;
                    } else {
                        (high, end) = (Some(hit), hit.address);
                    }
                }
                // Only others' blocks from there to the end of the bracket.
                _ if at > next => end = at,
                _ => return Ok(low),
            }
        }
        Err(Error::damaged(format!("volume {}: the blocks of this job cannot be told apart", range.media.volume)))
    }

    fn place(&self, range: &Range, hit: &Hit) -> Result<BlockPlace> {
        let volume = range.volume.ok_or_else(|| missing(range))?;
        Ok(BlockPlace { volume, address: hit.address, len: hit.header.len })
    }
}

impl Finder for Prober {
    fn find(&self, number: u32, before: Option<Neighbour>, behind: Option<Neighbour>) -> Result<Option<BlockPlace>> {
        let Some(range) = self.range_of(number)? else { return Ok(None) };
        let known = |block: Option<Neighbour>| {
            let here = range.media.start..=range.media.end;
            let (_, place) = block.filter(|(_, p)| Some(p.volume) == range.volume && here.contains(&p.address))?;
            Some(self.header(range, place.address).transpose()?.map(|header| Hit { address: place.address, header }))
        };
        let anchor = known(before).map_or_else(|| self.first(range), |hit| hit.map(Some))?;
        let Some(anchor) = anchor.filter(|h| h.header.number <= number) else { return Ok(None) };
        let behind = known(behind).transpose()?;
        let behind = behind.filter(|h| h.header.number > number && h.address > anchor.address);
        let hit = self.bisect(range, anchor, behind, Some(number), &mut |hit| Ok(hit.header.number <= number))?;
        if hit.header.number == number { self.place(range, &hit).map(Some) } else { Ok(None) }
    }

    fn find_file(&self, file_index: u32) -> Result<(u32, BlockPlace)> {
        let holds = |r: &&Range| r.media.first_index <= file_index && file_index <= r.media.last_index;
        let range = self.ranges.iter().find(holds).ok_or_else(|| {
            Error::not_found(format!(
                "the catalog does not say in which volume file {file_index} is (JobMedia has no row for it)"
            ))
        })?;
        let first = self.first(range)?.ok_or_else(|| {
            let address = range.media.start;
            Error::damaged(format!(
                "volume {} at address {address}: there is no block of the job that the catalog places there",
                range.media.volume
            ))
        })?;
        let volume = self.store.volume(range.volume.ok_or_else(|| missing(range))?)?;
        let hit = self.bisect(range, first, None, None, &mut |hit| {
            if hit.header.encrypted {
                let bytes = volume.read_block(hit.address, &hit.header)?;
                return Ok(starts_before(bytes.get(hit.header.header_len() as usize..), file_index));
            }
            let mut bytes = [0; record::HEADER_LEN as usize];
            let n = volume.medium().read_at(&mut bytes, hit.address + u64::from(hit.header.header_len()))?;
            Ok(starts_before(bytes.get(..n), file_index))
        })?;
        Ok((hit.header.number, self.place(range, &hit)?))
    }
}

/// Where block `number` is if all blocks between it and one of its known neighbours are as long as `low`: few are
/// shorter, and those are mostly on one side. `None` when it is time to halve.
fn guess(number: u32, low: &Hit, high: Option<&Hit>, round: u32) -> Option<Address> {
    let stride = u64::from(low.header.len);
    match (round % 3, high) {
        (0, _) => low.address.checked_add(u64::from(number.checked_sub(low.header.number)?).checked_mul(stride)?),
        (1, Some(high)) => {
            high.address.checked_sub(u64::from(high.header.number.checked_sub(number)?).checked_mul(stride)?)
        }
        _ => None,
    }
}

/// The middle between `low` and `end`, at a multiple of a block's length: blocks are mostly of one length.
fn halfway(low: &Hit, end: Address) -> Address {
    let stride = u64::from(low.header.len);
    low.address + ((end - low.address) / stride / 2).max(1) * stride
}

/// Whether a block whose records start with `body` begins before file `file_index`.
fn starts_before(body: Option<&[u8]>, file_index: u32) -> bool {
    match body.and_then(record::Header::parse) {
        // A start label comes before all files, an end label behind.
        Some(h) if h.is_label() => h.file_index == -4,
        Some(h) => i64::from(h.file_index) < i64::from(file_index),
        None => false,
    }
}

fn missing(range: &Range) -> Error {
    let name = &range.media.volume;
    Error::new(ErrorKind::Missing, format!("volume {name} is needed and not at hand; name its folder by --volumes"))
}
