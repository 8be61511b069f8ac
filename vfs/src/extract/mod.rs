//! The door to the local filesystem: nodes restored with everything that belongs to them.
//!
//! One `walk` makes the directories and hands what is in them to workers through a bounded `queue`. A worker
//! writes a file under a temporary name (`target`), in the same pass checks its digest (`content`), gives it its
//! owner, attributes, mode and times (`metadata`) and only then its name: what has its name is complete. `links`
//! makes hard links of what shares an inode number. A directory gets its own attributes when the last worker is done
//! with it.
//!
//! [`archive`] writes the same nodes as a tar or zip archive instead, in one pass.
//!
//! Nothing is ever written outside the target: every operation names one entry, checked, of a directory that is held
//! open; symbolic links, whether restored or found there, are never followed.

pub mod archive;
mod content;
mod links;
mod listing;
mod metadata;
mod queue;
mod summary;
mod target;
mod walk;
mod work;

use std::{path::Path, sync::Arc, thread};

use blockdev::{Error, Result};

use crate::node::{File, Inode, Node, StoredDigest};
pub use summary::{Failure, Summary};
use {links::Links, queue::Queue, summary::Tally, target::TargetDir, work::Worker};

/// What to restore: a folder, whose contents are written into the target, or anything else, written there as `name`.
#[derive(Clone)]
pub struct Source {
    /// The node.
    pub node: Node,
    /// Its name; of a folder it is not used.
    pub name: Vec<u8>,
}

/// What is checked of the content while it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Compare with the digest that is stored with the file, where there is one.
    #[default]
    Digest,
    /// Nothing. Large files can be written by several workers at once.
    None,
}

/// How to restore.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// What is checked.
    pub verify: Verify,
    /// Leave what is already there as it is, instead of replacing it. What is missing in a directory that is
    /// there is added to it.
    pub keep_existing: bool,
    /// Files worked on at once; default: the cores, at most 16.
    pub workers: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { verify: Verify::Digest, keep_existing: false, workers: None }
    }
}

/// Told how it goes, from several threads; asked whether to go on. All calls are quick or they slow the work down.
pub trait Progress: Sync {
    /// So much more to do was found: nodes other than directories, and bytes of their size.
    fn found(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }

    /// Everything has been found: the totals are final.
    fn all_found(&self) {}

    /// So much of it was done, with or without success. Holes count as their size.
    fn done(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }

    /// Whether to stop. What is complete by then stays, what is not is removed.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody to tell.
impl Progress for () {}

/// What all parts of one extraction share.
struct Run<'a> {
    options: &'a Options,
    progress: &'a dyn Progress,
    tally: Tally,
    workers: usize,
    root: bool,
}

/// Restore `sources` into the folder `target`, which is made if there is none. Its own owner, mode and times are left
/// alone. What cannot be restored is listed in the summary and does not keep the rest from being restored.
///
/// # Errors
///
/// When the target cannot be made or opened, or the name of a source is none: nothing was done then.
pub fn extract(sources: &[Source], target: &Path, options: &Options, progress: &dyn Progress) -> Result<Summary> {
    check_names(sources)?;
    let cores = thread::available_parallelism().map_or(2, std::num::NonZero::get).min(16);
    let run = Run::new(options, progress, options.workers.unwrap_or(cores).clamp(1, 256));
    if !run.root {
        run.tally.warn("owners are not restored: only root can do that");
    }
    let top = TargetDir::top(&run, target)?;
    restore(&run, sources, top)?;
    Ok(run.tally.into_summary())
}

/// Whether all `sources` can be named where they go.
fn check_names(sources: &[Source]) -> Result<()> {
    match sources.iter().find(|s| !matches!(s.node, Node::Dir(_)) && !crate::node::is_name(&s.name)) {
        Some(source) => Err(Error::invalid(format!("'{}' cannot be a file's name", source.name.escape_ascii()))),
        None => Ok(()),
    }
}

fn restore<'a>(run: &'a Run<'a>, sources: &[Source], top: TargetDir<'a>) -> Result<()> {
    let (queue, links) = (Queue::new(), Links::new(&top)?);
    let top = Arc::new(top);
    let worker = Worker { run, queue: &queue, links: &links };
    thread::scope(|scope| {
        // A walk that ends in any way, also by a panic, lets the workers end.
        let closed = queue.close_on_drop();
        let mut started = 0;
        for n in 0..run.workers {
            let builder = thread::Builder::new().name(format!("extract-{n}"));
            if builder.spawn_scoped(scope, || worker.work()).is_ok() {
                started += 1;
            }
        }
        if started == 0 {
            return Err(Error::new(blockdev::ErrorKind::Limit, "no thread can be started to restore files"));
        }
        walk::walk(&worker, sources, &top);
        run.progress.all_found();
        drop(closed);
        Ok(())
    })
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, progress: &'a dyn Progress, workers: usize) -> Self {
        Self { options, progress, tally: Tally::default(), workers, root: rustix::process::geteuid().is_root() }
    }

    /// The digest that is stored with `file`, if it is to be compared.
    fn digest(&self, file: &dyn File, path: &dyn Fn() -> Vec<u8>) -> Option<StoredDigest> {
        if self.options.verify == Verify::None {
            return None;
        }
        file.digest().unwrap_or_else(|e| {
            self.tally.warn(format!("{}: content not verified: {e}", path().escape_ascii()));
            None
        })
    }

    /// The alternate data streams of `node`, which is called `name`, as files beside it: `name:stream`.
    fn beside(&self, node: &dyn Inode, name: &[u8], path: &dyn Fn() -> Vec<u8>) -> Vec<(Vec<u8>, Node)> {
        let streams = node.alternate_streams().unwrap_or_else(|e| {
            self.tally.warn(format!("{}: alternate data streams: {e}", path().escape_ascii()));
            Vec::new()
        });
        let named = streams.into_iter().map(|(stream, node)| ([name, b":", &stream].concat(), node));
        let (shown, odd): (Vec<_>, Vec<_>) = named.partition(|(name, _)| crate::node::is_name(name));
        for (name, _) in odd {
            let (path, name) = (path(), name.escape_ascii());
            self.tally
                .warn(format!("{}: alternate data stream '{name}' has no name that can be shown", path.escape_ascii()));
        }
        shown
    }

    /// Whether to end early; asks the caller, so that every loop notices a cancellation.
    fn stopping(&self) -> bool {
        if !self.tally.stopped() && self.progress.cancelled() {
            self.tally.stop("cancelled");
        }
        self.tally.stopped()
    }
}
