//! The second phase: commands and what becomes of them (RFC 7143 sections 4 and 11).
//!
//! A [`Session`] is what an initiator port has with a target; it numbers commands. A [`Connection`] is one of the ways
//! that they come by. `receive` makes [`Task`]s of what is received, `transfer` collects the data that belong to them,
//! `execute` does them, `management` aborts them, and `outbox` numbers and sends what goes out. `relay` has two threads
//! take turns, so that somebody always receives.

mod connection;
mod discovery;
mod execute;
mod management;
mod outbox;
mod receive;
mod relay;
mod task;
mod transfer;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

pub(super) use connection::Connection;
use receive::Delivery;
pub(super) use relay::serve;
use task::Task;

use super::{
    limits::Limits,
    negotiate::Parameters,
    pdu::{before, reason},
    target::Target,
};

/// Immediate commands at a time.
const IMMEDIATE: usize = 8;
/// How often it is looked whether a session that is ended changes nothing any more.
const LOOK: Duration = Duration::from_millis(2);

/// What an initiator port has with a target, or with the list of targets.
#[derive(Debug)]
pub(super) struct Session {
    /// `None` for discovery.
    target: Option<Arc<Target>>,
    initiator: String,
    port: String,
    handle: u16,
    parameters: Parameters,
    /// ExpCmdSN in the upper half, MaxCmdSN in the lower: what each response tells.
    window: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Number of the next command (ExpCmdSN).
    next: u32,
    /// Number of the last command that there is room for (MaxCmdSN).
    last: u32,
    /// Commands that came before their turn, by number.
    early: HashMap<u32, Delivery>,
    /// Commands that are not finished, by tag.
    tasks: HashMap<u32, Arc<Task>>,
    connections: HashMap<u16, Arc<Connection>>,
    /// The numbers of those that are logging in.
    seats: Vec<u16>,
    /// It takes no connection any more.
    ended: bool,
}

/// A place in a session that is kept for a connection while it logs in.
#[derive(Debug)]
pub(super) struct Seat {
    session: Arc<Session>,
    number: u16,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.session.state.lock();
        if let Some(own) = state.seats.iter().position(|seat| *seat == self.number) {
            state.seats.swap_remove(own);
        }
    }
}

impl Session {
    /// A session in which targets are listed.
    pub(super) fn discovery(initiator: String, limits: &Limits, next: u32) -> Arc<Self> {
        let port = initiator.clone();
        Arc::new(Self::new(None, initiator, port, 1, Parameters::DEFAULT, limits, next))
    }

    /// A session with a target.
    pub(super) fn normal(
        target: Arc<Target>,
        initiator: String,
        port: String,
        parameters: &Parameters,
        limits: &Limits,
        next: u32,
    ) -> Arc<Self> {
        let handle = target.new_handle();
        Arc::new(Self::new(Some(target), initiator, port, handle, parameters.clone(), limits, next))
    }

    fn new(
        target: Option<Arc<Target>>,
        initiator: String,
        port: String,
        handle: u16,
        parameters: Parameters,
        limits: &Limits,
        next: u32,
    ) -> Self {
        let last = next.wrapping_add(limits.commands.clamp(1, 1 << 16)).wrapping_sub(1);
        let state = State {
            next,
            last,
            early: HashMap::new(),
            tasks: HashMap::new(),
            connections: HashMap::new(),
            seats: Vec::new(),
            ended: false,
        };
        let window = AtomicU64::new(state.window());
        Self { target, initiator, port, handle, parameters, window, state: Mutex::new(state) }
    }

    pub(super) fn port(&self) -> &str {
        &self.port
    }

    pub(super) fn initiator(&self) -> &str {
        &self.initiator
    }

    pub(super) const fn handle(&self) -> u16 {
        self.handle
    }

    /// ExpCmdSN and MaxCmdSN.
    fn window(&self) -> u64 {
        self.window.load(Ordering::Acquire)
    }

    /// Keeps a place for a connection of this number, which is logging in; `None` when there is none left. One that takes the
    /// place of another always has one.
    pub(super) fn seat(self: &Arc<Self>, number: u16) -> Option<Seat> {
        let mut state = self.state.lock();
        let coming = state.seats.iter().filter(|seat| !state.connections.contains_key(seat)).count();
        let most = usize::from(self.parameters.max_connections);
        let has_room = state.connections.contains_key(&number) || state.connections.len() + coming < most;
        if state.ended || !has_room {
            return None;
        }
        state.seats.push(number);
        drop(state);
        Some(Seat { session: Arc::clone(self), number })
    }

    /// Put a delivery where its number says: those that can be done now, in order. Those of numbers that are not in the
    /// window are left out (4.2.2.1).
    fn in_order(&self, delivery: Delivery) -> Vec<Delivery> {
        if delivery.head.immediate() {
            return vec![delivery];
        }
        let mut state = self.state.lock();
        let number = delivery.head.command_number();
        if before(number, state.next) || before(state.last, number) {
            if let Some(task) = &delivery.task {
                task.abort();
                state.tasks.remove(&task.tag);
                drop(state);
                task.connection.discard(task.tag);
            }
            return Vec::new();
        }
        if number != state.next {
            state.early.entry(number).or_insert(delivery);
            return Vec::new();
        }
        let mut now = vec![delivery];
        state.next = state.next.wrapping_add(1);
        while let Some(delivery) = {
            let next = state.next;
            state.early.remove(&next)
        } {
            state.next = state.next.wrapping_add(1);
            now.push(delivery);
        }
        // What is not a SCSI command is done with as soon as it is done.
        let others = now.iter().filter(|delivery| delivery.task.is_none()).count();
        state.last = state.last.wrapping_add(u32::try_from(others).unwrap_or(0));
        self.window.store(state.window(), Ordering::Release);
        now
    }

    /// A command has come.
    ///
    /// # Errors
    ///
    /// Why it is rejected: there is one of its tag, or there are too many that the window says nothing of.
    fn admit(&self, task: &Arc<Task>) -> Result<(), u8> {
        let mut state = self.state.lock();
        if state.tasks.contains_key(&task.tag) {
            return Err(reason::TASK_IN_PROGRESS);
        }
        if task.immediate && state.tasks.values().filter(|task| task.immediate).count() >= IMMEDIATE {
            return Err(reason::TOO_MANY);
        }
        state.tasks.insert(task.tag, task.clone());
        Ok(())
    }

    /// A command is done or aborted: there is room for another. `false` when that was so already.
    fn retire(&self, task: &Arc<Task>) -> bool {
        let mut state = self.state.lock();
        if !state.tasks.get(&task.tag).is_some_and(|known| Arc::ptr_eq(known, task)) {
            return false;
        }
        state.tasks.remove(&task.tag);
        if !task.immediate {
            state.last = state.last.wrapping_add(1);
            self.window.store(state.window(), Ordering::Release);
        }
        true
    }

    /// The commands for which `which` says so.
    fn tasks(&self, which: impl Fn(&Task) -> bool) -> Vec<Arc<Task>> {
        self.state.lock().tasks.values().filter(|task| which(task)).cloned().collect()
    }

    /// A connection has come; one of the same number goes. `false` when the session takes none.
    fn enter(&self, connection: &Arc<Connection>) -> bool {
        let mut state = self.state.lock();
        if state.ended {
            return false;
        }
        if let Some(old) = state.connections.insert(connection.number, connection.clone()) {
            old.transport.close();
        }
        true
    }

    /// A connection has gone, and its commands with it. When it was the last one, the session has ended.
    fn leave(&self, connection: &Arc<Connection>) {
        for task in self.tasks(|task| Arc::ptr_eq(&task.connection, connection)) {
            task.abort();
            self.retire(&task);
        }
        // Each names the connection, which names them.
        connection.transfers.lock().forget();
        let mut state = self.state.lock();
        state.early.retain(|_, delivery| !Arc::ptr_eq(&delivery.connection, connection));
        if state.connections.get(&connection.number).is_some_and(|known| Arc::ptr_eq(known, connection)) {
            state.connections.remove(&connection.number);
        }
        drop(state);
        self.abandon();
    }

    /// The session has ended, unless it has a connection.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        if state.connections.is_empty() {
            state.ended = true;
            state.early.clear();
            drop(state);
            self.leave_target();
        }
    }

    /// Whether it has one connection, of this number.
    fn is_last(&self, number: u16) -> bool {
        let state = self.state.lock();
        state.connections.len() == 1 && state.connections.contains_key(&number)
    }

    /// The initiator has logged out: it takes no connection any more, and holds nothing.
    fn finish(&self) {
        self.state.lock().ended = true;
        self.leave_target();
    }

    fn leave_target(&self) {
        if let Some(target) = &self.target {
            target.leave(self);
        }
    }

    /// The connection of a number.
    fn connection(&self, number: u16) -> Option<Arc<Connection>> {
        self.state.lock().connections.get(&number).cloned()
    }

    /// The initiator has logged out: its other connections go, and none comes.
    fn close_others(&self, own: &Arc<Connection>) {
        let mut state = self.state.lock();
        state.ended = true;
        let others = state.connections.values().filter(|connection| !Arc::ptr_eq(connection, own));
        others.for_each(|connection| connection.transport.close());
    }

    /// Cut off the connections, and wait until nothing is changed any more. A read of a slow disk may go on; nobody sees
    /// what it reads.
    pub(super) fn end(&self, patience: Duration) {
        let until = Instant::now() + patience;
        {
            let mut state = self.state.lock();
            state.ended = true;
            state.connections.values().for_each(|connection| connection.transport.close());
        }
        while self.tasks(|task| !task.abort_at_once()).iter().any(|task| task.is_working()) && Instant::now() < until {
            thread::sleep(LOOK);
        }
        self.leave_target();
    }

    /// Tell the initiator that it is being cut off, and do so.
    pub(super) fn drop_connections(&self) {
        let connections: Vec<_> = {
            let mut state = self.state.lock();
            state.ended = true;
            state.connections.values().cloned().collect()
        };
        for connection in connections {
            connection.announce_end();
            connection.transport.close();
        }
    }
}

impl State {
    fn window(&self) -> u64 {
        u64::from(self.next) << 32 | u64::from(self.last)
    }
}
