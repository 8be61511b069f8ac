//! What VHDX files are told by: places, signatures and GUIDs of the specification. Reader and writer share it.

use super::guid::Guid;

/// Everything is in units of this.
pub const MIB: u64 = 1 << 20;

/// Where the two headers are, and how long each (MS-VHDX 2.2.2).
pub const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub const HEADER_LEN: usize = 4096;
/// Where the two region tables are, and how long each (2.2.3).
pub const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
pub const REGION_TABLE_LEN: usize = 64 << 10;

/// The region of the block allocation table (2.2.3.2).
pub const BAT: Guid = Guid::new(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08);
/// The region of the metadata.
pub const METADATA: Guid = Guid::new(0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e);

/// Length of the table of metadata items (2.6.1).
pub const METADATA_TABLE_LEN: u64 = 64 << 10;
/// A metadata item without which the disk cannot be read has this flag.
pub const REQUIRED: u32 = 4;
/// Disks may have 64 TiB.
pub const SIZE_MAX: u64 = 64 << 40;

/// Metadata items (2.6.2).
pub const FILE_PARAMETERS: Guid = Guid::new(0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b);
pub const VIRTUAL_DISK_SIZE: Guid = Guid::new(0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8);
pub const VIRTUAL_DISK_ID: Guid = Guid::new(0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746);
pub const LOGICAL_SECTOR_SIZE: Guid = Guid::new(0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f);
pub const PHYSICAL_SECTOR_SIZE: Guid = Guid::new(0xcda3_48c7_445d_4471_9cc9_e988_5251_c556);
pub const PARENT_LOCATOR: Guid = Guid::new(0xa8d3_5f2d_b30b_454d_abf7_d3d8_4834_ab0c);
/// The only type of parent locators.
pub const VHDX_LOCATOR: Guid = Guid::new(0xb04a_efb7_d19e_4a81_b789_25b8_e944_5913);

/// CRC-32C over `pieces`.
pub fn crc32c(pieces: &[&[u8]]) -> u32 {
    let mut crc = crc32c_digest();
    pieces.iter().for_each(|piece| crc.update(piece));
    crc.finalize() as u32
}

/// A CRC-32C of nothing so far.
pub fn crc32c_digest() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)
}
