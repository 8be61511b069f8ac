//! Nodes by number, for doors whose clients keep a number for as long as they like, over the end of this process, too.
//!
//! A number alone says nothing of where its node is: it is a hash. So a client is given, together with the number, a
//! [`Trail`]: sixteen bits of the number of each directory on the way. A node that is not remembered is found again by
//! following the trail: of a directory on it only the entries that match are looked into, which is one as good as always.
//! So nothing is kept for a client, and what is remembered is bounded; forgetting only costs time.
//!
//! Below a directory that can be changed nodes move, so there the trail ends: that directory knows where they are.

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use blockdev::{Error, ErrorKind, Result};
use quick_cache::{UnitWeighter, Weighter, sync::Cache};

use super::{look_up, numbered};
use crate::node::{Attributes, Dir, Kind, Node, WritableDir};

/// Directories of a trail, at most. A node that lies deeper is found only as long as it is remembered.
pub const TRAIL_MAX: usize = 22;

/// What the remembered places weigh at most: a directory may have a listing with it.
const WEIGHT: u64 = 1 << 16;
const DIR_WEIGHT: u64 = 64;

/// Names of forgotten nodes that were passed by in the search for another, kept because they are wanted next.
const NAMES: usize = 1 << 16;

/// How long a directory is taken for what it was: new jobs and restore points appear in some of them.
const FRESH: Duration = Duration::from_secs(10);

/// Entries looked at in one search, at most.
const SEARCHED: usize = 1 << 21;

/// Where a node lies: the marks of the directories from below the root down to the one that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trail {
    marks: [u16; TRAIL_MAX],
    len: u8,
}

impl Trail {
    /// A trail of these marks; `None` when there are more than [`TRAIL_MAX`].
    #[must_use]
    pub fn new(marks: impl ExactSizeIterator<Item = u16>) -> Option<Self> {
        let mut trail = Self { len: u8::try_from(marks.len()).ok()?, ..Self::default() };
        if marks.len() > TRAIL_MAX {
            return None;
        }
        trail.marks.iter_mut().zip(marks).for_each(|(to, mark)| *to = mark);
        Some(trail)
    }

    /// Its marks, that of the topmost directory first.
    #[must_use]
    pub fn marks(&self) -> &[u16] {
        self.marks.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The mark of the directory with this number.
const fn mark(ino: u64) -> u16 {
    (ino ^ ino >> 16 ^ ino >> 32 ^ ino >> 48) as u16
}

/// A node, and where it was found.
pub struct Place {
    ino: u64,
    node: Node,
    /// The directory that it was found in, and its name there.
    origin: Option<(Arc<Self>, Box<[u8]>)>,
    found: Instant,
}

impl Place {
    /// The node.
    #[must_use]
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// The node's number.
    #[must_use]
    pub const fn ino(&self) -> u64 {
        self.ino
    }

    /// The directory, when it is one.
    #[must_use]
    pub fn dir(&self) -> Option<&dyn Dir> {
        match &self.node {
            Node::Dir(dir) => Some(dir.as_ref()),
            _ => None,
        }
    }

    /// The directory that it was found in; of the root, the root.
    #[must_use]
    pub fn parent(self: &Arc<Self>) -> &Arc<Self> {
        self.origin.as_ref().map_or(self, |(parent, _)| parent)
    }

    /// The way to it. Too deep a place has the trail of nothing.
    #[must_use]
    pub fn trail(&self) -> Trail {
        let up = |place: &Self| place.origin.as_ref().map(|(parent, _)| Arc::clone(parent));
        let mut marks = Vec::new();
        for place in std::iter::successors(up(self), |place| up(place)) {
            if place.dir().is_some_and(|dir| dir.writable().is_some()) {
                // What has been gathered is below this one.
                marks.clear();
            }
            // The root is not on the trail.
            if place.origin.is_some() {
                marks.push(mark(place.ino));
            }
        }
        Trail::new(marks.into_iter().rev()).unwrap_or_default()
    }
}

#[derive(Clone)]
struct ByKind;

impl Weighter<u64, Arc<Place>> for ByKind {
    fn weight(&self, _ino: &u64, place: &Arc<Place>) -> u64 {
        if place.dir().is_some() { DIR_WEIGHT } else { 1 }
    }
}

/// The directory that an entry was seen in, and its name.
type Seen = (Arc<Place>, Box<[u8]>);

/// The nodes of a tree.
pub struct Places {
    root: Arc<Place>,
    known: Cache<u64, Arc<Place>, ByKind>,
    seen: Cache<u64, Seen, UnitWeighter>,
}

impl Places {
    /// Those below the directory `root`.
    ///
    /// # Errors
    ///
    /// When it is no directory or its attributes cannot be read.
    pub fn new(root: Node) -> Result<Self> {
        if !matches!(root, Node::Dir(_)) {
            return Err(Error::invalid("only a directory can be served; `revenant cat` reads a single file"));
        }
        let ino = root.inode().attributes()?.ino;
        let known = Cache::with_weighter((WEIGHT / DIR_WEIGHT) as usize, WEIGHT, ByKind);
        Ok(Self {
            root: Arc::new(Place { ino, node: root, origin: None, found: Instant::now() }),
            known,
            seen: Cache::new(NAMES),
        })
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> &Arc<Place> {
        &self.root
    }

    /// Note that `node` with the number `ino` is called `name` in the directory `parent`.
    pub fn remember(&self, parent: &Arc<Place>, name: &[u8], node: Node, ino: u64) -> Arc<Place> {
        let origin = Some((Arc::clone(parent), name.into()));
        let place = Arc::new(Place { ino, node, origin, found: Instant::now() });
        self.known.insert(ino, Arc::clone(&place));
        place
    }

    /// Forget where the node with the number `ino` was: it was moved or removed.
    pub fn forget(&self, ino: u64) {
        self.known.remove(&ino);
        self.seen.remove(&ino);
    }

    /// The child of `parent` called `name`, with its attributes.
    ///
    /// # Errors
    ///
    /// When `parent` is no directory, or it or the child cannot be read.
    pub fn look_up(&self, parent: &Arc<Place>, name: &[u8]) -> Result<Option<(Arc<Place>, Attributes)>> {
        let dir = parent.dir().ok_or_else(|| Error::invalid("no directory"))?;
        let Some((node, attributes)) = look_up(dir, name)? else { return Ok(None) };
        Ok(Some((self.remember(parent, name, node, attributes.ino), attributes)))
    }

    /// The node with the number `ino` at the end of `trail`; `None` when there is none any more.
    ///
    /// # Errors
    ///
    /// When a directory on the way cannot be read.
    pub fn find(&self, ino: u64, trail: &Trail) -> Result<Option<Arc<Place>>> {
        if ino == self.root.ino {
            return Ok(Some(Arc::clone(&self.root)));
        }
        if let Some(known) = self.known.get(&ino)
            && let Some(place) = self.fresh(known)?
        {
            return Ok(Some(place));
        }
        if let Some((parent, name)) = self.seen.get(&ino)
            && let Some((place, _)) = self.look_up(&parent, &name)?
            && place.ino == ino
        {
            return Ok(Some(place));
        }
        let mut search = Search { places: self, ino, left: SEARCHED };
        search.below(&self.root, trail.marks())
    }
}

impl Places {
    /// `place` as it is now; `None` when it has gone from where it was.
    fn fresh(&self, place: Arc<Place>) -> Result<Option<Arc<Place>>> {
        let Some((parent, name)) = &place.origin else { return Ok(Some(place)) };
        // What can be changed is the same wherever it is now.
        if place.dir().is_none() || place.found.elapsed() < FRESH || place.node.inode().changes().is_some() {
            return Ok(Some(place));
        }
        let Some(parent) = self.fresh(Arc::clone(parent))? else { return Ok(None) };
        Ok(self.look_up(&parent, name)?.map(|(now, _)| now).filter(|now| now.ino == place.ino))
    }
}

/// The search for a node.
struct Search<'a> {
    places: &'a Places,
    ino: u64,
    left: usize,
}

impl Search<'_> {
    /// Follow the rest of a trail from `place` on.
    fn below(&mut self, place: &Arc<Place>, marks: &[u16]) -> Result<Option<Arc<Place>>> {
        let Some(dir) = place.dir() else { return Ok(None) };
        if let Some(writable) = dir.writable() {
            return self.located(place, writable);
        }
        let Some((&next, rest)) = marks.split_first() else { return self.within(place, dir) };
        let mut matching = Vec::new();
        let left = &mut self.left;
        dir.list(0, &mut |entry| {
            *left = left.saturating_sub(1);
            if entry.kind == Kind::Dir && mark(entry.ino) == next {
                matching.push(entry.name);
            }
            if *left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        self.check()?;
        for name in matching {
            let Some((child, _)) = self.places.look_up(place, &name)? else { continue };
            if let Some(found) = self.below(&child, rest)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Go where a directory that can be changed says that the node is.
    fn located(&self, place: &Arc<Place>, dir: &dyn WritableDir) -> Result<Option<Arc<Place>>> {
        let (Some(own), Some(path)) = (dir.locate(place.ino), dir.locate(self.ino)) else { return Ok(None) };
        let Some(below) = path.strip_prefix(own.as_slice()) else { return Ok(None) };
        let mut at = Arc::clone(place);
        for name in below {
            let Some((child, _)) = self.places.look_up(&at, name)? else { return Ok(None) };
            at = child;
        }
        Ok(Some(at).filter(|found| found.ino == self.ino))
    }

    /// Look through the directory that should have the node.
    fn within(&mut self, place: &Arc<Place>, dir: &dyn Dir) -> Result<Option<Arc<Place>>> {
        let mut found = None;
        let Self { places, ino, left } = self;
        dir.list(0, &mut |entry| {
            *left = left.saturating_sub(1);
            if entry.ino == *ino {
                found = Some(entry.name);
            } else if numbered(entry.ino).is_ok() {
                places.seen.insert(entry.ino, (Arc::clone(place), entry.name.into()));
            }
            if *left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if found.is_none() {
            self.check()?;
        }
        let Some(name) = found else { return Ok(None) };
        let looked_up = self.places.look_up(place, &name)?;
        Ok(looked_up.map(|(place, _)| place).filter(|place| place.ino == self.ino))
    }

    fn check(&self) -> Result<()> {
        if self.left > 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Limit, format!("a node was searched for among {SEARCHED} others in vain")))
    }
}
