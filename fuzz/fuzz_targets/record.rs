//! Fuzzes record headers, one after the other.
//!
//!     cargo xtask fuzz record

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Some(_header) = volreader::record::Header::parse(rest) {
        rest = rest.get(12..).unwrap_or_default();
    }
});
