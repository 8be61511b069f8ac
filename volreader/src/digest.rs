//! File digests: which algorithms Bacula stores, and computing them.
//!
//! A digest covers the bytes the File daemon read, in record order, before compression and encryption; what a
//! sparse backup skipped is not covered (format reference, section 7). MD5 and SHA values are stored as is,
//! the XXH family in its canonical form, big-endian.

use std::fmt;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use xxhash_rust::{xxh3::Xxh3, xxh64::Xxh64};

/// A digest algorithm, by the stream that carries its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// MD5, stream 3.
    Md5,
    /// SHA-1, stream 10.
    Sha1,
    /// SHA-256, stream 17.
    Sha256,
    /// SHA-512, stream 18.
    Sha512,
    /// XXH64, stream 39.
    Xxh64,
    /// XXH3 with 64 bits, stream 40.
    Xxh3_64,
    /// XXH3 with 128 bits, stream 41.
    Xxh3_128,
}

impl Algorithm {
    /// The algorithm whose values stream `number` carries.
    #[must_use]
    pub const fn from_stream(number: u16) -> Option<Self> {
        Some(match number {
            3 => Self::Md5,
            10 => Self::Sha1,
            17 => Self::Sha256,
            18 => Self::Sha512,
            39 => Self::Xxh64,
            40 => Self::Xxh3_64,
            41 => Self::Xxh3_128,
            _ => return None,
        })
    }

    /// Length of a value in bytes.
    #[must_use]
    pub const fn value_len(self) -> usize {
        match self {
            Self::Md5 | Self::Xxh3_128 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Xxh64 | Self::Xxh3_64 => 8,
        }
    }

    /// Its usual name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
            Self::Xxh64 => "XXH64",
            Self::Xxh3_64 => "XXH3-64",
            Self::Xxh3_128 => "XXH3-128",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Computes one digest from bytes fed in order.
#[derive(Clone)]
pub struct Hasher(State);

/// The XXH3 states are half a kilobyte, the others less than half of that.
#[derive(Clone)]
enum State {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
    Xxh64(Xxh64),
    Xxh3_64(Box<Xxh3>),
    Xxh3_128(Box<Xxh3>),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Md5 => State::Md5(Md5::new()),
            Algorithm::Sha1 => State::Sha1(Sha1::new()),
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
            Algorithm::Xxh64 => State::Xxh64(Xxh64::new(0)),
            Algorithm::Xxh3_64 => State::Xxh3_64(Box::new(Xxh3::new())),
            Algorithm::Xxh3_128 => State::Xxh3_128(Box::new(Xxh3::new())),
        })
    }

    /// Take in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Xxh64(state) => state.update(bytes),
            State::Xxh3_64(state) | State::Xxh3_128(state) => state.update(bytes),
        }
    }

    /// The value in the form Bacula stores it, [`Algorithm::value_len`] bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            State::Md5(state) => state.finalize().to_vec(),
            State::Sha1(state) => state.finalize().to_vec(),
            State::Sha256(state) => state.finalize().to_vec(),
            State::Sha512(state) => state.finalize().to_vec(),
            State::Xxh64(state) => state.digest().to_be_bytes().to_vec(),
            State::Xxh3_64(state) => state.digest().to_be_bytes().to_vec(),
            State::Xxh3_128(state) => state.digest128().to_be_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Values of the empty input and of "abc": RFC 1321, FIPS 180-4, and the xxhsum program.
    #[test]
    fn published_values() {
        for (algorithm, empty, abc) in [
            (Algorithm::Md5, "d41d8cd98f00b204e9800998ecf8427e", "900150983cd24fb0d6963f7d28e17f72"),
            (Algorithm::Sha1, "da39a3ee5e6b4b0d3255bfef95601890afd80709", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                Algorithm::Sha256,
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (Algorithm::Xxh64, "ef46db3751d8e999", "44bc2cf5ad770999"),
            (Algorithm::Xxh3_64, "2d06800538d394c2", "78af5f94892f3950"),
            (Algorithm::Xxh3_128, "99aa06d3014798d86001c324468d497f", "06b05ab6733a618578af5f94892f3950"),
        ] {
            let mut hasher = Hasher::new(algorithm);
            assert_eq!(hex(&hasher.clone().finish()), empty, "{algorithm}");
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hex(&hasher.finish()), abc, "{algorithm}");
        }
    }

    #[test]
    fn stated_lengths_are_true() {
        for algorithm in (0..2048).filter_map(Algorithm::from_stream) {
            assert_eq!(Hasher::new(algorithm).finish().len(), algorithm.value_len(), "{algorithm}");
        }
    }
}
