//! What a user may do with a node, by its owner, mode and POSIX ACL, for doors behind which no kernel decides that.

use blockdev::Result;

use crate::node::{Attributes, Inode, Kind};

/// Permission to read.
pub const READ: u32 = 4;
/// Permission to write.
pub const WRITE: u32 = 2;
/// Permission to execute, and to enter a directory.
pub const EXECUTE: u32 = 1;

/// The attribute that an ACL is stored in, and its layout (Linux, `posix_acl_xattr.h`): a version, and then entries of a
/// tag, permissions and an identifier, little endian.
const ACL: &[u8] = b"system.posix_acl_access";
const ACL_VERSION: u32 = 2;
const TAG_USER: u16 = 0x02;
const TAG_GROUP_OBJ: u16 = 0x04;
const TAG_GROUP: u16 = 0x08;
const TAG_MASK: u16 = 0x10;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The user; 0 may do everything.
    pub uid: u32,
    /// The groups.
    pub gids: &'a [u32],
}

/// What `who` may do with `node`, whose attributes these are: [`READ`], [`WRITE`] and [`EXECUTE`] together.
///
/// # Errors
///
/// When an ACL cannot be read.
pub fn permissions(node: &dyn Inode, attributes: &Attributes, who: Identity<'_>) -> Result<u32> {
    let mode = attributes.permissions;
    if who.uid == 0 {
        let executable = attributes.kind == Kind::Dir || mode & 0o111 != 0;
        return Ok(READ | WRITE | if executable { EXECUTE } else { 0 });
    }
    if who.uid == attributes.uid {
        return Ok(mode >> 6 & 7);
    }
    if attributes.kind != Kind::Symlink
        && let Some(acl) = node.xattrs()?.into_iter().find(|x| x.name == ACL)
    {
        return Ok(by_acl(&acl.value, attributes, who));
    }
    Ok(if who.gids.contains(&attributes.gid) { mode >> 3 & 7 } else { mode & 7 })
}

/// By an ACL, for a user who is not the owner (POSIX 1003.1e draft 17, section 23.1.5). One that cannot be understood
/// allows nothing.
fn by_acl(acl: &[u8], attributes: &Attributes, who: Identity<'_>) -> u32 {
    let Some((version, entries)) = acl.split_first_chunk::<4>() else { return 0 };
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != ACL_VERSION || !rest.is_empty() {
        return 0;
    }
    let (mut user, mut group, mut mask) = (None, None, 7);
    for &[t0, t1, p0, p1, i0, i1, i2, i3] in entries {
        let (tag, bits) = (u16::from_le_bytes([t0, t1]), u32::from(u16::from_le_bytes([p0, p1])) & 7);
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        match tag {
            TAG_USER if id == who.uid => user = Some(bits),
            TAG_GROUP_OBJ if who.gids.contains(&attributes.gid) => group = Some(group.unwrap_or(0) | bits),
            TAG_GROUP if who.gids.contains(&id) => group = Some(group.unwrap_or(0) | bits),
            TAG_MASK => mask = bits,
            _ => {}
        }
    }
    user.or(group).map_or(attributes.permissions & 7, |bits| bits & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Time, Xattr};

    struct Node(Vec<(u16, u16, u32)>);

    impl Inode for Node {
        fn attributes(&self) -> Result<Attributes> {
            let time = Time::default();
            Ok(Attributes { uid: 10, gid: 20, ..Attributes::of_file(2, 0o740, 0, time) })
        }

        fn xattrs(&self) -> Result<Vec<Xattr>> {
            let mut value = ACL_VERSION.to_le_bytes().to_vec();
            for (tag, bits, id) in &self.0 {
                value.extend([&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat());
            }
            let acl = Xattr { name: ACL.to_vec(), value };
            Ok(if self.0.is_empty() { Vec::new() } else { vec![acl] })
        }
    }

    fn may(node: &Node, uid: u32, gids: &[u32]) -> u32 {
        permissions(node, &node.attributes().unwrap(), Identity { uid, gids }).unwrap()
    }

    #[test]
    fn by_mode() {
        let node = Node(Vec::new());
        assert_eq!(
            [may(&node, 10, &[1]), may(&node, 11, &[1, 20]), may(&node, 11, &[1]), may(&node, 0, &[])],
            [7, 4, 0, 7]
        );
    }

    /// The group's bits of the mode are the mask then: they say nothing of the group.
    #[test]
    fn by_access_control_list() {
        let node =
            Node(vec![(1, 7, 0), (TAG_USER, 6, 11), (TAG_GROUP_OBJ, 0, 0), (TAG_GROUP, 5, 30), (TAG_MASK, 4, 0)]);
        assert_eq!(may(&node, 10, &[]), 7);
        assert_eq!(may(&node, 11, &[30]), 4, "a user's entry is masked");
        assert_eq!(may(&node, 12, &[20]), 0, "the owning group");
        assert_eq!(may(&node, 12, &[20, 30]), 4, "one group of two");
        assert_eq!(may(&node, 12, &[1]), 0, "others");
        let broken = Node(vec![(0x7777, 7, 0)]);
        assert_eq!(may(&broken, 12, &[20]), 0);
    }
}
