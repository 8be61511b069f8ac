//! The footer: what the disk is, in the last 512 bytes of the file (VHD 1.0, "Hard Disk Footer Format").
//!
//! Dynamic and differencing images have a copy of it at byte 0. The one at the end decides: byte 0 of a fixed image
//! is its guest's, who could write there what looks like the head of a dynamic one.

use std::fmt;

use crate::{
    Error, ReadAt, Result,
    images::{blocks::field, tables::Tables},
};

/// Bytes of a footer.
pub const LEN: u64 = 512;

/// Virtual PC before 2004 wrote footers without their last byte, which is a zero.
const OLD_LEN: u64 = 511;

/// Where the checksum is.
const CHECKSUM: usize = 64;

/// The most sectors that a disk can have: 2040 GiB.
const SECTORS_MAX: u64 = 0xff00_0000;

/// The largest geometry. A disk that has it may be larger.
const GEOMETRY_MAX: u64 = 65535 * 16 * 255;

/// Whose disks are as large as their geometry says: Virtual PC and old QEMU. What the size field has behind, their
/// guests have never seen. All others mean the size field, and QEMU 10 reads them so.
const GEOMETRY_COUNTS: [&[u8; 4]; 2] = [b"vpc ", b"qemu"];

/// The kinds of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The disk and behind it the footer.
    Fixed,
    /// Blocks as they are needed.
    Dynamic,
    /// What has changed since a parent.
    Differencing,
}

impl Kind {
    /// Its name in the specification.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }
}

/// Where a footer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// At the end, where it belongs; it begins at this byte.
    End(u64),
    /// Only at the beginning: the end of the file is damaged or missing.
    Copy,
}

/// A footer whose checksum is right.
pub struct Footer {
    bytes: [u8; LEN as usize],
}

impl Footer {
    /// The footer in these bytes, if there is one.
    fn parse(bytes: [u8; LEN as usize]) -> Option<Self> {
        let footer = Self { bytes };
        let stored = u32::from_be_bytes(footer.field(CHECKSUM));
        (footer.bytes.starts_with(b"conectix") && checksum(&footer.bytes, CHECKSUM) == stored).then_some(footer)
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        field(&self.bytes, at)
    }

    /// Which kind of image it is.
    pub fn kind(&self) -> Result<Kind> {
        let version = u32::from_be_bytes(self.field(12));
        if version >> 16 != 1 {
            return Err(Error::unsupported(format!("VHD version {}.{} is not known", version >> 16, version & 0xffff)));
        }
        match u32::from_be_bytes(self.field(60)) {
            2 => Ok(Kind::Fixed),
            3 => Ok(Kind::Dynamic),
            4 => Ok(Kind::Differencing),
            other => Err(Error::unsupported(format!("VHD disks of type {other} are not known, only 2, 3 and 4"))),
        }
    }

    /// Where the dynamic header is.
    pub fn data_offset(&self) -> u64 {
        u64::from_be_bytes(self.field(16))
    }

    /// The field that says how large the disk is, in bytes.
    fn current_size(&self) -> u64 {
        u64::from_be_bytes(self.field(48))
    }

    /// How large the disk is as its own machine saw it, in bytes.
    pub fn size(&self) -> Result<u64> {
        let cylinders = u64::from(u16::from_be_bytes(self.field(56)));
        let [heads, sectors] = self.field(58).map(u64::from);
        let geometry = cylinders * heads * sectors;
        let counts = GEOMETRY_COUNTS.contains(&&self.creator()) && !matches!(geometry, 0 | GEOMETRY_MAX);
        let sectors = if counts { geometry } else { self.current_size() / 512 };
        if sectors > SECTORS_MAX {
            return Err(Error::damaged(format!("the footer tells of {sectors} sectors, more than a VHD can have")));
        }
        Ok(sectors * 512)
    }

    /// What an operator should know of the size.
    pub fn size_note(&self) -> Result<Option<String>> {
        let (size, field) = (self.size()?, self.current_size());
        Ok((size != field).then(|| {
            format!(
                "the disk has {size} bytes by its geometry, which counts for its creator, and {field} by its footer"
            )
        }))
    }

    /// The program that made it, four bytes.
    pub fn creator(&self) -> [u8; 4] {
        self.field(28)
    }

    /// The disk's unique id.
    pub fn unique_id(&self) -> Uuid {
        Uuid(self.field(68))
    }

    /// The machine was asleep when it was last written.
    pub fn saved_state(&self) -> bool {
        self.field(84) == [1]
    }
}

/// The footer of `file` and where it is; `None` if there is none.
///
/// # Errors
///
/// When the file cannot be read.
pub fn find(file: &dyn ReadAt) -> Result<Option<(Footer, Found)>> {
    for len in [LEN, OLD_LEN] {
        if let Some(footer) = at_end(file, len)? {
            return Ok(Some((footer, Found::End(file.size().saturating_sub(len)))));
        }
    }
    let copy = read(file, 0, LEN)?.and_then(Footer::parse);
    Ok(copy.filter(|f| !matches!(f.kind(), Ok(Kind::Fixed))).map(|f| (f, Found::Copy)))
}

/// Whether `file`, whose head shows no format, ends with the footer of a fixed VHD that fits in all respects.
///
/// A guest can write what looks like a footer into the last sector of a raw disk. It is believed only where nothing
/// speaks against it: a partition table that reaches over the last sector of the file does.
///
/// # Errors
///
/// When the file cannot be read.
pub fn is_fixed(file: &dyn ReadAt) -> Result<bool> {
    for len in [LEN, OLD_LEN] {
        if let Some(footer) = at_end(file, len)? {
            let fits = matches!(footer.kind(), Ok(Kind::Fixed))
                && footer.current_size() == file.size().saturating_sub(len)
                && footer.size().is_ok();
            return Ok(fits && !gpt_ends_with_file(file)?);
        }
    }
    Ok(false)
}

fn at_end(file: &dyn ReadAt, len: u64) -> Result<Option<Footer>> {
    let Some(at) = file.size().checked_sub(len) else { return Ok(None) };
    Ok(read(file, at, len)?.and_then(Footer::parse))
}

/// `len` bytes at `at`, the rest zeros.
fn read(file: &dyn ReadAt, at: u64, len: u64) -> Result<Option<[u8; LEN as usize]>> {
    let mut bytes = [0; LEN as usize];
    let wanted = usize::try_from(len).ok().and_then(|len| bytes.get_mut(..len));
    let Some(wanted) = wanted else { return Ok(None) };
    let whole = file.read_at(wanted, at)? == wanted.len();
    Ok(whole.then_some(bytes))
}

/// Whether the disk has a GPT (UEFI 2.10, 5.3.2) whose other header is in the very last sector of the file.
fn gpt_ends_with_file(file: &dyn ReadAt) -> Result<bool> {
    for sector in [512, 4096] {
        let mut header = [0; 40];
        if file.read_at(&mut header, sector)? == header.len() && header.starts_with(b"EFI PART") {
            let other = u64::from_le_bytes(field(&header, 32));
            if other.checked_add(1).and_then(|sectors| sectors.checked_mul(sector)) == Some(file.size()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The checksum of a footer or header: the complement of the sum of all its bytes, those of the checksum itself (at
/// `at`) taken as zeros.
pub fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    let own = bytes.get(at..at.saturating_add(4)).unwrap_or_default();
    !sum(bytes).wrapping_sub(sum(own))
}

/// A UUID as VHD stores it: the first byte first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The one at `offset` of the file.
    pub fn read(tables: &Tables, offset: u64) -> Result<Self> {
        tables.bytes(offset).map(Self)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}
