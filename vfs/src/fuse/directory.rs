//! Listings, with and without the attributes of what is listed. Positions are those of [`crate::door`].

use std::{ops::ControlFlow, os::unix::ffi::OsStrExt, sync::Arc, time::Duration};

use blockdev::Result;
use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::{
    attributes::{attribute_ttl, file_attr, file_type, unreadable},
    door::Tree,
};
use crate::{
    door::{AFTER_DOT, AFTER_DOTDOT, Found, More, names, nodes},
    node::{Dir, Entry},
};

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
        names(dir.as_ref(), position, &tree.report, &mut |entry, after| {
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
        let (tree, dir) = (self.tree, Arc::clone(&self.dir));
        nodes(dir.as_ref(), position, &tree.report, &mut |entry, after, found| self.entry(entry, after, found))
    }

    fn entry(&mut self, entry: &Entry, after: u64, found: Found) -> More {
        let (node, attr, ttl) = match found {
            Ok((node, attributes)) => {
                let ttl = attribute_ttl(attributes.kind, &node);
                (Some(node), file_attr(attributes.ino, &attributes), ttl)
            }
            Err(e) => {
                // It is shown, and asking for it fails.
                self.tree.errno(&e);
                (None, unreadable(entry.ino, entry.kind), Duration::ZERO)
            }
        };
        // The kernel may give the number back as soon as it has the reply, and it has none before.
        let more = self.add(after, &entry.name, &attr, ttl);
        if more.is_continue() {
            self.tree.inodes.remember(attr.ino.0, self.id, node);
        }
        more
    }

    fn add(&mut self, after: u64, name: &[u8], attr: &FileAttr, ttl: Duration) -> More {
        if self.reply.add(attr.ino, after, std::ffi::OsStr::from_bytes(name), &ttl, attr, Generation(0)) {
            return ControlFlow::Break(());
        }
        self.added += 1;
        ControlFlow::Continue(())
    }
}
