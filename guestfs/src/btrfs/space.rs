//! The logical addresses of a filesystem, as bytes.

use std::sync::Arc;

use blockdev::{Error, ErrorKind, Result};

use super::{
    chunks::{Chunk, Chunks, Layout, STRIPE, Stripe},
    members::Members,
    parity,
};

/// Devices under chunks.
pub struct Space {
    members: Arc<Members>,
    chunks: Chunks,
}

impl Space {
    pub const fn new(members: Arc<Members>, chunks: Chunks) -> Self {
        Self { members, chunks }
    }

    pub const fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// In how many ways the bytes at `logical` can be read.
    pub fn ways(&self, logical: u64) -> Result<usize> {
        Ok(self.chunks.at(logical)?.ways())
    }

    /// Fills `buf` from `logical` on, each part in the first way that works.
    ///
    /// # Errors
    ///
    /// When a part cannot be read in any way.
    pub fn read_any(&self, buf: &mut [u8], logical: u64) -> Result<()> {
        self.parts(buf, logical, |chunk, part, at| {
            let mut failed = None;
            for way in 0..chunk.ways() {
                match self.read_part(chunk, part, at, way) {
                    Ok(()) => return Ok(()),
                    Err(e) => failed = Some(worse(failed, e)),
                }
            }
            Err(failed.unwrap_or_else(|| Error::damaged(format!("logical address {logical} cannot be read"))))
        })
    }

    /// Fills `buf` from `logical` on in the way numbered `way`: 0 is the usual one.
    ///
    /// # Errors
    ///
    /// When that way does not work.
    pub fn read(&self, buf: &mut [u8], logical: u64, way: usize) -> Result<()> {
        self.parts(buf, logical, |chunk, part, at| self.read_part(chunk, part, at, way))
    }

    /// Calls `read` with each part of `buf` that lies in one stripe, its chunk, and where in the chunk it begins.
    fn parts(
        &self,
        mut buf: &mut [u8],
        mut logical: u64,
        mut read: impl FnMut(&Chunk, &mut [u8], u64) -> Result<()>,
    ) -> Result<()> {
        while !buf.is_empty() {
            let chunk = self.chunks.at(logical)?;
            let at = logical - chunk.start;
            let n = usize::try_from(chunk.left(at)).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) = buf.split_at_mut(n);
            read(chunk, part, at)?;
            logical = logical.saturating_add(n as u64);
            buf = rest;
        }
        Ok(())
    }

    /// Fills `part`, which lies in one stripe and begins at `at` of `chunk`.
    fn read_part(&self, chunk: &Chunk, part: &mut [u8], at: u64, way: usize) -> Result<()> {
        let stripe =
            |index: usize| chunk.stripes.get(index).ok_or_else(|| Error::damaged("a stripe that is not there"));
        let number = at / STRIPE;
        match chunk.layout {
            Layout::Columns { copies } => {
                let columns = (chunk.stripes.len() / copies.max(1)).max(1) as u64;
                let column = (number % columns) as usize;
                // One column is not cut into stripes.
                let inside = if columns == 1 { at } else { number / columns * STRIPE + at % STRIPE };
                self.read_stripe(stripe(column * copies + way)?, part, inside)
            }
            Layout::Parity { parities } => {
                let all = chunk.stripes.len();
                let data = all.saturating_sub(parities).max(1);
                let row = number / data as u64;
                let turn = (row % all as u64) as usize;
                let inside = row * STRIPE + at % STRIPE;
                let row = Row { space: self, chunk, all, data, turn, inside };
                row.read(part, (number % data as u64) as usize, way)
            }
        }
    }

    /// Fills `part` from byte `inside` of the range `stripe` on.
    fn read_stripe(&self, stripe: &Stripe, part: &mut [u8], inside: u64) -> Result<()> {
        let Some(member) = stripe.member.and_then(|index| self.members.get(index)) else {
            let what = format!("device {} of the btrfs is missing: attach it", stripe.device);
            return Err(Error::new(ErrorKind::Missing, what));
        };
        let offset = stripe.offset.saturating_add(inside);
        if member.device.read_at(part, offset)? < part.len() {
            let (device, end) = (stripe.device, member.device.size());
            return Err(Error::damaged(format!("device {device} of the btrfs ends at byte {end}, before {offset}")));
        }
        Ok(())
    }
}

/// One row of stripes of RAID 5 or 6.
struct Row<'a> {
    space: &'a Space,
    chunk: &'a Chunk,
    /// Stripes of the row, and of them with data.
    all: usize,
    data: usize,
    /// The device of the first data stripe: it moves on by one with each row.
    turn: usize,
    /// Where the bytes lie on each device.
    inside: u64,
}

impl Row<'_> {
    /// Fills `part` with data stripe `index`.
    fn read(&self, part: &mut [u8], index: usize, way: usize) -> Result<()> {
        // P comes after the data stripes, Q after P.
        let (p, q) = (self.data, self.data + 1);
        let others = |skip: Option<usize>| (0..self.data).filter(move |i| *i != index && Some(*i) != skip);
        match way {
            0 => self.stripe(part, index),
            1 => {
                self.stripe(part, p)?;
                others(None).try_for_each(|i| self.with(part.len(), i, |bytes| parity::add(part, bytes)))
            }
            2 => {
                self.stripe(part, q)?;
                others(None)
                    .try_for_each(|i| self.with(part.len(), i, |bytes| parity::add_weighted(part, bytes, i)))?;
                parity::from_q(part, index);
                Ok(())
            }
            _ => {
                let other = others(None).nth(way - 3).ok_or_else(|| Error::damaged("a stripe that is not there"))?;
                let mut sum = vec![0; part.len()];
                self.stripe(part, p)?;
                self.stripe(&mut sum, q)?;
                others(Some(other)).try_for_each(|i| {
                    self.with(part.len(), i, |bytes| {
                        parity::add(part, bytes);
                        parity::add_weighted(&mut sum, bytes, i);
                    })
                })?;
                parity::from_both(part, &sum, index, other);
                Ok(())
            }
        }
    }

    /// Fills `part` with stripe `index` of the row: data, then P, then Q.
    fn stripe(&self, part: &mut [u8], index: usize) -> Result<()> {
        let place = (self.turn + index) % self.all.max(1);
        let stripe = self.chunk.stripes.get(place);
        let stripe = stripe.ok_or_else(|| Error::damaged("a stripe that is not there"))?;
        self.space.read_stripe(stripe, part, self.inside)
    }

    fn with(&self, len: usize, index: usize, use_it: impl FnOnce(&[u8])) -> Result<()> {
        let mut bytes = vec![0; len];
        self.stripe(&mut bytes, index)?;
        use_it(&bytes);
        Ok(())
    }
}

/// Which of two failures to tell: a missing device can be attached.
pub fn worse(before: Option<Error>, now: Error) -> Error {
    match before {
        Some(before) if before.kind() == ErrorKind::Missing || now.kind() != ErrorKind::Missing => before,
        _ => now,
    }
}
