//! The first phase: who the initiator is, what it logs in to, and how both will speak (RFC 7143 section 6).

use std::{io, sync::Arc};

use super::{
    chap::Exchange,
    limits::Limits,
    negotiate::Parameters,
    pdu::{FINAL, HEAD, Head, opcode, padding},
    session::{Connection, Seat, Session},
    target::{Target, Targets},
    text::{self, Text},
};
use crate::net::{Input, Transport};

/// Longest data segment of a login (13.12: the default of MaxRecvDataSegmentLength).
const SEGMENT: usize = 8192;
/// Longest text of a login, over several requests.
const MOST_TEXT: usize = 64 << 10;
/// Most requests of a login.
const MOST_REQUESTS: usize = 64;

/// Stages (11.12.3).
const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// The flags of byte 1.
const TRANSIT: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// Status of a login: class and detail (11.13.5).
type Status = [u8; 2];
const SUCCESS: Status = [0x00, 0x00];
const INITIATOR_ERROR: Status = [0x02, 0x00];
const AUTHENTICATION_FAILED: Status = [0x02, 0x01];
const FORBIDDEN: Status = [0x02, 0x02];
const NOT_FOUND: Status = [0x02, 0x03];
const UNSUPPORTED_VERSION: Status = [0x02, 0x05];
const TOO_MANY_CONNECTIONS: Status = [0x02, 0x06];
const MISSING_PARAMETER: Status = [0x02, 0x07];
const NO_SUCH_SESSION: Status = [0x02, 0x0a];
const INVALID_REQUEST: Status = [0x02, 0x0b];
const NOT_AVAILABLE: Status = [0x03, 0x01];

/// How a login ends.
pub(super) enum Outcome {
    /// Without a session.
    Left,
    /// With one.
    Agreed(Box<Agreement>),
}

/// A connection that is logged in.
pub(super) struct Agreement {
    pub(super) connection: Arc<Connection>,
    /// What was received after the login.
    pub(super) input: Input,
}

/// Log an initiator in.
///
/// # Errors
///
/// When it does not speak the protocol, or the connection breaks or takes too long.
pub(super) fn run(transport: &Arc<dyn Transport>, limits: &Limits, targets: &Targets) -> io::Result<Outcome> {
    let mut login = Login {
        transport,
        limits,
        targets,
        input: Input::new(),
        status_number: 1,
        first: None,
        initiator: String::new(),
        target: None,
        discovery: false,
        parameters: Parameters::DEFAULT,
        exchange: Exchange::Begun,
        introduced: false,
        told: false,
        seat: None,
    };
    let outcome = login.run()?;
    let Some((head, session)) = outcome else { return Ok(Outcome::Left) };
    let Login { input, parameters, status_number, .. } = login;
    let (number, bytes) = (head.be16(20), limits.in_flight_bytes);
    let connection = Connection::new(transport.clone(), session, number, &parameters, status_number, bytes);
    if !connection.enter() {
        return Err(io::Error::other("its session ended while it logged in"));
    }
    Ok(Outcome::Agreed(Box::new(Agreement { connection, input })))
}

struct Login<'a> {
    transport: &'a Arc<dyn Transport>,
    limits: &'a Limits,
    targets: &'a Targets,
    input: Input,
    /// StatSN of the next response.
    status_number: u32,
    /// The first request, with which all others have to agree.
    first: Option<Head>,
    initiator: String,
    target: Option<Arc<Target>>,
    discovery: bool,
    parameters: Parameters,
    exchange: Exchange,
    /// Whether the target has said who it is.
    introduced: bool,
    /// Whether this side's own parameters were told.
    told: bool,
    /// Its place among the connections of a session that is there already.
    seat: Option<Seat>,
}

impl Login<'_> {
    /// Answer requests until one is the last; that one, and the session.
    fn run(&mut self) -> io::Result<Option<(Head, Arc<Session>)>> {
        for _ in 0..MOST_REQUESTS {
            let Some((head, text)) = self.request()? else { return Ok(None) };
            match self.step(&head, &text) {
                Err(status) => {
                    self.respond(&head, 0, 0, status, &[])?;
                    let [class, detail] = status;
                    let who = if self.initiator.is_empty() { "an initiator" } else { &self.initiator };
                    return Err(io::Error::other(format!(
                        "{who:?} cannot log in: {} (status {class:02x}{detail:02x})",
                        meaning(status)
                    )));
                }
                Ok(Step { flags, session, answer }) => {
                    let handle = session.as_ref().map_or(0, |session| session.handle());
                    let sent = self.respond(&head, flags, handle, SUCCESS, answer.bytes());
                    if let Some(session) = session {
                        // One without a connection would never end.
                        return sent.map(|()| Some((head, session.clone()))).inspect_err(|_| session.abandon());
                    }
                    sent?;
                }
            }
        }
        Err(io::Error::other("a login without end"))
    }

    /// The next request with its whole text; `None` at the end of the stream.
    fn request(&mut self) -> io::Result<Option<(Head, Vec<u8>)>> {
        let mut text = Vec::new();
        loop {
            while self.input.bytes().len() < HEAD {
                if !self.input.fill(self.transport.as_ref())? {
                    return Ok(None);
                }
            }
            let Some(head) = self.input.take::<HEAD>().map(Head) else { return Ok(None) };
            if head.opcode() != opcode::LOGIN || head.additional() != 0 || head.data() > SEGMENT {
                return Err(io::Error::other("what comes first is no login"));
            }
            let len = head.data();
            let start = text.len();
            if start + len > MOST_TEXT {
                return Err(io::Error::other("a login with a text of absurd length"));
            }
            text.resize(start + len, 0);
            self.input.read_exact(self.transport.as_ref(), text.get_mut(start..).unwrap_or_default())?;
            self.input.skip(self.transport.as_ref(), padding(len) as u64)?;
            if head.flags() & CONTINUE == 0 {
                return Ok(Some((head, text)));
            }
            if head.flags() & TRANSIT != 0 {
                return Err(io::Error::other("a login that goes on and is at its end"));
            }
            let stage = head.flags() >> 2 & 0x03;
            self.respond(&head, stage << 2, 0, SUCCESS, &[])?;
        }
    }

    fn respond(&mut self, head: &Head, flags: u8, handle: u16, status: Status, text: &[u8]) -> io::Result<()> {
        let mut response = Head::new(opcode::LOGIN_RESPONSE).with_flags(flags).with_tag(head.tag());
        // ISID, and TSIH.
        response.set(8, &head.lun());
        if handle != 0 {
            response.set(14, &handle.to_be_bytes());
        }
        let next = head.command_number();
        response.set(24, &self.status_number.to_be_bytes());
        response.set(28, &next.to_be_bytes());
        response.set(32, &next.wrapping_add(self.limits.commands).wrapping_sub(1).to_be_bytes());
        response.set(36, &status);
        response.set_data(text.len());
        self.status_number = self.status_number.wrapping_add(1);
        let mut bytes = response.0.to_vec();
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.transport.send_all(&bytes)
    }

    fn step(&mut self, head: &Head, text: &[u8]) -> Result<Step, Status> {
        // The only version is 0 (11.12.4).
        if head.byte(3) != 0 {
            return Err(UNSUPPORTED_VERSION);
        }
        let keys = text::parse(text).ok_or(INITIATOR_ERROR)?;
        match self.first {
            None => {
                self.identify(&keys)?;
                self.first = Some(*head);
            }
            Some(first) => {
                // ISID, TSIH and CID stay as they are.
                if first.lun() != head.lun() || first.be16(20) != head.be16(20) {
                    return Err(INVALID_REQUEST);
                }
            }
        }
        let (stage, next) = (head.flags() >> 2 & 0x03, head.flags() & 0x03);
        let transit = head.flags() & TRANSIT != 0;
        if stage > OPERATIONAL || (transit && (next <= stage || next == 2)) {
            return Err(INVALID_REQUEST);
        }
        let mut answer = Text::default();
        let ready = match stage {
            SECURITY => self.security(&keys, &mut answer)?,
            _ => self.operational(&keys, &mut answer)?,
        };
        if !std::mem::replace(&mut self.introduced, true) {
            self.introduce(&mut answer);
        }
        if !(transit && ready) {
            return Ok(Step { flags: stage << 2, session: None, answer });
        }
        if next != FULL_FEATURE {
            return Ok(Step { flags: TRANSIT | stage << 2 | next, session: None, answer });
        }
        // Whoever skips the first stage has not authenticated.
        if !self.authenticated() {
            return Err(AUTHENTICATION_FAILED);
        }
        self.parameters.settle();
        let session = self.session(head)?;
        Ok(Step { flags: FINAL | stage << 2 | next, session: Some(session), answer })
    }
}

/// What a request leads to.
struct Step {
    flags: u8,
    /// The session, when the login is over.
    session: Option<Arc<Session>>,
    answer: Text,
}

impl Login<'_> {
    /// The keys of the first request: who it is and what it wants (6.3).
    fn identify(&mut self, keys: &[(&str, &str)]) -> Result<(), Status> {
        let value = |key: &str| keys.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let initiator = value("InitiatorName").ok_or(MISSING_PARAMETER)?;
        // Names are compared in lower case (RFC 3722), and go into messages, lists and files.
        let graphic = |c: char| !c.is_control() && !c.is_whitespace() && c != ',';
        if initiator.is_empty() || initiator.len() > 223 || !initiator.chars().all(graphic) {
            return Err(INITIATOR_ERROR);
        }
        self.initiator = initiator.to_lowercase();
        match value("SessionType") {
            Some("Discovery") => {
                self.discovery = true;
                return Ok(());
            }
            None | Some("Normal") => {}
            Some(_) => return Err(INITIATOR_ERROR),
        }
        let name = value("TargetName").ok_or(MISSING_PARAMETER)?;
        let target = self.targets.get(name).ok_or(NOT_FOUND)?;
        if !target.admits(&self.initiator) {
            return Err(FORBIDDEN);
        }
        self.target = Some(target);
        Ok(())
    }

    /// The first answer has the portal group, and what people call the target (13.7, 13.9).
    fn introduce(&self, answer: &mut Text) {
        if let Some(target) = &self.target {
            answer.add("TargetPortalGroupTag", 1);
            if !target.alias().is_empty() {
                answer.add("TargetAlias", target.alias());
            }
        }
    }

    /// Whether nobody has to authenticate any more. Discovery tells nothing but names.
    fn authenticated(&self) -> bool {
        self.target.as_ref().is_none_or(|target| target.auth().is_none()) || self.exchange.is_done()
    }

    /// The first stage. Returns whether it can end.
    fn security(&mut self, keys: &[(&str, &str)], answer: &mut Text) -> Result<bool, Status> {
        let chap = self.target.as_ref().and_then(|target| target.auth()).cloned();
        for (key, value) in keys {
            match *key {
                "AuthMethod" => {
                    let method = if chap.is_some() { "CHAP" } else { "None" };
                    if !value.split(',').any(|offered| offered == method) {
                        return Err(AUTHENTICATION_FAILED);
                    }
                    answer.add(key, method);
                }
                "CHAP_A" | "CHAP_N" | "CHAP_R" | "CHAP_I" | "CHAP_C" => {}
                _ => self.other(key, value, answer)?,
            }
        }
        let Some(chap) = chap else { return Ok(true) };
        let exchange = std::mem::replace(&mut self.exchange, Exchange::Begun);
        self.exchange = exchange.step(&chap, keys, answer).ok_or(AUTHENTICATION_FAILED)?;
        Ok(self.exchange.is_done())
    }

    /// The second stage. Returns that it can end.
    fn operational(&mut self, keys: &[(&str, &str)], answer: &mut Text) -> Result<bool, Status> {
        if !self.authenticated() {
            return Err(AUTHENTICATION_FAILED);
        }
        for (key, value) in keys {
            self.other(key, value, answer)?;
        }
        if !std::mem::replace(&mut self.told, true) {
            answer.add("MaxRecvDataSegmentLength", self.limits.segment);
        }
        Ok(true)
    }

    fn other(&mut self, key: &str, value: &str, answer: &mut Text) -> Result<(), Status> {
        match key {
            // Of the first request.
            "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType" => Ok(()),
            // An answer to what was never asked (6.2): the initiator would repeat it for ever.
            _ if matches!(value, "NotUnderstood" | "Irrelevant" | "Reject") => Ok(()),
            _ if self.parameters.negotiate(key, value, self.limits, answer) => Ok(()),
            _ => Err(INITIATOR_ERROR),
        }
    }

    /// The session that the connection is of: a new one, or the one that it says.
    fn session(&mut self, head: &Head) -> Result<Arc<Session>, Status> {
        let handle = head.be16(14);
        let Some(target) = &self.target else {
            return Ok(Session::discovery(self.initiator.clone(), self.limits, head.command_number()));
        };
        let isid: String = head.lun().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let port = format!("{},i,0x{isid}", self.initiator);
        if handle != 0 {
            let session = target.session_of(&port).filter(|session| session.handle() == handle);
            let session = session.ok_or(NO_SUCH_SESSION)?;
            let seat = session.seat(head.be16(20)).ok_or(TOO_MANY_CONNECTIONS)?;
            // Until the connection has entered, which it does after it was told so.
            self.seat = Some(seat);
            return Ok(session);
        }
        let made = Session::normal(
            target.clone(),
            self.initiator.clone(),
            port,
            &self.parameters,
            self.limits,
            head.command_number(),
        );
        // Session reinstatement (6.3.5): the initiator has lost the old one, whatever we think of it.
        for _ in 0..2 {
            if target.enter(&made) {
                return Ok(made);
            }
            if let Some(old) = target.session_of(made.port()) {
                old.end(self.limits.login);
            }
        }
        Err(NOT_AVAILABLE)
    }
}

fn meaning(status: Status) -> &'static str {
    match status {
        AUTHENTICATION_FAILED => "it did not authenticate",
        FORBIDDEN => "it is not among the initiators that are allowed",
        NOT_FOUND => "there is no such target",
        UNSUPPORTED_VERSION => "it speaks another version of iSCSI",
        TOO_MANY_CONNECTIONS => "its session has as many connections as it may",
        MISSING_PARAMETER => "it does not say who it is, or to which target it wants",
        NO_SUCH_SESSION => "it has no session to add a connection to",
        NOT_AVAILABLE => "the target is being taken away, or its old session does not end",
        _ => "it does not keep to the protocol",
    }
}
