//! Micro ZAP: a header of 64 bytes, then entries of 64 bytes: value, 6 bytes that tell equal hashes apart, and a name of up
//! to 49 bytes.

use blockdev::{Result, fields::slice};

use super::{Entry, Sink, Value};
use crate::zfs::pool::Block;

const ENTRY: usize = 64;
const NAME: usize = 14;
const NAME_MAX: usize = ENTRY - NAME;

/// A block of entries.
pub struct Micro {
    block: Block,
}

impl Micro {
    pub fn new(block: Block) -> Self {
        Self { block }
    }

    /// Entry `number`, or `None` where it is free.
    fn name(&self, number: usize) -> Option<&[u8]> {
        let field = slice(&self.block, number * ENTRY + NAME, NAME_MAX);
        field.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())
    }

    /// The header is counted: entries begin at 1.
    fn numbers(&self) -> std::ops::Range<usize> {
        1..self.block.len() / ENTRY
    }

    fn value(&self, number: usize) -> Value {
        Value::One(self.block.u64(number * ENTRY))
    }

    pub fn get(&self, name: &[u8]) -> Option<Value> {
        let number = self.numbers().find(|number| self.name(*number) == Some(name))?;
        Some(self.value(number))
    }

    pub fn list(&self, cookie: u64, sink: Sink<'_>) -> Result<()> {
        let after = usize::try_from(cookie).unwrap_or(usize::MAX);
        for number in self.numbers().filter(|number| *number > after) {
            let Some(name) = self.name(number) else { continue };
            let entry = Entry { name: name.to_vec(), value: self.value(number), cookie: number as u64 };
            if sink(entry)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}
