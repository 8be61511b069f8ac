//! Fuzzes a job's table as it lies in the cache folder.
//!
//!     cargo xtask fuzz index_table

#![no_main]

use std::{fs::File, io::Write, ops::ControlFlow, sync::Arc};

use volreader::index::{entry::DirId, table::Table};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let memory = rustix::fs::memfd_create("table", rustix::fs::MemfdFlags::empty()).expect("memory");
    let mut file = File::from(memory);
    file.write_all(data).expect("room in memory");
    let Ok(table) = Table::open(Arc::new(file), 0, data.len() as u64) else { return };
    let _ = table.checksum();
    for number in (0..8).chain([u32::MAX]) {
        let dir = DirId(number);
        let _ = table.own(dir);
        let _ = table.entry(number);
        let _ = table.lookup(dir, b"name");
        let _ = table.by_file_index(number);
        let mut left = 1000;
        let _ = table.list(dir, number % 3, &mut |_, _| {
            left -= 1;
            if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }
});
