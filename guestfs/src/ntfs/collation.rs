//! The order of names: by upper case, as the volume's own table `$UpCase` has it.

use std::cmp::Ordering;

use blockdev::{Error, Result};

use super::{file::File, record::kind};

/// UTF-16 has so many units.
const UNITS: usize = 1 << 16;

/// The upper case of each UTF-16 unit.
pub struct UpCase(Box<[u16]>);

impl UpCase {
    /// The volume's table, in the file `upcase`.
    pub fn of(upcase: &File) -> Result<Self> {
        let data = upcase.value(kind::DATA, &[])?.ok_or_else(|| Error::damaged("$UpCase has no content"))?;
        let bytes = data.bytes(upcase.mft(), 2 * UNITS)?;
        let table: Box<[u16]> = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        // Whatever the language, this much is so; a table of which it is not true would hide files.
        let letters = (b'a'..=b'z').zip(b'A'..=b'Z');
        for (small, large) in letters {
            if table.get(usize::from(small)) != Some(&large.into())
                || table.get(usize::from(large)) != Some(&large.into())
            {
                return Err(Error::damaged(format!("the upper case of '{}' is not in $UpCase", char::from(small))));
            }
        }
        Ok(Self(table))
    }

    /// What takes the place of a damaged table: the upper case of Unicode, where it is one unit.
    pub fn of_unicode() -> Self {
        let upper = |unit: u16| {
            let c = char::from_u32(unit.into())?;
            let mut upper = c.to_uppercase();
            upper.next().filter(|_| upper.next().is_none()).and_then(|c| u16::try_from(u32::from(c)).ok())
        };
        Self((0..=u16::MAX).map(|unit| upper(unit).unwrap_or(unit)).collect())
    }

    fn upper(&self, pair: &[u8; 2]) -> u16 {
        let unit = u16::from_le_bytes(*pair);
        self.0.get(usize::from(unit)).copied().unwrap_or(unit)
    }

    /// The order of two names in UTF-16LE; names that differ only in case are equal.
    pub fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        let [a, b] = [a, b].map(|name| name.as_chunks::<2>().0.iter().map(|pair| self.upper(pair)));
        a.cmp(b)
    }
}
