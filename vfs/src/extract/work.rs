//! What a worker does: make one entry, complete, then name it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use blockdev::{Error, ErrorKind, Result};
use rustix::{
    fd::AsFd,
    fs::{FileType, Mode, OFlags},
};

use super::{
    Run,
    content::{self, Shared},
    links::{Claim, Links},
    metadata::{self, Object, Wanted},
    queue::{Queue, Work},
    summary::Failure,
    target::TargetDir,
};
use volreader::digest::Hasher;

use crate::node::{Attributes, File, Kind, Node};

/// An entry to make.
pub(super) struct Job<'a> {
    pub(super) node: Node,
    pub(super) attributes: Attributes,
    pub(super) dir: Arc<TargetDir<'a>>,
    pub(super) name: Vec<u8>,
}

/// What the workers share.
pub(super) struct Worker<'w, 'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) queue: &'w Queue<Job<'a>>,
    pub(super) links: &'w Links,
}

/// How an entry came out.
enum Made {
    Whole,
    /// It is there, but its content is not as it was.
    Partly(Failure),
    Kept,
}

impl<'a> Worker<'_, 'a> {
    /// Work until there is nothing to do any more.
    pub(super) fn work(&self) {
        while let Some(work) = self.queue.next() {
            match work {
                Work::Help(shared) => {
                    // A panic is reported by the owner of the file.
                    let _panic = catch_unwind(AssertUnwindSafe(|| shared.help(self.run)));
                }
                Work::Begin(job) if self.run.stopping() => drop(job),
                Work::Begin(job) => {
                    if catch_unwind(AssertUnwindSafe(|| self.begin(&job))).is_err() {
                        let e = Error::new(ErrorKind::Io, "a bug in this program: please report it with this output");
                        self.run.tally.fail_whole(job.dir.path_of(&job.name), &e);
                    }
                }
            }
        }
    }

    fn begin(&self, job: &Job<'a>) {
        let tally = &self.run.tally;
        let outcome = self.entry(job);
        if matches!(outcome, Ok(Made::Whole | Made::Partly(_))) {
            self.beside(job);
        }
        match outcome {
            Ok(Made::Whole) => tally.restored(if job.attributes.kind == Kind::File { job.attributes.size } else { 0 }),
            Ok(Made::Partly(failure)) => tally.partly(failure),
            Ok(Made::Kept) => tally.kept(),
            Err(e) => tally.fail_whole(job.dir.path_of(&job.name), &e),
        }
        self.run.progress.done(1, 0);
    }

    /// Write a file's alternate data streams beside it, as `name:stream`.
    fn beside(&self, job: &Job<'a>) {
        let Node::File(_) = &job.node else { return };
        for (name, node) in self.run.beside(job.node.inode(), &job.name, &|| job.dir.path_of(&job.name)) {
            if let Ok(attributes) = node.inode().attributes() {
                self.begin(&Job { node, attributes, dir: Arc::clone(&job.dir), name });
            }
        }
    }

    fn entry(&self, job: &Job<'a>) -> Result<Made> {
        if self.run.options.keep_existing && job.dir.exists(&job.name) {
            return Ok(Made::Kept);
        }
        if job.attributes.nlink < 2 {
            return self.make(job);
        }
        match self.links.claim(job.attributes.ino) {
            Claim::Write(first) => {
                let made = self.make(job)?;
                first.written(job.dir.place().child(&job.name));
                Ok(made)
            }
            Claim::Link(place) => self.links.link(&place, &job.dir, &job.name).map(|()| Made::Whole),
            Claim::Failed => Err(Error::new(ErrorKind::Missing, "the file that it is a hard link of was not restored")),
        }
    }

    fn make(&self, job: &Job<'a>) -> Result<Made> {
        match &job.node {
            Node::File(file) => self.file(job, file.as_ref()),
            Node::Symlink(link) => {
                let target = link.target()?;
                let make =
                    |dir: rustix::fd::BorrowedFd<'_>, name: &str| rustix::fs::symlinkat(target.as_slice(), dir, name);
                self.without_content(job, "cannot make the symbolic link", make)
            }
            Node::Special(_) => {
                let kind = match job.attributes.kind {
                    Kind::Fifo => FileType::Fifo,
                    Kind::Socket => FileType::Socket,
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => return Err(Error::damaged("a special file of no special type")),
                };
                let (major, minor) = job.attributes.rdev;
                let device = if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
                    rustix::fs::makedev(major, minor)
                } else {
                    0
                };
                let make = |dir: rustix::fd::BorrowedFd<'_>, name: &str| {
                    rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)
                };
                self.without_content(job, "cannot make the special file (devices need root)", make)
            }
            Node::Dir(_) => Err(Error::invalid("a directory is no entry to a worker")),
        }
    }

    fn without_content(
        &self,
        job: &Job<'a>,
        what: &'static str,
        make: impl Fn(rustix::fd::BorrowedFd<'_>, &str) -> rustix::io::Result<()>,
    ) -> Result<Made> {
        let (temporary, ()) = job.dir.temporary(what, make)?;
        metadata::apply(self.run, &self.wanted(job), &Object::at(temporary.place())?, &|| job.dir.path_of(&job.name))?;
        Ok(if temporary.commit(&job.name)? { Made::Whole } else { Made::Kept })
    }

    fn file(&self, job: &Job<'a>, file: &dyn File) -> Result<Made> {
        let path = || job.dir.path_of(&job.name);
        let content = file.open()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create =
            |dir: rustix::fd::BorrowedFd<'_>, name: &str| rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
        let (temporary, out) = job.dir.temporary("cannot make the file", create)?;
        content::set_size(&out, content.size())?;
        let stored = self.run.digest(file, &path);
        let (bad, digest) = match stored.as_ref().map(|d| Hasher::new(d.algorithm)) {
            None if self.run.workers > 1 && Shared::worth(content.size()) => {
                let duplicate = out.try_clone().map_err(|e| Error::io("cannot keep the file open", e))?;
                let shared = Arc::new(Shared::new(content, duplicate));
                self.queue.share(&shared);
                shared.help(self.run);
                (shared.wait()?, None)
            }
            hasher => content::copy(self.run, content.as_ref(), &out, hasher)?,
        };
        metadata::apply(self.run, &self.wanted(job), &Object::Open(out.as_fd()), &path)?;
        if !temporary.commit(&job.name)? {
            return Ok(Made::Kept);
        }
        Ok(match content::failure(bad, stored, digest, &path) {
            Some(failure) => Made::Partly(failure),
            None => Made::Whole,
        })
    }

    fn wanted(&self, job: &Job<'a>) -> Wanted {
        Wanted { attributes: job.attributes.clone(), xattrs: job.node.inode().xattrs() }
    }
}
