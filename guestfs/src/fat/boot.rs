//! The boot sector: where everything is ("Microsoft FAT Specification", 3).

use blockdev::{
    Error, Result,
    fields::{le16, le32},
    partitions::FsKind,
};

use super::clusters::{Heap, Layout, Width};

/// Bytes at the start of a volume that are looked at: the fields lie in the first 90.
pub const LEN: usize = 512;

/// Where the root directory is.
#[derive(Debug, Clone, Copy)]
pub enum Root {
    /// Behind the tables: the first byte and the number of bytes.
    Fixed(u64, u64),
    /// In clusters, of which this is the first.
    Cluster(u32),
}

/// What the boot sector says.
#[derive(Debug)]
pub struct Boot {
    /// The width of the table's entries.
    pub width: Width,
    /// Where the clusters are.
    pub heap: Heap,
    /// Where the tables are.
    pub table: Layout,
    /// Where the root directory is.
    pub root: Root,
    /// The byte at which FAT32 keeps how many clusters are free.
    pub free_count: Option<u64>,
    /// The byte that begins every table.
    pub media: u8,
    /// Whether the volume was in use (Windows and Linux set this bit).
    pub is_in_use: bool,
    /// Bytes of the whole filesystem.
    pub size: u64,
}

impl Boot {
    /// What `sector`, the first [`LEN`] bytes of a volume, says.
    ///
    /// # Errors
    ///
    /// When it contradicts itself.
    pub fn parse(sector: &[u8]) -> Result<Self> {
        let byte = |at: usize| sector.get(at).copied().unwrap_or(0);
        let sector_size = u32::from(le16(sector, 11));
        let per_cluster = byte(13);
        if !sector_size.is_power_of_two() || !(256..=4096).contains(&sector_size) {
            return Err(wrong(format_args!("sectors of {sector_size} bytes")));
        }
        if !per_cluster.is_power_of_two() {
            return Err(wrong(format_args!("clusters of {per_cluster} sectors")));
        }
        let (reserved, copies) = (u32::from(le16(sector, 14)), byte(16));
        if reserved == 0 || copies == 0 {
            return Err(wrong(format_args!("{reserved} reserved sectors and {copies} tables")));
        }
        let either = |short: usize, long: usize| match le16(sector, short) {
            0 => le32(sector, long),
            n => n.into(),
        };
        let (sectors, table_sectors) = (u64::from(either(19, 32)), u64::from(either(22, 36)));
        let root_bytes = u64::from(le16(sector, 17)) * 32;
        let bytes = |sectors: u64| sectors * u64::from(sector_size);
        let root_start = u64::from(reserved) + u64::from(copies) * table_sectors;
        let data = root_start + root_bytes.div_ceil(sector_size.into());
        let clusters = sectors.saturating_sub(data) / u64::from(per_cluster);
        if clusters == 0 {
            return Err(wrong(format_args!("{sectors} sectors, of which {data} are for tables")));
        }
        // 3.5: the number of clusters decides between FAT12 and FAT16. A root directory without a place is FAT32's.
        let width = match clusters {
            _ if root_bytes == 0 => Width::Fat32,
            0..4085 => Width::Fat12,
            4085..65525 => Width::Fat16,
            _ => return Err(wrong(format_args!("{clusters} clusters and a root directory outside of them"))),
        };
        // A table may be too short for all clusters: those behind its end cannot be used. Numbers end below the marks.
        let entries = (bytes(table_sectors) * 8 / u64::from(width.bits())).min(clusters + 2);
        let entries = u32::try_from(entries).unwrap_or(u32::MAX).min(width.mask() - 8);
        let count = entries.saturating_sub(2);
        let size = sector_size * u32::from(per_cluster);
        let is_wide = width == Width::Fat32;
        // Bit 7 of FAT32's flags: only the copy in the lowest four bits is kept.
        let flags = if is_wide { le16(sector, 40) } else { 0 };
        let (first, other) = match (flags & 0x80 != 0, (flags & 0x0f) as u8) {
            (true, active) if active < copies => (active, None),
            _ => (0, (copies > 1).then_some(1)),
        };
        let info_sector = u64::from(le16(sector, 48));
        let state = if is_wide { byte(65) } else { byte(37) };
        Ok(Self {
            width,
            heap: Heap { start: bytes(data), size, count },
            table: Layout { width, start: bytes(reserved.into()), len: bytes(table_sectors), entries, first, other },
            root: if is_wide { Root::Cluster(le32(sector, 44)) } else { Root::Fixed(bytes(root_start), root_bytes) },
            free_count: (is_wide && (1..u64::from(reserved)).contains(&info_sector)).then(|| bytes(info_sector)),
            media: byte(21),
            is_in_use: state & 1 != 0,
            size: bytes(sectors),
        })
    }

    /// The kind of filesystem.
    pub const fn kind(&self) -> FsKind {
        match self.width {
            Width::Fat12 => FsKind::Fat12,
            Width::Fat16 => FsKind::Fat16,
            Width::Fat32 | Width::ExFat => FsKind::Fat32,
        }
    }
}

fn wrong(what: std::fmt::Arguments<'_>) -> Error {
    Error::damaged(format!("the boot sector of a FAT volume speaks of {what}: its copy may be better (sector 6)"))
}
