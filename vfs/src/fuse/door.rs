//! The answers to the kernel's requests.

use std::{cell::RefCell, ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path, sync::Arc, time::SystemTime};

use blockdev::{Error, ErrorKind, ExtentKind, ReadAt, Result};
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::{
    MAX_READ, MountOptions,
    attributes::{BLOCK_SIZE, ROOT, attribute_ttl, entry_ttl, file_attr},
    directory,
    handles::{Content, Handles},
    inodes::Inodes,
    workers::Workers,
    writing::{Caller, Setting},
};
use crate::{
    door::{Report, Totals, look_up, read_whole, readable},
    node::{Dir, Freshness, Node},
};

/// Requests in the background (read-ahead) that the kernel may have under way.
const MAX_BACKGROUND: u16 = 64;

/// Extents looked at for one `lseek`; after that the answer is "data", which is always allowed.
const MAX_SEEK_STEPS: u32 = 1 << 16;

/// The largest value and list of extended attributes that the kernel passes on.
const MAX_XATTR: usize = 1 << 16;

/// The filesystem as fuser drives it.
pub(super) struct Door {
    tree: Arc<Tree>,
    workers: Workers,
    /// Whether other users may enter, so that the kernel has to enforce permissions.
    shared: bool,
    xattrs: bool,
}

/// What the answers need, wherever they are worked out.
pub(super) struct Tree {
    pub(super) inodes: Inodes,
    pub(super) handles: Handles,
    pub(super) report: Arc<Report>,
    totals: Arc<dyn Fn() -> Totals + Send + Sync>,
}

thread_local! {
    /// Each thread's buffer for reads: cleared once, reused for ever.
    pub(super) static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Door {
    pub(super) fn new(root: Arc<dyn Dir>, options: &MountOptions, threads: usize, shared: bool) -> Self {
        let report = Arc::new(Report::new(options.log.clone()));
        let tree = Tree {
            inodes: Inodes::new(Node::Dir(root)),
            handles: Handles::default(),
            report: report.clone(),
            totals: options.totals.clone(),
        };
        let workers = Workers::new(threads, report);
        Self { tree: Arc::new(tree), workers, shared, xattrs: options.xattrs }
    }

    fn run(&self, job: impl FnOnce(&Tree) + Send + 'static) {
        let tree = self.tree.clone();
        self.workers.run(move || job(&tree));
    }
}

impl Tree {
    /// The `errno` for `error`, after telling the log about it.
    pub(super) fn errno(&self, error: &Error) -> Errno {
        // Asking for something impossible is the asking program's affair and no news.
        if error.kind() != ErrorKind::NotFound {
            self.report.tell(&error.to_string());
        }
        Errno::from_i32(error.kind().errno())
    }

    fn lookup(&self, parent: u64, name: &[u8], reply: ReplyEntry) {
        let Some(Node::Dir(dir)) = self.inodes.get(parent) else { return reply.error(Errno::ENOTDIR) };
        match look_up(dir.as_ref(), name) {
            Ok(Some((node, attributes))) => {
                let id = attributes.ino;
                let (ttl, entry_ttl) = (attribute_ttl(attributes.kind, &node), entry_ttl(&node));
                self.inodes.remember(id, parent, Some(node));
                reply.entry_with_ttls(&ttl, &entry_ttl, &file_attr(id, &attributes), Generation(0));
            }
            Ok(None) => reply.error(Errno::ENOENT),
            Err(e) => reply.error(self.errno(&e)),
        }
    }

    fn getattr(&self, id: u64, handle: Option<u64>, reply: ReplyAttr) {
        let Some(node) = self.inodes.get(id) else { return reply.error(Errno::EIO) };
        let attributes = match handle.and_then(|handle| self.handles.get(handle)) {
            // It may have no name any more.
            Some(Content::Writable(file)) => file.attributes(),
            _ => node.inode().attributes(),
        };
        match attributes {
            Ok(attributes) => reply.attr(&attribute_ttl(attributes.kind, &node), &file_attr(id, &attributes)),
            Err(e) => reply.error(self.errno(&e)),
        }
    }

    fn readlink(&self, id: u64, reply: ReplyData) {
        let Some(Node::Symlink(link)) = self.inodes.get(id) else { return reply.error(Errno::EINVAL) };
        match link.target() {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(self.errno(&e)),
        }
    }

    fn open(&self, id: u64, reply: ReplyOpen) {
        let Some(Node::File(file)) = self.inodes.get(id) else { return reply.error(Errno::EIO) };
        let opened = file.writable().and_then(|writable| match writable {
            Some(file) => Ok((Content::Writable(file), FopenFlags::FOPEN_NOFLUSH)),
            // Each reader reads by itself.
            None if file.freshness() == Freshness::Now => {
                Ok((Content::Fixed(file.open()?), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH))
            }
            // It never changes: what the kernel has of it is as good as ever.
            None => Ok((Content::Fixed(file.open()?), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH)),
        });
        match opened {
            Ok((content, flags)) => reply.opened(FileHandle(self.handles.add(content)), flags),
            Err(e) => reply.error(self.errno(&e)),
        }
    }

    fn read(&self, handle: u64, offset: u64, size: u32, reply: ReplyData) {
        let content = match self.handles.get(handle) {
            Some(Content::Fixed(content)) => content,
            Some(Content::Writable(file)) => return self.read_changing(&file, offset, size.min(MAX_READ), reply),
            None => return reply.error(Errno::EBADF),
        };
        let wanted = readable(content.as_ref(), offset, size.min(MAX_READ) as usize);
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < wanted {
                buffer.resize(wanted, 0);
            }
            let Some(buffer) = buffer.get_mut(..wanted) else { return reply.error(Errno::EIO) };
            match read_whole(content.as_ref(), buffer, offset) {
                Ok(()) => reply.data(buffer),
                Err(e) => reply.error(self.errno(&e)),
            }
        });
    }

    fn lseek(&self, handle: u64, offset: i64, whence: i32, reply: ReplyLseek) {
        // As in the kernel's interface.
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let Some(content) = self.handles.get(handle) else { return reply.error(Errno::EBADF) };
        let wanted = match whence {
            SEEK_DATA => ExtentKind::Data,
            SEEK_HOLE => ExtentKind::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let sought = match content {
            Content::Fixed(content) => seek(content.as_ref(), from, wanted),
            // All of it counts as data: it may be, the next moment.
            Content::Writable(file) => file.attributes().map(|is| {
                let found = if wanted == ExtentKind::Data { from } else { is.size };
                (from < is.size).then_some(found)
            }),
        };
        match sought.map(|found| found.map(i64::try_from)) {
            Ok(Some(Ok(found))) => reply.offset(found),
            Ok(Some(Err(_))) => reply.error(Errno::EOVERFLOW),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(e) => reply.error(self.errno(&e)),
        }
    }

    fn getxattr(&self, id: u64, name: &[u8], size: u32, reply: ReplyXattr) {
        let Some(node) = self.inodes.get(id) else { return reply.error(Errno::EIO) };
        match node.inode().xattrs() {
            Ok(xattrs) => match xattrs.iter().find(|x| x.name == name) {
                Some(xattr) => xattr_reply(&xattr.value, size, reply),
                None => reply.error(Errno::NO_XATTR),
            },
            Err(e) => reply.error(self.errno(&e)),
        }
    }

    fn listxattr(&self, id: u64, size: u32, reply: ReplyXattr) {
        let Some(node) = self.inodes.get(id) else { return reply.error(Errno::EIO) };
        match node.inode().xattrs() {
            Ok(xattrs) => {
                let mut names = Vec::new();
                for xattr in xattrs.iter().filter(|x| !x.name.is_empty() && !x.name.contains(&0)) {
                    names.extend_from_slice(&xattr.name);
                    names.push(0);
                }
                xattr_reply(&names, size, reply);
            }
            Err(e) => reply.error(self.errno(&e)),
        }
    }
}

/// A size of 0 asks how large the answer is.
fn xattr_reply(answer: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(answer.len()) {
        Ok(len) if answer.len() <= MAX_XATTR && size == 0 => reply.size(len),
        Ok(len) if answer.len() <= MAX_XATTR && len <= size => reply.data(answer),
        Ok(_) if answer.len() <= MAX_XATTR => reply.error(Errno::ERANGE),
        _ => reply.error(Errno::E2BIG),
    }
}

/// The first byte at or after `from` of the `wanted` kind; the end of the file counts as a hole.
fn seek(content: &dyn ReadAt, from: u64, wanted: ExtentKind) -> Result<Option<u64>> {
    let size = content.size();
    if from >= size {
        return Ok(None);
    }
    let at_end = (wanted == ExtentKind::Hole).then_some(size);
    let mut at = from;
    for _ in 0..MAX_SEEK_STEPS {
        match content.extent_at(at)? {
            Some(extent) if extent.kind == wanted => return Ok(Some(at)),
            Some(extent) if extent.range.end > at => at = extent.range.end,
            Some(_) => return Err(Error::damaged(format!("the extents of a file do not advance at {at}"))),
            None => return Ok(at_end),
        }
        if at >= size {
            return Ok(at_end);
        }
    }
    Ok(at_end.or(Some(at)))
}

impl Filesystem for Door {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each of these only makes things better: an older kernel goes without.
        let mut wished = vec![
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_MAX_PAGES,
        ];
        if self.shared && self.xattrs {
            wished.push(InitFlags::FUSE_POSIX_ACL);
        }
        for flag in wished {
            let _unsupported = config.add_capabilities(flag);
        }
        // The largest request (max_pages), reads included.
        let _limited = config.set_max_write(MAX_READ);
        if let Err(most) = config.set_max_readahead(MAX_READ) {
            let _limited = config.set_max_readahead(most);
        }
        let _limited = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        self.run(move |tree| tree.lookup(parent.0, &name, reply));
    }

    fn forget(&self, _request: &Request, id: INodeNo, lookups: u64) {
        self.tree.inodes.forget(id.0, lookups);
    }

    fn getattr(&self, _request: &Request, id: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        self.run(move |tree| tree.getattr(id.0, handle.map(|handle| handle.0), reply));
    }

    fn setattr(
        &self,
        _request: &Request,
        id: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = Setting { mode, uid, gid, size, atime, mtime }.into();
        self.run(move |tree| tree.setattr(id.0, handle.map(|handle| handle.0), &set, reply));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, who) = (name.as_bytes().to_vec(), Caller::new(request, mode & !umask));
        self.run(move |tree| tree.create(parent.0, &name, who, flags, reply));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (name, who) = (name.as_bytes().to_vec(), Caller::new(request, mode & !umask));
        self.run(move |tree| tree.mkdir(parent.0, &name, who, reply));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (name.as_bytes().to_vec(), target.as_os_str().as_bytes().to_vec());
        let who = Caller::new(request, 0);
        self.run(move |tree| tree.symlink(parent.0, &name, &target, who, reply));
    }

    fn link(&self, _request: &Request, id: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        self.run(move |tree| tree.link(id.0, parent.0, &name, reply));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.run(move |tree| tree.change(parent.0, reply, |dir| dir.remove_file(&name).map(drop)));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.run(move |tree| tree.change(parent.0, reply, |dir| dir.remove_dir(&name).map(drop)));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, to_name) = (name.as_bytes().to_vec(), to_name.as_bytes().to_vec());
        self.run(move |tree| tree.rename((parent.0, &name), (to.0, &to_name), flags, reply));
    }

    fn write(
        &self,
        _request: &Request,
        _id: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        self.run(move |tree| tree.write(handle.0, offset, &data, reply));
    }

    fn readlink(&self, _request: &Request, id: INodeNo, reply: ReplyData) {
        self.run(move |tree| tree.readlink(id.0, reply));
    }

    fn open(&self, _request: &Request, id: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.run(move |tree| tree.open(id.0, reply));
    }

    fn read(
        &self,
        _request: &Request,
        _id: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.run(move |tree| tree.read(handle.0, offset, size, reply));
    }

    fn flush(&self, _request: &Request, _id: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // The kernel does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _id: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.run(move |tree| {
            tree.handles.remove(handle.0);
            reply.ok();
        });
    }

    fn readdir(&self, _request: &Request, id: INodeNo, _handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.run(move |tree| directory::plain(tree, id.0, offset, reply));
    }

    fn readdirplus(
        &self,
        _request: &Request,
        id: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.run(move |tree| directory::plus(tree, id.0, offset, reply));
    }

    fn fsyncdir(&self, _request: &Request, id: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.run(move |tree| tree.sync_directory(id.0, reply));
    }

    fn fsync(&self, _request: &Request, _id: INodeNo, handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.run(move |tree| tree.sync(handle.0, reply));
    }

    fn statfs(&self, _request: &Request, id: INodeNo, reply: ReplyStatfs) {
        let block = u64::from(BLOCK_SIZE);
        match self.tree.space(id.0) {
            Some(s) => {
                let (all, free) = (s.bytes / block, s.free_bytes / block);
                reply.statfs(all, free, free, s.files, s.free_files, BLOCK_SIZE, 255, BLOCK_SIZE);
            }
            None => {
                let totals = (self.tree.totals)();
                reply.statfs(totals.bytes.div_ceil(block), 0, 0, totals.files, 0, BLOCK_SIZE, 255, BLOCK_SIZE);
            }
        }
    }

    fn getxattr(&self, _request: &Request, id: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !self.xattrs {
            // The kernel does not ask again.
            return reply.error(Errno::ENOSYS);
        }
        let name = name.as_bytes().to_vec();
        self.run(move |tree| tree.getxattr(id.0, &name, size, reply));
    }

    fn listxattr(&self, _request: &Request, id: INodeNo, size: u32, reply: ReplyXattr) {
        if !self.xattrs {
            return reply.error(Errno::ENOSYS);
        }
        self.run(move |tree| tree.listxattr(id.0, size, reply));
    }

    fn lseek(&self, _request: &Request, _id: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.run(move |tree| tree.lseek(handle.0, offset, whence, reply));
    }
}

impl Tree {
    /// The directory that the kernel knows as `id`.
    pub(super) fn directory(&self, id: u64) -> Option<Arc<dyn Dir>> {
        match self.inodes.get(id) {
            Some(Node::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    /// The inode number that `..` of the directory `id` shows.
    pub(super) fn parent(&self, id: u64) -> u64 {
        if id == ROOT { ROOT } else { self.inodes.parent(id) }
    }
}
