//! The boot region: twelve sectors, of which the last has a checksum of the others, and a copy behind them ("exFAT File
//! System Specification", 3).

use blockdev::{
    Error, ReadAt, Result,
    fields::{le16, le32, le64, read, slice},
};

use crate::fat::clusters::{Heap, Layout, Width};

/// Sectors of a boot region.
const SECTORS: usize = 12;

/// Where fields of the boot sector change without the checksum: the volume's flags and how full it is.
const UNCHECKED: [usize; 3] = [106, 107, 112];

/// What the boot region says.
#[derive(Debug)]
pub struct Boot {
    /// Where the clusters are.
    pub heap: Heap,
    /// Where the table is.
    pub table: Layout,
    /// The first cluster of the root directory.
    pub root: u32,
    /// The volume's serial number.
    pub serial: u32,
    /// Its flags.
    flags: u16,
    /// Bytes of the whole filesystem.
    pub size: u64,
    /// Whether this is from the backup.
    pub is_backup: bool,
}

impl Boot {
    /// That of `device`: the main one, or the backup when the main one is damaged.
    ///
    /// # Errors
    ///
    /// When both are.
    pub fn read(device: &dyn ReadAt) -> Result<Self> {
        // The backup comes after the main one, so the size of sectors must be tried if that cannot be believed.
        let main = region(device, 0, None).map(|region| (region, false));
        let found = main.or_else(|error| {
            let mut backups = (9..=12).filter_map(|shift| region(device, (SECTORS as u64) << shift, Some(shift)).ok());
            backups.next().map(|region| (region, true)).ok_or(error)
        });
        let (region, is_backup) = found?;
        Ok(Self { is_backup, ..Self::parse(&region)? })
    }

    fn parse(region: &[u8]) -> Result<Self> {
        let byte = |at: usize| region.get(at).copied().unwrap_or(0);
        let (sector_shift, cluster_shift) = (u32::from(byte(108)), u32::from(byte(108)) + u32::from(byte(109)));
        // 3.1.14 and 3.1.15: sectors of 512 to 4096 bytes, clusters of at most 32 MiB.
        if !(9..=12).contains(&sector_shift) || cluster_shift > 25 {
            return Err(wrong(format_args!("sectors of 2^{sector_shift} and clusters of 2^{cluster_shift} bytes")));
        }
        let bytes = |at: usize| u64::from(le32(region, at)) << sector_shift;
        let (count, copies) = (le32(region, 92), byte(110));
        let table_len = bytes(84);
        let entries = (table_len / 4).min(u64::from(count) + 2).min(u64::from(Width::ExFat.mask() - 8));
        let count = (entries as u32).saturating_sub(2);
        if count == 0 || !(1..=2).contains(&copies) {
            return Err(wrong(format_args!("{count} clusters and {copies} tables")));
        }
        let flags = le16(region, 106);
        let first = (flags & 1) as u8;
        let first = if first < copies { first } else { 0 };
        Ok(Self {
            heap: Heap { start: bytes(88), size: 1 << cluster_shift, count },
            table: Layout {
                width: Width::ExFat,
                start: bytes(80),
                len: table_len,
                entries: entries as u32,
                first,
                // Two tables are TexFAT's, and not alike.
                other: None,
            },
            root: le32(region, 96),
            serial: le32(region, 100),
            flags,
            size: le64(region, 72).saturating_mul(1 << sector_shift),
            is_backup: false,
        })
    }

    /// What it says of the volume's state, in sentences.
    pub fn notes(&self, device_size: u64) -> Vec<String> {
        /// 3.1.13.2 and 3.1.13.3.
        const DIRTY: u16 = 1 << 1;
        const MEDIA_FAILURE: u16 = 1 << 2;
        let mut notes = Vec::new();
        if self.is_backup {
            notes.push("the main boot region is damaged: its backup is used".to_owned());
        }
        if device_size < self.size {
            notes.push(format!("the volume has {device_size} bytes, its filesystem {}: it was cut off", self.size));
        }
        if self.flags & DIRTY != 0 {
            let of = "the volume was in use when it was copied: its last changes may be missing or half done";
            notes.push(of.to_owned());
        }
        if self.flags & MEDIA_FAILURE != 0 {
            let of = "the volume has met read or write errors on its disk: run a check of the guest's disk";
            notes.push(of.to_owned());
        }
        notes
    }

    /// Which allocation bitmap counts: each table has one.
    pub const fn bitmap(&self) -> u8 {
        self.table.first
    }
}

/// The boot region at `at`, whose checksum is right. Its sectors must have 2^`shift` bytes, if that is known.
fn region(device: &dyn ReadAt, at: u64, shift: Option<u32>) -> Result<Vec<u8>> {
    let sector = read(device, at, 512)?;
    let found = sector.get(108).copied().map_or(0, u32::from);
    if slice(&sector, 3, 8) != b"EXFAT   " || !(9..=12).contains(&found) || shift.is_some_and(|s| s != found) {
        return Err(Error::damaged(format!("there is no boot sector of exFAT at byte {at}")));
    }
    let size = 1_usize << found;
    let mut region = read(device, at, SECTORS * size)?;
    if region.len() < SECTORS * size {
        return Err(Error::damaged("the exFAT volume ends within its boot region: it was cut off"));
    }
    let sums = region.split_off((SECTORS - 1) * size);
    let sum = (0_usize..).zip(&region).filter(|(place, _)| !UNCHECKED.contains(place));
    let sum = sum.fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
    if le32(&sums, 0) != sum && !cfg!(fuzzing) {
        return Err(Error::damaged(format!(
            "the boot region of the exFAT volume at byte {at} has not the checksum {sum:08x} that it should have"
        )));
    }
    Ok(region)
}

fn wrong(what: std::fmt::Arguments<'_>) -> Error {
    Error::damaged(format!("the boot sector of the exFAT volume speaks of {what}: no such volume can be read"))
}
