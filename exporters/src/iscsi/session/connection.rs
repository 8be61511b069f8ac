//! One of the ways that commands of a session come by.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;

use super::{
    super::{
        negotiate::Parameters,
        pdu::{Head, NO_TAG, opcode},
    },
    Session,
    outbox::{Number, Outbox},
    transfer::Transfers,
};
use crate::net::Transport;

/// The event of an asynchronous message (11.9.1): all connections of the session will be dropped.
const DROPS_ALL: u8 = 3;

/// A connection that is logged in.
pub(in super::super) struct Connection {
    pub(super) session: Arc<Session>,
    pub(super) transport: Arc<dyn Transport>,
    /// CID.
    pub(super) number: u16,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
    /// Longest data segment that the initiator takes.
    pub(super) send_segment: usize,
    pub(super) sending: Mutex<Sending>,
    pub(super) transfers: Mutex<Transfers>,
    /// The initiator says goodbye: what it is sent now is the last.
    pub(super) leaving: AtomicBool,
    begun: Instant,
    /// Milliseconds from the beginning to the moment when something was received last.
    heard: AtomicU64,
}

/// What is sent in order.
#[derive(Debug)]
pub(super) struct Sending {
    /// StatSN of the next response.
    pub(super) status_number: u32,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("port", &self.session.port)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(in super::super) fn new(
        transport: Arc<dyn Transport>,
        session: Arc<Session>,
        number: u16,
        parameters: &Parameters,
        status_number: u32,
        in_flight_bytes: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            session,
            transport,
            number,
            header_digest: parameters.header_digest,
            data_digest: parameters.data_digest,
            send_segment: parameters.send_segment,
            sending: Mutex::new(Sending { status_number }),
            transfers: Mutex::new(Transfers::new(in_flight_bytes)),
            leaving: AtomicBool::new(false),
            begun: Instant::now(),
            heard: AtomicU64::new(0),
        })
    }

    /// Join the session. `false` when that has ended meanwhile.
    pub(in super::super) fn enter(self: &Arc<Self>) -> bool {
        self.session.enter(self)
    }

    /// Something was received.
    pub(super) fn hear(&self) {
        self.heard.store(self.age(), Ordering::Relaxed);
    }

    /// Milliseconds since something was received.
    pub(super) fn silence(&self) -> u64 {
        self.age().saturating_sub(self.heard.load(Ordering::Relaxed))
    }

    fn age(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Send a PDU by itself.
    pub(super) fn send(self: &Arc<Self>, head: Head, number: Number, data: &[u8]) -> io::Result<()> {
        let mut outbox = Outbox::new(self.clone());
        outbox.push(head, number, data)?;
        outbox.flush()
    }

    /// Ask whether anybody is there (11.19).
    pub(super) fn ping(self: &Arc<Self>) -> io::Result<()> {
        let head = Head::new(opcode::NOP_IN).with_tag(NO_TAG).with_other_tag(1);
        self.send(head, Number::Next, &[])
    }

    /// Tell the initiator that it will be cut off, and that it may come back at once (11.9).
    pub(super) fn announce_end(self: &Arc<Self>) {
        let head = Head::new(opcode::ASYNC).with_tag(NO_TAG).with(36, &[DROPS_ALL]);
        // Whoever does not take it will notice all the same.
        let _ = self.send(head, Number::Status, &[]);
    }
}
