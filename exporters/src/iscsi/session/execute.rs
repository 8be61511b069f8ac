//! Commands are judged, done and answered.

use std::{io, sync::Arc, time::Instant};

use super::{
    super::pdu::{FINAL, Head, NO_TAG, opcode},
    Session,
    management::Answer,
    outbox::{Number, Outbox},
    task::Task,
};
use crate::{
    net::Pace,
    scsi::{Command, Failure, LogicalUnit, REPORT_LUNS, Sense, Status, Units},
};

/// Flags of responses and of Data-In (11.4.1, 11.7.1).
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
const STATUS: u8 = 0x01;

/// What a command turned out to be.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Something for a unit.
    Do(Arc<LogicalUnit>, Command),
    /// A question that is answered.
    Answer(Vec<u8>),
    /// Not to be done; the sense data are of the format that the unit's initiators want.
    Refuse(Status, Vec<u8>),
}

impl Verdict {
    /// Bytes that it wants from the initiator.
    pub(super) fn wants(&self) -> usize {
        match self {
            Self::Do(unit, command) => command.wants(unit.block_size()),
            Self::Answer(_) | Self::Refuse(..) => 0,
        }
    }

    fn refuse(unit: Option<&LogicalUnit>, failure: Failure) -> Self {
        match failure {
            Failure::Conflict => Self::Refuse(Status::ReservationConflict, Vec::new()),
            Failure::Check(sense) => Self::Refuse(Status::CheckCondition, encoded(unit, &sense)),
        }
    }
}

fn encoded(unit: Option<&LogicalUnit>, sense: &Sense) -> Vec<u8> {
    unit.map_or_else(|| sense.encode(false), |unit| unit.sense_bytes(sense))
}

/// A command with all of its data.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) task: Arc<Task>,
    pub(super) verdict: Verdict,
    pub(super) data: Vec<u8>,
    /// Bytes that were promised to it.
    pub(super) reserved: usize,
}

impl Session {
    /// Judge a command whose turn has come.
    pub(super) fn judge(&self, task: &Task) -> Verdict {
        let Some(target) = &self.target else {
            return Verdict::refuse(None, Sense::NO_SUCH_UNIT.into());
        };
        if task.cdb.opcode() == REPORT_LUNS {
            let answer = target.with_units(|units| units.report(&self.port, &task.cdb));
            return answer.map_or_else(|failure| Verdict::refuse(None, failure), Verdict::Answer);
        }
        let Some(unit) = task.lun.and_then(|lun| target.unit(lun)) else {
            let answer = Units::missing(&task.cdb);
            return answer.map_or_else(|failure| Verdict::refuse(None, failure), Verdict::Answer);
        };
        if task.reads && task.writes {
            return Verdict::refuse(Some(&unit), Sense::in_cdb(0).into());
        }
        let expected = usize::try_from(task.expected).unwrap_or(usize::MAX);
        match unit.begin(&self.port, &task.cdb) {
            Ok(command) if task.writes && command.is_exact() && command.wants(unit.block_size()) != expected => {
                Verdict::refuse(Some(&unit), Sense::LENGTHS_DIFFER.into())
            }
            Ok(command) => Verdict::Do(unit, command),
            Err(failure) => Verdict::refuse(Some(&unit), failure),
        }
    }
}

/// Does commands, one at a time, and gathers what is said of them.
pub(super) struct Executor<'a> {
    pub(super) out: Outbox,
    pub(super) pace: &'a Pace,
    /// Whether the disk was slow for the command that was done last.
    pub(super) slow: bool,
}

/// Why no data are sent.
enum Stop {
    Aborted,
    Failed(Failure),
}

impl Executor<'_> {
    /// Do a command and answer it.
    pub(super) fn run(&mut self, ready: Ready) -> io::Result<()> {
        self.slow = false;
        let Ready { task, verdict, data, reserved } = ready;
        if Arc::ptr_eq(&task.connection, &self.out.connection) {
            // What cannot be sent is over, and nobody has to wait for it.
            self.perform(&task, verdict, &data).inspect_err(|_| task.abort())?;
        } else {
            // Of another connection of the session, whose turn came with a command of this one.
            let other = Outbox::new(task.connection.clone());
            let own = std::mem::replace(&mut self.out, other);
            let done = self.perform(&task, verdict, &data).and_then(|()| self.out.flush());
            self.out = own;
            if done.is_err() {
                task.abort();
                task.connection.transport.close();
            }
        }
        drop(data);
        if reserved > 0 {
            let mut out = Outbox::new(task.connection.clone());
            task.connection.release(reserved, &mut out)?;
            self.out.flush()?;
            out.flush()?;
        }
        Ok(())
    }

    fn perform(&mut self, task: &Arc<Task>, verdict: Verdict, data: &[u8]) -> io::Result<()> {
        match verdict {
            Verdict::Refuse(status, sense) => self.respond(task, status, &sense, 0, 0),
            Verdict::Answer(bytes) => self.deliver(task, None, bytes.len() as u64, |room, at| {
                copy(room, &bytes, at);
                Ok(())
            }),
            Verdict::Do(unit, command) => match command.reads().cloned() {
                Some(range) => {
                    let read = |room: &mut [u8], at: u64| unit.read(room, range.start + at);
                    self.deliver(task, Some(&unit), range.end - range.start, read)
                }
                None => self.finish(task, &unit, command, data),
            },
        }
    }

    /// Do what is not reading.
    fn finish(&mut self, task: &Arc<Task>, unit: &Arc<LogicalUnit>, command: Command, data: &[u8]) -> io::Result<()> {
        if !task.work() {
            return self.ended(task);
        }
        let wants = command.wants(unit.block_size());
        let port = &task.connection.session.port;
        let started = Instant::now();
        let done = if task.writes && data.len() < wants {
            unit.write_part(&command, data).map(|()| None)
        } else {
            unit.finish(port, command, data).map(Some)
        };
        self.slow |= self.pace.note(started.elapsed(), data.len() as u64);
        match done {
            Ok(None) => self.respond(task, Status::Good, &[], wants as u64, 0),
            Ok(Some(done)) if !done.abort.is_empty() => self.respond_after(task, &done.abort),
            Ok(Some(done)) if done.data.is_empty() => self.respond(task, done.status, &[], wants as u64, 0),
            Ok(Some(done)) => {
                task.rest();
                self.deliver(task, Some(unit), done.data.len() as u64, |room, at| {
                    copy(room, &done.data, at);
                    Ok(())
                })
            }
            Err(failure) => self.fail(task, Some(unit), failure, 0),
        }
    }

    fn fail(&mut self, task: &Arc<Task>, unit: Option<&LogicalUnit>, failure: Failure, pdus: u32) -> io::Result<()> {
        match failure {
            Failure::Conflict => self.respond(task, Status::ReservationConflict, &[], 0, pdus),
            Failure::Check(sense) => self.respond(task, Status::CheckCondition, &encoded(unit, &sense), 0, pdus),
        }
    }

    /// Send `len` bytes that `source` delivers, and the status with the last of them (11.7).
    fn deliver(
        &mut self,
        task: &Arc<Task>,
        unit: Option<&Arc<LogicalUnit>>,
        len: u64,
        mut source: impl FnMut(&mut [u8], u64) -> Result<(), Failure>,
    ) -> io::Result<()> {
        let total = if task.reads { len.min(task.expected.into()) } else { 0 };
        if total == 0 {
            return self.respond(task, Status::Good, &[], len, 0);
        }
        let segment = task.connection.send_segment.max(512) as u64;
        let burst = task.connection.session.parameters.max_burst.max(512) as u64;
        let (mut sent, mut pdus) = (0, 0_u32);
        while sent < total {
            let piece = (total - sent).min(segment).min(burst - sent % burst);
            let last = sent + piece == total;
            let mut head = Head::new(opcode::DATA_IN)
                .with_flags(if last || (sent + piece) % burst == 0 { FINAL } else { 0 })
                .with_tag(task.tag)
                .with_other_tag(NO_TAG)
                .with(36, &pdus.to_be_bytes())
                .with(40, &u32::try_from(sent).unwrap_or(u32::MAX).to_be_bytes());
            if last {
                let (flag, residual) = residual(task, len);
                head = head.with_flags(head.flags() | flag | STATUS).with(44, &residual.to_be_bytes());
            }
            if self.slow && sent > 0 {
                // What is slow can be aborted in between.
                self.out.flush()?;
                task.rest();
            }
            let (pace, slow) = (self.pace, &mut self.slow);
            let number = if last { Number::Status } else { Number::None };
            let pushed = self.out.push_with(head, number, usize::try_from(piece).unwrap_or(0), |room| {
                let started = Instant::now();
                let delivered = source(room, sent);
                *slow |= pace.note(started.elapsed(), piece);
                delivered.map_err(Stop::Failed)?;
                if !task.work() || (last && !ends(task)) { Err(Stop::Aborted) } else { Ok(()) }
            })?;
            match pushed {
                Ok(()) => {}
                Err(Stop::Aborted) => return self.ended(task),
                Err(Stop::Failed(failure)) => return self.fail(task, unit.map(AsRef::as_ref), failure, pdus),
            }
            sent += piece;
            pdus += 1;
        }
        Ok(())
    }

    /// Tell how a command ended that moved `moved` bytes as its CDB says, after that many Data-In PDUs (11.4).
    fn respond(&mut self, task: &Arc<Task>, status: Status, sense: &[u8], moved: u64, pdus: u32) -> io::Result<()> {
        if !ends(task) {
            return self.ended(task);
        }
        let head = response(task, status, moved).with(36, &pdus.to_be_bytes());
        if sense.is_empty() {
            return self.out.push(head, Number::Status, &[]);
        }
        let length = u16::try_from(sense.len()).unwrap_or(0);
        self.out.push(head, Number::Status, &[&length.to_be_bytes()[..], sense].concat())
    }

    /// Tell that a command is done as soon as all commands of some ports for its unit have ended.
    fn respond_after(&mut self, task: &Arc<Task>, ports: &[String]) -> io::Result<()> {
        if !ends(task) {
            return self.ended(task);
        }
        let wants = u64::from(task.expected);
        let answer = Answer::new(task.connection.clone(), response(task, Status::Good, wants));
        self.out.flush()?;
        if let Some(target) = &task.connection.session.target {
            let sessions = target.open_sessions().into_iter().filter(|session| ports.contains(&session.port));
            sessions.for_each(|session| session.abort(|other| other.lun == task.lun, &answer));
        }
        Ok(())
    }

    /// A command that was aborted has come to its end: whoever waits for that is answered, after what was said of it.
    fn ended(&mut self, task: &Arc<Task>) -> io::Result<()> {
        self.out.flush()?;
        if let Err(waiting) = task.end() {
            drop(waiting);
        }
        Ok(())
    }
}

/// The command has come to its end. `false` when it was aborted before.
fn ends(task: &Arc<Task>) -> bool {
    match task.end() {
        Ok(()) => task.connection.session.retire(task),
        Err(waiting) => {
            // They are answered by who notices, after what is to be sent before.
            task.put_back(waiting);
            false
        }
    }
}

fn response(task: &Task, status: Status, moved: u64) -> Head {
    let (flag, residual) = residual(task, moved);
    Head::new(opcode::SCSI_RESPONSE)
        .with_flags(FINAL | flag)
        .with(3, &[status as u8])
        .with_tag(task.tag)
        .with(44, &residual.to_be_bytes())
}

/// How far what the CDB says and what the initiator expects are apart (11.4.5).
fn residual(task: &Task, moved: u64) -> (u8, u32) {
    let expected = u64::from(task.expected);
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    if !task.reads && !task.writes {
        return (0, 0);
    }
    match moved.cmp(&expected) {
        std::cmp::Ordering::Less => (UNDERFLOW, number(expected - moved)),
        std::cmp::Ordering::Equal => (0, 0),
        std::cmp::Ordering::Greater => (OVERFLOW, number(moved - expected)),
    }
}

fn copy(room: &mut [u8], bytes: &[u8], at: u64) {
    let rest = bytes.get(usize::try_from(at).unwrap_or(usize::MAX)..).unwrap_or_default();
    room.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
}
