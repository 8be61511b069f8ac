//! Threads that work on slow requests at the same time.
//!
//! They are only started when a device turns out to be slow (see [`super::pace`]) while more than one request is
//! waiting. Handing a request over costs some microseconds, nothing beside what such a request takes.

use std::{collections::VecDeque, io};

use parking_lot::{Condvar, Mutex};

use super::{
    super::{limits::Limits, transport::Transport},
    execute::Executor,
    request::Request,
};

/// A request with its payload.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) payload: Vec<u8>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    /// Requests that were reserved for and are not finished.
    requests: usize,
    /// Their memory in bytes.
    bytes: usize,
    ending: bool,
    failure: Option<io::Error>,
}

/// The workers of a session.
pub(super) struct Workers {
    state: Mutex<State>,
    /// There is a job, or the end.
    work: Condvar,
    /// A job was finished.
    finished: Condvar,
    requests: usize,
    bytes: usize,
}

/// Tells the workers to end when it goes.
pub(super) struct Ending<'a>(&'a Workers);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.state.lock().ending = true;
        self.0.work.notify_all();
    }
}

/// Ends the session if a worker panics, or the receiver would wait for a client that waits for a reply.
struct Alarm<'a> {
    workers: &'a Workers,
    transport: &'a dyn Transport,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let failure = io::Error::other("a worker failed in an unforeseen way");
            self.workers.state.lock().failure.get_or_insert(failure);
            self.workers.finished.notify_all();
            self.transport.close();
        }
    }
}

impl Workers {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            finished: Condvar::new(),
            requests: limits.in_flight,
            bytes: limits.in_flight_bytes,
        }
    }

    pub(super) const fn ending(&self) -> Ending<'_> {
        Ending(self)
    }

    /// Whether requests are being worked on.
    pub(super) fn busy(&self) -> bool {
        self.state.lock().requests > 0
    }

    /// Wait until there is room for one more request, which takes `bytes` of memory, and start a thread for it when
    /// all are busy. `false` when there is no thread at all.
    pub(super) fn reserve(&self, bytes: usize, spawn: &impl Fn() -> bool) -> bool {
        let mut state = self.state.lock();
        // A request that is larger than all of the memory is worked on alone.
        while state.failure.is_none()
            && state.requests > 0
            && (state.requests >= self.requests || state.bytes.saturating_add(bytes) > self.bytes)
        {
            self.finished.wait(&mut state);
        }
        if state.requests >= state.threads && state.threads < self.requests && spawn() {
            state.threads += 1;
        }
        if state.threads == 0 {
            return false;
        }
        state.requests += 1;
        state.bytes = state.bytes.saturating_add(bytes);
        true
    }

    /// Give a request to a worker; there is a reservation for it.
    pub(super) fn submit(&self, job: Job) {
        self.state.lock().queue.push_back(job);
        self.work.notify_one();
    }

    /// Work until the end.
    pub(super) fn work(&self, mut executor: Executor<'_>, transport: &dyn Transport) {
        let _alarm = Alarm { workers: self, transport };
        while let Some(job) = self.next() {
            let done = executor.run(&job.request, &job.payload).and_then(|()| executor.flush());
            let mut state = self.state.lock();
            state.requests = state.requests.saturating_sub(1);
            state.bytes = state.bytes.saturating_sub(job.request.memory());
            if let Err(error) = done {
                // Nobody receives the other replies either.
                state.queue.clear();
                state.failure.get_or_insert(error);
                transport.close();
            }
            drop(state);
            self.finished.notify_one();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.ending {
                return None;
            }
            self.work.wait(&mut state);
        }
    }

    /// Why a worker failed, if one did.
    pub(super) fn result(&self) -> io::Result<()> {
        self.state.lock().failure.take().map_or(Ok(()), Err)
    }
}
