//! PDUs on their way in (RFC 7143 section 11).

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use super::{
    super::{
        limits::Limits,
        pdu::{DIGEST, FINAL, HEAD, Head, NO_TAG, digest, opcode, padding, reason},
        target::Targets,
    },
    Connection, discovery,
    execute::{Ready, Verdict},
    management,
    outbox::{Number, Outbox},
    task::{Parts, Task},
    transfer::{Progress, Transfer},
};
use crate::{
    net::Input,
    scsi::{Cdb, Sense, Status},
};

/// The flag I of the first byte of a head.
const IMMEDIATE: u8 = 0x40;
/// Flags of a SCSI command (11.3.1).
const READS: u8 = 0x40;
const WRITES: u8 = 0x20;
const ATTRIBUTE: u8 = 0x07;
const ORDERED: u8 = 2;
/// The flag of a text that goes on.
const CONTINUE: u8 = 0x40;
/// Longest text in bytes.
const MOST_TEXT: usize = 64 << 10;

/// Something that came, to be done when its number's turn has come.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) head: Head,
    /// Its data; those of a SCSI command that goes on are with the connection.
    data: Vec<u8>,
    pub(super) task: Option<Arc<Task>>,
    pub(super) connection: Arc<Connection>,
}

/// What all threads of a connection share.
pub(super) struct Shared<'a> {
    pub(super) connection: Arc<Connection>,
    pub(super) limits: &'a Limits,
    pub(super) targets: &'a Targets,
    pub(super) portal: Option<SocketAddr>,
}

/// The receiving side of a connection.
pub(super) struct Receiver<'a> {
    pub(super) input: Input,
    shared: &'a Shared<'a>,
    /// The rest of a text that is longer than a segment.
    text: Vec<u8>,
}

impl<'a> Receiver<'a> {
    pub(super) const fn new(input: Input, shared: &'a Shared<'a>) -> Self {
        Self { input, shared, text: Vec::new() }
    }

    /// Receive one PDU. Returns commands that can be done now; `None` at the end.
    ///
    /// # Errors
    ///
    /// When the initiator breaks the protocol in a way that cannot be answered, or the connection breaks or stalls.
    pub(super) fn next(&mut self, out: &mut Outbox) -> io::Result<Option<Vec<Ready>>> {
        let connection = &self.shared.connection;
        if connection.leaving.load(Ordering::Acquire) {
            return Ok(None);
        }
        while self.input.bytes().len() < HEAD {
            out.flush()?;
            if !self.input.fill(connection.transport.as_ref())? {
                return Ok(None);
            }
        }
        connection.hear();
        let Some(head) = self.input.take::<HEAD>().map(Head) else { return Ok(None) };
        self.head_rest(&head, out)?;
        if head.data() > self.shared.limits.segment as usize {
            return Err(broken("a data segment that is longer than agreed on"));
        }
        match head.opcode() {
            opcode::DATA_OUT => self.data_out(&head, out),
            opcode::SCSI_COMMAND => self.command(&head, out),
            opcode::NOP_OUT | opcode::TASK_MANAGEMENT | opcode::TEXT | opcode::LOGOUT => {
                let data = self.segment(&head, out)?;
                let connection = connection.clone();
                self.turn(Delivery { head, data, task: None, connection }, out)
            }
            other => {
                self.segment(&head, out)?;
                let why = match other {
                    opcode::SNACK => reason::SNACK,
                    opcode::LOGIN => reason::PROTOCOL,
                    _ => reason::NOT_SUPPORTED,
                };
                reject(&head, why, out)?;
                Ok(Some(Vec::new()))
            }
        }
    }

    /// Additional header segments, which nothing here needs, and the digest of all of the head.
    fn head_rest(&mut self, head: &Head, out: &mut Outbox) -> io::Result<()> {
        let connection = &self.shared.connection;
        let (additional, checked) = (head.additional(), connection.header_digest);
        if additional == 0 && !checked {
            return Ok(());
        }
        let len = additional + if checked { DIGEST } else { 0 };
        let mut rest = vec![0; len];
        self.read(&mut rest, out)?;
        if checked {
            let (segments, sum) = rest.split_at_checked(additional).unwrap_or_default();
            if digest(&[&head.0[..], segments].concat()) != sum {
                return Err(broken("a head whose digest is wrong"));
            }
        }
        Ok(())
    }

    fn read(&mut self, buf: &mut [u8], out: &mut Outbox) -> io::Result<()> {
        if buf.len() > self.input.bytes().len() {
            out.flush()?;
        }
        self.input.read_exact(self.shared.connection.transport.as_ref(), buf)
    }

    /// The data segment.
    fn segment(&mut self, head: &Head, out: &mut Outbox) -> io::Result<Vec<u8>> {
        let mut data = vec![0; head.data()];
        self.segment_into(&mut data, out)?;
        Ok(data)
    }

    /// The data segment, into its place.
    fn segment_into(&mut self, place: &mut [u8], out: &mut Outbox) -> io::Result<()> {
        if place.is_empty() {
            return Ok(());
        }
        self.read(place, out)?;
        let padding = padding(place.len());
        let checked = self.shared.connection.data_digest;
        let mut rest = [0; 3 + DIGEST];
        let len = padding + if checked { DIGEST } else { 0 };
        let rest = rest.get_mut(..len).unwrap_or_default();
        self.read(rest, out)?;
        if checked {
            let (padded, sum) = rest.split_at_checked(padding).unwrap_or_default();
            let found = if padded.is_empty() { digest(place) } else { digest(&[place, padded].concat()) };
            if found != sum {
                return Err(broken("data whose digest is wrong"));
            }
        }
        Ok(())
    }

    /// A SCSI command (11.3).
    fn command(&mut self, head: &Head, out: &mut Outbox) -> io::Result<Option<Vec<Ready>>> {
        let connection = self.shared.connection.clone();
        let parameters = &connection.session.parameters;
        let (reads, writes) = (head.flags() & READS != 0, head.flags() & WRITES != 0);
        let expected = head.be32(20);
        let data = self.segment(head, out)?;
        let unsolicited = writes && !head.is_final();
        let too_much = data.len() > parameters.first_burst || data.len() > expected as usize;
        if (!data.is_empty() && (!writes || !parameters.immediate_data || too_much))
            || (unsolicited && parameters.initial_r2t)
        {
            return Err(broken("data that nobody has asked for"));
        }
        let mut cdb = [0; 16];
        cdb.iter_mut().zip(head.0.iter().skip(32)).for_each(|(to, from)| *to = *from);
        let task = Arc::new(Task::new(Parts {
            tag: head.tag(),
            immediate: head.immediate(),
            number: head.command_number(),
            address: head.lun(),
            cdb: Cdb(cdb),
            expected,
            reads,
            writes,
            ordered: head.flags() & ATTRIBUTE == ORDERED,
            connection: connection.clone(),
        }));
        if let Err(why) = connection.session.admit(&task) {
            reject(head, why, out)?;
            // Its number has come all the same.
            let head = Head::new(opcode::NOP_OUT | head.byte(0) & IMMEDIATE).with_tag(NO_TAG);
            let head = head.with(24, &task.number.to_be_bytes());
            return self.turn(Delivery { head, data: Vec::new(), task: None, connection }, out);
        }
        let data = if unsolicited {
            connection.keep(Transfer::new(task.clone(), data, true));
            Vec::new()
        } else {
            data
        };
        self.turn(Delivery { head: *head, data, task: Some(task), connection }, out)
    }

    /// Data for a command (11.7).
    fn data_out(&mut self, head: &Head, out: &mut Outbox) -> io::Result<Option<Vec<Ready>>> {
        let shared = self.shared;
        let connection = &shared.connection;
        // Of a command that was refused or aborted: its initiator could not know.
        let Some(mut transfer) = connection.take_transfer(head.tag()) else {
            self.segment(head, out)?;
            return Ok(Some(Vec::new()));
        };
        let fits = match transfer.place(head) {
            Some(place) => {
                self.segment_into(place, out)?;
                transfer.filled(head)
            }
            None => {
                self.segment(head, out)?;
                false
            }
        };
        if !fits {
            // Not as asked for. What follows of it finds no command.
            let task = transfer.task().clone();
            connection.forget(&transfer, out)?;
            let verdict = Verdict::Refuse(Status::CheckCondition, Sense::WRONG_AMOUNT.encode(false));
            return Ok(Some(vec![Ready { task, verdict, data: Vec::new(), reserved: 0 }]));
        }
        let progress = connection.advance(transfer, out)?;
        Ok(Some(match progress {
            Progress::Waits => Vec::new(),
            Progress::Complete(ready) => vec![ready],
        }))
    }

    /// Do what came, and what has waited for it, as far as its turn has come.
    fn turn(&mut self, delivery: Delivery, out: &mut Outbox) -> io::Result<Option<Vec<Ready>>> {
        let session = self.shared.connection.session.clone();
        let mut ready = Vec::new();
        for delivery in session.in_order(delivery) {
            if let Some(one) = self.deliver(delivery, out)? {
                ready.push(one);
            }
        }
        Ok(Some(ready))
    }

    fn deliver(&mut self, delivery: Delivery, out: &mut Outbox) -> io::Result<Option<Ready>> {
        let Delivery { head, data, task, connection } = delivery;
        if !Arc::ptr_eq(&connection, &out.connection) {
            // Of another connection of the session. When that is broken, it is not this one's end.
            let mut out = Outbox::new(connection.clone());
            let done = self.deliver_own(&head, data, task, &mut out).and_then(|ready| out.flush().map(|()| ready));
            return Ok(done.unwrap_or_else(|_| {
                connection.transport.close();
                None
            }));
        }
        self.deliver_own(&head, data, task, out)
    }

    fn deliver_own(
        &mut self,
        head: &Head,
        data: Vec<u8>,
        task: Option<Arc<Task>>,
        out: &mut Outbox,
    ) -> io::Result<Option<Ready>> {
        let connection = out.connection.clone();
        if let Some(task) = task {
            if task.is_aborted() {
                return Ok(None);
            }
            let verdict = connection.session.judge(&task);
            return Ok(match connection.judged(&task, data, verdict, out)? {
                Progress::Waits => None,
                Progress::Complete(ready) => Some(ready),
            });
        }
        match head.opcode() {
            opcode::NOP_OUT => nop(head, &data, out)?,
            opcode::TEXT => self.text(head, &data, out)?,
            opcode::LOGOUT => logout(&connection, head, out)?,
            _ => {
                if !management::manage(&connection, head, out)? {
                    connection.leaving.store(true, Ordering::Release);
                }
            }
        }
        Ok(None)
    }

    /// A text (11.10). What does not fit into one answer is asked for by its tag.
    fn text(&mut self, head: &Head, asked: &[u8], out: &mut Outbox) -> io::Result<()> {
        let shared = self.shared;
        if head.other_tag() == NO_TAG {
            if head.flags() & CONTINUE != 0 || asked.len() > MOST_TEXT {
                return reject(head, reason::NOT_SUPPORTED, out);
            }
            let session = &shared.connection.session;
            match discovery::answer(session, shared.targets, shared.portal, asked) {
                Some(answer) => self.text = answer,
                None => return reject(head, reason::INVALID_FIELD, out),
            }
        }
        let rest = std::mem::take(&mut self.text);
        let (now, later) = rest.split_at_checked(shared.connection.send_segment).unwrap_or((&rest, &[]));
        let (flags, tag) = if later.is_empty() { (FINAL, NO_TAG) } else { (CONTINUE, 1) };
        let response = Head::new(opcode::TEXT_RESPONSE)
            .with_flags(flags)
            .with_lun(head.lun())
            .with_tag(head.tag())
            .with_other_tag(tag);
        out.push(response, Number::Status, now)?;
        self.text = later.to_vec();
        Ok(())
    }
}

/// A ping (11.18), or the answer to one of ours.
fn nop(head: &Head, data: &[u8], out: &mut Outbox) -> io::Result<()> {
    if head.tag() == NO_TAG {
        return Ok(());
    }
    let data = data.get(..out.connection.send_segment).unwrap_or(data);
    let answer = Head::new(opcode::NOP_IN).with_lun(head.lun()).with_tag(head.tag()).with_other_tag(NO_TAG);
    out.push(answer, Number::Status, data)
}

/// A logout (11.14, 11.15): of the session, of this connection or of another one.
fn logout(connection: &Arc<Connection>, head: &Head, out: &mut Outbox) -> io::Result<()> {
    const SESSION: u8 = 0;
    const CONNECTION: u8 = 1;
    const NO_CONNECTION: u8 = 1;
    const NO_RECOVERY: u8 = 2;
    let (why, number) = (head.flags() & 0x7f, head.be16(20));
    let response = match why {
        SESSION => 0,
        CONNECTION if connection.session.connection(number).is_some() => 0,
        CONNECTION => NO_CONNECTION,
        _ => NO_RECOVERY,
    };
    if response == 0 && (why == SESSION || connection.session.is_last(number)) {
        // What the initiator held is free when it is told that it is out.
        connection.session.finish();
    }
    out.push(Head::new(opcode::LOGOUT_RESPONSE).with(2, &[response]).with_tag(head.tag()), Number::Status, &[])?;
    out.flush()?;
    if response != 0 {
        return Ok(());
    }
    match why {
        SESSION => connection.session.close_others(connection),
        _ if number == connection.number => {}
        _ => {
            if let Some(other) = connection.session.connection(number) {
                other.transport.close();
            }
            return Ok(());
        }
    }
    connection.leaving.store(true, Ordering::Release);
    Ok(())
}

/// Send a PDU's head back (11.17).
fn reject(head: &Head, why: u8, out: &mut Outbox) -> io::Result<()> {
    let answer = Head::new(opcode::REJECT).with(2, &[why]).with_tag(NO_TAG);
    out.push(answer, Number::Status, &head.0)
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
