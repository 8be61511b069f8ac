//! Fuzzes a PEM file of keys and certificates.
//!
//!     cargo xtask fuzz pki_pem

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = volreader::crypto::pki::KeyRing::new().add_pem(data);
});
