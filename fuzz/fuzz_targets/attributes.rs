//! Fuzzes an attributes record.
//!
//!     cargo xtask fuzz attributes

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = volreader::attributes::Record::parse(data);
});
