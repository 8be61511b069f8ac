//! File digests: which algorithms Bacula stores, and computing them.

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
