//! File handles: what a client keeps of a node, for as long as it likes.
//!
//! A version, the length of the trail, the number of the export's root, the number of the node, its trail. Nothing of it
//! is secret: who may connect may see the export, and nothing that is not below its root can be found.

use vfs::door::{Place, TRAIL_MAX, Trail};

use super::protocol::{HANDLE_MAX, Status};

const VERSION: u8 = 1;
const FIXED: usize = 2 + 8 + 8;
const _: () = assert!(FIXED + 2 * TRAIL_MAX <= HANDLE_MAX);

/// A file handle.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handle {
    /// The number of the export's root.
    pub(super) root: u64,
    /// The number of the node.
    pub(super) ino: u64,
    pub(super) trail: Trail,
}

impl Handle {
    /// That of `place` in the export whose root is `root`.
    pub(super) fn of(root: u64, place: &Place) -> Self {
        Self { root, ino: place.ino(), trail: place.trail() }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let marks = self.trail.marks();
        let mut bytes = vec![VERSION, u8::try_from(marks.len()).unwrap_or(0)];
        bytes.extend_from_slice(&self.root.to_be_bytes());
        bytes.extend_from_slice(&self.ino.to_be_bytes());
        bytes.extend(marks.iter().flat_map(|mark| mark.to_be_bytes()));
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Status> {
        let (&[VERSION, len], rest) = bytes.split_first_chunk::<2>().ok_or(Status::BadHandle)? else {
            return Err(Status::BadHandle);
        };
        let (root, rest) = rest.split_first_chunk::<8>().ok_or(Status::BadHandle)?;
        let (ino, rest) = rest.split_first_chunk::<8>().ok_or(Status::BadHandle)?;
        let (marks, odd) = rest.as_chunks::<2>();
        if !odd.is_empty() || marks.len() != usize::from(len) {
            return Err(Status::BadHandle);
        }
        let trail = Trail::new(marks.iter().map(|mark| u16::from_be_bytes(*mark))).ok_or(Status::BadHandle)?;
        Ok(Self { root: u64::from_be_bytes(*root), ino: u64::from_be_bytes(*ino), trail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_as_written() {
        for len in [0, 1, TRAIL_MAX] {
            let handle = Handle { root: 1, ino: u64::MAX - 3, trail: Trail::new((0..len).map(|n| n as u16)).unwrap() };
            let bytes = handle.to_bytes();
            assert!(bytes.len() <= HANDLE_MAX);
            assert_eq!(Handle::parse(&bytes), Ok(handle));
            for end in 0..bytes.len() {
                assert_eq!(Handle::parse(&bytes[..end]), Err(Status::BadHandle));
            }
        }
        assert_eq!(Handle::parse(&[VERSION, 255]), Err(Status::BadHandle));
    }
}
