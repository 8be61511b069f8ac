//! Fuzzes the iSCSI server: logins, and what initiators say that got that far.
//!
//! The first byte is the form. With 0 the rest is what an initiator sends, as it is. Otherwise it has logged in, with
//! digests by bit 1 and without asking for data to be requested by bit 2, and the rest is split into PDUs: an operation
//! code, flags, the length of the data, a tag, an expected length and a CDB, so that the fuzzer need not find heads,
//! numbers and digests.
//!
//!     cargo xtask fuzz iscsi_session

#![no_main]

#[path = "nbd_client/disk.rs"]
mod disk;

use std::{
    io::{self, IoSlice},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, Instant},
};

use exporters::{
    Disk,
    iscsi::{Config, Limits, Target, Targets, Transport, serve},
    scsi::{LogicalUnit, Options},
};

const TARGET: &str = "iqn.2026-01.example.test:disk";

/// An initiator that says what the fuzzer makes up, and checks that it is told whole PDUs.
struct Client {
    said: Mutex<Vec<u8>>,
    told: Mutex<Vec<u8>>,
    digests: bool,
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
        while let Some((head, _)) = told.split_first_chunk::<48>() {
            assert!(head[0] & 0x20 != 0, "a target's operation code");
            let len = (u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize).next_multiple_of(4);
            assert!(len <= 1 << 18, "a segment of {len} bytes");
            // A login has none.
            let digests = if self.digests && head[0] != 0x23 { 4 + if len > 0 { 4 } else { 0 } } else { 0 };
            let Some(rest) = told.get(48 + len + digests..) else { break };
            *told = rest.to_vec();
        }
        Ok(bytes.iter().map(|part| part.len()).sum())
    }

    fn set_deadline(&self, _: Option<Instant>) {}

    fn close(&self) {}
}

fn pdu(said: &mut Vec<u8>, head: [u8; 48], data: &[u8], digests: bool) {
    let mut head = head;
    head[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    let digest = |bytes: &[u8]| {
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32;
        if digests { sum.to_le_bytes().to_vec() } else { Vec::new() }
    };
    said.extend_from_slice(&head);
    said.extend(digest(&head));
    let start = said.len();
    said.extend_from_slice(data);
    said.resize(start + data.len().next_multiple_of(4), 0);
    if !data.is_empty() {
        let sum = digest(&said[start..]);
        said.extend(sum);
    }
}

fn session(form: u8, mut data: &[u8]) -> Vec<u8> {
    let digests = form & 2 != 0;
    let mut text = format!("InitiatorName=iqn.2026-01.example.test:fuzz\0TargetName={TARGET}\0");
    if digests {
        text.push_str("HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
    }
    if form & 4 != 0 {
        text.push_str("InitialR2T=No\0");
    }
    let mut said = Vec::new();
    let mut head = [0; 48];
    (head[0], head[1]) = (0x43, 0x87);
    pdu(&mut said, head, text.as_bytes(), false);
    let mut number = 0_u32;
    while let Some((&[opcode, flags, len, tag, expected, skip], rest)) = data.split_first_chunk::<6>() {
        let (cdb, rest) = rest.split_at(rest.len().min(16));
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(len)));
        data = rest;
        let mut head = [0; 48];
        (head[0], head[1], head[19]) = (opcode & 0x7f, flags, tag);
        head[9] = skip >> 7;
        head[22..24].copy_from_slice(&(u16::from(expected) << 4).to_be_bytes());
        head[24..28].copy_from_slice(&number.wrapping_add(u32::from(skip & 3)).to_be_bytes());
        head[32..32 + cdb.len()].copy_from_slice(cdb);
        // Data are answers to the requests that are made, or not.
        if opcode & 0x3f == 5 {
            head[20..24].copy_from_slice(&u32::from(expected).wrapping_sub(1).to_be_bytes());
        } else if opcode & 0x40 == 0 {
            number = number.wrapping_add(1);
        }
        pdu(&mut said, head, bytes, digests);
    }
    said
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&form, rest)) = data.split_first() else { return };
    let said = if form == 0 { rest.to_vec() } else { session(form, rest) };
    let limits = Limits { in_flight: 1, stall: Duration::from_secs(1), ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    let targets = Targets::new();
    let target = targets.insert(Target::new(TARGET).unwrap()).unwrap();
    for (lun, disk) in [Disk::Writable(Arc::new(disk::Strict(1 << 20))), Disk::ReadOnly(Arc::new(disk::Strict(1 << 16)))]
        .into_iter()
        .enumerate()
    {
        target.insert(lun as u16, Arc::new(LogicalUnit::new(disk, Options::default()).unwrap())).unwrap();
    }
    let digests = form != 0 && form & 2 != 0;
    let client: Arc<dyn Transport> = Arc::new(Client { said: Mutex::new(said), told: Mutex::default(), digests });
    let _ = serve(&config, &targets, &client, &AtomicBool::new(false));
    assert!(target.sessions().is_empty(), "a session was left behind");
});
