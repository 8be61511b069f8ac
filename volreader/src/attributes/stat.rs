//! The `stat` of an attributes record and of the catalog's `LStat` column: numbers in Bacula's base 64.

/// A file's `stat` as the client had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// Device the file was on.
    pub dev: u64,
    /// Inode number there.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the client's encoding (Linux: glibc's).
    pub rdev: u64,
    /// Length; not to be trusted as the length of the data (plugins and devices send -1 or 0).
    pub size: i64,
    /// 512-byte units allocated.
    pub blocks: i64,
    /// Last access, seconds since 1970.
    pub atime: i64,
    /// Last change of the content.
    pub mtime: i64,
    /// Last change of the inode.
    pub ctime: i64,
    /// File index of the first link, for hard links.
    pub link_index: u32,
}

impl Stat {
    /// Parse the blank-separated fields; later ones may be missing (old daemons), the first thirteen may not.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = text.split(|&b| b == b' ').map(number);
        let mut next = || fields.next().flatten();
        let mut stat = Self {
            dev: next()? as u64,
            ino: next()? as u64,
            mode: next()? as u32,
            nlink: next()? as u32,
            uid: next()? as u32,
            gid: next()? as u32,
            rdev: next()? as u64,
            size: next()?,
            ..Self::default()
        };
        next()?; // st_blksize
        (stat.blocks, stat.atime, stat.mtime, stat.ctime) = (next()?, next()?, next()?, next()?);
        stat.link_index = next().map_or(0, |n| u32::try_from(n).unwrap_or(0));
        Some(stat)
    }

    /// Major and minor device number of [`rdev`](Self::rdev) in glibc's encoding.
    #[must_use]
    pub const fn device(&self) -> (u32, u32) {
        let d = self.rdev;
        let major = ((d >> 8) & 0xfff) as u32 | ((d >> 32) as u32 & !0xfff);
        let minor = (d & 0xff) as u32 | ((d >> 12) as u32 & !0xff);
        (major, minor)
    }
}

/// A number in Bacula's base 64: most significant digit first, 6 bits a digit, `-` in front when negative.
fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if digits.is_empty() || digits.len() > 11 {
        return None;
    }
    let mut value = 0u64;
    for &digit in digits {
        let v = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        value = value << 6 | u64::from(v);
    }
    let value = value as i64;
    Some(if negative { value.wrapping_neg() } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"A"), Some(0));
        assert_eq!(number(b"BAA"), Some(4096));
        assert_eq!(number(b"-4Q"), Some(-(56 * 64 + 16)));
        assert_eq!(number(b""), None);
        assert_eq!(number(b"A*"), None);
        assert_eq!(number(b"AAAAAAAAAAAA"), None);
    }

    #[test]
    fn device_numbers_in_glibc_encoding() {
        let stat = Stat { rdev: 0x7fa, ..Stat::default() };
        assert_eq!(stat.device(), (7, 250));
        let big =
            Stat { rdev: (0xabcde_u64 >> 12 << 44) | (0xcde << 8) | (0x12345 >> 8 << 20) | 0x45, ..Stat::default() };
        assert_eq!(big.device(), (0xabcde, 0x12345));
    }
}
