//! LZX as WIM archives have it: chunks of 32 KiB, each for itself, with the addresses in calls of x86 made relative again.
//!
//! A chunk is made of blocks. A block has up to three codes, whose lengths are given as differences to those of the block
//! before. The symbols of the main code are bytes, or the start of a reference: its length, if that is short, and the
//! slot of its distance. Three slots stand for the distances used last.

use super::{super::lz, bits::Bits, huffman::Huffman};

/// Slots of distances in a window of 32 KiB.
const SLOTS: usize = 30;
const MAIN: usize = 256 + 8 * SLOTS;
const LENGTHS: usize = 249;
const ALIGNED: usize = 8;
const PRE: usize = 20;

const BLOCK_DEFAULT: usize = 32768;
const LENGTH_MIN: usize = 2;

/// Bits of the distance besides its slot.
const fn extra_bits(slot: usize) -> u32 {
    if slot < 4 { 0 } else { slot as u32 / 2 - 1 }
}

/// The first distance of each slot, two more than it is.
const BASES: [usize; SLOTS] = {
    let mut bases = [0; SLOTS];
    let mut slot = 1;
    while slot < SLOTS {
        bases[slot] = bases[slot - 1] + (1 << extra_bits(slot - 1));
        slot += 1;
    }
    bases
};

/// Unpacks `packed` to all of `out`; `None` when that contradicts itself.
pub fn unpack(packed: &[u8], out: &mut [u8]) -> Option<()> {
    let mut bits = Bits::new(packed);
    let (mut main, mut lengths) = ([0; MAIN], [0; LENGTHS]);
    let mut recent = [1; 3];
    let mut at = 0;
    while at < out.len() {
        let kind = bits.read(3);
        let size = if bits.read(1) == 1 { BLOCK_DEFAULT } else { bits.read(16) as usize };
        let end = at.checked_add(size).filter(|end| size > 0 && *end <= out.len())?;
        match kind {
            1 | 2 => {
                let aligned = if kind == 2 { Some(aligned_code(&mut bits)?) } else { None };
                let (bytes, references) = main.split_at_mut(256);
                read_lengths(&mut bits, bytes)?;
                read_lengths(&mut bits, references)?;
                read_lengths(&mut bits, &mut lengths)?;
                let codes = Codes { main: Huffman::new(&main)?, lengths: Huffman::new(&lengths)?, aligned };
                at = codes.unpack(&mut bits, &mut recent, out.get_mut(..end)?, at)?;
            }
            3 => {
                bits.align();
                for distance in &mut recent {
                    *distance = u32::from_le_bytes(*bits.bytes(4).first_chunk()?) as usize;
                }
                let bytes = bits.bytes(size);
                out.get_mut(at..end).filter(|dest| dest.len() == bytes.len())?.copy_from_slice(bytes);
                bits.bytes(size % 2);
                at = end;
            }
            _ => return None,
        }
    }
    calls(out);
    Some(())
}

fn aligned_code(bits: &mut Bits<'_>) -> Option<Huffman> {
    let mut lengths = [0; ALIGNED];
    for length in &mut lengths {
        *length = bits.read(3) as u8;
    }
    Huffman::new(&lengths)
}

/// Reads the lengths of codes, which are given as differences to what is in `lengths`.
fn read_lengths(bits: &mut Bits<'_>, lengths: &mut [u8]) -> Option<()> {
    let mut pre = [0; PRE];
    for length in &mut pre {
        *length = bits.read(4) as u8;
    }
    let pre = Huffman::new(&pre)?;
    let mut rest = lengths;
    while let Some(&before) = rest.first() {
        let less = |symbol: u16| Some((before + 17 - u8::try_from(symbol).ok().filter(|s| *s <= 17)?) % 17);
        let (run, length) = match pre.read(bits)? {
            17 => (4 + bits.read(4), 0),
            18 => (20 + bits.read(5), 0),
            19 => (4 + bits.read(1), less(pre.read(bits)?)?),
            symbol => (1, less(symbol)?),
        };
        // A run may go past the last code.
        let (same, tail) = rest.split_at_mut_checked((run as usize).min(rest.len()))?;
        same.fill(length);
        rest = tail;
    }
    Some(())
}

/// The codes of a block.
struct Codes {
    main: Huffman,
    lengths: Huffman,
    /// Of the lowest three bits of distances.
    aligned: Option<Huffman>,
}

impl Codes {
    /// Unpacks a block to `out`, from `at` to its end.
    fn unpack(&self, bits: &mut Bits<'_>, recent: &mut [usize; 3], out: &mut [u8], mut at: usize) -> Option<usize> {
        while at < out.len() {
            let symbol = self.main.read(bits)?;
            if let Ok(byte) = u8::try_from(symbol) {
                *out.get_mut(at)? = byte;
                at += 1;
                continue;
            }
            let (mut length, slot) = (usize::from(symbol & 7), usize::from(symbol - 256) >> 3);
            if length == 7 {
                length += usize::from(self.lengths.read(bits)?);
            }
            if slot < recent.len() {
                recent.swap(0, slot);
            } else {
                let distance = self.distance(bits, slot)?;
                *recent = [distance, recent[0], recent[1]];
            }
            at = lz::repeat(out, at, recent[0], length + LENGTH_MIN)?;
        }
        Some(at)
    }

    fn distance(&self, bits: &mut Bits<'_>, slot: usize) -> Option<usize> {
        let extra = extra_bits(slot);
        let base = *BASES.get(slot)? - 2;
        Some(match &self.aligned {
            Some(aligned) if extra >= 3 => {
                let high = bits.read(extra - 3) << 3;
                base + high as usize + usize::from(aligned.read(bits)?)
            }
            _ => base + bits.read(extra) as usize,
        })
    }
}

/// Makes the addresses behind the bytes 0xe8 (`call`), which the packer made absolute, relative again. WIM takes each
/// chunk as the start of a file of 12,000,000 bytes.
fn calls(out: &mut [u8]) {
    const FILE_SIZE: i32 = 12_000_000;
    let end = out.len().saturating_sub(10);
    let mut at = 0;
    while at < end {
        let Some(found) = out.get(at..end).and_then(|rest| rest.iter().position(|byte| *byte == 0xe8)) else { return };
        at += found;
        if let Some(place) = out.get_mut(at + 1..).and_then(|rest| rest.first_chunk_mut::<4>()) {
            let (absolute, here) = (i32::from_le_bytes(*place), at as i32);
            if (0..FILE_SIZE).contains(&absolute) {
                *place = (absolute - here).to_le_bytes();
            } else if absolute < 0 && absolute >= -here {
                *place = (absolute + FILE_SIZE).to_le_bytes();
            }
        }
        at += 5;
    }
}
