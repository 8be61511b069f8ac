//! Fuzzes the payload of a volume label.
//!
//!     cargo xtask fuzz volume_label

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = volreader::label::VolumeLabel::parse(data);
});
