//! POSIX ACLs: from the text that Bacula stores to the value that the Linux kernel takes.
//!
//! The File daemon stores what the client's libacl printed (streams 1008 access, 1007 default; format
//! reference, section 7): one entry a line, comments after `#`, a NUL at the end, and **names** of users and
//! groups, which mean something only on a machine that knows them. [`parse`] reads it, [`Entries::to_kernel`]
//! makes the value of `system.posix_acl_access` or `system.posix_acl_default`. ACLs of other platforms are
//! text (or their own form) to be shown, not converted.

use std::borrow::Cow;

use blockdev::{Error, Result};

/// Finds the numbers of users and groups by name, as the machine at hand has them.
pub trait Names {
    /// The number of user `name`.
    fn user(&self, name: &[u8]) -> Option<u32>;

    /// The number of group `name`.
    fn group(&self, name: &[u8]) -> Option<u32>;
}

/// Whom an entry is about. The order is the one the kernel wants them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whom {
    /// The owner of the file.
    Owner,
    /// A user by number.
    User(u32),
    /// The group of the file.
    OwningGroup,
    /// A group by number.
    Group(u32),
    /// The most that users and groups but the owner can have.
    Mask,
    /// Everybody else.
    Other,
}

impl Whom {
    /// Tag of the kernel's form (`ACL_USER_OBJ` and so on) and number.
    const fn to_kernel(self) -> (u16, u32) {
        const NO_ID: u32 = u32::MAX;
        match self {
            Self::Owner => (0x01, NO_ID),
            Self::User(id) => (0x02, id),
            Self::OwningGroup => (0x04, NO_ID),
            Self::Group(id) => (0x08, id),
            Self::Mask => (0x10, NO_ID),
            Self::Other => (0x20, NO_ID),
        }
    }
}

/// A valid ACL: sorted, no entry twice, owner, owning group and others present, a mask where one is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries(Vec<(Whom, u16)>);

impl Entries {
    /// The entries in the kernel's order: whom, and permissions as `r` 4, `w` 2, `x` 1.
    #[must_use]
    pub fn as_slice(&self) -> &[(Whom, u16)] {
        &self.0
    }

    /// The value of `system.posix_acl_*`: version 2, then 8 bytes an entry, little-endian.
    #[must_use]
    pub fn to_kernel(&self) -> Vec<u8> {
        const VERSION: u32 = 2;
        let mut value = VERSION.to_le_bytes().to_vec();
        for &(whom, permissions) in &self.0 {
            let (tag, id) = whom.to_kernel();
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }
}

/// The text of an ACL record without the NUL at its end, to be shown: also for other platforms' text ACLs.
#[must_use]
pub fn text(record: &[u8]) -> &[u8] {
    record.split(|&b| b == 0).next().unwrap_or_default()
}

/// Read the text of a Linux ACL. Names are looked up in `names`; what is not a known name has to be a number.
///
/// # Errors
///
/// `Invalid` when a user or group is not known here (the message names it); `Damaged` when the text is no
/// valid ACL.
pub fn parse(text: &[u8], names: &dyn Names) -> Result<Entries> {
    let text = self::text(text);
    let mut entries = Vec::new();
    for line in text.split(|&b| b == b'\n') {
        for entry in
            without_comment(line).split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty())
        {
            entries.push(parse_entry(entry, names)?);
        }
    }
    entries.sort_unstable_by_key(|&(whom, _)| whom);
    if let Some(twice) = entries.windows(2).find_map(|pair| match pair {
        [a, b] if a.0 == b.0 => Some(a.0),
        _ => None,
    }) {
        return Err(damaged(text, format_args!("has two entries for {twice:?}")));
    }
    let has = |wanted| entries.iter().any(|&(whom, _)| whom == wanted);
    for required in [Whom::Owner, Whom::OwningGroup, Whom::Other] {
        if !has(required) {
            return Err(damaged(text, format_args!("has no entry for {required:?}")));
        }
    }
    let named = |whom: Whom| matches!(whom, Whom::User(_) | Whom::Group(_));
    if !has(Whom::Mask) && entries.iter().any(|&(whom, _)| named(whom)) {
        // As acl_calc_mask(3): all that any of the masked entries grants.
        let granted = entries.iter().filter(|&&(whom, _)| named(whom) || whom == Whom::OwningGroup);
        let mask = granted.fold(0, |mask, &(_, permissions)| mask | permissions);
        let at = entries.partition_point(|&(whom, _)| whom < Whom::Mask);
        entries.insert(at, (Whom::Mask, mask));
    }
    Ok(Entries(entries))
}

/// A comment starts with a `#` that is first in its line or has a blank before it; a name can hold one.
fn without_comment(line: &[u8]) -> &[u8] {
    let starts = |at: usize| at.checked_sub(1).and_then(|at| line.get(at)).is_none_or(u8::is_ascii_whitespace);
    let comment = line.iter().enumerate().position(|(at, &byte)| byte == b'#' && starts(at));
    comment.and_then(|at| line.get(..at)).unwrap_or(line)
}

/// `user:NAME:rwx`, with the short tags that libacl takes as well.
fn parse_entry(entry: &[u8], names: &dyn Names) -> Result<(Whom, u16)> {
    let mut fields = entry.split(|&b| b == b':');
    let (Some(tag), Some(name), permissions) = (fields.next(), fields.next(), fields.next()) else {
        return Err(damaged(entry, format_args!("is no entry")));
    };
    // `mask:rwx` and `other:rwx` without the empty name are valid, too.
    let (name, permissions) = permissions.map_or((&b""[..], name), |permissions| (name, permissions));
    if fields.next().is_some() {
        return Err(damaged(entry, format_args!("has too many fields")));
    }
    let name = unquote(name);
    let whom = match (tag, name.as_ref()) {
        (b"user" | b"u", b"") => Whom::Owner,
        (b"user" | b"u", name) => Whom::User(number(name, names.user(name), "user")?),
        (b"group" | b"g", b"") => Whom::OwningGroup,
        (b"group" | b"g", name) => Whom::Group(number(name, names.group(name), "group")?),
        (b"mask" | b"m", b"") => Whom::Mask,
        (b"other" | b"o", b"") => Whom::Other,
        _ => return Err(damaged(entry, format_args!("is about something unknown"))),
    };
    let permissions = permissions.iter().try_fold(0, |set, letter| match letter {
        b'r' => Some(set | 4),
        b'w' => Some(set | 2),
        b'x' => Some(set | 1),
        b'-' => Some(set),
        _ => None,
    });
    match permissions {
        Some(permissions) => Ok((whom, permissions)),
        None => Err(damaged(entry, format_args!("has unknown permissions"))),
    }
}

/// The number found for `name`, or the one it is. All ones stand for "nobody in particular" in the kernel.
fn number(name: &[u8], found: Option<u32>, what: &str) -> Result<u32> {
    let own = || str::from_utf8(name).ok()?.parse().ok();
    found.or_else(own).filter(|&id| id != u32::MAX).ok_or_else(|| {
        Error::invalid(format!("ACL: there is no {what} {} here; create it or map it", name.escape_ascii()))
    })
}

/// libacl writes bytes that would break the text as `\` and three octal digits.
fn unquote(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.contains(&b'\\') {
        return Cow::Borrowed(name);
    }
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let octal = after.split_first_chunk::<3>().filter(|_| byte == b'\\').and_then(|(digits, after)| {
            let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            Some((u8::from_str_radix(digits, 8).ok()?, after))
        });
        match octal {
            Some((byte, after)) => {
                plain.push(byte);
                rest = after;
            }
            None => plain.push(byte),
        }
    }
    Cow::Owned(plain)
}

fn damaged(text: &[u8], what: std::fmt::Arguments<'_>) -> Error {
    let shown = text.get(..80).unwrap_or(text).escape_ascii();
    Error::damaged(format!("ACL: \"{shown}\" {what}"))
}

#[cfg(test)]
mod tests {
    use blockdev::ErrorKind;

    use super::*;

    struct Lab;

    impl Names for Lab {
        fn user(&self, name: &[u8]) -> Option<u32> {
            match name {
                b"alice" => Some(1001),
                b"DOM\\the user" => Some(70000),
                b"a#b" => Some(70001),
                _ => None,
            }
        }

        fn group(&self, name: &[u8]) -> Option<u32> {
            (name == b"staff").then_some(50)
        }
    }

    const LONG: &[u8] =
        b"user::rw-\nuser:alice:rwx\t#effective:r--\ngroup::r-x\t#effective:r--\nmask::r--\nother::---\n\0";

    #[test]
    fn long_text_becomes_the_kernels_value() {
        let value = parse(LONG, &Lab).unwrap().to_kernel();
        let no_id = [255; 4];
        let expected = [
            &[2, 0, 0, 0][..],
            &[[1, 0, 6, 0], no_id].concat(),
            &[[2, 0, 7, 0], 1001_u32.to_le_bytes()].concat(),
            &[[4, 0, 5, 0], no_id].concat(),
            &[[16, 0, 4, 0], no_id].concat(),
            &[[32, 0, 0, 0], no_id].concat(),
        ]
        .concat();
        assert_eq!(value, expected);
    }

    #[test]
    fn short_text_is_sorted_and_gets_its_mask() {
        let entries = parse(b"o::-,g:staff:rw,u:9:x,u:alice:r,g::r,u::rwx", &Lab).unwrap();
        let expected = [
            (Whom::Owner, 7),
            (Whom::User(9), 1),
            (Whom::User(1001), 4),
            (Whom::OwningGroup, 4),
            (Whom::Group(50), 6),
            (Whom::Mask, 7),
            (Whom::Other, 0),
        ];
        assert_eq!(entries.as_slice(), expected);
    }

    #[test]
    fn quoted_names_are_read() {
        let entries = parse(b"# x\nu::r,u:DOM\\134the\\040user:r,u:a#b:r #c\ng::r,m::r,o::r", &Lab).unwrap();
        assert_eq!(entries.as_slice()[1].0, Whom::User(70000));
        assert_eq!(entries.as_slice()[2].0, Whom::User(70001));
    }

    #[test]
    fn unknown_names_are_told() {
        let error = parse(b"u::r,u:mallory:r,g::r,m::r,o::r", &Lab).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("user mallory"), "{error}");
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        for text in [
            &b""[..],
            b"u::r,g::r",
            b"u::r,u::w,g::r,o::r",
            b"u::r,u:9:r,u:9:w,g::r,o::r",
            b"u::rq,g::r,o::r",
            b"u::r,g::r,o:x:r",
            b"u::r:,g::r,o::r",
            b"u::r,u:4294967295:r,g::r,o::r",
            b"everyone@:r:allow",
        ] {
            assert!(parse(text, &Lab).is_err(), "{}", text.escape_ascii());
        }
    }
}
