//! From virtual clusters to places (version 3): the high bits of a number are that of a container, and a tree says where
//! that begins. The tree itself is addressed physically.

use std::{cmp::Ordering, ops::ControlFlow, sync::Arc};

use blockdev::{
    Error, Result,
    fields::{le32, le64},
};
use quick_cache::sync::Cache;

use super::{
    node::Row,
    page::{Addressing, Pages, Reference},
    tree::{Root, Tree},
};

/// Containers whose place is kept: those of 256 GiB.
const KEPT: usize = 4096;

/// Containers have numbers from here on; below, a cluster's number is its place.
const FIRST: u64 = 2;

/// The containers of a volume.
pub struct Containers {
    /// The tree and its copy.
    roots: Vec<Reference>,
    kept: Arc<Cache<u64, u64>>,
    per_container: u64,
}

impl Containers {
    /// Those that the tree at one of `roots` has, each of `per_container` clusters (a power of two).
    pub fn new(roots: Vec<Reference>, per_container: u64) -> Self {
        Self { roots, kept: Arc::new(Cache::new(KEPT)), per_container }
    }

    /// The physical number of the virtual cluster `number`, and how many clusters from it on lie together.
    ///
    /// # Errors
    ///
    /// When its container does not exist, cannot be read, or is compressed.
    pub fn physical(&self, pages: &Pages, number: u64) -> Result<(u64, u64)> {
        let bits = self.per_container.trailing_zeros();
        // One bit between the two halves is always zero.
        let (container, within) = (number >> bits >> 1, number & (self.per_container - 1));
        if container < FIRST {
            return Ok((number, (self.per_container - within)));
        }
        if number >> bits & 1 != 0 {
            return Err(Error::damaged(format!("the virtual cluster {number} lies in no container")));
        }
        let start = self.kept.get_or_insert_with(&container, || self.start(pages, container))?;
        let physical =
            start.checked_add(within).ok_or_else(|| Error::damaged("a container lies outside the volume"))?;
        Ok((physical, self.per_container - within))
    }

    /// The first physical cluster of container `number`.
    fn start(&self, pages: &Pages, number: u64) -> Result<u64> {
        /// Seen by others in memory only; better refused than wrong.
        const COMPRESSED: u32 = 0x800;
        let find = |tree: Tree<'_>| tree.find(&|key| by_number(key, 0, number));
        let row = first_good(self.trees(pages), find)?;
        let row = row.ok_or_else(|| Error::damaged(format!("there is no container {number}")))?;
        let value = row.value.get();
        if le64(value, 0) != number || u64::from(le32(value, 0x18)) != self.per_container || value.len() < 0x30 {
            return Err(Error::damaged(format!("container {number} contradicts itself")));
        }
        if le32(value, 0x14) & COMPRESSED != 0 {
            return Err(Error::unsupported(format!("container {number} of the ReFS volume is compressed")));
        }
        // The rows grew with the versions; this stayed at their end.
        Ok(le64(value, value.len() - 16))
    }

    /// Clusters of all containers, and how many are free.
    ///
    /// # Errors
    ///
    /// When the tree cannot be read; `Unsupported` when it does not say that of all containers.
    pub fn usage(&self, pages: &Pages) -> Result<(u64, u64)> {
        first_good(self.trees(pages), |tree| {
            let (mut total, mut free) = (0_u64, 0_u64);
            tree.visit(0, &mut |_, row: Row| {
                let (clusters, free_here) = (u64::from(le32(row.value.get(), 0x18)), le64(row.value.get(), 0x20));
                if free_here > clusters {
                    return Err(Error::unsupported("how full the ReFS volume is, is not kept with its containers"));
                }
                (total, free) = (total.saturating_add(clusters), free.saturating_add(free_here));
                Ok(ControlFlow::Continue(()))
            })?;
            Ok((total, free))
        })
    }

    /// Whether the volume compresses: what its tree's topmost page says of that (24H2).
    pub fn has_compression(&self, pages: &Pages) -> bool {
        let policy = |root: &Reference| {
            let page = pages.get(root, Addressing::Physical).ok()?;
            Some(le32(&page, 0xa0) == 0x0f && le32(&page, 0xa4) & 0xffff != 0)
        };
        self.roots.iter().find_map(policy).unwrap_or(false)
    }

    fn trees<'a>(&'a self, pages: &'a Pages) -> impl Iterator<Item = Tree<'a>> {
        let tree = move |root: &Reference| Tree { pages, root: Root::Page(*root), addressing: Addressing::Physical };
        self.roots.iter().map(tree)
    }
}

/// What `of` gives for the first of a tree and its copies with which that is no error.
///
/// # Errors
///
/// That of the first one.
pub fn first_good<'a, T>(mut trees: impl Iterator<Item = Tree<'a>>, of: impl Fn(Tree<'a>) -> Result<T>) -> Result<T> {
    let first =
        trees.next().ok_or_else(|| Error::damaged("the checkpoint of ReFS has no root of a tree it should have"))?;
    of(first).or_else(|error| trees.find_map(|tree| of(tree).ok()).ok_or(error))
}

/// The order of a key by its `u64` at `at`, against `wanted`.
pub fn by_number(key: &[u8], at: usize, wanted: u64) -> Ordering {
    le64(key, at).cmp(&wanted)
}
