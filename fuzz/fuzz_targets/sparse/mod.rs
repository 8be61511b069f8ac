//! Image files of many MiB from inputs of few KiB: the input lists the sectors that are not zeros.
//!
//! Four bytes with the number of sectors in the file, then for each listed sector its number (four bytes, little-endian)
//! and its 512 bytes.

#![allow(dead_code, reason = "each target has its own checksums")]

use std::{collections::HashMap, sync::Arc};

use blockdev::{
    Extent, ExtentKind, MappedRun, ReadAt, Result,
    images::{self, Disk, Format, gate::Alone},
};

const SECTOR: usize = 512;

/// A file of which only some sectors are not zeros.
pub struct Sparse {
    size: u64,
    sectors: HashMap<u64, [u8; SECTOR]>,
}

impl Sparse {
    /// The file that an input tells of.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (size, mut rest) = data.split_first_chunk()?;
        let mut sectors = HashMap::new();
        while let Some((number, tail)) = rest.split_first_chunk()
            && let Some((bytes, tail)) = tail.split_first_chunk()
        {
            sectors.insert(u64::from(u32::from_le_bytes(*number)), *bytes);
            rest = tail;
        }
        Some(Self { size: u64::from(u32::from_le_bytes(*size)) * SECTOR as u64, sectors })
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let _ = self.read_at(&mut bytes, at);
        bytes
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let sector = self.sectors.entry(at / SECTOR as u64).or_insert([0; SECTOR]);
            sector[at as usize % SECTOR] = *byte;
        }
    }

    /// Give a structure of a VHD its checksum.
    pub fn sum(&mut self, at: u64, len: usize, checksum: usize) {
        self.put(at + checksum as u64, &[0; 4]);
        let sum: u32 = self.bytes(at, len).iter().map(|byte| u32::from(*byte)).sum();
        self.put(at + checksum as u64, &(!sum).to_be_bytes());
    }

    /// Give a structure of a VHDX its checksum.
    pub fn crc(&mut self, at: u64, len: usize) {
        self.put(at + 4, &[0; 4]);
        let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        crc.update(&self.bytes(at, len));
        self.put(at + 4, &(crc.finalize() as u32).to_le_bytes());
    }

    /// The checksums of the log's entries in the first MiB behind the headers.
    pub fn log_crcs(&mut self) {
        for at in (1 << 20..2 << 20).step_by(4096) {
            let header = self.bytes(at, 12);
            if let [b'l', b'o', b'g', b'e', .., a, b, c, d] = header[..] {
                let len = u32::from_le_bytes([a, b, c, d]) as usize;
                if (64..=64 << 10).contains(&len) {
                    self.crc(at, len);
                }
            }
        }
    }

    /// Open it, and do what a reader would.
    pub fn walk(self, format: Format) {
        let file: Arc<dyn ReadAt> = Arc::new(self);
        let Ok(opened) = images::open_one(&file, Some(format), &Alone) else { return };
        let Ok(disk) = Disk::new(vec![opened.layer], opened.info.block_sizes) else { return };
        let mut buffer = vec![0; 256 << 10];
        let _ = disk.read_at(&mut buffer, 0);
        let end = disk.size().saturating_sub(buffer.len() as u64 / 2);
        let _ = disk.read_at(&mut buffer, end);
        let mut at = 0;
        for _ in 0..1000 {
            match disk.layer_at(at, 1 << 30) {
                Ok((len, _)) => at += len,
                Err(_) => at += 1 << 20,
            }
            if at >= disk.size() {
                break;
            }
        }
    }
}

impl ReadAt for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = buf.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let (mut rest, mut at) = (&mut buf[..n], offset);
        while !rest.is_empty() {
            let from = at as usize % SECTOR;
            let len = rest.len().min(SECTOR - from);
            let (dest, tail) = rest.split_at_mut(len);
            match self.sectors.get(&(at / SECTOR as u64)) {
                Some(sector) => dest.copy_from_slice(&sector[from..from + len]),
                None => dest.fill(0),
            }
            at += len as u64;
            rest = tail;
        }
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.size).then_some(Extent { range: offset..self.size, kind: ExtentKind::Data }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}
