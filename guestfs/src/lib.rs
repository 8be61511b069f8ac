//! Filesystems of guests: read only, in process, over any block device.
//!
//! A disk in a backup was written by somebody else's machine, and nobody vouches for it. So no kernel mounts it: each
//! family of filesystems has a reader here, which trusts no byte of it, allocates by no length that it claims, and
//! answers with an error at the file concerned when it lies.
//!
//! * [`FileSystem`]: what every family is to the rest of the world;
//! * `ext`, `xfs`, `btrfs`, `ntfs`, `refs`, `fat`, `exfat`, `zfs`: the families, a folder each;
//! * [`mod@open`]: which family reads a volume, and which volumes belong together;
//! * [`resolve`]: paths as the guest resolves them; [`os`]: who the guest is, and how it saw its disks;
//! * `blocks` (metadata that was read and found sound), `patched` (a device under a replayed journal), `inline` (content
//!   that lies among metadata), `names` (UTF-16 names as bytes), `index` (names of directories without order): what
//!   families share.
//!
//! The content of a file is a [`Layer`](blockdev::images::layer::Layer), as an image's is: a map from its bytes to places
//! on the device. Reading, unpacking, caching, holes and zero-copy are therefore those of disks
//! ([`Disk`](blockdev::images::Disk)).

mod blocks;
mod btrfs;
mod exfat;
mod ext;
mod fat;
mod filesystem;
mod index;
mod inline;
mod names;
mod ntfs;
pub mod open;
pub mod os;
mod patched;
mod refs;
pub mod resolve;
mod windows;
mod xfs;
mod zfs;

pub use blockdev::{Error, ErrorKind, Result};
pub use filesystem::{DirEntry, FileId, FileSystem, Info, Kind, Metadata, Stream, Time, Usage, Xattr};
pub use open::{Found, find, open};
