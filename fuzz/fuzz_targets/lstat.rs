//! Fuzzes the stat text of an attributes record and of the catalog.
//!
//!     cargo xtask fuzz lstat

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = volreader::attributes::Stat::parse(data);
});
