//! A client and a disk in memory, for the fuzz targets of the NBD server.

mod disk;

use std::{
    io::{self, IoSlice},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Instant,
};

use blockdev::Result;
use disk::Strict;
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
