//! The superblock: what the filesystem is, and where its trees begin ("On-disk format", superblock).
//!
//! It lies at 64 KiB, and copies at 64 MiB and 256 GiB where the device is that large. The sound one of the highest
//! generation counts, as long as it is of the same filesystem as the first sound one.

use blockdev::{
    BlockDevice, Error, Result,
    fields::{self, le16, le32, le64, read, slice},
};

use super::{checksum::Checksum, node::Pointer};

/// Where it lies.
const PLACES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// Its bytes, all under its checksum.
const LEN: usize = 4096;
const MAGIC: &[u8] = b"_BHRfS_M";
const SYS_CHUNKS: usize = 811;
const SYS_CHUNKS_MAX: usize = 2048;

/// Features that a reader must know (`BTRFS_FEATURE_INCOMPAT_*`), and are not known here, by name.
const REFUSED: [(u64, &str); 5] = [
    (1 << 12, "zoned"),
    (1 << 13, "extent-tree-v2"),
    (1 << 14, "raid-stripe-tree"),
    (1 << 15, "encrypt"),
    (1 << 17, "remap-tree"),
];
/// Those that are known: all below "zoned" but none of the above, and simple quotas, which concern accounting only.
const KNOWN: u64 = 0xfff | 1 << 16;
/// The feature that says that nodes have another UUID than the filesystem.
const METADATA_UUID: u64 = 1 << 10;

/// Flags of the superblock.
const SEEDING: u64 = 1 << 32;
const METADUMP: u64 = 1 << 33 | 1 << 34;

/// A device item, as in the superblock of each device and in the chunk tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevItem {
    /// Its number in the filesystem.
    pub id: u64,
    /// Its own UUID.
    pub uuid: [u8; 16],
    /// The filesystem that it was made for: another one for a seed device.
    pub fsid: [u8; 16],
}

impl DevItem {
    pub fn read(bytes: &[u8]) -> Self {
        Self { id: le64(bytes, 0), uuid: uuid(bytes, 66), fsid: uuid(bytes, 82) }
    }
}

/// What is used of the superblock.
pub struct Superblock {
    pub fsid: [u8; 16],
    /// The UUID that nodes carry.
    pub node_fsid: [u8; 16],
    pub generation: u64,
    pub root: Pointer,
    pub chunk_root: Pointer,
    /// The tree of log trees: what was made durable after the last commit.
    pub log_root: Option<Pointer>,
    pub total_bytes: u64,
    pub bytes_used: u64,
    /// The directory in the root tree that names the default subvolume.
    pub root_dir: u64,
    /// Bytes of a sector: the unit of data and of its checksums.
    pub sector: u32,
    /// Bytes of a node.
    pub node: u32,
    pub checksum: Checksum,
    pub device: DevItem,
    pub label: Option<String>,
    /// Whether it is a seed: what was made of it lies on other devices.
    pub is_seed: bool,
    /// Whether it is one of the copies, since the first is damaged or older.
    pub is_copy: bool,
    /// Whether it is a dump of the metadata only, made for debugging.
    pub is_dump: bool,
    /// Keys and chunk items, enough to read the chunk tree.
    pub sys_chunks: Vec<u8>,
}

impl Superblock {
    /// That of `device`.
    ///
    /// # Errors
    ///
    /// `Damaged` when no copy is sound, `Unsupported` for features that cannot be read.
    pub fn of(device: &dyn BlockDevice) -> Result<Self> {
        let mut best: Option<Vec<u8>> = None;
        let mut wrong = None;
        for place in PLACES.into_iter().filter(|place| place.saturating_add(LEN as u64) <= device.size()) {
            let bytes = match read(device, place, LEN).and_then(|bytes| sound(bytes, place)) {
                Ok(bytes) => bytes,
                Err(e) => {
                    wrong.get_or_insert(e);
                    continue;
                }
            };
            let is_better = |best: &Vec<u8>| uuid(best, 32) == uuid(&bytes, 32) && le64(best, 72) < le64(&bytes, 72);
            if best.as_ref().is_none_or(is_better) {
                best = Some(bytes);
            }
        }
        match (best, wrong) {
            (Some(bytes), _) => Self::parse(&bytes),
            (None, Some(e)) => Err(e),
            (None, None) => Err(Error::damaged("the volume is too small for a btrfs: it was cut off")),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let incompat = le64(bytes, 188);
        if let Some((_, name)) = REFUSED.iter().find(|(bit, _)| incompat & bit != 0) {
            return Err(Error::unsupported(format!("the btrfs has the feature {name}, which cannot be read")));
        }
        if incompat & !KNOWN != 0 {
            let what = "the btrfs has features that are not known";
            return Err(Error::unsupported(format!("{what}: incompat bits {:#x}", incompat & !KNOWN)));
        }
        let (sector, node) = (le32(bytes, 144), le32(bytes, 148));
        let is_size = |n: u32| n.is_power_of_two() && (512..=64 << 10).contains(&n);
        if !is_size(sector) || !is_size(node) || node < sector || node < 4096 {
            return Err(Error::damaged(format!("the btrfs has sectors of {sector} bytes and nodes of {node}")));
        }
        let generation = le64(bytes, 72);
        let level = |at: usize| slice(bytes, at, 1).first().copied().unwrap_or(0);
        let pointer = |at, generation, level| Pointer { logical: le64(bytes, at), generation, level };
        let fsid = uuid(bytes, 32);
        let flags = le64(bytes, 56);
        let sys_len = (le32(bytes, 160) as usize).min(SYS_CHUNKS_MAX);
        Ok(Self {
            fsid,
            node_fsid: if incompat & METADATA_UUID != 0 { uuid(bytes, 571) } else { fsid },
            generation,
            root: pointer(80, generation, level(198)),
            chunk_root: pointer(88, le64(bytes, 164), level(199)),
            log_root: (le64(bytes, 96) != 0).then(|| pointer(96, generation.saturating_add(1), level(200))),
            total_bytes: le64(bytes, 112),
            bytes_used: le64(bytes, 120),
            root_dir: le64(bytes, 128),
            sector,
            node,
            checksum: Checksum::from_number(le16(bytes, 196))?,
            device: DevItem::read(slice(bytes, 201, 98)),
            label: fields::text(slice(bytes, 299, 256)),
            is_seed: flags & SEEDING != 0,
            is_copy: le64(bytes, 48) != PLACES[0],
            is_dump: flags & METADUMP != 0,
            sys_chunks: slice(bytes, SYS_CHUNKS, sys_len).to_vec(),
        })
    }
}

/// `bytes`, if they are a superblock that belongs at `place`.
fn sound(bytes: Vec<u8>, place: u64) -> Result<Vec<u8>> {
    if slice(&bytes, 64, MAGIC.len()) != MAGIC || le64(&bytes, 48) != place {
        return Err(Error::damaged(format!("there is no superblock of a btrfs at byte {place}")));
    }
    let checksum = Checksum::from_number(le16(&bytes, 196))?;
    if bytes.len() != LEN || !checksum.matches(slice(&bytes, 32, LEN - 32), &bytes) {
        let what = "the superblock of the btrfs does not match its checksum";
        return Err(Error::damaged(format!("{what} (byte {place}), and no copy does")));
    }
    Ok(bytes)
}

/// The UUID at `at`.
pub fn uuid(bytes: &[u8], at: usize) -> [u8; 16] {
    slice(bytes, at, 16).try_into().unwrap_or_default()
}
