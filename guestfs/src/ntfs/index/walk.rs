//! Going through an index in the order of its keys, from any key on.

use std::sync::Arc;

use blockdev::{Error, Result};

use super::{Entry, Index, Node, Nodes, Place};

/// Nodes on the way from the root to a leaf: far above what a tree of 2^48 files has.
const DEPTH_MAX: usize = 32;

/// A walk through an index.
pub struct Walk<'a> {
    index: &'a Index,
    kept: &'a Nodes,
    /// From the root down.
    path: Vec<Step>,
}

struct Step {
    node: Arc<Node>,
    /// The entry that comes next.
    entry: usize,
    /// Whether what is below it was walked.
    below_done: bool,
}

impl<'a> Walk<'a> {
    /// From the first entry on of which `is_below` is not true; it must be true of those with smaller keys, and no others.
    pub fn from(index: &'a Index, kept: &'a Nodes, mut is_below: impl FnMut(Entry<'_>) -> bool) -> Result<Self> {
        let mut walk = Self { index, kept, path: Vec::new() };
        let mut node = Arc::clone(&index.root);
        loop {
            let entry = node.lower_bound(&mut is_below);
            let child = node.entry(entry).and_then(|entry| entry.child());
            walk.push(Step { node, entry, below_done: true })?;
            let Some(child) = child else { return Ok(walk) };
            node = index.node(child, kept)?;
        }
    }

    fn push(&mut self, step: Step) -> Result<()> {
        if self.path.len() >= DEPTH_MAX {
            let file = self.index.file;
            return Err(Error::damaged(format!("NTFS file record {file}: its index is a circle, or too deep")));
        }
        self.path.push(step);
        Ok(())
    }

    /// The next entry: its node and its place. `None` at the end.
    pub fn next(&mut self) -> Result<Option<(Arc<Node>, Place)>> {
        while let Some(step) = self.path.last_mut() {
            let entry = step.node.entry(step.entry);
            let child = entry.and_then(|entry| entry.child()).filter(|_| !step.below_done);
            if let Some(child) = child {
                step.below_done = true;
                let node = self.index.node(child, self.kept)?;
                self.push(Step { node, entry: 0, below_done: false })?;
                continue;
            }
            let Some(entry) = entry.filter(|_| step.entry + 1 < step.node.len()) else {
                self.path.pop();
                continue;
            };
            let found = (Arc::clone(&step.node), Place { node: step.node.vcn, at: entry.at });
            (step.entry, step.below_done) = (step.entry + 1, false);
            return Ok(Some(found));
        }
        Ok(None)
    }
}

impl Index {
    /// The node with the entry at `place`.
    pub fn node_of(&self, place: Place, kept: &Nodes) -> Result<Arc<Node>> {
        match place.node {
            None => Ok(Arc::clone(&self.root)),
            Some(vcn) => self.node(vcn, kept),
        }
    }
}
