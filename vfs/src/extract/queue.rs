//! What the walk has found and no worker has begun, bounded; and large files that any idle worker can help with.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::{Condvar, Mutex};

use super::content::Shared;

/// Work that waits at most; the walk waits for room.
const WAITING: usize = 256;

/// A bounded queue with one producer and many consumers.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    work: Condvar,
    room: Condvar,
}

struct State<J> {
    jobs: VecDeque<J>,
    shared: Vec<Arc<Shared>>,
    closed: bool,
}

/// Something to do.
pub(super) enum Work<J> {
    /// Begin this.
    Begin(J),
    /// Help with this.
    Help(Arc<Shared>),
}

impl<J> Queue<J> {
    pub(super) fn new() -> Self {
        let state = State { jobs: VecDeque::new(), shared: Vec::new(), closed: false };
        Self { state: Mutex::new(state), work: Condvar::new(), room: Condvar::new() }
    }

    /// Add a job, when there is room.
    pub(super) fn push(&self, job: J) {
        let mut state = self.state.lock();
        while state.jobs.len() >= WAITING {
            self.room.wait(&mut state);
        }
        state.jobs.push_back(job);
        drop(state);
        self.work.notify_one();
    }

    /// The next thing to do; `None` when there is nothing any more. Helping comes first: it ends something.
    pub(super) fn next(&self) -> Option<Work<J>> {
        let mut state = self.state.lock();
        loop {
            state.shared.retain(|shared| shared.has_work());
            if let Some(shared) = state.shared.first() {
                return Some(Work::Help(shared.clone()));
            }
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                self.room.notify_one();
                return Some(Work::Begin(job));
            }
            if state.closed {
                return None;
            }
            self.work.wait(&mut state);
        }
    }

    /// Let idle workers help with `shared`.
    pub(super) fn share(&self, shared: &Arc<Shared>) {
        self.state.lock().shared.push(shared.clone());
        self.work.notify_all();
    }

    /// Nothing more will come once the returned guard is dropped.
    pub(super) fn close_on_drop(&self) -> impl Drop + '_ {
        Closing(self)
    }
}

struct Closing<'q, J>(&'q Queue<J>);

impl<J> Drop for Closing<'_, J> {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.work.notify_all();
    }
}
