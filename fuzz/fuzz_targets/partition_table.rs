//! Fuzzes whatever a disk may begin and end with: partition tables, superblocks of filesystems and of arrays.
//!
//! The first byte chooses the sector size; the others are the disk's first bytes, and its last. The checksums of a GPT are
//! made right first, since they would keep the fuzzer out.
//!
//!     cargo xtask fuzz partition_table

#![no_main]

use std::sync::Arc;

use blockdev::{BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result, partitions};
use crc_fast::{CrcAlgorithm, checksum};

/// Size of the disk: most of it is zeros.
const SIZE: u64 = 8 << 20;

struct Ends {
    head: Vec<u8>,
    sizes: BlockSizes,
}

impl ReadAt for Ends {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let tail = SIZE - self.head.len() as u64;
        let n = buf.len().min(SIZE.saturating_sub(offset) as usize);
        for (at, byte) in (offset..).zip(&mut buf[..n]) {
            let place = if at >= tail { at - tail } else { at };
            *byte = self.head.get(place as usize).copied().unwrap_or(0);
        }
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < SIZE).then_some(Extent { range: offset..SIZE, kind: ExtentKind::Data }))
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Ends {
    fn block_sizes(&self) -> BlockSizes {
        self.sizes
    }
}

/// Makes the checksums of the GPT right whose header is at `at`.
fn repair(disk: &mut [u8], at: usize, sector: usize) {
    let word = |disk: &[u8], at: usize| disk.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()) as usize);
    if disk.get(at..at + 8) != Some(b"EFI PART") || disk.len() < at + 512 {
        return;
    }
    let length = word(disk, at + 80).saturating_mul(word(disk, at + 84));
    let start = word(disk, at + 72).saturating_mul(sector);
    if let Some(entries) = start.checked_add(length).and_then(|end| disk.get(start..end)) {
        let sum = checksum(CrcAlgorithm::Crc32IsoHdlc, entries) as u32;
        disk[at + 88..at + 92].copy_from_slice(&sum.to_le_bytes());
    }
    disk[at + 16..at + 20].fill(0);
    let header = &disk[at..at + word(disk, at + 12).min(512)];
    let sum = checksum(CrcAlgorithm::Crc32IsoHdlc, header) as u32;
    disk[at + 16..at + 20].copy_from_slice(&sum.to_le_bytes());
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, head)) = data.split_first() else { return };
    let mut head = head[..head.len().min(1 << 20)].to_vec();
    repair(&mut head, 512, 512);
    repair(&mut head, 4096, 4096);
    let sizes = if choice & 1 == 0 { BlockSizes::CLASSIC } else { BlockSizes::NATIVE_4K };
    let disk: Arc<dyn BlockDevice> = Arc::new(Ends { head, sizes });
    let survey = partitions::survey(&[("disk0".to_owned(), disk)]);
    let mut buf = [0; 4096];
    for device in survey.volumes.iter().filter_map(|v| v.device.as_ref()) {
        let _ = device.read_at(&mut buf, 0);
        let _ = device.read_at(&mut buf, device.size().saturating_sub(4096));
    }
});
