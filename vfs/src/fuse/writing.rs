//! Changes, where the node can be changed; otherwise the answer is that the filesystem is read-only.

use std::time::{SystemTime, UNIX_EPOCH};

use blockdev::{Error, Result};
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyWrite, Request, TimeOrNow,
};

use super::{
    attributes::{attribute_ttl, entry_ttl, file_attr},
    door::{BUFFER, Tree},
    handles::Content,
};
use crate::node::{
    Attributes, Changes, Create, Dir, Made, Node, OpenFile, SetAttributes, SetTime, Space, Time, WritableDir,
};

/// As in the kernel's interface.
const O_EXCL: i32 = 0o200;

/// Who makes something, and with which mode.
#[derive(Clone, Copy)]
pub(super) struct Caller(SetAttributes);

impl Caller {
    pub(super) fn new(request: &Request, mode: u32) -> Self {
        let (uid, gid) = (Some(request.uid()), Some(request.gid()));
        Self(SetAttributes { permissions: Some(mode & 0o7777), uid, gid, ..SetAttributes::default() })
    }
}

/// What the kernel wishes to be set.
pub(super) struct Setting {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) atime: Option<TimeOrNow>,
    pub(super) mtime: Option<TimeOrNow>,
}

impl From<Setting> for SetAttributes {
    fn from(set: Setting) -> Self {
        let time = |time: TimeOrNow| match time {
            TimeOrNow::Now => SetTime::Now,
            TimeOrNow::SpecificTime(time) => SetTime::At(since_1970(time)),
        };
        Self {
            permissions: set.mode.map(|mode| mode & 0o7777),
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            atime: set.atime.map(time),
            mtime: set.mtime.map(time),
        }
    }
}

fn since_1970(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanos: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            let whole = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Time { seconds: -whole, nanos: 0 },
                nanos => Time { seconds: (-whole).saturating_sub(1), nanos: 1_000_000_000 - nanos },
            }
        }
    }
}

impl Tree {
    /// Do `change` in the directory `id`.
    fn changed<T>(&self, id: u64, change: impl FnOnce(&dyn WritableDir) -> Result<T>) -> std::result::Result<T, Errno> {
        let dir = self.directory(id).ok_or(Errno::ENOTDIR)?;
        let writable = dir.writable().ok_or(Errno::EROFS)?;
        change(writable).map_err(|e| self.errno(&e))
    }

    /// The same, with nothing to tell but how it went.
    pub(super) fn change(&self, id: u64, reply: ReplyEmpty, change: impl FnOnce(&dyn WritableDir) -> Result<()>) {
        match self.changed(id, change) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn setattr(&self, id: u64, handle: Option<u64>, set: &SetAttributes, reply: ReplyAttr) {
        let Some(node) = self.inodes.get(id) else { return reply.error(Errno::EIO) };
        let done = match (handle.and_then(|handle| self.handles.get(handle)), node.inode().changes()) {
            (Some(Content::Writable(file)), _) => file.set_attributes(set, None),
            (_, Some(changes)) => changes.set_attributes(set, None),
            (_, None) => return reply.error(Errno::EROFS),
        };
        match done {
            Ok(Some(update)) => {
                let attributes = update.after;
                reply.attr(&attribute_ttl(attributes.kind, &node), &file_attr(id, &attributes));
            }
            Ok(None) => reply.error(Errno::EIO),
            Err(e) => reply.error(self.errno(&e)),
        }
    }

    pub(super) fn create(&self, parent: u64, name: &[u8], who: Caller, flags: i32, reply: ReplyCreate) {
        let how = if flags & O_EXCL != 0 { Create::New(who.0) } else { Create::Any(who.0) };
        let made = self.changed(parent, |dir| {
            let made = dir.create(name, &how)?;
            let opened = match &made.node {
                Node::File(file) => file.writable()?,
                _ => None,
            };
            let file = opened.ok_or_else(|| Error::invalid("what was made is no file"))?;
            Ok((made, file))
        });
        match made {
            Ok((made, file)) => {
                let handle = FileHandle(self.handles.add(Content::Writable(file)));
                let (ttl, attributes) = (entry_ttl(&made.node), made.attributes);
                self.inodes.remember(attributes.ino, parent, Some(made.node));
                let attr = file_attr(attributes.ino, &attributes);
                reply.created(&ttl, &attr, Generation(0), handle, FopenFlags::FOPEN_NOFLUSH);
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn mkdir(&self, parent: u64, name: &[u8], who: Caller, reply: ReplyEntry) {
        let made = self.changed(parent, |dir| dir.make_dir(name, &who.0));
        self.made(parent, made.map(|Made { node, attributes, .. }| (node, attributes)), reply);
    }

    pub(super) fn symlink(&self, parent: u64, name: &[u8], target: &[u8], who: Caller, reply: ReplyEntry) {
        let set = SetAttributes { permissions: None, ..who.0 };
        let made = self.changed(parent, |dir| dir.make_symlink(name, target, &set));
        self.made(parent, made.map(|Made { node, attributes, .. }| (node, attributes)), reply);
    }

    pub(super) fn link(&self, id: u64, parent: u64, name: &[u8], reply: ReplyEntry) {
        let Some(node) = self.inodes.get(id) else { return reply.error(Errno::EIO) };
        let linked = self.changed(parent, |dir| {
            dir.link(name, id)?;
            node.inode().attributes()
        });
        self.made(parent, linked.map(|attributes| (node, attributes)), reply);
    }

    fn made(&self, parent: u64, made: std::result::Result<(Node, Attributes), Errno>, reply: ReplyEntry) {
        match made {
            Ok((node, attributes)) => {
                let (ttl, entry_ttl) = (attribute_ttl(attributes.kind, &node), entry_ttl(&node));
                self.inodes.remember(attributes.ino, parent, Some(node));
                reply.entry_with_ttls(&ttl, &entry_ttl, &file_attr(attributes.ino, &attributes), Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), flags: RenameFlags, reply: ReplyEmpty) {
        let Some(target) = self.directory(to.0) else { return reply.error(Errno::ENOTDIR) };
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && !matches!(target.lookup(to.1), Ok(None)) {
            return reply.error(Errno::EEXIST);
        }
        let tree = target.writable().map(WritableDir::tree);
        // The kernel knows the root of the mount by another number than its own.
        let number = match target.attributes() {
            Ok(attributes) => attributes.ino,
            Err(e) => return reply.error(self.errno(&e)),
        };
        let renamed = self.changed(from.0, |dir| {
            if tree != Some(dir.tree()) {
                return Ok(false);
            }
            dir.rename(from.1, number, to.1).map(|_| true)
        });
        match renamed {
            Ok(true) => reply.ok(),
            Ok(false) => reply.error(Errno::EXDEV),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn write(&self, handle: u64, offset: u64, data: &[u8], reply: ReplyWrite) {
        let Some(Content::Writable(file)) = self.handles.get(handle) else { return reply.error(Errno::EBADF) };
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > file.limit()) {
            return reply.error(Errno::EFBIG);
        }
        match file.write_at(data, offset) {
            Ok(_) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(e) => reply.error(self.errno(&e)),
        }
    }

    pub(super) fn read_changing(&self, file: &OpenFile, offset: u64, size: u32, reply: ReplyData) {
        BUFFER.with_borrow_mut(|buffer| {
            let wanted = size as usize;
            if buffer.len() < wanted {
                buffer.resize(wanted, 0);
            }
            let buffer = buffer.get_mut(..wanted).unwrap_or_default();
            match file.read_at(buffer, offset) {
                Ok(n) => reply.data(buffer.get(..n).unwrap_or_default()),
                Err(e) => reply.error(self.errno(&e)),
            }
        });
    }

    pub(super) fn sync(&self, handle: u64, reply: ReplyEmpty) {
        match self.handles.get(handle) {
            Some(Content::Writable(file)) => match file.sync() {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(self.errno(&e)),
            },
            _ => reply.ok(),
        }
    }

    pub(super) fn sync_directory(&self, id: u64, reply: ReplyEmpty) {
        let dir = self.directory(id);
        match dir.as_deref().and_then(Dir::writable).map_or(Ok(()), Changes::sync) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(self.errno(&e)),
        }
    }

    /// The room where changes of the node `id` are kept.
    pub(super) fn space(&self, id: u64) -> Option<Space> {
        let dir = self.directory(id).or_else(|| self.directory(self.parent(id)))?;
        dir.writable()?.space().ok()
    }
}
