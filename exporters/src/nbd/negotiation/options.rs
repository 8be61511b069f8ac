//! The data of options, taken apart.

use super::super::protocol::MAX_STRING;

/// The rest of an option's data, read from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn u16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*taken))
    }

    fn u32(&mut self) -> Option<u32> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*taken))
    }

    /// A string with its length in front.
    fn string(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok().filter(|&length| length <= MAX_STRING)?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(taken).ok()
    }
}

/// The data of `INFO` and `GO`.
#[derive(Debug)]
pub(super) struct ChosenExport<'a> {
    /// The name of the export.
    pub(super) name: &'a str,
    requests: &'a [u8],
}

impl<'a> ChosenExport<'a> {
    /// `None` when the lengths contradict each other or the name is not UTF-8.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(data);
        let name = cursor.string()?;
        let count = usize::from(cursor.u16()?);
        (cursor.0.len() == count * 2).then_some(Self { name, requests: cursor.0 })
    }

    /// Whether this piece of information was asked for.
    pub(super) fn asks_for(&self, info: u16) -> bool {
        self.requests.as_chunks::<2>().0.iter().any(|&request| u16::from_be_bytes(request) == info)
    }
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug)]
pub(super) struct ChosenContexts<'a> {
    /// The name of the export.
    pub(super) name: &'a str,
    /// The names of contexts, or patterns.
    pub(super) queries: Vec<&'a str>,
}

impl<'a> ChosenContexts<'a> {
    /// `None` when the lengths contradict each other or a string is not UTF-8.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(data);
        let name = cursor.string()?;
        let count = cursor.u32()?;
        // Each query takes four bytes at least, so a wrong count ends the loop soon.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(cursor.string()?);
        }
        cursor.0.is_empty().then_some(Self { name, queries })
    }
}
