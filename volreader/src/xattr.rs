//! Extended attributes as the Linux File daemon stores them: stream 1998 (format reference, section 7).

use blockdev::{Error, Result};

/// In front of each attribute.
const MAGIC: u32 = 0x005C_5884;

/// One attribute: its full name (`user.x`) and value, both as the kernel had them.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// All attributes of a record, in its order. POSIX ACLs are not among them, they have streams of their own.
///
/// The result takes at most eight times the record's length: an attribute has 13 bytes there and two `Vec` here.
///
/// # Errors
///
/// `Damaged` when the record is cut or has something else where an attribute should start.
pub fn parse(record: &[u8]) -> Result<Vec<Xattr>> {
    let mut rest = record;
    let mut attributes = Vec::new();
    while !rest.is_empty() {
        let at = record.len().saturating_sub(rest.len());
        let damaged = |what: &str| Error::damaged(format!("extended attributes: {what} at byte {at} of the record"));
        let magic = take_u32(&mut rest).ok_or_else(|| damaged("cut"))?;
        if magic != MAGIC {
            return Err(damaged("no attribute"));
        }
        let name = take_counted(&mut rest).ok_or_else(|| damaged("cut in the name that starts"))?;
        if name.is_empty() || name.contains(&0) {
            return Err(damaged("an impossible name"));
        }
        let value = take_counted(&mut rest).ok_or_else(|| damaged("cut in the value of what starts"))?;
        attributes.push((name.to_vec(), value.to_vec()));
    }
    Ok(attributes)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*number))
}

/// A length and that many bytes.
fn take_counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_u32(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(name: &[u8], value: &[u8]) -> Vec<u8> {
        let lens = [name, value].map(|part| u32::try_from(part.len()).unwrap().to_be_bytes());
        [&MAGIC.to_be_bytes(), &lens[0], name, &lens[1], value].concat()
    }

    #[test]
    fn order_and_empty_values_are_kept() {
        let record = [element(b"user.b", b"\0\xff"), element(b"user.a", b"")].concat();
        let expected = [(b"user.b".to_vec(), b"\0\xff".to_vec()), (b"user.a".to_vec(), Vec::new())];
        assert_eq!(parse(&record).unwrap(), expected);
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn every_cut_is_noticed() {
        let record = element(b"user.name", b"value");
        for len in 1..record.len() {
            assert!(parse(&record[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        assert!(parse(&element(b"", b"value")).is_err());
        assert!(parse(&element(b"user.a\0b", b"value")).is_err());
        let mut other = element(b"user.a", b"b");
        other[3] ^= 1;
        assert!(parse(&other).unwrap_err().to_string().contains("at byte 0"));
    }
}
