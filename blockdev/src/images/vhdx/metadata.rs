//! The metadata region: how large the disk and its blocks are, and who the parent is (MS-VHDX 2.6).

use std::ops::Range;

use super::{
    guid::Guid,
    ids::{
        FILE_PARAMETERS, LOGICAL_SECTOR_SIZE, METADATA_TABLE_LEN, MIB, PARENT_LOCATOR, PHYSICAL_SECTOR_SIZE, REQUIRED,
        SIZE_MAX, VHDX_LOCATOR, VIRTUAL_DISK_ID, VIRTUAL_DISK_SIZE,
    },
};
use crate::{
    BlockSizes, Error, Result,
    images::{
        Format, Parent,
        blocks::{field, utf16},
        tables::Tables,
    },
};

const ENTRIES_MAX: u64 = 2047;
/// An item of some program, not of the format.
const USER: u32 = 1;
/// A locator with a few paths; the format would allow a MiB.
const LOCATOR_MAX: u64 = 64 << 10;

/// What the metadata tell.
pub struct Metadata {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Size of a block in bytes: a power of two from 1 to 256 MiB.
    pub block: u64,
    /// All blocks were allocated when the image was made: it is a fixed one.
    pub fixed: bool,
    /// The disk's block sizes.
    pub sizes: BlockSizes,
    /// The image that this one was made on.
    pub parent: Option<Parent>,
}

/// Where the known items are: offset in the file and length.
#[derive(Default)]
struct Items {
    parameters: Option<(u64, u64)>,
    size: Option<(u64, u64)>,
    logical: Option<(u64, u64)>,
    physical: Option<(u64, u64)>,
    locator: Option<(u64, u64)>,
}

impl Metadata {
    /// The metadata in `region` of the file.
    pub fn read(tables: &Tables, region: &Range<u64>) -> Result<Self> {
        let items = Items::read(tables, region)?;
        let parameters = fixed_item::<8>(tables, items.parameters, "file parameters")?;
        let block = u64::from(u32::from_le_bytes(field(&parameters, 0)));
        let flags = u32::from_le_bytes(field(&parameters, 4));
        let size = u64::from_le_bytes(fixed_item(tables, items.size, "virtual disk size")?);
        let logical = u32::from_le_bytes(fixed_item(tables, items.logical, "logical sector size")?);
        // Files of the draft of the specification lack it.
        let physical = match items.physical {
            None => logical,
            item => u32::from_le_bytes(fixed_item(tables, item, "physical sector size")?),
        };
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
            return Err(Error::damaged(format!("the metadata tell of blocks of {block} bytes")));
        }
        if !matches!((logical, physical), (512 | 4096, 512 | 4096)) {
            return Err(Error::damaged(format!("the metadata tell of sectors of {logical} and {physical} bytes")));
        }
        if size > SIZE_MAX || !size.is_multiple_of(u64::from(logical)) {
            return Err(Error::damaged(format!("the metadata tell of a disk of {size} bytes")));
        }
        let has_parent = flags & 2 != 0;
        let parent = has_parent.then(|| parent(tables, items.locator)).transpose()?;
        Ok(Self { size, block, fixed: flags & 1 != 0, sizes: BlockSizes { logical, physical }, parent })
    }
}

impl Items {
    fn read(tables: &Tables, region: &Range<u64>) -> Result<Self> {
        let damaged = |what: String| Error::damaged(format!("the metadata table at byte {} {what}", region.start));
        let head: [u8; 32] = tables.bytes(region.start)?;
        if !head.starts_with(b"metadata") {
            return Err(damaged("is not there: take another copy of the image".into()));
        }
        let count = u64::from(u16::from_le_bytes(field(&head, 10)));
        if count > ENTRIES_MAX {
            return Err(damaged(format!("tells of {count} items")));
        }
        let mut items = Self::default();
        for number in 1..=count {
            let entry: [u8; 32] = tables.bytes(region.start + 32 * number)?;
            let guid = Guid(field(&entry, 0));
            let offset = u64::from(u32::from_le_bytes(field(&entry, 16)));
            let len = u64::from(u32::from_le_bytes(field(&entry, 20)));
            let flags = u32::from_le_bytes(field(&entry, 24));
            let slot = match guid {
                FILE_PARAMETERS => Some(&mut items.parameters),
                VIRTUAL_DISK_SIZE => Some(&mut items.size),
                LOGICAL_SECTOR_SIZE => Some(&mut items.logical),
                PHYSICAL_SECTOR_SIZE => Some(&mut items.physical),
                PARENT_LOCATOR => Some(&mut items.locator),
                _ => None,
            };
            match slot {
                Some(slot) if flags & USER == 0 => {
                    if offset < METADATA_TABLE_LEN || offset + len > region.end - region.start {
                        return Err(damaged(format!(
                            "has item {guid} at {offset} with {len} bytes, outside its region"
                        )));
                    }
                    if slot.replace((region.start + offset, len)).is_some() {
                        return Err(damaged(format!("has item {guid} twice")));
                    }
                }
                _ if guid == VIRTUAL_DISK_ID || flags & REQUIRED == 0 => {}
                _ => return Err(Error::unsupported(format!("the image needs metadata {guid}, which are not known"))),
            }
        }
        Ok(items)
    }
}

/// An item of `N` bytes.
fn fixed_item<const N: usize>(tables: &Tables, item: Option<(u64, u64)>, name: &str) -> Result<[u8; N]> {
    match item {
        Some((at, len)) if len >= N as u64 => tables.bytes(at),
        _ => Err(Error::damaged(format!("the metadata have no {name}"))),
    }
}

/// What the parent locator says (2.6.2.6).
fn parent(tables: &Tables, item: Option<(u64, u64)>) -> Result<Parent> {
    let missing =
        || Error::damaged("the image says that it has a parent, and not which: its parent locator is damaged");
    let (at, len) = item.ok_or_else(missing)?;
    let mut bytes = vec![0; len.min(LOCATOR_MAX) as usize];
    let n = tables.file().read_at(&mut bytes, at)?;
    bytes.truncate(n);
    let kind = Guid(field(&bytes, 0));
    if kind != VHDX_LOCATOR {
        return Err(Error::unsupported(format!("the parent is named by a locator of type {kind}, which is not known")));
    }
    let count = usize::from(u16::from_le_bytes(field(&bytes, 18)));
    let text = |offset: [u8; 4], len: [u8; 2]| {
        let start = u32::from_le_bytes(offset) as usize;
        let end = start.checked_add(usize::from(u16::from_le_bytes(len)))?;
        bytes.get(start..end).map(|text| utf16(text, u16::from_le_bytes))
    };
    let entry = |number: usize| {
        let at = 20 + 12 * number;
        let key = text(field(&bytes, at), field(&bytes, at + 8))?;
        Some((key, text(field(&bytes, at + 4), field(&bytes, at + 10))?))
    };
    // Entries behind the end of the item have no key.
    let entries: Vec<(String, String)> = (0..count.min(bytes.len() / 12)).filter_map(entry).collect();
    let value = |key: &str| entries.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
    // Relative paths first: an image that has been moved still lies beside its parent.
    let paths = ["relative_path", "absolute_win32_path", "volume_path"];
    let mut names: Vec<String> = Vec::new();
    for name in paths.into_iter().filter_map(value) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let linkage = value("parent_linkage").and_then(|text| Guid::parse(&text)).ok_or_else(missing)?;
    if names.is_empty() {
        return Err(missing());
    }
    Ok(Parent { names, format: Some(Format::Vhdx), identity: Some(linkage.to_string()) })
}
