//! The guest's files in order: frozen by its agent for the moment in which a point is made.

use std::{path::Path, time::Duration};

use super::Attached;
use crate::{
    Result,
    driver::Consistency,
    freeze::{self, By, Guest},
    qmp::Agent,
};

/// Does `work` while the guest's filesystems are frozen, if they can be; how they were, and how long. `guard` is the program
/// that sees to it that they are thawed; without it they are not frozen.
///
/// # Errors
///
/// Those of `work`.
pub fn frozen<T>(
    machine: &Attached,
    guard: Option<&Path>,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Consistency, Duration)> {
    let guest =
        machine.agent.as_ref().map(|socket| Guest { machine: machine.name.clone(), by: By::Agent(socket.clone()) });
    let how = match (guard, &guest) {
        (None, _) => Err("not asked for".to_owned()),
        (_, None) => Err("no guest agent is configured".to_owned()),
        (Some(guard), Some(guest)) => Ok((guard, guest)),
    };
    freeze::during(how, work)
}

/// Thaws a guest that a crash may have left frozen, if it was one of the guard, too. Without an agent there was nothing to
/// freeze.
pub fn thaw_if_frozen(machine: &Attached) {
    let Some(socket) = &machine.agent else { return };
    if let Ok(mut agent) = Agent::connect(socket, Duration::from_secs(3))
        && agent.is_frozen().unwrap_or(true)
    {
        let _ = agent.thaw();
    }
}
