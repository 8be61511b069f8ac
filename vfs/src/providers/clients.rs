//! `clients/<client>/<fileset>/@<time>/...`: restore points, merged as a Bacula restore would write them.

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
    folder_attributes, ino,
    stored::{Shared, entry_attributes, entry_ino, entry_xattrs, kind_of, node},
};
use crate::node::{Attributes, Dir, Entry, Inode, Kind, Node, Time, Xattr};

/// Client, fileset, and name of a point: `@<time>`.
type PointPath = [String; 3];

/// All points by their paths. Needs all jobs: waits until indexing is done.
type Points = BTreeMap<String, BTreeMap<String, BTreeMap<String, Point>>>;

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

/// The folder `clients`.
pub struct Clients {
    shared: Arc<Shared>,
    points: Mutex<Option<(u64, Arc<Points>)>>,
}

impl Clients {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, points: Mutex::new(None) }
    }

    fn points(&self) -> Result<Arc<Points>> {
        let archive = &self.shared.archive;
        archive.refresh()?;
        let jobs = archive.jobs()?;
        let generation = archive.generation();
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, points)) = points.as_ref().filter(|(known, _)| *known == generation) {
            let _ = known;
            return Ok(Arc::clone(points));
        }
        let mut made = Points::new();
        for job in &jobs {
            if let Some(point) = Point::of(job, &jobs) {
                let [client, fileset, time] = path_of(job, &jobs);
                made.entry(client).or_default().entry(fileset).or_default().insert(time, point);
            }
        }
        let made = Arc::new(made);
        *points = Some((generation, Arc::clone(&made)));
        Ok(made)
    }

    fn folder(&self, path: Vec<String>, children: Vec<(String, Node)>) -> Node {
        Node::Dir(Arc::new(Folder { path, children, since: self.shared.since }))
    }

    fn client(&self, name: &str, filesets: &BTreeMap<String, BTreeMap<String, Point>>) -> Node {
        let children = filesets.iter().map(|(fileset, points)| {
            let path = vec![name.to_owned(), fileset.clone()];
            let points = points.iter().map(|(time, point)| {
                let view = ino(&[b"point", name.as_bytes(), fileset.as_bytes(), time.as_bytes()]);
                let tree = Arc::new(Tree { shared: Arc::clone(&self.shared), point: point.clone(), view });
                (time.clone(), Node::Dir(Arc::new(PointFolder { tree, place: None, listing: OnceLock::new() })))
            });
            (fileset.clone(), self.folder(path, points.collect()))
        });
        self.folder(vec![name.to_owned()], children.collect())
    }
}

impl Inode for Clients {
    fn attributes(&self) -> Result<Attributes> {
        Ok(folder_attributes(ino(&[b"clients"]), self.shared.since))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Clients {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let points = self.points()?;
        let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
        Ok(points.get(name).map(|filesets| self.client(name, filesets)))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        for (name, cookie) in self.points()?.keys().zip(1..).skip(cookie as usize) {
            let ino = ino(&[b"folder", name.as_bytes()]);
            if sink(Entry { name: name.clone().into_bytes(), kind: Kind::Dir, ino, cookie }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// A client's folder, or a fileset's.
struct Folder {
    path: Vec<String>,
    children: Vec<(String, Node)>,
    since: Time,
}

impl Inode for Folder {
    fn attributes(&self) -> Result<Attributes> {
        let parts: Vec<&[u8]> = std::iter::once(&b"folder"[..]).chain(self.path.iter().map(String::as_bytes)).collect();
        Ok(folder_attributes(ino(&parts), self.since))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Folder {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let exact = self.children.iter().find(|(n, _)| n.as_bytes() == name);
        if let Some((_, node)) = exact {
            return Ok(Some(node.clone()));
        }
        // `@2026-11-20T02:00` means the one point that starts so.
        let mut starting =
            self.children.iter().filter(|(n, _)| name.starts_with(b"@") && n.as_bytes().starts_with(name));
        match (starting.next(), starting.next()) {
            (Some((_, node)), None) => Ok(Some(node.clone())),
            _ => Ok(None),
        }
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        for ((name, node), cookie) in self.children.iter().zip(1..).skip(cookie as usize) {
            let ino = node.inode().attributes()?.ino;
            if sink(Entry { name: name.clone().into_bytes(), kind: Kind::Dir, ino, cookie }).is_break() {
                break;
            }
        }
        Ok(())
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
                folder_attributes(self.tree.view, Time { seconds, nanos: 0 })
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
