//! B-trees: finding an item and going on from there.
//!
//! A tree may have *changes* laid over it: what the log of a crashed machine says instead of what was committed.

use std::{ops::Range, sync::Arc};

use blockdev::{Error, Result};
use quick_cache::{Weighter, sync::Cache};

use super::{
    changes::{Change, Changes},
    key::Key,
    node::{Format, Node, Pointer},
    space::{Space, worse},
};

/// Bytes of nodes that are kept.
const NODES_MAX: u64 = 32 << 20;
const NODES_EXPECTED: usize = 1024;

/// The nodes of a filesystem, sound and kept in bounded memory.
pub struct Nodes {
    space: Arc<Space>,
    format: Format,
    kept: Cache<u64, Arc<Node>, ByBytes>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<u64, Arc<Node>> for ByBytes {
    fn weight(&self, _: &u64, node: &Arc<Node>) -> u64 {
        node.len() as u64 + 96
    }
}

impl Nodes {
    pub fn new(space: Arc<Space>, format: Format) -> Self {
        Self { space, format, kept: Cache::with_weighter(NODES_EXPECTED, NODES_MAX, ByBytes) }
    }

    /// The node that `at` points to.
    fn get(&self, at: Pointer) -> Result<Arc<Node>> {
        let node = self.kept.get_or_insert_with(&at.logical, || self.read(at).map(Arc::new))?;
        if !node.is_at(at) {
            let what = "is referred to as one of another level or generation";
            return Err(Error::damaged(format!("the node at logical address {} {what}", at.logical)));
        }
        Ok(node)
    }

    /// Reads it in each way there is, until it is sound.
    fn read(&self, at: Pointer) -> Result<Node> {
        let mut failed = None;
        for way in 0..self.space.ways(at.logical)? {
            let mut bytes = vec![0; self.format.len].into_boxed_slice();
            let read = self.space.read(&mut bytes, at.logical, way);
            match read.and_then(|()| Node::check(bytes, at, &self.format)) {
                Ok(node) => return Ok(node),
                Err(e) => failed = Some(worse(failed, e)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::damaged(format!("the node at {} cannot be read", at.logical))))
    }
}

/// An item of a tree.
pub struct Item {
    pub key: Key,
    data: Data,
}

enum Data {
    Stored(Arc<Node>, usize),
    Changed(Arc<[u8]>),
}

impl Item {
    /// Its data.
    pub fn data(&self) -> &[u8] {
        match &self.data {
            Data::Stored(node, index) => node.item(*index),
            Data::Changed(bytes) => bytes,
        }
    }
}

/// A tree.
#[derive(Clone)]
pub struct Tree {
    nodes: Arc<Nodes>,
    root: Pointer,
    changes: Option<Arc<Changes>>,
}

impl Tree {
    pub const fn new(nodes: Arc<Nodes>, root: Pointer) -> Self {
        Self { nodes, root, changes: None }
    }

    /// The same tree under `changes`.
    pub fn under(self, changes: Arc<Changes>) -> Self {
        Self { changes: Some(changes), ..self }
    }

    /// Puts `change` in the place of the item `key`.
    ///
    /// # Errors
    ///
    /// `Limit` when there are too many changes; `Invalid` when others share them.
    pub fn put(&mut self, key: Key, change: Change) -> Result<()> {
        let changes = self.changes.get_or_insert_default();
        let changes = Arc::get_mut(changes).ok_or_else(|| Error::invalid("a tree that others read is changed"))?;
        changes.put(key, change)
    }

    /// What was changed.
    pub fn into_changes(self) -> Arc<Changes> {
        self.changes.unwrap_or_default()
    }

    /// The item with exactly this key.
    pub fn get(&self, key: Key) -> Result<Option<Item>> {
        if let Some(change) = self.changes.as_ref().and_then(|changes| changes.get(&key)) {
            return Ok(change.clone().map(|bytes| Item { key, data: Data::Changed(bytes) }));
        }
        self.stored_before(key).map(|found| found.filter(|item| item.key == key))
    }

    /// The item with the highest key that is not above `key`.
    pub fn floor(&self, key: Key) -> Result<Option<Item>> {
        let Some(changes) = &self.changes else { return self.stored_before(key) };
        let changed = changes.before(key).map(|(key, bytes)| Item { key, data: Data::Changed(bytes) });
        let mut at = Some(key);
        while let Some(key) = at {
            match self.stored_before(key)? {
                Some(item) if changes.get(&item.key).is_some() => at = item.key.previous(),
                Some(item) if changed.as_ref().is_none_or(|c| c.key < item.key) => return Ok(Some(item)),
                _ => break,
            }
        }
        Ok(changed)
    }

    fn stored_before(&self, key: Key) -> Result<Option<Item>> {
        let path = Path::down(&self.nodes, self.root, key)?;
        // The last step is at the first key that is not below: the key itself, or the one after what is looked for.
        let Some(Step { node, index, .. }) = path.steps.last() else { return Ok(None) };
        let is_exact = *index < node.count() && node.key(*index) == key;
        let Some(index) = (if is_exact { Some(*index) } else { index.checked_sub(1) }) else { return Ok(None) };
        Ok(Some(Item { key: node.key(index), data: Data::Stored(Arc::clone(node), index) }))
    }

    /// All items from `range.start` on with keys below `range.end`.
    pub fn range(&self, range: Range<Key>) -> Result<Items<'_>> {
        let path = Path::down(&self.nodes, self.root, range.start)?;
        let changes = self.changes.as_deref();
        let mut items =
            Items { nodes: &self.nodes, path, changes, changed: Some(range.start), stored: None, end: range.end };
        if changes.is_some() {
            items.stored = items.next_stored()?;
        }
        Ok(items)
    }

    /// All items of this object and kind, from the offset `from` on.
    pub fn of(&self, object: u64, kind: u8, from: u64) -> Result<Items<'_>> {
        let end = Key::new(object, kind, u64::MAX).next().unwrap_or(Key::MAX);
        self.range(Key::new(object, kind, from)..end)
    }
}

/// Items in the order of their keys.
pub struct Items<'a> {
    nodes: &'a Nodes,
    path: Path,
    changes: Option<&'a Changes>,
    /// Where the next change is looked for.
    changed: Option<Key>,
    /// The next stored item, where there are changes.
    stored: Option<Item>,
    end: Key,
}

impl Items<'_> {
    /// The next one.
    pub fn next(&mut self) -> Result<Option<Item>> {
        let Some(changes) = self.changes else { return self.next_stored() };
        loop {
            let change = self.changed.and_then(|from| changes.from(from)).filter(|(key, _)| *key < self.end);
            match (&self.stored, change) {
                (Some(stored), Some((key, _))) if stored.key < key => {}
                (Some(_), None) => {}
                (None, None) => return Ok(None),
                (stored, Some((key, bytes))) => {
                    self.changed = key.next();
                    if stored.as_ref().is_some_and(|s| s.key == key) {
                        self.stored = self.next_stored()?;
                    }
                    match bytes {
                        Some(bytes) => return Ok(Some(Item { key, data: Data::Changed(bytes) })),
                        None => continue,
                    }
                }
            }
            let next = self.next_stored()?;
            return Ok(std::mem::replace(&mut self.stored, next));
        }
    }

    fn next_stored(&mut self) -> Result<Option<Item>> {
        let Some((node, index)) = self.path.next(self.nodes)? else { return Ok(None) };
        let key = node.key(index);
        Ok((key < self.end).then_some(Item { key, data: Data::Stored(node, index) }))
    }
}

/// The way from the root of a tree down to a leaf.
struct Path {
    steps: Vec<Step>,
}

struct Step {
    node: Arc<Node>,
    /// Of the child that the way goes through; in the leaf, of the next item.
    index: usize,
    /// All keys in the node are below this one.
    below: Option<Key>,
}

impl Path {
    /// Down to where `key` is or would be: in the leaf to the first item that is not below it.
    fn down(nodes: &Nodes, root: Pointer, key: Key) -> Result<Self> {
        let mut path = Self { steps: Vec::with_capacity(usize::from(root.level.min(8)) + 1) };
        path.push(nodes, root, None, None, key)?;
        Ok(path)
    }

    /// Adds `at`, whose first key is `first` and whose keys are `below`, and all under it on the way to `key`.
    fn push(
        &mut self,
        nodes: &Nodes,
        mut at: Pointer,
        mut first: Option<Key>,
        mut below: Option<Key>,
        key: Key,
    ) -> Result<()> {
        loop {
            let node = nodes.get(at)?;
            // A tree of one leaf may be empty, and nothing else.
            let last = node.count().checked_sub(1).map(|last| node.key(last));
            let is_first = first.is_none_or(|first| node.count() > 0 && node.key(0) == first);
            let is_below = below.is_none_or(|below| last.is_none_or(|last| last < below));
            if !is_first || !is_below || (node.level() > 0 && last.is_none()) {
                let what = "does not have the keys that its parent says";
                return Err(Error::damaged(format!("the node at logical address {} {what}", at.logical)));
            }
            let found = node.position(key);
            if node.level() == 0 {
                self.steps.push(Step { node, index: found, below });
                return Ok(());
            }
            let is_exact = found < node.count() && node.key(found) == key;
            let index = if is_exact { found } else { found.saturating_sub(1) };
            (at, first) = (node.child(index), Some(node.key(index)));
            let inside = below;
            if index + 1 < node.count() {
                below = Some(node.key(index + 1));
            }
            self.steps.push(Step { node, index, below: inside });
        }
    }

    /// The next item: its leaf and its index there.
    fn next(&mut self, nodes: &Nodes) -> Result<Option<(Arc<Node>, usize)>> {
        loop {
            let Some(step) = self.steps.last_mut() else { return Ok(None) };
            let index = step.index;
            if step.node.level() == 0 {
                if index < step.node.count() {
                    step.index += 1;
                    return Ok(Some((Arc::clone(&step.node), index)));
                }
                self.steps.pop();
                if let Some(parent) = self.steps.last_mut() {
                    parent.index += 1;
                }
                continue;
            }
            if index < step.node.count() {
                let (at, first) = (step.node.child(index), step.node.key(index));
                let below = if index + 1 < step.node.count() { Some(step.node.key(index + 1)) } else { step.below };
                self.push(nodes, at, Some(first), below, first)?;
            } else {
                self.steps.pop();
                if let Some(parent) = self.steps.last_mut() {
                    parent.index += 1;
                }
            }
        }
    }
}
