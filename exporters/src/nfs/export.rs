//! What is served: a directory of the tree, its nodes by file handle, and the contents of files that are being read.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use blockdev::{ErrorKind, ReadAt};
use quick_cache::sync::Cache;
use vfs::{
    door::{EXECUTE, Identity, Place, Places, READ, Report, Totals, WRITE, permissions},
    node::{Attributes, Changes, Node, OpenFile, Space, WritableDir},
};

use super::{handle::Handle, protocol::Status, rpc::Credentials};

/// Files kept open: NFS has no open, and opening may read a volume.
const OPEN_FILES: usize = 256;

/// Tells about the whole tree.
pub type TellTotals = Arc<dyn Fn() -> Totals + Send + Sync>;

/// As whom users of clients act who are somebody else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Squash {
    /// Nobody is.
    #[default]
    None,
    /// Root acts as this user and group.
    Root(u32, u32),
    /// Everybody does.
    All(u32, u32),
}

/// How a directory is served.
#[derive(Clone)]
pub struct ExportOptions {
    /// What clients mount it as, beside `/`: some (libnfs, and QEMU with it) cannot use files of a folder without a name.
    /// `None`: nothing.
    pub name: Option<String>,
    /// Clients may change what can be changed.
    pub writable: bool,
    /// As whom users act.
    pub squash: Squash,
    /// Every user may read everything. Otherwise owners, modes and ACLs decide, by the numbers that the client sends.
    pub ignore_permissions: bool,
    /// Asked for every FSSTAT. Must not block.
    pub totals: TellTotals,
    /// Told one line about every new failure. Called from any thread.
    pub log: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            name: None,
            writable: false,
            squash: Squash::None,
            ignore_permissions: false,
            totals: Arc::new(Totals::default),
            log: Arc::new(|_| {}),
        }
    }
}

/// A directory that is served.
pub struct Export {
    pub(super) places: Places,
    contents: Cache<u64, Arc<dyn ReadAt>>,
    pub(super) report: Report,
    options: ExportOptions,
    /// Clients send again what was not durable when this number has changed.
    verifier: AtomicU64,
}

impl Export {
    /// Serve the directory `root`.
    ///
    /// # Errors
    ///
    /// When it is no directory, or its attributes cannot be read.
    pub fn new(root: Node, options: ExportOptions) -> blockdev::Result<Self> {
        let report = Report::new(options.log.clone());
        let verifier = AtomicU64::new(RandomState::new().build_hasher().finish());
        Ok(Self { places: Places::new(root)?, contents: Cache::new(OPEN_FILES), report, options, verifier })
    }

    /// What it is mounted as, beside `/`.
    pub(super) fn name(&self) -> &str {
        self.options.name.as_deref().unwrap_or_default()
    }

    /// Whether clients may change anything.
    pub(super) const fn is_writable(&self) -> bool {
        self.options.writable
    }

    /// The write verifier (RFC 1813, section 3.3.7).
    pub(super) fn verifier(&self) -> u64 {
        self.verifier.load(Ordering::Acquire)
    }

    /// Make durable what was changed of a node. When that fails nobody knows what was lost: clients are told to send all
    /// of it again.
    pub(super) fn sync(&self, changes: &dyn Changes) -> Result<(), Status> {
        changes.sync().map_err(|e| {
            self.verifier.fetch_add(1, Ordering::AcqRel);
            self.status(&e)
        })
    }

    /// As whom a user acts.
    pub(super) fn squash(&self, who: &mut Credentials) {
        match self.options.squash {
            Squash::Root(uid, gid) if who.uid == 0 => *who = Credentials { uid, gids: vec![gid] },
            Squash::Root(_, gid) => who.gids.iter_mut().filter(|group| **group == 0).for_each(|group| *group = gid),
            Squash::All(uid, gid) => *who = Credentials { uid, gids: vec![gid] },
            Squash::None => {}
        }
    }

    /// The room where changes of `place` are kept, if it can be changed.
    pub(super) fn space(&self, place: &Arc<Place>) -> Result<Option<Space>, Status> {
        let dir = place.dir().or_else(|| place.parent().dir()).and_then(|dir| dir.writable());
        dir.map(WritableDir::space).transpose().map_err(|e| self.status(&e))
    }

    /// The number by which clients tell this filesystem from others of this server.
    pub(super) fn id(&self) -> u64 {
        self.places.root().ino()
    }

    pub(super) fn totals(&self) -> Totals {
        (self.options.totals)()
    }

    /// The status for `error`, after telling the log about it.
    pub(super) fn status(&self, error: &blockdev::Error) -> Status {
        // Asking for something that is not there is the client's affair and no news.
        if error.kind() != ErrorKind::NotFound {
            self.report.tell(&error.to_string());
        }
        Status::from(error)
    }

    /// The node that a client has a handle of.
    pub(super) fn find(&self, handle: &[u8]) -> Result<Arc<Place>, Status> {
        let handle = Handle::parse(handle)?;
        if handle.root != self.id() {
            return Err(Status::Stale);
        }
        match self.places.find(handle.ino, &handle.trail) {
            Ok(found) => found.ok_or(Status::Stale),
            Err(e) => Err(self.status(&e)),
        }
    }

    /// The handle of a node.
    pub(super) fn handle(&self, place: &Place) -> Vec<u8> {
        Handle::of(self.id(), place).to_bytes()
    }

    pub(super) fn attributes(&self, place: &Place) -> Result<Attributes, Status> {
        place.node().inode().attributes().map_err(|e| self.status(&e))
    }

    /// The attributes of what a client has a handle of: when they are gone, so is what they are of.
    pub(super) fn attributes_now(&self, place: &Place) -> Result<Attributes, Status> {
        self.attributes(place).map_err(|status| if status == Status::NotFound { Status::Stale } else { status })
    }

    /// What a user may do: [`READ`], [`WRITE`] where that can be done, and [`EXECUTE`] together.
    pub(super) fn allowed(&self, place: &Place, attributes: &Attributes, who: &Credentials) -> Result<u32, Status> {
        let uid = if self.options.ignore_permissions { 0 } else { who.uid };
        let node = place.node().inode();
        let can = READ | EXECUTE | if self.is_writable() && node.changes().is_some() { WRITE } else { 0 };
        permissions(node, attributes, Identity { uid, gids: &who.gids })
            .map(|bits| bits & can)
            .map_err(|e| self.status(&e))
    }

    /// Fail unless the user may do one of `wanted`.
    pub(super) fn require(
        &self,
        place: &Place,
        attributes: &Attributes,
        who: &Credentials,
        wanted: u32,
    ) -> Result<(), Status> {
        if self.allowed(place, attributes, who)? & wanted != 0 { Ok(()) } else { Err(Status::Access) }
    }

    /// The content of a file that never changes. Whoever comes first opens it; the others wait.
    pub(super) fn content(&self, place: &Place) -> Result<Arc<dyn ReadAt>, Status> {
        match place.node() {
            Node::File(file) => {
                self.contents.get_or_insert_with(&place.ino(), || file.open()).map_err(|e| self.status(&e))
            }
            Node::Dir(_) => Err(Status::IsDirectory),
            _ => Err(Status::Invalid),
        }
    }

    /// A file that can be changed, opened, and its attributes.
    pub(super) fn changing(&self, place: &Place) -> Result<(OpenFile, Attributes), Status> {
        let file = self.open_file(place)?;
        let attributes = file.attributes().map_err(|e| self.status(&e))?;
        // It is open here, and has no name any more.
        if attributes.nlink == 0 { Err(Status::Stale) } else { Ok((file, attributes)) }
    }

    /// A file that can be changed, opened.
    pub(super) fn open_file(&self, place: &Place) -> Result<OpenFile, Status> {
        match place.node() {
            Node::File(file) => match file.writable() {
                Ok(opened) => opened.ok_or(Status::ReadOnly),
                Err(e) if e.kind() == ErrorKind::NotFound => Err(Status::Stale),
                Err(e) => Err(self.status(&e)),
            },
            Node::Dir(_) => Err(Status::IsDirectory),
            _ => Err(Status::Invalid),
        }
    }

    /// Whether a user is let do what only the owner may.
    pub(super) fn owns(&self, attributes: &Attributes, who: &Credentials) -> bool {
        self.options.ignore_permissions || who.uid == 0 || who.uid == attributes.uid
    }

    /// Whether a user may do everything.
    pub(super) const fn is_root(&self, who: &Credentials) -> bool {
        self.options.ignore_permissions || who.uid == 0
    }
}
