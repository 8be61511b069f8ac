//! Restore points of filesets: which there are, and their merged folders as nodes.
//!
//! `clients/` shows them as they are; `machines/` looks in them for disks.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use blockdev::Result;
use volreader::archive::{
    Archive, Job,
    job::component,
    point::{Point, PointDir, PointEntry},
};

use super::{
    ino,
    stored::{Shared, entry_attributes, entry_ino, entry_xattrs, kind_of, node},
};
use crate::node::{Attributes, Dir, Entry, Inode, Node, Time, Xattr};

/// Client, fileset, and name of a point: `@<time>`.
pub(super) type PointPath = [String; 3];

/// All points by their paths. Needs all jobs: waits until indexing is done.
pub(super) type Points = BTreeMap<String, BTreeMap<String, BTreeMap<String, Point>>>;

/// The path of the restore point that `job` made, below `clients/`; `None` when it made none.
///
/// # Errors
///
/// When indexing failed.
pub fn point_path(archive: &Archive, job: &Arc<Job>) -> Result<Option<String>> {
    let jobs = archive.jobs()?;
    Ok(Point::of(job, &jobs).map(|_| {
        let [client, fileset, time] = path_of(job, &jobs);
        format!("clients/{client}/{fileset}/{time}")
    }))
}

fn path_of(job: &Job, jobs: &[Arc<Job>]) -> PointPath {
    let facts = &job.facts;
    // Jobs that started in the same second are told apart by their numbers.
    let twin = jobs.iter().any(|j| {
        let f = &j.facts;
        f.job_id != facts.job_id
            && (&f.client, &f.fileset, &f.start_time) == (&facts.client, &facts.fileset, &facts.start_time)
    });
    let suffix = if twin { format!("-{}", facts.job_id) } else { String::new() };
    [component(&facts.client), component(&facts.fileset), format!("@{}{suffix}", facts.path_time())]
}

/// All restore points of an archive, made anew when its jobs change.
pub struct PointSet {
    shared: Arc<Shared>,
    made: Mutex<Option<(u64, Arc<Points>)>>,
}

impl PointSet {
    pub(super) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared: Arc::clone(shared), made: Mutex::new(None) })
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The points as they are now, and the generation of jobs they are of.
    pub(super) fn all(&self) -> Result<(u64, Arc<Points>)> {
        let archive = &self.shared.archive;
        archive.refresh()?;
        let jobs = archive.jobs()?;
        let generation = archive.generation();
        let mut kept = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, points)) = kept.as_ref().filter(|(known, _)| *known == generation) {
            return Ok((generation, Arc::clone(points)));
        }
        let mut made = Points::new();
        for job in &jobs {
            if let Some(point) = Point::of(job, &jobs) {
                let [client, fileset, time] = path_of(job, &jobs);
                made.entry(client).or_default().entry(fileset).or_default().insert(time, point);
            }
        }
        let made = Arc::new(made);
        *kept = Some((generation, Arc::clone(&made)));
        Ok((generation, made))
    }

    /// The folder of a point that holds everything.
    pub(super) fn root(&self, [client, fileset, time]: [&str; 3], point: &Point) -> Arc<dyn Dir> {
        let view = ino(&[b"point", client.as_bytes(), fileset.as_bytes(), time.as_bytes()]);
        let tree = Arc::new(Tree { shared: Arc::clone(&self.shared), point: point.clone(), view });
        Arc::new(PointFolder { tree, place: None, listing: OnceLock::new() })
    }
}

/// A restore point.
struct Tree {
    shared: Arc<Shared>,
    point: Point,
    view: u64,
}

/// A folder of a restore point.
struct PointFolder {
    tree: Arc<Tree>,
    /// The folder and its own entry; `None` for the point's root.
    place: Option<(PointDir, PointEntry)>,
    /// The merged listing, made when it is first wanted.
    listing: OnceLock<Vec<PointEntry>>,
}

impl PointFolder {
    fn dir(&self) -> Result<PointDir> {
        match &self.place {
            Some((dir, _)) => Ok(dir.clone()),
            None => self.tree.point.root(),
        }
    }

    fn node(&self, found: PointEntry) -> Option<Node> {
        match found.dir.clone() {
            Some(dir) => {
                let tree = Arc::clone(&self.tree);
                Some(Node::Dir(Arc::new(Self { tree, place: Some((dir, found)), listing: OnceLock::new() })))
            }
            None => node(&self.tree.shared, &found.job, found.entry, found.content, self.tree.view),
        }
    }
}

impl Inode for PointFolder {
    fn attributes(&self) -> Result<Attributes> {
        Ok(match &self.place {
            Some((_, own)) => entry_attributes(&own.job, &own.entry, self.tree.view),
            None => {
                let seconds = self.tree.point.chain.last().map_or(0, |j| j.facts.start_seconds());
                Attributes::of_folder(self.tree.view, Time { seconds, nanos: 0 })
            }
        })
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        match &self.place {
            Some((_, own)) => entry_xattrs(&self.tree.shared, &own.job, &own.entry),
            None => Ok(Vec::new()),
        }
    }
}

impl Dir for PointFolder {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let found = self.tree.point.lookup(&self.dir()?, name)?;
        Ok(found.and_then(|f| self.node(f)))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        let listing = match self.listing.get() {
            Some(listing) => listing,
            None => {
                let made = self.tree.point.list(&self.dir()?)?;
                self.listing.get_or_init(|| made)
            }
        };
        for (found, cookie) in listing.iter().zip(1..).skip(cookie as usize) {
            let Some(kind) = kind_of(&found.entry) else { continue };
            let ino = entry_ino(&found.job, &found.entry, self.tree.view);
            if sink(Entry { name: found.entry.name.clone(), kind, ino, cookie }).is_break() {
                break;
            }
        }
        Ok(())
    }
}
