//! Replies on their way out.
//!
//! Each thread gathers its replies in an [`Outbox`] and sends them with one call. A message is always sent whole, so
//! those of several threads can follow each other in any order.

use std::{convert::Infallible, io};

use blockdev::MappedRun;
use zerocopy::IntoBytes;

use super::{
    super::protocol::{
        Errno, ErrorHead, ExtendedHead, MAX_STRING, REPLY_DONE, SimpleReply, StructuredHead, chunk, magic,
    },
    Format,
    request::Request,
};
use crate::net::Sender;

/// Gathered replies are sent from this size on.
const SENT_FROM: usize = 256 << 10;
/// A buffer larger than this is given back after use.
const KEPT: usize = 4 << 20;

/// Replies of one thread that were not sent yet.
pub(super) struct Outbox<'a> {
    sender: &'a Sender<'a>,
    format: Format,
    /// As long as it ever was: what was used before is not cleared again.
    buffer: Vec<u8>,
    len: usize,
}

impl<'a> Outbox<'a> {
    pub(super) const fn new(sender: &'a Sender<'a>, format: Format) -> Self {
        Self { sender, format, buffer: Vec::new(), len: 0 }
    }

    pub(super) const fn format(&self) -> Format {
        self.format
    }

    /// Send what was gathered.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.len > 0 {
            let sent = self.sender.send(self.buffer.get(..self.len).unwrap_or_default());
            self.len = 0;
            sent?;
        }
        if self.buffer.len() > KEPT {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Room for a message of `len` bytes, with anything in it. It counts when it is [committed](Self::commit).
    fn room(&mut self, len: usize) -> io::Result<&mut [u8]> {
        if self.len > 0 && self.len + len > SENT_FROM {
            self.flush()?;
        }
        let end = self.len + len;
        if self.buffer.len() < end {
            self.buffer.resize(end.next_power_of_two(), 0);
        }
        Ok(self.buffer.get_mut(self.len..end).unwrap_or_default())
    }

    fn commit(&mut self, len: usize) {
        self.len += len;
    }

    /// A message that ends with `len` bytes which `fill` delivers. When that fails, nothing of the message is sent.
    pub(super) fn message<E>(
        &mut self,
        head: &[&[u8]],
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> io::Result<Result<(), E>> {
        let head_len: usize = head.iter().map(|part| part.len()).sum();
        let mut room = self.room(head_len + len)?;
        for part in head {
            let (here, rest) = room.split_at_mut(part.len());
            here.copy_from_slice(part);
            room = rest;
        }
        let filled = fill(room);
        if filled.is_ok() {
            self.commit(head_len + len);
        }
        Ok(filled)
    }

    /// The head of a chunk of a structured or extended reply, with room for either form.
    fn chunk_head(&self, request: &Request, kind: u16, done: bool, length: usize) -> ([u8; 32], usize) {
        let flags = if done { REPLY_DONE } else { 0 };
        let mut bytes = [0; 32];
        if self.format == Format::Extended {
            let head = ExtendedHead {
                magic: magic::EXTENDED_REPLY.into(),
                flags: flags.into(),
                kind: kind.into(),
                cookie: request.cookie.into(),
                offset: request.offset.into(),
                length: (length as u64).into(),
            };
            bytes.copy_from_slice(head.as_bytes());
            return (bytes, size_of::<ExtendedHead>());
        }
        let head = StructuredHead {
            magic: magic::STRUCTURED_REPLY.into(),
            flags: flags.into(),
            kind: kind.into(),
            cookie: request.cookie.into(),
            // Chunks are as long as a request may be at most.
            length: u32::try_from(length).unwrap_or(u32::MAX).into(),
        };
        let len = size_of::<StructuredHead>();
        bytes.iter_mut().zip(head.as_bytes()).for_each(|(to, from)| *to = *from);
        (bytes, len)
    }

    /// A chunk of a structured or extended reply: `fixed`, and then `len` bytes which `fill` delivers.
    pub(super) fn chunk<E>(
        &mut self,
        request: &Request,
        kind: u16,
        done: bool,
        fixed: &[u8],
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> io::Result<Result<(), E>> {
        let (head, head_len) = self.chunk_head(request, kind, done, fixed.len() + len);
        self.message(&[head.get(..head_len).unwrap_or_default(), fixed], len, fill)
    }

    /// A chunk of data that lies in files of the host, see [`Sender::send_runs`]. It is not the last one of its reply,
    /// because bytes that turn out to be unreadable have to be told after it.
    pub(super) fn mapped_chunk(
        &mut self,
        request: &Request,
        offset: u64,
        runs: &[MappedRun<'_>],
        read: impl FnMut(&mut [u8], u64),
    ) -> io::Result<()> {
        let at = offset.to_be_bytes();
        let len: u64 = runs.iter().map(|run| run.len).sum();
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let (head, head_len) = self.chunk_head(request, chunk::OFFSET_DATA, false, at.len() + len);
        let head = [head.get(..head_len).unwrap_or_default(), &at];
        match self.message(&head, 0, |_| Ok::<_, Infallible>(()))? {
            Ok(()) => {}
        }
        let sent = self.sender.send_runs(self.buffer.get(..self.len).unwrap_or_default(), runs, read);
        self.len = 0;
        sent
    }

    /// A chunk that consists of `payload`.
    pub(super) fn whole_chunk(&mut self, request: &Request, kind: u16, done: bool, payload: &[u8]) -> io::Result<()> {
        let never = self.chunk(request, kind, done, payload, 0, |_| Ok::<_, Infallible>(()))?;
        match never {
            Ok(()) => Ok(()),
        }
    }

    /// A simple reply that ends with `len` bytes which `fill` delivers.
    pub(super) fn simple<E>(
        &mut self,
        request: &Request,
        error: u32,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> io::Result<Result<(), E>> {
        let head =
            SimpleReply { magic: magic::SIMPLE_REPLY.into(), error: error.into(), cookie: request.cookie.into() };
        self.message(&[head.as_bytes()], len, fill)
    }

    /// The reply of success without data.
    pub(super) fn done(&mut self, request: &Request) -> io::Result<()> {
        match self.format {
            Format::Simple => self.simple_status(request, 0),
            _ => self.whole_chunk(request, chunk::NONE, true, &[]),
        }
    }

    /// The reply of failure, with a sentence for people and, where it is known, the offset of the first byte concerned.
    pub(super) fn failed(
        &mut self,
        request: &Request,
        errno: Errno,
        message: &str,
        offset: Option<u64>,
    ) -> io::Result<()> {
        if self.format == Format::Simple {
            return self.simple_status(request, errno as u32);
        }
        let end = (0..=message.len().min(MAX_STRING)).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        let message = message.get(..end).unwrap_or_default();
        let length = u16::try_from(message.len()).unwrap_or(0);
        let head = ErrorHead { error: (errno as u32).into(), message_length: length.into() };
        let mut payload = head.as_bytes().to_vec();
        payload.extend_from_slice(message.as_bytes());
        let kind = match offset {
            None => chunk::ERROR,
            Some(offset) => {
                payload.extend_from_slice(&offset.to_be_bytes());
                chunk::ERROR_OFFSET
            }
        };
        self.whole_chunk(request, kind, true, &payload)
    }

    fn simple_status(&mut self, request: &Request, error: u32) -> io::Result<()> {
        match self.simple(request, error, 0, |_| Ok::<_, Infallible>(()))? {
            Ok(()) => Ok(()),
        }
    }
}
