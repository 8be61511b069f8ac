//! Fuzzes the payload of a start or end label of a session.
//!
//!     cargo xtask fuzz session_label

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for end in [false, true] {
        let _ = volreader::label::SessionLabel::parse(data, end);
    }
});
