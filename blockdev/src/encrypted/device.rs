//! A device of plain bytes over one of encrypted bytes.

use std::{ops::Range, sync::Arc};

use sha2::{Digest, Sha256};

use super::cipher::SectorCipher;
use crate::{
    BlockDevice, BlockSizes, Error, Extent, ExtentKind, MappedRun, ReadAt, Result,
    origin::{Origin, Source},
};

/// The largest sector that is encrypted as one.
pub const SECTOR_MAX: usize = 4096;

/// Encrypted sectors: how large they are, and how they are numbered.
pub struct Sectors {
    cipher: Box<dyn SectorCipher>,
    /// Bytes of a sector.
    size: usize,
    /// Bytes from one number to the next; sectors of 4096 bytes may be numbered in steps of eight.
    unit: u64,
    /// The number at byte 0.
    first: u64,
    /// Stands for the key, to tell contents apart.
    fingerprint: u64,
}

impl Sectors {
    /// Sectors of `size` bytes, encrypted by `cipher` with `key`; `first` and `unit`: how they are numbered.
    ///
    /// # Errors
    ///
    /// `Damaged` for a size that sectors cannot have.
    pub fn new(cipher: Box<dyn SectorCipher>, key: &[u8], size: usize, unit: u64, first: u64) -> Result<Self> {
        if !size.is_power_of_two() || !(512..=SECTOR_MAX).contains(&size) || unit == 0 {
            return Err(Error::damaged(format!("encrypted sectors of {size} bytes")));
        }
        let hash = Sha256::new_with_prefix(b"origin").chain_update(key).finalize();
        Ok(Self { cipher, size, unit, first, fingerprint: crate::fields::le64(&hash, 0) })
    }

    /// Decrypts whole sectors in place, of which the first begins at byte `at`.
    fn decrypt(&self, at: u64, bytes: &mut [u8]) {
        for (sector, at) in bytes.chunks_exact_mut(self.size).zip((at..).step_by(self.size)) {
            self.cipher.decrypt(self.first.wrapping_add(at / self.unit), sector);
        }
    }
}

/// Where the bytes of a range come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// From here on in the device, encrypted.
    Encrypted(u64),
    /// From here on in the device, as they are.
    Plain(u64),
    /// They are zeros: what is stored there belongs to the encryption.
    Zeros,
    /// These.
    Bytes(Vec<u8>),
}

/// The plain bytes.
pub struct Decrypted {
    device: Arc<dyn BlockDevice>,
    sectors: Sectors,
    /// Where sector 0 is in the device: encrypted pieces are counted from here.
    base: u64,
    /// Where each piece begins and what it is, ascending from 0 on.
    pieces: Vec<(u64, Piece)>,
    size: u64,
}

impl Decrypted {
    /// `size` bytes of `device`, encrypted in `sectors` that are counted from byte `base` on.
    ///
    /// # Errors
    ///
    /// `Damaged` when the pieces are not all within the device.
    pub fn new(
        device: &Arc<dyn BlockDevice>,
        sectors: Sectors,
        base: u64,
        pieces: Vec<(u64, Piece)>,
        size: u64,
    ) -> Result<Self> {
        let all = Self { device: Arc::clone(device), sectors, base, pieces, size };
        for (number, (start, piece)) in all.pieces.iter().enumerate() {
            let range = *start..all.end(number);
            let (from, base, step) = match piece {
                Piece::Encrypted(from) => (from, base, all.sectors.size as u64),
                Piece::Plain(from) => (from, 0, 1),
                Piece::Zeros | Piece::Bytes(_) => continue,
            };
            let len = range.end.checked_sub(range.start);
            let end = len.and_then(|len| from.checked_add(base)?.checked_add(len));
            let whole = [range.start, range.end, *from].iter().all(|at| at.is_multiple_of(step));
            if end.is_none_or(|end| end > all.device.size()) || !whole {
                return Err(Error::damaged("what is encrypted is not all within the volume, or not in whole sectors"));
            }
        }
        Ok(all)
    }

    fn end(&self, number: usize) -> u64 {
        self.pieces.get(number + 1).map_or(self.size, |(start, _)| *start)
    }

    /// The piece that has `offset`, which is within the size, and its range.
    fn piece(&self, offset: u64) -> Result<(&Piece, Range<u64>)> {
        let next = self.pieces.partition_point(|(start, _)| *start <= offset);
        let found = next.checked_sub(1).and_then(|number| Some((number, self.pieces.get(number)?)));
        let (number, (start, piece)) = found.ok_or_else(|| Error::invalid("a byte before the first piece"))?;
        Ok((piece, *start..self.end(number)))
    }

    /// Decrypts from byte `at` on, counted from the base.
    fn read_encrypted(&self, mut buf: &mut [u8], mut at: u64) -> Result<()> {
        let size = self.sectors.size;
        let mut one = [0; SECTOR_MAX];
        while !buf.is_empty() {
            let within = (at % size as u64) as usize;
            let whole = buf.len() / size * size;
            if within == 0 && whole > 0 {
                let (now, rest) = buf.split_at_mut(whole);
                self.read_stored(now, self.base + at)?;
                self.sectors.decrypt(at, now);
                (buf, at) = (rest, at + whole as u64);
                continue;
            }
            // A part of a sector: all of it is needed.
            let (sector, len) = (one.get_mut(..size).unwrap_or_default(), buf.len().min(size - within));
            let begins = at - within as u64;
            self.read_stored(sector, self.base + begins)?;
            self.sectors.decrypt(begins, sector);
            let (now, rest) = buf.split_at_mut(len);
            now.copy_from_slice(sector.get(within..within + len).unwrap_or_default());
            (buf, at) = (rest, at + len as u64);
        }
        Ok(())
    }

    fn read_stored(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.device.read_at(buf, offset)? {
            n if n == buf.len() => Ok(()),
            n => Err(Error::damaged(format!("the device ends {} bytes before its size", buf.len() - n))),
        }
    }

    /// Where encrypted bytes come from: whole sectors of one origin under one key are the same.
    fn origin_of_encrypted(&self, at: u64, limit: u64) -> Result<Origin> {
        let size = self.sectors.size as u64;
        let begins = at - at % size;
        let wanted = (at - begins).saturating_add(limit).checked_next_multiple_of(size).unwrap_or(u64::MAX);
        let below = self.device.origin_at(self.base + begins, wanted)?;
        let known = begins.saturating_add(below.len / size * size);
        match below.source {
            Source::Stored { file, offset } if known > at => Ok(Origin {
                len: (known - at).min(limit),
                source: Source::of_decrypted(file, offset.wrapping_add(at - begins), at, self.sectors.fingerprint),
            }),
            // Zeros that are decrypted are none.
            Source::Zeros if known > at => Ok(Origin::unknown((known - at).min(limit))),
            _ => Ok(Origin::unknown((begins + size - at).min(limit))),
        }
    }
}

impl ReadAt for Decrypted {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let all = buf.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut left = buf.get_mut(..all).unwrap_or_default();
        let mut at = offset;
        while !left.is_empty() {
            let (piece, range) = self.piece(at)?;
            let len = left.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
            let (now, rest) = left.split_at_mut(len);
            let skip = at - range.start;
            match piece {
                Piece::Encrypted(from) => self.read_encrypted(now, from + skip)?,
                Piece::Plain(from) => self.read_stored(now, from + skip)?,
                Piece::Zeros => now.fill(0),
                Piece::Bytes(bytes) => {
                    let stored = usize::try_from(skip).ok().and_then(|skip| bytes.get(skip..)?.get(..len));
                    now.copy_from_slice(stored.ok_or_else(|| Error::invalid("a piece is shorter than its range"))?);
                }
            }
            (left, at) = (rest, at + len as u64);
        }
        Ok(all)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let (piece, range) = self.piece(offset)?;
        let kind = if *piece == Piece::Zeros { ExtentKind::Hole } else { ExtentKind::Data };
        Ok(Some(Extent { range: offset..range.end, kind }))
    }

    fn map(&self, offset: u64, len: u64) -> Option<MappedRun<'_>> {
        let (piece, range) = self.piece(offset).ok().filter(|_| offset < self.size)?;
        match piece {
            Piece::Plain(from) => self.device.map(from + (offset - range.start), len.min(range.end - offset)),
            _ => None,
        }
    }

    fn origin_at(&self, offset: u64, limit: u64) -> Result<Origin> {
        let (piece, range) = self.piece(offset)?;
        let (skip, limit) = (offset - range.start, limit.min(range.end.saturating_sub(offset)));
        match piece {
            Piece::Encrypted(from) => self.origin_of_encrypted(from + skip, limit),
            Piece::Plain(from) => self.device.origin_at(from + skip, limit),
            Piece::Zeros => Ok(Origin { len: limit, source: Source::Zeros }),
            Piece::Bytes(_) => Ok(Origin::unknown(limit)),
        }
    }
}

impl BlockDevice for Decrypted {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}
