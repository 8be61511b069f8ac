//! POSIX ACLs: what ext stores has a version and shorter entries than what the kernel gives out.

use blockdev::fields::{le16, le32, slice};

/// The version that is stored, and the one that the kernel gives out.
const STORED_VERSION: u32 = 1;
const GIVEN_VERSION: u32 = 2;
/// The tags of a named user and of a named group, whose entries have an id.
const USER: u16 = 0x02;
const GROUP: u16 = 0x08;
/// The tags of all others: owner, owning group, mask, everybody else.
const WITHOUT_ID: [u16; 4] = [0x01, 0x04, 0x10, 0x20];
/// The id that stands for none.
const NO_ID: u32 = u32::MAX;

/// The ACL `stored` as an extended attribute of the kernel's; none when it cannot be one.
pub fn to_kernel(stored: &[u8]) -> Option<Vec<u8>> {
    if stored.len() < 4 || le32(stored, 0) != STORED_VERSION {
        return None;
    }
    let mut given = GIVEN_VERSION.to_le_bytes().to_vec();
    let mut rest = stored.get(4..)?;
    while !rest.is_empty() {
        let tag = le16(rest, 0);
        let (len, id) = match tag {
            USER | GROUP => (8, le32(rest, 4)),
            _ if WITHOUT_ID.contains(&tag) => (4, NO_ID),
            _ => return None,
        };
        given.extend_from_slice(slice(rest, 0, 4));
        given.extend_from_slice(&id.to_le_bytes());
        rest = rest.get(len..)?;
    }
    Some(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_get_ids() {
        // user::rwx user:1000:r-- group::r-x mask::r-x other::---
        let stored = b"\x01\0\0\0\x01\0\x07\0\x02\0\x04\0\xe8\x03\0\0\x04\0\x05\0\x10\0\x05\0\x20\0\0\0";
        let given = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\
                      \x10\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
        assert_eq!(to_kernel(stored).unwrap(), given);
        assert_eq!(to_kernel(b"\x01\0\0\0").unwrap(), b"\x02\0\0\0");
        for bad in [
            &stored[..stored.len() - 1],
            b"\x02\0\0\0",
            b"\x01\0\0",
            b"\x01\0\0\0\x03\0\0\0",
            b"\x01\0\0\0\x02\0\x04\0",
        ] {
            assert_eq!(to_kernel(bad), None, "{bad:?}");
        }
    }
}
