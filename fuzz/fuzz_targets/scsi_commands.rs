//! Fuzzes SCSI commands of two initiators: CDBs and parameter lists, without the transport.
//!
//! Each record is a byte of choices, a CDB of 16 bytes, a length and that many bytes of data, of which the last is
//! repeated as far as the command wants more.
//!
//!     cargo xtask fuzz scsi_commands

#![no_main]

#[path = "nbd_client/disk.rs"]
mod disk;

use std::sync::Arc;

use exporters::{
    Disk,
    scsi::{Cdb, LogicalUnit, Options},
};

const PORTS: [&str; 2] = ["iqn.2026-01.example:a,i,0x000000000001", "iqn.2026-01.example:b,i,0x000000000002"];
/// More than this no command of the fuzzer gets to write.
const MOST: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let size = 1 << 20;
    let writable = LogicalUnit::new(Disk::Writable(Arc::new(disk::Strict(size))), Options::default()).unwrap();
    let read_only = LogicalUnit::new(Disk::ReadOnly(Arc::new(disk::Strict(size))), Options::default()).unwrap();
    let mut data = data;
    while let Some((&choice, rest)) = data.split_first() {
        let Some((cdb, rest)) = rest.split_first_chunk::<16>() else { return };
        let (len, rest) = rest.split_first().map_or((0, rest), |(len, rest)| (usize::from(*len), rest));
        let (list, rest) = rest.split_at(len.min(rest.len()));
        data = rest;
        let port = PORTS[usize::from(choice & 1)];
        let unit = if choice & 2 == 0 { &writable } else { &read_only };
        let Ok(command) = unit.begin(port, &Cdb(*cdb)) else { continue };
        if let Some(range) = command.reads() {
            assert!(range.start <= range.end && range.end <= size, "{range:?}");
            let mut buf = vec![0; (range.end - range.start) as usize];
            let _ = unit.read(&mut buf, range.start);
        }
        let wants = command.wants(unit.block_size());
        assert!(wants <= 64 << 20, "{wants} bytes are wanted");
        if wants > MOST {
            continue;
        }
        let mut bytes = list.to_vec();
        bytes.resize(wants.max(list.len()), list.last().copied().unwrap_or(0));
        let _ = unit.finish(port, command, &bytes);
    }
});
