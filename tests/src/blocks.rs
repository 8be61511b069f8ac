//! Which files lie in which block of a volume: fifty lines of their own, trusting and slow, for intact volumes.
//!
//! A block: checksum or flags, length, number, magic, session id and time (BB03 has 8 bytes more); then records of
//! FileIndex, Stream, length and data, of which a long one goes on in the next block with a negative Stream.

use std::collections::{BTreeMap, BTreeSet};

/// A block and the FileIndexes that have something in it.
#[derive(Debug)]
pub struct Block {
    /// Address in the volume.
    pub start: usize,
    /// The byte after it.
    pub end: usize,
    files: BTreeSet<i32>,
}

/// The blocks of a volume with one job.
#[derive(Debug)]
pub struct Blocks {
    /// In order.
    pub blocks: Vec<Block>,
    names: BTreeMap<i32, Vec<u8>>,
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

impl Blocks {
    /// Of an intact volume.
    ///
    /// # Panics
    ///
    /// When it is not intact.
    #[must_use]
    pub fn of(volume: &[u8]) -> Self {
        let (mut blocks, mut names) = (Vec::new(), BTreeMap::new());
        let mut attributes = Vec::new();
        let mut start = 0;
        while start < volume.len() {
            let end = start + number(volume, start + 4);
            let mut at = start + if &volume[start + 12..start + 16] == b"BB03" { 32 } else { 24 };
            let mut files = BTreeSet::new();
            while at + 12 <= end {
                let (index, stream) = (number(volume, at) as i32, number(volume, at + 4) as i32);
                let next = end.min(at + 12 + number(volume, at + 8));
                if index > 0 {
                    files.insert(index);
                    if stream.abs() & 0x7ff == 1 {
                        if stream > 0 {
                            attributes.clear();
                        }
                        attributes.extend_from_slice(&volume[at + 12..next]);
                        let name = attributes.splitn(3, |b| *b == b' ').nth(2).unwrap_or_default();
                        let name = name.split(|b| *b == 0).next().unwrap_or_default();
                        names.insert(index, name.strip_suffix(b"/").unwrap_or(name).to_vec());
                    }
                }
                at = next;
            }
            blocks.push(Block { start, end, files });
            start = end;
        }
        Self { blocks, names }
    }

    /// The names of the files that have something in the bytes `from..to`.
    #[must_use]
    pub fn files(&self, from: usize, to: usize) -> BTreeSet<Vec<u8>> {
        let hit = self.blocks.iter().filter(|b| b.start < to && from < b.end);
        hit.flat_map(|b| &b.files).map(|index| self.names[index].clone()).collect()
    }
}
