//! Nodes as a tar or zip archive, in one pass to wherever bytes can be written: nothing is staged, nothing is sought.
//!
//! * `plan`: what of a file's content goes into the archive, decided before its first byte is written;
//! * `tar` with its `pax` headers and `acl` texts, `zip`: the formats.
//!
//! An archive stays valid whatever happens to a file: its header says how long it is, so what cannot be read becomes
//! zeros, and is reported. A file that cannot be opened at all is left out, and reported. Memory: a chunk of content; the
//! paths of files with several names (tar); some 150 bytes a member, for the directory at the end (zip).

mod acl;
mod pax;
mod plan;
mod tar;
mod zip;

use std::{
    collections::{HashMap, HashSet},
    io::Write,
};

use blockdev::{Error, ErrorKind, Result};
use volreader::digest::Hasher;

use super::{Options, Progress, Run, Source, Summary, check_names, content, listing::Listing, walk::DEPTH};
use crate::node::{Attributes, File, Kind, Node, Xattr, is_name};
use plan::{Filler, Plan};

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// POSIX (pax): all names, times with nanoseconds, extended attributes, ACLs, hard links, holes, devices.
    Tar,
    /// Deflated; without extended attributes, hard links and devices, which zip does not have.
    Zip,
    /// The same, not compressed.
    ZipStored,
}

/// What a format can keep.
struct Can {
    links: bool,
    holes: bool,
    xattrs: bool,
}

/// Why a format cannot have a member.
enum Refusal {
    /// It has no files of this type: whoever chose it knows that.
    Kind(&'static str),
    /// It cannot have this one.
    Member(&'static str),
}

/// What goes into an archive under a name.
struct Member<'m> {
    /// Its path, which does not begin with a slash.
    path: &'m [u8],
    attributes: &'m Attributes,
    xattrs: &'m [Xattr],
}

/// The writer of a format. An error means that the archive cannot be written any more.
trait Archive {
    fn can(&self) -> Can;

    /// Why there can be no such member.
    fn refuses(&self, member: &Member<'_>) -> Option<Refusal>;

    /// A directory.
    fn dir(&mut self, member: &Member<'_>) -> Result<()>;

    /// A symbolic link.
    fn symlink(&mut self, member: &Member<'_>, target: &[u8]) -> Result<()>;

    /// A device or a fifo.
    fn special(&mut self, member: &Member<'_>) -> Result<()>;

    /// One more name of the file that is in the archive as `first`.
    fn hard_link(&mut self, member: &Member<'_>, first: &[u8]) -> Result<()>;

    /// A file. What follows is exactly the bytes that `plan` stores, and the end.
    fn begin(&mut self, member: &Member<'_>, plan: &Plan) -> Result<()>;

    /// The next bytes of the file that was begun.
    fn content(&mut self, bytes: &[u8]) -> Result<()>;

    /// The end of the file that was begun.
    fn end(&mut self) -> Result<()>;

    /// The end of the archive.
    fn finish(&mut self) -> Result<()>;
}

/// Write `sources` to `out` as an archive. Its members lie as [`extract`](super::extract()) lays them into a folder. What
/// cannot be read is listed in the summary. An archive that `out` does not take to its end, or whose making was
/// cancelled, has no end, and the summary says so.
///
/// # Errors
///
/// When the name of a source is none: nothing was written then.
pub fn write(
    sources: &[Source],
    out: &mut dyn Write,
    format: Format,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Summary> {
    check_names(sources)?;
    let run = Run::new(options, progress, 1);
    let mut archive: Box<dyn Archive + '_> = match format {
        Format::Tar => Box::new(tar::Tar::new(out)),
        Format::Zip => Box::new(zip::Zip::new(out, true)),
        Format::ZipStored => Box::new(zip::Zip::new(out, false)),
    };
    let taken = (sources.len() > 1).then(HashSet::new);
    let mut pass =
        Pass { run: &run, archive: archive.as_mut(), path: Vec::new(), first: HashMap::new(), taken, lost: 0 };
    if let Err(e) = pass.all(sources) {
        run.tally.stop(&e.to_string());
    }
    Ok(run.tally.into_summary())
}

struct Pass<'p, 'a> {
    run: &'p Run<'a>,
    archive: &'p mut dyn Archive,
    /// Of the member being written.
    path: Vec<u8>,
    /// Files with several names: the first in the archive, by inode number.
    first: HashMap<u64, Vec<u8>>,
    /// Hashes of the paths that are in the archive, where two sources may have the same.
    taken: Option<HashSet<u128>>,
    /// Members whose extended attributes the format does not keep.
    lost: u64,
}

impl Pass<'_, '_> {
    fn all(&mut self, sources: &[Source]) -> Result<()> {
        for source in sources {
            match &source.node {
                Node::Dir(dir) => self.tree(Listing::new(dir.clone()))?,
                node => {
                    self.path = source.name.clone();
                    self.leaf(node, &source.name)?;
                    self.path.clear();
                }
            }
        }
        self.run.progress.all_found();
        if self.lost > 0 {
            let lost = self.lost;
            self.run
                .tally
                .warn(format!("extended attributes and ACLs of {lost} files: zip does not keep them, tar does"));
        }
        self.archive.finish()
    }

    /// Everything below a directory, whose own path is that of the pass.
    fn tree(&mut self, top: Listing) -> Result<()> {
        let mut stack = vec![(top, self.path.len())];
        loop {
            let deep = stack.len() >= DEPTH;
            let Some((listing, len)) = stack.last_mut() else { return Ok(()) };
            if self.run.stopping() {
                return Err(Error::new(ErrorKind::Limit, "cancelled"));
            }
            self.path.truncate(*len);
            let entry = match listing.next() {
                Ok(Some(entry)) => entry,
                ended => {
                    if let Err(e) = ended {
                        self.run.tally.fail_whole(self.path.clone(), &e);
                    }
                    stack.pop();
                    continue;
                }
            };
            if *len > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&entry.name);
            let found = match is_name(&entry.name) {
                true => listing.dir().lookup(&entry.name),
                false => Err(Error::damaged("not in the archive, for its name is none")),
            };
            match found {
                Ok(Some(Node::Dir(_))) if deep => {
                    self.failed(&Error::new(ErrorKind::Limit, "too many directories in each other"));
                }
                Ok(Some(Node::Dir(dir))) => {
                    let (node, path) = (Node::Dir(dir.clone()), self.path.clone());
                    self.dir(&node)?;
                    self.beside(&node, &entry.name)?;
                    self.path = path;
                    stack.push((Listing::new(dir), self.path.len()));
                }
                Ok(Some(node)) => self.leaf(&node, &entry.name)?,
                Ok(None) => drop(self.failed(&Error::damaged("it is listed and cannot be found"))),
                Err(e) => drop(self.failed(&e)),
            }
        }
    }

    /// The member at the path is not in the archive, which is what this returns.
    fn failed(&self, error: &Error) -> bool {
        self.run.tally.fail_whole(self.path.clone(), error);
        false
    }

    /// Whether the path is not in the archive yet; it counts as being there from now on.
    fn is_new(&mut self) -> bool {
        let hash = xxhash_rust::xxh3::xxh3_128(&self.path);
        self.taken.as_mut().is_none_or(|taken| taken.insert(hash))
    }

    fn dir(&mut self, node: &Node) -> Result<()> {
        if !self.is_new() {
            return Ok(());
        }
        match node.inode().attributes() {
            Ok(attributes) => self.member(node, &attributes, |archive, member| archive.dir(member))?,
            // What is in it may be readable all the same.
            Err(e) => self.failed(&e),
        };
        self.run.tally.directory();
        Ok(())
    }

    fn leaf(&mut self, node: &Node, name: &[u8]) -> Result<()> {
        let attributes = match node.inode().attributes() {
            Ok(attributes) => attributes,
            Err(e) => {
                self.failed(&e);
                return Ok(());
            }
        };
        let size = if attributes.kind == Kind::File { attributes.size } else { 0 };
        self.run.progress.found(1, size);
        self.entry(node, &attributes)?;
        self.run.progress.done(1, 0);
        if let Node::File(_) = node { self.beside(node, name) } else { Ok(()) }
    }

    /// The alternate data streams of `node`, which is called `name` and has the path that was written last.
    fn beside(&mut self, node: &Node, name: &[u8]) -> Result<()> {
        let path = self.path.clone();
        let len = path.len() - name.len();
        for (name, node) in self.run.beside(node.inode(), name, &|| path.clone()) {
            self.path.truncate(len);
            self.path.extend_from_slice(&name);
            if let Ok(attributes) = node.inode().attributes() {
                self.run.progress.found(1, attributes.size);
                self.entry(&node, &attributes)?;
                self.run.progress.done(1, 0);
            }
        }
        Ok(())
    }

    fn entry(&mut self, node: &Node, attributes: &Attributes) -> Result<()> {
        if !self.is_new() {
            self.failed(&Error::invalid("another file of this name is in the archive already"));
            return Ok(());
        }
        let has_links = attributes.nlink > 1 && self.archive.can().links;
        if has_links && let Some(first) = self.first.get(&attributes.ino) {
            // Links have no attributes of their own.
            let member = Member { path: &self.path, attributes, xattrs: &[] };
            self.archive.hard_link(&member, first)?;
            self.run.tally.restored(0);
            return Ok(());
        }
        let is_there = match node {
            Node::File(file) => self.file(node, file.as_ref(), attributes)?,
            Node::Symlink(link) => match link.target() {
                Ok(target) => self.member(node, attributes, |archive, member| archive.symlink(member, &target))?,
                Err(e) => self.failed(&e),
            },
            Node::Special(_) => self.member(node, attributes, |archive, member| archive.special(member))?,
            Node::Dir(_) => self.failed(&Error::invalid("a directory is no leaf")),
        };
        if is_there && attributes.kind != Kind::File {
            self.run.tally.restored(0);
        }
        if is_there && has_links {
            self.first.insert(attributes.ino, self.path.clone());
        }
        Ok(())
    }

    /// Gives `put` the member at the path, unless the format cannot have it. Returns whether it is in the archive.
    fn member(
        &mut self,
        node: &Node,
        attributes: &Attributes,
        put: impl FnOnce(&mut dyn Archive, &Member<'_>) -> Result<()>,
    ) -> Result<bool> {
        let mut xattrs = node.inode().xattrs().unwrap_or_else(|e| {
            self.run.tally.warn(format!("{}: attributes not in the archive: {e}", self.path.escape_ascii()));
            Vec::new()
        });
        if !self.archive.can().xattrs && !xattrs.is_empty() {
            self.lost += 1;
            xattrs.clear();
        }
        let member = Member { path: &self.path, attributes, xattrs: &xattrs };
        match self.archive.refuses(&member) {
            None => put(self.archive, &member).map(|()| true),
            Some(Refusal::Kind(why)) => {
                self.run.tally.warn(format!("{}: left out: {why}", self.path.escape_ascii()));
                Ok(false)
            }
            Some(Refusal::Member(why)) => Ok(self.failed(&Error::unsupported(why))),
        }
    }

    fn file(&mut self, node: &Node, file: &dyn File, attributes: &Attributes) -> Result<bool> {
        let content = match file.open() {
            Ok(content) => content,
            Err(e) => return Ok(self.failed(&e)),
        };
        let plan = Plan::of(content.as_ref(), self.archive.can().holes);
        if !self.member(node, attributes, |archive, member| archive.begin(member, &plan))? {
            return Ok(false);
        }
        let path = || self.path.clone();
        // A digest covers the data that were stored: where they end is not known of a file with too many holes.
        let stored = if plan.is_exact { self.run.digest(file, &path) } else { None };
        let hasher = stored.as_ref().map(|digest| Hasher::new(digest.algorithm));
        let mut filler = Filler::new(self.archive, &plan);
        let (bad, digest) = content::copy_in_order(self.run, content.as_ref(), &plan.data, &mut filler, hasher)?;
        filler.end()?;
        self.archive.end()?;
        self.run.progress.done(0, plan.size.saturating_sub(plan.data_len()));
        match content::failure(bad, stored, digest, &path) {
            Some(failure) => self.run.tally.partly(failure),
            None => self.run.tally.restored(plan.size),
        }
        Ok(true)
    }
}
