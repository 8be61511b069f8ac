//! Fuzzes an encrypted session record, with a key at hand.
//!
//!     cargo xtask fuzz pki_session

#![no_main]

use std::sync::LazyLock;

use volreader::crypto::pki::KeyRing;

static RING: LazyLock<KeyRing> = LazyLock::new(|| {
    let mut ring = KeyRing::new();
    ring.add_pem(include_bytes!("../../tests/data/bacula/pki-gzip/keys/fd.pem")).expect("a key of the test data");
    ring
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = RING.session_key(data);
});
