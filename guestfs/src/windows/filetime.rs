//! Times: units of 100 ns since 1601 ([MS-DTYP] 2.3.3).

use crate::Time;

/// Seconds between 1601 and 1970.
const EPOCH: i64 = 11_644_473_600;
const PER_SECOND: i64 = 10_000_000;

/// The time that `stored` says.
pub const fn time(stored: u64) -> Time {
    let stored = stored.cast_signed();
    Time { seconds: stored.div_euclid(PER_SECOND) - EPOCH, nanos: stored.rem_euclid(PER_SECOND) as u32 * 100 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_1601_on() {
        for (stored, seconds, nanos) in [
            (0, -11_644_473_600, 0),
            (116_444_736_000_000_000, 0, 0),
            (116_444_735_999_999_999, -1, 999_999_900),
            (132_444_736_000_000_001, 1_600_000_000, 100),
            (u64::MAX, -11_644_473_601, 999_999_900),
        ] {
            assert_eq!(time(stored), Time { seconds, nanos });
        }
    }
}
