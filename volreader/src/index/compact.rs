//! A `stat` in about thirty bytes: variable-length integers, times relative to each other.

use crate::attributes::Stat;

/// Append `stat`.
pub fn encode(stat: &Stat, out: &mut Vec<u8>) {
    for v in [u64::from(stat.mode), u64::from(stat.nlink), u64::from(stat.uid), u64::from(stat.gid)] {
        unsigned(v, out);
    }
    signed(stat.size, out);
    signed(stat.blocks, out);
    signed(stat.mtime, out);
    signed(stat.ctime.wrapping_sub(stat.mtime), out);
    signed(stat.atime.wrapping_sub(stat.mtime), out);
    for v in [stat.ino, stat.dev, stat.rdev, u64::from(stat.link_index)] {
        unsigned(v, out);
    }
}

/// The inverse of [`encode`]; `None` when the bytes end early.
pub fn decode(bytes: &[u8]) -> Option<Stat> {
    let mut input = bytes.iter();
    let mut next = || {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *input.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    let (mode, nlink, uid, gid) = (next()? as u32, next()? as u32, next()? as u32, next()? as u32);
    let mut signed = || next().map(|v| (v >> 1) as i64 ^ -((v & 1) as i64));
    let (size, blocks, mtime) = (signed()?, signed()?, signed()?);
    let (ctime, atime) = (mtime.wrapping_add(signed()?), mtime.wrapping_add(signed()?));
    let (ino, dev, rdev, link_index) = (next()?, next()?, next()?, next()? as u32);
    Some(Stat { dev, ino, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime, link_index })
}

fn unsigned(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn signed(value: i64, out: &mut Vec<u8>) {
    unsigned(((value << 1) ^ (value >> 63)) as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_of_extremes() {
        let stat = Stat {
            dev: u64::MAX,
            ino: 1,
            mode: 0o100_644,
            nlink: u32::MAX,
            uid: 4_294_967_294,
            gid: 3_000_000_000,
            rdev: 0x7fa,
            size: i64::MIN,
            blocks: i64::MAX,
            atime: -3600,
            mtime: i64::MIN,
            ctime: i64::MAX,
            link_index: 7,
        };
        let mut bytes = Vec::new();
        encode(&stat, &mut bytes);
        assert_eq!(decode(&bytes), Some(stat));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
    }
}
