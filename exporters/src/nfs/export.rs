//! What is served: a directory of the tree, its nodes by file handle, and the contents of files that are being read.

use std::sync::Arc;

use blockdev::{ErrorKind, ReadAt};
use quick_cache::sync::Cache;
use vfs::{
    door::{EXECUTE, Identity, Place, Places, READ, Report, Totals, permissions},
    node::{Attributes, Node},
};

use super::{handle::Handle, protocol::Status, rpc::Credentials};

/// Files kept open: NFS has no open, and opening may read a volume.
const OPEN_FILES: usize = 256;

/// Tells about the whole tree.
pub type TellTotals = Arc<dyn Fn() -> Totals + Send + Sync>;

/// How a directory is served.
#[derive(Clone)]
pub struct ExportOptions {
    /// Every user may read everything. Otherwise owners, modes and ACLs decide, by the numbers that the client sends.
    pub ignore_permissions: bool,
    /// Asked for every FSSTAT. Must not block.
    pub totals: TellTotals,
    /// Told one line about every new failure. Called from any thread.
    pub log: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { ignore_permissions: false, totals: Arc::new(Totals::default), log: Arc::new(|_| {}) }
    }
}

/// A directory that is served.
pub struct Export {
    pub(super) places: Places,
    contents: Cache<u64, Arc<dyn ReadAt>>,
    pub(super) report: Report,
    options: ExportOptions,
}

impl Export {
    /// Serve the directory `root`.
    ///
    /// # Errors
    ///
    /// When it is no directory, or its attributes cannot be read.
    pub fn new(root: Node, options: ExportOptions) -> blockdev::Result<Self> {
        let report = Report::new(options.log.clone());
        Ok(Self { places: Places::new(root)?, contents: Cache::new(OPEN_FILES), report, options })
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

    /// What a user may do: [`READ`] and [`EXECUTE`] together, for nobody may write.
    pub(super) fn allowed(&self, place: &Place, attributes: &Attributes, who: &Credentials) -> Result<u32, Status> {
        let uid = if self.options.ignore_permissions { 0 } else { who.uid };
        permissions(place.node().inode(), attributes, Identity { uid, gids: &who.gids })
            .map(|bits| bits & (READ | EXECUTE))
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

    /// The content of a file. Whoever comes first opens it; the others wait.
    pub(super) fn content(&self, place: &Place) -> Result<Arc<dyn ReadAt>, Status> {
        match place.node() {
            Node::File(file) => {
                self.contents.get_or_insert_with(&place.ino(), || file.open()).map_err(|e| self.status(&e))
            }
            Node::Dir(_) => Err(Status::IsDirectory),
            _ => Err(Status::Invalid),
        }
    }
}
