//! Pages of metadata, and the references by which they are found: numbers of blocks, and a checksum of the page.

use std::sync::Arc;

use blockdev::{
    BlockDevice, Error, Result,
    fields::{le16, le32, le64, slice},
};
use crc_fast::{CrcAlgorithm, checksum};
use sha2::{Digest, Sha256};

use super::{boot::Boot, container::Containers};
use crate::blocks::Blocks;

/// Bound of the pages that are kept, in bytes.
const PAGES_MAX: u64 = 16 << 20;

/// A checksum of a page, by the number of its kind. Kind 2 is CRC-64/NVME: the one that parents in a real volume of
/// version 3.14 have of their children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    kind: u8,
    digest: [u8; 32],
    len: usize,
}

impl Sum {
    /// That of the descriptor `bytes`: two bytes, the kind, where the digest is, its length.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, at) = (*bytes.get(2)?, usize::from(*bytes.get(3)?));
        let len = match kind {
            1 => 4,
            2 => 8,
            4 => 32,
            _ => return None,
        };
        let stored = slice(bytes, at, len);
        if stored.len() != len || usize::from(le16(bytes, 4)) != len {
            return None;
        }
        let mut digest = [0; 32];
        digest.iter_mut().zip(stored).for_each(|(to, from)| *to = *from);
        Some(Self { kind, digest, len })
    }

    /// Whether it is that of `bytes`.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        let digest = match self.kind {
            1 => (checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes().to_vec(),
            2 => checksum(CrcAlgorithm::Crc64Nvme, bytes).to_le_bytes().to_vec(),
            _ => Sha256::digest(bytes).to_vec(),
        };
        digest == slice(&self.digest, 0, self.len) || cfg!(fuzzing)
    }
}

/// A reference to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// The blocks of the page: one, or four.
    pub blocks: [u64; 4],
    sum: Option<Sum>,
}

impl Reference {
    /// That in `bytes`, of a volume like `boot`; `None` when they are too few.
    pub fn parse(bytes: &[u8], boot: &Boot) -> Option<Self> {
        let (blocks, descriptor, len) = if boot.is_first() {
            ([le64(bytes, 0), 0, 0, 0], 8, 24)
        } else {
            ([0, 8, 16, 24].map(|at| le64(bytes, at)), 0x20, 0x30)
        };
        (bytes.len() >= len).then(|| Self { blocks, sum: Sum::parse(slice(bytes, descriptor, 0x28)) })
    }
}

/// What block numbers of a tree mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// Blocks of the volume.
    Physical,
    /// Blocks that lie in containers.
    Virtual,
}

/// The pages of a volume.
pub struct Pages {
    boot: Boot,
    blocks: Blocks,
    /// What every page of this volume has, from version 3 on.
    signature: u32,
    /// Whether the volume keeps the checksums right; older drivers write them and never look.
    has_sums: bool,
    containers: Option<Containers>,
}

impl Pages {
    /// Those of `device`.
    pub fn new(device: Arc<dyn BlockDevice>, boot: Boot, signature: u32, has_sums: bool) -> Self {
        Self { boot, blocks: Blocks::new(device, PAGES_MAX), signature, has_sums, containers: None }
    }

    /// Look virtual blocks up in `containers` from now on.
    pub fn set_containers(&mut self, containers: Containers) {
        self.containers = Some(containers);
    }

    /// What the boot sector says.
    pub const fn boot(&self) -> &Boot {
        &self.boot
    }

    /// The volume.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        self.blocks.device()
    }

    /// Pages that the volume can have.
    pub fn count(&self) -> u64 {
        self.device().size() / u64::from(self.boot.page) + 1
    }

    /// The byte of the volume at which block `number` is, and how many blocks from it on lie together.
    ///
    /// # Errors
    ///
    /// When its container does not exist or cannot be read.
    pub fn place(&self, number: u64, addressing: Addressing) -> Result<(u64, u64)> {
        let (physical, together) = match (addressing, &self.containers) {
            (Addressing::Virtual, Some(containers)) => containers.physical(self, number)?,
            _ => (number, u64::MAX),
        };
        let place = physical.checked_mul(self.boot.unit.into());
        Ok((place.ok_or_else(|| Error::damaged(format!("there is no block {number}")))?, together))
    }

    /// The page that `reference` means.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is another one than it should be.
    pub fn get(&self, reference: &Reference, addressing: Addressing) -> Result<Arc<[u8]>> {
        let [first, rest @ ..] = reference.blocks;
        let (place, together) = self.place(first, addressing)?;
        let blocks = u64::from(self.boot.page / self.boot.unit);
        let wanted = (1..blocks).zip(rest).all(|(n, block)| first.checked_add(n) == Some(block));
        if !wanted || together < blocks {
            return Err(Error::unsupported(format!("the metadata page at block {first} is in several pieces")));
        }
        self.blocks.get(place, self.boot.page as usize, |page| self.check(page, reference, place))
    }

    fn check(&self, page: &[u8], reference: &Reference, place: u64) -> Result<()> {
        let is_ours = if self.boot.is_first() {
            le64(page, 0) == reference.blocks[0]
        } else {
            slice(page, 0, 4) == b"MSB+"
                && le32(page, 0x0c) == self.signature
                && le64(page, 0x20) == reference.blocks[0]
        };
        if !is_ours {
            let of = format!("at byte {place} is not the metadata page of block {}", reference.blocks[0]);
            return Err(Error::damaged(of));
        }
        match &reference.sum {
            Some(sum) if self.has_sums && !sum.is_of(page) => {
                Err(Error::damaged(format!("the metadata page at byte {place} has a wrong checksum")))
            }
            _ => Ok(()),
        }
    }
}
