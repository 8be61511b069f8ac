//! `jobs/<jobid>-<name>-<level>-<time>/...`: each job's files as they were stored.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::Result;
use volreader::{
    archive::Job,
    index::entry::{self, DirId, EntryKind, Flags},
};

use super::{
    ino,
    stored::{Shared, entry_attributes, entry_ino, entry_xattrs, kind_of, node},
};
use crate::node::{Attributes, Dir, Entry, Inode, Kind, Node, Time, Xattr};

/// View number of the files in `jobs/`.
const VIEW: u64 = 0;

/// The folder `jobs`.
pub struct Jobs(Arc<Shared>);

impl Jobs {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Inode for Jobs {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::of_folder(ino(&[b"jobs"]), self.0.since()))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Jobs {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let mut known = 0;
        loop {
            let (jobs, complete) = self.0.archive.jobs_after(known)?;
            if let Some(job) = jobs.iter().find(|j| j.facts.folder().as_bytes() == name) {
                return Ok(Some(root_of(&self.0, job)?));
            }
            known += jobs.len();
            if complete {
                return Ok(None);
            }
        }
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        if cookie == 0 {
            self.0.archive.refresh()?;
        }
        let mut known = cookie as usize;
        loop {
            let (jobs, complete) = self.0.archive.jobs_after(known)?;
            for job in &jobs {
                known += 1;
                let entry = Entry {
                    name: job.facts.folder().into_bytes(),
                    kind: Kind::Dir,
                    ino: root_ino(job),
                    cookie: known as u64,
                };
                if sink(entry).is_break() {
                    return Ok(());
                }
            }
            if complete {
                return Ok(());
            }
        }
    }
}

fn root_ino(job: &Job) -> u64 {
    ino(&[b"job", &job.session.time.to_le_bytes(), &job.session.id.to_le_bytes(), &job.facts.job_id.to_le_bytes()])
}

/// The folder of a job. Its files are not looked at before they are asked for.
fn root_of(shared: &Arc<Shared>, job: &Arc<Job>) -> Result<Node> {
    Ok(Node::Dir(Arc::new(JobDir { shared: Arc::clone(shared), job: Arc::clone(job), place: Place::Root })))
}

/// A folder of a job.
struct JobDir {
    shared: Arc<Shared>,
    job: Arc<Job>,
    place: Place,
}

enum Place {
    Root,
    Below(DirId, entry::Entry),
}

impl JobDir {
    fn dir(&self) -> Result<DirId> {
        match &self.place {
            Place::Root => Ok(self.job.table()?.root()),
            Place::Below(dir, _) => Ok(*dir),
        }
    }

    fn node(&self, entry: entry::Entry) -> Option<Node> {
        match entry.dir {
            Some(dir) => Some(Node::Dir(Arc::new(Self {
                shared: Arc::clone(&self.shared),
                job: Arc::clone(&self.job),
                place: Place::Below(dir, entry),
            }))),
            None => node(&self.shared, &self.job, entry, None, VIEW),
        }
    }
}

/// Of entries with one name the one that is shown: a folder, else what was stored last.
fn chosen(entries: Vec<entry::Entry>) -> Option<entry::Entry> {
    let shown = |e: &entry::Entry| e.kind != EntryKind::Deleted && !e.flags.has(Flags::GHOST);
    entries.into_iter().filter(shown).reduce(|a, b| if a.dir.is_some() { a } else { b })
}

impl Inode for JobDir {
    fn attributes(&self) -> Result<Attributes> {
        Ok(match &self.place {
            Place::Root => {
                Attributes::of_folder(root_ino(&self.job), Time { seconds: self.job.facts.start_seconds(), nanos: 0 })
            }
            Place::Below(_, entry) => entry_attributes(&self.job, entry, VIEW),
        })
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        match &self.place {
            Place::Root => Ok(Vec::new()),
            Place::Below(_, entry) => entry_xattrs(&self.shared, &self.job, entry),
        }
    }
}

impl Dir for JobDir {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let found = self.job.table()?.lookup(self.dir()?, name)?;
        Ok(chosen(found).and_then(|e| self.node(e)))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        let mut group: Vec<entry::Entry> = Vec::new();
        let mut stopped = false;
        let mut flush = |group: &mut Vec<entry::Entry>, cookie: u64| {
            let entry = chosen(std::mem::take(group));
            match entry.and_then(|e| Some((kind_of(&e)?, e))) {
                Some((kind, e)) => sink(Entry { ino: entry_ino(&self.job, &e, VIEW), name: e.name, kind, cookie }),
                None => ControlFlow::Continue(()),
            }
        };
        let from = u32::try_from(cookie).unwrap_or(u32::MAX);
        let mut position = from;
        self.job.table()?.list(self.dir()?, from, &mut |at, entry| {
            if group.last().is_some_and(|g| g.name != entry.name) && flush(&mut group, u64::from(at)).is_break() {
                stopped = true;
                return ControlFlow::Break(());
            }
            position = at + 1;
            group.push(entry);
            ControlFlow::Continue(())
        })?;
        if !stopped {
            let _ = flush(&mut group, u64::from(position));
        }
        Ok(())
    }

    fn walk(&self, path: &[&[u8]]) -> Result<Option<Node>> {
        if matches!(self.place, Place::Root)
            && let Some(entry) = self.job.find_quickly(&path.join(&b'/'))?
        {
            return Ok(self.node(entry));
        }
        let Some((first, rest)) = path.split_first() else { return Ok(None) };
        match self.lookup(first)? {
            Some(Node::Dir(dir)) if !rest.is_empty() => dir.walk(rest),
            found => Ok(found.filter(|_| rest.is_empty())),
        }
    }
}
