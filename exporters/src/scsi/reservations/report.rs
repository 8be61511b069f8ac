//! PERSISTENT RESERVE IN (SPC-4 6.15).

use super::{
    super::{
        cdb::Cdb,
        sense::Failure,
        unit::{Action, LogicalUnit},
    },
    State, transport_id,
};

const READ_KEYS: u8 = 0;
const READ_RESERVATION: u8 = 1;
const REPORT_CAPABILITIES: u8 = 2;

impl LogicalUnit {
    #[expect(clippy::unnecessary_wraps, reason = "what the table of commands has")]
    pub(in super::super) fn decode_reserve_in(&self, _port: &str, cdb: &Cdb) -> Result<Action, Failure> {
        let state = self.reservations.state.lock();
        let mut bytes = match cdb.service_action() {
            READ_KEYS => listed(&state, &state.keys.values().flat_map(|key| key.to_be_bytes()).collect::<Vec<_>>()),
            READ_RESERVATION => listed(&state, &reservation(&state)),
            REPORT_CAPABILITIES => capabilities(&state, self.reservations.file.is_some()),
            _ => listed(&state, &full_status(&state)),
        };
        bytes.truncate(cdb.be16(7).into());
        Ok(Action::Answer(bytes))
    }
}

fn listed(state: &State, list: &[u8]) -> Vec<u8> {
    let length = u32::try_from(list.len()).unwrap_or(u32::MAX);
    [&state.generation.to_be_bytes()[..], &length.to_be_bytes(), list].concat()
}

fn reservation(state: &State) -> Vec<u8> {
    let Some(held) = &state.held else { return Vec::new() };
    let key = match held.kind.held_by_all() {
        true => 0,
        false => state.keys.get(&held.holder).copied().unwrap_or(0),
    };
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 0, 0, held.kind as u8, 0, 0]);
    bytes
}

/// ATP_C (there is one target port), PTPL_C where there is a file; all types.
fn capabilities(state: &State, can_persist: bool) -> Vec<u8> {
    vec![0, 8, 0x04 | u8::from(can_persist), 0x80 | u8::from(state.persists), 0xea, 0x01, 0, 0]
}

fn full_status(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (port, key) in &state.keys {
        bytes.extend(key.to_be_bytes());
        let holds = state.holds(port);
        let kind = state.held.as_ref().filter(|_| holds).map_or(0, |held| held.kind as u8);
        let id = transport_id::encode(port);
        let length = u32::try_from(id.len()).unwrap_or(0);
        // R_HOLDER; scope and type; relative target port 1.
        bytes.extend([0, 0, 0, 0, u8::from(holds), kind, 0, 0, 0, 0, 0, 1]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(id);
    }
    bytes
}
