//! A disk as a VMDK (VMware, "Virtual Disk Format 5.0"): the descriptor that all kinds have, and the kinds.
//!
//! * flat: the descriptor is a file of its own and names a raw file beside it;
//! * [`sparse`]: the descriptor, tables and grains in one file, for hosts;
//! * [`stream`]: the same for sending, with grains that are packed.

pub mod sparse;
pub mod stream;

use std::sync::Arc;

use super::identity::Identity;
use crate::{BlockDevice, Error, Result};

/// Bytes of a sector, which all places in a VMDK count.
const SECTOR: u64 = 512;
/// Bytes of a grain.
const GRAIN: u64 = 64 << 10;
const GRAIN_SECTORS: u64 = GRAIN / SECTOR;
/// Grains of a grain table.
const TABLE_GRAINS: u64 = 512;
/// Sectors of a grain table.
const TABLE_SECTORS: u64 = TABLE_GRAINS * 4 / SECTOR;
/// Where the descriptor is that is embedded, and how many sectors are kept for it.
const DESCRIPTOR_AT: u64 = 1;
const DESCRIPTOR_SECTORS: u64 = 20;

/// The most bytes of a disk: what VMware opens.
const SIZE_MAX: u64 = 62 << 40;

/// The longest file name of a VMDK.
const NAME_MAX: usize = 255;

/// How a flat image says what the raw file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flat {
    /// For VMware's hosted products: `monolithicFlat`.
    Hosted,
    /// For ESXi: `vmfs`.
    Vmfs,
}

/// The descriptor of a flat image of `disk`, which is in the file `extent`.
///
/// # Errors
///
/// When the disk is larger than 62 TiB, or the name cannot be in a descriptor.
pub fn flat(kind: Flat, extent: &str, disk: &Arc<dyn BlockDevice>, identity: &Identity) -> Result<Vec<u8>> {
    let size = size_of_disk(disk)?;
    match kind {
        Flat::Hosted => descriptor("monolithicFlat", "FLAT", extent, Some(0), size, identity),
        Flat::Vmfs => descriptor("vmfs", "VMFS", extent, None, size, identity),
    }
}

/// The size of `disk` in whole blocks, if it fits.
fn size_of_disk(disk: &Arc<dyn BlockDevice>) -> Result<u64> {
    super::size_within(disk, SIZE_MAX, "a VMDK has at most 62 TiB", "qcow2")
}

/// The name of the raw file beside the descriptor file `name`.
#[must_use]
pub fn flat_name(name: &str) -> String {
    format!("{}-flat.vmdk", name.strip_suffix(".vmdk").unwrap_or(name))
}

/// The descriptor of a disk of `size` bytes.
fn descriptor(
    kind: &str,
    extent_kind: &str,
    extent: &str,
    extent_at: Option<u64>,
    size: u64,
    identity: &Identity,
) -> Result<Vec<u8>> {
    if extent.is_empty() || extent.len() > NAME_MAX || extent.chars().any(|c| c.is_control() || "\"/".contains(c)) {
        return Err(Error::invalid(format!("{extent:?} cannot be the name of a VMDK file")));
    }
    let sectors = size / SECTOR;
    let extent_at = extent_at.map(|at| format!(" {at}")).unwrap_or_default();
    // 0xffffffff would mean that there is no parent, 0xfffffffe is the CID of a new disk.
    let [a, b, c, d, ..] = identity.bytes("VMDK content");
    let content = u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff;
    let long = hex(&identity.bytes("VMDK long content"), "");
    let uuid = identity.uuid("VMDK");
    let (first, second) = uuid.split_at(8);
    // The geometry that VMware gives to SCSI disks.
    let cylinders = sectors / (255 * 63);
    Ok(format!(
        "# Disk DescriptorFile
version=1
encoding=\"UTF-8\"
CID={content:08x}
parentCID=ffffffff
createType=\"{kind}\"

# Extent description
RW {sectors} {extent_kind} \"{extent}\"{extent_at}

# The Disk Data Base
#DDB

ddb.adapterType = \"lsilogic\"
ddb.geometry.cylinders = \"{cylinders}\"
ddb.geometry.heads = \"255\"
ddb.geometry.sectors = \"63\"
ddb.longContentID = \"{long}{content:08x}\"
ddb.uuid = \"{}-{}\"
ddb.virtualHWVersion = \"8\"
",
        hex(first, " "),
        hex(second, " "),
        long = long.get(..24).unwrap_or_default(),
    )
    .into_bytes())
}

fn hex(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
}

/// What the header of a sparse extent says, in sectors.
struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    redundant_directory_at: u64,
    directory_at: u64,
    overhead: u64,
    compression: u16,
}

impl Header {
    /// The header ("SparseExtentHeader").
    fn bytes(&self) -> Vec<u8> {
        let mut header = vec![0; SECTOR as usize];
        super::put(&mut header, 0, b"KDMV");
        super::put(&mut header, 4, &self.version.to_le_bytes());
        super::put(&mut header, 8, &self.flags.to_le_bytes());
        super::put(&mut header, 12, &self.capacity.to_le_bytes());
        super::put(&mut header, 20, &GRAIN_SECTORS.to_le_bytes());
        super::put(&mut header, 28, &DESCRIPTOR_AT.to_le_bytes());
        super::put(&mut header, 36, &DESCRIPTOR_SECTORS.to_le_bytes());
        super::put(&mut header, 44, &(TABLE_GRAINS as u32).to_le_bytes());
        super::put(&mut header, 48, &self.redundant_directory_at.to_le_bytes());
        super::put(&mut header, 56, &self.directory_at.to_le_bytes());
        super::put(&mut header, 64, &self.overhead.to_le_bytes());
        // A transfer that took the file for text would have changed these.
        super::put(&mut header, 73, b"\n \r\n");
        super::put(&mut header, 77, &self.compression.to_le_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_add_lines_to_a_descriptor() {
        let identity = Identity::new(b"x");
        for name in ["", "a\"b", "a\nRW 1 FLAT", "../a", &"x".repeat(256)] {
            assert!(descriptor("", "", name, None, 512, &identity).is_err(), "{name:?}");
        }
        // The longest descriptor fits into the sectors kept for it.
        let longest = descriptor("streamOptimized", "SPARSE", &"x".repeat(255), Some(0), u64::MAX, &identity).unwrap();
        assert!(longest.len() as u64 <= DESCRIPTOR_SECTORS * SECTOR);
    }
}
