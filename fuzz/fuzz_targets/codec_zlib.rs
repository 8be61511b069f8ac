//! Fuzzes a piece of a zlib stream.
//!
//!     cargo xtask fuzz codec_zlib

#![no_main]

use volreader::stream::Compression;

/// A piece of content decodes to no more than this in Revenant, either.
const LIMIT: usize = 1 << 20;

fn decode(kind: Compression, data: &[u8]) {
    let mut output = Vec::new();
    if volreader::codec::decode(kind, data, &mut output, LIMIT).is_ok() {
        assert!(output.len() <= LIMIT);
    } else {
        assert!(output.is_empty());
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    decode(Compression::Zlib, data);
});
