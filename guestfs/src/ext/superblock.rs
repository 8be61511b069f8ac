//! The superblock: sizes, features and places of everything else. Copies of it are at the head of some groups, for the
//! day when the first is damaged.

use blockdev::{
    BlockDevice, Error, Result,
    fields::{le16, le32, read, slice},
    partitions::Content,
};

use super::{
    checksum::{self, Crc32c},
    dirhash::Hashing,
    features::{self, Features},
};

/// Where the first superblock is, and its length, in bytes.
const FIRST: u64 = 1024;
const LEN: usize = 1024;

/// Bytes of the smallest inode, and of all in the first revision.
const INODE_MIN: u32 = 128;
/// Bytes of a descriptor of a group, without and with 64 bits.
const DESCRIPTOR: u32 = 32;
const DESCRIPTOR_64: u32 = 64;

/// What a superblock says, found to be possible.
#[derive(Debug, Clone)]
pub struct Superblock {
    /// Kind, label and UUID.
    pub content: Content,
    /// Features.
    pub features: Features,
    /// Bytes of a block: a power of two from 1 to 64 KiB.
    pub block_size: u32,
    /// Bytes of a cluster, the unit of allocation; a block where there are none.
    pub cluster_size: u32,
    /// Blocks of the volume; all of them together have no more than 2^63 bytes.
    pub blocks: u64,
    /// Block at which group 0 begins.
    pub first_data_block: u64,
    /// Blocks of a group.
    pub blocks_per_group: u64,
    /// Number of groups.
    pub groups: u32,
    /// Number of inodes.
    pub inodes: u32,
    /// Inodes of a group.
    pub inodes_per_group: u32,
    /// Bytes of an inode: a power of two, at most a block.
    pub inode_size: u32,
    /// The first inode that is not reserved.
    pub first_inode: u32,
    /// Bytes of a descriptor of a group.
    pub descriptor_size: u32,
    /// The first block of descriptors that is among its groups.
    pub first_meta_bg: u32,
    /// Blocks behind the descriptors that are kept for more of them.
    pub reserved_descriptor_blocks: u16,
    /// Groups with backups, where the superblock names them.
    pub backup_groups: [u32; 2],
    /// Where all checksums start.
    pub seed: Crc32c,
    /// The UUID as stored.
    pub uuid: [u8; 16],
    /// How names are hashed.
    pub hashing: Hashing,
    /// The inode of the journal, 0 when that is on another device.
    pub journal: u32,
    /// Clusters that metadata take, when that is stored.
    pub overhead: u32,
    /// Blocks and inodes that were free when the superblock was written.
    pub free: (u64, u32),
    /// Whether errors were found in the filesystem by its own system.
    pub has_errors: bool,
    /// Whether this is a copy, since the first superblock is damaged.
    pub is_copy: bool,
}

impl Superblock {
    /// The superblock of `device`: the first, or when that is damaged the first of its backups that is sound.
    ///
    /// # Errors
    ///
    /// What is wrong with the first, when no other is better.
    pub fn find(device: &dyn BlockDevice) -> Result<Self> {
        let first = match Self::parse(&read(device, FIRST, LEN)?) {
            Err(e) if e.kind() == blockdev::ErrorKind::Damaged => e,
            known => return known,
        };
        for block_size in (10..=16).map(|shift| 1_u64 << shift) {
            // Groups have as many blocks as a block has bits, unless somebody asked for fewer.
            let at = (8 * block_size + u64::from(block_size == 1024)) * block_size;
            let copy = read(device, at, LEN)?;
            if let Ok(found) = Self::parse(&copy)
                && (u64::from(found.block_size), le16(&copy, 90)) == (block_size, 1)
            {
                return Ok(Self { is_copy: true, ..found });
            }
        }
        Err(first)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let content =
            Content::of_ext(bytes).ok_or_else(|| Error::damaged("there is no superblock of an ext volume"))?;
        let features =
            Features { compatible: le32(bytes, 92), incompatible: le32(bytes, 96), read_only: le32(bytes, 100) };
        if features.read_only(features::METADATA_CSUM) {
            let computed = Crc32c::START.add_range(bytes, 0..LEN - 4).value();
            checksum::expect(le32(bytes, LEN - 4), computed, "the superblock")?;
        }
        features.check()?;
        let wide = |low: usize, high: usize| {
            let high = if features.incompatible(features::BIT64) { le32(bytes, high) } else { 0 };
            u64::from(le32(bytes, low)) | u64::from(high) << 32
        };
        let block_size = size_of_unit(bytes, 24).filter(|size| *size <= 64 << 10);
        let block_size = block_size.ok_or_else(|| impossible("block size", le32(bytes, 24)))?;
        let cluster_size = match features.read_only(features::BIGALLOC) {
            true => size_of_unit(bytes, 28).filter(|size| *size >= block_size),
            false => Some(block_size),
        };
        // Revision 0 has neither field.
        let is_first_revision = le32(bytes, 76) == 0;
        let (first_inode, inode_size) =
            if is_first_revision { (11, INODE_MIN) } else { (le32(bytes, 84), le16(bytes, 88).into()) };
        let descriptor_size = match (features.incompatible(features::BIT64), u32::from(le16(bytes, 254))) {
            (false, _) => DESCRIPTOR,
            (true, size) => size,
        };
        let mut uuid = [0; 16];
        uuid.iter_mut().zip(slice(bytes, 104, 16)).for_each(|(to, from)| *to = *from);
        let found = Self {
            content,
            features,
            block_size,
            cluster_size: cluster_size.ok_or_else(|| impossible("cluster size", le32(bytes, 28)))?,
            blocks: wide(4, 336),
            first_data_block: le32(bytes, 20).into(),
            blocks_per_group: le32(bytes, 32).into(),
            groups: 0,
            inodes: le32(bytes, 0),
            inodes_per_group: le32(bytes, 40),
            inode_size,
            first_inode,
            descriptor_size,
            first_meta_bg: le32(bytes, 260),
            reserved_descriptor_blocks: le16(bytes, 206),
            backup_groups: [le32(bytes, 588), le32(bytes, 592)],
            seed: match features.incompatible(features::CSUM_SEED) {
                true => Crc32c::from(le32(bytes, 624)),
                false => Crc32c::START.add(&uuid),
            },
            uuid,
            hashing: Hashing::parse(bytes),
            journal: le32(bytes, 224),
            overhead: le32(bytes, 584),
            free: (wide(12, 344), le32(bytes, 16)),
            has_errors: le16(bytes, 58) & 2 != 0,
            is_copy: false,
        };
        found.checked()
    }

    /// The same, when sizes and counts can be true together.
    fn checked(self) -> Result<Self> {
        let bits = u64::from(self.block_size) * 8;
        let per_cluster = u64::from(self.cluster_size / self.block_size);
        if !(1..=bits.saturating_mul(per_cluster)).contains(&self.blocks_per_group) {
            return Err(impossible("number of blocks per group", self.blocks_per_group));
        }
        if !(1..=bits).contains(&self.inodes_per_group.into()) {
            return Err(impossible("number of inodes per group", self.inodes_per_group));
        }
        if !self.inode_size.is_power_of_two() || !(INODE_MIN..=self.block_size).contains(&self.inode_size) {
            return Err(impossible("inode size", self.inode_size));
        }
        let is_wide = self.descriptor_size != DESCRIPTOR;
        let sizes = DESCRIPTOR_64..=self.block_size;
        if is_wide && !(self.descriptor_size.is_power_of_two() && sizes.contains(&self.descriptor_size)) {
            return Err(impossible("group descriptor size", self.descriptor_size));
        }
        let bytes = self.blocks.checked_mul(self.block_size.into()).filter(|bytes| bytes >> 63 == 0);
        let Some(data) = self.blocks.checked_sub(self.first_data_block).filter(|n| *n > 0 && bytes.is_some()) else {
            return Err(impossible("number of blocks", self.blocks));
        };
        let groups = u32::try_from(data.div_ceil(self.blocks_per_group));
        let groups = groups.map_err(|_| impossible("number of blocks", self.blocks))?;
        if groups.checked_mul(self.inodes_per_group) != Some(self.inodes) {
            return Err(impossible("number of inodes", self.inodes));
        }
        Ok(Self { groups, ..self })
    }

    /// Whether all metadata has checksums.
    pub const fn has_checksums(&self) -> bool {
        self.features.read_only(features::METADATA_CSUM)
    }

    /// The first block of `group`.
    pub fn group_start(&self, group: u32) -> u64 {
        self.first_data_block.saturating_add(u64::from(group).saturating_mul(self.blocks_per_group))
    }

    /// Whether `group` begins with a superblock.
    pub fn has_superblock(&self, group: u32) -> bool {
        let is_power_of = |base: u32| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match group {
            0 => true,
            _ if self.features.compatible(features::SPARSE_SUPER2) => self.backup_groups.contains(&group),
            1 => true,
            _ => !self.features.read_only(features::SPARSE_SUPER) || [3, 5, 7].into_iter().any(is_power_of),
        }
    }
}

/// The size that is stored at `at` as a shift of 1024 bytes.
fn size_of_unit(bytes: &[u8], at: usize) -> Option<u32> {
    1024_u32.checked_shl(le32(bytes, at)).filter(|size| size.is_power_of_two())
}

fn impossible(what: &str, value: impl std::fmt::Display) -> Error {
    Error::damaged(format!("the superblock has an impossible {what}: {value}"))
}
