//! Fuzzes the key file of an encrypted volume.
//!
//!     cargo xtask fuzz volume_key

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = volreader::crypto::volume::VolumeKey::parse(data);
});
