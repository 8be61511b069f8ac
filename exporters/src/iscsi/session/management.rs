//! Task management (RFC 7143 sections 4.2.3, 11.5, 11.6; SAM-5 section 7).
//!
//! An abort is answered when the command can do nothing any more. One that waits, or reads, is left where it is, and
//! what it says is thrown away; one that is changing the disk is waited for. So an abort does not wait for a slow backup.

use std::{io, sync::Arc};

use super::{
    super::pdu::{Head, opcode},
    Connection, Session,
    outbox::{Number, Outbox},
    task::Task,
};
use crate::scsi::decode_lun;

/// Functions (11.5.1).
const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_TASK_SET: u8 = 4;
const LOGICAL_UNIT_RESET: u8 = 5;
const TARGET_WARM_RESET: u8 = 6;
const TARGET_COLD_RESET: u8 = 7;
const TASK_REASSIGN: u8 = 8;

/// Responses (11.6.1).
const COMPLETE: u8 = 0;
const NO_SUCH_TASK: u8 = 1;
const NO_SUCH_UNIT: u8 = 2;
const NO_REASSIGNMENT: u8 = 4;
const NOT_SUPPORTED: u8 = 5;

/// A response that is sent when the last one lets go of it.
#[derive(Debug)]
pub(super) struct Answer {
    connection: Arc<Connection>,
    head: Head,
}

impl Answer {
    pub(super) fn new(connection: Arc<Connection>, head: Head) -> Arc<Self> {
        Arc::new(Self { connection, head })
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.connection.send(self.head, Number::Status, &[]).is_err() {
            self.connection.transport.close();
        }
    }
}

impl Session {
    /// Abort commands; `answer` is held by those that have to come to their end first.
    pub(super) fn abort(&self, which: impl Fn(&Task) -> bool, answer: &Arc<Answer>) {
        for task in self.tasks(which) {
            // Whoever retires it has it; the others have nothing to say any more.
            if self.retire(&task) {
                task.abort_for(answer);
                task.connection.discard(task.tag);
            }
        }
    }
}

/// Do a function and answer it. `false` when the connection is to end.
pub(super) fn manage(connection: &Arc<Connection>, head: &Head, out: &mut Outbox) -> io::Result<bool> {
    // What was said of commands goes before what is said of their end.
    out.flush()?;
    let function = head.flags() & 0x7f;
    let (response, stays) = perform(connection, head, function);
    if let Some(response) = response {
        let answer = Head::new(opcode::TASK_MANAGEMENT_RESPONSE).with(2, &[response]).with_tag(head.tag());
        connection.send(answer, Number::Status, &[])?;
    }
    Ok(stays)
}

/// Returns a response for at once, and whether the connection stays.
fn perform(connection: &Arc<Connection>, head: &Head, function: u8) -> (Option<u8>, bool) {
    let session = &connection.session;
    let Some(target) = &session.target else { return (Some(NOT_SUPPORTED), true) };
    let complete = Head::new(opcode::TASK_MANAGEMENT_RESPONSE).with(2, &[COMPLETE]).with_tag(head.tag());
    let lun = decode_lun(head.lun());
    let unit = lun.and_then(|lun| target.unit(lun));
    match function {
        ABORT_TASK => {
            let (tag, found) = (head.other_tag(), |task: &Task| task.tag == head.other_tag() && task.lun == lun);
            if session.tasks(found).is_empty() {
                return (Some(NO_SUCH_TASK), true);
            }
            let answer = Answer::new(connection.clone(), complete);
            session.abort(|task| task.tag == tag && task.lun == lun, &answer);
            (None, true)
        }
        ABORT_TASK_SET | CLEAR_TASK_SET | LOGICAL_UNIT_RESET if unit.is_none() => (Some(NO_SUCH_UNIT), true),
        // Each initiator has a task set of its own (TST).
        ABORT_TASK_SET | CLEAR_TASK_SET => {
            let answer = Answer::new(connection.clone(), complete);
            session.abort(|task| task.lun == lun, &answer);
            (None, true)
        }
        LOGICAL_UNIT_RESET => {
            let answer = Answer::new(connection.clone(), complete);
            for session in target.open_sessions() {
                session.abort(|task| task.lun == lun, &answer);
            }
            if let Some(unit) = unit {
                unit.reset(None);
            }
            (None, true)
        }
        TARGET_WARM_RESET | TARGET_COLD_RESET => {
            let cold = function == TARGET_COLD_RESET;
            let answer = Answer::new(connection.clone(), complete);
            let sessions = target.open_sessions();
            sessions.iter().for_each(|session| session.abort(|_| true, &answer));
            target.units().iter().for_each(|(_, unit)| unit.reset(None));
            drop(answer);
            if cold {
                let others = sessions.iter().filter(|other| !Arc::ptr_eq(other, session));
                others.for_each(|other| other.drop_connections());
            }
            (None, !cold)
        }
        TASK_REASSIGN => (Some(NO_REASSIGNMENT), true),
        _ => (Some(NOT_SUPPORTED), true),
    }
}
