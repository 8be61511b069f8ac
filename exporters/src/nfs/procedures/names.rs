//! Names and links: LOOKUP, READLINK.

use std::sync::Arc;

use vfs::{
    door::{EXECUTE, Place},
    node::{Attributes, Node, is_name},
};

use super::{
    super::{
        protocol::{NAME_MAX, PATH_MAX, Status},
        xdr::{Decoder, Garbage},
    },
    Work,
};

impl Work<'_> {
    pub(super) fn lookup(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        // A name that is too long is answered, as long as it can be a path.
        let (handle, name) = (Self::handle(&mut arguments)?, arguments.opaque(PATH_MAX)?);
        let dir = self.found(handle);
        let found = match &dir {
            Ok((place, attributes)) => self.child(place, attributes, name),
            Err(status) => Err(*status),
        };
        match found {
            Ok((place, attributes)) => {
                self.status(Status::Ok);
                let handle = self.export.handle(&place);
                self.out.opaque(&handle);
                self.optional_attributes(Some(&attributes));
            }
            Err(status) => self.status(status),
        }
        self.optional_attributes(dir.ok().map(|(_, attributes)| attributes).as_ref());
        Ok(())
    }

    fn child(&self, dir: &Arc<Place>, own: &Attributes, name: &[u8]) -> Result<(Arc<Place>, Attributes), Status> {
        if dir.dir().is_none() {
            return Err(Status::NotDirectory);
        }
        self.export.require(dir, own, &self.call.credentials, EXECUTE)?;
        let same = match name {
            b"." => Some(dir),
            b".." => Some(dir.parent()),
            _ => None,
        };
        if let Some(place) = same {
            return Ok((Arc::clone(place), self.export.attributes(place)?));
        }
        if name.len() > NAME_MAX {
            return Err(Status::NameTooLong);
        }
        if !is_name(name) {
            return Err(Status::NotFound);
        }
        let found = self.export.places.look_up(dir, name).map_err(|e| self.export.status(&e))?;
        found.ok_or(Status::NotFound)
    }

    pub(super) fn readlink(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let handle = Self::handle(&mut arguments)?;
        let found = self.found(handle).and_then(|(place, attributes)| match place.node() {
            Node::Symlink(link) => Ok((attributes, link.target().map_err(|e| self.export.status(&e))?)),
            _ => Err(Status::Invalid),
        });
        match found {
            Ok((attributes, target)) => {
                self.status(Status::Ok);
                self.optional_attributes(Some(&attributes));
                self.out.opaque(&target);
            }
            Err(status) => {
                self.status(status);
                self.optional_attributes(None);
            }
        }
        Ok(())
    }
}
