//! Content that has to be decoded: compressed pieces, framed pieces of encrypted streams.
//!
//! Every piece decodes alone, so random access costs one piece. Where a piece lies is found by walking along the
//! pieces' headers once, when the file is opened; every so many pieces the place is kept. What offset a piece's
//! content has is known for sparse streams (it stands in front) and otherwise follows from the File daemon's
//! habit of reading pieces of equal length: believed when number and total length agree with it, checked each
//! time a piece is decoded, and replaced by decoding everything once when it is wrong.

use std::sync::{Arc, OnceLock};

use blockdev::{Error, ErrorKind, Extent, ExtentKind, MappedRun, ReadAt, Result};

use crate::scan::job::STOCK_PIECE;

/// Content bytes that one piece may decode to; the stock limit on records is of the same size.
pub const MAX_PIECE: usize = 20_000_000;
/// Places kept for one file (1 MiB); with more pieces only every second is kept, then every fourth ...
const MAX_PLACES: usize = 1 << 16;

/// Where a piece is, in whatever terms its source uses.
pub type Place = u64;

/// Something that is a sequence of pieces.
pub trait PieceSource: Send + Sync {
    /// The piece at `from` if there is one: where exactly, and its offset in the content if it says so. The offset
    /// may be unverified; that there is no piece is verified.
    ///
    /// # Errors
    ///
    /// When the way cannot be found.
    fn look(&self, from: Place) -> Result<Option<(Place, Option<u64>)>>;

    /// Where the piece behind the one at `place` starts.
    ///
    /// # Errors
    ///
    /// As [`look`](Self::look).
    fn behind(&self, place: Place) -> Result<Place>;

    /// Behind damage at `place`: where the first piece is that can be found again, if any.
    ///
    /// # Errors
    ///
    /// When the volume cannot be read.
    fn recover(&self, place: Place) -> Result<Option<Place>>;

    /// The offset in the content that the piece at `place` says it has, verified.
    ///
    /// # Errors
    ///
    /// When its bytes are damaged.
    fn offset(&self, place: Place) -> Result<Option<u64>>;

    /// Append the decoded content of the piece at `place` to `out`.
    ///
    /// # Errors
    ///
    /// When its bytes are damaged.
    fn decode(&self, place: Place, out: &mut Vec<u8>) -> Result<()>;

    /// Whether pieces say their offsets.
    fn is_sparse(&self) -> bool;

    /// Keeps decoded pieces, if there is a cache for them.
    fn cache(&self) -> Option<&PieceCache>;
}

/// Decoded pieces, by file and place, bounded in bytes and shared by all files.
pub type PieceCache = crate::session::store::Pieces;

/// Content made of pieces.
pub struct Pieces<S> {
    source: S,
    key: u64,
    table: Table,
    /// Made when the pieces turn out not to be of equal length.
    decoded: OnceLock<Table>,
}

/// Where the pieces of a file are.
#[derive(Debug, Clone)]
struct Table {
    /// Every `every`-th piece: content offset and place.
    kept: Vec<(u64, Place)>,
    every: u64,
    pieces: u64,
    size: u64,
    /// Content bytes of every piece but the last, when that is so.
    piece_len: Option<u64>,
    /// Content that is lost, and why.
    lost: Option<(std::ops::Range<u64>, String)>,
}

impl Table {
    const fn new() -> Self {
        Self { kept: Vec::new(), every: 1, pieces: 0, size: 0, piece_len: None, lost: None }
    }

    fn push(&mut self, offset: u64, place: Place) {
        if self.pieces.is_multiple_of(self.every) {
            if self.kept.len() == MAX_PLACES {
                let mut n = 0;
                self.kept.retain(|_| {
                    n += 1;
                    n % 2 == 1
                });
                self.every *= 2;
            }
            if self.pieces.is_multiple_of(self.every) {
                self.kept.push((offset, place));
            }
        }
        self.pieces += 1;
    }
}

/// A piece that was found: its place and the content it covers (to the next piece's start).
#[derive(Debug, Clone, Copy)]
struct Located {
    place: Place,
    start: u64,
}

impl<S: PieceSource> Pieces<S> {
    /// Open the pieces of `source` that start at `first`. `hint`: the content's length according to the file's
    /// attributes. `key` names the file in the cache.
    ///
    /// # Errors
    ///
    /// When the pieces cannot be walked.
    pub fn open(source: S, first: Place, hint: Option<u64>, key: u64) -> Result<Self> {
        let table =
            if source.is_sparse() { sparse_table(&source, first, hint)? } else { walk_table(&source, first, hint)? };
        let pieces = Self { source, key, table, decoded: OnceLock::new() };
        if pieces.table.piece_len.is_none() && !pieces.source.is_sparse() {
            pieces.decode_all(first)?;
        }
        Ok(pieces)
    }

    fn table(&self) -> &Table {
        self.decoded.get().unwrap_or(&self.table)
    }

    /// Learn every piece's length by decoding it.
    fn decode_all(&self, first: Place) -> Result<()> {
        let mut table = Table::new();
        let (mut at, mut offset, mut buf) = (first, 0u64, Vec::new());
        while let Some((place, _)) = self.source.look(at)? {
            buf.clear();
            self.source.decode(place, &mut buf)?;
            table.push(offset, place);
            offset += buf.len() as u64;
            at = self.source.behind(place)?;
        }
        table.size = offset;
        let _ = self.decoded.set(table);
        Ok(())
    }

    /// The piece that holds content byte `offset`; `None` in a hole in front of the first piece.
    fn locate(&self, offset: u64) -> Result<Option<Located>> {
        let table = self.table();
        let Some(i) = table.kept.partition_point(|(start, _)| *start <= offset).checked_sub(1) else { return Ok(None) };
        let (mut start, mut place) = table.kept[i];
        let mut ordinal = i as u64 * table.every;
        let last = (ordinal + table.every).min(table.pieces);
        while ordinal + 1 < last {
            let Some((next, said)) = self.source.look(self.source.behind(place)?)? else { break };
            let next_start = match (said.filter(|_| self.source.is_sparse()), table.piece_len) {
                (Some(said), _) => said,
                (None, Some(len)) => start + len,
                (None, None) => start + self.piece(place)?.len() as u64,
            };
            if next_start > offset {
                break;
            }
            (place, start, ordinal) = (next, next_start, ordinal + 1);
        }
        Ok(Some(Located { place, start }))
    }

    fn piece(&self, place: Place) -> Result<Arc<Vec<u8>>> {
        let key = (self.key, place);
        if let Some(piece) = self.source.cache().and_then(|c| c.get(&key)) {
            return Ok(piece);
        }
        let mut bytes = Vec::new();
        self.source.decode(place, &mut bytes)?;
        let piece = Arc::new(bytes);
        if let Some(cache) = self.source.cache() {
            cache.insert(key, Arc::clone(&piece));
        }
        Ok(piece)
    }

    /// Whether a decoded piece has the length that the table counts on.
    fn fits(&self, located: &Located, len: u64) -> bool {
        let table = self.table();
        match table.piece_len {
            Some(expected) => len == expected.min(table.size - located.start),
            None => true,
        }
    }

    /// Where the hole that holds byte `at` ends; `at` is behind the content of `located`, and in front of all
    /// pieces if there is none. Zeros are delivered for it: that nothing is stored there must be certain.
    fn hole_end(&self, located: Option<&Located>, at: u64) -> Result<u64> {
        let next = match located {
            Some(located) => self.source.look(self.source.behind(located.place)?)?.map(|(place, _)| place),
            None => self.table().kept.first().map(|(_, place)| *place),
        };
        let end = match next {
            Some(place) => self.source.offset(place)?.unwrap_or_default().min(self.size()),
            None => self.size(),
        };
        if end > at { Ok(end) } else { Err(Error::damaged("the pieces of a sparse file are not in order")) }
    }
}

/// Walk the pieces of a stream that does not say offsets, counting on pieces of equal length.
fn walk_table<S: PieceSource>(source: &S, first: Place, hint: Option<u64>) -> Result<Table> {
    let mut table = Table::new();
    let mut at = first;
    let mut before_gap = None;
    let mut behind_gap: Vec<Place> = Vec::new();
    let mut last = None;
    let mut why = None;
    loop {
        match source.look(at) {
            Ok(None) => break,
            Ok(Some((place, _))) => {
                if before_gap.is_some() {
                    behind_gap.push(place);
                } else {
                    table.push(table.pieces * STOCK_PIECE, place);
                }
                last = Some(place);
                match source.behind(place) {
                    Ok(next) => at = next,
                    Err(e) if is_damage(&e) => {
                        let Some(next) =
                            gap(source, place, &mut before_gap, &mut behind_gap, table.pieces - 1, &mut why, &e)?
                        else {
                            break;
                        };
                        at = next;
                    }
                    Err(e) => return Err(e),
                }
            }
            Err(e) if is_damage(&e) => {
                let Some(next) = gap(source, at, &mut before_gap, &mut behind_gap, table.pieces, &mut why, &e)? else {
                    break;
                };
                at = next;
            }
            Err(e) => return Err(e),
        }
    }
    if let (Some(good), Some(hint)) = (before_gap, hint) {
        // The pieces behind the last gap are placed from the end of the file backwards.
        let total = hint.div_ceil(STOCK_PIECE);
        let tail = (behind_gap.len() as u64).min(total.saturating_sub(good));
        table.kept.truncate(good.div_ceil(table.every) as usize);
        table.size = hint;
        table.piece_len = Some(STOCK_PIECE);
        let resume = (total - tail) * STOCK_PIECE;
        table.lost = Some((good * STOCK_PIECE..resume.min(hint), why.unwrap_or_default()));
        if table.every == 1 {
            let tail_places = behind_gap.iter().rev().take(tail as usize).rev();
            table.kept.extend(tail_places.zip(total - tail..).map(|(p, n)| (n * STOCK_PIECE, *p)));
        }
        table.pieces = total;
        return Ok(table);
    }
    let Some(last) = last else { return Ok(Table { piece_len: Some(STOCK_PIECE), ..table }) };
    let mut tail = Vec::new();
    // A damaged last piece must not hide the others: then the attributes' length is believed.
    let tail_len = source.decode(last, &mut tail).map(|()| tail.len() as u64);
    let start = (table.pieces - 1) * STOCK_PIECE;
    let size = match (&tail_len, hint) {
        (Ok(len), _) => start + len,
        (Err(_), Some(hint)) if hint > start && hint <= start + STOCK_PIECE => hint,
        (Err(_), _) => start,
    };
    table.size = size;
    let regular = hint == Some(size) || (table.pieces == 1 && tail_len.is_ok());
    table.piece_len = regular.then_some(STOCK_PIECE);
    Ok(table)
}

/// Damage after `good` pieces: remember it and find the way behind it.
fn gap<S: PieceSource>(
    source: &S,
    at: Place,
    before: &mut Option<u64>,
    behind: &mut Vec<Place>,
    good: u64,
    why: &mut Option<String>,
    e: &Error,
) -> Result<Option<Place>> {
    before.get_or_insert(good);
    behind.clear();
    why.get_or_insert_with(|| e.to_string());
    source.recover(at)
}

fn sparse_table<S: PieceSource>(source: &S, first: Place, hint: Option<u64>) -> Result<Table> {
    let mut table = Table::new();
    let (mut at, mut last) = (first, None);
    loop {
        let step = source.look(at).and_then(|found| match found {
            None => Ok(None),
            Some((place, offset)) => {
                table.push(offset.unwrap_or(0), place);
                last = Some((place, offset.unwrap_or(0)));
                source.behind(place).map(Some)
            }
        });
        match step {
            Ok(None) => break,
            Ok(Some(next)) => at = next,
            // What is behind the damage says its own offsets again.
            Err(e) if is_damage(&e) => match source.recover(at)? {
                Some(next) => at = next,
                None => break,
            },
            Err(e) => return Err(e),
        }
    }
    let end = match last {
        Some((place, start)) => {
            let mut tail = Vec::new();
            match source.decode(place, &mut tail) {
                Ok(()) => start
                    .checked_add(tail.len() as u64)
                    .ok_or_else(|| Error::damaged("a sparse offset is beyond all limits"))?,
                // A damaged last piece must not hide the others.
                Err(e) if hint.is_some() && is_damage(&e) => 0,
                Err(e) => return Err(e),
            }
        }
        None => 0,
    };
    table.size = hint.unwrap_or(0).max(end);
    Ok(table)
}

fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Missing)
}

impl<S: PieceSource> ReadAt for Pieces<S> {
    fn size(&self) -> u64 {
        self.table().size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = (buf.len() as u64).min(self.size().saturating_sub(offset)) as usize;
        let end = offset + wanted as u64;
        if let Some((lost, why)) = &self.table().lost
            && offset < lost.end
            && end > lost.start
        {
            return Err(Error::damaged(format!("bytes {}..{} of the file are lost: {why}", lost.start, lost.end)));
        }
        let mut at = offset;
        let mut known: Option<Located> = None;
        while at < end {
            let located = match known.take() {
                Some(l) => Some(l),
                None => self.locate(at)?,
            };
            let done = (at - offset) as usize;
            let Some(located) = located else {
                let stop = self.hole_end(None, at)?.min(end);
                buf[done..(stop - offset) as usize].fill(0);
                at = stop;
                continue;
            };
            let piece = self.piece(located.place)?;
            if !self.source.is_sparse() && !self.fits(&located, piece.len() as u64) {
                if self.decoded.get().is_none() {
                    self.decode_all(self.table.kept.first().map_or(0, |(_, p)| *p))?;
                    continue;
                }
                return Err(Error::damaged("a compressed piece has another length than before"));
            }
            let within = (at - located.start) as usize;
            if within < piece.len() {
                let n = (piece.len() - within).min(wanted - done);
                buf[done..done + n].copy_from_slice(&piece[within..within + n]);
                at += n as u64;
            } else {
                let stop = if self.source.is_sparse() { self.hole_end(Some(&located), at)?.min(end) } else { end };
                buf[done..(stop - offset) as usize].fill(0);
                at = stop;
            }
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let size = self.size();
        if offset >= size {
            return Ok(None);
        }
        if !self.source.is_sparse() {
            return Ok(Some(Extent { range: offset..size, kind: ExtentKind::Data }));
        }
        let Some(located) = self.locate(offset)? else {
            return Ok(Some(Extent { range: offset..self.hole_end(None, offset)?, kind: ExtentKind::Hole }));
        };
        let data_end = located.start.saturating_add(self.piece(located.place)?.len() as u64);
        Ok(Some(if offset < data_end {
            Extent { range: offset..data_end.min(size), kind: ExtentKind::Data }
        } else {
            Extent { range: offset..self.hole_end(Some(&located), offset)?, kind: ExtentKind::Hole }
        }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl<S> std::fmt::Debug for Pieces<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces")
            .field("pieces", &self.table.pieces)
            .field("size", &self.table.size)
            .finish_non_exhaustive()
    }
}
