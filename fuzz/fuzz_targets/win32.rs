//! Fuzzes BackupRead data, fed in pieces of changing size.
//!
//!     cargo xtask fuzz win32

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut demuxer = volreader::codec::win32::Demuxer::new();
    let mut rest = data;
    let mut size = 1;
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(size.min(rest.len()));
        if demuxer.feed(piece, |_| {}).is_err() {
            return;
        }
        rest = left;
        size = size % 61 + 7;
    }
    let _ = demuxer.finish();
});
