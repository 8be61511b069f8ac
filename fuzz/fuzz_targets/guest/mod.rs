//! What the targets of the guest filesystems share: a small real image, changed as the fuzzer says, opened and walked.
//!
//! The input is a list of changes: an offset of three bytes in units of the fuzzer's choice (two bits choose 1, 16, 512 or
//! 4096), a length below 64, and so many bytes. Checksums would keep the fuzzer out: built with `--cfg fuzzing`, `guestfs`
//! computes them and does not compare.

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::{
    BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result,
    images::{Disk, Units},
    partitions,
};
use guestfs::{FileSystem, Kind};

/// Entries looked at in one run.
const ENTRIES_MAX: usize = 64;

struct Changed {
    base: &'static [u8],
    changes: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for Changed {
    fn size(&self) -> u64 {
        self.base.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let Some(rest) = usize::try_from(offset).ok().and_then(|at| self.base.get(at..)) else { return Ok(0) };
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        for (at, bytes) in &self.changes {
            for (place, byte) in (*at..).zip(bytes) {
                if (offset..offset + n as u64).contains(&place) {
                    buf[(place - offset) as usize] = *byte;
                }
            }
        }
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let size = self.size();
        Ok((offset < size).then_some(Extent { range: offset..size, kind: ExtentKind::Data }))
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Changed {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

/// Opens the packed image `image` (`IMAGE` keeps it unpacked) with the changes in `data`, and walks it.
pub fn run(unpacked: &'static OnceLock<Vec<u8>>, image: &'static [u8], mut data: &[u8]) {
    let base = unpacked.get_or_init(|| zstd::decode_all(image).unwrap());
    let mut changes = Vec::new();
    while let Some((head, rest)) = data.split_first_chunk::<4>() {
        let unit = [1, 16, 512, 4096][usize::from(head[3] >> 6)];
        let at = u64::from(u32::from_le_bytes([head[0], head[1], head[2], 0])) * unit % base.len() as u64;
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(head[3] & 63)));
        changes.push((at, bytes.to_vec()));
        data = rest;
    }
    let disk: Arc<dyn BlockDevice> = Arc::new(Changed { base, changes });
    let survey = partitions::survey(&[("disk0".to_owned(), disk)]);
    for found in guestfs::find(&survey.volumes) {
        if let Ok(fs) = found.open() {
            walk(fs.as_ref());
        }
    }
}

fn walk(fs: &dyn FileSystem) {
    let _ = fs.usage();
    let (mut todo, mut seen) = (vec![fs.root()], 0);
    while let Some(dir) = todo.pop() {
        let mut entries = Vec::new();
        let _ = fs.list(dir, 0, &mut |entry| {
            entries.push(entry);
            if entries.len() < ENTRIES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        for entry in entries {
            seen += 1;
            if seen > ENTRIES_MAX {
                return;
            }
            let _ = fs.lookup(dir, &entry.name);
            let _ = fs.metadata(entry.id);
            let _ = fs.xattrs(entry.id);
            for stream in fs.streams(entry.id).unwrap_or_default() {
                read(fs.stream(entry.id, &stream.name));
            }
            match entry.kind {
                Kind::Dir => todo.push(entry.id),
                Kind::Symlink => drop(fs.link_target(entry.id)),
                _ => read(fs.content(entry.id)),
            }
        }
    }
}

fn read(content: Result<Arc<dyn blockdev::images::layer::Layer>>) {
    let Ok(content) = content else { return };
    let Ok(file) = Disk::sharing(vec![content], BlockSizes::CLASSIC, Arc::new(Units::default())) else { return };
    let mut buf = vec![0; 64 << 10];
    let _ = file.read_at(&mut buf, 0);
    let _ = file.read_at(&mut buf, file.size().saturating_sub(4096));
}
