//! What the tests of the exporters share: disks in memory, a server on a socket, and the tools that they talk with.
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    ops::Range,
    path::PathBuf,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use blockdev::{BlockDevice, BlockSizes, Error, Extent, ExtentKind, MappedRun, ReadAt, Result, WriteAt};
use exporters::nbd::{ChangedBlocks, ChangedRun, Config, Disk, Export, Exports, Listener, Server};
use parking_lot::RwLock;

/// Extents of a [`Ram`] are whole blocks of this size.
pub const BLOCK: u64 = 4096;

/// A disk in memory. A block of zeros is a hole.
#[derive(Default)]
pub struct Ram {
    pub bytes: RwLock<Vec<u8>>,
    /// Reads that touch this range fail.
    pub bad: Option<Range<u64>>,
    /// How long a read takes.
    pub delay: Duration,
    pub flushes: AtomicU64,
}

impl Ram {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes), ..Self::default() }
    }

    fn block_is_hole(bytes: &[u8], block: u64) -> bool {
        let start = usize::try_from(block * BLOCK).unwrap();
        bytes[start..bytes.len().min(start + BLOCK as usize)].iter().all(|&byte| byte == 0)
    }
}

impl ReadAt for Ram {
    fn size(&self) -> u64 {
        self.bytes.read().len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        std::thread::sleep(self.delay);
        let end = offset + buf.len() as u64;
        if self.bad.as_ref().is_some_and(|bad| bad.start < end && offset < bad.end) {
            return Err(Error::damaged("the test wants this read to fail"));
        }
        self.bytes.read().read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let bytes = self.bytes.read();
        let size = bytes.len() as u64;
        if offset >= size {
            return Ok(None);
        }
        let first = offset / BLOCK;
        let hole = Self::block_is_hole(&bytes, first);
        let last = (first + 1..size.div_ceil(BLOCK)).find(|&block| Self::block_is_hole(&bytes, block) != hole);
        let end = last.map_or(size, |block| block * BLOCK);
        Ok(Some(Extent { range: offset..end, kind: if hole { ExtentKind::Hole } else { ExtentKind::Data } }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Ram {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

impl WriteAt for Ram {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.bytes.write()[start..start + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>, _keep: bool) -> Result<()> {
        self.bytes.write()[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].fill(0);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.write_zeroes(range, false)
    }

    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Changed blocks: every second MiB, beginning with the second.
pub struct EverySecondMegabyte;

impl ChangedBlocks for EverySecondMegabyte {
    fn run_at(&self, offset: u64) -> Result<ChangedRun> {
        Ok(ChangedRun { len: (1 << 20) - offset % (1 << 20), changed: (offset >> 20) % 2 == 1 })
    }
}

/// Bytes that look like nothing, the same each time.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3] | 1
    };
    (0..len).map(step).collect()
}

/// 8 MiB: a MiB of data, a MiB of zeros, and so on, but for a last odd piece of 512 bytes of data.
pub fn checkered() -> Vec<u8> {
    let mut bytes = noise((8 << 20) + 512);
    (0..8)
        .filter(|megabyte| megabyte % 2 == 1)
        .for_each(|megabyte| bytes[megabyte << 20..(megabyte + 1) << 20].fill(0));
    bytes
}

/// A server at a Unix socket in a folder that goes with it.
pub struct Served {
    pub server: Option<Server>,
    pub socket: PathBuf,
    pub folder: tempfile::TempDir,
}

impl Served {
    pub fn new(exports: Vec<Export>) -> Self {
        Self::with(Config::default(), exports)
    }

    pub fn with(config: Config, list: Vec<Export>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd.sock");
        let exports = Exports::new();
        list.into_iter().for_each(|export| exports.insert(export).unwrap());
        let listener = Listener::unix(&socket).unwrap();
        let server = Server::start(config, Arc::new(exports), vec![listener]).unwrap();
        Self { server: Some(server), socket, folder }
    }

    /// The NBD URI of an export.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }
}

pub fn read_only(name: &str, disk: Ram) -> Export {
    Export::new(name, Disk::ReadOnly(Arc::new(disk)))
}

pub fn writable(name: &str, disk: &Arc<Ram>) -> Export {
    Export::new(name, Disk::Writable(disk.clone()))
}

/// Whether a program is installed; a test that needs it is skipped otherwise.
pub fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Run a program, with a limit on its time, and expect success.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = attempt(program, arguments);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
    text
}

/// Run a program with a limit on its time.
pub fn attempt(program: &str, arguments: &[&str]) -> Output {
    Command::new("timeout").arg("120").arg(program).args(arguments).output().unwrap()
}

/// Run Python with libnbd's module, if that is installed. `h` is a handle that is not connected yet, `uri` the address.
pub fn nbdsh(uri: &str, script: &str) {
    // Not whatever Python comes first in PATH: the distribution's has the distribution's module.
    let python = "/usr/bin/python3";
    let has = Command::new(python).args(["-c", "import nbd"]).output().is_ok_and(|output| output.status.success());
    if !has {
        eprintln!("skipped: Debian's python3-libnbd is not installed");
        return;
    }
    let prelude = "import nbd, errno, sys\nuri = sys.argv[1]\nh = nbd.NBD()\n\
        def fails(number, call, *args, **kw):\n    try:\n        call(*args, **kw)\n    except nbd.Error as e:\n        \
        assert e.errnum == number, (e.errnum, number, e.string)\n        return\n    \
        raise AssertionError('no error')\n";
    run(python, &["-c", &format!("{prelude}{script}"), uri]);
}
