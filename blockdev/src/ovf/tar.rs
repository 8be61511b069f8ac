//! Tar archives as OVA files use them: members of plain names, one after another (POSIX.1-1988 ustar; sizes above 8 GiB
//! as GNU and everybody else writes them, in base 256).

use std::ops::Range;

use crate::{Error, ErrorKind, ReadAt, Result, fields::slice};

/// Bytes of a header; members are padded to a multiple of it.
pub const BLOCK: u64 = 512;

/// Members that are looked at: a package has a handful.
const MEMBERS_MAX: usize = 4096;

/// Whether `head`, the first bytes of a file, is the header of a tar archive.
pub fn is_tar(head: &[u8]) -> bool {
    slice(head, 257, 5) == b"ustar" && checksum(head) == octal(slice(head, 148, 8))
}

/// A member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name without folders.
    pub name: String,
    /// Its bytes in the archive.
    pub range: Range<u64>,
}

/// The files in `archive`, in their order.
///
/// # Errors
///
/// `Damaged` when a header is none, or a member lies behind the end.
pub fn members(archive: &dyn ReadAt) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    let mut at = 0_u64;
    let mut long_name: Option<String> = None;
    for _ in 0..MEMBERS_MAX {
        let mut head = [0; BLOCK as usize];
        if archive.read_at(&mut head, at)? < head.len() || head.iter().all(|b| *b == 0) {
            return Ok(members);
        }
        if !is_tar(&head) {
            return Err(Error::damaged(format!(
                "the archive has no member at byte {at}: take another copy of the file"
            )));
        }
        let size = size(slice(&head, 124, 12));
        let start = at + BLOCK;
        let end = size.and_then(|size| start.checked_add(size)).filter(|end| *end <= archive.size());
        let end = end.ok_or_else(|| {
            Error::damaged(format!("a member of the archive at byte {at} goes past its end: the file was cut off"))
        })?;
        match head[156] {
            b'0' | 0 => {
                let name = long_name.take().unwrap_or_else(|| text(slice(&head, 0, 100)));
                let name = name.rsplit('/').next().unwrap_or_default().to_owned();
                members.push(Member { name, range: start..end });
            }
            // GNU's long names; records of extended headers are passed over.
            b'L' if end - start <= 4096 => {
                let mut name = vec![0; (end - start) as usize];
                let n = archive.read_at(&mut name, start)?;
                long_name = Some(text(name.get(..n).unwrap_or_default()));
            }
            _ => {}
        }
        at = end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
    }
    Err(Error::new(ErrorKind::Limit, format!("the archive has more than {MEMBERS_MAX} members")))
}

/// The header of the file `name` of `size` bytes.
///
/// # Errors
///
/// `Invalid` when the name is longer than 100 bytes.
pub fn header(name: &str, size: u64) -> Result<Vec<u8>> {
    if name.len() > 100 {
        return Err(Error::invalid(format!("{name:?} is too long for a file in an OVA: give it a shorter name")));
    }
    let mut head = vec![0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = head.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    // No times: the same machine gives the same bytes.
    put(136, b"00000000000\0");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum = checksum(&head);
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(head)
}

/// The sum of all bytes of a header, its own field counted as blanks.
fn checksum(head: &[u8]) -> u64 {
    let byte = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) };
    head.iter().enumerate().take(BLOCK as usize).map(byte).sum()
}

fn octal(field: &[u8]) -> u64 {
    let digits = field.iter().skip_while(|b| **b == b' ').take_while(|b| matches!(b, b'0'..=b'7'));
    digits.take(21).fold(0, |n, digit| n << 3 | u64::from(digit - b'0'))
}

fn size(field: &[u8]) -> Option<u64> {
    match field {
        [0x80, 0, 0, 0, low @ ..] => low.try_into().ok().map(u64::from_be_bytes),
        [first, ..] if first & 0x80 != 0 => None,
        digits => Some(octal(digits)),
    }
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut archive = Vec::new();
        for (name, size) in [("a.ovf", 10_u64), ("a-disk0.vmdk", 512), ("empty", 0)] {
            archive.extend(header(name, size).expect("a short name"));
            archive.resize(archive.len() + (size as usize).next_multiple_of(512), 7);
        }
        archive.resize(archive.len() + 1024, 0);
        let found = members(&archive).expect("an archive");
        let names: Vec<_> = found.iter().map(|m| (m.name.as_str(), m.range.clone())).collect();
        assert_eq!(names, [("a.ovf", 512..522), ("a-disk0.vmdk", 1536..2048), ("empty", 2560..2560)]);
        archive[5] ^= 1;
        assert!(members(&archive).is_err(), "a checksum that is wrong");
        assert_eq!(size(slice(&header("x", 1 << 40).expect("short"), 124, 12)), Some(1 << 40));
    }

    #[test]
    fn hostile_archives_end() {
        let mut archive = header("x", (1 << 33) - 1).expect("short");
        assert!(members(&archive).is_err(), "a member behind the end");
        archive = (0..5000).flat_map(|_| header("x", 0).expect("short")).collect();
        assert_eq!(members(&archive).expect_err("too many").kind(), ErrorKind::Limit);
    }
}
