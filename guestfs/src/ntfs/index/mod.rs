//! Indexes: B-trees of keys, whose root is in the file record and whose other nodes are an attribute of their own.
//!
//! Directories are indexes of names (`$I30`), the table of security descriptors is found through one of numbers (`$SII`).

mod node;
mod walk;

use std::sync::Arc;

use blockdev::{Error, ReadAt, Result, images::Disk};

pub use node::{Entry, Node};
pub use walk::Walk;

use super::{
    file::File,
    kept::{Kept, Weight},
    record::kind,
};

/// The largest node: what a [`Place`] can tell the entries of.
const NODE_MAX: u32 = 1 << 16;

/// Numbers of nodes are below this: a directory of so many has 2^57 bytes.
const VCN_END: u64 = 1 << 48;

/// Nodes by the record number of their file and their number in it.
pub type Nodes = Kept<(u64, u64), Node>;

/// An index.
pub struct Index {
    /// Record number of its file.
    file: u64,
    root: Arc<Node>,
    nodes: Option<Disk>,
    /// Bytes of a node that is not the root.
    node: u32,
    /// Nodes are counted in units of two to the power of this.
    vcn_shift: u32,
}

impl Weight for Index {
    fn bytes(&self) -> usize {
        // The run list's parts are not seen from here.
        self.root.bytes() + 4096
    }
}

impl Index {
    /// The index called `name` (in UTF-16LE) of `file`.
    pub fn of(file: &File, name: &[u8]) -> Result<Self> {
        let root = file.value(kind::INDEX_ROOT, name)?;
        let root = root.ok_or_else(|| file.told(Error::damaged("it has no index")))?;
        let (root, node) = Node::root(root.bytes(file.mft(), NODE_MAX as usize)?).map_err(|e| file.told(e))?;
        let nodes = match file.value(kind::INDEX_ALLOCATION, name)? {
            Some(value) => Some(value.reader(file.mft()).map_err(|e| file.told(e))?),
            None => None,
        };
        if !node.is_power_of_two() || !(512..=NODE_MAX).contains(&node) {
            return Err(file.told(Error::damaged(format!("its index has nodes of {node} bytes"))));
        }
        let cluster_shift = file.mft().clusters.geometry.cluster_shift;
        // Nodes that are smaller than a cluster are counted in sectors.
        let vcn_shift = if node >> cluster_shift > 0 { cluster_shift } else { 9 };
        Ok(Self { file: file.record().number(), root: Arc::new(root), nodes, node, vcn_shift })
    }

    /// The node of the number `vcn`, which is kept among `kept`.
    fn node(&self, vcn: u64, kept: &Nodes) -> Result<Arc<Node>> {
        kept.get(&(self.file, vcn), || {
            let read = || {
                let mut bytes = vec![0; self.node as usize];
                let nodes = self.nodes.as_ref().filter(|_| vcn < VCN_END >> (self.vcn_shift - 9));
                let found = nodes.map_or(Ok(0), |nodes| nodes.read_at(&mut bytes, vcn << self.vcn_shift))?;
                if found < bytes.len() {
                    return Err(Error::damaged("it lies behind the end"));
                }
                Node::parse(vcn, bytes)
            };
            read().map_err(|e| e.context(format!("NTFS file record {}: node {vcn} of its index", self.file)))
        })
    }
}

/// Where an entry of an index is; it stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The node; `None` is the root.
    pub node: Option<u64>,
    /// Byte of the node where the entry begins, a multiple of 8 below [`NODE_MAX`].
    pub at: u32,
}
