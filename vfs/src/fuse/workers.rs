//! Who does the work of a request.
//!
//! The threads that read requests from the kernel also answer them: that is fastest. But an answer may need a volume
//! on a slow disk, and when all of them wait for it, nobody reads requests any more. So the last one that is free
//! never answers: it hands the request to a helper, started when there is none idle and gone after a while without
//! work.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::door::Report;

type Job = Box<dyn FnOnce() + Send>;

/// Helpers at most; requests beyond that wait. The kernel has at most one per waiting program, and some read-ahead.
const MAX_HELPERS: usize = 64;

/// How long a helper waits for work before it ends.
const IDLE: Duration = Duration::from_secs(5);

/// The readers of requests and their helpers.
pub(super) struct Workers {
    readers: usize,
    busy: AtomicUsize,
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    report: Arc<Report>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    helpers: usize,
    idle: usize,
}

impl Workers {
    /// For `readers` threads that read requests.
    pub(super) fn new(readers: usize, report: Arc<Report>) -> Self {
        let shared = Shared { queue: Mutex::default(), ready: Condvar::new(), report };
        Self { readers, busy: AtomicUsize::new(0), shared: Arc::new(shared) }
    }

    /// Do `job`, here or in a helper. Called by the threads that read requests.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if self.busy.fetch_add(1, Ordering::AcqRel) + 1 < self.readers {
            self.shared.guarded(job);
            self.busy.fetch_sub(1, Ordering::AcqRel);
        } else {
            self.busy.fetch_sub(1, Ordering::AcqRel);
            Shared::hand_over(&self.shared, Box::new(job));
        }
    }
}

impl Shared {
    /// A panic must not end the thread that reads requests. The reply answers EIO when it is dropped unanswered.
    fn guarded(&self, job: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            self.report.tell("a request failed by a bug in this program: please report it with the output above");
        }
    }

    fn hand_over(shared: &Arc<Self>, job: Job) {
        let mut queue = shared.queue.lock();
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() || queue.helpers >= MAX_HELPERS {
            drop(queue);
            shared.ready.notify_one();
            return;
        }
        queue.helpers += 1;
        drop(queue);
        let helper = shared.clone();
        if thread::Builder::new().name("fuse-helper".into()).spawn(move || helper.help()).is_err() {
            // No thread to be had: the job is done here, later than wished but done.
            let mut queue = shared.queue.lock();
            queue.helpers -= 1;
            let job = queue.jobs.pop_front();
            drop(queue);
            if let Some(job) = job {
                shared.guarded(job);
            }
        }
    }

    fn help(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                self.guarded(job);
                queue = self.queue.lock();
                continue;
            }
            queue.idle += 1;
            let timed_out = self.ready.wait_for(&mut queue, IDLE).timed_out();
            queue.idle -= 1;
            if timed_out && queue.jobs.is_empty() {
                queue.helpers -= 1;
                return;
            }
        }
    }
}
