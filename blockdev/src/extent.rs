//! Runs of data and of zeros in a device or file.

use std::ops::Range;

/// What a run of bytes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Bytes that are stored.
    Data,
    /// Zeros that are not stored.
    Hole,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Byte offsets, half open.
    pub range: Range<u64>,
    /// What they hold.
    pub kind: ExtentKind,
}
