//! Run lists: where on the volume the clusters of an attribute are.
//!
//! A run list is stored as pairs of a length and the distance to the run before, in as few bytes as they take. A large
//! attribute has it in parts, each in a record of its own: a part is decoded when it is needed, and kept in the bounded
//! memory of the [`Mft`].

use std::sync::Arc;

use blockdev::{Error, Result};

use super::{kept::Weight, mft::Mft, record::Reference};

/// Runs that follow on each other.
#[derive(Debug, PartialEq, Eq)]
pub struct Extents {
    /// By ascending cluster of the content; each ends where the next begins.
    list: Vec<Extent>,
    /// Cluster of the content after the last.
    end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    vcn: u64,
    /// Cluster of the volume; `None` in a hole.
    lcn: Option<u64>,
}

impl Weight for Extents {
    fn bytes(&self) -> usize {
        self.list.capacity() * size_of::<Extent>()
    }
}

/// The signed little-endian number of at most eight bytes.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|b| *b >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    for (to, from) in wide.iter_mut().zip(bytes) {
        *to = *from;
    }
    i64::from_le_bytes(wide)
}

impl Extents {
    /// None, from cluster `vcn` of the content on.
    const fn none(vcn: u64) -> Self {
        Self { list: Vec::new(), end: vcn }
    }

    /// Those of the run list `pairs`, which begins at cluster `vcn` of the content, on a volume of `clusters`.
    pub fn decode(pairs: &[u8], vcn: u64, clusters: u64) -> Result<Self> {
        let mut extents = Self::none(vcn);
        let (mut rest, mut lcn) = (pairs, 0_i64);
        loop {
            let [sizes, tail @ ..] = rest else { return Err(Error::damaged("a run list has no end")) };
            let (len_size, delta_size) = (usize::from(sizes & 15), usize::from(sizes >> 4));
            if *sizes == 0 {
                return Ok(extents);
            }
            let fields = tail.split_at_checked(len_size).and_then(|(len, tail)| {
                let (delta, tail) = tail.split_at_checked(delta_size)?;
                (len_size <= 8 && delta_size <= 8).then_some((signed(len), delta, tail))
            });
            let Some((len @ 1.., delta, tail)) = fields else {
                return Err(Error::damaged(format!("a run list goes wrong at cluster {} of the content", extents.end)));
            };
            rest = tail;
            let place = if delta.is_empty() {
                None
            } else {
                lcn = lcn.wrapping_add(signed(delta));
                Some(u64::try_from(lcn).unwrap_or(u64::MAX))
            };
            let len = len.unsigned_abs();
            if place.is_some_and(|lcn| lcn.checked_add(len).is_none_or(|end| end > clusters)) {
                return Err(Error::damaged(format!(
                    "a run list leads behind the end of the volume, to {len} clusters from {lcn} on"
                )));
            }
            extents.push(place, len)?;
        }
    }

    fn push(&mut self, lcn: Option<u64>, len: u64) -> Result<()> {
        let end = self.end.checked_add(len).filter(|end| *end < 1 << 54);
        let end = end.ok_or_else(|| Error::damaged("a run list is longer than a file can be"))?;
        let follows = self.list.last().is_some_and(|last| match (last.lcn, lcn) {
            (None, None) => true,
            (Some(before), Some(lcn)) => lcn.checked_sub(before) == Some(self.end - last.vcn),
            _ => false,
        });
        if !follows {
            self.list.push(Extent { vcn: self.end, lcn });
        }
        self.end = end;
        Ok(())
    }

    /// Puts `others` behind the last, where they belong.
    pub fn append(&mut self, others: &Self) -> Result<()> {
        for (i, extent) in others.list.iter().enumerate() {
            if extent.vcn != self.end {
                return Err(gap(self.end));
            }
            let end = others.list.get(i + 1).map_or(others.end, |next| next.vcn);
            self.push(extent.lcn, end - extent.vcn)?;
        }
        Ok(())
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Where cluster `vcn` of the content is (`None`: in a hole), and how many follow it there, itself counted.
    pub fn at(&self, vcn: u64) -> Result<(Option<u64>, u64)> {
        let next = self.list.partition_point(|extent| extent.vcn <= vcn);
        let extent = next.checked_sub(1).and_then(|i| self.list.get(i));
        let end = self.list.get(next).map_or(self.end, |extent| extent.vcn);
        match extent {
            Some(extent) if vcn < end => Ok((extent.lcn.map(|lcn| lcn + (vcn - extent.vcn)), end - vcn)),
            _ => Err(gap(vcn)),
        }
    }
}

fn gap(vcn: u64) -> Error {
    Error::damaged(format!("no run list says where cluster {vcn} of the content is"))
}

/// The run list of an attribute, in parts.
pub struct Runs {
    parts: Vec<Part>,
}

/// A part of a run list.
pub struct Part {
    /// The first cluster of the content that it says the place of.
    pub first: u64,
    /// Where it is.
    pub source: Source,
}

/// Where a part of a run list is.
pub enum Source {
    /// Here, decoded.
    Here(Arc<Extents>),
    /// In the record of this number, in the attribute of this instance.
    There(Home),
}

/// In which record a part of an attribute is.
#[derive(Clone, Copy)]
pub struct Home {
    /// The record.
    pub record: Reference,
    /// The first record of the file.
    pub base: Reference,
    /// Type of the attribute.
    pub kind: u32,
    /// What tells the attribute from the others of the record.
    pub instance: u16,
}

impl Runs {
    /// Those of `parts`, by ascending [`Part::first`].
    pub const fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// Where cluster `vcn` of the content is (`None`: in a hole), and how many follow it there, itself counted.
    pub fn at(&self, mft: &Mft, vcn: u64) -> Result<(Option<u64>, u64)> {
        let next = self.parts.partition_point(|part| part.first <= vcn);
        let part = next.checked_sub(1).and_then(|i| self.parts.get(i)).ok_or_else(|| gap(vcn))?;
        match &part.source {
            Source::Here(extents) => extents.at(vcn),
            Source::There(home) => mft.part(home, part.first)?.at(vcn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        // 5 clusters at 0x1234; 3 at 0x1230 (backwards); a hole of 256; 1 right behind the 3; 2 behind that one.
        let pairs = [0x21, 5, 0x34, 0x12, 0x11, 3, 0xfc, 0x02, 0x00, 0x01, 0x11, 1, 3, 0x11, 2, 1, 0x00, 0xff];
        let extents = Extents::decode(&pairs, 10, 0x2000).unwrap();
        assert_eq!(extents.len(), 4, "the last two are one");
        assert_eq!(extents.at(10).unwrap(), (Some(0x1234), 5));
        assert_eq!(extents.at(16).unwrap(), (Some(0x1231), 2));
        assert_eq!(extents.at(18).unwrap(), (None, 256));
        assert_eq!(extents.at(275).unwrap(), (Some(0x1234), 2));
        for outside in [0, 9, 277, u64::MAX] {
            assert!(extents.at(outside).is_err());
        }
    }

    #[test]
    fn lies_are_refused() {
        for (pairs, what) in [
            (&[0x11_u8, 1, 1][..], "no end"),
            (&[], "no end"),
            (&[0x11, 0, 1, 0], "goes wrong"),
            (&[0x11, 0xff, 1, 0], "goes wrong"),
            (&[0x10, 1, 0], "goes wrong"),
            (&[0x19, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], "goes wrong"),
            (&[0x11, 1, 0xff, 0], "behind the end"),
            (&[0x11, 8, 0x7f, 0], "behind the end"),
            (&[0x08, 0, 0, 0, 0, 0, 0, 0, 0x40, 0], "longer than"),
        ] {
            let error = Extents::decode(pairs, 0, 100).unwrap_err().to_string();
            assert!(error.contains(what), "{pairs:x?}: {error}");
        }
    }

    #[test]
    fn parts_follow_on_each_other() {
        let mut all = Extents::decode(&[0x11, 4, 10, 0], 0, 100).unwrap();
        let next = Extents::decode(&[0x11, 4, 14, 0x11, 4, 30, 0], 4, 100).unwrap();
        all.append(&next).unwrap();
        assert_eq!((all.len(), all.at(0).unwrap(), all.at(9).unwrap()), (2, (Some(10), 8), (Some(45), 3)));
        assert!(all.append(&next).is_err());
    }
}
