//! Fuzzes the reader of VMDK: a file, and another that is found by whatever name it asks for.
//!
//!     cargo xtask fuzz image_vmdk
//!
//! The input begins with the length of the first file.

#![no_main]

use std::sync::Arc;

use blockdev::{
    ReadAt, Result,
    images::{self, Format, gate::Neighbours},
};

struct Always(Arc<dyn ReadAt>);

impl Neighbours for Always {
    fn find(&self, _name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        Ok(Some(Arc::clone(&self.0)))
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((len, files)) = data.split_first_chunk() else { return };
    let len = (u32::from_le_bytes(*len) as usize).min(files.len());
    let (first, other) = files.split_at(len);
    let neighbours = Always(Arc::new(other.to_vec()));
    let Ok(image) = images::open("disk.vmdk", Arc::new(first.to_vec()), Some(Format::Vmdk), &neighbours) else { return };
    let disk = image.disk;
    let mut buffer = [0; 128 << 10];
    let _ = disk.read_at(&mut buffer, 0);
    let _ = disk.read_at(&mut buffer, disk.size().saturating_sub(64 << 10));
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
    let _ = disk.read_at(&mut buffer[..4096], at.min(disk.size()) / 2);
});
