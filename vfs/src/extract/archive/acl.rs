//! POSIX ACLs as text: what tar keeps (`SCHILY.acl.access`), made of the kernel's form (`system.posix_acl_access`).

use blockdev::fields::{le16, le32};

/// The version of the kernel's form.
const VERSION: u32 = 2;

/// The text of `value`, as acl(5) has the short form, with numbers for users and groups; `None` when it is no ACL.
pub(super) fn text(value: &[u8]) -> Option<String> {
    let (entries, []) = value.get(4..)?.as_chunks::<8>() else { return None };
    if le32(value, 0) != VERSION {
        return None;
    }
    let mut lines = Vec::with_capacity(entries.len());
    for entry in entries {
        let (tag, rights, id) = (le16(entry, 0), le16(entry, 2), le32(entry, 4));
        let right = |bit: u16, letter: char| if rights & bit != 0 { letter } else { '-' };
        let rights: String = [right(4, 'r'), right(2, 'w'), right(1, 'x')].iter().collect();
        lines.push(match tag {
            0x01 => format!("user::{rights}"),
            0x02 => format!("user:{id}:{rights}"),
            0x04 => format!("group::{rights}"),
            0x08 => format!("group:{id}:{rights}"),
            0x10 => format!("mask::{rights}"),
            0x20 => format!("other::{rights}"),
            _ => return None,
        });
    }
    Some(lines.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acls_become_text() {
        let entry = |tag: u16, rights: u16, id: u32| {
            [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let value = [
            &2_u32.to_le_bytes()[..],
            &entry(1, 6, u32::MAX),
            &entry(2, 7, 1000),
            &entry(4, 4, u32::MAX),
            &entry(16, 5, u32::MAX),
            &entry(32, 0, u32::MAX),
        ]
        .concat();
        assert_eq!(text(&value).unwrap(), "user::rw-,user:1000:rwx,group::r--,mask::r-x,other::---");
        assert_eq!(text(&value[..value.len() - 1]), None);
        assert_eq!(text(&[1, 0, 0, 0]), None);
        assert_eq!(text(&[&2_u32.to_le_bytes()[..], &entry(3, 0, 0)].concat()), None);
        assert_eq!(text(b""), None);
    }
}
