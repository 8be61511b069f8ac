//! The kinds whose signature, label or identity takes more than looking at one place.

use super::{Content, FsKind};
use crate::{
    ReadAt, Result,
    fields::{be32, be64, le16, le32, le64, read, slice, text, utf16, uuid},
};

/// Looks for one kind: the volume, and its head as read.
pub type Probe = fn(&dyn ReadAt, &[u8]) -> Result<Option<Content>>;

/// In the order in which they are asked. FAT has the weakest signature and comes last of those with a boot sector; the
/// filesystems that keep the first sectors free come before ISO 9660, which hybrid images have beside another. Last comes
/// what is only a copy.
pub const PROBES: [Probe; 10] =
    [ntfs, exfat, ext, swap_of_large_pages, zfs, fat, iso9660, zfs_at_end, ext_by_backup, btrfs_by_copy];

/// Bytes of a root directory that are searched for a label, which formatting tools put first.
const ROOT_BYTES: usize = 64 << 10;

/// The sector size in a boot sector of FAT or NTFS, if it is one that exists.
fn sector_size(head: &[u8]) -> Option<u64> {
    let size = le16(head, 11);
    (size.is_power_of_two() && (256..=4096).contains(&size)).then(|| size.into())
}

fn ntfs(volume: &dyn ReadAt, head: &[u8]) -> Result<Option<Content>> {
    if slice(head, 3, 8) != b"NTFS    " {
        return Ok(None);
    }
    let uuid = Some(format!("{:016X}", le64(head, 72)));
    Ok(Some(Content { kind: FsKind::Ntfs, label: ntfs_label(volume, head)?, uuid }))
}

/// The label is the attribute `$VOLUME_NAME` of `$Volume`, the fourth record of the master file table.
fn ntfs_label(volume: &dyn ReadAt, head: &[u8]) -> Result<Option<String>> {
    const VOLUME_NAME: u32 = 0x60;
    let Some(sector) = sector_size(head) else { return Ok(None) };
    // Above 0x80 both sizes are powers of two, counted downwards.
    let sectors = match slice(head, 13, 1).first() {
        Some(n @ 0..=0x80) => u64::from(*n),
        Some(n) => 1_u64.checked_shl(256 - u32::from(*n)).unwrap_or(0),
        None => 0,
    };
    let cluster = sector.saturating_mul(sectors);
    let record_size = match slice(head, 64, 1).first().map(|b| b.cast_signed()) {
        Some(n @ 1..) => cluster.saturating_mul(u64::from(n.unsigned_abs())),
        Some(n) => 1_u64.checked_shl(u32::from(n.unsigned_abs())).unwrap_or(0),
        None => 0,
    };
    if !(256..=65536).contains(&record_size) {
        return Ok(None);
    }
    let at = le64(head, 48).saturating_mul(cluster).saturating_add(3 * record_size);
    let mut record = read(volume, at, record_size as usize)?;
    if !record.starts_with(b"FILE") {
        return Ok(None);
    }
    // The last two bytes of each sector are kept in an array of their own.
    let fixups = usize::from(le16(&record, 4));
    for i in 1..usize::from(le16(&record, 6)) {
        let stored = slice(&record, fixups + 2 * i, 2).to_vec();
        let place = (i * 512).checked_sub(2).and_then(|end| record.get_mut(end..end + 2));
        if let (Some(place), [_, _]) = (place, stored.as_slice()) {
            place.copy_from_slice(&stored);
        }
    }
    let mut at = usize::from(le16(&record, 20));
    while let (kind, length @ 24..) = (le32(&record, at), le32(&record, at + 4) as usize) {
        let is_resident = slice(&record, at + 8, 1) == [0];
        if kind == VOLUME_NAME && is_resident {
            let (length, start) = (le32(&record, at + 16) as usize, usize::from(le16(&record, at + 20)));
            return Ok(utf16(slice(&record, at + start, length)));
        }
        at += length;
        if at >= record.len() {
            break;
        }
    }
    Ok(None)
}

fn exfat(volume: &dyn ReadAt, head: &[u8]) -> Result<Option<Content>> {
    const LABEL: u8 = 0x83;
    if slice(head, 3, 8) != b"EXFAT   " {
        return Ok(None);
    }
    let mut content = Content { uuid: Some(serial(le32(head, 100))), ..Content::of(FsKind::ExFat) };
    let shifts = slice(head, 108, 2);
    let (Some(sector @ 9..=12), Some(cluster @ 0..=25)) = (shifts.first().copied(), shifts.get(1).copied()) else {
        return Ok(Some(content));
    };
    let heap = u64::from(le32(head, 88)) << sector;
    let root = heap.saturating_add((u64::from(le32(head, 96)).saturating_sub(2) << sector) << cluster);
    let entries = read(volume, root, ROOT_BYTES.min(1 << (sector + cluster).min(20)))?;
    let entry = entries.chunks_exact(32).take_while(|e| e.first() != Some(&0)).find(|e| e.first() == Some(&LABEL));
    content.label = entry.and_then(|e| {
        let units = usize::from(e.get(1).copied().unwrap_or(0)).min(11);
        utf16(slice(e, 2, units * 2))
    });
    Ok(Some(content))
}

/// FAT has no magic: its fields have to make sense together. Which width it has, the number of clusters decides.
fn fat(volume: &dyn ReadAt, head: &[u8]) -> Result<Option<Content>> {
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    let jump = matches!(byte(0), 0xe9 | 0xeb);
    let (per_cluster, reserved, tables, media) = (byte(13), u64::from(le16(head, 14)), byte(16), byte(21));
    let Some(sector) = sector_size(head) else { return Ok(None) };
    if !jump || !per_cluster.is_power_of_two() || reserved == 0 || !(1..=2).contains(&tables) || media < 0xf0 {
        return Ok(None);
    }
    let either = |short: usize, long: usize| match le16(head, short) {
        0 => u64::from(le32(head, long)),
        n => u64::from(n),
    };
    let (sectors, table_sectors) = (either(19, 32), either(22, 36));
    let root_bytes = u64::from(le16(head, 17)) * 32;
    let tables_end = reserved + u64::from(tables) * table_sectors;
    let data = tables_end + root_bytes.div_ceil(sector);
    if table_sectors == 0 || sectors <= data {
        return Ok(None);
    }
    let clusters = (sectors - data) / u64::from(per_cluster);
    // "Microsoft FAT Specification", 3.5: these counts decide, and nothing else. A root directory of no size is FAT32's.
    let kind = match clusters {
        _ if root_bytes == 0 => FsKind::Fat32,
        0..4085 => FsKind::Fat12,
        4085..65525 => FsKind::Fat16,
        _ => return Ok(None),
    };
    let (extended, root, root_bytes) = if kind == FsKind::Fat32 {
        let cluster = u64::from(le32(head, 44)).saturating_sub(2);
        (64, data + cluster.saturating_mul(per_cluster.into()), sector * u64::from(per_cluster))
    } else {
        (36, tables_end, root_bytes)
    };
    let mut content = Content::of(kind);
    // The byte 0x28 or 0x29 says that a serial number, and with 0x29 a label, follows.
    let boot = byte(extended + 2);
    if matches!(boot, 0x28 | 0x29) {
        content.uuid = Some(serial(le32(head, extended + 3)));
    }
    let length = usize::try_from(root_bytes).unwrap_or(ROOT_BYTES).min(ROOT_BYTES);
    let entries = read(volume, root.saturating_mul(sector), length)?;
    content.label = entries
        .chunks_exact(32)
        .take_while(|e| e.first() != Some(&0))
        .filter(|e| e.first() != Some(&0xe5))
        // The attribute "volume", and not that of a long name, which has this bit too.
        .find(|e| e.get(11).is_some_and(|a| a & 0x08 != 0 && a & 0x3f != 0x0f))
        .and_then(|e| text(slice(e, 0, 11)))
        .or_else(|| text(slice(head, extended + 7, 11)).filter(|l| boot == 0x29 && l != "NO NAME"));
    Ok(Some(content))
}

/// A FAT serial number as Windows shows it.
fn serial(number: u32) -> String {
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}

fn ext(_: &dyn ReadAt, head: &[u8]) -> Result<Option<Content>> {
    Ok(Content::of_ext(slice(head, 1024, 1024)))
}

/// An ext volume whose first blocks were overwritten: its second group begins with a copy of the superblock. A group has
/// as many blocks as a block has bits.
fn ext_by_backup(volume: &dyn ReadAt, _: &[u8]) -> Result<Option<Content>> {
    for (shift, block) in [(0, 8193), (1, 16384), (2, 32768)] {
        let copy = read(volume, block << (10 + shift), 1024)?;
        let (its_shift, its_group) = (le32(&copy, 24), le16(&copy, 90));
        if let Some(content) = Content::of_ext(&copy)
            && (its_shift, its_group) == (shift, 1)
        {
            return Ok(Some(content));
        }
    }
    Ok(None)
}

impl Content {
    /// What the superblock of an ext volume says, or `None` when `superblock` is none.
    #[must_use]
    pub fn of_ext(superblock: &[u8]) -> Option<Self> {
        let sb = superblock;
        if slice(sb, 56, 2) != [0x53, 0xef] {
            return None;
        }
        /// What ext3 knows, of the features that a reader or a writer must know.
        const INCOMPAT_EXT3: u32 = 0x2 | 0x4 | 0x10;
        const RO_COMPAT_EXT3: u32 = 0x1 | 0x2 | 0x4;
        const HAS_JOURNAL: u32 = 0x4;
        const JOURNAL_DEVICE: u32 = 0x8;
        let (compat, incompat, ro_compat) = (le32(sb, 92), le32(sb, 96), le32(sb, 100));
        let kind = if incompat & JOURNAL_DEVICE != 0 {
            FsKind::ExtJournal
        } else if incompat & !INCOMPAT_EXT3 != 0 || ro_compat & !RO_COMPAT_EXT3 != 0 {
            FsKind::Ext4
        } else if compat & HAS_JOURNAL != 0 {
            FsKind::Ext3
        } else {
            FsKind::Ext2
        };
        Some(Self { kind, label: text(slice(sb, 120, 16)), uuid: uuid(sb, 104) })
    }
}

/// Swap of machines with pages of more than 4 KiB: its magic ends the first page.
fn swap_of_large_pages(_: &dyn ReadAt, head: &[u8]) -> Result<Option<Content>> {
    let found = [8192, 16384, 32768, 65536].into_iter().any(|page| slice(head, page - 10, 10) == b"SWAPSPACE2");
    let content = || Content { kind: FsKind::Swap, label: text(slice(head, 1052, 16)), uuid: uuid(head, 1036) };
    Ok(found.then(content))
}

fn iso9660(_: &dyn ReadAt, head: &[u8]) -> Result<Option<Content>> {
    let Some(descriptor) = head.get(0x8000..0x8800).filter(|d| slice(d, 1, 5) == b"CD001") else { return Ok(None) };
    // Like `blkid`: when it was changed last, or made, stands for a UUID.
    let date = |at: usize| {
        let digits =
            text(slice(descriptor, at, 16)).filter(|d| d.len() == 16 && d.bytes().all(|b| b.is_ascii_digit()))?;
        let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
        let day = format!("{}-{}-{}", part(0, 4), part(4, 6), part(6, 8));
        let time = format!("{}-{}-{}-{}", part(8, 10), part(10, 12), part(12, 14), part(14, 16));
        (day != "0000-00-00").then(|| format!("{day}-{time}"))
    };
    let uuid = date(830).or_else(|| date(813));
    Ok(Some(Content { kind: FsKind::Iso9660, label: text(slice(descriptor, 40, 32)), uuid }))
}

/// The second superblock of a btrfs, at 64 MiB: the first is gone.
fn btrfs_by_copy(volume: &dyn ReadAt, _: &[u8]) -> Result<Option<Content>> {
    const PLACE: u64 = 64 << 20;
    let copy = read(volume, PLACE, 4096)?;
    let is_one = slice(&copy, 64, 8) == b"_BHRfS_M" && le64(&copy, 48) == PLACE;
    let content = || Content { kind: FsKind::Btrfs, label: text(slice(&copy, 299, 256)), uuid: uuid(&copy, 32) };
    Ok(is_one.then(content))
}

/// A device of a ZFS pool, by one of the two labels at its start.
fn zfs(volume: &dyn ReadAt, _: &[u8]) -> Result<Option<Content>> {
    zfs_label(volume, [0, ZFS_LABEL])
}

/// The same whose start was overwritten, by one of the two labels at its end.
fn zfs_at_end(volume: &dyn ReadAt, _: &[u8]) -> Result<Option<Content>> {
    let end = volume.size() / ZFS_LABEL * ZFS_LABEL;
    zfs_label(volume, [end.saturating_sub(2 * ZFS_LABEL), end.saturating_sub(ZFS_LABEL)])
}

/// Bytes of a label of ZFS.
const ZFS_LABEL: u64 = 256 << 10;

/// The pool that a label of ZFS names, which is at one of `places`: behind 16 KiB it has a list of names and values in XDR.
fn zfs_label(volume: &dyn ReadAt, places: [u64; 2]) -> Result<Option<Content>> {
    const HEAD: usize = 12;
    const LIST: usize = 112 << 10;
    for place in places {
        let at = place + (16 << 10);
        let head = read(volume, at, HEAD)?;
        // XDR encoding (1), any byte order, then version 0 and unique names (1).
        if slice(&head, 0, 1) != [1] || be32(&head, 4) != 0 || be32(&head, 8) != 1 {
            continue;
        }
        let list = read(volume, at, LIST)?;
        let (mut name, mut guid) = (None, None);
        let mut at = HEAD;
        while let size @ 20.. = be32(&list, at) as usize {
            let key = slice(&list, at + 12, be32(&list, at + 8) as usize);
            let value = at + 12 + key.len().next_multiple_of(4) + 8;
            match key {
                b"name" => name = text(slice(&list, value + 4, be32(&list, value) as usize)),
                b"pool_guid" => guid = Some(be64(&list, value).to_string()),
                _ => {}
            }
            at = at.saturating_add(size);
            if at >= list.len() {
                break;
            }
        }
        if guid.is_some() {
            return Ok(Some(Content { kind: FsKind::Zfs, label: name, uuid: guid }));
        }
    }
    Ok(None)
}
