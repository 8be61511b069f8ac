//! The second phase: requests and replies ("Transmission").
//!
//! One thread receives and, as long as the device is quick, does all the rest, too: see [`Workers`] for when it is not.

mod execute;
mod outbox;
mod read;
mod request;
mod status;

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use execute::{Executor, Refusal};
use request::Request;

use super::{
    export::Export,
    limits::Limits,
    negotiation::{Agreement, Context, Format},
    protocol::{Errno, command},
};
use crate::net::{Input, Pace, Sender, Transport, Workers};

/// Payloads up to this size are kept between requests.
const KEPT: usize = 4 << 20;

/// What all threads of a session share.
struct Session<'a> {
    sender: Sender<'a>,
    export: &'a Export,
    format: Format,
    contexts: &'a [Context],
    limits: &'a Limits,
    pace: Pace,
}

/// Serve the requests of a client until it leaves, or until the server is `draining` and all requests that had
/// arrived have been answered. The transport is closed then.
///
/// # Errors
///
/// When the client breaks the protocol in a way that cannot be answered, or the connection breaks or stalls.
pub fn serve(agreement: Agreement, limits: &Limits, draining: &AtomicBool) -> io::Result<()> {
    let Agreement { transport, export, format, contexts, input } = agreement;
    let transport = transport.as_ref();
    let session = Session {
        sender: Sender::new(transport),
        export: &export,
        format,
        contexts: &contexts,
        limits,
        pace: Pace::new(),
    };
    let workers = Workers::new(limits.in_flight, limits.in_flight_bytes);
    let served = thread::scope(|scope| {
        let mut receiver = Receiver {
            transport,
            input,
            session: &session,
            executor: Executor::new(&session),
            workers: &workers,
            payload: Vec::new(),
            draining,
        };
        // Whatever happens here, the workers are told to end, or the scope would wait for them for ever.
        let _end = workers.ending();
        receiver.run(|| {
            let body = || {
                let mut executor = Executor::new(&session);
                let work = |job: Job| executor.run(&job.request, &job.payload).and_then(|()| executor.flush());
                workers.work(work, transport);
            };
            // Without a thread the request waits for one that there is, or is done by the receiver.
            thread::Builder::new().name("nbd-worker".into()).spawn_scoped(scope, body).is_ok()
        })
    });
    transport.close();
    served.and_then(|()| workers.result())
}

/// A request with its payload.
struct Job {
    request: Request,
    payload: Vec<u8>,
}

/// The thread that receives.
struct Receiver<'a> {
    transport: &'a dyn Transport,
    input: Input,
    session: &'a Session<'a>,
    executor: Executor<'a>,
    workers: &'a Workers<Job>,
    payload: Vec<u8>,
    draining: &'a AtomicBool,
}

impl Receiver<'_> {
    fn run(&mut self, spawn: impl Fn() -> bool) -> io::Result<()> {
        // Requests that come after the server began to shut down are refused. What is received first after that may
        // have been waiting before.
        let (mut ending, mut late) = (false, false);
        loop {
            while let Some(request) = Request::take(&mut self.input, self.session.format)? {
                if request.command == command::DISC {
                    return self.executor.flush();
                }
                let late = late.then_some(Refusal::new(Errno::Shutdown, "the server is being shut down"));
                if let Some(refusal) = late.or_else(|| self.executor.check(&request).err()) {
                    self.refuse(&request, &refusal)?;
                    continue;
                }
                if self.session.pace.is_slow() && self.may_overlap() && self.hand_over(&request, &spawn)? {
                    continue;
                }
                self.load(&request)?;
                self.executor.run(&request, &self.payload)?;
                self.payload.truncate(KEPT);
                self.payload.shrink_to(KEPT);
                if self.executor.was_slow() {
                    // Others may follow that are just as slow: this answer does not wait for theirs.
                    self.executor.flush()?;
                }
            }
            self.executor.flush()?;
            if !self.input.fill(self.transport)? {
                return Ok(());
            }
            late = ending;
            ending = self.draining.load(Ordering::Relaxed);
        }
    }

    /// Whether another request could be worked on meanwhile.
    fn may_overlap(&self) -> bool {
        self.session.limits.in_flight > 1 && (!self.input.bytes().is_empty() || self.workers.busy())
    }

    /// Leave a request to the workers. `false` when there are none.
    fn hand_over(&mut self, request: &Request, spawn: &impl Fn() -> bool) -> io::Result<bool> {
        self.executor.flush()?;
        if !self.workers.reserve(request.memory(), spawn) {
            return Ok(false);
        }
        // From here on the reservation has to be used; when it is not, the session ends.
        self.load(request)?;
        let job = Job { request: *request, payload: std::mem::take(&mut self.payload) };
        self.workers.submit(job, request.memory());
        Ok(true)
    }

    /// Receive a request's payload.
    fn load(&mut self, request: &Request) -> io::Result<()> {
        let length = request.payload_len();
        self.payload.resize(length, 0);
        if length > self.input.bytes().len() {
            self.executor.flush()?;
        }
        self.input.read_exact(self.transport, &mut self.payload)
    }

    fn refuse(&mut self, request: &Request, refusal: &Refusal) -> io::Result<()> {
        if request.payload > u64::from(self.session.limits.request).max(32 << 20) {
            // "large enough to be deemed a denial of service attack"
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a request with a payload of absurd length"));
        }
        if request.payload > self.input.bytes().len() as u64 {
            self.executor.flush()?;
        }
        self.input.skip(self.transport, request.payload)?;
        self.executor.fail(request, refusal)
    }
}
