//! A client and a disk in memory, for the fuzz targets of the NBD server.

use std::{
    io::{self, IoSlice},
    ops::Range,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Instant,
};

use blockdev::{BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result, WriteAt};
use exporters::nbd::{ChangedBlocks, ChangedRun, Disk, Export, Exports, Limits, Negotiation, Outcome, Transport};

/// A client that says what the fuzzer makes up, and takes whatever it is told.
struct Client(Mutex<Vec<u8>>);

impl Transport for Client {
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.0.lock().unwrap();
        let n = buf.len().min(bytes.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        bytes.drain(..n);
        Ok(n)
    }

    fn send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(bytes.iter().map(|part| part.len()).sum())
    }

    fn set_deadline(&self, _: Option<Instant>) {}

    fn close(&self) {}
}

/// A disk that notices when it is asked for what it does not have. Every second 4 KiB is a hole.
struct Strict(u64);

impl Strict {
    fn check(&self, range: &Range<u64>) {
        assert!(range.start <= range.end && range.end <= self.0, "{range:?} of {}", self.0);
    }
}

impl ReadAt for Strict {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.check(&(offset..offset + buf.len() as u64));
        buf.fill(7);
        Ok(buf.len())
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let end = ((offset / 4096 + 1) * 4096).min(self.0);
        let kind = if offset / 4096 % 2 == 0 { ExtentKind::Data } else { ExtentKind::Hole };
        Ok((offset < self.0).then_some(Extent { range: offset..end, kind }))
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Strict {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

impl WriteAt for Strict {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check(&(offset..offset + buf.len() as u64));
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, _: bool) -> Result<()> {
        self.check(&range);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.check(&range);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

impl ChangedBlocks for Strict {
    fn run_at(&self, offset: u64) -> Result<ChangedRun> {
        Ok(ChangedRun { len: offset % 700, changed: offset % 3 == 0 })
    }
}

/// Let the server hear `said`.
pub fn run(said: Vec<u8>) {
    let exports = Exports::new();
    let mut default = Export::new("", Disk::Writable(Arc::new(Strict(1 << 20))));
    default.changed.push(("bitmap".into(), Arc::new(Strict(0))));
    exports.insert(default).unwrap();
    exports.insert(Export::new("odd", Disk::ReadOnly(Arc::new(Strict(4097))))).unwrap();
    let limits = Limits { request: 1 << 20, in_flight: 1, ..Limits::default() };
    let draining = AtomicBool::new(false);
    let negotiation = Negotiation { exports: &exports, tls: None, limits: &limits, draining: &draining };
    if let Ok(Outcome::Agreed(agreement)) = negotiation.run(Arc::new(Client(Mutex::new(said)))) {
        let _ = exporters::nbd::serve(*agreement, &limits, &draining);
    }
}
