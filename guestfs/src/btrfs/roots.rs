//! The tree of trees: where each subvolume begins, and which directory it belongs in.

use std::{collections::BTreeMap, sync::Arc};

use blockdev::{
    Error, Result,
    fields::{le16, le32, le64, slice},
};
use quick_cache::sync::Cache;

use super::{
    changes::Changes,
    checksum::name_hash,
    directory,
    key::{Key, kind, object},
    node::Pointer,
    tree::{Nodes, Tree},
};

/// Subvolumes whose roots are kept.
const KEPT: usize = 256;
/// Bytes of a root item that every version of the format has.
const ITEM_LEN: usize = 239;

/// The root tree.
pub struct Roots {
    nodes: Arc<Nodes>,
    tree: Tree,
    /// What the log changes, by subvolume.
    changes: BTreeMap<u64, Arc<Changes>>,
    kept: Cache<u64, Arc<Tree>>,
}

impl Roots {
    pub fn new(nodes: Arc<Nodes>, root: Pointer) -> Self {
        let tree = Tree::new(Arc::clone(&nodes), root);
        Self { nodes, tree, changes: BTreeMap::new(), kept: Cache::new(KEPT) }
    }

    /// The same with subvolumes changed.
    pub fn changed(self, changes: BTreeMap<u64, Arc<Changes>>) -> Self {
        Self { changes, kept: Cache::new(KEPT), ..self }
    }

    /// The tree numbered `id`, whatever it holds.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none.
    pub fn tree(&self, id: u64) -> Result<Tree> {
        let last = Key::new(id, kind::ROOT_ITEM, u64::MAX);
        let item = self.tree.floor(last)?.filter(|item| item.key.is(id, kind::ROOT_ITEM));
        let item = item.ok_or_else(|| Error::not_found(format!("there is no subvolume {id}")))?;
        // Without references it is being deleted, and some of its nodes may be gone.
        let is_gone = id >= object::FIRST_FREE && le32(item.data(), 216) == 0;
        if is_gone {
            return Err(Error::not_found(format!("subvolume {id} is deleted")));
        }
        Ok(Tree::new(Arc::clone(&self.nodes), root_of(item.data())?))
    }

    /// The subvolume numbered `id`.
    ///
    /// # Errors
    ///
    /// As [`tree`](Self::tree).
    pub fn subvolume(&self, id: u64) -> Result<Arc<Tree>> {
        if id != object::FS_TREE && !(object::FIRST_FREE..=object::LAST_FREE).contains(&id) {
            return Err(Error::not_found(format!("{id} is not the number of a subvolume")));
        }
        self.kept.get_or_insert_with(&id, || {
            let tree = self.tree(id)?;
            let changes = self.changes.get(&id);
            Ok(Arc::new(if let Some(changes) = changes { tree.under(Arc::clone(changes)) } else { tree }))
        })
    }

    /// Whether the subvolume `child` is what `name` in the directory `dir` of the subvolume `parent` stands for. In a
    /// snapshot of its parent it is not: there the name is left, and nothing else.
    pub fn is_child(&self, parent: u64, dir: u64, name: &[u8], child: u64) -> Result<bool> {
        let item = self.tree.get(Key::new(parent, kind::ROOT_REF, child))?;
        Ok(item.is_some_and(|item| {
            let data = item.data();
            le64(data, 0) == dir && slice(data, 18, usize::from(le16(data, 16))) == name
        }))
    }

    /// The subvolume that is mounted when none is named, with `dir` from the superblock.
    pub fn default(&self, dir: u64) -> Result<Option<u64>> {
        let name = b"default";
        let Some(item) = self.tree.get(Key::new(dir, kind::DIR_ITEM, name_hash(name)))? else { return Ok(None) };
        Ok(directory::find(item.data(), name)?.map(|entry| entry.location.object))
    }
}

/// Where the root item `item` says that its tree begins.
pub fn root_of(item: &[u8]) -> Result<Pointer> {
    if item.len() < ITEM_LEN {
        return Err(Error::damaged(format!("a root item of the btrfs has {} bytes", item.len())));
    }
    let level = slice(item, 238, 1).first().copied().unwrap_or(0);
    Ok(Pointer { logical: le64(item, 176), generation: le64(item, 160), level })
}
