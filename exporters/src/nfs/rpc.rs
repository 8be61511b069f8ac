//! Remote procedure calls (ONC RPC, RFC 5531): heads of calls and replies, credentials, and records on a stream.

use std::io;

use super::xdr::{Decoder, Encoder, Garbage};
use crate::net::{Input, Transport};

/// Bytes of a call that does not write, at most: with its head, credentials and names.
pub(super) const CALL_MAX: usize = 8 << 10;

/// A record of which more than this is to come is received where it is kept, not by way of the input's buffer.
const DIRECT: usize = 32 << 10;

/// The bit of a record mark that says that the fragment is the last one (section 11).
const LAST: u32 = 1 << 31;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const VERSION: u32 = 2;
const ACCEPTED: u32 = 0;
const DENIED: u32 = 1;
const VERSION_MISMATCH: u32 = 0;
const AUTH_ERROR: u32 = 1;
const REJECTED_CREDENTIALS: u32 = 2;
/// Longest credentials and verifiers (section 8.2).
const AUTH_MAX: usize = 400;
const AUTH_NONE: u32 = 0;
/// Credentials with user and groups (appendix A).
pub(super) const AUTH_SYS: u32 = 1;
const MACHINE_NAME_MAX: usize = 255;
const GROUPS_MAX: usize = 16;

/// Who does not say who he is.
const NOBODY: u32 = 65534;

/// How an accepted call went, beside success (section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such program.
    Program,
    /// The program has these versions only.
    Versions(u32, u32),
    /// The program has no such procedure.
    Procedure,
    /// The arguments make no sense.
    Arguments,
}

impl From<Garbage> for Refusal {
    fn from(_: Garbage) -> Self {
        Self::Arguments
    }
}

/// Who calls, as the client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    /// The first group, and then the others.
    pub(super) gids: Vec<u32>,
}

impl Credentials {
    fn nobody() -> Self {
        Self { uid: NOBODY, gids: vec![NOBODY] }
    }

    fn system(body: &[u8]) -> Result<Self, Garbage> {
        let mut body = Decoder::new(body);
        let _stamp = body.u32()?;
        body.opaque(MACHINE_NAME_MAX)?;
        let (uid, gid, count) = (body.u32()?, body.u32()?, body.u32()? as usize);
        if count > GROUPS_MAX {
            return Err(Garbage);
        }
        let mut gids = vec![gid];
        for _ in 0..count {
            gids.push(body.u32()?);
        }
        Ok(Self { uid, gids })
    }
}

/// The head of a call; its arguments follow.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) xid: u32,
    pub(super) program: u32,
    pub(super) version: u32,
    pub(super) procedure: u32,
    pub(super) credentials: Credentials,
}

/// What a message is that should be a call.
pub(super) enum Parsed {
    Call(Call),
    /// One that was answered by a denial.
    Denied,
}

impl Call {
    /// The call at the head of `message`. One that cannot be served is denied in `out`.
    ///
    /// # Errors
    ///
    /// When it is no call: there is nothing to answer.
    pub(super) fn parse(message: &mut Decoder<'_>, out: &mut Encoder) -> Result<Parsed, Garbage> {
        let (xid, kind, version) = (message.u32()?, message.u32()?, message.u32()?);
        if kind != CALL {
            return Err(Garbage);
        }
        if version != VERSION {
            [xid, REPLY, DENIED, VERSION_MISMATCH, VERSION, VERSION].into_iter().for_each(|word| out.u32(word));
            return Ok(Parsed::Denied);
        }
        let (program, version, procedure) = (message.u32()?, message.u32()?, message.u32()?);
        let (flavor, body) = (message.u32()?, message.opaque(AUTH_MAX)?);
        let _verifier = (message.u32()?, message.opaque(AUTH_MAX)?);
        let credentials = match flavor {
            AUTH_NONE => Ok(Credentials::nobody()),
            AUTH_SYS => Credentials::system(body),
            _ => Err(Garbage),
        };
        let Ok(credentials) = credentials else {
            [xid, REPLY, DENIED, AUTH_ERROR, REJECTED_CREDENTIALS].into_iter().for_each(|word| out.u32(word));
            return Ok(Parsed::Denied);
        };
        Ok(Parsed::Call(Self { xid, program, version, procedure, credentials }))
    }

    /// Write the reply to this call, whose results are what `results` writes.
    pub(super) fn reply(&self, out: &mut Encoder, results: impl FnOnce(&mut Encoder) -> Result<(), Refusal>) {
        let start = out.len();
        // No verifier: a flavor and an empty body.
        [self.xid, REPLY, ACCEPTED, AUTH_NONE, 0, 0].into_iter().for_each(|word| out.u32(word));
        let status = out.len() - 4;
        let Err(refusal) = results(out) else { return };
        out.truncate(status.max(start));
        match refusal {
            Refusal::Program => out.u32(1),
            Refusal::Versions(low, high) => [2, low, high].into_iter().for_each(|word| out.u32(word)),
            Refusal::Procedure => out.u32(3),
            Refusal::Arguments => out.u32(4),
        }
    }
}

/// Write a message as a record of one fragment.
pub(super) fn record(out: &mut Encoder, message: impl FnOnce(&mut Encoder) -> Result<(), Garbage>) -> io::Result<()> {
    let start = out.len();
    out.u32(0);
    if message(out).is_err() {
        out.truncate(start);
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what was sent is no remote procedure call"));
    }
    let len = u32::try_from(out.len() - start - 4).unwrap_or(0);
    out.set_u32(start, len | LAST);
    Ok(())
}

/// Puts the records of a stream together (section 11).
pub(super) struct Records {
    input: Input,
    record: Vec<u8>,
    /// Bytes of the record so far, marks included.
    total: usize,
    most: usize,
    kept: usize,
    /// Bytes of the current fragment that are still to come; `None` before its mark.
    left: Option<usize>,
    last: bool,
}

impl Records {
    /// Records of at most `most` bytes, of which the first `kept` are kept. What is behind is passed over.
    pub(super) fn new(most: usize, kept: usize) -> Self {
        Self { input: Input::new(), record: Vec::new(), total: 0, most, kept, left: None, last: false }
    }

    /// The next record, if all of it is here: the bytes of it that are kept.
    ///
    /// # Errors
    ///
    /// When a record is longer than allowed.
    pub(super) fn take(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some(left) = self.left else {
                let Some(mark) = self.input.take::<4>() else { return Ok(None) };
                let mark = u32::from_be_bytes(mark);
                let len = (mark & !LAST) as usize;
                self.total = self.total.saturating_add(len).saturating_add(4);
                if self.total > self.most {
                    let what = format!("a request of more than {} bytes", self.most);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                (self.left, self.last) = (Some(len), mark & LAST != 0);
                continue;
            };
            let here = self.input.bytes();
            let here = here.get(..left).unwrap_or(here);
            let kept = here.get(..self.kept.saturating_sub(self.record.len())).unwrap_or(here);
            self.record.extend_from_slice(kept);
            let n = here.len();
            self.input.consume(n);
            if n < left {
                self.left = Some(left - n);
                return Ok(None);
            }
            self.left = None;
            if self.last {
                self.total = 0;
                return Ok(Some(std::mem::take(&mut self.record)));
            }
        }
    }

    /// Whether there is something that was not taken yet.
    pub(super) fn waiting(&self) -> bool {
        !self.input.bytes().is_empty()
    }

    /// Receive more. `false` is the end of the stream.
    ///
    /// # Errors
    ///
    /// When the stream ends or stalls within a record, or the connection is broken.
    pub(super) fn fill(&mut self, transport: &dyn Transport) -> io::Result<bool> {
        if let Some(left) = self.left.filter(|&left| left > DIRECT && !self.waiting())
            && left <= self.kept.saturating_sub(self.record.len())
        {
            let start = self.record.len();
            self.record.resize(start + left, 0);
            self.input.read_exact(transport, self.record.get_mut(start..).unwrap_or_default())?;
            self.left = Some(0);
            return Ok(true);
        }
        let within = self.total > 0 || self.waiting();
        self.input.fill_more(transport, within)
    }
}
