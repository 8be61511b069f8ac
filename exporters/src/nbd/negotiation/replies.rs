//! What the server answers to options.

use std::{io, sync::Arc};

use zerocopy::IntoBytes;

use super::{
    super::{
        export::Export,
        protocol::{InfoBlockSize, InfoExport, OptionReplyHead, info, magic, reply},
    },
    options::ChosenExport,
};
use crate::net::Transport;

/// The replies to one option.
pub(super) struct Replies {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) option: u32,
}

impl Replies {
    fn send(&self, kind: u32, data: &[&[u8]]) -> io::Result<()> {
        let length: usize = data.iter().map(|part| part.len()).sum();
        let head = OptionReplyHead {
            magic: magic::OPTION_REPLY.into(),
            option: self.option.into(),
            kind: kind.into(),
            length: u32::try_from(length).map_err(io::Error::other)?.into(),
        };
        let mut message = head.as_bytes().to_vec();
        data.iter().for_each(|part| message.extend_from_slice(part));
        self.transport.send_all(&message)
    }

    /// `NBD_REP_ACK`
    pub(super) fn acknowledge(&self) -> io::Result<()> {
        self.send(reply::ACK, &[])
    }

    /// An error reply, with a sentence for people.
    pub(super) fn refuse(&self, error: u32, why: &str) -> io::Result<()> {
        self.send(error, &[why.as_bytes()])
    }

    /// `NBD_REP_SERVER`
    pub(super) fn export(&self, export: &Export) -> io::Result<()> {
        let length = u32::try_from(export.name.len()).map_err(io::Error::other)?;
        self.send(reply::SERVER, &[&length.to_be_bytes(), export.name.as_bytes(), export.description.as_bytes()])
    }

    /// `NBD_REP_META_CONTEXT`
    pub(super) fn context(&self, id: u32, name: &str) -> io::Result<()> {
        self.send(reply::META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()])
    }

    /// The `NBD_REP_INFO` replies that were asked for. Size and flags are always told; so are the block sizes, because
    /// clients that do not ask still print them.
    pub(super) fn info(
        &self,
        export: &Export,
        structured: bool,
        largest: u32,
        chosen: &ChosenExport<'_>,
    ) -> io::Result<()> {
        let device = export.disk.device();
        let size = device.size();
        let about = InfoExport { kind: info::EXPORT.into(), size: size.into(), flags: export.flags(structured).into() };
        self.send(reply::INFO, &[about.as_bytes()])?;
        if chosen.asks_for(info::NAME) {
            self.send(reply::INFO, &[&info::NAME.to_be_bytes(), export.name.as_bytes()])?;
        }
        if chosen.asks_for(info::DESCRIPTION) {
            self.send(reply::INFO, &[&info::DESCRIPTION.to_be_bytes(), export.description.as_bytes()])?;
        }
        let sizes = device.block_sizes();
        // Any request is served; but a disk of 4096-byte sectors should look like one to who asks.
        let minimum = match sizes.logical {
            512 => 1,
            logical if logical.is_power_of_two() && logical <= 1 << 16 && size.is_multiple_of(logical.into()) => {
                logical
            }
            _ => 1,
        };
        let preferred = sizes.physical.clamp(4096, 1 << 20).next_power_of_two().max(minimum);
        let blocks = InfoBlockSize {
            kind: info::BLOCK_SIZE.into(),
            minimum: minimum.into(),
            preferred: preferred.into(),
            maximum: largest.max(preferred).into(),
        };
        self.send(reply::INFO, &[blocks.as_bytes()])
    }
}
