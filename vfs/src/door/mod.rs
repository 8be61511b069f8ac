//! What doors have in common, whatever protocol they speak: listing in pages, finding a node by its number, whole reads,
//! permissions, and telling about failures without flooding.

mod access;
mod listing;
mod places;
mod report;
mod unicode;

use blockdev::{Error, ReadAt, Result};

pub use access::{EXECUTE, Identity, READ, WRITE, permissions};
pub use listing::{AFTER_DOT, AFTER_DOTDOT, Found, More, names, nodes};
pub use places::{Place, Places, TRAIL_MAX, Trail};
pub use report::Report;
pub use unicode::unicode;

use crate::node::{Attributes, Dir, Node};

/// What a door tells about the whole tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
}

/// The child of `dir` called `name`, with its attributes.
///
/// # Errors
///
/// When the directory or the attributes cannot be read.
pub fn look_up(dir: &dyn Dir, name: &[u8]) -> Result<Option<(Node, Attributes)>> {
    let Some(node) = dir.lookup(name)? else { return Ok(None) };
    let attributes = node.inode().attributes()?;
    numbered(attributes.ino)?;
    Ok(Some((node, attributes)))
}

/// Whether a node that is not the tree's root may have the inode number `ino`.
fn numbered(ino: u64) -> Result<()> {
    // FUSE reserves 0 (no such entry) and 1 (the root).
    if ino > 1 { Ok(()) } else { Err(Error::damaged(format!("a node below the root has the inode number {ino}"))) }
}

/// Bytes that a read of `len` bytes at `offset` gives: fewer at the end of the content.
#[must_use]
pub fn readable(content: &dyn ReadAt, offset: u64, len: usize) -> usize {
    len.min(usize::try_from(content.size().saturating_sub(offset)).unwrap_or(usize::MAX))
}

/// Fill `buf`, which does not reach past the end of the content.
///
/// # Errors
///
/// When a byte cannot be read. A short read is an error, too: clients would take it for the end of the file, for good.
pub fn read_whole(content: &dyn ReadAt, buf: &mut [u8], offset: u64) -> Result<()> {
    let n = content.read_at(buf, offset)?;
    if n == buf.len() {
        return Ok(());
    }
    Err(Error::damaged(format!(
        "a read of {} bytes at {offset} gave {n} although the file has {}",
        buf.len(),
        content.size()
    )))
}
