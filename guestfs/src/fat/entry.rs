//! Entries of a directory and their names ("Microsoft FAT Specification", 6 and 7).
//!
//! The entry proper is one slot with a short name. The slots before it may have the parts of a long name, the last part
//! first, each with its number and a checksum of the short name. Programs that knew nothing of long names left such
//! parts behind: they are told by the checksum, and the short name counts.

use blockdev::fields::{le16, le32};

use super::{
    oem,
    slots::{SLOT, Slot},
    times,
};
use crate::{Kind, Time, names};

const READ_ONLY: u8 = 0x01;
const VOLUME: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
/// The attributes of a part of a long name, among those that are no longer reserved.
const LONG_NAME: u8 = 0x0f;
const LONG_NAME_MASK: u8 = 0x3f;

/// The first byte of a slot that was never used: nothing comes after it.
const NEVER_USED: u8 = 0;
/// The first byte of a slot that is free again.
const DELETED: u8 = 0xe5;
/// Stands for a first byte that is 0xe5 (a letter of Japanese code pages).
const IS_E5: u8 = 0x05;
/// In the number of a part of a long name: the last one.
const LAST_PART: u8 = 0x40;

/// UTF-16 units in a part of a long name.
const UNITS: usize = 13;
/// Parts of the longest name, of 255 units.
const PARTS_MAX: usize = 20;

/// The slot with the short name of a file.
#[derive(Debug, Clone, Copy)]
pub struct Short(pub [u8; SLOT]);

impl Short {
    const fn attributes(&self) -> u8 {
        self.0[11]
    }

    /// Whether it is a file at all.
    pub fn is_file(&self) -> bool {
        !matches!(self.0[0], NEVER_USED | DELETED) && self.attributes() & VOLUME == 0
    }

    /// Its type.
    pub const fn kind(&self) -> Kind {
        if self.attributes() & DIRECTORY != 0 { Kind::Dir } else { Kind::File }
    }

    /// Whether it is not to be written. (Of a directory this attribute says something else.)
    pub fn is_read_only(&self) -> bool {
        self.attributes() & READ_ONLY != 0 && self.kind() == Kind::File
    }

    /// The first cluster, 0 when there is none. FAT12 and FAT16 have something else in the upper half.
    pub fn cluster(&self, is_wide: bool) -> u32 {
        let upper = if is_wide { u32::from(le16(&self.0, 20)) << 16 } else { 0 };
        upper | u32::from(le16(&self.0, 26))
    }

    /// Length of a file; of a directory always 0.
    pub fn size(&self) -> u32 {
        le32(&self.0, 28)
    }

    /// When it was made.
    pub fn created(&self) -> Option<Time> {
        times::time(le16(&self.0, 16), le16(&self.0, 14), self.0[13])
    }

    /// When it was last written.
    pub fn modified(&self) -> Option<Time> {
        times::time(le16(&self.0, 24), le16(&self.0, 22), 0)
    }

    /// The day on which it was last read.
    pub fn accessed(&self) -> Option<Time> {
        times::time(le16(&self.0, 18), 0, 0)
    }

    /// The volume's label, if it is that.
    pub fn label(&self) -> Option<String> {
        let is_label = !matches!(self.0[0], NEVER_USED | DELETED) && self.attributes() & LONG_NAME_MASK != LONG_NAME;
        (is_label && self.attributes() & VOLUME != 0).then(|| self.letters(0, 11)).filter(|label| !label.is_empty())
    }

    /// The `len` bytes of the name at `at` as letters, without spaces at their end.
    fn letters(&self, at: usize, len: usize) -> String {
        let bytes = self.0.iter().skip(at).take(len).enumerate();
        let letters = bytes.map(|(n, byte)| if at + n == 0 && *byte == IS_E5 { 0xe5 } else { *byte }).map(oem::letter);
        letters.collect::<String>().trim_end_matches(' ').to_owned()
    }

    /// The short name. Windows NT has bits for a base and an extension that were lower case.
    fn name(&self) -> Vec<u8> {
        const LOWER_BASE: u8 = 0x08;
        const LOWER_EXTENSION: u8 = 0x10;
        let part = |at: usize, len: usize, lower: u8| {
            let letters = self.letters(at, len);
            if self.0[12] & lower != 0 { letters.to_lowercase() } else { letters }
        };
        let (mut name, extension) = (part(0, 8, LOWER_BASE), part(8, 3, LOWER_EXTENSION));
        if !extension.is_empty() {
            name.push('.');
            name.push_str(&extension);
        }
        name.into_bytes()
    }

    /// The checksum that belongs to it in the parts of its long name.
    fn checksum(&self) -> u8 {
        self.0.iter().take(11).fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
    }
}

/// What a slot was.
#[derive(Debug)]
pub enum Step {
    /// Nothing to show: free, a label, a part of a long name.
    Nothing,
    /// The end of the directory.
    End,
    /// The last slot of an entry: its name and its first slot.
    Entry {
        /// The name, long or short.
        name: Vec<u8>,
        /// The first slot of the entry: that of its long name, if it has one.
        first: u32,
    },
}

/// Puts slots together to entries.
pub struct Assembler {
    units: [u16; UNITS * PARTS_MAX],
    /// Parts of the long name.
    parts: usize,
    /// Parts that are still missing; `None` when there is no long name.
    missing: Option<usize>,
    checksum: u8,
    first: u32,
}

impl Assembler {
    /// One that has seen nothing.
    pub const fn new() -> Self {
        Self { units: [0; UNITS * PARTS_MAX], parts: 0, missing: None, checksum: 0, first: 0 }
    }

    /// The next slot.
    pub fn push(&mut self, slot: &Slot<'_>) -> Step {
        let short = Short(*slot.bytes);
        if short.0[0] == NEVER_USED {
            return Step::End;
        }
        if short.0[0] != DELETED && short.attributes() & LONG_NAME_MASK == LONG_NAME {
            self.part(slot);
            return Step::Nothing;
        }
        let long = self.long_name(&short);
        self.missing = None;
        if !short.is_file() {
            return Step::Nothing;
        }
        let is_shown = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
        if let Some(name) = long.filter(|name| is_shown(name)) {
            return Step::Entry { name, first: self.first };
        }
        let name = short.name();
        if is_shown(&name) { Step::Entry { name, first: slot.index } } else { Step::Nothing }
    }

    /// A part of a long name.
    fn part(&mut self, slot: &Slot<'_>) {
        let [number, ..] = *slot.bytes;
        let checksum = slot.bytes[13];
        let part = usize::from(number & !LAST_PART);
        if number & LAST_PART != 0 {
            self.missing = (1..=PARTS_MAX).contains(&part).then_some(part);
            (self.parts, self.checksum, self.first) = (part, checksum, slot.index);
        }
        if part == 0 || self.missing != Some(part) || self.checksum != checksum {
            self.missing = None;
            return;
        }
        self.missing = Some(part - 1);
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (unit, at) in self.units.iter_mut().skip((part - 1) * UNITS).zip(places) {
            *unit = le16(slot.bytes, at);
        }
    }

    /// The long name that is complete now, if it belongs to `short`.
    fn long_name(&self, short: &Short) -> Option<Vec<u8>> {
        if self.missing != Some(0) || self.checksum != short.checksum() {
            return None;
        }
        let units = self.units.iter().take(self.parts * UNITS).copied();
        Some(names::from_utf16(units.take_while(|unit| *unit != 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots of a directory that mtools made: a name of two parts with its short name, and a short name with case bits.
    const LONG: [&str; 3] = [
        "422e0064006f00630000000f0097ffffffffffffffffffffffff0000ffffffff",
        "0120044304410441043a040f0097380439042000420435043a04000041044204",
        "5f5f5f5f5f5f7e31444f432000001c6a755d755d00001c6a755d34001d000000",
    ];
    const CASE_BITS: &str = "7e54494c44452420544d502018001c6a755d755d00001c6a755d33000b000000";

    fn slot(text: &str) -> [u8; SLOT] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    fn entries(slots: &[[u8; SLOT]]) -> Vec<(String, u32)> {
        let (mut assembler, mut found) = (Assembler::new(), Vec::new());
        for (index, bytes) in (0..).zip(slots) {
            match assembler.push(&Slot { index, place: 0, bytes }) {
                Step::Nothing => {}
                Step::End => break,
                Step::Entry { name, first } => found.push((String::from_utf8(name).unwrap(), first)),
            }
        }
        found
    }

    #[test]
    fn long_names_are_put_together() {
        let long = LONG.map(slot);
        assert_eq!(entries(&long), [("Русский текст.doc".to_owned(), 0)]);
        assert_eq!(entries(&[slot(CASE_BITS), long[0], long[1], long[2]])[0], ("~tilde$.tmp".to_owned(), 0));
    }

    #[test]
    fn parts_that_belong_to_nothing_are_left_out() {
        let [last, first, short] = LONG.map(slot);
        let by_short_name = |slots: &[[u8; SLOT]]| {
            let found = entries(slots);
            assert_eq!(found, [("______~1.DOC".to_owned(), slots.len() as u32 - 1)]);
        };
        by_short_name(&[first, short]);
        by_short_name(&[last, short]);
        by_short_name(&[first, last, short]);
        by_short_name(&[last, first, first, short]);
        let mut deleted = short;
        deleted[0] = DELETED;
        by_short_name(&[last, first, deleted, short]);
        let mut renamed = first;
        renamed[13] ^= 1;
        by_short_name(&[last, renamed, short]);
        let mut other = short;
        other[0] = b'A';
        assert_eq!(entries(&[last, first, other]), [("A_____~1.DOC".to_owned(), 2)]);
    }

    #[test]
    fn first_bytes_have_meanings() {
        let mut letter = slot(CASE_BITS);
        letter[..11].copy_from_slice(b"\x05AB        ");
        letter[12] = 0;
        assert_eq!(entries(&[letter]), [("ÕAB".to_owned(), 0)]);
        letter[12] = 0x08;
        assert_eq!(entries(&[letter]), [("õab".to_owned(), 0)]);
        let mut label = slot(CASE_BITS);
        label[11] = VOLUME;
        assert_eq!(entries(&[label, [0; SLOT], letter]), []);
        assert_eq!(Short(label).label().as_deref(), Some("~TILDE$ TMP"));
        assert_eq!(Short(letter).label(), None);
    }
}
