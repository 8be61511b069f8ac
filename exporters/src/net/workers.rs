//! Threads that work on slow requests at the same time.
//!
//! They are only started when a device turns out to be slow (see [`Pace`](super::Pace)) while more than one request is
//! waiting. Handing a request over costs some microseconds, nothing beside what such a request takes.

use std::{collections::VecDeque, io};

use parking_lot::{Condvar, Mutex};

use super::Transport;

struct State<J> {
    /// Jobs, each with its memory in bytes.
    queue: VecDeque<(J, usize)>,
    threads: usize,
    /// Requests that were reserved for and are not finished.
    requests: usize,
    /// Their memory in bytes.
    bytes: usize,
    ending: bool,
    failure: Option<io::Error>,
}

/// The workers of a session, and the jobs `J` that wait for them.
pub(crate) struct Workers<J> {
    state: Mutex<State<J>>,
    /// There is a job, or the end.
    work: Condvar,
    /// A job was finished.
    finished: Condvar,
    requests: usize,
    bytes: usize,
}

/// Tells the workers to end when it goes.
pub(crate) struct Ending<'a, J>(&'a Workers<J>);

impl<J> Drop for Ending<'_, J> {
    fn drop(&mut self) {
        self.0.state.lock().ending = true;
        self.0.work.notify_all();
    }
}

/// Ends the session if a worker panics, or the receiver would wait for a client that waits for a reply.
struct Alarm<'a, J> {
    workers: &'a Workers<J>,
    transport: &'a dyn Transport,
}

impl<J> Drop for Alarm<'_, J> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let failure = io::Error::other("a worker failed in an unforeseen way");
            self.workers.state.lock().failure.get_or_insert(failure);
            self.workers.finished.notify_all();
            self.transport.close();
        }
    }
}

impl<J> Workers<J> {
    /// Workers that work on that many requests at a time, which hold that many bytes.
    pub(crate) fn new(requests: usize, bytes: usize) -> Self {
        let state = State { queue: VecDeque::new(), threads: 0, requests: 0, bytes: 0, ending: false, failure: None };
        Self { state: Mutex::new(state), work: Condvar::new(), finished: Condvar::new(), requests, bytes }
    }

    pub(crate) const fn ending(&self) -> Ending<'_, J> {
        Ending(self)
    }

    /// Whether requests are being worked on.
    pub(crate) fn busy(&self) -> bool {
        self.state.lock().requests > 0
    }

    /// Wait until there is room for one more request, which takes `bytes` of memory, and start a thread for it when
    /// all are busy. `false` when there is no thread at all.
    pub(crate) fn reserve(&self, bytes: usize, spawn: &impl Fn() -> bool) -> bool {
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

    /// Give a request to the workers, however many wait already, and start a thread for it when all are busy: for who
    /// must not wait, and has a bound of its own. The request comes back when there is no thread at all.
    pub(crate) fn enqueue(&self, job: J, spawn: &impl Fn() -> bool) -> Result<(), J> {
        let mut state = self.state.lock();
        if state.requests >= state.threads && state.threads < self.requests && spawn() {
            state.threads += 1;
        }
        if state.threads == 0 {
            return Err(job);
        }
        state.requests += 1;
        state.queue.push_back((job, 0));
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Wait until nobody works any more.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.state.lock();
        while state.requests > 0 && state.failure.is_none() {
            self.finished.wait(&mut state);
        }
    }

    /// Give a request to a worker; there is a reservation of `bytes` for it.
    pub(crate) fn submit(&self, job: J, bytes: usize) {
        self.state.lock().queue.push_back((job, bytes));
        self.work.notify_one();
    }

    /// Have `run` do jobs, and send what they give, until the end.
    pub(crate) fn work(&self, mut run: impl FnMut(J) -> io::Result<()>, transport: &dyn Transport) {
        let _alarm = Alarm { workers: self, transport };
        while let Some((job, bytes)) = self.next() {
            let done = run(job);
            let mut state = self.state.lock();
            state.requests = state.requests.saturating_sub(1);
            state.bytes = state.bytes.saturating_sub(bytes);
            if let Err(error) = done {
                // Nobody receives the other replies either.
                state.queue.clear();
                state.failure.get_or_insert(error);
                transport.close();
            }
            drop(state);
            self.finished.notify_all();
        }
    }

    fn next(&self) -> Option<(J, usize)> {
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
    pub(crate) fn result(&self) -> io::Result<()> {
        self.state.lock().failure.take().map_or(Ok(()), Err)
    }
}
