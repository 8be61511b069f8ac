//! The tree that the daemon mounts: backups of running machines, the folder that takes them back, and what its volumes and
//! images hold.

use std::{path::Path, sync::Arc};

use blockdev::{Error, Result};
use vfs::{fuse::Mount, providers::backup::Live};

use crate::{
    backup::runs::Backups,
    cli::Sources,
    commands::{Opened, open_tree},
    restore::Restores,
};

/// The mounted tree.
pub struct Mounted {
    mount: Mount,
    _opened: Opened,
}

/// Mounts it on `point`, where a daemon that was killed may have left its own.
///
/// # Errors
///
/// When it cannot be mounted, or a source cannot be opened.
pub fn mount(point: &Path, sources: &Sources, backups: &Arc<Backups>, restores: &Restores) -> Result<Mounted> {
    detach_dead(point)?;
    // What is below /run is gone when the host starts anew.
    std::fs::create_dir_all(point).map_err(|e| Error::io(format!("cannot make {}", point.display()), e))?;
    let opened = open_tree(sources, Some(Arc::clone(backups) as Arc<dyn Live>), restores.node())?;
    let mut options = opened.mount_options();
    options.writable = true;
    let mount = vfs::fuse::mount(opened.tree.root.clone(), point, &options)?;
    backups.mounted_on(&point.canonicalize().unwrap_or_else(|_| point.to_owned()));
    Ok(Mounted { mount, _opened: opened })
}

/// Takes a mount away whose program has ended.
fn detach_dead(point: &Path) -> Result<()> {
    // Not by its attributes, which the kernel knows for a while longer.
    let is_dead = || rustix::fs::statvfs(point).is_err_and(|e| e == rustix::io::Errno::NOTCONN);
    if !is_dead() {
        return Ok(());
    }
    if rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).is_err() {
        // Without being root.
        let _ = std::process::Command::new("fusermount3").args(["-u", "-z", "--"]).arg(point).status();
    }
    if is_dead() {
        return Err(Error::invalid(format!("a dead mount is in the way: umount -l {}", point.display())));
    }
    Ok(())
}

impl Mounted {
    /// Unmounts it.
    ///
    /// # Errors
    ///
    /// When it cannot be.
    pub fn end(self) -> Result<()> {
        self.mount.unmounter().unmount()?;
        self.mount.wait().map(drop)
    }
}
