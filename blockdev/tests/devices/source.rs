//! A disk whose every byte is known, without a file: some mebibytes of data, and zeros between them.

use blockdev::{BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result};

/// Not a multiple of a sector: the last bytes are the hard ones.
pub const SIZE: u64 = (1 << 30) + (40 << 20) + 123_457;

/// The mebibytes that hold data: the start, both sides of the ends of a page's span and of an L2 table's, the middle,
/// and the end.
const DATA: [u64; 8] = [0, 31, 32, 500, 501, 1023, 1024, 1064];

pub const MIB: u64 = 1 << 20;

/// The disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source;

/// Bytes that stand for `seed`, and for where they are.
pub fn pattern(seed: u64, offset: u64, buf: &mut [u8]) {
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        let word = mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at / 8)).to_le_bytes();
        let from = (at % 8) as usize;
        let n = (8 - from).min(buf.len() - done);
        buf[done..done + n].copy_from_slice(&word[from..from + n]);
        done += n;
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl ReadAt for Source {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = buf.len().min(usize::try_from(SIZE.saturating_sub(offset)).unwrap());
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let n = ((MIB - at % MIB) as usize).min(wanted - done);
            let part = &mut buf[done..done + n];
            match DATA.contains(&(at / MIB)) {
                true => pattern(77, at, part),
                false => part.fill(0),
            }
            done += n;
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let kind = if DATA.contains(&(offset / MIB)) { ExtentKind::Data } else { ExtentKind::Hole };
        let end = SIZE.min((offset / MIB + 1) * MIB);
        Ok((offset < SIZE).then_some(Extent { range: offset..end, kind }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Source {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}
