//! Two threads for a connection, of which always one receives.
//!
//! The one that receives does commands, too, as long as the disk is quick: nothing is cheaper. Should a command take
//! longer than a moment, the other one, which has stood by, takes over receiving, and the first stands by as soon as it
//! has finished. Meanwhile, and as long as the disk is known to be slow, commands are left to workers. So whatever the
//! disk does, pings are answered and aborts are heard: initiators give a target up that does not (Linux after five
//! seconds, ESXi after ten).

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, Scope},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    super::{limits::Limits, login::Agreement, target::Targets},
    execute::{Executor, Ready},
    outbox::Outbox,
    receive::{Receiver, Shared},
};
use crate::net::{Pace, Workers};

/// A command that takes longer than this, or twice this, keeps nobody from receiving.
const MOMENT: Duration = Duration::from_millis(50);
/// Moments without a command after which it is no longer looked each time.
const QUIET: u32 = 20;

/// Serve the commands of a connection until it ends, or until the server is `draining` and all commands that had arrived
/// have been done.
///
/// # Errors
///
/// When the initiator breaks the protocol in a way that cannot be answered, or the connection breaks or stalls.
pub(in super::super) fn serve(
    agreement: Agreement,
    limits: &Limits,
    targets: &Targets,
    portal: Option<SocketAddr>,
    draining: &AtomicBool,
) -> io::Result<()> {
    let Agreement { connection, input } = agreement;
    let shared = Shared { connection: connection.clone(), limits, targets, portal };
    let relay = Relay {
        receiver: Mutex::new(Receiver::new(input, &shared)),
        shared: &shared,
        workers: Workers::new(limits.in_flight.max(1), limits.in_flight_bytes),
        pace: Pace::new(),
        turn: AtomicU64::new(0),
        stands_by: AtomicBool::new(false),
        asleep: AtomicBool::new(false),
        over: AtomicBool::new(false),
        standing: Mutex::new(()),
        bell: Condvar::new(),
    };
    let served = thread::scope(|scope| {
        // Whatever happens here, the workers are told to end, or the scope would wait for them for ever.
        let _end = relay.workers.ending();
        let other = || relay.attend(scope, false);
        // Without a second thread all is left to the workers.
        let other = thread::Builder::new().name("iscsi-relay".into()).spawn_scoped(scope, other);
        let first = relay.attend(scope, true);
        let failed = || Err(io::Error::other("a thread failed in an unforeseen way"));
        let second = other.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| failed()));
        // Who finds out why it ends is not always who receives.
        second.and(first)
    });
    if draining.load(Ordering::Relaxed) {
        connection.announce_end();
    }
    connection.transport.close();
    let outcome = served.and_then(|()| relay.workers.result());
    connection.session.leave(&connection);
    outcome
}

struct Relay<'a> {
    receiver: Mutex<Receiver<'a>>,
    shared: &'a Shared<'a>,
    workers: Workers<Ready>,
    pace: Pace,
    /// Odd while who receives does a command instead; each change is another number.
    turn: AtomicU64,
    /// Whether somebody could take over.
    stands_by: AtomicBool,
    /// Whether who stands by has to be woken to notice a command.
    asleep: AtomicBool,
    over: AtomicBool,
    standing: Mutex<()>,
    /// The end, or the first command after a while.
    bell: Condvar,
}

/// How receiving ends for a thread.
enum End {
    /// Another one receives.
    Replaced,
    /// Nothing more comes.
    Over,
}

/// Ends the connection when one of its threads leaves, however it leaves.
struct Leaving<'a, 'b>(&'a Relay<'b>);

impl Drop for Leaving<'_, '_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
        let _standing = self.0.standing.lock();
        self.0.bell.notify_all();
        if thread::panicking() {
            self.0.shared.connection.transport.close();
        }
    }
}

impl Relay<'_> {
    /// A thread's life.
    fn attend<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, mut receives: bool) -> io::Result<()> {
        let _leaving = Leaving(self);
        let mut executor = self.executor();
        let mut turns = || -> io::Result<()> {
            loop {
                if !receives && !self.stand_by()? {
                    return Ok(());
                }
                match self.receive(scope, &mut executor)? {
                    End::Replaced => receives = false,
                    End::Over => return Ok(()),
                }
            }
        };
        // The other one may be in the middle of receiving or sending.
        turns().inspect_err(|_| self.shared.connection.transport.close())
    }

    fn executor(&self) -> Executor<'_> {
        Executor { out: Outbox::new(self.shared.connection.clone()), pace: &self.pace, slow: false }
    }

    /// Receive, and do what can be done at once.
    fn receive<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, executor: &mut Executor<'_>) -> io::Result<End> {
        let mut receiver = self.receiver.lock();
        loop {
            let Some(mut ready) = receiver.next(&mut executor.out)? else {
                executor.out.flush()?;
                return Ok(End::Over);
            };
            if ready.is_empty() {
                continue;
            }
            let overlaps = !receiver.input.bytes().is_empty() || self.workers.busy();
            let slow = !self.stands_by.load(Ordering::Relaxed) || (self.pace.is_slow() && overlaps);
            if slow {
                executor.out.flush()?;
                ready = ready.into_iter().filter_map(|one| self.hand_over(scope, one)).collect();
            }
            if ready.is_empty() {
                continue;
            }
            drop(receiver);
            let turn = self.begin();
            for one in ready {
                if one.task.ordered {
                    self.workers.wait_idle();
                }
                executor.run(one)?;
                if executor.slow {
                    // Others may follow that are just as slow: this answer does not wait for theirs.
                    executor.out.flush()?;
                }
            }
            if !self.finish(turn) {
                executor.out.flush()?;
                return Ok(End::Replaced);
            }
            receiver = self.receiver.lock();
        }
    }

    /// Leave a command to the workers. It comes back where that cannot be, or where it has to be the only one.
    fn hand_over<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, ready: Ready) -> Option<Ready> {
        if ready.task.ordered && self.stands_by.load(Ordering::Relaxed) {
            return Some(ready);
        }
        let work = || {
            let mut executor = self.executor();
            let run = |ready| executor.run(ready).and_then(|()| executor.out.flush());
            self.workers.work(run, self.shared.connection.transport.as_ref());
        };
        let spawn = || thread::Builder::new().name("iscsi-worker".into()).spawn_scoped(scope, work).is_ok();
        self.workers.enqueue(ready, &spawn).err()
    }

    /// Who receives begins to do commands.
    fn begin(&self) -> u64 {
        let turn = self.turn.fetch_add(1, Ordering::SeqCst) + 1;
        if self.asleep.load(Ordering::SeqCst) {
            let _standing = self.standing.lock();
            self.bell.notify_all();
        }
        turn
    }

    /// They are done. `false` when another one receives now.
    fn finish(&self, turn: u64) -> bool {
        self.turn.compare_exchange(turn, turn + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Wait until it is time to receive. `false` at the end.
    fn stand_by(&self) -> io::Result<bool> {
        let connection = &self.shared.connection;
        let silence = u64::try_from(self.shared.limits.silence.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut standing = self.standing.lock();
        self.stands_by.store(true, Ordering::SeqCst);
        let (mut seen, mut quiet, mut asked) = (self.turn.load(Ordering::SeqCst), 0, false);
        loop {
            if self.over.load(Ordering::SeqCst) {
                return Ok(false);
            }
            let wait = if quiet < QUIET {
                MOMENT
            } else {
                self.asleep.store(true, Ordering::SeqCst);
                Duration::from_millis((silence / 4).clamp(1, 10_000))
            };
            if self.turn.load(Ordering::SeqCst) == seen || quiet < QUIET {
                self.bell.wait_for(&mut standing, wait);
            }
            self.asleep.store(false, Ordering::SeqCst);
            let turn = self.turn.load(Ordering::SeqCst);
            if turn == seen && turn % 2 == 1 && !self.over.load(Ordering::SeqCst) && self.finish(turn) {
                self.stands_by.store(false, Ordering::SeqCst);
                return Ok(true);
            }
            quiet = if turn == seen { quiet.saturating_add(1) } else { 0 };
            seen = turn;
            match connection.silence() / silence {
                0 => asked = false,
                1 if !asked => {
                    asked = true;
                    // A connection that is broken is found out by who receives.
                    let _ = connection.ping();
                }
                1 => {}
                _ => {
                    connection.transport.close();
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it no longer answers"));
                }
            }
        }
    }
}
