//! The entry set of a file: one slot with its attributes and times, one that says where its content is, and its name in
//! slots of fifteen letters ("exFAT File System Specification", 7.4, 7.6 and 7.7).

use blockdev::{
    Error, Result,
    fields::{le16, le32, le64, slice},
};

use crate::{
    Kind, Time,
    fat::{
        slots::{SLOT, Slot},
        times,
    },
    names,
};

const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
/// In the type of a slot: it is in use.
const IN_USE: u8 = 0x80;
/// In the type of a slot: it goes on with the set that a slot before it began.
const SECONDARY: u8 = 0x40;

/// Slots of the largest set: the file, its stream, and a name of 255 letters.
pub const SLOTS_MAX: usize = 19;
/// UTF-16 units in a slot of a name.
const UNITS: usize = 15;

/// A whole set. That its checksum is right has to be asked for.
#[derive(Debug, Clone)]
pub struct Set {
    slots: [[u8; SLOT]; SLOTS_MAX],
    len: usize,
    /// The index of its first slot in the directory.
    pub first: u32,
    /// The byte of the volume at which that is.
    pub place: u64,
}

impl Set {
    fn file(&self) -> &[u8] {
        self.slots.first().map_or(&[], |slot| slot)
    }

    fn stream(&self) -> &[u8] {
        self.slots.get(1).map_or(&[], |slot| slot)
    }

    /// Whether it is one: what it should have is there.
    fn is_complete(&self) -> bool {
        let is = |at: usize, kind: u8| self.slots.get(at).is_some_and(|slot| at < self.len && slot[0] == kind);
        let units = self.name_len();
        is(1, STREAM) && units > 0 && (2..2 + units.div_ceil(UNITS)).all(|at| is(at, NAME))
    }

    /// Whether its checksum is that of its bytes (6.3.3: all but the checksum).
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn check(&self) -> Result<()> {
        let bytes = self.slots.iter().take(self.len).flatten().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
        let sum = bytes.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
        if le16(self.file(), 2) != sum && !cfg!(fuzzing) {
            return Err(Error::damaged(format!(
                "the directory entry at byte {} has not the checksum {sum:04x} that it should have",
                self.place
            )));
        }
        Ok(())
    }

    /// The index of the slot behind it.
    pub const fn next(&self) -> u32 {
        self.first.saturating_add(self.len as u32)
    }

    fn name_len(&self) -> usize {
        self.stream().get(3).copied().map_or(0, usize::from)
    }

    /// The name.
    pub fn name(&self) -> Vec<u8> {
        let slots = self.slots.iter().take(self.len).skip(2);
        let units = slots.flat_map(|slot| slice(slot, 2, 2 * UNITS).as_chunks::<2>().0);
        names::from_utf16(units.take(self.name_len()).map(|pair| u16::from_le_bytes(*pair)))
    }

    fn attributes(&self) -> u16 {
        le16(self.file(), 4)
    }

    /// The type.
    pub fn kind(&self) -> Kind {
        const DIRECTORY: u16 = 0x10;
        if self.attributes() & DIRECTORY != 0 { Kind::Dir } else { Kind::File }
    }

    /// Whether it is a file that is not to be written. (Of a directory this attribute says something else.)
    pub fn is_read_only(&self) -> bool {
        const READ_ONLY: u16 = 0x01;
        self.attributes() & READ_ONLY != 0 && self.kind() == Kind::File
    }

    /// The first cluster of the content.
    pub fn cluster(&self) -> u32 {
        le32(self.stream(), 20)
    }

    /// Whether the clusters of the content follow each other, without the table saying so (6.3.4.2).
    pub fn is_contiguous(&self) -> bool {
        const NO_FAT_CHAIN: u8 = 1 << 1;
        self.stream().get(1).is_some_and(|flags| flags & NO_FAT_CHAIN != 0)
    }

    /// Length of the content.
    pub fn size(&self) -> u64 {
        le64(self.stream(), 24)
    }

    /// How much of the content was written.
    pub fn valid(&self) -> u64 {
        le64(self.stream(), 8)
    }

    /// When it was made.
    pub fn created(&self) -> Option<Time> {
        self.time(8, Some(20), 22)
    }

    /// When it was last written.
    pub fn modified(&self) -> Option<Time> {
        self.time(12, Some(21), 23)
    }

    /// When it was last read.
    pub fn accessed(&self) -> Option<Time> {
        self.time(16, None, 24)
    }

    /// The time at `at`, its hundredths of a second, and its offset from UTC (7.4.5 to 7.4.10).
    fn time(&self, at: usize, tens: Option<usize>, offset: usize) -> Option<Time> {
        /// The offset is known; it counts quarters of an hour, in seven bits with a sign.
        const IS_KNOWN: u8 = 0x80;
        let byte = |at: usize| self.file().get(at).copied().unwrap_or(0);
        let time = times::time(le16(self.file(), at + 2), le16(self.file(), at), tens.map_or(0, byte))?;
        let offset = byte(offset);
        let quarters = if offset & IS_KNOWN == 0 { 0 } else { i64::from((offset << 1).cast_signed() >> 1) };
        Some(Time { seconds: time.seconds - quarters * 900, ..time })
    }
}

/// What a slot was.
#[derive(Debug)]
pub enum Step {
    /// Nothing to show, or not yet.
    Nothing,
    /// The end of the directory.
    End,
    /// The last slot of a set.
    Set(Box<Set>),
}

/// Puts slots together to sets.
#[derive(Debug, Default)]
pub struct Assembler {
    set: Option<Box<Set>>,
    /// Slots that are still missing.
    missing: usize,
    /// The byte at which something is no set that began as one.
    pub damaged: Option<u64>,
}

impl Assembler {
    /// The next slot.
    pub fn push(&mut self, slot: &Slot<'_>) -> Step {
        let [kind, count, ..] = *slot.bytes;
        if kind & (IN_USE | SECONDARY) == IN_USE | SECONDARY {
            return self.secondary(slot);
        }
        if let Some(set) = self.set.take() {
            self.damaged.get_or_insert(set.place);
        }
        match kind {
            0 => return Step::End,
            // 6.3.1: at least a stream and one slot of a name.
            FILE if (2..SLOTS_MAX).contains(&usize::from(count)) => {
                let mut set = Set { slots: [[0; SLOT]; SLOTS_MAX], len: 1, first: slot.index, place: slot.place };
                if let Some(first) = set.slots.first_mut() {
                    *first = *slot.bytes;
                }
                (self.set, self.missing) = (Some(Box::new(set)), count.into());
            }
            FILE => _ = self.damaged.get_or_insert(slot.place),
            _ => {}
        }
        Step::Nothing
    }

    /// Whether a set has begun and is not complete.
    pub const fn is_within(&self) -> bool {
        self.set.is_some()
    }

    fn secondary(&mut self, slot: &Slot<'_>) -> Step {
        // One without a set before it is what is left of a damaged one, which was noted.
        let Some(set) = &mut self.set else { return Step::Nothing };
        if let Some(place) = set.slots.get_mut(set.len) {
            *place = *slot.bytes;
        }
        set.len += 1;
        self.missing = self.missing.saturating_sub(1);
        if self.missing > 0 {
            return Step::Nothing;
        }
        match self.set.take() {
            Some(set) if set.is_complete() => Step::Set(set),
            Some(set) => {
                self.damaged.get_or_insert(set.place);
                Step::Nothing
            }
            None => Step::Nothing,
        }
    }
}
