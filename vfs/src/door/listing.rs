//! Listings in pages, with and without the nodes of what is listed.
//!
//! Position 1 is after `.`, position 2 after `..`, and after an entry it is the entry's cookie and 2. The two dots are
//! the door's own affair: each protocol has other things to say of them.

use std::ops::ControlFlow;

use blockdev::{Error, Result};

use super::{Report, look_up, numbered};
use crate::node::{Attributes, Dir, Entry, Node, is_name};

/// The position after `.`.
pub const AFTER_DOT: u64 = 1;
/// The position after `..`.
pub const AFTER_DOTDOT: u64 = 2;

/// Entries taken from the provider before their nodes are looked up: a provider may hold a lock while it lists.
const BATCH: usize = 32;

/// Whether a page can take more entries.
pub type More = ControlFlow<()>;

/// The node of an entry and its attributes, or why they cannot be had.
pub type Found = Result<(Node, Attributes)>;

/// Give `sink` the entries of `dir` after `position`, each with the position after it. Those that no protocol can carry
/// are passed over and reported.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn names(dir: &dyn Dir, position: u64, report: &Report, sink: &mut dyn FnMut(&Entry, u64) -> More) -> Result<()> {
    dir.list(position.saturating_sub(AFTER_DOTDOT), &mut |entry| match check(report, &entry) {
        Some(after) => sink(&entry, after),
        None => ControlFlow::Continue(()),
    })
}

/// The same with the node of each entry and its attributes, or why they cannot be had: one entry that cannot be read
/// must not hide the others.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn nodes(
    dir: &dyn Dir,
    position: u64,
    report: &Report,
    sink: &mut dyn FnMut(&Entry, u64, Found) -> More,
) -> Result<()> {
    let mut position = position.max(AFTER_DOTDOT);
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        let listed = names(dir, position, report, &mut |entry, after| {
            batch.push((entry.clone(), after));
            if batch.len() < BATCH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let full = batch.len() >= BATCH;
        for (entry, after) in batch {
            position = after;
            let found = look_up(dir, &entry.name).and_then(|found| {
                found.ok_or_else(|| {
                    Error::not_found(format!("'{}' is listed and cannot be found", entry.name.escape_ascii()))
                })
            });
            if sink(&entry, after, found).is_break() {
                return Ok(());
            }
        }
        listed?;
        if !full {
            return Ok(());
        }
    }
}

/// The position after `entry`; `None` where a client would refuse it and the whole listing with it.
fn check(report: &Report, entry: &Entry) -> Option<u64> {
    let name = &entry.name;
    let shown = || name.escape_ascii();
    if !is_name(name) {
        report.tell(&format!("an entry is not shown, for its name is none: '{}'", shown()));
        return None;
    }
    if numbered(entry.ino).is_err() {
        report.tell(&format!("'{}' is not shown: it has the reserved inode number {}", shown(), entry.ino));
        return None;
    }
    let after = entry.cookie.checked_add(AFTER_DOTDOT).filter(|&p| i64::try_from(p).is_ok());
    if after.is_none() {
        report.tell(&format!("'{}' is not shown: its cookie {} is too large", shown(), entry.cookie));
    }
    after
}
