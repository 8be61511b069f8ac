//! ZAP objects: names with values. Directories are such objects, and so is nearly all of a pool's bookkeeping.
//!
//! Few short names with a number each lie in one block ("micro"), anything else in a hash table of leaves ("fat"). Both
//! are listed in an order that never changes: a cookie is the place in the block or in the order of hashes.

mod fat;
mod leaf;
mod micro;

use std::ops::ControlFlow;

use blockdev::{Error, Result};

use self::{fat::Fat, micro::Micro};
use super::{dnode::Dnode, pool::Pool};

// Types of blocks: the first word of each.
const MICRO: u64 = (1 << 63) + 3;
const FAT: u64 = (1 << 63) + 1;

/// The value of a name: one or more integers of 1, 2, 4 or 8 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// One integer.
    One(u64),
    /// None or several.
    Many(Vec<u64>),
}

impl Value {
    /// The only integer.
    pub fn one(&self) -> Option<u64> {
        match self {
            Self::One(number) => Some(*number),
            Self::Many(_) => None,
        }
    }

    /// All integers.
    pub fn all(&self) -> &[u64] {
        match self {
            Self::One(number) => std::slice::from_ref(number),
            Self::Many(numbers) => numbers,
        }
    }
}

/// A name with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Value,
    /// Where to go on after it: not 0, below 2^60.
    pub cookie: u64,
}

/// What is called for each entry, until it breaks.
pub type Sink<'a> = &'a mut dyn FnMut(Entry) -> Result<ControlFlow<()>>;

/// Names with values.
pub struct Zap<'a> {
    form: Form<'a>,
}

enum Form<'a> {
    Micro(Micro),
    Fat(Fat<'a>),
}

impl<'a> Zap<'a> {
    /// The one that is `dnode`'s content.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is something else.
    pub fn open(pool: &'a Pool, dnode: &'a Dnode) -> Result<Self> {
        let first = dnode.metadata(pool, 0)?.ok_or_else(|| Error::damaged("a list of names is empty"))?;
        let form = match first.u64(0) {
            MICRO => Form::Micro(Micro::new(first)),
            FAT => Form::Fat(Fat::new(pool, dnode, first)?),
            _ => return Err(Error::damaged("an object is no list of names")),
        };
        Ok(Self { form })
    }

    /// The value of `name`, exactly so spelled.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn get(&self, name: &[u8]) -> Result<Option<Value>> {
        match &self.form {
            Form::Micro(micro) => Ok(micro.get(name)),
            Form::Fat(fat) => fat.get(name),
        }
    }

    /// The only integer that `name` has.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or has several.
    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(name.as_bytes())? else { return Ok(None) };
        value.one().map(Some).ok_or_else(|| Error::damaged(format!("{name:?} is no number")))
    }

    /// Calls `sink` for the entries after the one whose cookie is `cookie` (0: from the start).
    ///
    /// # Errors
    ///
    /// What `sink` says; when they cannot be read.
    pub fn list(&self, cookie: u64, sink: Sink<'_>) -> Result<()> {
        match &self.form {
            Form::Micro(micro) => micro.list(cookie, sink),
            Form::Fat(fat) => fat.list(cookie, sink),
        }
    }
}
