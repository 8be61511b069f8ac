//! Reading, writing and comparing blocks (SBC-3 clause 5).

use std::ops::Range;

use rustix::fs::Advice;

use super::{
    cdb::Cdb,
    sense::{Failure, Sense},
    unit::{Action, Compare, LogicalUnit},
};

/// A block address and a number of blocks.
pub(super) type BlockRun = (u64, u64);

/// Longest transfer of one command in bytes; what 65535 blocks of 512 bytes fit in, which is what initiators send to
/// disks that tell nothing.
pub(super) const MOST_TRANSFERRED: u64 = 32 << 20;
/// Most blocks of COMPARE AND WRITE: its field has one byte.
pub(super) const MOST_COMPARED: u8 = 255;
/// What is read at a time where nothing is delivered.
const PIECE: usize = 1 << 20;
/// Runs that PRE-FETCH looks at, at most.
const PREFETCHED_RUNS: usize = 1024;

type Decoded = Result<Action, Failure>;

impl LogicalUnit {
    /// The range of a command that transfers it.
    fn transferred(&self, cdb: &Cdb) -> Result<Range<u64>, Failure> {
        let range = self.range(cdb.blocks())?;
        if range.end - range.start > MOST_TRANSFERRED {
            return Err(Sense::in_cdb(length_field(cdb)).into());
        }
        Ok(range)
    }

    /// RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT: there is no protection information here (SBC-3 4.22).
    fn unprotected(&self, cdb: &Cdb) -> Result<(), Failure> {
        if cdb.opcode() >> 5 != 0 && cdb.bit(1, 0xe0) {
            return Err(Sense::in_cdb(1).into());
        }
        Ok(())
    }

    pub(super) fn decode_read(&self, _port: &str, cdb: &Cdb) -> Decoded {
        self.unprotected(cdb)?;
        // RARC and the rest of byte 1 are advice; DPO, too; FUA reads what is durable already.
        Ok(Action::Read(self.transferred(cdb)?))
    }

    pub(super) fn decode_write(&self, _port: &str, cdb: &Cdb) -> Decoded {
        self.unprotected(cdb)?;
        let range = self.transferred(cdb)?;
        self.writable()?;
        Ok(Action::Write { range, durable: cdb.opcode() >> 5 != 0 && cdb.bit(1, 0x08), verify: false })
    }

    /// WRITE AND VERIFY: the compare of BYTCHK is always done. It is as durable as VERIFY makes sense.
    pub(super) fn decode_write_verify(&self, _port: &str, cdb: &Cdb) -> Decoded {
        self.unprotected(cdb)?;
        if cdb.byte(1) & 0x06 > 0x02 {
            return Err(Sense::in_cdb(1).into());
        }
        let range = self.transferred(cdb)?;
        self.writable()?;
        Ok(Action::Write { range, durable: true, verify: true })
    }

    pub(super) fn decode_verify(&self, _port: &str, cdb: &Cdb) -> Decoded {
        self.unprotected(cdb)?;
        let compare = match cdb.byte(1) >> 1 & 0x03 {
            0 => Compare::Nothing,
            1 => Compare::All,
            3 => Compare::One,
            _ => return Err(Sense::in_cdb(1).into()),
        };
        // MAXIMUM TRANSFER LENGTH bounds what is only read, too (SBC-3 6.5.3).
        Ok(Action::Verify { range: self.transferred(cdb)?, compare })
    }

    pub(super) fn decode_or_write(&self, _port: &str, cdb: &Cdb) -> Decoded {
        self.unprotected(cdb)?;
        let range = self.transferred(cdb)?;
        self.writable()?;
        Ok(Action::OrWrite { range, durable: cdb.bit(1, 0x08) })
    }

    pub(super) fn decode_compare_and_write(&self, _port: &str, cdb: &Cdb) -> Decoded {
        self.unprotected(cdb)?;
        let range = self.range((cdb.be64(2), cdb.byte(13).into()))?;
        self.writable()?;
        Ok(Action::CompareAndWrite { range, durable: cdb.bit(1, 0x08) })
    }

    pub(super) fn decode_prefetch(&self, _port: &str, cdb: &Cdb) -> Decoded {
        let (lba, blocks) = cdb.blocks();
        // None are all to the end (SBC-3 5.8).
        let blocks = if blocks == 0 { self.count.saturating_sub(lba) } else { blocks };
        Ok(Action::Prefetch(self.range((lba, blocks))?))
    }

    /// SYNCHRONIZE CACHE: the whole cache, whatever range it names.
    pub(super) fn decode_flush(&self, _port: &str, cdb: &Cdb) -> Decoded {
        self.range(cdb.blocks())?;
        Ok(Action::Flush)
    }

    /// START STOP UNIT: there is nothing to stop. What was written is made durable, as before a real disk stops.
    pub(super) fn decode_start_stop(&self, _port: &str, cdb: &Cdb) -> Decoded {
        // A load or eject of what cannot be removed.
        if cdb.bit(4, 0x02) {
            return Err(Sense::in_cdb(4).into());
        }
        Ok(if cdb.bit(4, 0x01) || cdb.bit(4, 0xf0) { Action::Nothing } else { Action::Flush })
    }

    /// Deliver bytes of the disk.
    ///
    /// # Errors
    ///
    /// MEDIUM ERROR with the address of the block at which `buf` begins, or of the first one that cannot be read.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Failure> {
        let read = self.device().read_at(buf, offset);
        match read {
            Ok(n) if n == buf.len() => {
                self.count_read(n as u64);
                Ok(())
            }
            Ok(n) => Err(Sense::read_error(self.lba(offset + n as u64)).into()),
            Err(_) => Err(Sense::read_error(self.lba(self.first_unreadable(buf, offset))).into()),
        }
    }

    /// Where the first block is that cannot be read: initiators read around it.
    fn first_unreadable(&self, buf: &mut [u8], offset: u64) -> u64 {
        let device = self.device();
        let (mut from, mut len) = (0, buf.len());
        let block = self.block as usize;
        // Halves, not block by block: a backup may take long for each.
        while len > block {
            let half = (len / 2).next_multiple_of(block).min(len - 1).max(block);
            let first = buf.get_mut(from..from + half).unwrap_or_default();
            if device.read_at(first, offset + from as u64).is_ok_and(|n| n == half) {
                (from, len) = (from + half, len - half);
            } else {
                len = half;
            }
        }
        offset + from as u64
    }

    pub(super) fn write(&self, range: &Range<u64>, data: &[u8], durable: bool, verify: bool) -> Result<(), Failure> {
        let disk = self.writable()?;
        let data = data.get(..len(range)).unwrap_or(data);
        if !data.is_empty() {
            let _shared = self.gate.read();
            disk.write_at(data, range.start).map_err(|e| Sense::of_write(&e, self.lba(range.start)))?;
            self.count_written(data.len() as u64);
        }
        self.settle(durable)?;
        if verify { self.verify(range, Compare::All, data) } else { Ok(()) }
    }

    /// Write as many bytes as there are: of a command whose initiator has sent fewer than the CDB says (SPC-4 does not
    /// say what becomes of it; FCP-4 9.4.2 a does).
    pub(crate) fn write_part(&self, command: &super::Command, data: &[u8]) -> Result<(), Failure> {
        match &command.action {
            Action::Write { range, durable, verify } => {
                let end = range.start.saturating_add(data.len() as u64).min(range.end);
                self.write(&(range.start..end), data, *durable, *verify)
            }
            _ => Err(Sense::SHORT_DATA.into()),
        }
    }

    /// After a write: durable where that was asked for, or where there is to be no cache.
    pub(super) fn settle(&self, durable: bool) -> Result<(), Failure> {
        if durable || !self.cache.load(std::sync::atomic::Ordering::Relaxed) { self.flush() } else { Ok(()) }
    }

    pub(super) fn flush(&self) -> Result<(), Failure> {
        // There is nothing to flush where nothing can be written.
        let Some(disk) = self.disk.writable() else { return Ok(()) };
        disk.flush().map_err(|e| Sense::of_write(&e, 0).into())
    }

    pub(super) fn verify(&self, range: &Range<u64>, compare: Compare, data: &[u8]) -> Result<(), Failure> {
        let block = self.block as usize;
        let mut buf = vec![0; len(range).min(PIECE)];
        let mut offset = range.start;
        while offset < range.end {
            let n = usize::try_from(range.end - offset).unwrap_or(usize::MAX).min(buf.len());
            let piece = buf.get_mut(..n).unwrap_or_default();
            self.read_quietly(piece, offset)?;
            let from = usize::try_from(offset - range.start).unwrap_or(usize::MAX);
            let expected = match compare {
                Compare::Nothing => None,
                Compare::All => Some(data.get(from..from.saturating_add(n)).unwrap_or_default()),
                Compare::One => None,
            };
            if let Some(expected) = expected
                && let Some(at) = difference(piece, expected)
            {
                return Err(Sense::miscompare(from as u64 + at).into());
            }
            if compare == Compare::One {
                let one = data.get(..block).unwrap_or(data);
                for (number, found) in piece.chunks(block).enumerate() {
                    if let Some(at) = difference(found, one) {
                        return Err(Sense::miscompare((from + number * block) as u64 + at).into());
                    }
                }
            }
            offset += n as u64;
        }
        Ok(())
    }

    /// Read what no initiator gets to see.
    fn read_quietly(&self, buf: &mut [u8], offset: u64) -> Result<(), Failure> {
        let read = self.device().read_at(buf, offset).map_err(|_| Sense::read_error(self.lba(offset)))?;
        if read < buf.len() { Err(Sense::read_error(self.lba(offset + read as u64)).into()) } else { Ok(()) }
    }

    /// ORWRITE (SBC-3 5.14).
    pub(super) fn or_write(&self, range: &Range<u64>, data: &[u8], durable: bool) -> Result<(), Failure> {
        let disk = self.writable()?;
        let mut bytes = vec![0; len(range)];
        {
            let _alone = self.gate.write();
            self.read_quietly(&mut bytes, range.start)?;
            bytes.iter_mut().zip(data).for_each(|(byte, set)| *byte |= set);
            disk.write_at(&bytes, range.start).map_err(|e| Sense::of_write(&e, self.lba(range.start)))?;
        }
        self.count_written(bytes.len() as u64);
        self.settle(durable)
    }

    /// COMPARE AND WRITE (SBC-3 5.3).
    pub(super) fn compare_and_write(&self, range: &Range<u64>, data: &[u8], durable: bool) -> Result<(), Failure> {
        let disk = self.writable()?;
        let (expected, new) = data.split_at_checked(len(range)).unwrap_or((data, &[]));
        let mut bytes = vec![0; expected.len()];
        {
            let _alone = self.gate.write();
            self.read_quietly(&mut bytes, range.start)?;
            if let Some(at) = difference(&bytes, expected) {
                return Err(Sense::miscompare(at).into());
            }
            let new = new.get(..expected.len()).unwrap_or(new);
            disk.write_at(new, range.start).map_err(|e| Sense::of_write(&e, self.lba(range.start)))?;
        }
        self.count_written(bytes.len() as u64);
        self.settle(durable)
    }

    /// Have the host read ahead what lies in its files; the rest comes when it is read.
    pub(super) fn prefetch(&self, range: &Range<u64>) {
        let device = self.device();
        let mut offset = range.start;
        for _ in 0..PREFETCHED_RUNS {
            let left = range.end.saturating_sub(offset);
            let Some(run) = device.map(offset, left).filter(|run| run.len > 0 && left > 0) else { break };
            // It is advice; where it is not taken, nothing is lost.
            let length = std::num::NonZeroU64::new(run.len.min(left));
            let _ = rustix::fs::fadvise(run.file, run.offset, length, Advice::WillNeed);
            offset += run.len.min(left);
        }
    }
}

fn len(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

/// The place of the first byte that differs.
fn difference(found: &[u8], expected: &[u8]) -> Option<u64> {
    if found == expected {
        return None;
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    Some(at.unwrap_or(found.len().min(expected.len())) as u64)
}

/// The byte of a CDB where its transfer length is.
fn length_field(cdb: &Cdb) -> u16 {
    match cdb.opcode() >> 5 {
        0 => 4,
        4 => 10,
        5 => 6,
        _ => 7,
    }
}
