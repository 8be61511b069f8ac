//! A tree as an SMB share: mounted, and served by stock Samba over the mount.
//!
//! Samba runs with a configuration, users and state of its own in a folder that is the share's: whatever else Samba does on
//! this machine is not touched. Everybody whom it lets in may read everything: owners and modes of the machine that was
//! backed up mean nothing to the users of a share.
//!
//! Samba ends by itself when this program is killed; its mount stays, dead, until [`sweep`] takes it away.

mod configuration;
mod samba;

use std::{
    fs,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use blockdev::{Error, ErrorKind, Result};
use vfs::{
    fuse::{self, Mount, MountOptions},
    node::Node,
};

pub use self::configuration::{Access, Configuration, Login};
use self::samba::Samba;

/// How long open files are still served after the mount was ended while busy.
const GRACE: Duration = Duration::from_secs(5);

/// The environment variable with a user's password.
const PASSWORD: &str = "REVENANT_SMB_PASSWORD";

/// Where a tree is mounted in its share's folder, if nowhere else.
const TREE: &str = "tree";

/// A share that is served. Dropping it ends it.
pub struct Share {
    // Samba has files of the mount open: it goes first.
    samba: Samba,
    mount: Mount,
}

impl Share {
    /// Mounts `root`, on `mountpoint` or else in `folder`, and has Samba serve it. `folder` is empty, and Samba's files are
    /// kept there. Port 0 in the configuration becomes the one that it is; `step` is told what is done.
    ///
    /// # Errors
    ///
    /// When Samba is not installed, the address is taken, or this is not root.
    pub fn open(
        root: Node,
        mut mounting: MountOptions,
        configuration: &mut Configuration,
        folder: &Path,
        mountpoint: Option<&Path>,
        step: &dyn Fn(&str),
    ) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(ErrorKind::Locked, "Samba has to be started by root; run this as root"));
        }
        let program = samba::find("smbd")?;
        configuration.maps_characters = samba::has_module(&program, "catia");
        configuration.address = free(configuration.address)?;
        let mountpoint = match mountpoint {
            Some(mountpoint) => mountpoint.to_owned(),
            None => made(folder.join(TREE))?,
        };
        mounting.detach_grace = GRACE;
        step("mount");
        let mount = fuse::mount(root, &mountpoint, &mounting)?;
        step("share");
        let text = configuration.text(&mountpoint, Some(folder))?;
        let samba = Samba::start(&program, folder, &text, configuration)?;
        Ok(Self { samba, mount })
    }

    /// Whether it is still served.
    ///
    /// # Errors
    ///
    /// When it is not: Samba has ended, or the tree was unmounted.
    pub fn check(&mut self) -> Result<()> {
        self.samba.check()?;
        if self.mount.has_ended() {
            return Err(Error::new(ErrorKind::Io, "the tree was unmounted by somebody"));
        }
        Ok(())
    }

    /// Ends it: clients are cut off.
    ///
    /// # Errors
    ///
    /// When the tree cannot be unmounted.
    pub fn end(mut self) -> Result<()> {
        self.samba.stop();
        self.mount.unmounter().unmount()?;
        self.mount.wait()
    }
}

/// Takes away what is left of a share in `folder` whose program was killed: processes, the mount, the folder.
///
/// # Errors
///
/// When something of it cannot be ended or removed.
pub fn sweep(folder: &Path) -> Result<()> {
    // Of the folder itself nothing is asked below the mount, which may be dead.
    if folder.symlink_metadata().is_err() {
        return Ok(());
    }
    samba::end_all(folder)?;
    fuse::detach(&folder.join(TREE))?;
    fs::remove_dir_all(folder).map_err(|e| Error::io(format!("cannot remove {}", folder.display()), e))
}

/// A folder that only its owner can enter.
///
/// # Errors
///
/// When it cannot be made.
pub fn made(folder: PathBuf) -> Result<PathBuf> {
    let made = fs::DirBuilder::new().mode(0o700).create(&folder);
    made.map_err(|e| Error::io(format!("cannot make {}", folder.display()), e))?;
    Ok(folder)
}

/// The first address that `listen` means.
///
/// # Errors
///
/// When it means none.
pub fn address(listen: &str) -> Result<SocketAddr> {
    let mut addresses = listen.to_socket_addrs().map_err(|e| Error::io(format!("cannot listen at {listen}"), e))?;
    addresses.next().ok_or_else(|| Error::invalid(format!("cannot listen at {listen}: there is no such address")))
}

/// Samba goes on without a word when its port is taken, so that is found out before. For port 0, a free one.
fn free(address: SocketAddr) -> Result<SocketAddr> {
    TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .map_err(|e| Error::io(format!("cannot listen at {address}; choose another address by --listen"), e))
}

/// The user who may connect, with the password in `file` or else in the environment; `None`: everybody may.
///
/// # Errors
///
/// When there is no password.
pub fn login(user: Option<&str>, file: Option<&Path>) -> Result<Option<Login>> {
    let Some(user) = user else { return Ok(None) };
    let text = match file {
        Some(file) => fs::read_to_string(file).map_err(|e| Error::io(format!("cannot read {}", file.display()), e))?,
        None => std::env::var(PASSWORD).map_err(|_| {
            Error::new(ErrorKind::Locked, format!("the user needs a password: --password-file FILE or {PASSWORD}"))
        })?,
    };
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(Some(Login { user: user.to_owned(), password: line.to_owned() })),
        None => Err(Error::invalid("an empty password is none; without a user everybody may connect")),
    }
}
