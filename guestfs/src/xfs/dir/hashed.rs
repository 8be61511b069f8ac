//! Lookups by hash: a binary search among hashes, of which each leads to an entry.

use blockdev::{Error, Result};

use super::{HASHES_START, data::Block};
use crate::xfs::{
    hashes::{self, Kind, hash_of, target_of},
    inode::Inode,
    map::Map,
    volume::Volume,
};

/// Entries of one hash that are looked at: a bound for directories that were made to collide.
const SAME_MAX: usize = 1 << 16;

/// The inode of `name`.
pub fn lookup(volume: &Volume, inode: &Inode, name: &[u8]) -> Result<Option<u64>> {
    let map = Map::new(inode.number, &inode.data)?;
    let hash = if volume.sb.ascii_ci {
        hashes::hash(&name.iter().map(|byte| lower(*byte)).collect::<Vec<_>>())
    } else {
        hashes::hash(name)
    };
    let mut search = Search { volume, map: &map, hash, name, left: SAME_MAX };
    let damaged = |what: &str| Error::damaged(format!("inode {}: its directory {what}", inode.number));
    let first = Block::read(volume, &map, 0)?.ok_or_else(|| damaged("has no first block"))?;
    if let Some(entries) = first.hashes() {
        return Ok(search.among(entries)?.found());
    }
    let (root, len) = (HASHES_START >> volume.sb.block_log, volume.sb.dir_block_len());
    let Some(mut leaf) = hashes::descend(volume, &map, root, len, Kind::DirLeaf, hash)? else { return Ok(None) };
    loop {
        match search.among(leaf.entries()?)? {
            Outcome::Found(inode) => return Ok(Some(inode)),
            Outcome::Over => return Ok(None),
            Outcome::GoOn if leaf.next() == 0 => return Ok(None),
            Outcome::GoOn => {}
        }
        // Each step costs a hash, so that a chain without end has one.
        search.step()?;
        leaf = hashes::block(volume, &map, leaf.next(), len)?;
        if leaf.kind != Kind::DirLeaf {
            return Err(damaged("has a block of another kind among its hashes"));
        }
    }
}

enum Outcome {
    Found(u64),
    /// There are greater hashes: it is nowhere.
    Over,
    /// It may be in the next block.
    GoOn,
}

impl Outcome {
    const fn found(&self) -> Option<u64> {
        match self {
            Self::Found(inode) => Some(*inode),
            _ => None,
        }
    }
}

struct Search<'a> {
    volume: &'a Volume,
    map: &'a Map,
    hash: u32,
    name: &'a [u8],
    left: usize,
}

impl Search<'_> {
    fn among(&mut self, entries: &[[u8; 8]]) -> Result<Outcome> {
        let first = entries.partition_point(|entry| hash_of(entry) < self.hash);
        for entry in entries.get(first..).unwrap_or_default() {
            if hash_of(entry) != self.hash {
                return Ok(Outcome::Over);
            }
            self.step()?;
            // 0 stands for an entry that was deleted.
            let at = u64::from(target_of(entry)) << 3;
            if at != 0
                && let Some(inode) = self.at(at)?
            {
                return Ok(Outcome::Found(inode));
            }
        }
        Ok(Outcome::GoOn)
    }

    /// The inode of the entry at byte `at` of the directory, if it has the name.
    fn at(&self, at: u64) -> Result<Option<u64>> {
        let len = self.volume.sb.dir_block_len() as u64;
        let block = Block::read(self.volume, self.map, at / len)?.ok_or_else(|| {
            Error::damaged(format!("inode {}: a hash of its directory leads nowhere", self.map.owner()))
        })?;
        let (inode, name) = block.entry((at % len) as usize)?;
        Ok((name == self.name).then_some(inode))
    }

    fn step(&mut self) -> Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            Error::damaged(format!("inode {}: its directory has too many equal hashes", self.map.owner()))
        })?;
        Ok(())
    }
}

/// Lower case in Latin-1, as the kernel hashes names of such volumes.
const fn lower(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => byte + 32,
        _ => byte,
    }
}
