//! Keys, and the lists of their subkeys.

use std::ops::ControlFlow;

use blockdev::{
    Error, Result,
    fields::{le16, le32, slice},
};

use super::{
    cells::{Cells, NONE},
    name,
    value::{self, Value},
};
use crate::resolve::eq_any_case;

/// Bytes of an `nk` cell before its name.
const HEAD: usize = 76;

/// The name is in Latin-1.
const IS_LATIN1: u16 = 0x20;

/// Bytes of the longest list: 65535 elements of 8 bytes.
const LIST_MAX: usize = 4 + 0xffff * 8;

/// Subkeys of one key that are looked at; the largest keys of real systems have some ten thousand.
const SUBKEYS_MAX: usize = 1 << 20;

/// Values of one key that are looked at.
const VALUES_MAX: usize = 1 << 16;

/// A key of a hive.
#[derive(Clone)]
pub struct Key<'h> {
    cells: &'h Cells,
    name: String,
    subkeys: u32,
    values: u32,
    values_count: usize,
}

impl<'h> Key<'h> {
    pub(super) fn at(cells: &'h Cells, offset: u32) -> Result<Self> {
        // Names have at most 255 characters.
        let cell = cells.get(offset, HEAD + 2 * 255)?;
        if !cell.starts_with(b"nk") {
            return Err(Error::damaged(format!("the registry cell at {offset:#x} is no key")));
        }
        let count = |at| usize::try_from(le32(&cell, at)).unwrap_or(usize::MAX);
        Ok(Self {
            cells,
            name: name(slice(&cell, HEAD, le16(&cell, 72).into()), le16(&cell, 2) & IS_LATIN1 != 0),
            subkeys: if count(20) == 0 { NONE } else { le32(&cell, 28) },
            values: le32(&cell, 40),
            values_count: count(36).min(VALUES_MAX),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The subkey `name`, in any case.
    ///
    /// # Errors
    ///
    /// When the list of subkeys cannot be read, or the subkey is not found and one that can be it cannot be read.
    pub fn subkey(&self, name: &str) -> Result<Option<Self>> {
        let mut found = Ok(None);
        self.subkeys(&mut |key| {
            match key {
                Ok(key) if eq_any_case(key.name.as_bytes(), name.as_bytes()) => {
                    found = Ok(Some(key));
                    return ControlFlow::Break(());
                }
                Err(e) => found = Err(e),
                Ok(_) => {}
            }
            ControlFlow::Continue(())
        })?;
        found
    }

    /// Call `sink` for each subkey until it breaks. A subkey that cannot be read is an error in its place.
    ///
    /// # Errors
    ///
    /// When the list of subkeys cannot be read.
    pub fn subkeys(&self, sink: &mut dyn FnMut(Result<Self>) -> ControlFlow<()>) -> Result<()> {
        if self.subkeys == NONE {
            return Ok(());
        }
        let mut left = SUBKEYS_MAX;
        let list = List::at(self.cells, self.subkeys)?;
        if !list.is_of_lists {
            return list.keys(self.cells, &mut left, sink).map(|_| ());
        }
        for offset in list.elements() {
            let list = List::at(self.cells, offset)?;
            if list.is_of_lists {
                return Err(Error::damaged(format!("the registry list at {offset:#x} is one of lists in another")));
            }
            if list.keys(self.cells, &mut left, sink)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The value `name`, in any case; the default value has no name.
    ///
    /// # Errors
    ///
    /// When the list of values or the value cannot be read, or it is not found and one that can be it cannot be read.
    pub fn value(&self, name: &str) -> Result<Option<Value>> {
        let mut unread = None;
        for offset in self.value_offsets()? {
            match value::Header::at(self.cells, offset) {
                Ok(header) if eq_any_case(header.name.as_bytes(), name.as_bytes()) => {
                    return header.value(self.cells).map(Some);
                }
                Ok(_) => {}
                Err(e) => unread = Some(e),
            }
        }
        unread.map_or(Ok(None), Err)
    }

    /// Call `sink` for each value until it breaks. Values that cannot be read are errors in its place.
    ///
    /// # Errors
    ///
    /// When the list of values cannot be read.
    pub fn values(&self, sink: &mut dyn FnMut(Result<Value>) -> ControlFlow<()>) -> Result<()> {
        for offset in self.value_offsets()? {
            let value = value::Header::at(self.cells, offset).and_then(|header| header.value(self.cells));
            if sink(value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn value_offsets(&self) -> Result<Vec<u32>> {
        if self.values_count == 0 {
            return Ok(Vec::new());
        }
        let list = self.cells.exactly(self.values, self.values_count * 4)?;
        Ok(list.as_chunks::<4>().0.iter().map(|offset| u32::from_le_bytes(*offset)).collect())
    }
}

/// A list of subkeys (`li`, `lf`, `lh`), or of such lists (`ri`).
struct List {
    cell: Vec<u8>,
    count: usize,
    /// Bytes from one element to the next; behind the offset in it is a hint to its name, which is not used.
    step: usize,
    is_of_lists: bool,
}

impl List {
    fn at(cells: &Cells, offset: u32) -> Result<Self> {
        let head = cells.get(offset, 4)?;
        let (step, is_of_lists) = match slice(&head, 0, 2) {
            b"li" => (4, false),
            b"lf" | b"lh" => (8, false),
            b"ri" => (4, true),
            _ => return Err(Error::damaged(format!("the registry cell at {offset:#x} is no list of keys"))),
        };
        let count = usize::from(le16(&head, 2));
        let cell = cells.exactly(offset, (4 + count * step).min(LIST_MAX))?;
        Ok(Self { cell, count, step, is_of_lists })
    }

    fn elements(&self) -> impl Iterator<Item = u32> {
        (0..self.count).map(|n| le32(&self.cell, 4 + n * self.step))
    }

    /// Gives each key to `sink` until it breaks.
    fn keys<'h>(
        &self,
        cells: &'h Cells,
        left: &mut usize,
        sink: &mut dyn FnMut(Result<Key<'h>>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        for offset in self.elements() {
            *left = left.checked_sub(1).ok_or_else(|| Error::damaged("a registry key has too many subkeys"))?;
            if sink(Key::at(cells, offset)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
