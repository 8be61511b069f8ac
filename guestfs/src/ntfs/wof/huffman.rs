//! Canonical Huffman codes: given by their lengths, shorter ones before longer ones, otherwise in the order of symbols.

use super::bits::Bits;

/// Codes up to this length are looked up at once.
const TABLE_BITS: u32 = 11;

/// The longest code.
const LENGTH_MAX: usize = 16;

/// A code.
pub struct Huffman {
    /// By the next bits: symbol and length of the code, 0 where it is longer.
    table: Box<[u16; 1 << TABLE_BITS]>,
    /// By length: the code behind the last of that length, and the number of its first symbol less its first code.
    ends: [u32; LENGTH_MAX + 1],
    starts: [i32; LENGTH_MAX + 1],
    /// By their codes.
    symbols: Vec<u16>,
}

impl Huffman {
    /// The code in which symbol `n` has `lengths[n]` bits, at most 16; 0: it does not occur. `None` when there are more
    /// codes than there can be.
    pub fn new(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0_u32; LENGTH_MAX + 1];
        for length in lengths {
            *counts.get_mut(usize::from(*length))? += 1;
        }
        counts[0] = 0;
        let (mut ends, mut starts) = ([0; LENGTH_MAX + 1], [0; LENGTH_MAX + 1]);
        let mut places = [0_usize; LENGTH_MAX + 1];
        let (mut code, mut symbols) = (0_u32, 0_u32);
        for (length, count) in counts.iter().enumerate().skip(1) {
            code <<= 1;
            starts[length] = symbols as i32 - code as i32;
            places[length] = symbols as usize;
            code += count;
            symbols += count;
            ends[length] = code;
            if code > 1 << length {
                return None;
            }
        }
        let mut sorted = vec![0; symbols as usize];
        for (symbol, length) in (0_u16..).zip(lengths).filter(|(_, length)| **length > 0) {
            let place = places.get_mut(usize::from(*length))?;
            *sorted.get_mut(*place)? = symbol;
            *place += 1;
        }
        let mut table = Box::new([0; 1 << TABLE_BITS]);
        let mut filled = 0;
        for (&symbol, length) in sorted.iter().zip(by_length(&counts)).take_while(|(_, length)| *length <= TABLE_BITS) {
            let next = filled + (1 << (TABLE_BITS - length));
            table.get_mut(filled..next)?.fill(symbol << 4 | length as u16);
            filled = next;
        }
        Some(Self { table, ends, starts, symbols: sorted })
    }

    /// The next symbol; `None` when there is none with this code.
    pub fn read(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let next = bits.peek();
        let entry = *self.table.get((next >> (16 - TABLE_BITS)) as usize)?;
        if entry != 0 {
            bits.skip(u32::from(entry & 15));
            return Some(entry >> 4);
        }
        for length in TABLE_BITS as usize + 1..=LENGTH_MAX {
            let code = next >> (LENGTH_MAX - length);
            if code < *self.ends.get(length)? {
                bits.skip(length as u32);
                let place = self.starts.get(length)?.checked_add(code as i32)?;
                return self.symbols.get(usize::try_from(place).ok()?).copied();
            }
        }
        None
    }
}

/// The length of each code, in the order of codes.
fn by_length(counts: &[u32]) -> impl Iterator<Item = u32> {
    (0..).zip(counts).flat_map(|(length, count)| std::iter::repeat_n(length, *count as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_all_lengths() {
        // 0, 10, 110 ... and two of 16 bits.
        let lengths: Vec<u8> = (1..=16).chain([16]).collect();
        let code = Huffman::new(&lengths).unwrap();
        for symbol in 0..17_u16 {
            let word: u16 = if symbol == 16 { 0xffff } else { !(0xffff >> symbol) };
            let input = word.to_le_bytes();
            assert_eq!(code.read(&mut Bits::new(&input)), Some(symbol));
        }
        assert!(Huffman::new(&[1, 1, 1]).is_none());
        let incomplete = Huffman::new(&[2, 12]).unwrap();
        assert_eq!(incomplete.read(&mut Bits::new(&[0xff, 0xff])), None);
        assert_eq!(Huffman::new(&[0; 8]).unwrap().read(&mut Bits::new(&[])), None);
    }
}
