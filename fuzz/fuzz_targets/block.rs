//! Fuzzes a block header and its checksum.
//!
//!     cargo xtask fuzz block

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(header) = volreader::block::Header::parse(data) {
        let _ = volreader::block::checksum::verify(&header, &[data]);
    }
});
