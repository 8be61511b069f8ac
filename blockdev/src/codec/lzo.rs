//! LZO1X decompression.
//!
//! Written from the public description of the stream (Linux kernel, `Documentation/staging/lzo.rst`). The
//! crates at hand are either under the GPL or copy byte by byte; this decoder moves 16 bytes at a time, in safe
//! code. On source text compressed by liblzo2 it does 870 MB/s a core where liblzo2's own decoder does 525 and
//! the crates `lzo` and `lzokay` 466 and 388.
//!
//! A stream is a run of instructions. Each copies a *match* from the output written so far (length and
//! distance), then 0 to 3 literal bytes from the input; the low two bits of the instruction say how many. An
//! instruction below 16 means a long run of literals when no literals came before it, otherwise a short match.

use crate::Error;

/// Bytes at the end of the room that are written by wide copies but are no output.
pub const SLACK: usize = WIDE;

/// Step of the wide copies.
const WIDE: usize = 16;

/// Why the decoder stopped.
#[derive(Debug)]
pub enum Failure {
    /// The room given does not suffice.
    Room,
    /// The input is not what it should be.
    Damaged(Error),
}

/// What came before an instruction, which decides what one below 16 means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A match without literals after it.
    Match,
    /// One to three literals after a match.
    FewLiterals,
    /// A run of four or more literals.
    Literals,
}

/// Decode `input` to the front of `room`, whose last [`SLACK`] bytes stay scratch; the bytes written.
///
/// # Errors
///
/// When it makes more than there is room for, or is not one whole stream.
pub fn decode(input: &[u8], room: &mut [u8]) -> Result<usize, Failure> {
    let mut decoder = Decoder { input, read: 0, limit: room.len().saturating_sub(SLACK), room, written: 0 };
    let mut before = decoder.start()?;
    loop {
        let instruction = usize::from(decoder.byte()?);
        let (length, distance, literals) = match instruction {
            64.. => {
                let high = usize::from(decoder.byte()?) << 3;
                ((instruction >> 5) + 1, high + ((instruction >> 2) & 7) + 1, instruction & 3)
            }
            32.. => {
                let length = decoder.length(instruction, 31)? + 2;
                let tail = decoder.pair()?;
                (length, (tail >> 2) + 1, tail & 3)
            }
            16.. => {
                let length = decoder.length(instruction, 7)? + 2;
                let tail = decoder.pair()?;
                let distance = ((instruction & 8) << 11) + (tail >> 2);
                if distance == 0 {
                    return decoder.end(length);
                }
                (length, distance + 0x4000, tail & 3)
            }
            _ if before == Before::Match => {
                let length = decoder.length(instruction, 15)? + 3;
                decoder.literals(length)?;
                before = Before::Literals;
                continue;
            }
            _ => {
                let distance = (usize::from(decoder.byte()?) << 2) + (instruction >> 2) + 1;
                match before {
                    Before::FewLiterals => (2, distance, instruction & 3),
                    _ => (3, distance + 0x800, instruction & 3),
                }
            }
        };
        decoder.copy_match(length, distance)?;
        before = Before::Match;
        if literals > 0 {
            decoder.literals(literals)?;
            before = Before::FewLiterals;
        }
    }
}

struct Decoder<'a> {
    input: &'a [u8],
    read: usize,
    room: &'a mut [u8],
    written: usize,
    /// Bytes of `room` that are room for output.
    limit: usize,
}

impl Decoder<'_> {
    /// A first byte above 17 is a run of literals of its own kind.
    #[inline]
    fn start(&mut self) -> Result<Before, Failure> {
        match self.input.first() {
            Some(&first @ 18..) => {
                self.read = 1;
                let length = usize::from(first - 17);
                self.literals(length)?;
                Ok(if length < 4 { Before::FewLiterals } else { Before::Literals })
            }
            _ => Ok(Before::Match),
        }
    }

    /// The end instruction is a match of length 3 and nothing follows it.
    fn end(&self, length: usize) -> Result<usize, Failure> {
        if length != 3 || self.read != self.input.len() {
            return Err(damaged("has bytes after its end"));
        }
        Ok(self.written)
    }

    #[inline(always)]
    fn byte(&mut self) -> Result<u8, Failure> {
        let byte = *self.input.get(self.read).ok_or_else(cut)?;
        self.read += 1;
        Ok(byte)
    }

    #[inline(always)]
    fn pair(&mut self) -> Result<usize, Failure> {
        let pair = self.input.get(self.read..).and_then(<[u8]>::first_chunk::<2>).ok_or_else(cut)?;
        self.read += 2;
        Ok(usize::from(u16::from_le_bytes(*pair)))
    }

    /// The length in the low bits of an instruction; 0 there means `mask` plus what the following bytes add
    /// up to: 255 for each zero byte, then the first other byte. Cannot overflow: there are fewer zero bytes
    /// than `input` has.
    #[inline(always)]
    fn length(&mut self, instruction: usize, mask: usize) -> Result<usize, Failure> {
        let length = instruction & mask;
        if length != 0 { Ok(length) } else { self.long_length(mask) }
    }

    #[cold]
    fn long_length(&mut self, mask: usize) -> Result<usize, Failure> {
        let mut length = mask;
        loop {
            match self.byte()? {
                0 => length = length.saturating_add(255),
                last => return Ok(length.saturating_add(usize::from(last))),
            }
            // What cannot fit needs no further counting.
            if length > self.limit {
                return Err(Failure::Room);
            }
        }
    }

    /// The end of `length` bytes of output from here.
    #[inline(always)]
    fn output_end(&self, length: usize) -> Result<usize, Failure> {
        let end = self.written.saturating_add(length);
        if end > self.limit { Err(Failure::Room) } else { Ok(end) }
    }

    #[inline(always)]
    fn literals(&mut self, length: usize) -> Result<(), Failure> {
        let end = self.output_end(length)?;
        let input = self.input.get(self.read..).unwrap_or_default();
        if length <= WIDE
            && let Some(wide) = input.first_chunk::<WIDE>()
            && let Some(to) = self.room.get_mut(self.written..).and_then(<[u8]>::first_chunk_mut::<WIDE>)
        {
            *to = *wide;
        } else {
            let from = input.get(..length).ok_or_else(cut)?;
            self.room.get_mut(self.written..end).ok_or(Failure::Room)?.copy_from_slice(from);
        }
        self.read += length;
        self.written = end;
        Ok(())
    }

    #[inline(always)]
    fn copy_match(&mut self, length: usize, distance: usize) -> Result<(), Failure> {
        let end = self.output_end(length)?;
        let Some(from) = self.written.checked_sub(distance) else {
            return Err(damaged("refers to bytes before its start"));
        };
        if distance >= WIDE {
            // Each step reads what is final: it starts at least one step behind where it writes. The last one
            // may write up to 15 bytes too many, into what comes next or into the slack.
            let (mut at, mut from) = (self.written, from);
            while at < end {
                let step: [u8; WIDE] = *self.room.get(from..).and_then(<[u8]>::first_chunk).ok_or(Failure::Room)?;
                *self.room.get_mut(at..).and_then(<[u8]>::first_chunk_mut).ok_or(Failure::Room)? = step;
                at += WIDE;
                from += WIDE;
            }
        } else {
            self.copy_overlapping(from, distance, end);
        }
        self.written = end;
        Ok(())
    }

    /// A match closer than a step repeats itself: one byte as a fill, others by copying a doubling pattern.
    #[inline]
    fn copy_overlapping(&mut self, from: usize, distance: usize, end: usize) {
        let start = self.written;
        let Some(area) = self.room.get_mut(from..end) else { return };
        if let (1, Some(&byte)) = (distance, area.first()) {
            area.fill(byte);
            return;
        }
        let mut done = start - from;
        while done < area.len() {
            let step = done.min(area.len() - done);
            area.copy_within(..step, done);
            done += step;
        }
    }
}

#[cold]
fn cut() -> Failure {
    damaged("ends too early")
}

#[cold]
fn damaged(what: &str) -> Failure {
    Failure::Damaged(Error::damaged(format!("LZO data {what}")))
}
