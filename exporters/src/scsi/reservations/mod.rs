//! Who may do what: persistent reservations (SPC-4 5.13), and RESERVE and RELEASE of SPC-2.
//!
//! A registrant is an initiator port by its name; there is one target port. The rules of access are [`Reservations::admits`];
//! `persistent` has what changes registrations, `report` what tells them, and `stored` the file that keeps them.

mod persistent;
mod report;
mod stored;
mod transport_id;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use blockdev::Result;
use parking_lot::Mutex;

use super::{
    cdb::Cdb,
    sense::{Failure, Sense},
    unit::{Action, LogicalUnit},
};

/// Most registrations of a unit.
const MOST_REGISTRATIONS: usize = 256;

/// How a command stands to reservations of others (SPC-4 5.13.3, SBC-3 4.17).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Always done.
    Free,
    /// Done with every persistent reservation, not with one by RESERVE.
    State,
    /// Not done with a persistent reservation for exclusive access.
    Read,
    /// Not done with any.
    Write,
    /// PERSISTENT RESERVE IN and OUT, which judge themselves.
    Reserve,
    /// RESERVE and RELEASE of SPC-2.
    Legacy,
}

/// Types of persistent reservations (SPC-4 table 59).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrants = 5,
    ExclusiveAccessRegistrants = 6,
    WriteExclusiveAll = 7,
    ExclusiveAccessAll = 8,
}

impl Kind {
    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }

    /// Whether others may not even read.
    const fn excludes_readers(self) -> bool {
        matches!(self, Self::ExclusiveAccess | Self::ExclusiveAccessRegistrants | Self::ExclusiveAccessAll)
    }

    /// Whether it lets registrants do everything.
    const fn for_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether every registrant holds it.
    const fn held_by_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }
}

/// A persistent reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    kind: Kind,
    /// The port that made it, which holds it unless all registrants do.
    holder: String,
}

/// Registrations and the reservation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    /// PRgeneration.
    generation: u32,
    /// Keys by port.
    keys: BTreeMap<String, u64>,
    held: Option<Held>,
    /// Whether they survive a loss of power (APTPL).
    persists: bool,
    /// The port that has reserved the unit by RESERVE.
    legacy: Option<String>,
}

impl State {
    /// Whether `port` holds the persistent reservation.
    fn holds(&self, port: &str) -> bool {
        self.held.as_ref().is_some_and(|held| match held.kind.held_by_all() {
            true => self.keys.contains_key(port),
            false => held.holder == port,
        })
    }

    fn admits(&self, port: &str, access: Access) -> bool {
        let (legacy, persistent) = match access {
            Access::Free => return true,
            Access::State => (true, false),
            Access::Read => (true, self.held.as_ref().is_some_and(|held| held.kind.excludes_readers())),
            Access::Write => (true, self.held.is_some()),
            Access::Reserve => (true, false),
            Access::Legacy => return true,
        };
        if legacy && self.legacy.as_ref().is_some_and(|owner| owner != port) {
            return false;
        }
        let registered = || self.keys.contains_key(port);
        let one_of_all = || self.held.as_ref().is_some_and(|held| held.kind.for_registrants()) && registered();
        !persistent || self.holds(port) || one_of_all()
    }
}

/// The reservations of a unit.
#[derive(Debug)]
pub(super) struct Reservations {
    state: Mutex<State>,
    /// Whether there is anything that could keep anybody away: mostly not, and then nobody has to look.
    any: AtomicBool,
    file: Option<PathBuf>,
}

impl Reservations {
    /// None yet, or those in `file`.
    ///
    /// # Errors
    ///
    /// When there is a file that cannot be read.
    pub(super) fn open(file: Option<PathBuf>) -> Result<Self> {
        let state = match &file {
            Some(path) => stored::load(path)?.unwrap_or_default(),
            None => State::default(),
        };
        let any = AtomicBool::new(state.held.is_some());
        Ok(Self { state: Mutex::new(state), any, file })
    }

    /// Whether a command of `port` may be done.
    ///
    /// # Errors
    ///
    /// RESERVATION CONFLICT.
    pub(super) fn admits(&self, port: &str, access: Access) -> std::result::Result<(), Failure> {
        if !self.any.load(Ordering::Acquire) || self.state.lock().admits(port, access) {
            Ok(())
        } else {
            Err(Failure::Conflict)
        }
    }

    /// Change the state; what has to survive does before anybody sees the change.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut State) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        let mut state = self.state.lock();
        let mut new = state.clone();
        let result = change(&mut new)?;
        if let Some(path) = &self.file
            && (new.persists || state.persists)
            && new != *state
        {
            let stored = if new.persists { stored::store(path, &new) } else { stored::remove(path) };
            stored.map_err(|_| Sense::INTERNAL)?;
        }
        *state = new;
        self.any.store(state.held.is_some() || state.legacy.is_some(), Ordering::Release);
        Ok(result)
    }

    /// Free what `port` has reserved by RESERVE.
    pub(super) fn release_legacy(&self, port: &str) {
        self.free_legacy(|owner| owner == port);
    }

    /// Free what anybody has reserved by RESERVE.
    pub(super) fn reset_legacy(&self) {
        self.free_legacy(|_| true);
    }

    fn free_legacy(&self, of: impl Fn(&str) -> bool) {
        // Nothing of it is stored, so nothing can fail.
        let _ = self.change(|state| {
            state.legacy.take_if(|owner| of(owner));
            Ok(())
        });
    }
}

impl LogicalUnit {
    /// RESERVE(6) of SPC-2: the whole unit, for the initiator itself.
    pub(super) fn decode_reserve(&self, port: &str, cdb: &Cdb) -> std::result::Result<Action, Failure> {
        // Third parties and extents are obsolete.
        if cdb.bit(1, 0x11) {
            return Err(Sense::in_cdb(1).into());
        }
        self.reservations.change(|state| {
            if !state.keys.is_empty() || state.legacy.as_ref().is_some_and(|owner| owner != port) {
                return Err(Failure::Conflict);
            }
            state.legacy = Some(port.to_owned());
            Ok(Action::Nothing)
        })
    }

    /// RELEASE(6) of SPC-2. What another has reserved stays so, and that is no error.
    pub(super) fn decode_release(&self, port: &str, cdb: &Cdb) -> std::result::Result<Action, Failure> {
        if cdb.bit(1, 0x11) {
            return Err(Sense::in_cdb(1).into());
        }
        self.reservations.change(|state| {
            if !state.keys.is_empty() {
                return Err(Failure::Conflict);
            }
            state.legacy.take_if(|owner| owner == port);
            Ok(Action::Nothing)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of SPC-4 5.13.3: for each type, what others may do that are not registered, and that are.
    #[test]
    fn who_may_do_what() {
        let mut state =
            State { keys: BTreeMap::from([("holder".to_owned(), 1), ("other".to_owned(), 2)]), ..State::default() };
        let may = |state: &State, port| {
            [Access::Free, Access::State, Access::Read, Access::Write].map(|access| state.admits(port, access))
        };
        for (code, registered, stranger) in [
            (1, [true, true, true, false], [true, true, true, false]),
            (3, [true, true, false, false], [true, true, false, false]),
            (5, [true; 4], [true, true, true, false]),
            (6, [true; 4], [true, true, false, false]),
            (7, [true; 4], [true, true, true, false]),
            (8, [true; 4], [true, true, false, false]),
        ] {
            state.held = Some(Held { kind: Kind::from_code(code).unwrap(), holder: "holder".into() });
            assert_eq!(may(&state, "holder"), [true; 4], "type {code}");
            assert_eq!(may(&state, "other"), registered, "type {code}");
            assert_eq!(may(&state, "stranger"), stranger, "type {code}");
        }
        let state = State { legacy: Some("holder".into()), ..State::default() };
        assert_eq!(may(&state, "holder"), [true; 4]);
        assert_eq!(may(&state, "other"), [true, false, false, false]);
    }
}
