//! Which family reads a volume, and which volumes belong together.

use std::sync::Arc;

use blockdev::{
    BlockDevice, Error, ErrorKind, Result,
    partitions::{FsKind, Volume},
};

use crate::{FileSystem, btrfs, exfat, ext, fat, ntfs, refs, xfs, zfs};

/// A filesystem that was found and not yet opened.
#[derive(Clone)]
pub struct Found {
    /// Its kind.
    pub kind: FsKind,
    /// The volumes it lies on, by their index; families of several devices have all of theirs that are at hand.
    pub volumes: Vec<usize>,
    devices: Vec<Arc<dyn BlockDevice>>,
    /// Why it cannot be looked into, when it is encrypted and locked.
    locked: Option<String>,
}

impl Found {
    /// Open it.
    ///
    /// # Errors
    ///
    /// When it is damaged at its root, has features that cannot be read, or is locked.
    pub fn open(&self) -> Result<Arc<dyn FileSystem>> {
        if let Some(why) = &self.locked {
            return Err(Error::new(ErrorKind::Locked, why.clone()));
        }
        open(self.kind, &self.devices)
    }
}

/// The filesystems on `volumes` that can be read, and those that could be if they were unlocked, in the order of their
/// first volume.
#[must_use]
pub fn find(volumes: &[Volume]) -> Vec<Found> {
    let mut found: Vec<(Option<&str>, Found)> = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let (Some(content), Some(device)) = (&volume.content, &volume.device) else { continue };
        let locked = volume.encryption.as_ref().and_then(|e| e.locked.clone());
        if !is_readable(content.kind) && locked.is_none() {
            continue;
        }
        // Members of one filesystem have its identity.
        let identity = content.uuid.as_deref().filter(|_| has_members(content.kind));
        let of_same =
            |(id, f): &&mut (Option<&str>, Found)| identity.is_some() && *id == identity && f.kind == content.kind;
        match found.iter_mut().find(of_same) {
            Some((_, known)) => {
                known.volumes.push(index);
                known.devices.push(Arc::clone(device));
            }
            None => {
                let devices = vec![Arc::clone(device)];
                found.push((identity, Found { kind: content.kind, volumes: vec![index], devices, locked }));
            }
        }
    }
    found.into_iter().map(|(_, found)| found).collect()
}

/// Whether filesystems of `kind` may lie on several volumes.
#[must_use]
pub const fn has_members(kind: FsKind) -> bool {
    matches!(kind, FsKind::Btrfs | FsKind::Zfs)
}

/// Whether a family here reads `kind`.
#[must_use]
pub const fn is_readable(kind: FsKind) -> bool {
    use FsKind::{Btrfs, ExFat, Ext2, Ext3, Ext4, Fat12, Fat16, Fat32, Ntfs, Refs, Xfs, Zfs};
    matches!(kind, Ext2 | Ext3 | Ext4 | Xfs | Btrfs | Ntfs | Refs | Fat12 | Fat16 | Fat32 | ExFat | Zfs)
}

/// The filesystem of `kind` on `devices`: one, or all members that are at hand.
///
/// # Errors
///
/// When it is not one, is damaged at its root, or has features that cannot be read.
pub fn open(kind: FsKind, devices: &[Arc<dyn BlockDevice>]) -> Result<Arc<dyn FileSystem>> {
    let first = devices.first().cloned().ok_or_else(|| Error::invalid("a filesystem on no device"))?;
    match kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => ext::open(first),
        FsKind::Xfs => xfs::open(first),
        FsKind::Ntfs => ntfs::open(&first),
        FsKind::Refs => refs::open(first),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => fat::open(first),
        FsKind::ExFat => exfat::open(first),
        FsKind::Btrfs => btrfs::open(devices),
        FsKind::Zfs => zfs::open(devices),
        other => Err(Error::unsupported(format!("{other} has no files that can be read"))),
    }
}
