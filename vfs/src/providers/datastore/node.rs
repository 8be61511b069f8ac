//! The nodes of a datastore as doors see them.
//!
//! A node is a number; where it is now is looked up for each call. All changes of names are made one at a time, the host's
//! folder and the index together.

use std::{
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use blockdev::{Error, ErrorKind, ReadAt, Result};
use rustix::fs::{AtFlags, Mode};

use super::{
    Shared,
    disk::Fixed,
    gone,
    host::{self, OrFailed, Target},
    index::Index,
};
use crate::node::{
    Attributes, Changes, Create, Dir, Entry, File, Inode, Kind, Made, Node, OpenFile, SetAttributes, SetTime, Space,
    Stamp, StoredDigest, Symlink, Time, Update, WritableDir, Xattr,
};

/// Entries that are taken at a time when a folder is listed.
const BATCH: usize = 64;

/// A directory.
pub struct Folder {
    pub shared: Arc<Shared>,
    pub ino: u64,
}

/// A regular file: a disk, or a client's own.
pub struct Leaf {
    pub shared: Arc<Shared>,
    pub ino: u64,
}

/// A symbolic link. It leads nowhere here: only clients follow it.
pub struct Link {
    pub shared: Arc<Shared>,
    pub ino: u64,
}

impl Folder {
    fn attributes_of(&self, folder: &OwnedFd) -> Result<Attributes> {
        let stat = host::stat(folder, None).or_failed("read the attributes of", b".")?;
        Ok(host::attributes(self.ino, &stat))
    }

    /// Do `change` to the entries, and tell what that did to the directory.
    fn change<T>(&self, change: impl FnOnce(&mut Index, &OwnedFd) -> Result<T>) -> Result<(T, Update)> {
        let mut index = self.shared.index.write();
        let folder = self.shared.folder(&index, self.ino)?;
        let before = Stamp::from(&self.attributes_of(&folder)?);
        let done = change(&mut index, &folder)?;
        Ok((done, Update { before, after: self.attributes_of(&folder)? }))
    }

    /// Note what was made as `name`, and set its attributes. When that fails it is removed again.
    fn made(
        &self,
        index: &mut Index,
        folder: &OwnedFd,
        name: &[u8],
        set: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(Node, Attributes)> {
        let stat = set().and_then(|()| host::stat(folder, Some(name)));
        let stat = stat.or_failed("make", name).inspect_err(|_| {
            for flags in [AtFlags::empty(), AtFlags::REMOVEDIR] {
                // One of them is right.
                let _ = rustix::fs::unlinkat(folder, name, flags);
            }
        })?;
        let (ino, kind) = (self.shared.number(&stat), host::kind(&stat));
        index.insert(self.ino, name, ino, kind);
        Ok((self.shared.node(ino, kind), host::attributes(ino, &stat)))
    }

    /// Fails when there is a child called `name`, or no room for one.
    fn check_free(&self, index: &Index, name: &[u8]) -> Result<()> {
        if index.child(self.ino, name).is_some() {
            return Err(taken(name));
        }
        index.check_room(self.ino, name, None)
    }

    /// Remove the entry `name` in the host's `folder`, the child `ino`.
    fn remove(&self, index: &mut Index, folder: &OwnedFd, name: &[u8], kind: Kind, ino: u64) -> Result<()> {
        let size = host::stat(folder, Some(name)).map_or(0, |stat| stat.stx_size);
        let flags = if kind == Kind::Dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(folder, name, flags).or_failed("remove", name)?;
        self.removed(index, self.ino, name, ino, if kind == Kind::File { size } else { 0 })
    }

    /// The entry `name` of `dir` is gone on the host.
    fn removed(&self, index: &mut Index, dir: u64, name: &[u8], ino: u64, size: u64) -> Result<()> {
        if index.remove(dir, name) {
            self.shared.forget(ino, size);
        }
        self.shared.disks.get(&ino).map_or(Ok(()), |disk| disk.renamed())
    }

    /// The file `name` that is there when it is to be created: it is taken, or it is in the way.
    fn taken(&self, index: &Index, folder: &OwnedFd, name: &[u8], how: &Create) -> Result<Option<Node>> {
        let Some((ino, kind)) = index.child(self.ino, name) else { return Ok(None) };
        let node = self.shared.node(ino, kind);
        match (how, kind) {
            (Create::Any(_), Kind::File) => Ok(Some(node)),
            (Create::Exclusive(number), Kind::File) => {
                let stat = host::stat(folder, Some(name)).or_failed("read the attributes of", name)?;
                let is = host::attributes(ino, &stat);
                let same = is.size == 0 && (is.atime, is.mtime) == as_times(*number);
                if same { Ok(Some(node)) } else { Err(taken(name)) }
            }
            _ => Err(taken(name)),
        }
    }
}

impl Inode for Folder {
    fn attributes(&self) -> Result<Attributes> {
        let index = self.shared.index.read();
        self.attributes_of(&self.shared.folder(&index, self.ino)?)
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn changes(&self) -> Option<&dyn Changes> {
        Some(self)
    }
}

impl Dir for Folder {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let child = self.shared.index.read().child(self.ino, name);
        Ok(child.map(|(ino, kind)| self.shared.node(ino, kind)))
    }

    fn list(&self, mut cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        loop {
            let batch = self.shared.index.read().list(self.ino, cookie, BATCH);
            let Some(last) = batch.last() else { return Ok(()) };
            cookie = last.cookie;
            for named in batch {
                let entry = Entry { name: named.name, kind: named.kind, ino: named.ino, cookie: named.cookie };
                if sink(entry).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn writable(&self) -> Option<&dyn WritableDir> {
        Some(self)
    }
}

impl Changes for Folder {
    fn set_attributes(&self, set: &SetAttributes, expected: Option<Time>) -> Result<Option<Update>> {
        if set.size.is_some() {
            return Err(Error::invalid("a directory has no length"));
        }
        let (done, update) = self.change(|_, folder| {
            if !is_expected(&self.attributes_of(folder)?, expected) {
                return Ok(false);
            }
            host::set(Target::Open(&folder.as_fd()), set, false).or_failed("change", b".").map(|()| true)
        })?;
        Ok(done.then_some(update))
    }

    fn sync(&self) -> Result<()> {
        let folder = self.shared.folder(&self.shared.index.read(), self.ino)?;
        host::sync_folder(&folder).or_failed("make durable", b".")
    }
}

impl WritableDir for Folder {
    fn create(&self, name: &[u8], how: &Create) -> Result<Made> {
        let (set, times) = match how {
            Create::Any(set) | Create::New(set) => (*set, None),
            Create::Exclusive(number) => (SetAttributes::default(), Some(as_times(*number))),
        };
        let (made, dir) = self.change(|index, folder| {
            if let Some(node) = self.taken(index, folder, name, how)? {
                return Ok((node, None));
            }
            index.check_room(self.ino, name, None)?;
            let file = host::new_file(folder, name).or_failed("make", name)?;
            let (node, attributes) = self
                .made(index, folder, name, || host::set(Target::Open(&file.as_fd()), &with_times(set, times), true))?;
            Ok((node, Some(attributes)))
        })?;
        let (node, attributes) = made;
        let length = SetAttributes { size: set.size, ..SetAttributes::default() };
        // Not while nobody else can change names: to cut a disk may take a while.
        if let (Some(size), Some(changes)) = (set.size, node.inode().changes())
            && (attributes.is_none() || size > 0)
        {
            changes.set_attributes(&length, None)?;
        } else if let Some(attributes) = attributes {
            return Ok(Made { node, attributes, dir });
        }
        let attributes = node.inode().attributes()?;
        Ok(Made { node, attributes, dir })
    }

    fn make_dir(&self, name: &[u8], set: &SetAttributes) -> Result<Made> {
        let ((node, attributes), dir) = self.change(|index, folder| {
            self.check_free(index, name)?;
            rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700)).or_failed("make", name)?;
            self.made(index, folder, name, || host::set(Target::Open(&host::folder(folder, name)?.as_fd()), set, true))
        })?;
        Ok(Made { node, attributes, dir })
    }

    fn make_symlink(&self, name: &[u8], target: &[u8], set: &SetAttributes) -> Result<Made> {
        if target.is_empty() || target.contains(&0) {
            return Err(Error::invalid("a symbolic link cannot point to that"));
        }
        let ((node, attributes), dir) = self.change(|index, folder| {
            self.check_free(index, name)?;
            rustix::fs::symlinkat(target, folder, name).or_failed("make", name)?;
            self.made(index, folder, name, || host::set(Target::Link(folder, name), set, true))
        })?;
        Ok(Made { node, attributes, dir })
    }

    fn link(&self, name: &[u8], ino: u64) -> Result<Update> {
        let ((), update) = self.change(|index, folder| {
            self.check_free(index, name)?;
            let kind = index.kind(ino).ok_or_else(gone)?;
            if kind == Kind::Dir {
                return Err(Error::invalid("a directory has one name only"));
            }
            let (from, own) = self.shared.entry(index, ino)?;
            rustix::fs::linkat(&from, &own, folder, name, AtFlags::empty()).or_failed("link", name)?;
            index.insert(self.ino, name, ino, kind);
            self.shared.disks.get(&ino).map_or(Ok(()), |disk| disk.renamed())
        })?;
        Ok(update)
    }

    fn remove_file(&self, name: &[u8]) -> Result<Update> {
        let ((), update) = self.change(|index, folder| {
            let (ino, kind) = index.child(self.ino, name).ok_or_else(|| missing(name))?;
            if kind == Kind::Dir {
                return Err(Error::invalid(format!("'{}' is a directory", name.escape_ascii())));
            }
            self.remove(index, folder, name, kind, ino)
        })?;
        Ok(update)
    }

    fn remove_dir(&self, name: &[u8]) -> Result<Update> {
        let ((), update) = self.change(|index, folder| {
            let (ino, kind) = index.child(self.ino, name).ok_or_else(|| missing(name))?;
            if kind != Kind::Dir {
                return Err(Error::invalid(format!("'{}' is no directory", name.escape_ascii())));
            }
            check_empty(index, ino, name)?;
            self.remove(index, folder, name, kind, ino)
        })?;
        Ok(update)
    }

    fn rename(&self, name: &[u8], to: u64, to_name: &[u8]) -> Result<(Update, Update)> {
        let (other, own) = self.change(|index, folder| {
            let target = Self { shared: Arc::clone(&self.shared), ino: to };
            let to_folder = self.shared.folder(index, to)?;
            let before = Stamp::from(&target.attributes_of(&to_folder)?);
            let (ino, kind) = index.child(self.ino, name).ok_or_else(|| missing(name))?;
            let replaced = index.child(to, to_name);
            // Two names of one file: there is nothing to do (POSIX).
            if replaced.is_none_or(|(other, _)| other != ino) {
                match replaced {
                    Some((other, Kind::Dir)) if kind == Kind::Dir => check_empty(index, other, to_name)?,
                    Some((_, other)) if (other == Kind::Dir) != (kind == Kind::Dir) => return Err(taken(to_name)),
                    _ => {}
                }
                if kind == Kind::Dir && index.is_within(to, ino) {
                    return Err(Error::invalid("a directory cannot be moved into itself"));
                }
                index.check_room(to, to_name, Some(ino))?;
                let stat = host::stat(&to_folder, Some(to_name)).ok();
                rustix::fs::renameat(folder, name, &to_folder, to_name).or_failed("rename", name)?;
                if let (Some((other, kind)), Some(stat)) = (replaced, stat) {
                    let size = if kind == Kind::File { stat.stx_size } else { 0 };
                    self.removed(index, to, to_name, other, size)?;
                }
                index.rename(self.ino, name, to, to_name);
            }
            Ok(Update { before, after: target.attributes_of(&to_folder)? })
        })?;
        Ok((own, other))
    }

    fn tree(&self) -> u64 {
        self.shared.root
    }

    fn locate(&self, ino: u64) -> Option<Vec<Vec<u8>>> {
        self.shared.index.read().path(ino)
    }

    fn space(&self) -> Result<Space> {
        self.shared.space()
    }
}

impl Inode for Leaf {
    fn attributes(&self) -> Result<Attributes> {
        if let Some(disk) = self.shared.disks.get(&self.ino) {
            use crate::node::WritableFile;
            let attributes = disk.attributes()?;
            return if attributes.nlink > 0 { Ok(attributes) } else { Err(gone()) };
        }
        self.shared.attributes(self.ino)
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn changes(&self) -> Option<&dyn Changes> {
        Some(self)
    }
}

impl File for Leaf {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(Fixed::new(self.shared.open_file(self.ino)?)?))
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        Ok(None)
    }

    fn writable(&self) -> Result<Option<OpenFile>> {
        self.shared.open_file(self.ino).map(Some)
    }
}

impl Changes for Leaf {
    fn set_attributes(&self, set: &SetAttributes, expected: Option<Time>) -> Result<Option<Update>> {
        self.shared.open_file(self.ino)?.set_attributes(set, expected)
    }

    fn sync(&self) -> Result<()> {
        self.shared.open_file(self.ino)?.sync()
    }
}

impl Inode for Link {
    fn attributes(&self) -> Result<Attributes> {
        self.shared.attributes(self.ino)
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn changes(&self) -> Option<&dyn Changes> {
        Some(self)
    }
}

impl Symlink for Link {
    fn target(&self) -> Result<Vec<u8>> {
        let index = self.shared.index.read();
        let (folder, name) = self.shared.entry(&index, self.ino)?;
        Ok(rustix::fs::readlinkat(&folder, &name, Vec::new()).or_failed("read", &name)?.into_bytes())
    }
}

impl Changes for Link {
    fn set_attributes(&self, set: &SetAttributes, expected: Option<Time>) -> Result<Option<Update>> {
        if set.size.is_some() {
            return Err(Error::invalid("the length of a symbolic link is not set"));
        }
        // Nobody changes names meanwhile, and so nobody else changes this one.
        let index = self.shared.index.write();
        let (folder, name) = self.shared.entry(&index, self.ino)?;
        let told = || host::stat(&folder, Some(&name)).map(|stat| host::attributes(self.ino, &stat));
        let before = told().or_failed("read the attributes of", &name)?;
        if !is_expected(&before, expected) {
            return Ok(None);
        }
        host::set(Target::Link(&folder, &name), set, false).or_failed("change", &name)?;
        let after = told().or_failed("read the attributes of", &name)?;
        Ok(Some(Update { before: Stamp::from(&before), after }))
    }

    fn sync(&self) -> Result<()> {
        let index = self.shared.index.read();
        let (folder, name) = self.shared.entry(&index, self.ino)?;
        host::sync_folder(&folder).or_failed("make durable", &name)
    }
}

fn is_expected(attributes: &Attributes, expected: Option<Time>) -> bool {
    expected.is_none_or(|expected| expected == attributes.ctime)
}

/// The number of an exclusive creation is kept where all servers keep it, in times that the client sets next anyway.
fn as_times(number: [u8; 8]) -> (Time, Time) {
    let [a, b, c, d, e, f, g, h] = number;
    // Filesystems with small inodes have no times beyond 2038.
    let time = |bytes| Time { seconds: i64::from(u32::from_be_bytes(bytes) & 0x7fff_ffff), nanos: 0 };
    (time([a, b, c, d]), time([e, f, g, h]))
}

fn with_times(set: SetAttributes, times: Option<(Time, Time)>) -> SetAttributes {
    match times {
        Some((atime, mtime)) => {
            SetAttributes { atime: Some(SetTime::At(atime)), mtime: Some(SetTime::At(mtime)), ..set }
        }
        None => set,
    }
}

fn check_empty(index: &Index, ino: u64, name: &[u8]) -> Result<()> {
    if index.is_empty(ino) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotEmpty, format!("'{}' is not empty", name.escape_ascii())))
}

fn taken(name: &[u8]) -> Error {
    Error::new(ErrorKind::Exists, format!("'{}' is there already", name.escape_ascii()))
}

fn missing(name: &[u8]) -> Error {
    Error::not_found(format!("'{}' is not there", name.escape_ascii()))
}
