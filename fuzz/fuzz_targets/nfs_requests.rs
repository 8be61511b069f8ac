//! Fuzzes the NFS server: records, heads of calls, and the arguments of every procedure.
//!
//! The first byte is the form. With 0 the rest is what a client sends, as it is: the seeds are recorded traffic of stock
//! clients with the same tree. Otherwise the rest is split into calls, each a program, a procedure, a length and arguments,
//! so that the fuzzer need not find the heads. With an odd first byte they go to a read-only tree, with an even one to a
//! datastore that they may change; handles in the arguments then are the first ones of that datastore where they begin with
//! a byte below 4: the root, the descriptor, the disk, a folder.
//!
//!     cargo xtask fuzz nfs_requests

#![no_main]

#[path = "../../exporters/tests/common/tree.rs"]
mod tree;

use std::{
    io::{self, IoSlice},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use blockdev::{BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, containers::Kind};
use exporters::nfs::{Clients, Config, Export, ExportOptions, Limits, Transport, serve};
use vfs::{
    node::{Node, SetAttributes},
    providers::datastore::{Datastore, Device, DiskSource, Settings},
};

/// The disk of the datastore.
struct Disk(Vec<u8>);

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> blockdev::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64) -> blockdev::Result<Option<Extent>> {
        self.0.extent_at(offset)
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

/// A datastore that goes with this.
struct Store {
    folder: PathBuf,
    datastore: Option<Datastore>,
}

impl Store {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("nfs-fuzz.{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let device = Device::Backup(Arc::new(Disk(vec![7; 1 << 16])));
        let disk = DiskSource { name: "disk0".into(), identity: b"disk".to_vec(), device };
        let mut settings = Settings::new(Kind::VmdkVmfs);
        (settings.overlay_quota, settings.files_quota) = (Some(1 << 20), Some(1 << 20));
        let datastore = Datastore::open(&folder, &[disk], &settings).unwrap();
        let Node::Dir(root) = datastore.root() else { unreachable!() };
        root.writable().unwrap().make_dir(b"folder", &SetAttributes::default()).unwrap();
        Self { folder, datastore: Some(datastore) }
    }

    fn root(&self) -> Node {
        self.datastore.as_ref().unwrap().root()
    }

    /// Handles of its first nodes (see `handle.rs`: nothing of a datastore is on a trail).
    fn handles(&self) -> Vec<Vec<u8>> {
        let Node::Dir(root) = self.root() else { unreachable!() };
        let ino = |node: &dyn vfs::node::Inode| node.attributes().unwrap().ino;
        let own = ino(root.as_ref());
        let child = |name: &[u8]| ino(root.lookup(name).unwrap().unwrap().inode());
        let all = [own, child(b"disk0.vmdk"), child(b"disk0-flat.vmdk"), child(b"folder")];
        all.iter().map(|ino| [&[1, 0][..], &own.to_be_bytes(), &ino.to_be_bytes()].concat()).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.datastore = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A client that says what the fuzzer makes up, and checks that it is told whole records.
struct Client {
    said: Mutex<Vec<u8>>,
    told: Mutex<Vec<u8>>,
}

impl Transport for Client {
    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.said.lock().unwrap();
        let n = buf.len().min(bytes.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        bytes.drain(..n);
        Ok(n)
    }

    fn send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut told = self.told.lock().unwrap();
        bytes.iter().for_each(|part| told.extend_from_slice(part));
        while let Some((mark, rest)) = told.split_first_chunk::<4>() {
            let mark = u32::from_be_bytes(*mark);
            assert!(mark & 1 << 31 != 0 && mark % 4 == 0, "a reply is one fragment of whole words");
            let len = (mark & !(1 << 31)) as usize;
            assert!(len <= (1 << 16) + 256, "a reply of {len} bytes");
            let Some(rest) = rest.get(len..) else { break };
            *told = rest.to_vec();
        }
        Ok(bytes.iter().map(|part| part.len()).sum())
    }

    fn set_deadline(&self, _: Option<Instant>) {}

    fn close(&self) {
        assert!(self.told.lock().unwrap().is_empty(), "half a reply");
    }
}

fn calls(mut data: &[u8], handles: &[Vec<u8>]) -> Vec<u8> {
    let mut said = Vec::new();
    while let Some((&[program, procedure, len], rest)) = data.split_first_chunk::<3>() {
        let len = usize::from(len).min(rest.len());
        let (arguments, rest) = rest.split_at(len);
        data = rest;
        let (program, version) = [(100_003_u32, 3_u32), (100_005, 3), (100_000, 2)][usize::from(program % 3)];
        let mut call = Vec::new();
        // Who calls is root: there is nobody's padding to find.
        for word in [1, 0, 2, program, version, u32::from(procedure % 23), 1, 20, 0, 0, 0, 0, 0, 0, 0] {
            call.extend(word.to_be_bytes());
        }
        match arguments.split_first() {
            // A handle that is one, and then whatever comes.
            Some((&number, rest)) if usize::from(number) < handles.len() => {
                let handle = &handles[usize::from(number)];
                call.extend((handle.len() as u32).to_be_bytes());
                call.extend_from_slice(handle);
                call.resize(call.len().next_multiple_of(4), 0);
                call.extend_from_slice(rest);
            }
            _ => call.extend_from_slice(arguments),
        }
        said.extend((call.len() as u32 | 1 << 31).to_be_bytes());
        said.extend(call);
    }
    said
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&form, rest)) = data.split_first() else { return };
    let store = (form > 0 && form % 2 == 0).then(Store::new);
    let handles = store.as_ref().map(Store::handles).unwrap_or_default();
    let said = if form == 0 { rest.to_vec() } else { calls(rest, &handles) };
    let limits = Limits {
        in_flight: 1,
        read: 1 << 16,
        write: 1 << 16,
        listing: 1 << 16,
        stall: Duration::from_secs(1),
        ..Limits::default()
    };
    let config = Config { limits, clients: Clients::default() };
    let root = store.as_ref().map_or_else(tree::sample, Store::root);
    let options = ExportOptions { writable: store.is_some(), ..ExportOptions::default() };
    let export = Export::new(root, options).unwrap();
    let client = Client { said: Mutex::new(said), told: Mutex::new(Vec::new()) };
    let _ = serve(config, export, &client);
});
