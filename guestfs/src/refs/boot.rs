//! The boot sector, of which the last sector of the volume is a copy.

use blockdev::{
    Error, ReadAt, Result,
    fields::{le16, le32, le64, read, slice},
};

/// Bytes of the boot sector that are used.
const LEN: usize = 512;

/// Bytes of a container where the boot sector does not say it.
const CONTAINER: u64 = 64 << 20;

/// Bytes of a page of metadata, unless a cluster is larger; and of what block numbers count in version 1.
const PAGE: u32 = 16 << 10;

/// What the boot sector says.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    /// Major and minor version.
    pub version: (u8, u8),
    /// Bytes of a cluster.
    pub cluster: u32,
    /// Bytes that block numbers count.
    pub unit: u32,
    /// Bytes of a page of metadata.
    pub page: u32,
    /// Clusters of a container.
    pub per_container: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Serial number.
    pub serial: u64,
}

impl Boot {
    /// That of `device`, or its copy when it is damaged.
    ///
    /// # Errors
    ///
    /// When both are damaged; `Unsupported` for versions that nobody knows.
    pub fn read(device: &dyn ReadAt) -> Result<Self> {
        let copies = [512, 4096].map(|sector| device.size().saturating_sub(sector));
        let mut found = Self::read_at(device, 0);
        for at in copies {
            if found.is_err() {
                found = Self::read_at(device, at).or(found);
            }
        }
        found
    }

    fn read_at(device: &dyn ReadAt, at: u64) -> Result<Self> {
        let sector = read(device, at, LEN)?;
        if slice(&sector, 3, 8) != b"ReFS\0\0\0\0" || slice(&sector, 16, 4) != b"FSRS" {
            return Err(Error::damaged(format!("there is no boot sector of ReFS at byte {at}")));
        }
        let counted = sector.iter().enumerate().filter(|(place, _)| *place > 2 && !matches!(place, 0x16 | 0x17));
        let sum = counted.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
        if le16(&sector, 0x16) != sum && !cfg!(fuzzing) {
            let of = format!("the boot sector of ReFS at byte {at} has not the checksum {sum:04x} that it should have");
            return Err(Error::damaged(of));
        }
        Self::parse(&sector)
    }

    fn parse(sector: &[u8]) -> Result<Self> {
        let version = le16(sector, 0x28).to_le_bytes();
        let version = (version[0], version[1]);
        let cluster = u64::from(le32(sector, 0x20)) * u64::from(le32(sector, 0x24));
        let of_version = match (version.0, cluster) {
            (1, 0x1_0000) => Some((PAGE, PAGE)),
            (3, 0x1000) => Some((0x1000, PAGE)),
            (3, 0x1_0000) => Some((0x1_0000, 0x1_0000)),
            _ => None,
        };
        let Some((unit, page)) = of_version else {
            let (major, minor) = version;
            let of = format!("ReFS {major}.{minor} with clusters of {cluster} bytes is not known");
            return Err(Error::unsupported(of));
        };
        let container = match le64(sector, 0x40) {
            0 => CONTAINER,
            bytes => bytes,
        };
        if !container.is_power_of_two() || !(cluster..=1 << 40).contains(&container) {
            return Err(Error::damaged(format!("the boot sector of ReFS speaks of containers of {container} bytes")));
        }
        Ok(Self {
            version,
            cluster: cluster as u32,
            unit,
            page,
            per_container: container / cluster,
            size: le64(sector, 0x18).saturating_mul(le32(sector, 0x20).into()),
            serial: le64(sector, 0x38),
        })
    }

    /// Whether it is version 1: other structures, and no containers.
    pub const fn is_first(&self) -> bool {
        self.version.0 == 1
    }

    /// Bytes of the header of a page.
    pub const fn page_header(&self) -> usize {
        if self.is_first() { 48 } else { 80 }
    }
}
