//! Headers of the pax interchange format (POSIX.1-2017, pax, "EXTENDED DESCRIPTION"): a ustar block, and before it records
//! for what has no room in one.

use crate::node::Time;

/// Everything in a tar archive is a multiple of this, in bytes.
pub const BLOCK: usize = 512;

/// The largest number that a field of 8 bytes has room for.
pub const SMALL_MAX: u64 = 0o7_777_777;

/// The same for a field of 12 bytes.
pub const LARGE_MAX: u64 = 0o77_777_777_777;

/// Bytes of a name that a ustar block has room for.
pub const NAME_MAX: usize = 100;

/// The fields of a ustar block. What does not fit is cut off: a record says it.
pub struct Ustar<'u> {
    pub name: &'u [u8],
    /// The type: `0` file, `1` hard link, `2` symbolic link, `3` and `4` devices, `5` directory, `6` fifo, `x` records.
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Time,
    pub link: &'u [u8],
    pub rdev: (u32, u32),
}

impl Ustar<'_> {
    pub fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        text(&mut block, 0, NAME_MAX, self.name);
        octal(&mut block, 100, 8, self.mode.into(), SMALL_MAX);
        octal(&mut block, 108, 8, self.uid.into(), SMALL_MAX);
        octal(&mut block, 116, 8, self.gid.into(), SMALL_MAX);
        octal(&mut block, 124, 12, self.size, LARGE_MAX);
        octal(&mut block, 136, 12, self.mtime.seconds.try_into().unwrap_or(0), LARGE_MAX);
        text(&mut block, 156, 1, &[self.kind]);
        text(&mut block, 157, NAME_MAX, self.link);
        text(&mut block, 257, 8, b"ustar\x0000");
        octal(&mut block, 329, 8, self.rdev.0.into(), SMALL_MAX);
        octal(&mut block, 337, 8, self.rdev.1.into(), SMALL_MAX);
        // The sum is taken with blanks in its own place.
        text(&mut block, 148, 8, b"        ");
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        octal(&mut block, 148, 7, sum, SMALL_MAX);
        block
    }
}

fn text(block: &mut [u8], at: usize, len: usize, text: &[u8]) {
    for (place, byte) in block.iter_mut().skip(at).take(len).zip(text) {
        *place = *byte;
    }
}

/// `value` in a field of `len` bytes, the last of which stays NUL; 0 when it is above `max`.
fn octal(block: &mut [u8], at: usize, len: usize, value: u64, max: u64) {
    let value = if value > max { 0 } else { value };
    text(block, at, len, format!("{value:0width$o}\0", width = len - 1).as_bytes());
}

/// Records: `LENGTH KEY=VALUE` and a line feed.
#[derive(Default)]
pub struct Records(pub Vec<u8>);

impl Records {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while rest + len.to_string().len() != len {
            len = rest + len.to_string().len();
        }
        self.0.extend_from_slice(format!("{len} ").as_bytes());
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    pub fn time(&mut self, key: &[u8], time: Time) {
        self.add(key, decimal(time).as_bytes());
    }
}

/// Seconds and their fraction, without zeros at its end.
fn decimal(time: Time) -> String {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    match nanos {
        0 => format!("{sign}{seconds}"),
        _ => format!("{sign}{seconds}.{nanos:09}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        for (len, expected) in [(1, 6), (92, 98), (93, 99), (94, 101), (992, 999), (993, 1001)] {
            let mut records = Records::default();
            records.add(b"k", &vec![b'v'; len]);
            let said: usize =
                records.0.split(|b| *b == b' ').next().map(|n| String::from_utf8_lossy(n).parse().unwrap()).unwrap();
            assert_eq!((said, records.0.len()), (expected, expected), "{len}");
        }
    }

    #[test]
    fn times_before_1970_are_below_zero() {
        let decimal = |seconds, nanos| decimal(Time { seconds, nanos });
        assert_eq!(decimal(0, 0), "0");
        assert_eq!(decimal(1_600_000_000, 120_000_000), "1600000000.12");
        assert_eq!(decimal(-1, 0), "-1");
        assert_eq!(decimal(-2, 500_000_000), "-1.5");
        assert_eq!(decimal(-1, 999_999_999), "-0.000000001");
        assert_eq!(decimal(i64::MIN, 999_999_999), "-9223372036854775807.000000001");
    }
}
