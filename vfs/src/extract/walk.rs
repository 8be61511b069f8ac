//! The walk through the tree: makes the directories, queues what is in them.
//!
//! It keeps its own stack, so depth costs memory and nothing else, and only the innermost directories open, so the
//! limit of open files does not limit the depth.

use std::sync::Arc;

use blockdev::{Error, ErrorKind, Result};

use super::{
    Source,
    listing::Listing,
    target::{Remembered, TargetDir},
    work::{Job, Worker},
};
use crate::node::{Dir, Kind, Node, is_name};

/// Innermost directories kept open.
const OPEN: usize = 32;

/// Directories in each other, at most: paths of 64 KiB, which is what a record of attributes can hold, need less.
pub(super) const DEPTH: usize = 1 << 16;

struct Frame<'a> {
    listing: Listing,
    /// `None` while it is closed.
    dir: Option<Arc<TargetDir<'a>>>,
    remembered: Remembered<'a>,
}

/// Walk through `sources`.
pub(super) fn walk<'a>(worker: &Worker<'_, 'a>, sources: &[Source], top: &Arc<TargetDir<'a>>) {
    for source in sources {
        match &source.node {
            Node::Dir(dir) => tree(worker, dir.clone(), top.clone()),
            other => leaf(worker, other.clone(), top, &source.name),
        }
    }
}

fn tree<'a>(worker: &Worker<'_, 'a>, node: Arc<dyn Dir>, top: Arc<TargetDir<'a>>) {
    let tally = &worker.run.tally;
    let mut stack = vec![Frame::new(node, top)];
    while let Some(frame) = stack.last_mut() {
        if worker.run.stopping() {
            return;
        }
        let Some(dir) = frame.dir.clone() else { return };
        let entry = match frame.listing.next() {
            Ok(Some(entry)) => entry,
            ended => {
                if let Err(e) = ended {
                    tally.fail_whole(dir.place().path(), &e);
                }
                if let Err(e) = pop(&mut stack, &dir) {
                    tally.stop(&e.to_string());
                    return;
                }
                continue;
            }
        };
        if !is_name(&entry.name) {
            let e = Error::damaged("not restored, for its name is none");
            tally.fail_whole(dir.path_of(&entry.name), &e);
            continue;
        }
        let failed = |e: &Error| tally.fail_whole(dir.path_of(&entry.name), e);
        match frame.listing.dir().lookup(&entry.name) {
            Ok(Some(Node::Dir(node))) if stack.len() < DEPTH => match dir.subdir(&entry.name) {
                Ok(subdir) => {
                    for (name, stream) in worker.run.beside(node.as_ref(), &entry.name, &|| dir.path_of(&entry.name)) {
                        leaf(worker, stream, &dir, &name);
                    }
                    push(&mut stack, Frame::new(node, Arc::new(subdir)));
                }
                Err(e) => failed(&e),
            },
            Ok(Some(Node::Dir(_))) => failed(&Error::new(ErrorKind::Limit, "too many directories in each other")),
            Ok(Some(node)) => leaf(worker, node, &dir, &entry.name),
            Ok(None) => failed(&Error::damaged("it is listed and cannot be found")),
            Err(e) => failed(&e),
        }
    }
}

fn push<'a>(stack: &mut Vec<Frame<'a>>, frame: Frame<'a>) {
    stack.push(frame);
    if let Some(outer) = stack.len().checked_sub(OPEN).and_then(|n| stack.get_mut(n)) {
        outer.dir = None;
    }
}

/// Leave the innermost directory, `dir`.
fn pop<'a>(stack: &mut Vec<Frame<'a>>, dir: &Arc<TargetDir<'a>>) -> Result<()> {
    let left = stack.pop();
    let Some(outer) = stack.last_mut() else { return Ok(()) };
    if let Some(frame) = left {
        dir.finish_as(Node::Dir(frame.listing.dir().clone()));
    }
    if outer.dir.is_none() {
        outer.dir = Some(TargetDir::reopen(&outer.remembered, dir)?);
    }
    Ok(())
}

fn leaf<'a>(worker: &Worker<'_, 'a>, node: Node, dir: &Arc<TargetDir<'a>>, name: &[u8]) {
    match node.inode().attributes() {
        Ok(attributes) => {
            // Only files have content to be done; what others give as their size is not.
            let bytes = if attributes.kind == Kind::File { attributes.size } else { 0 };
            worker.run.progress.found(1, bytes);
            worker.queue.push(Job { node, attributes, dir: dir.clone(), name: name.to_vec() });
        }
        Err(e) => worker.run.tally.fail_whole(dir.path_of(name), &e),
    }
}

impl<'a> Frame<'a> {
    fn new(node: Arc<dyn Dir>, dir: Arc<TargetDir<'a>>) -> Self {
        let remembered = dir.remember();
        Self { listing: Listing::new(node), dir: Some(dir), remembered }
    }
}
