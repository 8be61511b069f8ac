//! Fuzzes a qcow2 file that comes in front to back: in pieces, without its zeros.
//!
//!     cargo xtask fuzz image_arriving

#![no_main]

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use blockdev::{
    Result,
    images::qcow2::arriving::{Arriving, DiskMap, Receiver, Tables},
};

/// What has come of the tables; the rest is zeros.
#[derive(Default)]
struct Kept(Mutex<Vec<u8>>);

impl Tables for Kept {
    fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut kept = self.0.lock().expect("a lock");
        let at = offset as usize;
        let end = at + bytes.len();
        if kept.len() < end {
            kept.resize(end, 0);
        }
        kept[at..end].copy_from_slice(bytes);
        Ok(())
    }

    fn get(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let kept = self.0.lock().expect("a lock");
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(kept.len());
        let n = buf.len().min(kept.len() - at);
        buf[..n].copy_from_slice(&kept[at..at + n]);
        buf[n..].fill(0);
        Ok(())
    }
}

/// Holds what it is told against the size of the disk.
#[derive(Default)]
struct Checked {
    size: u64,
    data: u64,
}

impl Receiver for Checked {
    fn mapped(&mut self, map: &Arc<DiskMap>) -> Result<()> {
        self.size = map.size();
        map.zeros(&mut |range| {
            assert!(range.start < range.end && range.end <= map.size());
            Ok(())
        })?;
        for offset in [0, map.size() / 2, map.size().saturating_sub(1), map.size()] {
            map.tells(offset, 1 << 20)?;
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= self.size);
        self.data += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, range: Range<u64>) -> Result<()> {
        assert!(range.start < range.end && range.end <= self.size);
        Ok(())
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((piece, file)) = data.split_first() else { return };
    let piece = 512 << (piece % 8);
    let mut coming = Arriving::new(Arc::new(Kept::default()));
    let mut checked = Checked::default();
    for (number, bytes) in file.chunks(piece).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) && coming.take(bytes, (number * piece) as u64, &mut checked).is_err() {
            break;
        }
    }
    assert!(checked.data <= file.len() as u64);
});
