//! Fuzzes the metadata text of an LVM2 group, on a physical volume that is right in everything else.
//!
//! The text is put behind a label and a header whose checksums fit. Its physical volume has the identifier that the
//! seeds' has, so that segments lead somewhere.
//!
//!     cargo xtask fuzz lvm

#![no_main]

use std::sync::Arc;

use blockdev::{BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result, partitions};
use crc_fast::{CrcAlgorithm, Digest};

/// The identifier that the seeds give their first physical volume, without hyphens.
const PV_ID: &[u8; 32] = b"0000000000000000000000000000fuzz";
const AREA: usize = 4096;
const SIZE: usize = 4 << 20;

struct Disk(Vec<u8>);

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.size()).then_some(Extent { range: offset..self.size(), kind: ExtentKind::Data }))
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Disk {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32IsoHdlc, 0xf597_a6cf);
    digest.update(bytes);
    (!(digest.finalize() as u32)).to_le_bytes()
}

fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let text = &text[..text.len().min(1 << 20)];
    let mut disk = vec![0; SIZE];
    put(&mut disk, 512, b"LABELONE");
    put(&mut disk, 512 + 8, &1_u64.to_le_bytes());
    put(&mut disk, 512 + 20, &32_u32.to_le_bytes());
    put(&mut disk, 512 + 24, b"LVM2 001");
    put(&mut disk, 544, PV_ID);
    put(&mut disk, 544 + 32, &(SIZE as u64).to_le_bytes());
    // One data area, then one metadata area; a pair of zeros ends each list.
    put(&mut disk, 544 + 40, &(2_u64 << 20).to_le_bytes());
    put(&mut disk, 544 + 72, &(AREA as u64).to_le_bytes());
    put(&mut disk, 544 + 80, &(2_u64 << 20).to_le_bytes());
    let sum = crc(&disk[532..1024]);
    put(&mut disk, 528, &sum);
    put(&mut disk, AREA + 4, b"\x20LVM2\x20x[5A%r0N*>");
    put(&mut disk, AREA + 40, &512_u64.to_le_bytes());
    put(&mut disk, AREA + 48, &(text.len() as u64).to_le_bytes());
    put(&mut disk, AREA + 56, &crc(text));
    put(&mut disk, AREA + 512, text);
    let sum = crc(&disk[AREA + 4..AREA + 512]);
    put(&mut disk, AREA, &sum);
    let disk: Arc<dyn BlockDevice> = Arc::new(Disk(disk));
    let survey = partitions::survey(&[("disk0".to_owned(), disk)]);
    let mut buf = vec![0; 200_000];
    for device in survey.volumes.iter().skip(1).take(20).filter_map(|v| v.device.as_ref()) {
        let _ = device.read_at(&mut buf, 0);
        let _ = device.read_at(&mut buf, device.size() / 2);
        let mut at = 0;
        for _ in 0..20 {
            let Ok(Some(extent)) = device.extent_at(at) else { break };
            at = extent.range.end;
        }
    }
});
