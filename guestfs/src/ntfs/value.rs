//! Attributes as a whole: their value, or where their clusters are.

use std::sync::Arc;

use blockdev::{
    BlockSizes, Error, ErrorKind, ReadAt, Result,
    images::{Disk, layer::Layer},
};

use super::{
    content::{Compressed, Plain},
    mft::Mft,
    runs::Runs,
};
use crate::inline::Inline;

const COMPRESSED: u16 = 0x00ff;
const LZNT1: u16 = 1;
const ENCRYPTED: u16 = 0x4000;
const SPARSE: u16 = 0x8000;

/// The largest unit of compression. Windows has 64 KiB and less.
const UNIT_MAX: u64 = 1 << 20;

/// The value of an attribute.
pub struct Value {
    /// How it is stored.
    pub flags: u16,
    /// Where it is.
    pub body: Body,
}

/// Where a value is.
pub enum Body {
    /// Here.
    Here(Vec<u8>),
    /// In clusters.
    There(Stored),
}

/// A value in clusters.
pub struct Stored {
    /// Number of the file's first record.
    pub file: u64,
    /// Bytes that clusters are kept for, holes among them.
    pub allocated: u64,
    /// Bytes of the value.
    pub size: u64,
    /// Bytes of it that were written: behind are zeros.
    pub initialized: u64,
    /// Bytes of the clusters that it has, where it may have holes.
    pub packed: u64,
    /// Clusters of a unit of compression are two to the power of this.
    pub unit_shift: u8,
    /// Where they are.
    pub runs: Runs,
}

impl Stored {
    /// Where cluster `vcn` of the value is (`None`: in a hole), and how many follow it there, itself counted.
    pub fn at(&self, mft: &Mft, vcn: u64) -> Result<(Option<u64>, u64)> {
        self.runs.at(mft, vcn).map_err(|e| e.context(format!("NTFS file record {}", self.file)))
    }
}

impl Value {
    /// Bytes of the value.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::Here(bytes) => bytes.len() as u64,
            Body::There(stored) => stored.size,
        }
    }

    /// Bytes of clusters that it has.
    pub const fn allocated(&self) -> u64 {
        match &self.body {
            Body::Here(_) => 0,
            Body::There(stored) if self.flags & (COMPRESSED | SPARSE) != 0 => stored.packed,
            Body::There(stored) => stored.allocated,
        }
    }

    /// Where the content is.
    ///
    /// # Errors
    ///
    /// `Locked` when the guest encrypted it.
    pub fn layer(self, mft: &Arc<Mft>) -> Result<Arc<dyn Layer>> {
        if self.flags & ENCRYPTED != 0 {
            return Err(Error::new(
                ErrorKind::Locked,
                "it is encrypted (EFS): restore it to a machine that has the owner's key",
            ));
        }
        let cluster_shift = mft.clusters.geometry.cluster_shift;
        let stored = match self.body {
            Body::Here(bytes) => {
                let size = bytes.len() as u64;
                return Ok(Arc::new(Inline::new(bytes, size)));
            }
            Body::There(stored) => stored,
        };
        if stored.size > i64::MAX as u64 {
            return Err(Error::damaged(format!("it has {} bytes", stored.size)));
        }
        Ok(match self.flags & COMPRESSED {
            0 => Arc::new(Plain::new(stored, Arc::clone(mft))),
            LZNT1 => {
                let unit_shift = cluster_shift + u32::from(stored.unit_shift);
                if stored.unit_shift == 0 || 1_u64.checked_shl(unit_shift).is_none_or(|unit| unit > UNIT_MAX) {
                    return Err(Error::damaged(format!("units of compression of 2^{unit_shift} bytes")));
                }
                Arc::new(Compressed::new(stored, Arc::clone(mft)))
            }
            other => return Err(Error::unsupported(format!("its compression method {other} is not known"))),
        })
    }

    /// The content as a file that can be read.
    pub fn reader(self, mft: &Arc<Mft>) -> Result<Disk> {
        Disk::sharing(vec![self.layer(mft)?], BlockSizes::CLASSIC, Arc::default())
    }

    /// The whole value, which should have at most `max` bytes.
    pub fn bytes(self, mft: &Arc<Mft>, max: usize) -> Result<Vec<u8>> {
        let size = self.size();
        if size > max as u64 {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("an attribute of {size} bytes, where {max} are the most"),
            ));
        }
        if let Body::Here(bytes) = self.body {
            return Ok(bytes);
        }
        let mut bytes = vec![0; size as usize];
        self.reader(mft)?.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}
