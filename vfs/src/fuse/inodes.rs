//! The nodes that the kernel knows by number.
//!
//! The kernel counts how often it was told a number and gives the count back (`forget`) when it drops the inode from
//! its cache; a node lives here exactly that long. So the table is as large as the kernel's cache, and shrinks when
//! the kernel needs memory.

use std::collections::HashMap;

use parking_lot::RwLock;

use super::attributes::ROOT;
use crate::node::Node;

/// The nodes by the kernel's numbers.
pub(super) struct Inodes {
    table: RwLock<HashMap<u64, Slot>>,
    root: Node,
}

struct Slot {
    /// `None`: the node could not be read when it was listed. The kernel asks for it again by name.
    node: Option<Node>,
    /// The directory it was found in first.
    parent: u64,
    /// How often the kernel was told this number.
    lookups: u64,
}

impl Inodes {
    pub(super) fn new(root: Node) -> Self {
        Self { table: RwLock::default(), root }
    }

    pub(super) fn get(&self, id: u64) -> Option<Node> {
        if id == ROOT {
            return Some(self.root.clone());
        }
        self.table.read().get(&id)?.node.clone()
    }

    /// The number of the directory that holds the directory `id`.
    pub(super) fn parent(&self, id: u64) -> u64 {
        self.table.read().get(&id).map_or(ROOT, |slot| slot.parent)
    }

    /// Note that the kernel is about to be told once more that `id`, found in `parent`, is `node`.
    pub(super) fn remember(&self, id: u64, parent: u64, node: Option<Node>) {
        let mut table = self.table.write();
        let slot = table.entry(id).or_insert(Slot { node: None, parent, lookups: 0 });
        slot.lookups = slot.lookups.saturating_add(1);
        if slot.node.is_none() {
            slot.node = node;
        }
    }

    /// The kernel gives `lookups` of its counts for `id` back.
    pub(super) fn forget(&self, id: u64, lookups: u64) {
        let mut table = self.table.write();
        let Some(slot) = table.get_mut(&id) else { return };
        slot.lookups = slot.lookups.saturating_sub(lookups);
        if slot.lookups == 0 {
            let gone = table.remove(&id);
            // A provider's destructor may take long; nobody shall wait for it.
            drop(table);
            drop(gone);
        }
    }
}
