//! `$EA`: extended attributes as OS/2 had them ([MS-FSCC] 2.4.16). WSL keeps owner, mode and device numbers in them.

use blockdev::{
    Error, Result,
    fields::{le16, le32},
};

use crate::Xattr;

/// The most bytes there can be.
pub const EA_MAX: usize = 64 << 10;

/// Namespaces of Linux. Linux' own driver writes attributes with them.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"system.", b"security.", b"trusted."];

/// What WSL puts before the names of attributes.
const WSL: &[u8] = b"LX.";

/// What Unix needs to know of a file, as far as WSL wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unix {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Type and permissions.
    pub mode: Option<u32>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
}

/// The extended attributes in `value`: what they say to Unix, and the others.
pub fn parse(value: &[u8]) -> Result<(Unix, Vec<Xattr>)> {
    let (mut unix, mut others, mut rest) = (Unix::default(), Vec::new(), value);
    while rest.len() >= 8 {
        let (next, name_len, value_len) = (le32(rest, 0) as usize, rest.get(5).copied(), usize::from(le16(rest, 6)));
        let name_end = 8 + usize::from(name_len.unwrap_or(0));
        let entry = rest.get(8..name_end).zip(rest.get(name_end + 1..name_end + 1 + value_len));
        let Some((name, value)) = entry else {
            return Err(Error::damaged(format!(
                "the extended attribute {} bytes before the end of $EA is cut off",
                rest.len()
            )));
        };
        match name {
            b"$LXUID" => unix.uid = Some(le32(value, 0)),
            b"$LXGID" => unix.gid = Some(le32(value, 0)),
            b"$LXMOD" => unix.mode = Some(le32(value, 0)),
            b"$LXDEV" => unix.device = Some((le32(value, 0), le32(value, 4))),
            name => others.push(Xattr { name: name_of(name), value: value.to_vec() }),
        }
        if next == 0 {
            break;
        }
        // Each is longer than its head: this ends.
        rest = rest.get(next.max(8)..).unwrap_or_default();
    }
    Ok((unix, others))
}

/// As Linux calls it: names that it wrote are as they are; Windows' own become ones of `user.`.
fn name_of(name: &[u8]) -> Vec<u8> {
    let name = name.strip_prefix(WSL).unwrap_or(name);
    let has_namespace = |of: &[u8]| name.get(..of.len()).is_some_and(|start| start.eq_ignore_ascii_case(of));
    match NAMESPACES.iter().find(|namespace| has_namespace(namespace)) {
        // The start may be in capitals: NTFS does not tell them apart.
        Some(namespace) => [namespace, name.get(namespace.len()..).unwrap_or_default()].concat(),
        None => [b"user.", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], value: &[u8], is_last: bool) -> Vec<u8> {
        let len = (9 + name.len() + value.len()).next_multiple_of(4);
        let next = if is_last { 0 } else { len as u32 };
        let mut bytes = next.to_le_bytes().to_vec();
        bytes.extend([0, name.len() as u8]);
        bytes.extend((value.len() as u16).to_le_bytes());
        bytes.extend([name, &[0], value].concat());
        bytes.resize(len, 0);
        bytes
    }

    #[test]
    fn names_and_numbers() {
        let value = [
            entry(b"$LXUID", &1000_u32.to_le_bytes(), false),
            entry(b"$LXMOD", &0o20644_u32.to_le_bytes(), false),
            entry(b"$LXDEV", &[5, 0, 0, 0, 1, 0, 0, 0], false),
            entry(b"LX.USER.note", b"x", false),
            entry(b"$CI.CATALOGHINT", b"", false),
            entry(b"system.posix_acl_access", b"acl", true),
        ]
        .concat();
        let (unix, others) = parse(&value).unwrap();
        assert_eq!(unix, Unix { uid: Some(1000), gid: None, mode: Some(0o20644), device: Some((5, 1)) });
        let shown: Vec<_> = others.iter().map(|x| (x.name.as_slice(), x.value.as_slice())).collect();
        let expected: [(&[u8], &[u8]); 3] =
            [(b"user.note", b"x"), (b"user.$CI.CATALOGHINT", b""), (b"system.posix_acl_access", b"acl")];
        assert_eq!(shown, expected);
        for cut in 1..value.len() {
            let _ = parse(&value[..cut]);
        }
        assert!(parse(&value[..20]).is_ok());
        assert!(parse(&value[..14]).is_err());
    }
}
