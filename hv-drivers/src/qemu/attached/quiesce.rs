//! The guest's files in order: frozen by its agent for the moment in which a point is made.
//!
//! A guest that stays frozen is worse than a point that is not in order: whatever happens it is thawed, and what keeps it
//! from being frozen costs no more than the order.

use std::time::{Duration, Instant};

use super::Attached;
use crate::{Result, driver::Consistency, qmp::Agent};

/// How long the agent may take: to answer, and to freeze. Windows gives its writers ten seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does `work` while the guest's filesystems are frozen, if they can be; how they were, and how long.
///
/// # Errors
///
/// Those of `work`.
pub fn frozen<T>(
    machine: &Attached,
    wanted: bool,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Consistency, Duration)> {
    let guard = match (wanted, &machine.agent) {
        (false, _) => Err("not asked for".to_owned()),
        (true, None) => Err("no guest agent is configured".to_owned()),
        (true, Some(socket)) => Agent::connect(socket, PATIENCE).map_err(|e| e.to_string()).and_then(Guard::freeze),
    };
    let begun = Instant::now();
    let done = work();
    let (consistency, frozen) = match guard {
        Ok(guard) => {
            let (begun, count) = (guard.begun, guard.count);
            match guard.thaw() {
                Ok(()) => (Consistency::Files(count), begun.elapsed()),
                Err(why) => (Consistency::Crash(why), begun.elapsed()),
            }
        }
        Err(why) => (Consistency::Crash(why), begun.elapsed()),
    };
    Ok((done?, consistency, frozen))
}

/// Thaws a guest that a crash of ours may have left frozen. Without an agent there was nothing to freeze.
pub fn thaw_if_frozen(machine: &Attached) {
    let Some(socket) = &machine.agent else { return };
    if let Ok(mut agent) = Agent::connect(socket, Duration::from_secs(3))
        && agent.is_frozen().unwrap_or(true)
    {
        let _ = agent.thaw();
    }
}

/// A frozen guest; dropping it thaws.
struct Guard {
    agent: Option<Agent>,
    begun: Instant,
    count: u64,
}

impl Guard {
    fn freeze(agent: Agent) -> std::result::Result<Self, String> {
        // Before the command: if its answer is lost, the guest is frozen all the same.
        let mut guard = Self { agent: Some(agent), begun: Instant::now(), count: 0 };
        match guard.agent.as_mut().map(Agent::freeze) {
            Some(Ok(count)) => {
                guard.count = count;
                Ok(guard)
            }
            Some(Err(e)) => Err(e.to_string()),
            None => Err("no guest agent".to_owned()),
        }
    }

    /// Thaws; an error when it cannot be known that all stood still until now.
    fn thaw(mut self) -> std::result::Result<(), String> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        match agent.thaw() {
            Ok(0) if self.count > 0 => Err("the guest had thawed itself before the point was made".to_owned()),
            Ok(_) => Ok(()),
            Err(e) => {
                // Once more: nothing is worse than a guest that stays frozen.
                let again = agent.thaw();
                again.map(drop).map_err(|_| format!("the guest could not be thawed: {e}"))
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.thaw();
        }
    }
}
