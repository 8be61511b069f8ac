//! The first phase: the client asks, until it has chosen an export ("Newstyle negotiation").

mod contexts;
mod options;
mod replies;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use zerocopy::{FromBytes, IntoBytes};

pub(super) use contexts::{Context, Source};
use options::{ChosenContexts, ChosenExport};
use replies::Replies;

use super::{
    export::{Export, Exports},
    limits::Limits,
    protocol::{ExportNameReply, Greeting, OptionHead, handshake, magic, option, reply},
    tls::Tls,
};
use crate::net::{Input, Transport};

/// Option data is thrown away, to answer that it is too long, up to this size. Beyond, the client is cut off.
const SKIPPED_AT_MOST: u32 = 1 << 20;

/// How the replies of a session look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Simple,
    Structured,
    Extended,
}

/// What client and server have agreed on.
pub struct Agreement {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) export: Arc<Export>,
    pub(super) format: Format,
    pub(super) contexts: Vec<Context>,
    pub(super) input: Input,
}

/// How a negotiation ended.
pub enum Outcome {
    /// The client has chosen: requests follow.
    Agreed(Box<Agreement>),
    /// The client has gone without choosing, in an orderly way.
    Left,
}

/// What a server says in negotiations.
#[derive(Clone, Copy)]
pub struct Negotiation<'a> {
    /// What there is to choose from.
    pub exports: &'a Exports,
    /// How to encrypt, if at all.
    pub tls: Option<&'a Tls>,
    /// Bounds.
    pub limits: &'a Limits,
    /// Set when the server is being shut down.
    pub draining: &'a AtomicBool,
}

/// What was agreed on so far.
struct State {
    transport: Arc<dyn Transport>,
    encrypted: bool,
    format: Format,
    /// The export that the contexts belong to, by the name that the client used, and the contexts.
    contexts: Option<(String, Vec<Context>)>,
}

impl State {
    const fn new(transport: Arc<dyn Transport>, encrypted: bool) -> Self {
        Self { transport, encrypted, format: Format::Simple, contexts: None }
    }
}

/// What comes after an option.
enum Next {
    Option,
    Transmission(Arc<Export>, Vec<Context>),
    Left,
}

impl Negotiation<'_> {
    /// Negotiate with the client at the other end of `transport`.
    ///
    /// # Errors
    ///
    /// When the client breaks the protocol in a way that cannot be answered, or the connection breaks or stalls.
    pub fn run(self, transport: Arc<dyn Transport>) -> io::Result<Outcome> {
        let mut input = Input::new();
        let ours = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        let greeting = Greeting { init: magic::INIT.into(), option: magic::OPTION.into(), flags: ours.into() };
        transport.send_all(greeting.as_bytes())?;

        let mut flags = [0; 4];
        input.read_exact(transport.as_ref(), &mut flags)?;
        let flags = u32::from_be_bytes(flags);
        if flags & !u32::from(ours) != 0 {
            return Err(protocol_error("unknown client flags"));
        }
        let has = |flag: u16| flags & u32::from(flag) != 0;
        let (fixed, zeroes) = (has(handshake::FIXED_NEWSTYLE), !has(handshake::NO_ZEROES));

        let mut state = State::new(transport, false);
        let mut data = Vec::new();
        loop {
            let Some(head) = self.option_head(&mut input, &state)? else { return Ok(Outcome::Left) };
            let (option, length) = (head.option.get(), head.length.get());
            if !fixed && option != option::EXPORT_NAME {
                return Err(protocol_error("an option from a client that cannot take replies"));
            }
            let replies = Replies { transport: state.transport.clone(), option };
            if length > self.limits.option {
                self.refuse_long(&mut input, &replies, length)?;
                continue;
            }
            data.clear();
            data.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
            input.read_exact(state.transport.as_ref(), &mut data)?;
            match self.answer(&mut state, &input, &replies, &data, zeroes)? {
                Next::Option => {}
                Next::Left => {
                    state.transport.close();
                    return Ok(Outcome::Left);
                }
                Next::Transmission(export, contexts) => {
                    let State { transport, format, .. } = state;
                    return Ok(Outcome::Agreed(Box::new(Agreement { transport, export, format, contexts, input })));
                }
            }
        }
    }

    fn option_head(self, input: &mut Input, state: &State) -> io::Result<Option<OptionHead>> {
        loop {
            if let Some(bytes) = input.take::<{ size_of::<OptionHead>() }>() {
                let head = OptionHead::read_from_bytes(&bytes).map_err(|_| protocol_error("a short option"))?;
                if head.magic.get() != magic::OPTION {
                    return Err(protocol_error("an option without its magic number"));
                }
                return Ok(Some(head));
            }
            if !input.fill(state.transport.as_ref())? {
                return Ok(None);
            }
        }
    }

    fn refuse_long(self, input: &mut Input, replies: &Replies, length: u32) -> io::Result<()> {
        if replies.option == option::EXPORT_NAME || length > SKIPPED_AT_MOST {
            return Err(protocol_error("an option of absurd length"));
        }
        input.skip(replies.transport.as_ref(), length.into())?;
        replies.refuse(reply::ERR_TOO_BIG, "the data of this option is too long")
    }

    fn answer(
        self,
        state: &mut State,
        input: &Input,
        replies: &Replies,
        data: &[u8],
        zeroes: bool,
    ) -> io::Result<Next> {
        let option = replies.option;
        if option == option::ABORT {
            // The client may have gone without waiting for the answer.
            let _ = replies.acknowledge();
            return Ok(Next::Left);
        }
        // FORCEDTLS: nothing is told before encryption.
        let hidden = !state.encrypted && self.tls.is_some_and(Tls::required);
        if option == option::EXPORT_NAME {
            if hidden {
                return Err(protocol_error("a client without TLS, which is required"));
            }
            return self.export_name(state, data, zeroes);
        }
        if self.draining.load(Ordering::Relaxed) {
            return go_on(replies.refuse(reply::ERR_SHUTDOWN, "the server is being shut down"));
        }
        if hidden && option != option::STARTTLS {
            return go_on(replies.refuse(reply::ERR_TLS_REQD, "this server requires TLS"));
        }
        match option {
            option::STARTTLS => go_on(self.start_tls(state, input, replies, data)),
            option::LIST => go_on(self.list(replies, data)),
            option::INFO | option::GO => self.info(state, replies, data),
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => go_on(set_format(state, replies, data)),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => go_on(self.meta_contexts(state, replies, data)),
            _ => go_on(replies.refuse(reply::ERR_UNSUP, "this server does not know this option")),
        }
    }

    /// `EXPORT_NAME` cannot be refused but by hanging up.
    fn export_name(self, state: &State, data: &[u8], zeroes: bool) -> io::Result<Next> {
        if state.format == Format::Extended {
            return Err(protocol_error("EXPORT_NAME after EXTENDED_HEADERS"));
        }
        let found = std::str::from_utf8(data).ok().and_then(|name| Some((name, self.exports.get(name)?)));
        let Some((name, export)) = found else {
            return Err(protocol_error("EXPORT_NAME of an export that does not exist"));
        };
        if self.draining.load(Ordering::Relaxed) {
            return Err(protocol_error("a new client while the server is being shut down"));
        }
        let flags = export.flags(state.format != Format::Simple);
        let answer = ExportNameReply { size: export.disk.device().size().into(), flags: flags.into() };
        let mut bytes = answer.as_bytes().to_vec();
        if zeroes {
            bytes.resize(bytes.len() + 124, 0);
        }
        state.transport.send_all(&bytes)?;
        let contexts = state.contexts_of(name);
        Ok(Next::Transmission(export, contexts))
    }

    fn start_tls(self, state: &mut State, input: &Input, replies: &Replies, data: &[u8]) -> io::Result<()> {
        let Some(tls) = self.tls else {
            return replies.refuse(reply::ERR_POLICY, "this server does not offer TLS");
        };
        if state.encrypted {
            return replies.refuse(reply::ERR_INVALID, "TLS is in use already");
        }
        if !data.is_empty() {
            return replies.refuse(reply::ERR_INVALID, "STARTTLS has no data");
        }
        // What was sent ahead of the answer was not encrypted; anybody on the way may have put it there.
        if !input.bytes().is_empty() {
            return Err(protocol_error("bytes behind STARTTLS that are not encrypted"));
        }
        replies.acknowledge()?;
        let encrypted = tls.accept(state.transport.clone())?;
        *state = State::new(Arc::new(encrypted), true);
        Ok(())
    }

    fn list(self, replies: &Replies, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return replies.refuse(reply::ERR_INVALID, "LIST has no data");
        }
        for export in self.exports.list() {
            replies.export(&export)?;
        }
        replies.acknowledge()
    }

    fn info(self, state: &State, replies: &Replies, data: &[u8]) -> io::Result<Next> {
        let Some(chosen) = ChosenExport::parse(data) else {
            return go_on(replies.refuse(reply::ERR_INVALID, "the data of this option contradicts itself"));
        };
        let Some(export) = self.exports.get(chosen.name) else {
            return go_on(replies.refuse(reply::ERR_UNKNOWN, "there is no such export"));
        };
        replies.info(&export, state.format != Format::Simple, self.limits.request, &chosen)?;
        replies.acknowledge()?;
        if replies.option == option::GO {
            let contexts = state.contexts_of(chosen.name);
            return Ok(Next::Transmission(export, contexts));
        }
        Ok(Next::Option)
    }

    fn meta_contexts(self, state: &mut State, replies: &Replies, data: &[u8]) -> io::Result<()> {
        let set = replies.option == option::SET_META_CONTEXT;
        if set {
            // "including when this command fails"
            state.contexts = None;
        }
        if state.format == Format::Simple {
            return replies.refuse(reply::ERR_INVALID, "metadata contexts need structured replies");
        }
        let Some(chosen) = ChosenContexts::parse(data) else {
            return replies.refuse(reply::ERR_INVALID, "the data of this option contradicts itself");
        };
        let Some(export) = self.exports.get(chosen.name) else {
            return replies.refuse(reply::ERR_UNKNOWN, "there is no such export");
        };
        let found = if set { contexts::set(&export, &chosen) } else { contexts::list(&export, &chosen) };
        for context in &found {
            // In a list the number means nothing.
            replies.context(if set { context.id } else { 0 }, &context.name)?;
        }
        replies.acknowledge()?;
        if set {
            state.contexts = Some((chosen.name.to_owned(), found));
        }
        Ok(())
    }
}

impl State {
    /// The contexts that were set for the export of that name.
    fn contexts_of(&self, name: &str) -> Vec<Context> {
        match &self.contexts {
            Some((of, contexts)) if of == name => contexts.clone(),
            _ => Vec::new(),
        }
    }
}

/// `STRUCTURED_REPLY` and `EXTENDED_HEADERS`.
fn set_format(state: &mut State, replies: &Replies, data: &[u8]) -> io::Result<()> {
    if !data.is_empty() {
        return replies.refuse(reply::ERR_INVALID, "this option has no data");
    }
    let extended = replies.option == option::EXTENDED_HEADERS;
    if !extended && state.format == Format::Extended {
        return replies.refuse(reply::ERR_EXT_HEADER_REQD, "extended headers are in use already");
    }
    state.format = if extended { Format::Extended } else { Format::Structured };
    replies.acknowledge()
}

fn go_on(done: io::Result<()>) -> io::Result<Next> {
    done.map(|()| Next::Option)
}

fn protocol_error(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
