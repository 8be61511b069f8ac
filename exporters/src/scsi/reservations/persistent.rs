//! PERSISTENT RESERVE OUT (SPC-4 5.13 and 6.16).

use blockdev::fields::{be32, be64, slice};

use super::{
    super::{
        attention::code,
        cdb::Cdb,
        sense::{Failure, Sense},
        unit::{Action, LogicalUnit},
    },
    Held, Kind, MOST_REGISTRATIONS, State, transport_id,
};

mod service {
    pub const REGISTER: u8 = 0;
    pub const RESERVE: u8 = 1;
    pub const RELEASE: u8 = 2;
    pub const CLEAR: u8 = 3;
    pub const PREEMPT: u8 = 4;
    pub const PREEMPT_AND_ABORT: u8 = 5;
    pub const REGISTER_AND_IGNORE: u8 = 6;
    pub const REGISTER_AND_MOVE: u8 = 7;
}

/// Bytes of the parameter list of all but REGISTER AND MOVE.
const LIST: usize = 24;

/// Who has to be told what, once a change is done.
#[derive(Debug, Default)]
struct Aftermath {
    attention: Vec<(String, u16)>,
    /// Ports that were preempted.
    preempted: Vec<String>,
}

impl Aftermath {
    fn tell(&mut self, ports: impl Iterator<Item = String>, code: u16) {
        self.attention.extend(ports.map(|port| (port, code)));
    }
}

/// What a service action was told.
struct Request<'a> {
    port: &'a str,
    kind: Option<Kind>,
    /// The key that the initiator says it is registered by.
    key: u64,
    /// The key that it is about.
    other: u64,
    list: &'a [u8],
}

impl LogicalUnit {
    #[expect(clippy::unnecessary_wraps, reason = "what the table of commands has")]
    pub(in super::super) fn decode_reserve_out(&self, _port: &str, cdb: &Cdb) -> Result<Action, Failure> {
        let length = usize::try_from(cdb.be32(5)).unwrap_or(usize::MAX).min(1 << 16);
        Ok(Action::Reserve { service: cdb.service_action(), kind: cdb.byte(2), length })
    }

    /// Do a service action. Returns the ports all of whose commands have to be aborted.
    pub(in super::super) fn reserve(
        &self,
        port: &str,
        service: u8,
        scope_and_kind: u8,
        list: &[u8],
    ) -> Result<Vec<String>, Failure> {
        let moves = service == service::REGISTER_AND_MOVE;
        if list.len() < LIST || (!moves && list.len() != LIST) {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        let judged =
            matches!(service, service::RESERVE | service::RELEASE | service::PREEMPT | service::PREEMPT_AND_ABORT);
        let kind = Kind::from_code(scope_and_kind & 0x0f);
        // The only scope is the unit.
        if judged && (scope_and_kind & 0xf0 != 0 || kind.is_none()) {
            return Err(Sense::in_cdb(2).into());
        }
        let request = Request { port, kind, key: be64(list, 0), other: be64(list, 8), list };
        let can_persist = self.reservations.file.is_some();
        let aftermath = self.reservations.change(|state| {
            if state.legacy.as_ref().is_some_and(|owner| owner != port) {
                return Err(Failure::Conflict);
            }
            let mut aftermath = Aftermath::default();
            match service {
                service::REGISTER | service::REGISTER_AND_IGNORE => {
                    state.register(&request, service == service::REGISTER, can_persist, &mut aftermath)?;
                }
                service::RESERVE => state.reserve(&request)?,
                service::RELEASE => state.release(&request, &mut aftermath)?,
                service::CLEAR => state.clear(&request, &mut aftermath)?,
                service::PREEMPT | service::PREEMPT_AND_ABORT => state.preempt(&request, &mut aftermath)?,
                _ => state.register_and_move(&request, can_persist)?,
            }
            Ok(aftermath)
        })?;
        for (port, code) in &aftermath.attention {
            self.attentions.tell(*code, |other| other == port);
        }
        Ok(if service == service::PREEMPT_AND_ABORT { aftermath.preempted } else { Vec::new() })
    }
}

impl State {
    /// The initiator has to be registered by the key that it says.
    fn authenticate(&self, request: &Request<'_>) -> Result<(), Failure> {
        if self.keys.get(request.port) == Some(&request.key) { Ok(()) } else { Err(Failure::Conflict) }
    }

    fn others(&self, port: &str) -> impl Iterator<Item = String> {
        self.keys.keys().filter(move |other| *other != port).cloned()
    }

    /// REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7).
    fn register(
        &mut self,
        request: &Request<'_>,
        checked: bool,
        can_persist: bool,
        aftermath: &mut Aftermath,
    ) -> Result<(), Failure> {
        let flags = request.list.get(20).copied().unwrap_or(0);
        let persists = flags & 0x01 != 0;
        // SPEC_I_PT is not offered (SIP_C); ALL_TG_PT is true anyhow.
        if flags & 0x08 != 0 || (persists && !can_persist) {
            return Err(Sense::in_parameters(20).into());
        }
        let registered = self.keys.get(request.port).copied();
        if checked && registered.unwrap_or(0) != request.key {
            return Err(Failure::Conflict);
        }
        match (registered, request.other) {
            (None, 0) => {}
            (Some(_), 0) => self.unregister(request.port, aftermath),
            (registered, key) => {
                if registered.is_none() && self.keys.len() >= MOST_REGISTRATIONS {
                    return Err(Sense::NO_REGISTRATION_ROOM.into());
                }
                self.keys.insert(request.port.to_owned(), key);
            }
        }
        self.persists = persists;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// Take a registration away, and with it a reservation that nobody holds then.
    fn unregister(&mut self, port: &str, aftermath: &mut Aftermath) {
        let holds = self.holds(port);
        self.keys.remove(port);
        let Some(held) = self.held.take_if(|held| holds && (!held.kind.held_by_all() || self.keys.is_empty())) else {
            return;
        };
        if held.kind.for_registrants() {
            aftermath.tell(self.others(port), code::RESERVATIONS_RELEASED);
        }
    }

    /// RESERVE (5.13.9).
    fn reserve(&mut self, request: &Request<'_>) -> Result<(), Failure> {
        self.authenticate(request)?;
        let Some(kind) = request.kind else { return Err(Sense::in_cdb(2).into()) };
        match &self.held {
            None => {
                self.held = Some(Held { kind, holder: request.port.to_owned() });
                Ok(())
            }
            Some(held) if held.kind == kind && self.holds(request.port) => Ok(()),
            Some(_) => Err(Failure::Conflict),
        }
    }

    /// RELEASE (5.13.11.2).
    fn release(&mut self, request: &Request<'_>, aftermath: &mut Aftermath) -> Result<(), Failure> {
        self.authenticate(request)?;
        if !self.holds(request.port) {
            return Ok(());
        }
        let matches = |held: &Held| Some(held.kind) == request.kind;
        let Some(held) = self.held.take_if(|held| matches(held)) else { return Err(Sense::INVALID_RELEASE.into()) };
        if held.kind.for_registrants() {
            aftermath.tell(self.others(request.port), code::RESERVATIONS_RELEASED);
        }
        Ok(())
    }

    /// CLEAR (5.13.11.6).
    fn clear(&mut self, request: &Request<'_>, aftermath: &mut Aftermath) -> Result<(), Failure> {
        self.authenticate(request)?;
        aftermath.tell(self.others(request.port), code::RESERVATIONS_PREEMPTED);
        self.keys.clear();
        self.held = None;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// PREEMPT and PREEMPT AND ABORT (5.13.11.4, 5.13.11.5).
    fn preempt(&mut self, request: &Request<'_>, aftermath: &mut Aftermath) -> Result<(), Failure> {
        self.authenticate(request)?;
        let Some(kind) = request.kind else { return Err(Sense::in_cdb(2).into()) };
        let by_all = self.held.as_ref().is_some_and(|held| held.kind.held_by_all());
        let of_holder = |held: &Held| self.keys.get(&held.holder) == Some(&request.other);
        let takes_over = match by_all {
            true => request.other == 0,
            false => self.held.as_ref().is_some_and(of_holder),
        };
        if request.other == 0 && !takes_over {
            return Err(Sense::in_parameters(8).into());
        }
        let gone: Vec<String> = self
            .keys
            .iter()
            .filter(|(port, key)| *port != request.port && (**key == request.other || (by_all && takes_over)))
            .map(|(port, _)| port.clone())
            .collect();
        let own = self.keys.get(request.port) == Some(&request.other);
        if gone.is_empty() && !takes_over && !own {
            return Err(Failure::Conflict);
        }
        gone.iter().for_each(|port| _ = self.keys.remove(port));
        aftermath.tell(gone.iter().cloned(), code::REGISTRATIONS_PREEMPTED);
        if takes_over {
            let before = self.held.replace(Held { kind, holder: request.port.to_owned() });
            if before.is_some_and(|held| held.kind != kind) {
                aftermath.tell(self.others(request.port), code::RESERVATIONS_RELEASED);
            }
        } else if by_all && self.keys.is_empty() {
            self.held = None;
        }
        aftermath.preempted = gone;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// REGISTER AND MOVE (5.13.8).
    fn register_and_move(&mut self, request: &Request<'_>, can_persist: bool) -> Result<(), Failure> {
        self.authenticate(request)?;
        if !self.holds(request.port) || self.held.as_ref().is_some_and(|held| held.kind.held_by_all()) {
            return Err(Failure::Conflict);
        }
        let flags = request.list.get(17).copied().unwrap_or(0);
        let (unregisters, persists) = (flags & 0x02 != 0, flags & 0x01 != 0);
        let length = usize::try_from(be32(request.list, 20)).unwrap_or(usize::MAX);
        if request.list.len() - LIST != length {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        if persists && !can_persist {
            return Err(Sense::in_parameters(17).into());
        }
        if request.other == 0 {
            return Err(Sense::in_parameters(8).into());
        }
        let Some(to) = transport_id::decode(slice(request.list, LIST, length)) else {
            return Err(Sense::in_parameters(24).into());
        };
        if to == request.port {
            return Err(Sense::in_parameters(24).into());
        }
        if unregisters {
            self.keys.remove(request.port);
        } else if self.keys.len() >= MOST_REGISTRATIONS {
            return Err(Sense::NO_REGISTRATION_ROOM.into());
        }
        self.keys.insert(to.clone(), request.other);
        if let Some(held) = &mut self.held {
            held.holder = to;
        }
        self.persists = persists;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }
}
