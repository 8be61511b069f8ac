//! The header of dynamic and differencing images: where the blocks and the parent are (VHD 1.0, "Dynamic Disk Header
//! Format").

use super::footer::{Uuid, checksum};
use crate::{
    Error, Result,
    images::{Format, Parent, blocks::utf16, tables::Tables},
};

/// Bytes of the header.
pub const LEN: u64 = 1024;

/// The longest name that a locator may hold, in bytes.
const LOCATOR_MAX: u32 = 8 << 10;

/// The header of a dynamic or differencing image.
pub struct Header {
    /// Where the block allocation table begins.
    pub table: u64,
    /// Its entries.
    pub blocks: u32,
    /// Bytes of data in a block, a power of two of at least 512.
    pub block: u64,
}

impl Header {
    /// The header at `at` of the file.
    pub fn read(tables: &Tables, at: u64) -> Result<Self> {
        let bytes: [u8; LEN as usize] = tables.bytes(at)?;
        let damaged = |what: &str| Error::damaged(format!("the dynamic disk header at byte {at} {what}"));
        if !bytes.starts_with(b"cxsparse") {
            return Err(damaged("is not there"));
        }
        if checksum(&bytes, 36) != tables.be32(at + 36)? {
            return Err(damaged("does not have its checksum: take another copy of the image"));
        }
        let version = tables.be32(at + 24)?;
        if version >> 16 != 1 {
            return Err(Error::unsupported(format!("dynamic VHD version {} is not known", version >> 16)));
        }
        let block = u64::from(tables.be32(at + 32)?);
        if !block.is_power_of_two() || block < 512 {
            return Err(damaged(&format!("tells of blocks of {block} bytes")));
        }
        Ok(Self { table: tables.be64(at + 16)?, blocks: tables.be32(at + 28)?, block })
    }

    /// The image that the one with the header at `at` was made on.
    pub fn parent(tables: &Tables, at: u64) -> Result<Parent> {
        let mut names = Vec::new();
        let mut add = |name: String| {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        };
        // Relative paths first: an image that has been moved still lies beside its parent.
        for wanted in [b"W2ru", b"W2ku"] {
            for entry in locators(at) {
                if tables.bytes(entry)? == *wanted
                    && let Some(name) = locator(tables, entry)?
                {
                    add(utf16(&name, u16::from_le_bytes));
                }
            }
        }
        add(utf16(&tables.bytes::<512>(at + 64)?, u16::from_be_bytes));
        for entry in locators(at) {
            if tables.bytes(entry)? == *b"MacX"
                && let Some(name) = locator(tables, entry)?
            {
                add(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned());
            }
        }
        let identity = Some(Uuid::read(tables, at + 40)?.to_string());
        // The parent of a VHD is a VHD; if it is a fixed one, its first bytes are its guest's.
        Ok(Parent { names, format: Some(Format::Vhd), identity })
    }
}

/// Where the eight parent locator entries are.
fn locators(at: u64) -> impl Iterator<Item = u64> {
    (0..8).map(move |i| at + 576 + 24 * i)
}

/// What the locator at `entry` points to. A locator that leads nowhere is of no use and does no harm: the others count.
fn locator(tables: &Tables, entry: u64) -> Result<Option<Vec<u8>>> {
    let (len, at) = (tables.be32(entry + 8)?, tables.be64(entry + 16)?);
    if len == 0 || len > LOCATOR_MAX {
        return Ok(None);
    }
    let mut name = vec![0; len as usize];
    let n = tables.file().read_at(&mut name, at)?;
    name.truncate(n);
    Ok(Some(name))
}
