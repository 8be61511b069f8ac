//! Restore points: what a Bacula restore of a client's fileset to a time would write.
//!
//! The chain is the newest good Full, the newest good Differential since, and all good Incrementals since that.
//! Of each path the newest version counts; a deletion that accurate mode noted ends a path. A folder and a file of
//! the same name are different paths to Bacula ("x/" and "x"); where both would be restored, the newer one stands.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use blockdev::Result;

use super::job::Job;
use crate::index::entry::{DirId, Entry, EntryKind, Flags};

/// A restore point.
#[derive(Debug, Clone)]
pub struct Point {
    /// The chain, oldest first; the last one is the job that made the point.
    pub chain: Vec<Arc<Job>>,
}

/// A folder of a point: where it is in which jobs of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointDir(Vec<(usize, DirId)>);

/// An entry of a point.
#[derive(Debug, Clone)]
pub struct PointEntry {
    /// The job it comes from.
    pub job: Arc<Job>,
    /// The entry there.
    pub entry: Entry,
    /// Its content, for folders.
    pub dir: Option<PointDir>,
    /// Where its content is, for files of which only the attributes changed since.
    pub content: Option<(Arc<Job>, Entry)>,
}

/// Whether two jobs back up the same thing.
fn same_series(a: &Job, b: &Job) -> bool {
    (&a.facts.client, &a.facts.fileset, &a.facts.name) == (&b.facts.client, &b.facts.fileset, &b.facts.name)
}

fn order(a: &Job, b: &Job) -> Ordering {
    (&a.facts.start_time, a.facts.job_id).cmp(&(&b.facts.start_time, b.facts.job_id))
}

impl Point {
    /// The point that `job` made, if it made one: with the other jobs it needs out of `jobs`.
    #[must_use]
    pub fn of(job: &Arc<Job>, jobs: &[Arc<Job>]) -> Option<Self> {
        if !job.facts.is_good_backup() {
            return None;
        }
        let mut before: Vec<_> =
            jobs.iter().filter(|j| j.facts.is_good_backup() && same_series(j, job) && order(j, job).is_lt()).collect();
        before.sort_by(|a, b| order(a, b));
        let is_full = |j: &Job| matches!(j.facts.level, b'F' | b'f');
        if is_full(job) {
            return Some(Self { chain: vec![Arc::clone(job)] });
        }
        let full = before.iter().rposition(|j| is_full(j))?;
        let mut chain = vec![Arc::clone(before[full])];
        if job.facts.level == b'I' {
            let since = &before[full + 1..];
            let differential = since.iter().rposition(|j| j.facts.level == b'D');
            chain.extend(
                since
                    .iter()
                    .skip(differential.unwrap_or(0))
                    .filter(|j| matches!(j.facts.level, b'D' | b'I'))
                    .map(|j| Arc::clone(j)),
            );
        } else if job.facts.level != b'D' {
            return None;
        }
        chain.push(Arc::clone(job));
        Some(Self { chain })
    }

    /// The folder that holds everything.
    ///
    /// # Errors
    ///
    /// When a job's files cannot be read.
    pub fn root(&self) -> Result<PointDir> {
        let roots = self.chain.iter().enumerate().map(|(i, j)| Ok((i, j.table()?.root())));
        roots.collect::<Result<Vec<_>>>().map(PointDir)
    }

    /// A folder's own entry: the newest that was stored.
    ///
    /// # Errors
    ///
    /// When a job's files cannot be read.
    pub fn own(&self, dir: &PointDir) -> Result<Option<PointEntry>> {
        let mut best = None;
        for &(i, id) in dir.0.iter().rev() {
            let entry = self.chain[i].table()?.own(id)?;
            let implicit = entry.flags.has(Flags::IMPLICIT);
            if best.is_none() || !implicit {
                best =
                    Some(PointEntry { job: Arc::clone(&self.chain[i]), entry, dir: Some(dir.clone()), content: None });
            }
            if !implicit {
                break;
            }
        }
        Ok(best)
    }

    /// The entry called `name` in a folder.
    ///
    /// # Errors
    ///
    /// When a job's files cannot be read.
    pub fn lookup(&self, dir: &PointDir, name: &[u8]) -> Result<Option<PointEntry>> {
        let mut versions = Versions::default();
        for &(i, id) in &dir.0 {
            for entry in self.chain[i].table()?.lookup(id, name)? {
                versions.add(i, entry);
            }
        }
        Ok(versions.resolve(&self.chain))
    }

    /// All entries of a folder, by name.
    ///
    /// # Errors
    ///
    /// When a job's files cannot be read.
    pub fn list(&self, dir: &PointDir) -> Result<Vec<PointEntry>> {
        let mut names: BTreeMap<Vec<u8>, Versions> = BTreeMap::new();
        for &(i, id) in &dir.0 {
            self.chain[i].table()?.list(id, 0, &mut |_, entry| {
                names.entry(entry.name.clone()).or_default().add(i, entry);
                std::ops::ControlFlow::Continue(())
            })?;
        }
        Ok(names.into_values().filter_map(|v| v.resolve(&self.chain)).collect())
    }
}

/// The versions of one name, added oldest first.
#[derive(Default)]
struct Versions {
    file: Option<(usize, Entry)>,
    /// The version that has the content, when `file` has none of its own.
    content: Option<(usize, Entry)>,
    dirs: Vec<(usize, Entry)>,
}

impl Versions {
    fn add(&mut self, job: usize, entry: Entry) {
        match entry.kind {
            EntryKind::Deleted if entry.flags.has(Flags::DIR_PATH) => self.dirs.retain(|(j, _)| *j >= job),
            EntryKind::Deleted => {
                if self.file.as_ref().is_some_and(|(j, _)| *j < job) {
                    self.file = None;
                }
            }
            EntryKind::Dir => self.dirs.push((job, entry)),
            _ => {
                let before = self.content.take().or(self.file.take());
                self.content = before.filter(|_| entry.flags.has(Flags::UPDATE));
                self.file = Some((job, entry));
            }
        }
    }

    fn resolve(self, chain: &[Arc<Job>]) -> Option<PointEntry> {
        // Folders that only hold markers do not exist, but their markers count where the folder does.
        let newest_dir = self.dirs.iter().filter(|(_, e)| !e.flags.has(Flags::GHOST)).map(|(j, _)| *j).max();
        let newest_file = self.file.as_ref().map(|(j, _)| *j);
        if newest_dir.is_some() && newest_dir >= newest_file {
            let places: Vec<_> = self.dirs.iter().filter_map(|(j, e)| Some((*j, e.dir?))).collect();
            let own = self.dirs.iter().rev().find(|(_, e)| !e.flags.has(Flags::IMPLICIT)).or(self.dirs.first())?;
            return Some(PointEntry {
                job: Arc::clone(chain.get(own.0)?),
                entry: own.1.clone(),
                dir: Some(PointDir(places)),
                content: None,
            });
        }
        let (job, entry) = self.file?;
        let content = self.content.and_then(|(job, entry)| Some((Arc::clone(chain.get(job)?), entry)));
        Some(PointEntry { job: Arc::clone(chain.get(job)?), entry, dir: None, content })
    }
}
