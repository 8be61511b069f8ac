//! Reading a package: its disks, and its files as the neighbours that an image may look for.

use std::sync::Arc;

use super::{
    descriptor::{self, PackagedDisk},
    tar,
};
use crate::{
    Error, ReadAt, Result,
    images::{
        self, Image,
        gate::{Neighbours, base_name},
    },
    layers::Slice,
};

/// The longest descriptor that is read, in bytes.
const DESCRIPTOR_MAX: u64 = 16 << 20;

/// An OVF package: an archive, or a descriptor beside its files.
pub struct Package {
    files: Box<dyn Neighbours>,
    disks: Vec<PackagedDisk>,
}

impl Package {
    /// The package that `file` is: an archive (OVA) or a descriptor, whose other files are among `neighbours`; `None` when
    /// it is neither.
    ///
    /// # Errors
    ///
    /// When it is one and damaged.
    pub fn open(file: &Arc<dyn ReadAt>, neighbours: impl Neighbours + 'static) -> Result<Option<Self>> {
        let mut head = [0; tar::BLOCK as usize];
        let n = file.read_at(&mut head, 0)?;
        let head = head.get(..n).unwrap_or_default();
        if tar::is_tar(head) {
            return Self::of_archive(file).map(Some);
        }
        let begins_as_xml = head.trim_ascii_start().starts_with(b"<") || head.starts_with(b"\xef\xbb\xbf<");
        if !begins_as_xml || file.size() > DESCRIPTOR_MAX {
            return Ok(None);
        }
        let text = all(file.as_ref())?;
        if !text.windows(14).any(|w| w == b"/ovf/envelope/") {
            return Ok(None);
        }
        Ok(Some(Self { disks: descriptor::disks(&text)?, files: Box::new(neighbours) }))
    }

    fn of_archive(file: &Arc<dyn ReadAt>) -> Result<Self> {
        let members = tar::members(file.as_ref())?;
        let archive = Archive { file: Arc::clone(file), members };
        let is_descriptor = |m: &&tar::Member| m.name.to_ascii_lowercase().ends_with(".ovf");
        let descriptor = archive.members.iter().find(is_descriptor);
        let descriptor = descriptor
            .ok_or_else(|| Error::unsupported("the archive is no OVF package: there is no descriptor in it"))?;
        let descriptor = archive.member(descriptor)?;
        if descriptor.size() > DESCRIPTOR_MAX {
            return Err(Error::damaged("the OVF descriptor is longer than one can be"));
        }
        let disks = descriptor::disks(&all(descriptor.as_ref())?)?;
        Ok(Self { files: Box::new(archive), disks })
    }

    /// Its disks, in their order.
    #[must_use]
    pub fn disks(&self) -> &[PackagedDisk] {
        &self.disks
    }

    /// Open the disk that has the number `number`.
    ///
    /// # Errors
    ///
    /// When there is none, its file is missing, or cannot be opened as an image.
    pub fn open_disk(&self, number: usize) -> Result<Image> {
        let disk =
            self.disks.get(number).ok_or_else(|| Error::not_found(format!("the package has no disk {number}")))?;
        let name = base_name(&disk.file).unwrap_or_default();
        let file = self.files.find(name)?.ok_or_else(|| {
            Error::new(crate::ErrorKind::Missing, format!("{name:?}, a disk of the OVF package, is not there"))
        })?;
        images::open(name, file, None, self.files.as_ref())
    }
}

/// The files in an archive.
struct Archive {
    file: Arc<dyn ReadAt>,
    members: Vec<tar::Member>,
}

impl Archive {
    fn member(&self, member: &tar::Member) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(Slice::new(Arc::clone(&self.file), member.range.clone())?))
    }
}

impl Neighbours for Archive {
    fn find(&self, name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        self.members.iter().find(|m| m.name == name).map(|m| self.member(m)).transpose()
    }
}

fn all(file: &dyn ReadAt) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(0)];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(bytes)
}
