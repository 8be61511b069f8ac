//! READ: from the tree straight into the message.

use std::sync::Arc;

use blockdev::ReadAt;
use vfs::{
    door::{EXECUTE, READ, read_whole, readable},
    node::{Attributes, Node, OpenFile},
};

use super::{
    super::{
        protocol::Status,
        xdr::{Decoder, Garbage, opaque_len},
    },
    Work,
};

/// The content of a file.
enum Content {
    /// It never changes.
    Fixed(Arc<dyn ReadAt>),
    /// It can be changed.
    Changing(OpenFile),
}

impl Work<'_> {
    pub(super) fn read(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let handle = Self::handle(&mut arguments)?;
        let (offset, count) = (arguments.u64()?, arguments.u32()?);
        let start = self.out.len();
        let count = count.min(self.limits.read) as usize;
        let read = self.readable(handle).and_then(|(attributes, content)| {
            let content = match content {
                Content::Fixed(content) => content,
                Content::Changing(file) => return self.read_changing(&file, &attributes, offset, count),
            };
            let len = readable(content.as_ref(), offset, count);
            self.status(Status::Ok);
            self.optional_attributes(Some(&attributes));
            self.out.u32(u32::try_from(len).unwrap_or(u32::MAX));
            self.out.bool(offset.saturating_add(len as u64) >= content.size());
            read_whole(content.as_ref(), self.out.opaque_room(len), offset).map_err(|e| self.export.status(&e))
        });
        if let Err(status) = read {
            self.out.truncate(start);
            self.status(status);
            self.optional_attributes(None);
        }
        Ok(())
    }

    /// Read what others may change meanwhile: it may be shorter than it was a moment ago.
    fn read_changing(
        &mut self,
        file: &OpenFile,
        attributes: &Attributes,
        offset: u64,
        count: usize,
    ) -> Result<(), Status> {
        let left = attributes.size.saturating_sub(offset);
        let len = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        self.status(Status::Ok);
        self.optional_attributes(Some(attributes));
        let at = self.out.len();
        self.out.u32(u32::try_from(len).unwrap_or(u32::MAX));
        self.out.bool(len as u64 == left);
        let read = file.read_at(self.out.opaque_room(len), offset).map_err(|e| self.export.status(&e))?;
        if read < len {
            // Count, end of file, and the length of the bytes: those that are missing are not told.
            for (word, value) in [(0, read), (4, 1), (8, read)] {
                self.out.set_u32(at + word, u32::try_from(value).unwrap_or(u32::MAX));
            }
            self.out.truncate(at + 8 + opaque_len(read));
            self.out.clear_padding(read);
        }
        Ok(())
    }

    fn readable(&self, handle: &[u8]) -> Result<(Attributes, Content), Status> {
        let place = self.export.find(handle)?;
        let changing = match place.node() {
            Node::File(file) if file.changes().is_some() => Some(self.export.changing(&place)?),
            _ => None,
        };
        let (attributes, opened) = match changing {
            Some((file, attributes)) => (attributes, Some(Content::Changing(file))),
            None => (self.export.attributes_now(&place)?, None),
        };
        // The client cannot tell reading a program from running it; and its owner may have opened the file while that
        // was allowed (RFC 1813, section 4.4).
        if attributes.uid != self.call.credentials.uid {
            self.export.require(&place, &attributes, &self.call.credentials, READ | EXECUTE)?;
        }
        let content = match opened {
            Some(content) => content,
            None => Content::Fixed(self.export.content(&place)?),
        };
        Ok((attributes, content))
    }
}
