//! Bits as XPRESS and LZX have them: in little-endian words of 16, the most significant first.

use blockdev::fields::{le16, slice};

/// Reads bits. Behind the end there are zeros.
pub struct Bits<'a> {
    input: &'a [u8],
    /// The next byte that is not among the bits.
    at: usize,
    /// The next bits, from the most significant down.
    bits: u32,
    /// How many of them there are.
    count: u32,
}

impl<'a> Bits<'a> {
    /// Those in `input`.
    pub const fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0, bits: 0, count: 0 }
    }

    /// The next 16 bits, which stay.
    pub fn peek(&mut self) -> u32 {
        if self.count < 16 {
            self.bits |= u32::from(le16(self.input, self.at)) << (16 - self.count);
            self.count += 16;
            self.at += 2;
        }
        self.bits >> 16
    }

    /// Goes on by `count` bits, at most 16, that were peeked at.
    pub const fn skip(&mut self, count: u32) {
        self.bits <<= count;
        self.count = self.count.saturating_sub(count);
    }

    /// The next `count` bits, at most 16.
    pub fn read(&mut self, count: u32) -> u32 {
        let value = self.peek() >> (16 - count);
        self.skip(count);
        value
    }

    /// The next `len` bytes that are not among the bits yet: fewer at the end.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let bytes = slice(self.input, self.at, len);
        self.at += bytes.len();
        bytes
    }

    /// Goes on to the next word: by 1 to 16 bits.
    pub fn align(&mut self) {
        self.peek();
        // What is left of one word and, if that was none, the whole next one.
        if self.count > 16 {
            self.at -= 2;
        }
        (self.bits, self.count) = (0, 0);
    }
}
