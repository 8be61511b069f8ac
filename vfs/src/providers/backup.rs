//! `backup/<hypervisor>/<machine>/...`: what the stock File daemon reads.
//!
//! Who makes backups of running machines says what is there ([`Live`]); it is asked for every request, because a run may
//! begin or end between two. So a node here is a path and no more, and doors keep nothing of it.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{Error, ReadAt, Result};

use super::ino;
use crate::node::{Attributes, Dir, Entry, File, Freshness, Inode, Kind, Node, StoredDigest, Time, Xattr};

/// What is there now.
pub trait Live: Send + Sync {
    /// The names in a folder: hypervisors in the top one (no path), machines in those. `None`: there is no such folder.
    fn folders(&self, path: &[&str]) -> Option<Vec<String>>;

    /// The files of a machine, in the order in which they are to be read.
    fn files(&self, hypervisor: &str, machine: &str) -> Vec<Arc<dyn LiveFile>>;
}

/// A file of a machine.
pub trait LiveFile: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Its times, all of them.
    fn time(&self) -> Time;

    /// Its content, for one reader.
    ///
    /// # Errors
    ///
    /// When it is not here any more, and where it is.
    fn open(&self) -> Result<Arc<dyn ReadAt>>;
}

/// The folder `backup`.
pub struct Backup {
    live: Arc<dyn Live>,
    path: Vec<String>,
}

impl Backup {
    /// With what `live` says.
    #[must_use]
    pub fn new(live: Arc<dyn Live>) -> Self {
        Self { live, path: Vec::new() }
    }

    fn path(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    fn below(&self, name: &str) -> Self {
        Self { live: Arc::clone(&self.live), path: [self.path.clone(), vec![name.to_owned()]].concat() }
    }

    fn number(&self, name: Option<&str>) -> u64 {
        let parts: Vec<&[u8]> =
            [b"backup".as_slice()].into_iter().chain(self.path().into_iter().chain(name).map(str::as_bytes)).collect();
        ino(&parts)
    }

    /// The files here, where this is a machine's folder.
    fn files(&self) -> Option<Vec<Arc<dyn LiveFile>>> {
        match self.path()[..] {
            [hypervisor, machine] => Some(self.live.files(hypervisor, machine)),
            _ => None,
        }
    }

    fn file(&self, file: &Arc<dyn LiveFile>) -> BackupFile {
        BackupFile {
            live: Arc::clone(&self.live),
            path: self.path.clone(),
            name: file.name().to_owned(),
            ino: self.number(Some(file.name())),
        }
    }
}

impl Inode for Backup {
    fn attributes(&self) -> Result<Attributes> {
        let newest = self.files().into_iter().flatten().map(|file| file.time()).max();
        Ok(Attributes::of_folder(self.number(None), newest.unwrap_or_default()))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn freshness(&self) -> Freshness {
        Freshness::Now
    }
}

impl Dir for Backup {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
        if let Some(files) = self.files() {
            let found = files.iter().find(|file| file.name() == name);
            return Ok(found.map(|file| Node::File(Arc::new(self.file(file)))));
        }
        let is_there = self.live.folders(&self.path()).is_some_and(|all| all.iter().any(|n| n == name));
        Ok(is_there.then(|| Node::Dir(Arc::new(self.below(name)))))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        let entries: Vec<(String, Kind)> = match self.files() {
            Some(files) => files.iter().map(|file| (file.name().to_owned(), Kind::File)).collect(),
            None => {
                let names = self.live.folders(&self.path()).unwrap_or_default();
                names.into_iter().map(|name| (name, Kind::Dir)).collect()
            }
        };
        for ((name, kind), cookie) in entries.into_iter().zip(1..).skip(cookie as usize) {
            let ino = self.number(Some(&name));
            if sink(Entry { name: name.into_bytes(), kind, ino, cookie }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// A file of a machine, whichever it is when it is asked for.
struct BackupFile {
    live: Arc<dyn Live>,
    path: Vec<String>,
    name: String,
    ino: u64,
}

impl BackupFile {
    fn now(&self) -> Result<Arc<dyn LiveFile>> {
        let files = match &self.path[..] {
            [hypervisor, machine] => self.live.files(hypervisor, machine),
            _ => Vec::new(),
        };
        let found = files.into_iter().find(|file| file.name() == self.name);
        found.ok_or_else(|| Error::not_found(format!("{} is not there any more", self.name)))
    }
}

impl Inode for BackupFile {
    fn attributes(&self) -> Result<Attributes> {
        let file = self.now()?;
        Ok(Attributes::of_file(self.ino, 0o600, file.size(), file.time()))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn freshness(&self) -> Freshness {
        Freshness::Now
    }
}

impl File for BackupFile {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        self.now()?.open()
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        Ok(None)
    }
}
