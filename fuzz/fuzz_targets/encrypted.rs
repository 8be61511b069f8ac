//! Fuzzes the headers of encrypted volumes: LUKS 1 and 2, BitLocker.
//!
//! The first byte chooses the kind. The checksums of what follows are made right first, since they would keep the fuzzer
//! out; the budget is small, so that no input is slow because it asks for much work.
//!
//!     cargo xtask fuzz encrypted

#![no_main]

use std::sync::Arc;

use blockdev::{
    BlockDevice, BlockSizes, ReadAt,
    encrypted::{Budget, Secrets, unlock},
    layers::AsDevice,
    partitions::FsKind,
};
use crc_fast::{CrcAlgorithm, checksum};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

const SIZE: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let mut bytes = vec![0; SIZE];
    let n = data.len().min(SIZE);
    bytes[..n].copy_from_slice(&data[..n]);
    let kind = match kind % 3 {
        0 => FsKind::Luks1,
        1 => {
            bytes[448..512].fill(0);
            let sum = Sha256::digest(&bytes[..0x4000]);
            bytes[448..480].copy_from_slice(&sum);
            FsKind::Luks2
        }
        _ => {
            // A copy of the metadata at 4096.
            bytes[160..176].copy_from_slice(&[59, 214, 103, 73, 41, 46, 216, 74, 131, 153, 246, 163, 57, 227, 208, 1]);
            bytes[176..184].copy_from_slice(&4096_u64.to_le_bytes());
            bytes[11..13].copy_from_slice(&512_u16.to_le_bytes());
            let len = usize::from(u16::from_le_bytes([bytes[4104], bytes[4105]])) << 4;
            let sum = checksum(CrcAlgorithm::Crc32IsoHdlc, &bytes[4096..(4096 + len).min(SIZE - 8)]) as u32;
            let at = (4096 + len).min(SIZE - 8);
            bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
            FsKind::BitLocker
        }
    };
    let device: Arc<dyn BlockDevice> = Arc::new(AsDevice::new(bytes, BlockSizes::CLASSIC));
    if let Ok(open) = unlock(kind, &device, &Secrets::new(vec![b"secret".to_vec()]), &mut Budget::of_milliseconds(50)) {
        let mut buf = vec![0; 10_000];
        for at in [0, 5, open.size() / 2, open.size().saturating_sub(100)] {
            let _ = open.read_at(&mut buf, at);
            let _ = open.extent_at(at);
        }
    }
});
