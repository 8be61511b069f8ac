//! A socket for another user of this host: a hypervisor that does not run as this program does.
//!
//! The state is for its owner alone. So this socket is in a folder of its own outside of it, which only that user, and root,
//! can enter.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use blockdev::{Error, Result};
use exporters::nbd::Listener;
use serde::{Deserialize, Serialize};

/// Where such folders are. They are gone when the host starts anew, and are made again then.
const RUNTIME: &str = "/run/revenant";

/// The folder, and for whom it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    folder: PathBuf,
    user: u32,
    group: u32,
}

impl Reach {
    /// Names a folder for the session `id` that no other session has; nothing is made.
    pub fn new(id: &str, (user, group): (u32, u32)) -> Self {
        let random = RandomState::new().build_hasher().finish();
        // Paths of sockets are short.
        let id: String = id.chars().filter(char::is_ascii_alphanumeric).take(24).collect();
        Self { folder: Path::new(RUNTIME).join(format!("{id}.{random:016x}")), user, group }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("nbd.sock")
    }

    /// Makes the folder and the socket.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or given to that user.
    pub fn listen(&self) -> Result<Listener> {
        let cannot = |e: io::Error| {
            let shown = self.folder.display();
            Error::io(format!("cannot make {shown} for the hypervisor's user {} (run this as root)", self.user), e)
        };
        fs::create_dir_all(RUNTIME).map_err(cannot)?;
        fs::set_permissions(RUNTIME, fs::Permissions::from_mode(0o711)).map_err(cannot)?;
        match fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(e)),
            _ => {}
        }
        let listener = Listener::unix(&self.socket())?;
        for path in [&self.socket(), &self.folder] {
            chown(path, Some(self.user), Some(self.group)).map_err(cannot)?;
        }
        Ok(listener)
    }

    /// Removes the folder and what is in it. Nothing is no error.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot remove {}", self.folder.display()), e))
            }
            _ => Ok(()),
        }
    }
}
