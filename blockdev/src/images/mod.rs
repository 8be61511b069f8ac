//! Disk image formats: any image file, and the files it builds on, as one [`Disk`].
//!
//! * [`layer`]: what all formats come down to: a map from guest offsets to places in files;
//! * one module per format, which knows its headers and tables and makes such a map (`blocks` is what VHD and VHDX
//!   share);
//! * [`Disk`]: an image and its parents read through one merged map;
//! * [`gate`]: where an image may look for its other files;
//! * [`mod@detect`]: which format a file has, by its own bytes.
//!
//! [`open`] does it all.

mod blocks;
pub mod detect;
mod disk;
pub mod gate;
mod info;
pub mod layer;
pub mod qcow2;
pub mod raw;
pub mod tables;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

use std::sync::Arc;

pub use self::{
    detect::{Format, detect},
    disk::{Disk, Units},
    info::{Bitmap, Info, Member, Opened, Parent, Snapshot},
};
use crate::{
    Error, ErrorKind, ReadAt, Result,
    images::gate::{Neighbours, base_name},
};

/// Images a chain may have: more are a loop in all but name.
const DEPTH_MAX: usize = 1024;

/// A disk and what is known of the image files it is made of.
pub struct Image {
    /// The disk.
    pub disk: Arc<Disk>,
    /// Its image files, the topmost first.
    pub members: Vec<Member>,
}

/// Open the image `file`, called `name`, with all its parents, which are looked for among `neighbours`.
///
/// `format` is that of the topmost file where it is known for certain (it was made by us, or the operator said so);
/// otherwise its magic tells. A parent has the format that its child says it has, or else its magic tells.
///
/// # Errors
///
/// When a file is not what it claims to be, or a parent is missing or not the one that the child was made on.
pub fn open(name: &str, file: Arc<dyn ReadAt>, format: Option<Format>, neighbours: &dyn Neighbours) -> Result<Image> {
    let mut layers: Vec<Arc<dyn layer::Layer>> = Vec::new();
    let mut members: Vec<Member> = Vec::new();
    let mut sizes = None;
    let mut next = Some((name.to_owned(), file, format, None::<Parent>));
    while let Some((name, file, format, child_wants)) = next.take() {
        if members.len() >= DEPTH_MAX || members.iter().any(|m| m.name == name) {
            return Err(Error::damaged(format!("{name} is a parent of itself")));
        }
        let opened = open_one(&file, format, neighbours).map_err(|e| e.context(&name))?;
        if let Some(wanted) = child_wants.and_then(|p| p.identity)
            && opened.info.identity.as_ref() != Some(&wanted)
        {
            let child = members.last().map_or("", |m| m.name.as_str());
            return Err(Error::damaged(format!(
                "{name} is not the state that {child} was made on: it has been changed since, or is another disk"
            )));
        }
        sizes.get_or_insert(opened.info.block_sizes);
        layers.push(opened.layer);
        if let Some(parent) = &opened.info.parent {
            let (parent_name, parent_file) = find_parent(&name, parent, neighbours)?;
            next = Some((parent_name, parent_file, parent.format, Some(parent.clone())));
        }
        members.push(Member { name, file_size: file.size(), info: opened.info });
    }
    let sizes = sizes.unwrap_or(crate::BlockSizes::CLASSIC);
    Ok(Image { disk: Arc::new(Disk::new(layers, sizes)?), members })
}

/// Open one image file by itself, without its parents.
///
/// # Errors
///
/// When it is not what it claims to be, or a file that is part of it is missing.
pub fn open_one(file: &Arc<dyn ReadAt>, format: Option<Format>, neighbours: &dyn Neighbours) -> Result<Opened> {
    let format = match format {
        Some(format) => format,
        None => detect(file.as_ref())?,
    };
    let file = Arc::clone(file);
    match format {
        Format::Raw => Ok(raw::open(file)),
        Format::Qcow2 => qcow2::open(file, neighbours),
        Format::Vmdk => vmdk::open(file, neighbours),
        Format::Vhd => vhd::open(file),
        Format::Vhdx => vhdx::open(file),
        Format::Vdi => vdi::open(file),
    }
}

fn find_parent(child: &str, parent: &Parent, neighbours: &dyn Neighbours) -> Result<(String, Arc<dyn ReadAt>)> {
    for name in parent.names.iter().filter_map(|n| base_name(n)) {
        if let Some(file) = neighbours.find(name)? {
            return Ok((name.to_owned(), file));
        }
    }
    let names = parent.names.join(" or ");
    Err(Error::new(
        ErrorKind::Missing,
        format!("{child} was made on {names}, which is not in the same folder or backup"),
    ))
}
