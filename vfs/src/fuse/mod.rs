//! The FUSE door: a tree of nodes mounted on a directory, for every program there is: read-only, unless the root itself
//! can be changed.
//!
//! [`mount`] returns at once; worker threads serve the kernel until somebody unmounts. The pieces:
//! `door` answers the requests, `directory` the listings among them; `inodes` remembers the nodes that the
//! kernel knows and `handles` the open files; `writing` makes changes; `workers` keeps a slow volume from blocking anybody but its own
//! readers; `session` ends it all cleanly.
//!
//! Permissions: a mount that other users can enter (`allow_other`) is one where the kernel enforces the stored
//! owners, modes and ACLs. A mount that only its owner can enter is not restricted further: whoever made it can read
//! the volumes anyway.

mod attributes;
mod directory;
mod door;
mod handles;
mod inodes;
mod session;
mod workers;
mod writing;

use std::{io, path::Path, sync::Arc, time::Duration};

use blockdev::{Error, ErrorKind, Result};
use fuser::{Config, MountOption, Session, SessionACL};

use crate::{door::Totals, node::Node};
use door::Door;
pub use session::{Mount, Unmounted, Unmounter, detach};

/// The largest read that the kernel is asked to send at once, in bytes.
const MAX_READ: u32 = 1 << 20;

/// How to mount.
#[derive(Clone)]
#[non_exhaustive]
pub struct MountOptions {
    /// What `findmnt` and `df` show as the source.
    pub source: String,
    /// Threads that read requests; default: the cores, at least 4. More are started while these are blocked.
    pub threads: Option<usize>,
    /// Whether other users than the one that mounts may enter. `None`: as root, yes; otherwise if the system allows
    /// it (`user_allow_other` in `/etc/fuse.conf`).
    pub allow_other: Option<bool>,
    /// Whether a directory below the root can be changed. What gives no way to change it is refused all the same.
    pub writable: bool,
    /// Whether any node has extended attributes or ACLs. If not, the kernel is told once and for all: `ls -l` asks for
    /// two per file otherwise, and each is a round trip of some 25 us.
    pub xattrs: bool,
    /// Asked for every `statfs`: the tree may still be growing. Must not block.
    pub totals: Arc<dyn Fn() -> Totals + Send + Sync>,
    /// Told one line about every new failure, and notices. Called from any thread.
    pub log: Arc<dyn Fn(&str) + Send + Sync>,
    /// How long a mount that was busy when it was unmounted goes on serving the files that are still open.
    pub detach_grace: Duration,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            source: "revenant".into(),
            threads: None,
            allow_other: None,
            writable: false,
            xattrs: true,
            totals: Arc::new(Totals::default),
            log: Arc::new(|_| {}),
            detach_grace: Duration::from_secs(30),
        }
    }
}

/// Mount the directory `root` on the existing directory `mountpoint`, read-only unless it can be changed.
///
/// # Errors
///
/// When `root` is no directory, or the system does not let this user mount there.
pub fn mount(root: Node, mountpoint: &Path, options: &MountOptions) -> Result<Mount> {
    let Node::Dir(root) = root else {
        return Err(Error::invalid("only a directory can be mounted; use extract or cat for a single file"));
    };
    let shown = mountpoint.display();
    let absolute = mountpoint.canonicalize().map_err(|e| Error::io(format!("cannot mount on {shown}"), e))?;
    let is_root = rustix::process::geteuid().is_root();
    let threads = options.threads.unwrap_or_else(default_threads).clamp(2, 256);
    let open = |shared: bool| {
        let door = Door::new(root.clone(), options, threads, shared);
        Session::new(door, &absolute, &config(options, threads, shared, root.changes().is_none() && !options.writable))
    };
    let session = match open(options.allow_other.unwrap_or(true)) {
        Err(e) if !is_root && options.allow_other.is_none() && e.kind() == io::ErrorKind::PermissionDenied => {
            open(false).inspect(|_| {
                (options.log)(
                    "mounted for this user only: 'user_allow_other' in /etc/fuse.conf would let others enter",
                );
            })
        }
        other => other,
    };
    let session = session.map_err(|e| mount_error(&shown.to_string(), e))?;
    session::start(session, absolute, options)
}

fn config(options: &MountOptions, threads: usize, shared: bool, read_only: bool) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        if read_only { MountOption::RO } else { MountOption::RW },
        MountOption::NoAtime,
        MountOption::NoDev,
        MountOption::NoSuid,
        // A comma or backslash would be read as the start of another option.
        MountOption::FSName(options.source.replace([',', '\\'], "_")),
        // Not `MountOption::Subtype`: that reaches only fusermount, this the kernel as well.
        MountOption::CUSTOM("subtype=revenant".into()),
    ];
    if shared {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = if shared { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(threads);
    config.clone_fd = true;
    config
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(4, std::num::NonZero::get).max(4)
}

fn mount_error(mountpoint: &str, source: io::Error) -> Error {
    let remedy = match source.kind() {
        io::ErrorKind::NotFound => " (is the kernel module loaded, modprobe fuse, and fusermount3 installed?)",
        io::ErrorKind::PermissionDenied => " (run as root, or on a folder of your own)",
        _ => "",
    };
    let kind = match source.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Locked,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("cannot mount on {mountpoint}{remedy}")).with_source(source)
}
