//! Requests, of either form.

use std::io;

use zerocopy::FromBytes;

use super::{
    super::protocol::{CompactRequest, ExtendedRequest, command, flag, magic},
    Format,
};
use crate::net::Input;

/// A request. Its payload, when there is one, follows in the stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    /// How much of the export it is about, in bytes.
    pub(super) length: u64,
    /// Bytes of payload.
    pub(super) payload: u64,
}

impl Request {
    /// The next request, if its head is here.
    ///
    /// # Errors
    ///
    /// When what is here is no request: nobody can tell where the next one begins.
    pub(super) fn take(input: &mut Input, format: Format) -> io::Result<Option<Self>> {
        let lost = || io::Error::new(io::ErrorKind::InvalidData, "a request without its magic number");
        if format == Format::Extended {
            let Some(bytes) = input.take::<{ size_of::<ExtendedRequest>() }>() else { return Ok(None) };
            let head = ExtendedRequest::read_from_bytes(&bytes).map_err(|_| lost())?;
            if head.magic.get() != magic::EXTENDED_REQUEST {
                return Err(lost());
            }
            let (flags, command, length) = (head.flags.get(), head.command.get(), head.length.get());
            return Ok(Some(Self {
                flags,
                command,
                cookie: head.cookie.get(),
                offset: head.offset.get(),
                length,
                // A write should have the flag; QEMU (10.0) sends writes without it.
                payload: if command == command::WRITE || flags & flag::PAYLOAD_LEN != 0 { length } else { 0 },
            }));
        }
        let Some(bytes) = input.take::<{ size_of::<CompactRequest>() }>() else { return Ok(None) };
        let head = CompactRequest::read_from_bytes(&bytes).map_err(|_| lost())?;
        if head.magic.get() != magic::REQUEST {
            return Err(lost());
        }
        let (command, length) = (head.command.get(), u64::from(head.length.get()));
        Ok(Some(Self {
            flags: head.flags.get(),
            command,
            cookie: head.cookie.get(),
            offset: head.offset.get(),
            length,
            payload: if command == command::WRITE { length } else { 0 },
        }))
    }

    pub(super) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of payload of a request that was checked: they fit into memory.
    pub(super) fn payload_len(&self) -> usize {
        usize::try_from(self.payload).unwrap_or(usize::MAX)
    }

    /// Memory that working on it takes, about.
    pub(super) fn memory(&self) -> usize {
        match self.command {
            command::READ => usize::try_from(self.length).unwrap_or(usize::MAX),
            _ => self.payload_len(),
        }
    }
}
