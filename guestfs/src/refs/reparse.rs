//! The reparse point of a file, among its attributes.

use blockdev::fields::le32;

use super::attribute::{Attribute, kind};
use crate::windows::reparse::Reparse;

/// That among `attributes`, if there is one.
pub fn of(attributes: &[Attribute]) -> Option<Reparse> {
    let found = attributes.iter().find(|a| matches!(a.kind, kind::REPARSE | kind::OLD_REPARSE))?;
    let value = found.value.get();
    // Like all that is resident: where it is, in one of the two ways.
    let at = match (le32(value, 8), le32(value, 4)) {
        (0x0c, _) => 0x0c,
        (_, at) => at as usize,
    };
    Some(Reparse::new(value.get(at..)?.to_vec()))
}
