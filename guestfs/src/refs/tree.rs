//! A B+ tree: its rows in order, from any place on, and the row of a key.
//!
//! The place of a row is the path to it, twelve bits for the index in the node of each level. So places grow in the order
//! of the rows, and going on from one costs no more than the way down.

use std::{cmp::Ordering, ops::ControlFlow};

use blockdev::{Error, ErrorKind, Result};

use super::{
    node::{Node, Row, Span},
    page::{Addressing, Pages, Reference},
};

/// Bits of a place for one level.
const LEVEL_BITS: u32 = 12;

/// Where a tree begins.
#[derive(Debug, Clone)]
pub enum Root {
    /// In a page.
    Page(Reference),
    /// In the value of a row.
    Value(Span),
}

/// A tree.
#[derive(Clone)]
pub struct Tree<'a> {
    /// The pages of the volume.
    pub pages: &'a Pages,
    /// Where it begins.
    pub root: Root,
    /// What the block numbers in it mean.
    pub addressing: Addressing,
}

/// What is called for each row, with its place.
pub type Visit<'a> = dyn FnMut(u64, Row) -> Result<ControlFlow<()>> + 'a;

/// What is called for each leaf, with the place of its first row and the index of the first row that is wanted.
pub type VisitLeaf<'a> = dyn FnMut(u64, &Node, usize) -> Result<ControlFlow<()>> + 'a;

impl Tree<'_> {
    /// The topmost node.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn node(&self) -> Result<Node> {
        match &self.root {
            Root::Page(reference) => self.page(reference),
            Root::Value(span) => Node::parse(span),
        }
    }

    fn page(&self, reference: &Reference) -> Result<Node> {
        let page = self.pages.get(reference, self.addressing)?;
        let end = page.len();
        Node::parse(&Span::new(page, self.pages.boot().page_header(), end))
    }

    /// The node that row `row` of a node on `level` leads to.
    fn child(&self, row: &Row, level: u8) -> Result<Node> {
        let reference = Reference::parse(row.value.get(), self.pages.boot());
        let child = self.page(&reference.ok_or_else(|| Error::damaged("a reference of ReFS is too short"))?)?;
        // Levels count down to the leaves: so no node can be below itself.
        if child.level.checked_add(1) != Some(level) {
            return Err(Error::damaged(format!("a node of level {} is below one of level {level}", child.level)));
        }
        Ok(child)
    }

    /// Calls `visit` for each row from the place `from` on, until it breaks.
    ///
    /// # Errors
    ///
    /// When a node cannot be read, and what `visit` says. Rows before were visited.
    pub fn visit(&self, from: u64, visit: &mut Visit<'_>) -> Result<()> {
        self.leaves(from, &mut |place, node, first| {
            for index in first..node.count {
                let row = node.row(index)?;
                if !row.is_deleted && visit(place | index as u64, row)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Calls `visit` for each leaf from the place `from` on, until it breaks.
    ///
    /// # Errors
    ///
    /// As [`visit`](Self::visit).
    pub fn leaves(&self, from: u64, visit: &mut VisitLeaf<'_>) -> Result<()> {
        // A tree in which one page is below several others could be walked for ever.
        let mut left = self.pages.count();
        self.below(&self.node()?, 0, Some(from), &mut left, visit).map(|_| ())
    }

    /// The leaves below `node`, whose rows have the place `place`, from `from` on, if that lies in it.
    fn below(
        &self,
        node: &Node,
        place: u64,
        from: Option<u64>,
        left: &mut u64,
        visit: &mut VisitLeaf<'_>,
    ) -> Result<ControlFlow<()>> {
        let shift = u32::from(node.level) * LEVEL_BITS;
        let digit = from.map_or(0, |from| (from >> shift) as usize & ((1 << LEVEL_BITS) - 1));
        if node.level == 0 {
            return visit(place, node, digit);
        }
        for index in digit..node.count {
            let row = node.row(index)?;
            if row.is_deleted {
                continue;
            }
            *left = left.checked_sub(1).ok_or_else(|| {
                Error::new(ErrorKind::Damaged, "a tree of ReFS has more pages than the volume: it comes back to itself")
            })?;
            let child = self.child(&row, node.level)?;
            let from = from.filter(|_| index == digit);
            if self.below(&child, place | (index as u64) << shift, from, left, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The row at `place`.
    ///
    /// # Errors
    ///
    /// When it cannot be read; `NotFound` when there is none.
    pub fn at(&self, place: u64) -> Result<Row> {
        let mut found = None;
        self.visit(place, &mut |at, row| {
            found = Some(row).filter(|_| at == place);
            Ok(ControlFlow::Break(()))
        })?;
        found.ok_or_else(|| Error::not_found("there is no such row in the tree of ReFS"))
    }

    /// The row whose key `compare` finds equal to the wanted one.
    ///
    /// # Errors
    ///
    /// When a node on the way cannot be read.
    pub fn find(&self, compare: &dyn Fn(&[u8]) -> Ordering) -> Result<Option<Row>> {
        self.find_below(&self.node()?, compare)
    }

    fn find_below(&self, node: &Node, compare: &dyn Fn(&[u8]) -> Ordering) -> Result<Option<Row>> {
        // The first row that is not below the wanted key, and the first one above it.
        let (not_below, above) =
            (partition(node, |key| compare(key).is_lt())?, partition(node, |key| compare(key).is_le())?);
        if node.level == 0 {
            let row = if not_below < node.count { Some(node.row(not_below)?) } else { None };
            return Ok(row.filter(|row| !row.is_deleted && compare(row.key.get()).is_eq()));
        }
        // The key of a child is said to be its largest one; in case it is the smallest, that child is asked too.
        let children = [Some(not_below), above.checked_sub(1).filter(|index| *index != not_below)];
        for index in children.into_iter().flatten().filter(|index| *index < node.count) {
            let row = node.row(index)?;
            if row.is_deleted {
                continue;
            }
            if let Some(found) = self.find_below(&self.child(&row, node.level)?, compare)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// The index of the first row of which `is_before` is false. An empty key is behind all others.
fn partition(node: &Node, is_before: impl Fn(&[u8]) -> bool) -> Result<usize> {
    let (mut low, mut high) = (0, node.count);
    while low < high {
        let middle = low + (high - low) / 2;
        let row = node.row(middle)?;
        let before = !row.key.get().is_empty() && is_before(row.key.get());
        (low, high) = if before { (middle + 1, high) } else { (low, middle) };
    }
    Ok(low)
}
