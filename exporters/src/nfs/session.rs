//! A connection: calls and replies.
//!
//! One thread receives, and as long as the tree is quick it does all the rest, too: see [`Workers`] for when it is not.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use super::{
    Clients,
    export::Export,
    limits::Limits,
    mount,
    portmap::{self, Ports},
    procedures::Work,
    protocol::{nfs, program, version},
    replies::{Answer, Key, Replies},
    rpc::{CALL_MAX, Call, Parsed, Records, Refusal, record},
    xdr::{Decoder, Encoder, Garbage},
};
use crate::net::{Pace, Sender, Transport, Workers};

/// Gathered replies are sent from this size on.
const SENT_FROM: usize = 256 << 10;
/// A buffer larger than this is given back after use.
const KEPT: usize = 4 << 20;

/// What all calls are served from.
pub(super) struct Programs {
    pub(super) export: Export,
    pub(super) limits: Limits,
    pub(super) clients: Clients,
    pub(super) ports: Ports,
    pub(super) replies: Replies,
}

impl Programs {
    /// Answer the call in `message`, if it is one.
    fn answer(&self, message: &[u8], out: &mut Encoder) -> Result<(), Garbage> {
        let mut arguments = Decoder::new(message);
        let Parsed::Call(mut call) = Call::parse(&mut arguments, out)? else { return Ok(()) };
        self.export.squash(&mut call.credentials);
        let once = self.export.is_writable() && call.program == program::NFS && nfs::only_once(call.procedure);
        if !once {
            call.reply(out, |out| self.run(&call, arguments, out));
            return Ok(());
        }
        match self.replies.begin(Key::of(call.xid, message)) {
            Answer::Known(reply) => out.append(&reply),
            Answer::Wanted(pending) => {
                let start = out.len();
                call.reply(out, |out| self.run(&call, arguments, out));
                pending.finish(out.bytes().get(start..).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Bytes of a call that are kept.
    const fn kept(&self) -> usize {
        CALL_MAX + if self.export.is_writable() { self.limits.write as usize } else { 0 }
    }

    /// Memory that a call may take while it is worked on.
    const fn memory(&self) -> usize {
        self.limits.read as usize + if self.export.is_writable() { self.limits.write as usize } else { 0 }
    }

    fn run(&self, call: &Call, arguments: Decoder<'_>, out: &mut Encoder) -> Result<(), Refusal> {
        match call.program {
            program::NFS => {
                check_version(call, version::NFS)?;
                Work { export: &self.export, limits: &self.limits, call, out }.run(arguments)
            }
            program::MOUNT => {
                check_version(call, version::MOUNT)?;
                mount::run(&self.export, &self.clients, call.procedure, arguments, out)
            }
            program::PORTMAP => {
                check_version(call, version::PORTMAP)?;
                portmap::run(self.ports, false, call.procedure, arguments, out)
            }
            // Locks (NLM) among them: clients mount with `nolock`.
            _ => Err(Refusal::Program),
        }
    }

    /// Answer a datagram to the port mapper.
    pub(super) fn datagram(&self, message: &[u8], out: &mut Encoder) -> Result<(), Garbage> {
        let mut arguments = Decoder::new(message);
        let Parsed::Call(call) = Call::parse(&mut arguments, out)? else { return Ok(()) };
        call.reply(out, |out| {
            if call.program != program::PORTMAP {
                return Err(Refusal::Program);
            }
            check_version(&call, version::PORTMAP)?;
            portmap::run(self.ports, true, call.procedure, arguments, out)
        });
        Ok(())
    }

    /// Serve the calls of a client until it leaves, or until the server is `draining` and all calls that had arrived
    /// have been answered. The transport is closed then.
    ///
    /// # Errors
    ///
    /// When what the client sends are no calls, or the connection breaks or stalls.
    pub(super) fn serve(&self, transport: &dyn Transport, draining: &AtomicBool) -> io::Result<()> {
        let session = Session { programs: self, sender: Sender::new(transport), pace: Pace::new() };
        let workers = Workers::new(self.limits.in_flight, self.limits.in_flight.saturating_mul(self.memory()));
        let served = thread::scope(|scope| {
            // Whatever happens here, the workers are told to end, or the scope would wait for them for ever.
            let _end = workers.ending();
            session.receive(transport, draining, &workers, || {
                let body = || {
                    let mut executor = Executor::new(&session);
                    workers.work(|call: Vec<u8>| executor.run(&call).and_then(|_| executor.flush()), transport);
                };
                // Without a thread the call waits for one that there is, or is done by the receiver.
                thread::Builder::new().name("nfs-worker".into()).spawn_scoped(scope, body).is_ok()
            })
        });
        transport.close();
        served.and_then(|()| workers.result())
    }
}

fn check_version(call: &Call, only: u32) -> Result<(), Refusal> {
    if call.version == only { Ok(()) } else { Err(Refusal::Versions(only, only)) }
}

/// What all threads of a connection share.
struct Session<'a> {
    programs: &'a Programs,
    sender: Sender<'a>,
    pace: Pace,
}

impl Session<'_> {
    fn receive(
        &self,
        transport: &dyn Transport,
        draining: &AtomicBool,
        workers: &Workers<Vec<u8>>,
        spawn: impl Fn() -> bool,
    ) -> io::Result<()> {
        let mut records = Records::new(self.programs.limits.request, self.programs.kept());
        let mut executor = Executor::new(self);
        let mut ending = false;
        loop {
            while let Some(call) = records.take()? {
                if self.pace.is_slow() && self.programs.limits.in_flight > 1 && (records.waiting() || workers.busy()) {
                    executor.flush()?;
                    let memory = self.programs.memory();
                    if workers.reserve(memory, &spawn) {
                        workers.submit(call, memory);
                        continue;
                    }
                }
                let slow = executor.run(&call)?;
                if slow {
                    // Others may follow that are just as slow: this answer does not wait for theirs.
                    executor.flush()?;
                }
            }
            executor.flush()?;
            // What is received first after the server began to end may have been waiting before; what comes later goes
            // to its successor.
            if ending || !records.fill(transport)? {
                return Ok(());
            }
            ending = draining.load(Ordering::Relaxed);
        }
    }
}

/// Answers calls, one at a time. Each thread of a connection has one.
struct Executor<'a> {
    session: &'a Session<'a>,
    out: Encoder,
}

impl<'a> Executor<'a> {
    fn new(session: &'a Session<'a>) -> Self {
        Self { session, out: Encoder::default() }
    }

    /// Answer a call; whether that was slow.
    fn run(&mut self, call: &[u8]) -> io::Result<bool> {
        let (started, before) = (Instant::now(), self.out.len());
        record(&mut self.out, |out| self.session.programs.answer(call, out))?;
        let bytes = self.out.len().saturating_sub(before) as u64;
        let slow = self.session.pace.note(started.elapsed(), bytes);
        if self.out.len() > SENT_FROM {
            self.flush()?;
        }
        Ok(slow)
    }

    /// Send the replies that were gathered.
    fn flush(&mut self) -> io::Result<()> {
        if self.out.len() > 0 {
            let sent = self.session.sender.send(self.out.bytes());
            self.out.truncate(0);
            sent?;
        }
        self.out.shrink(KEPT);
        Ok(())
    }
}
