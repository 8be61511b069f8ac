//! READ: from the tree straight into the message.

use std::sync::Arc;

use blockdev::ReadAt;
use vfs::{
    door::{EXECUTE, READ, read_whole, readable},
    node::Attributes,
};

use super::{
    super::{
        protocol::Status,
        xdr::{Decoder, Garbage},
    },
    Work,
};

impl Work<'_> {
    pub(super) fn read(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let handle = Self::handle(&mut arguments)?;
        let (offset, count) = (arguments.u64()?, arguments.u32()?);
        let start = self.out.len();
        let read = self.opened(handle).and_then(|(attributes, content)| {
            let len = readable(content.as_ref(), offset, count.min(self.limits.read) as usize);
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

    fn opened(&self, handle: &[u8]) -> Result<(Attributes, Arc<dyn ReadAt>), Status> {
        let (place, attributes) = self.found(handle)?;
        // The client cannot tell reading a program from running it; and its owner may have opened the file while that
        // was allowed (RFC 1813, section 4.4).
        if attributes.uid != self.call.credentials.uid {
            self.export.require(&place, &attributes, &self.call.credentials, READ | EXECUTE)?;
        }
        Ok((attributes, self.export.content(&place)?))
    }
}
