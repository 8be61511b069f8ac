//! OVF packages (DMTF DSP0243): a machine with its disks, as files or as one archive (OVA), read and written.
//!
//! * `descriptor`: the XML that says which files are disks, and what machine they belong to;
//! * `tar`: the archive, as far as packages use it;
//! * [`Package`]: reading one; [`Package`]'s disks are opened through the same gate as other images;
//! * [`mod@write`]: a machine as a package that is laid out and not stored, like other containers.

mod descriptor;
mod package;
mod tar;
pub mod write;

pub use self::{
    descriptor::{Hardware, PackagedDisk},
    package::Package,
};
