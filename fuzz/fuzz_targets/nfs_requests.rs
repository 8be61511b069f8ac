//! Fuzzes the NFS server: records, heads of calls, and the arguments of every procedure.
//!
//! The first byte is the form. With 0 the rest is what a client sends, as it is: the seeds are recorded traffic of stock
//! clients with the same tree. Otherwise the rest is split into calls, each a program, a procedure, a length and arguments,
//! so that the fuzzer need not find the heads.
//!
//!     cargo xtask fuzz nfs_requests

#![no_main]

#[path = "../../exporters/tests/common/tree.rs"]
mod tree;

use std::{
    io::{self, IoSlice},
    sync::Mutex,
    time::{Duration, Instant},
};

use exporters::nfs::{Clients, Config, Export, ExportOptions, Limits, Transport, serve};

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

fn calls(mut data: &[u8]) -> Vec<u8> {
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
        call.extend_from_slice(arguments);
        said.extend((call.len() as u32 | 1 << 31).to_be_bytes());
        said.extend(call);
    }
    said
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&form, rest)) = data.split_first() else { return };
    let said = if form == 0 { rest.to_vec() } else { calls(rest) };
    let limits = Limits { in_flight: 1, read: 1 << 16, listing: 1 << 16, stall: Duration::from_secs(1), ..Limits::default() };
    let config = Config { limits, clients: Clients::default() };
    let export = Export::new(tree::sample(), ExportOptions::default()).unwrap();
    let client = Client { said: Mutex::new(said), told: Mutex::new(Vec::new()) };
    let _ = serve(config, export, &client);
});
