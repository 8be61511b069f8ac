//! Containers: a block device seen as an image *file*, whose bytes are worked out as they are read.
//!
//! [`open`] lays a file out from the size of the disk and from what it stores ([`ReadAt::extent_at`]), before any byte
//! of it is read; tables are filled in for the range that is asked for, and data is read from the disk straight into
//! the caller's buffer. Nothing is written anywhere, so a disk in a backup is a VMDK or a VHDX at once.
//!
//! * `allocation`: which units of the disk are stored, in little memory;
//! * `sections`, `tables`, `units`: what files are made of: parts, allocation tables, data;
//! * one module per format, which knows its headers and where things are.
//!
//! What holds for all of them:
//!
//! * What the disk does not store is not stored: a cluster is in the file when a byte of it is in an extent of data.
//!   The file has holes itself, where a cluster is only partly data.
//! * The same disk, identity and name give the same bytes; there are no times in them.
//! * The data is in the order of the disk: a reader that goes through the file goes through the disk, once.
//! * A disk whose size is not a multiple of its logical blocks (512 or 4096 bytes) is rounded up with zeros, except
//!   as [`Kind::Raw`]. Only VHDX carries the size of the blocks: a disk of blocks of 4096 bytes in another container has
//!   to be given to its guest as what it is.
//! * An empty disk can only be raw or qcow2.

mod allocation;
mod identity;
mod qcow2;
mod sections;
mod tables;
mod units;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use std::{fmt, ops::Range, str::FromStr, sync::Arc};

pub use self::qcow2::Backing;
pub(crate) use self::sections::Sections;
use self::{identity::Identity, units::Source, vmdk::Flat};
use crate::{BlockDevice, Error, ReadAt, Result, images::Format};

/// A kind of image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The disk itself.
    Raw,
    /// qcow2, version 3.
    Qcow2,
    /// VMDK `monolithicSparse`.
    VmdkSparse,
    /// VMDK `monolithicFlat`: a descriptor, and the disk in a raw file beside it.
    VmdkFlat,
    /// VMDK `vmfs`: the same for ESXi.
    VmdkVmfs,
    /// VMDK `streamOptimized`.
    VmdkStream,
    /// VHDX, dynamic.
    VhdxDynamic,
    /// VHDX, fixed.
    VhdxFixed,
    /// VHD, dynamic.
    VhdDynamic,
    /// VHD, fixed.
    VhdFixed,
    /// VDI, dynamic.
    Vdi,
}

/// A file of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub content: Content,
}

/// What is in a file of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// What [`open`] gives.
    Image,
    /// What [`open_flat`] gives.
    Flat,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Raw,
        Self::Qcow2,
        Self::VmdkSparse,
        Self::VmdkFlat,
        Self::VmdkVmfs,
        Self::VmdkStream,
        Self::VhdxDynamic,
        Self::VhdxFixed,
        Self::VhdDynamic,
        Self::VhdFixed,
        Self::Vdi,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::VmdkSparse => "vmdk",
            Self::VmdkFlat => "vmdk-flat",
            Self::VmdkVmfs => "vmdk-vmfs",
            Self::VmdkStream => "vmdk-stream",
            Self::VhdxDynamic => "vhdx",
            Self::VhdxFixed => "vhdx-fixed",
            Self::VhdDynamic => "vhd",
            Self::VhdFixed => "vhd-fixed",
            Self::Vdi => "vdi",
        }
    }

    /// The format of which it is a kind.
    #[must_use]
    pub const fn format(self) -> Format {
        match self {
            Self::Raw => Format::Raw,
            Self::Qcow2 => Format::Qcow2,
            Self::VmdkSparse | Self::VmdkFlat | Self::VmdkVmfs | Self::VmdkStream => Format::Vmdk,
            Self::VhdxDynamic | Self::VhdxFixed => Format::Vhdx,
            Self::VhdDynamic | Self::VhdFixed => Format::Vhd,
            Self::Vdi => Format::Vdi,
        }
    }

    /// The extension of its file's name, without the dot.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        self.format().name()
    }

    /// The files it consists of when the disk is called `stem`: the image first.
    #[must_use]
    pub fn parts(self, stem: &str) -> Vec<Part> {
        let name = format!("{stem}.{}", self.extension());
        let flat = matches!(self, Self::VmdkFlat | Self::VmdkVmfs)
            .then(|| Part { name: vmdk::flat_name(&name), content: Content::Flat });
        [Part { name, content: Content::Image }].into_iter().chain(flat).collect()
    }
}

/// The usual kind of a format: dynamic, in one file.
impl From<Format> for Kind {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2,
            Format::Vmdk => Self::VmdkSparse,
            Format::Vhd => Self::VhdDynamic,
            Format::Vhdx => Self::VhdxDynamic,
            Format::Vdi => Self::Vdi,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.name() == name) {
            return Ok(kind);
        }
        name.parse::<Format>().map(Self::from).map_err(|_| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("{name:?} is no kind of image: {names}"))
        })
    }
}

/// `disk` as an image file of `kind` that is called `name` ([`Kind::parts`]).
///
/// `identity` stands for the disk in this state: all identifiers in the file are made from it.
///
/// # Errors
///
/// When the disk does not fit into the format, or cannot tell its extents.
pub fn open(kind: Kind, name: &str, disk: &Arc<dyn BlockDevice>, identity: &[u8]) -> Result<Arc<dyn ReadAt>> {
    let identity = Identity::new(identity);
    if disk.size() == 0 && !matches!(kind, Kind::Raw | Kind::Qcow2) {
        return Err(Error::unsupported(format!("an empty disk cannot be a {kind}: use raw or qcow2")));
    }
    // Everything is rounded up from the size: keep that, and sums of it, from overflowing.
    if disk.size() > i64::MAX as u64 / 4 {
        return Err(Error::unsupported(format!("a disk of {} bytes is larger than a file can be", disk.size())));
    }
    let flat = |kind| vmdk::flat(kind, &vmdk::flat_name(name), disk, &identity);
    let file: Arc<dyn ReadAt> = match kind {
        Kind::Raw => Arc::<dyn BlockDevice>::clone(disk),
        Kind::VmdkFlat => Arc::new(flat(Flat::Hosted)?),
        Kind::VmdkVmfs => Arc::new(flat(Flat::Vmfs)?),
        Kind::Qcow2 => Arc::new(qcow2::open(disk)?),
        Kind::VmdkSparse => Arc::new(vmdk::sparse::open(name, disk, &identity)?),
        Kind::VmdkStream => Arc::new(vmdk::stream::open(name, disk, &identity)?),
        Kind::VhdxDynamic => Arc::new(vhdx::open_dynamic(disk, &identity)?),
        Kind::VhdxFixed => Arc::new(vhdx::open_fixed(disk, &identity)?),
        Kind::VhdDynamic => Arc::new(vhd::open_dynamic(disk, &identity)?),
        Kind::VhdFixed => Arc::new(vhd::open_fixed(disk, &identity)?),
        Kind::Vdi => Arc::new(vdi::open(disk, &identity)?),
    };
    Ok(file)
}

/// The raw file beside the descriptor of a flat VMDK: the disk, rounded up to whole blocks.
///
/// # Errors
///
/// When the disk is larger than a file can be.
pub fn open_flat(disk: &Arc<dyn BlockDevice>) -> Result<Arc<dyn ReadAt>> {
    Ok(Arc::new(padded(disk, rounded(disk.as_ref()))?))
}

/// Where the bytes of `disk` are in the file with them, where they lie there in one piece and in order, whatever the disk
/// stores: the offset of the first.
///
/// # Errors
///
/// As [`open`].
pub fn place_of(kind: Kind, disk: &Arc<dyn BlockDevice>) -> Result<Option<u64>> {
    Ok(match kind {
        Kind::Raw | Kind::VmdkFlat | Kind::VmdkVmfs | Kind::VhdFixed => Some(0),
        Kind::VhdxFixed => Some(vhdx::data_at(disk)?),
        _ => None,
    })
}

/// What has changed of `disk`, as a qcow2 file on top of `backing`: a member of a chain.
///
/// `disk` is the whole disk as it is now, and `changed` the ascending byte ranges that were written since `backing`.
///
/// # Errors
///
/// As [`open`]; and when a range is not in order, or the name of the backing file is none.
pub fn open_delta(
    disk: &Arc<dyn BlockDevice>,
    changed: &mut dyn Iterator<Item = Result<Range<u64>>>,
    backing: &Backing,
) -> Result<Arc<dyn ReadAt>> {
    Ok(Arc::new(qcow2::delta(disk, changed, backing)?))
}

/// Bytes of a logical block of `disk`: 512 or 4096.
fn sector(disk: &dyn BlockDevice) -> u32 {
    if disk.block_sizes().logical > 512 { 4096 } else { 512 }
}

/// The size of `disk` in whole logical blocks. Where that is no number, no file can be so large either, which
/// [`Sections::put`] says.
fn rounded(disk: &dyn BlockDevice) -> u64 {
    disk.size().checked_next_multiple_of(u64::from(sector(disk))).unwrap_or(u64::MAX)
}

/// The size of `disk` in whole logical blocks, if it is at most `max`, of which `limit` tells; `remedy` has no such
/// limit.
fn size_within(disk: &Arc<dyn BlockDevice>, max: u64, limit: &str, remedy: &str) -> Result<u64> {
    let size = rounded(disk.as_ref());
    if size > max {
        return Err(Error::unsupported(format!("{limit}, and the disk has {size} bytes: use {remedy}")));
    }
    Ok(size)
}

/// `disk` and zeros behind it up to `size`.
fn padded(disk: &Arc<dyn BlockDevice>, size: u64) -> Result<Sections> {
    let mut file = Sections::new();
    file.put(0, Source::new(Arc::clone(disk)))?;
    Ok(file.ending_at(size))
}

/// Put `bytes` at `at` of a structure that is large enough.
fn put(structure: &mut [u8], at: usize, bytes: &[u8]) {
    structure[at..at + bytes.len()].copy_from_slice(bytes);
}
