//! Packed dates and times: MS-DOS' two 16-bit words, which exFAT has too ("Microsoft FAT Specification", 6.4).

use crate::Time;

/// Units of ten milliseconds in a second.
const TENS_OF_MILLIS: u32 = 100;

/// What `date`, `time` and `tens` (of milliseconds, 0 to 199: the time counts in two seconds) say, as if it were UTC;
/// `None` for what is no date: zero stands for one that was not kept.
pub fn time(date: u16, time: u16, tens: u8) -> Option<Time> {
    let (year, month, day) = (1980 + i64::from(date >> 9), i64::from(date >> 5 & 15), i64::from(date & 31));
    if !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let (hours, minutes, seconds) = (i64::from(time >> 11), i64::from(time >> 5 & 63), i64::from(time & 31) * 2);
    let tens = u32::from(tens).min(2 * TENS_OF_MILLIS - 1);
    let seconds = ((days(year, month, day) * 24 + hours) * 60 + minutes) * 60 + seconds;
    Some(Time {
        seconds: seconds + i64::from(tens / TENS_OF_MILLIS),
        nanos: tens % TENS_OF_MILLIS * (1_000_000_000 / TENS_OF_MILLIS),
    })
}

/// Days from 1970 to a day of the years 1980 to 2107, in which only 2100 breaks the rule of every fourth.
fn days(year: i64, month: i64, day: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let is_leap = year % 4 == 0 && year != 2100;
    let leap_days = (year - 1 - 1968) / 4 - i64::from(year > 2100);
    let before = BEFORE.get(month as usize - 1).copied().unwrap_or(0);
    (year - 1970) * 365 + leap_days + before + i64::from(is_leap && month > 2) + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(year: u16, month: u16, day: u16) -> i64 {
        time((year - 1980) << 9 | month << 5 | day, 0, 0).unwrap().seconds
    }

    /// The seconds are those of `date -u -d`.
    #[test]
    fn days_are_counted() {
        assert_eq!(at(1980, 1, 1), 315_532_800);
        assert_eq!(at(2000, 2, 29), 951_782_400);
        assert_eq!(at(2000, 3, 1), 951_868_800);
        assert_eq!(at(2026, 11, 21), 1_795_219_200);
        assert_eq!(at(2100, 2, 28), 4_107_456_000);
        assert_eq!(at(2100, 3, 1), 4_107_542_400);
        assert_eq!(at(2107, 12, 31), 4_354_732_800);
    }

    #[test]
    fn times_have_ten_milliseconds() {
        let date = (2020 - 1980) << 9 | 1 << 5 | 1;
        let found = time(date, 23 << 11 | 59 << 5 | 29, 157).unwrap();
        assert_eq!(found, Time { seconds: 1_577_836_800 + 86_399, nanos: 570_000_000 });
    }

    #[test]
    fn what_is_no_date_is_none() {
        assert_eq!(time(0, 0, 0), None);
        assert_eq!(time(1 << 5, 0, 0), None);
        assert_eq!(time(13 << 5 | 1, 0, 0), None);
    }
}
