//! The procedures of NFS version 3 (RFC 1813, section 3.3).
//!
//! Each decodes all its arguments, does its work, and writes a status with what belongs to it: also of a failure there
//! are results.

mod attributes;
mod changes;
mod content;
mod listing;
mod names;
mod refused;
mod writing;

use std::sync::Arc;

use vfs::{door::Place, node::Attributes};

use super::{
    export::Export,
    limits::Limits,
    protocol::{HANDLE_MAX, Status, nfs},
    rpc::{Call, Refusal},
    xdr::{Decoder, Encoder, Garbage},
};

/// A call while it is being worked on.
pub(super) struct Work<'a> {
    pub(super) export: &'a Export,
    pub(super) limits: &'a Limits,
    pub(super) call: &'a Call,
    pub(super) out: &'a mut Encoder,
}

impl Work<'_> {
    /// Do what the call asks for.
    pub(super) fn run(&mut self, arguments: Decoder<'_>) -> Result<(), Refusal> {
        let done = match self.call.procedure {
            nfs::NULL => Ok(()),
            nfs::GETATTR => self.getattr(arguments),
            nfs::LOOKUP => self.lookup(arguments),
            nfs::ACCESS => self.access(arguments),
            nfs::READLINK => self.readlink(arguments),
            nfs::READ => self.read(arguments),
            nfs::READDIR => self.readdir(arguments),
            nfs::READDIRPLUS => self.readdirplus(arguments),
            nfs::FSSTAT => self.fsstat(arguments),
            nfs::FSINFO => self.fsinfo(arguments),
            nfs::PATHCONF => self.pathconf(arguments),
            procedure if !self.export.is_writable() => return self.refuse(procedure),
            nfs::SETATTR => self.setattr(arguments),
            nfs::WRITE => self.write(arguments),
            nfs::CREATE => self.create(arguments),
            nfs::MKDIR => self.mkdir(arguments),
            nfs::SYMLINK => self.symlink(arguments),
            nfs::MKNOD => self.mknod(arguments),
            nfs::REMOVE => self.remove(arguments),
            nfs::RMDIR => self.rmdir(arguments),
            nfs::RENAME => self.rename(arguments),
            nfs::LINK => self.link(arguments),
            nfs::COMMIT => self.commit(arguments),
            _ => return Err(Refusal::Procedure),
        };
        Ok(done?)
    }

    /// The node of the handle that comes next in the arguments. An error in them comes first, whatever the handle is.
    fn handle<'b>(arguments: &mut Decoder<'b>) -> Result<&'b [u8], Garbage> {
        arguments.opaque(HANDLE_MAX)
    }

    fn status(&mut self, status: Status) {
        self.out.u32(status as u32);
    }

    /// The node of `handle` and its attributes.
    fn found(&self, handle: &[u8]) -> Result<(Arc<Place>, Attributes), Status> {
        let place = self.export.find(handle)?;
        let attributes = self.export.attributes_now(&place)?;
        Ok((place, attributes))
    }
}
