//! Superblocks and checkpoints: how the roots of the trees are found.
//!
//! Three superblocks name two checkpoints, which are written in turn. Of each the newest is taken, and rather one whose
//! checksum of itself is right. (What that covers is sure for volumes with clusters of 4 KiB only, so a wrong one is no
//! reason to refuse the volume while there is no better.)

use blockdev::{
    BlockDevice, Error, Result,
    fields::{le16, le32, le64, read, slice},
};

use super::{
    boot::Boot,
    page::{Reference, Sum},
};

/// The block of the first superblock.
const SUPERBLOCK: u64 = 30;

/// Checkpoints that a superblock may name, and roots that a checkpoint may have.
const NAMED_MAX: u32 = 32;

/// In the flags of a checkpoint: the list of roots is where the field says, and not there.
const IS_INDIRECT: u32 = 0x200;
/// In the flags of a checkpoint: checksums of metadata are kept and looked at.
const HAS_SUMS: u32 = 0x400;

/// Roots, by their place in the list.
pub mod root {
    /// The tree of objects, and its copy.
    pub const OBJECTS: [usize; 2] = [0, 5];
    /// The tree of containers, and its copy.
    pub const CONTAINERS: [usize; 2] = [7, 8];
}

/// What the newest checkpoint says.
#[derive(Debug)]
pub struct Checkpoint {
    /// What every page of the volume has.
    pub signature: u32,
    /// Whether checksums of metadata are kept.
    pub has_sums: bool,
    roots: Vec<Option<Reference>>,
}

impl Checkpoint {
    /// That of `device`.
    ///
    /// # Errors
    ///
    /// When no superblock names one that can be read.
    pub fn read(device: &dyn BlockDevice, boot: &Boot) -> Result<Self> {
        let last = boot.size / u64::from(boot.unit);
        let numbers = [Some(SUPERBLOCK), last.checked_sub(2), last.checked_sub(3)].into_iter().flatten();
        let superblock = best(numbers.filter_map(|number| Superblock::read(device, boot, number).ok()));
        let superblock = superblock.ok_or_else(|| {
            Error::damaged(format!("there is no superblock of ReFS at block {SUPERBLOCK}, nor at the volume's end"))
        })?;
        let signature = superblock.signature;
        let found = superblock.checkpoints.iter().map(|number| Self::read_at(device, boot, *number, signature));
        best(found.filter_map(Result::ok)).ok_or_else(|| {
            Error::damaged(format!(
                "none of the checkpoints of ReFS, at blocks {:?}, can be read",
                superblock.checkpoints
            ))
        })
    }

    fn read_at(device: &dyn BlockDevice, boot: &Boot, number: u64, signature: u32) -> Result<Ranked<Self>> {
        let page = block(device, boot, number, boot.page, b"CHKP")?;
        let base = boot.page_header();
        let field = |at: usize| le32(&page, base + at) as usize;
        let is_ours = boot.is_first() || le32(&page, 0x0c) == signature;
        if !is_ours || u8::try_from(le16(&page, base + 4)).ok() != Some(boot.version.0) {
            return Err(Error::damaged(format!("block {number} is a checkpoint of another volume")));
        }
        // Version 1 has its list at once, version 3 more before it.
        let (flags, count, list) = if boot.is_first() {
            (0, field(0x28), base + 0x2c)
        } else {
            (le32(&page, base + 0x28), field(0x40), base + 0x44)
        };
        let list = if flags & IS_INDIRECT != 0 { le32(&page, list) as usize } else { list };
        let reference = |index: usize| {
            let at = le32(&page, list.checked_add(index * 4)?) as usize;
            Reference::parse(page.get(at..).filter(|_| at != 0)?, boot)
        };
        let roots = (0..count.min(NAMED_MAX as usize)).map(reference).collect();
        Ok(Ranked {
            is_sound: is_sound(&page, boot, field(8), field(12)),
            clock: le64(&page, base + 0x10),
            value: Self { signature, has_sums: flags & HAS_SUMS != 0, roots },
        })
    }

    /// The roots at these places of the list, as far as they are there.
    pub fn roots(&self, places: [usize; 2]) -> Vec<Reference> {
        places.into_iter().filter_map(|place| self.roots.get(place).copied().flatten()).collect()
    }
}

/// What a superblock says.
struct Superblock {
    signature: u32,
    checkpoints: Vec<u64>,
}

impl Superblock {
    fn read(device: &dyn BlockDevice, boot: &Boot, number: u64) -> Result<Ranked<Self>> {
        let block = block(device, boot, number, boot.unit, b"SUPB")?;
        let base = boot.page_header();
        // The volume's GUID, whose four words make what all pages have.
        let signature = (0..4).fold(0, |sum, word| sum ^ le32(&block, base + word * 4));
        let (list, count) = (le32(&block, base + 0x20) as usize, le32(&block, base + 0x24).min(NAMED_MAX));
        let checkpoints = (0..count as usize).map(|n| le64(&block, list.saturating_add(n * 8)));
        Ok(Ranked {
            is_sound: is_sound(&block, boot, le32(&block, base + 0x28) as usize, le32(&block, base + 0x2c) as usize),
            clock: le64(&block, base + 0x18),
            value: Self { signature, checkpoints: checkpoints.filter(|number| *number != 0).collect() },
        })
    }
}

/// A copy of something, and what makes it better than others.
struct Ranked<T> {
    is_sound: bool,
    clock: u64,
    value: T,
}

fn best<T>(copies: impl Iterator<Item = Ranked<T>>) -> Option<T> {
    copies.max_by_key(|copy| (copy.is_sound, copy.clock)).map(|copy| copy.value)
}

/// Block `number` of the volume, `len` bytes, which says that it is one of `kind` and of this number.
fn block(device: &dyn BlockDevice, boot: &Boot, number: u64, len: u32, kind: &[u8; 4]) -> Result<Vec<u8>> {
    let at =
        number.checked_mul(boot.unit.into()).ok_or_else(|| Error::damaged(format!("there is no block {number}")))?;
    let block = read(device, at, len as usize)?;
    let is_it = if boot.is_first() {
        le64(&block, 0) == number
    } else {
        slice(&block, 0, 4) == kind && le64(&block, 0x20) == number
    };
    if block.len() < len as usize || !is_it {
        return Err(Error::damaged(format!("block {number} is not what it should be: {}", kind.escape_ascii())));
    }
    Ok(block)
}

/// Whether `block` has the checksum that its reference to itself, `len` bytes at `at`, says. It is that of the first
/// cluster with zeros in the place of the reference. Version 1 is not known to have one.
fn is_sound(block: &[u8], boot: &Boot, at: usize, len: usize) -> bool {
    let cluster = block.get(..boot.unit as usize).unwrap_or(block);
    let sum = cluster.get(at..).and_then(|reference| Sum::parse(slice(reference, 0x20, 0x28)));
    let mut bytes = cluster.to_vec();
    let (Some(sum), Some(own)) = (sum, at.checked_add(len).and_then(|end| bytes.get_mut(at..end))) else {
        return boot.is_first();
    };
    own.fill(0);
    sum.is_of(&bytes)
}
