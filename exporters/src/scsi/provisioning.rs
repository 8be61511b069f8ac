//! Blocks that hold nothing (SBC-3 4.7): UNMAP, WRITE SAME, GET LBA STATUS.

use std::ops::Range;

use blockdev::{
    ExtentKind,
    fields::{be16, be32, be64, slice},
};

use super::{
    cdb::Cdb,
    sense::{Failure, Sense},
    unit::{Action, LogicalUnit},
};

/// Most ranges of one UNMAP.
pub(super) const MOST_UNMAPPED: usize = 256;
/// Longest repetition of one block that is not zeros, in bytes. Zeros cost nothing and have no limit.
pub(super) const MOST_REPEATED: u64 = 1 << 30;
/// What is repeated at a time.
const PIECE: usize = 1 << 20;
/// Extents that GET LBA STATUS looks at, at most.
const LOOKUPS: usize = 4096;
/// Bytes of a range in the parameter list of UNMAP, and of a descriptor of GET LBA STATUS.
const DESCRIPTOR: usize = 16;

/// Provisioning status of a run of blocks (SBC-3 5.7.2).
const MAPPED: u8 = 0;
const DEALLOCATED: u8 = 1;

impl LogicalUnit {
    pub(super) fn decode_unmap(&self, _port: &str, cdb: &Cdb) -> Result<Action, Failure> {
        self.writable()?;
        Ok(Action::Unmap { anchor: cdb.bit(1, 0x01), length: cdb.be16(7).into() })
    }

    /// The parameter list of UNMAP (SBC-3 5.32.2).
    pub(super) fn unmap(&self, list: &[u8], anchor: bool) -> Result<(), Failure> {
        // "A parameter list length of zero ... shall not be considered as an error".
        if list.is_empty() {
            return Ok(());
        }
        if list.len() < 8 {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        let length = usize::from(be16(list, 2));
        let descriptors = slice(list, 8, length);
        let descriptors = descriptors.as_chunks::<DESCRIPTOR>().0;
        if descriptors.len() > MOST_UNMAPPED {
            return Err(Sense::in_parameters(2).into());
        }
        // All are judged before any is done.
        let ranges: Vec<_> = descriptors
            .iter()
            .map(|descriptor| self.range((be64(descriptor, 0), be32(descriptor, 8).into())))
            .collect::<Result<_, _>>()?;
        ranges.iter().filter(|range| !range.is_empty()).try_for_each(|range| self.clear(range, anchor))?;
        self.settle(false)
    }

    /// Make a range read as zeros, which is what LBPRZ promises of unmapped blocks; with `keep` its room stays.
    fn clear(&self, range: &Range<u64>, keep: bool) -> Result<(), Failure> {
        let disk = self.writable()?;
        let _shared = self.gate.read();
        disk.write_zeroes(range.clone(), keep).map_err(|e| Sense::of_write(&e, self.lba(range.start)).into())
    }

    pub(super) fn decode_write_same(&self, _port: &str, cdb: &Cdb) -> Result<Action, Failure> {
        // WRPROTECT, and PBDATA and LBDATA, which SBC-3 has made obsolete.
        if cdb.bit(1, 0xe0) || cdb.bit(1, 0x06) {
            return Err(Sense::in_cdb(1).into());
        }
        let (unmap, anchor) = (cdb.bit(1, 0x08), cdb.bit(1, 0x10));
        let no_data = cdb.opcode() == super::opcodes::WRITE_SAME_16 && cdb.bit(1, 0x01);
        if anchor && !unmap {
            return Err(Sense::in_cdb(1).into());
        }
        let (lba, blocks) = cdb.blocks();
        // None are all to the end, because WSNZ is zero (SBC-3 5.45).
        let blocks = if blocks == 0 { self.count.checked_sub(lba).ok_or(Sense::OUT_OF_RANGE)? } else { blocks };
        let range = self.range((lba, blocks))?;
        self.writable()?;
        Ok(Action::WriteSame { range, keep: anchor || !unmap, pattern: !no_data })
    }

    /// Write `pattern`, one block, all over a range; no pattern is zeros.
    pub(super) fn write_same(&self, range: &Range<u64>, pattern: &[u8], keep: bool) -> Result<(), Failure> {
        let pattern = pattern.get(..self.block as usize).unwrap_or(pattern);
        if pattern.iter().all(|byte| *byte == 0) {
            if !range.is_empty() {
                self.clear(range, keep)?;
            }
            return self.settle(false);
        }
        if range.end - range.start > MOST_REPEATED {
            return Err(Sense::in_cdb(10).into());
        }
        let disk = self.writable()?;
        let most = usize::try_from(range.end - range.start).unwrap_or(PIECE).min(PIECE);
        let buf = pattern.repeat(most.div_ceil(pattern.len().max(1)));
        let mut offset = range.start;
        while offset < range.end {
            let n = usize::try_from(range.end - offset).unwrap_or(PIECE).min(buf.len());
            let _shared = self.gate.read();
            disk.write_at(buf.get(..n).unwrap_or(&buf), offset).map_err(|e| Sense::of_write(&e, self.lba(offset)))?;
            offset += n as u64;
        }
        self.count_written(range.end - range.start);
        self.settle(false)
    }

    /// GET LBA STATUS (SBC-3 5.7).
    pub(super) fn decode_lba_status(&self, _port: &str, cdb: &Cdb) -> Result<Action, Failure> {
        let lba = cdb.be64(2);
        let allocation = usize::try_from(cdb.be32(10)).unwrap_or(usize::MAX);
        if lba >= self.count {
            return Err(Sense::OUT_OF_RANGE.into());
        }
        Ok(Action::Status { lba, allocation })
    }

    /// The parameter data of GET LBA STATUS, from a block on.
    pub(super) fn lba_status(&self, lba: u64, allocation: usize) -> Result<Vec<u8>, Failure> {
        let most = (allocation.saturating_sub(8) / DESCRIPTOR).clamp(1, LOOKUPS);
        let mut runs: Vec<(u64, u64, u8)> = Vec::new();
        let mut at = lba;
        for _ in 0..LOOKUPS {
            if at >= self.count {
                break;
            }
            let (end, status) = self.status_at(at)?;
            let full = runs.len() == most;
            match runs.last_mut() {
                Some(last) if last.2 == status => last.1 = end,
                _ if full => break,
                _ => runs.push((at, end, status)),
            }
            at = end;
        }
        let mut bytes = vec![0; 8];
        for (start, end, status) in runs {
            // More blocks than the field can tell are another question.
            let blocks = u32::try_from(end - start).unwrap_or(u32::MAX);
            bytes.extend(start.to_be_bytes());
            bytes.extend(blocks.to_be_bytes());
            bytes.extend([status, 0, 0, 0]);
            if blocks == u32::MAX {
                break;
            }
        }
        let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
        bytes.splice(..4, length.to_be_bytes());
        bytes.truncate(allocation);
        Ok(bytes)
    }

    /// The end of the run of blocks at `lba` that are all mapped or all not, and which. A block of which a part is stored
    /// is mapped.
    fn status_at(&self, lba: u64) -> Result<(u64, u8), Failure> {
        let block = u64::from(self.block);
        let offset = lba * block;
        let found = self.device().extent_at(offset).map_err(|_| Sense::read_error(lba))?;
        let Some(extent) = found.filter(|extent| extent.range.contains(&offset)) else {
            return Ok((self.count, MAPPED));
        };
        let whole = extent.range.end / block;
        if extent.kind == ExtentKind::Hole && whole > lba {
            return Ok((whole.min(self.count), DEALLOCATED));
        }
        Ok((extent.range.end.div_ceil(block).clamp(lba + 1, self.count), MAPPED))
    }
}
