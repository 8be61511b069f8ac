//! Lists of names and values in XDR (RFC 4506): the configuration in the labels and in the pool, and extended attributes.
//!
//! A list is 4 bytes of encoding, then version and flags, then pairs: their encoded and decoded size, name, type, number of
//! elements, value. Two zero sizes end it. Everything is big-endian and padded to 4 bytes.

use blockdev::{
    Error, Result,
    fields::{be32, be64, slice},
};

/// How deep lists may lie in lists: a configuration has pool, top-level vdev, replacing or spare, leaf.
const DEPTH_MAX: u32 = 16;

// Types of values (`data_type_t`).
const BOOLEAN: u32 = 1;
const UINT64: u32 = 8;
const STRING: u32 = 9;
const BYTES: u32 = 10;
const UINT64_ARRAY: u32 = 16;
const LIST: u32 = 19;
const LIST_ARRAY: u32 = 20;

/// A value; types that are not asked for here are [`Other`](Self::Other).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The name alone says it.
    Flag,
    /// A number.
    Number(u64),
    /// Text, without the NUL.
    Text(Vec<u8>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Numbers.
    Numbers(Vec<u64>),
    /// Another list.
    List(NvList),
    /// Other lists.
    Lists(Vec<NvList>),
    /// A value of another type.
    Other,
}

/// Names and their values, in the order in which they are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NvList(Vec<(Vec<u8>, Value)>);

impl NvList {
    /// The list that `bytes` begin with, its 4 bytes of encoding included.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.first() != Some(&1) {
            return Err(Error::damaged("a list of names and values is not in XDR"));
        }
        let mut reader = Reader { bytes, at: 4 };
        reader.list(0)
    }

    /// The pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Value)> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value))
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.iter().find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
    }

    /// The number that `name` has.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The text that `name` has, as it can be shown.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::Text(text) => blockdev::fields::text(text),
            _ => None,
        }
    }

    /// The list that `name` has.
    pub fn list(&self, name: &str) -> Option<&Self> {
        match self.get(name)? {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The lists that `name` has; none when it has something else.
    pub fn lists(&self, name: &str) -> &[Self] {
        match self.get(name) {
            Some(Value::Lists(lists)) => lists,
            _ => &[],
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u32(&mut self) -> Result<u32> {
        let value = be32(self.exactly(4)?, 0);
        Ok(value)
    }

    fn u64(&mut self) -> Result<u64> {
        let value = be64(self.exactly(8)?, 0);
        Ok(value)
    }

    fn exactly(&mut self, len: usize) -> Result<&[u8]> {
        let found = slice(self.bytes, self.at, len);
        if found.len() < len {
            return Err(Error::damaged("a list of names and values was cut off"));
        }
        self.at += len;
        Ok(found)
    }

    /// `len` bytes and their padding.
    fn opaque(&mut self, len: usize) -> Result<Vec<u8>> {
        let found = self.exactly(len)?.to_vec();
        self.at = self.at.saturating_add(len.next_multiple_of(4) - len);
        Ok(found)
    }

    fn string(&mut self) -> Result<Vec<u8>> {
        let len = self.u32()? as usize;
        self.opaque(len)
    }

    /// Version, flags and pairs.
    fn list(&mut self, depth: u32) -> Result<NvList> {
        if depth > DEPTH_MAX {
            return Err(Error::damaged("lists of names and values lie too deep in each other"));
        }
        self.exactly(8)?;
        let mut pairs = Vec::new();
        loop {
            let start = self.at;
            // Encoded and decoded size.
            let size = self.u32()? as usize;
            self.u32()?;
            if size == 0 {
                return Ok(NvList(pairs));
            }
            let name = self.string()?;
            let value = self.value(depth)?;
            pairs.push((name, value));
            // The size is what leads to the next pair, past values of types that are not known here.
            let end = start.saturating_add(size);
            if end < self.at || end > self.bytes.len() {
                return Err(Error::damaged("a pair of a list of names and values has a wrong size"));
            }
            self.at = end;
        }
    }

    fn value(&mut self, depth: u32) -> Result<Value> {
        let kind = self.u32()?;
        let count = self.u32()? as usize;
        Ok(match kind {
            BOOLEAN => Value::Flag,
            UINT64 => Value::Number(self.u64()?),
            STRING => Value::Text(self.string()?),
            BYTES => Value::Bytes(self.opaque(count)?),
            // Nothing is reserved by the count: each element has to be there.
            UINT64_ARRAY => {
                self.u32()?;
                Value::Numbers((0..count).map(|_| self.u64()).collect::<Result<_>>()?)
            }
            LIST => Value::List(self.list(depth + 1)?),
            LIST_ARRAY => Value::Lists((0..count).map(|_| self.list(depth + 1)).collect::<Result<_>>()?),
            _ => Value::Other,
        })
    }
}
