//! Nodes of backup files: an entry of a job's table with its content and attributes.

use std::sync::Arc;

use blockdev::{Error, ReadAt, Result};
use volreader::{
    acl,
    archive::{Archive, Job},
    content::windows,
    file::{Content, Metadata, StoredFile},
    index::entry::{Entry, EntryKind, Flags},
    stream::AclScope,
};

use super::ino;
use crate::node::{Attributes, File, Inode, Kind, Node, StoredDigest, Symlink, Time, Xattr};

/// Opened files whose layout is kept, so that opening one again costs nothing.
const KEPT_CONTENTS: usize = 256;

/// What all nodes of an archive share.
pub struct Shared {
    /// The archive.
    pub archive: Arc<Archive>,
    contents: quick_cache::sync::Cache<(u32, u32), Content>,
    names: names::SystemNames,
    /// When the volumes last changed, in seconds.
    since: i64,
}

impl Shared {
    /// For the nodes of `archive`.
    pub fn new(archive: &Arc<Archive>) -> Arc<Self> {
        let names = names::SystemNames::default();
        let since = archive.modified_seconds();
        Arc::new(Self {
            archive: Arc::clone(archive),
            contents: quick_cache::sync::Cache::new(KEPT_CONTENTS),
            names,
            since,
        })
    }

    /// The time of folders of ours: when the volumes last changed. It moves with each job that is found, so that clients
    /// do not keep a listing without it.
    pub fn since(&self) -> Time {
        let found = self.archive.generation() % 1_000_000_000;
        Time { seconds: self.since, nanos: u32::try_from(found).unwrap_or(0) }
    }
}

/// A backup file as a node.
pub struct Stored {
    shared: Arc<Shared>,
    job: Arc<Job>,
    entry: Entry,
    /// Where the content is, when only the attributes are here.
    content_of: Option<(Arc<Job>, Entry)>,
    /// Tells the views of one file apart: a file of a job is another inode in a restore point.
    view: u64,
}

/// The type of node that an entry is; `None` for markers.
pub const fn kind_of(entry: &Entry) -> Option<Kind> {
    Some(match entry.kind {
        EntryKind::Dir => Kind::Dir,
        EntryKind::File => Kind::File,
        EntryKind::Symlink => Kind::Symlink,
        EntryKind::Fifo => Kind::Fifo,
        EntryKind::CharDevice => Kind::CharDevice,
        EntryKind::BlockDevice => Kind::BlockDevice,
        EntryKind::Socket => Kind::Socket,
        EntryKind::Deleted => return None,
    })
}

/// The node of an entry that is no folder. `content_of`: the version that has the content, when it is not this one.
pub fn node(
    shared: &Arc<Shared>,
    job: &Arc<Job>,
    entry: Entry,
    content_of: Option<(Arc<Job>, Entry)>,
    view: u64,
) -> Option<Node> {
    let kind = kind_of(&entry)?;
    let stored = Arc::new(Stored { shared: Arc::clone(shared), job: Arc::clone(job), entry, content_of, view });
    Some(match kind {
        Kind::File => Node::File(stored),
        Kind::Symlink => Node::Symlink(stored),
        _ => Node::Special(stored),
    })
}

/// The view of no tree: numbers in it stand for contents, whichever point they are seen in.
const CONTENT: u64 = u64::MAX;

/// The inode number of an entry: that of the first link for hard links.
pub fn entry_ino(job: &Job, entry: &Entry, view: u64) -> u64 {
    let first = if entry.flags.has(Flags::HARD_LINK) { entry.stat.link_index } else { entry.file_index };
    let session = [job.session.time.to_le_bytes(), job.session.id.to_le_bytes()].concat();
    // Further links of a symbolic link are stored as if they were alone: only the client's inode ties them.
    if entry.kind == EntryKind::Symlink && entry.stat.nlink > 1 && entry.stat.ino != 0 {
        let inode = [entry.stat.dev.to_le_bytes(), entry.stat.ino.to_le_bytes()].concat();
        return ino(&[&view.to_le_bytes(), &session, b"symlink", &inode]);
    }
    if first == 0 {
        // A folder of which only the name is known.
        return ino(&[&view.to_le_bytes(), &session, b"dir", &entry.dir.map_or(0, |d| d.0).to_le_bytes()]);
    }
    ino(&[&view.to_le_bytes(), &session, &first.to_le_bytes()])
}

/// What `stat` says of an entry.
pub fn entry_attributes(job: &Job, entry: &Entry, view: u64) -> Attributes {
    let stat = &entry.stat;
    let time = |seconds| Time { seconds, nanos: 0 };
    let kind = kind_of(entry).unwrap_or(Kind::File);
    let size = match kind {
        Kind::File | Kind::Symlink => u64::try_from(stat.size).unwrap_or(0),
        _ => 0,
    };
    Attributes {
        ino: entry_ino(job, entry, view),
        kind,
        permissions: stat.mode & 0o7777,
        nlink: stat.nlink.max(1),
        uid: stat.uid,
        gid: stat.gid,
        rdev: if matches!(kind, Kind::BlockDevice | Kind::CharDevice) { stat.device() } else { (0, 0) },
        size,
        allocated: u64::try_from(stat.blocks).unwrap_or(0).saturating_mul(512).min(size.saturating_add(1 << 20)),
        atime: time(stat.atime),
        mtime: time(stat.mtime),
        ctime: time(stat.ctime),
    }
}

/// The extended attributes of an entry, ACLs among them.
pub fn entry_xattrs(shared: &Arc<Shared>, job: &Arc<Job>, entry: &Entry) -> Result<Vec<Xattr>> {
    // `ls -l` asks for every file: where a scan saw no attributes in the whole job, nothing is read.
    if entry.file_index == 0 || job.has_no_xattrs() {
        return Ok(Vec::new());
    }
    let stored =
        Stored { shared: Arc::clone(shared), job: Arc::clone(job), entry: entry.clone(), content_of: None, view: 0 };
    let metadata = stored.metadata()?;
    let mut xattrs: Vec<_> = metadata.xattrs.into_iter().map(|(name, value)| Xattr { name, value }).collect();
    for (scope, text) in metadata.acls {
        let (name, raw): (&[u8], &[u8]) = match scope {
            AclScope::Access => (b"system.posix_acl_access", b"user.revenant.acl_access"),
            AclScope::Default => (b"system.posix_acl_default", b"user.revenant.acl_default"),
        };
        // A user who is not known here cannot be in an ACL of this machine: the text is kept where it can be seen.
        xattrs.push(match acl::parse(&text, &shared.names) {
            Ok(entries) => Xattr { name: name.to_vec(), value: entries.to_kernel() },
            Err(_) => Xattr { name: raw.to_vec(), value: text },
        });
    }
    Ok(xattrs)
}

impl Stored {
    fn file_of(&self, job: &Job, entry: &Entry) -> Result<StoredFile> {
        let pos = self.shared.archive.position(job, entry)?;
        Ok(StoredFile { data: Arc::clone(job.data()), pos, file_index: entry.file_index })
    }

    /// Length according to the attributes, where there is one.
    fn size_hint(entry: &Entry) -> Option<u64> {
        u64::try_from(entry.stat.size).ok().filter(|n| *n > 0)
    }

    /// The job and entry that have the data: an older version's, the first link's, or these.
    fn with_data(&self) -> Result<(&Arc<Job>, Entry)> {
        let (job, entry) = self.content_of.as_ref().map_or((&self.job, &self.entry), |(j, e)| (j, e));
        if entry.flags.has(Flags::UPDATE) {
            return Err(Error::unsupported(
                "only the attributes are in this job; the content is in the restore point below clients/",
            ));
        }
        if entry.flags.has(Flags::BASE) {
            return Err(Error::unsupported("the data is in a base job, which is not followed yet"));
        }
        if !entry.flags.has(Flags::HARD_LINK) {
            return Ok((job, entry.clone()));
        }
        let first = job.table()?.by_file_index(entry.stat.link_index)?.filter(|e| e.kind == entry.kind);
        let first = first.ok_or_else(|| {
            let (link, job) = (entry.stat.link_index, job.facts.job_id);
            Error::not_found(format!(
                "the file that this is a hard link of (file {link} of job {job}) is not in the job"
            ))
        })?;
        Ok((job, first))
    }

    fn content(&self) -> Result<Content> {
        let (job, entry) = self.with_data()?;
        let key = (job.data().number(), entry.file_index);
        self.shared.contents.get_or_insert_with(&key, || {
            let content = self.file_of(job, &entry)?.open(Self::size_hint(&entry), self.shared.archive.keys());
            content.map_err(|e| self.named(e))
        })
    }

    fn metadata(&self) -> Result<Metadata> {
        let key = (self.job.data().number(), self.entry.file_index);
        let content = self.shared.contents.get(&key);
        let metadata = self.file_of(&self.job, &self.entry)?.metadata(content.as_ref(), Self::size_hint(&self.entry));
        metadata.map_err(|e| self.named(e))
    }

    fn named(&self, e: Error) -> Error {
        let (name, job) = (String::from_utf8_lossy(&self.entry.name), self.job.facts.job_id);
        e.context(format_args!("{name} (file {} of job {job})", self.entry.file_index))
    }

    /// Whether the length in the table is that of the content.
    const fn size_is_known(entry: &Entry) -> bool {
        // In a catalog only `stat` is known; it is believed where it is possible at all.
        entry.flags.has(Flags::SIZE_EXACT)
            || entry.flags.has(Flags::UPDATE)
            || (entry.pos.is_none() && entry.stat.size >= 0 && entry.stat.mode & 0o170_000 == 0o100_000)
    }
}

impl Inode for Stored {
    fn attributes(&self) -> Result<Attributes> {
        let mut attributes = entry_attributes(&self.job, &self.entry, self.view);
        if attributes.kind == Kind::File {
            // An update without its content is an error when it is read, not when it is listed.
            let entry = self.with_data().map_or_else(|_| self.entry.clone(), |(_, e)| e);
            attributes.size = if Self::size_is_known(&entry) {
                u64::try_from(entry.stat.size).unwrap_or(0)
            } else {
                self.content()?.bytes.size()
            };
        }
        Ok(attributes)
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        entry_xattrs(&self.shared, &self.job, &self.entry)
    }

    fn alternate_streams(&self) -> Result<Vec<(Vec<u8>, Node)>> {
        // Only what a Windows client sent has any; the content of other files is not opened for asking.
        if !self.job.has_backup_read() {
            return Ok(Vec::new());
        }
        let Some(stream) = self.content()?.backup_read else { return Ok(Vec::new()) };
        let own = self.attributes()?;
        let node = |(name, bytes): (Vec<u8>, Arc<dyn ReadAt>)| {
            let size = bytes.size();
            let ino = ino(&[&own.ino.to_le_bytes(), &name]);
            let attributes = Attributes { ino, nlink: 1, size, allocated: size, ..own.clone() };
            (name, Node::File(Arc::new(Alternate { attributes, bytes })))
        };
        Ok(windows::alternate_data(&stream)?.into_iter().map(node).collect())
    }
}

impl File for Stored {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        Ok(self.content()?.bytes)
    }

    fn identity(&self) -> Option<u64> {
        let (job, entry) = self.content_of.as_ref().map_or((&self.job, &self.entry), |(job, entry)| (job, entry));
        Some(entry_ino(job, entry, CONTENT))
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        let (job, entry) = self.with_data()?;
        let key = (job.data().number(), entry.file_index);
        let content = self.shared.contents.get(&key);
        // What is digested of BackupRead data is the whole stream, not the main data that is shown.
        if content.as_ref().and_then(|c| c.kind).is_some_and(|k| k.win32) {
            return Ok(None);
        }
        let metadata = self.file_of(job, &entry)?.metadata(content.as_ref(), Self::size_hint(&entry))?;
        Ok(metadata.digest.map(|(algorithm, value)| StoredDigest { algorithm, value }))
    }
}

/// An alternate data stream, with the attributes of its file.
struct Alternate {
    attributes: Attributes,
    bytes: Arc<dyn ReadAt>,
}

impl Inode for Alternate {
    fn attributes(&self) -> Result<Attributes> {
        Ok(self.attributes.clone())
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl File for Alternate {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::clone(&self.bytes))
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        Ok(None)
    }
}

impl Symlink for Stored {
    fn target(&self) -> Result<Vec<u8>> {
        self.file_of(&self.job, &self.entry)?.link().map_err(|e| self.named(e))
    }
}

mod names {
    //! Users and groups by name, as this machine has them.

    use std::{collections::HashMap, fs, sync::OnceLock};

    use volreader::acl::Names;

    /// `/etc/passwd` and `/etc/group`, read once when a name is first asked for.
    #[derive(Default)]
    pub struct SystemNames {
        users: OnceLock<HashMap<Vec<u8>, u32>>,
        groups: OnceLock<HashMap<Vec<u8>, u32>>,
    }

    fn read(path: &str) -> HashMap<Vec<u8>, u32> {
        let text = fs::read(path).unwrap_or_default();
        let line = |line: &[u8]| {
            let mut fields = line.split(|&b| b == b':');
            let name = fields.next()?.to_vec();
            let id = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
            Some((name, id))
        };
        text.split(|&b| b == b'\n').filter_map(line).collect()
    }

    impl Names for SystemNames {
        fn user(&self, name: &[u8]) -> Option<u32> {
            self.users.get_or_init(|| read("/etc/passwd")).get(name).copied()
        }

        fn group(&self, name: &[u8]) -> Option<u32> {
            self.groups.get_or_init(|| read("/etc/group")).get(name).copied()
        }
    }
}
