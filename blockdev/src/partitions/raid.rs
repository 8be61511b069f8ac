//! Where the bytes of striped, mirrored and parity arrays lie: the arithmetic that Linux' md and LVM2 share.
//!
//! An offset of the array is a chunk and a place in it; a layout says on which member and in which row of chunks that
//! chunk is. Parity is never needed to read while all data members are there; when one is missing, its chunk is
//! computed as a unit to be unpacked.

use std::sync::Arc;

use crate::{
    Error, ErrorKind, ReadAt, Result,
    images::layer::{Place, Run},
};

/// The largest chunk that is computed from parity: the bound of [`Layer::unpack`](crate::images::layer::Layer::unpack).
const COMPUTED_MAX: u64 = 2 << 20;

/// Members an array may have.
pub const MEMBERS_MAX: usize = 384;

/// `len` bytes of a file from `offset` on.
#[derive(Debug, Clone)]
pub struct Area {
    /// Index in the files of the map.
    pub file: u32,
    /// Where they begin.
    pub offset: u64,
    /// How many there are.
    pub len: u64,
}

impl Area {
    /// The run at `at` of the area, of at most `limit` bytes.
    pub fn run(&self, at: u64, limit: u64) -> Result<Run> {
        let len = self.len.saturating_sub(at).min(limit);
        if len == 0 {
            return Err(Error::damaged(format!("byte {at} lies behind the end of its member of {} bytes", self.len)));
        }
        Ok(Run { len, place: Place::Stored { file: self.file, offset: self.offset.saturating_add(at) } })
    }
}

/// How an array spreads its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Every member has everything.
    Mirror,
    /// Chunks in turns. The first is on member `first` (not 0 only in the later zones of a raid0 of unequal members).
    Stripes {
        /// Where the turn begins.
        first: u64,
    },
    /// Chunks in turns, each several times: raid10.
    Copies {
        /// Copies side by side.
        near: u64,
        /// Copies further down.
        far: u64,
        /// How far down, in rows of chunks; 1 for the layout "offset".
        stride: u64,
        /// Whether rows and their copies alternate ("offset").
        offset: bool,
    },
    /// Chunks in turns, some members of each row having parity.
    Parity(Parity),
}

/// How parity moves from row to row, in md's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parity {
    /// Where the parity is.
    pub place: ParityPlace,
    /// Members with parity in each row: 1 or 2.
    pub count: u64,
    /// Whether the last member has the second parity always, and the others are laid out as a raid5 ("raid5 with Q").
    pub q_last: bool,
}

/// Where the (first) parity of a row is, and where its data begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParityPlace {
    /// On the first member.
    First,
    /// On the last.
    Last,
    /// From the last member downwards; data from the first member on.
    LeftAsymmetric,
    /// From the first member upwards; data from the first member on.
    RightAsymmetric,
    /// From the last member downwards; data begins behind the parity.
    LeftSymmetric,
    /// From the first member upwards; data begins behind the parity.
    RightSymmetric,
    /// DDF "N restart": downwards from the member before the last; data from the first member on.
    DdfRestart,
    /// DDF "N continue": downwards, the second parity before the first; data begins behind the parity.
    DdfContinue,
}

/// An array.
#[derive(Debug, Clone)]
pub struct Raid {
    layout: Layout,
    /// Bytes.
    chunk: u64,
    /// `None` where a member is missing or out of date.
    members: Vec<Option<Area>>,
}

/// A chunk's place: member and row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spot {
    member: u64,
    row: u64,
}

impl Raid {
    /// The array of `members`, in their order.
    ///
    /// # Errors
    ///
    /// `Damaged` when the numbers make no array.
    pub fn new(layout: Layout, chunk: u64, members: Vec<Option<Area>>) -> Result<Self> {
        let count = members.len() as u64;
        let fits = match &layout {
            Layout::Mirror | Layout::Stripes { .. } => count >= 1,
            Layout::Copies { near, far, stride, .. } => {
                *near >= 1 && *far >= 1 && near.saturating_mul(*far) <= count && *stride >= 1
            }
            Layout::Parity(parity) => (1..=2).contains(&parity.count) && count > parity.count,
        };
        if !fits || members.len() > MEMBERS_MAX || (chunk == 0 && layout != Layout::Mirror) || chunk > 1 << 40 {
            return Err(Error::damaged(format!("{count} members and chunks of {chunk} bytes make no {layout:?}")));
        }
        Ok(Self { layout, chunk, members })
    }

    /// Whether all can be read with the members there are.
    pub fn is_readable(&self) -> bool {
        let missing = self.members.iter().filter(|m| m.is_none()).count() as u64;
        match &self.layout {
            Layout::Mirror => missing < self.members.len() as u64,
            Layout::Stripes { .. } => missing == 0,
            Layout::Parity(_) => missing == 0 || (missing == 1 && self.chunk <= COMPUTED_MAX),
            // Every chunk of one turn of all members has a copy that is there.
            Layout::Copies { .. } => {
                (0..self.members.len() as u64).all(|c| self.copies(c).any(|s| self.area(s.member).is_ok()))
            }
        }
    }

    /// The run at `at` of the array, of at most `limit` bytes.
    pub fn run_at(&self, at: u64, limit: u64) -> Result<Run> {
        if self.layout == Layout::Mirror {
            let member = self.members.iter().flatten().next().ok_or_else(|| missing(0))?;
            return member.run(at, limit);
        }
        let (number, within) = (at / self.chunk, at % self.chunk);
        let limit = limit.min(self.chunk - within);
        let place = |spot: Spot| spot.row.saturating_mul(self.chunk).saturating_add(within);
        match &self.layout {
            Layout::Copies { .. } => {
                let first = self.copies(number).find_map(|spot| self.area(spot.member).ok().map(|area| (area, spot)));
                let (area, spot) = first.ok_or_else(|| missing(number))?;
                area.run(place(spot), limit)
            }
            Layout::Parity(parity) => {
                let spot = parity.spot(number, self.members.len() as u64);
                match self.area(spot.member) {
                    Ok(area) => area.run(place(spot), limit),
                    Err(_) if self.is_readable() => {
                        Ok(Run { len: limit, place: Place::Packed { unit: at - within, skip: within as u32 } })
                    }
                    Err(e) => Err(e),
                }
            }
            Layout::Mirror | Layout::Stripes { .. } => {
                let Layout::Stripes { first } = self.layout else { return Err(missing(0)) };
                let count = self.members.len() as u64;
                let spot = Spot { member: (number + first) % count, row: number / count };
                self.area(spot.member)?.run(place(spot), limit)
            }
        }
    }

    /// The chunk at `at` of an array with one member missing, computed from the others.
    pub fn compute(&self, at: u64, files: &[Arc<dyn ReadAt>], out: &mut Vec<u8>) -> Result<()> {
        let Layout::Parity(parity) = &self.layout else { return Err(missing(0)) };
        if self.chunk > COMPUTED_MAX {
            return Err(Error::unsupported(format!("chunks of {} bytes are not computed from parity", self.chunk)));
        }
        let (number, count) = (at / self.chunk, self.members.len() as u64);
        let wanted = parity.spot(number, count);
        let q = parity.q(wanted.row, count);
        out.resize(self.chunk as usize, 0);
        let mut other = vec![0; out.len()];
        for member in (0..count).filter(|m| *m != wanted.member && Some(*m) != q) {
            let area = self.area(member)?;
            let row = wanted.row.saturating_mul(self.chunk);
            let len = usize::try_from(area.len.saturating_sub(row)).unwrap_or(usize::MAX).min(other.len());
            let file = files.get(area.file as usize).ok_or_else(|| missing(member))?;
            let part = other.get_mut(..len).unwrap_or_default();
            let n = file.read_at(part, area.offset.saturating_add(row))?;
            out.iter_mut().zip(part.iter().take(n)).for_each(|(sum, byte)| *sum ^= byte);
        }
        Ok(())
    }

    fn area(&self, member: u64) -> Result<&Area> {
        let area = usize::try_from(member).ok().and_then(|m| self.members.get(m)?.as_ref());
        area.ok_or_else(|| missing(member))
    }

    /// All places of chunk `number` of a raid10, the first copy first.
    fn copies(&self, number: u64) -> impl Iterator<Item = Spot> {
        let count = self.members.len() as u64;
        let (near, far, stride, offset) = match self.layout {
            Layout::Copies { near, far, stride, offset } => (near, far, stride, offset),
            _ => (1, 1, 1, false),
        };
        let position = number.saturating_mul(near);
        let (column, row) = (position % count, position / count);
        let row = if offset { row.saturating_mul(far) } else { row };
        (0..near).flat_map(move |n| {
            let (member, row) = ((column + n) % count, row.saturating_add((column + n) / count));
            (0..far).map(move |f| Spot {
                member: (member + f * near) % count,
                row: row.saturating_add(f.saturating_mul(stride)),
            })
        })
    }
}

impl Parity {
    /// The place of data chunk `number` among `count` members, of which there are more than have parity.
    fn spot(self, number: u64, count: u64) -> Spot {
        let data = count - self.count;
        let (row, turn) = (number / data, number % data);
        // With the second parity always last, the others are a raid5 among themselves.
        let (width, parities) = if self.q_last { (count - 1, 1) } else { (count, self.count) };
        let parity = self.p(row, count);
        let behind = (parity + parities + turn) % width;
        let member = match self.place {
            ParityPlace::LeftSymmetric | ParityPlace::RightSymmetric => behind,
            ParityPlace::DdfContinue => (parity + 1 + turn) % width,
            // Data in order, leaving out the parity. When the first parity is on the last member, the second is on
            // the first member.
            _ if parities == 2 && parity == width - 1 => turn + 1,
            _ if turn >= parity => turn + parities,
            _ => turn,
        };
        Spot { member, row }
    }

    /// The member that has the first parity of a row.
    fn p(self, row: u64, count: u64) -> u64 {
        let width = if self.q_last { count - 1 } else { count };
        let turn = row % width;
        match self.place {
            ParityPlace::First => 0,
            ParityPlace::Last => count - self.count,
            ParityPlace::LeftAsymmetric | ParityPlace::LeftSymmetric | ParityPlace::DdfContinue => width - 1 - turn,
            ParityPlace::RightAsymmetric | ParityPlace::RightSymmetric => turn,
            ParityPlace::DdfRestart => width - 1 - (row + 1) % width,
        }
    }

    /// The member that has the second parity of a row.
    fn q(self, row: u64, count: u64) -> Option<u64> {
        let p = self.p(row, count);
        match self.count {
            2 if self.q_last => Some(count - 1),
            2 if self.place == ParityPlace::DdfContinue => Some((p + count - 1) % count),
            2 => Some((p + 1) % count),
            _ => None,
        }
    }
}

fn missing(member: u64) -> Error {
    Error::new(ErrorKind::Missing, format!("member {member} of the array is missing: give the disk that has it"))
}
