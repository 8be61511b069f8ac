//! Listings, with and without the attributes of what is listed.
//!
//! Position 1 is after `.`, position 2 after `..`, and after an entry it is the entry's cookie and 2.

use std::{ops::ControlFlow, os::unix::ffi::OsStrExt, sync::Arc, time::Duration};

use blockdev::{Error, Result};
use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::{
    attributes::{attribute_ttl, file_attr, file_type, node_id, unreadable},
    door::Tree,
};
use crate::node::{Dir, Entry, Node};

/// Entries taken from the provider before their nodes are looked up: a provider may hold a lock while it lists.
const BATCH: usize = 32;

const AFTER_DOT: u64 = 1;
const AFTER_DOTDOT: u64 = 2;

/// Whether the reply can take more entries.
type More = ControlFlow<()>;

/// Answer `readdir`.
pub(super) fn plain(tree: &Tree, id: u64, position: u64, mut reply: ReplyDirectory) {
    let Some(dir) = tree.directory(id) else { return reply.error(fuser::Errno::ENOTDIR) };
    let mut added = 0_u32;
    let mut add = |ino: u64, position: u64, kind: FileType, name: &[u8]| -> More {
        if reply.add(INodeNo(ino), position, kind, std::ffi::OsStr::from_bytes(name)) {
            return ControlFlow::Break(());
        }
        added += 1;
        ControlFlow::Continue(())
    };
    let listed = (|| {
        let dots = [(AFTER_DOT, b".".as_slice(), id), (AFTER_DOTDOT, b"..".as_slice(), tree.parent(id))];
        for (after, name, ino) in dots {
            if position < after && add(ino, after, FileType::Directory, name).is_break() {
                return Ok(());
            }
        }
        dir.list(position.saturating_sub(AFTER_DOTDOT), &mut |entry| {
            let Some(after) = check(tree, &entry) else { return ControlFlow::Continue(()) };
            add(entry.ino, after, file_type(entry.kind), &entry.name)
        })
    })();
    match listed {
        // What was found before the failure is delivered; the next request meets the failure alone.
        Err(e) if added == 0 => reply.error(tree.errno(&e)),
        _ => reply.ok(),
    }
}

/// Answer `readdirplus`.
pub(super) fn plus(tree: &Tree, id: u64, position: u64, reply: ReplyDirectoryPlus) {
    let Some(dir) = tree.directory(id) else { return reply.error(fuser::Errno::ENOTDIR) };
    let mut listing = Plus { tree, dir, id, reply, added: 0 };
    match listing.fill(position) {
        Err(e) if listing.added == 0 => listing.reply.error(tree.errno(&e)),
        _ => listing.reply.ok(),
    }
}

struct Plus<'a> {
    tree: &'a Tree,
    dir: Arc<dyn Dir>,
    id: u64,
    reply: ReplyDirectoryPlus,
    added: u32,
}

impl Plus<'_> {
    fn fill(&mut self, position: u64) -> Result<()> {
        if position < AFTER_DOTDOT {
            // The kernel takes only the names and numbers of these two.
            let own = file_attr(self.id, &self.dir.attributes()?);
            let parent = FileAttr { ino: INodeNo(self.tree.parent(self.id)), ..own };
            for (after, name, attr) in [(AFTER_DOT, b".".as_slice(), own), (AFTER_DOTDOT, b"..", parent)] {
                if position < after && self.add(after, name, &attr, Duration::ZERO).is_break() {
                    return Ok(());
                }
            }
        }
        let mut cookie = position.saturating_sub(AFTER_DOTDOT);
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            let listed = self.dir.list(cookie, &mut |entry| {
                batch.push(entry);
                if batch.len() < BATCH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            let full = batch.len() >= BATCH;
            for entry in batch {
                cookie = entry.cookie;
                if self.entry(&entry).is_break() {
                    return Ok(());
                }
            }
            listed?;
            if !full {
                return Ok(());
            }
        }
    }

    fn entry(&mut self, entry: &Entry) -> More {
        let Some(after) = check(self.tree, entry) else { return ControlFlow::Continue(()) };
        let (id, node, attr, ttl) = match self.look_up(entry) {
            Ok((id, node, attr, ttl)) => (id, Some(node), attr, ttl),
            Err(e) => {
                // One entry that cannot be read must not hide the others: it is shown, and asking for it fails.
                self.tree.errno(&e);
                (entry.ino, None, unreadable(entry.ino, entry.kind), Duration::ZERO)
            }
        };
        // The kernel may give the number back as soon as it has the reply, and it has none before.
        let more = self.add(after, &entry.name, &attr, ttl);
        if more.is_continue() {
            self.tree.inodes.remember(id, self.id, node);
        }
        more
    }

    fn look_up(&self, entry: &Entry) -> Result<(u64, Node, FileAttr, Duration)> {
        let node = self.dir.lookup(&entry.name)?.ok_or_else(|| {
            Error::not_found(format!("'{}' is listed and cannot be found", entry.name.escape_ascii()))
        })?;
        let attributes = node.inode().attributes()?;
        let id = node_id(attributes.ino)?;
        let attr = file_attr(id, &attributes);
        Ok((id, node, attr, attribute_ttl(attributes.kind)))
    }

    fn add(&mut self, after: u64, name: &[u8], attr: &FileAttr, ttl: Duration) -> More {
        if self.reply.add(attr.ino, after, std::ffi::OsStr::from_bytes(name), &ttl, attr, Generation(0)) {
            return ControlFlow::Break(());
        }
        self.added += 1;
        ControlFlow::Continue(())
    }
}

/// The position after `entry`; `None` where the kernel would refuse it and the whole listing with it.
fn check(tree: &Tree, entry: &Entry) -> Option<u64> {
    let name = &entry.name;
    let shown = || name.escape_ascii();
    if !crate::node::is_name(name) {
        tree.tell(&format!("an entry is not shown, for its name is none: '{}'", shown()));
        return None;
    }
    if node_id(entry.ino).is_err() {
        tree.tell(&format!("'{}' is not shown: it has the reserved inode number {}", shown(), entry.ino));
        return None;
    }
    let after = entry.cookie.checked_add(AFTER_DOTDOT).filter(|&p| i64::try_from(p).is_ok());
    if after.is_none() {
        tree.tell(&format!("'{}' is not shown: its cookie {} is too large", shown(), entry.cookie));
    }
    after
}
