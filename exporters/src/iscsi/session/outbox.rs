//! What goes out: gathered by each thread, numbered when it is sent.
//!
//! The numbers in a response (StatSN, ExpCmdSN, MaxCmdSN) have to be in the order in which responses are sent, whichever
//! threads they come from. So a thread gathers its PDUs with those fields empty, and they are filled in under the lock
//! of the connection, with which the bytes are then sent by one call.

use std::{io, sync::Arc};

use super::{
    super::pdu::{DIGEST, HEAD, Head, digest, padding},
    Connection,
};

/// Gathered PDUs are sent from this size on.
const SENT_FROM: usize = 256 << 10;
/// A buffer larger than this is given back after use.
const KEPT: usize = 2 << 20;

/// How a PDU is numbered (11.3 and on).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// It has the next status number, and takes it.
    Status,
    /// It tells the next status number, and leaves it.
    Next,
    /// It has none: data without a status.
    None,
}

/// PDUs of one thread for one connection that were not sent yet.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) connection: Arc<Connection>,
    /// As long as it ever was: what was used before is not cleared again.
    buffer: Vec<u8>,
    len: usize,
    /// Where heads are, and how each is numbered.
    heads: Vec<(usize, Number)>,
}

impl Outbox {
    pub(super) const fn new(connection: Arc<Connection>) -> Self {
        Self { connection, buffer: Vec::new(), len: 0, heads: Vec::new() }
    }

    /// A PDU with a data segment of `len` bytes which `fill` delivers. When that fails, there is no PDU.
    pub(super) fn push_with<E>(
        &mut self,
        mut head: Head,
        number: Number,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> io::Result<Result<(), E>> {
        head.set_data(len);
        let header_digest = if self.connection.header_digest { DIGEST } else { 0 };
        let data_digest = if self.connection.data_digest && len > 0 { DIGEST } else { 0 };
        let padding = padding(len);
        let whole = HEAD + header_digest + len + padding + data_digest;
        if self.len > 0 && self.len + whole > SENT_FROM {
            self.flush()?;
        }
        let start = self.len;
        let end = start + whole;
        if self.buffer.len() < end {
            self.buffer.resize(end.next_power_of_two(), 0);
        }
        let room = self.buffer.get_mut(start..end).unwrap_or_default();
        let (first, rest) = room.split_at_mut_checked(HEAD + header_digest).unwrap_or_default();
        first.iter_mut().zip(head.0).for_each(|(to, from)| *to = from);
        let (segment, sum) = rest.split_at_mut_checked(len + padding).unwrap_or_default();
        let (data, padded) = segment.split_at_mut_checked(len).unwrap_or_default();
        if let Err(error) = fill(data) {
            return Ok(Err(error));
        }
        padded.fill(0);
        if data_digest > 0 {
            sum.copy_from_slice(&digest(segment));
        }
        self.heads.push((start, number));
        self.len = end;
        Ok(Ok(()))
    }

    /// A PDU with these data.
    pub(super) fn push(&mut self, head: Head, number: Number, data: &[u8]) -> io::Result<()> {
        let filled: Result<(), std::convert::Infallible> = self.push_with(head, number, data.len(), |room| {
            room.copy_from_slice(data);
            Ok(())
        })?;
        match filled {
            Ok(()) => Ok(()),
        }
    }

    /// Send what was gathered.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        let bytes = self.buffer.get_mut(..self.len).unwrap_or_default();
        let sent = {
            let mut sending = self.connection.sending.lock();
            let window = self.connection.session.window().to_be_bytes();
            for (start, number) in &self.heads {
                let Some((head, rest)) = bytes.get_mut(*start..).and_then(|b| b.split_first_chunk_mut::<HEAD>()) else {
                    continue;
                };
                if *number != Number::None {
                    head[24..28].copy_from_slice(&sending.status_number.to_be_bytes());
                }
                if *number == Number::Status {
                    sending.status_number = sending.status_number.wrapping_add(1);
                }
                head[28..36].copy_from_slice(&window);
                if self.connection.header_digest
                    && let Some(sum) = rest.first_chunk_mut::<DIGEST>()
                {
                    *sum = digest(head);
                }
            }
            self.connection.transport.send_all(bytes)
        };
        self.len = 0;
        self.heads.clear();
        if self.buffer.len() > KEPT {
            self.buffer = Vec::new();
        }
        sent
    }
}
