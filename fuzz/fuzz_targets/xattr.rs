//! Fuzzes an extended-attributes record.
//!
//!     cargo xtask fuzz xattr

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = volreader::xattr::parse(data);
});
