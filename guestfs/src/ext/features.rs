//! Features that a superblock lists, and which of them a reader must know.

use blockdev::{Error, Result};

/// The compatible feature "there is a journal".
pub const HAS_JOURNAL: u32 = 0x4;
/// Directories may have a hash tree.
pub const DIR_INDEX: u32 = 0x20;
/// Backups of the superblock are in the two groups that it names.
pub const SPARSE_SUPER2: u32 = 0x200;

/// Backups of the superblock are in groups 0, 1 and the powers of 3, 5 and 7.
pub const SPARSE_SUPER: u32 = 0x1;
/// The block count of an inode has 48 bits.
pub const HUGE_FILE: u32 = 0x8;
/// Group descriptors have a CRC-16 (`uninit_bg`).
pub const GDT_CSUM: u32 = 0x10;
/// Blocks are allocated in clusters.
pub const BIGALLOC: u32 = 0x200;
/// All metadata has a CRC-32C.
pub const METADATA_CSUM: u32 = 0x400;

/// Entries of directories tell the type of the file.
pub const FILETYPE: u32 = 0x2;
/// The journal has to be replayed.
pub const RECOVER: u32 = 0x4;
/// The descriptors of some groups are among these groups.
pub const META_BG: u32 = 0x10;
/// Block numbers have 64 bits.
pub const BIT64: u32 = 0x80;
/// Values of attributes may be inodes.
pub const EA_INODE: u32 = 0x400;
/// The superblock tells where checksums start.
pub const CSUM_SEED: u32 = 0x2000;
/// Directories may have more than 2 GiB, and a hash tree of one more level.
pub const LARGEDIR: u32 = 0x4000;

/// The features that a reader must know, by the names of `tune2fs`; and whether this one does.
const INCOMPATIBLE: [(u32, &str, bool); 16] = [
    (0x1, "compression", false),
    (FILETYPE, "filetype", true),
    (RECOVER, "needs_recovery", true),
    (0x8, "journal_dev", false),
    (META_BG, "meta_bg", true),
    (0x40, "extent", true),
    (BIT64, "64bit", true),
    (0x100, "mmp", true),
    (0x200, "flex_bg", true),
    (EA_INODE, "ea_inode", true),
    (0x1000, "dirdata", false),
    (CSUM_SEED, "metadata_csum_seed", true),
    (LARGEDIR, "large_dir", true),
    (0x8000, "inline_data", true),
    (0x1_0000, "encrypt", true),
    (0x2_0000, "casefold", true),
];

/// What a superblock lists.
#[derive(Debug, Clone, Copy)]
pub struct Features {
    /// Those that nobody needs to know.
    pub compatible: u32,
    /// Those that a reader must know.
    pub incompatible: u32,
    /// Those that a writer must know.
    pub read_only: u32,
}

impl Features {
    /// Whether all in `bits` of the first kind are there.
    pub const fn compatible(self, bits: u32) -> bool {
        self.compatible & bits == bits
    }

    /// Whether all in `bits` of the second kind are there.
    pub const fn incompatible(self, bits: u32) -> bool {
        self.incompatible & bits == bits
    }

    /// Whether all in `bits` of the third kind are there.
    pub const fn read_only(self, bits: u32) -> bool {
        self.read_only & bits == bits
    }

    /// Nothing, when all that a reader must know is known here.
    ///
    /// # Errors
    ///
    /// `Unsupported`, with the names of the others.
    pub fn check(self) -> Result<()> {
        let mut unknown = Vec::new();
        for bit in (0..32).map(|n| 1_u32 << n).filter(|bit| self.incompatible & bit != 0) {
            match INCOMPATIBLE.iter().find(|(known, ..)| *known == bit) {
                Some((_, _, true)) => {}
                Some((_, name, false)) => unknown.push((*name).to_owned()),
                None => unknown.push(format!("{bit:#x}")),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Error::unsupported(format!("the filesystem has features that cannot be read: {}", unknown.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_features_are_named() {
        let with = |incompatible| Features { compatible: 0, incompatible, read_only: u32::MAX }.check();
        assert!(with(0x3_e7d6).is_ok());
        let message = with(0x8000_0001 | FILETYPE).unwrap_err().to_string();
        assert!(message.contains("compression, 0x80000000") && !message.contains("filetype"), "{message}");
    }
}
