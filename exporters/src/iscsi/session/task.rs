//! A SCSI command on its way.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use parking_lot::Mutex;

use super::{Connection, management::Answer};
use crate::scsi::{Cdb, Lun};

/// How far a command is.
mod phase {
    /// It waits: for data, for its turn, or for the device to deliver something that nobody has seen.
    pub(super) const WAITING: u8 = 0;
    /// It changes the disk, or its data are on their way.
    pub(super) const WORKING: u8 = 1;
    /// It has ended.
    pub(super) const ENDED: u8 = 2;
    /// It was aborted, and nothing more is heard of it.
    pub(super) const ABORTED: u8 = 3;
}

/// A SCSI command, from the moment when it was received.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) tag: u32,
    pub(super) immediate: bool,
    pub(super) number: u32,
    /// The address of the unit, as it came.
    pub(super) address: [u8; 8],
    /// What that stands for.
    pub(super) lun: Option<Lun>,
    pub(super) cdb: Cdb,
    /// Bytes that the initiator expects to move (Expected Data Transfer Length).
    pub(super) expected: u32,
    pub(super) reads: bool,
    pub(super) writes: bool,
    /// It is done after all that came before it, and before all that come after it.
    pub(super) ordered: bool,
    pub(super) connection: Arc<Connection>,
    phase: AtomicU8,
    /// Answers to who has aborted it, which wait for its end.
    waiting: Mutex<Vec<Arc<Answer>>>,
}

/// What a task is made of.
pub(super) struct Parts {
    pub(super) tag: u32,
    pub(super) immediate: bool,
    pub(super) number: u32,
    pub(super) address: [u8; 8],
    pub(super) cdb: Cdb,
    pub(super) expected: u32,
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) ordered: bool,
    pub(super) connection: Arc<Connection>,
}

impl Task {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { tag, immediate, number, address, cdb, expected, reads, writes, ordered, connection } = parts;
        Self {
            tag,
            immediate,
            number,
            address,
            lun: crate::scsi::decode_lun(address),
            cdb,
            expected,
            reads,
            writes,
            ordered,
            connection,
            phase: AtomicU8::new(phase::WAITING),
            waiting: Mutex::default(),
        }
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.phase.load(Ordering::Acquire) == phase::ABORTED
    }

    pub(super) fn is_working(&self) -> bool {
        self.phase.load(Ordering::Acquire) == phase::WORKING
    }

    /// From here on it cannot be aborted without waiting for it. `false` when it was aborted.
    pub(super) fn work(&self) -> bool {
        let began = self.phase.compare_exchange(phase::WAITING, phase::WORKING, Ordering::AcqRel, Ordering::Acquire);
        !matches!(began, Err(phase::ABORTED | phase::ENDED))
    }

    /// All that it has said so far was sent.
    pub(super) fn rest(&self) {
        let _ = self.phase.compare_exchange(phase::WORKING, phase::WAITING, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Abort it. Where it has to come to its end first, `answer` waits for that.
    pub(super) fn abort_for(&self, answer: &Arc<Answer>) {
        let mut waiting = self.waiting.lock();
        if self.phase.swap(phase::ABORTED, Ordering::AcqRel) == phase::WORKING {
            waiting.push(answer.clone());
        }
    }

    /// Abort it, if nobody has to wait for its end. `false` when somebody has to.
    pub(super) fn abort_at_once(&self) -> bool {
        let state = self.phase.compare_exchange(phase::WAITING, phase::ABORTED, Ordering::AcqRel, Ordering::Acquire);
        state != Err(phase::WORKING)
    }

    /// Abort it.
    pub(super) fn abort(&self) {
        self.phase.store(phase::ABORTED, Ordering::Release);
    }

    /// It has come to its end. `Err` when it was aborted: nothing is said of it any more, and what is returned waits.
    pub(super) fn end(&self) -> Result<(), Vec<Arc<Answer>>> {
        let mut waiting = self.waiting.lock();
        match self.phase.swap(phase::ENDED, Ordering::AcqRel) {
            phase::ABORTED => {
                self.phase.store(phase::ABORTED, Ordering::Release);
                Err(std::mem::take(&mut waiting))
            }
            _ => Ok(()),
        }
    }

    /// Who waits for the end of a command that was aborted waits on.
    pub(super) fn put_back(&self, answers: Vec<Arc<Answer>>) {
        self.waiting.lock().extend(answers);
    }
}
