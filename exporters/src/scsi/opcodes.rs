//! All commands of a unit in one table: what understands them, what keeps them away, and what is told of them.

use super::{
    cdb::Cdb,
    reservations::Access,
    sense::Failure,
    unit::{Action, LogicalUnit},
};

pub(super) const MODE_SENSE_10: u8 = 0x5a;
pub(super) const MODE_SELECT_10: u8 = 0x55;
pub(super) const READ_DEFECTS_10: u8 = 0x37;
pub(super) const WRITE_SAME_16: u8 = 0x93;
pub(crate) const REPORT_LUNS: u8 = 0xa0;
pub(crate) const REQUEST_SENSE: u8 = 0x03;
pub(crate) const INQUIRY: u8 = 0x12;

/// A command.
#[derive(Clone, Copy)]
pub(super) struct Opcode {
    pub(super) code: u8,
    /// Of those that are told apart by it.
    pub(super) service: Option<u8>,
    /// The bits of the CDB that are looked at (SPC-4 6.35.3, CDB USAGE DATA), after the operation code.
    pub(super) usage: &'static [u8],
    /// Whether a unit attention goes first.
    pub(super) attention: bool,
    /// How it stands to reservations.
    pub(super) access: fn(&Cdb) -> Access,
    pub(super) decode: fn(&LogicalUnit, &str, &Cdb) -> Result<Action, Failure>,
}

/// The command of a CDB.
pub(super) fn find(cdb: &Cdb) -> Option<&'static Opcode> {
    OPCODES
        .iter()
        .find(|known| known.code == cdb.opcode() && known.service.is_none_or(|service| service == cdb.service_action()))
}

/// Whether it is the service action that is not known, and not the command.
pub(super) fn has_services(cdb: &Cdb) -> bool {
    OPCODES.iter().any(|known| known.code == cdb.opcode())
}

const fn free(_: &Cdb) -> Access {
    Access::Free
}
const fn state(_: &Cdb) -> Access {
    Access::State
}
const fn reads(_: &Cdb) -> Access {
    Access::Read
}
const fn writes(_: &Cdb) -> Access {
    Access::Write
}
const fn reserves(_: &Cdb) -> Access {
    Access::Reserve
}
const fn legacy(_: &Cdb) -> Access {
    Access::Legacy
}
/// Starting is nobody's harm; stopping is.
fn starts(cdb: &Cdb) -> Access {
    if cdb.bit(4, 0x01) && !cdb.bit(4, 0xf0) { Access::State } else { Access::Write }
}
/// Allowing removal is nobody's harm; preventing it is.
fn prevents(cdb: &Cdb) -> Access {
    if cdb.bit(4, 0x03) { Access::Write } else { Access::Free }
}

#[expect(clippy::unnecessary_wraps, reason = "what the table has")]
fn nothing(_: &LogicalUnit, _: &str, _: &Cdb) -> Result<Action, Failure> {
    Ok(Action::Nothing)
}

const fn plain(
    code: u8,
    usage: &'static [u8],
    access: fn(&Cdb) -> Access,
    decode: fn(&LogicalUnit, &str, &Cdb) -> Result<Action, Failure>,
) -> Opcode {
    Opcode { code, service: None, usage, attention: true, access, decode }
}

const fn quiet(opcode: Opcode) -> Opcode {
    Opcode { attention: false, ..opcode }
}

const fn service(number: u8, opcode: Opcode) -> Opcode {
    Opcode { service: Some(number), ..opcode }
}

/// Usage of the CDBs that many commands share.
mod usage {
    pub const SIX: &[u8] = &[0x1f, 0xff, 0xff, 0xff, 0x00];
    pub const TEN: &[u8] = &[0xf8, 0xff, 0xff, 0xff, 0xff, 0x00, 0xff, 0xff, 0x00];
    pub const TWELVE: &[u8] = &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const SIXTEEN: &[u8] =
        &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const VERIFY_10: &[u8] = &[0xf6, 0xff, 0xff, 0xff, 0xff, 0x00, 0xff, 0xff, 0x00];
    pub const VERIFY_12: &[u8] = &[0xf6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const VERIFY_16: &[u8] =
        &[0xf6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const FLUSH_10: &[u8] = &[0x02, 0xff, 0xff, 0xff, 0xff, 0x00, 0xff, 0xff, 0x00];
    pub const FLUSH_16: &[u8] =
        &[0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const COMPARE: &[u8] =
        &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0xff, 0x00, 0x00];
    pub const SAME_10: &[u8] = &[0xf8, 0xff, 0xff, 0xff, 0xff, 0x00, 0xff, 0xff, 0x00];
    pub const SAME_16: &[u8] =
        &[0xf9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const UNMAP: &[u8] = &[0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00];
    pub const LONG_16: &[u8] =
        &[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const RESERVE_IN: &[u8] = &[0x1f, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00];
    pub const RESERVE_OUT: &[u8] = &[0x1f, 0xff, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00];
    pub const GROUPS: &[u8] = &[0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const OPCODES: &[u8] = &[0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const FUNCTIONS: &[u8] = &[0x1f, 0x80, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
    pub const LUNS: &[u8] = &[0x00, 0xff, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00];
}

/// In the order of their codes, as REPORT SUPPORTED OPERATION CODES tells them.
pub(super) const OPCODES: &[Opcode] = &[
    plain(0x00, &[0x00, 0x00, 0x00, 0x00, 0x00], state, nothing), // TEST UNIT READY
    quiet(plain(REQUEST_SENSE, &[0x01, 0x00, 0x00, 0xff, 0x00], free, LogicalUnit::decode_request_sense)),
    plain(0x08, usage::SIX, reads, LogicalUnit::decode_read), // READ(6)
    plain(0x0a, usage::SIX, writes, LogicalUnit::decode_write), // WRITE(6)
    quiet(plain(INQUIRY, &[0x01, 0xff, 0xff, 0xff, 0x00], free, LogicalUnit::decode_inquiry)),
    plain(0x15, &[0x11, 0x00, 0x00, 0xff, 0x00], writes, LogicalUnit::decode_mode_select), // MODE SELECT(6)
    plain(0x16, &[0x00, 0x00, 0x00, 0x00, 0x00], legacy, LogicalUnit::decode_reserve),     // RESERVE(6)
    plain(0x17, &[0x00, 0x00, 0x00, 0x00, 0x00], legacy, LogicalUnit::decode_release),     // RELEASE(6)
    plain(0x1a, &[0x08, 0xff, 0xff, 0xff, 0x00], state, LogicalUnit::decode_mode_sense),   // MODE SENSE(6)
    plain(0x1b, &[0x01, 0x00, 0x00, 0xf3, 0x00], starts, LogicalUnit::decode_start_stop),  // START STOP UNIT
    plain(0x1e, &[0x00, 0x00, 0x00, 0x03, 0x00], prevents, nothing), // PREVENT ALLOW MEDIUM REMOVAL
    plain(0x25, &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00], state, LogicalUnit::decode_capacity_10),
    plain(0x28, usage::TEN, reads, LogicalUnit::decode_read), // READ(10)
    plain(0x2a, usage::TEN, writes, LogicalUnit::decode_write), // WRITE(10)
    plain(0x2e, usage::VERIFY_10, writes, LogicalUnit::decode_write_verify), // WRITE AND VERIFY(10)
    plain(0x2f, usage::VERIFY_10, reads, LogicalUnit::decode_verify), // VERIFY(10)
    plain(0x34, usage::FLUSH_10, reads, LogicalUnit::decode_prefetch), // PRE-FETCH(10)
    plain(0x35, usage::FLUSH_10, writes, LogicalUnit::decode_flush), // SYNCHRONIZE CACHE(10)
    plain(READ_DEFECTS_10, &[0x00, 0x1f, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00], state, LogicalUnit::decode_defects),
    plain(0x41, usage::SAME_10, writes, LogicalUnit::decode_write_same), // WRITE SAME(10)
    plain(0x42, usage::UNMAP, writes, LogicalUnit::decode_unmap),
    plain(MODE_SELECT_10, &[0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0], writes, LogicalUnit::decode_mode_select),
    plain(MODE_SENSE_10, &[0x08, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], state, LogicalUnit::decode_mode_sense),
    service(0x00, plain(0x5e, usage::RESERVE_IN, reserves, LogicalUnit::decode_reserve_in)), // READ KEYS
    service(0x01, plain(0x5e, usage::RESERVE_IN, reserves, LogicalUnit::decode_reserve_in)), // READ RESERVATION
    service(0x02, plain(0x5e, usage::RESERVE_IN, reserves, LogicalUnit::decode_reserve_in)), // REPORT CAPABILITIES
    service(0x03, plain(0x5e, usage::RESERVE_IN, reserves, LogicalUnit::decode_reserve_in)), // READ FULL STATUS
    service(0x00, plain(0x5f, usage::RESERVE_OUT, reserves, LogicalUnit::decode_reserve_out)), // REGISTER
    service(0x01, plain(0x5f, usage::RESERVE_OUT, reserves, LogicalUnit::decode_reserve_out)), // RESERVE
    service(0x02, plain(0x5f, usage::RESERVE_OUT, reserves, LogicalUnit::decode_reserve_out)), // RELEASE
    service(0x03, plain(0x5f, usage::RESERVE_OUT, reserves, LogicalUnit::decode_reserve_out)), // CLEAR
    service(0x04, plain(0x5f, usage::RESERVE_OUT, reserves, LogicalUnit::decode_reserve_out)), // PREEMPT
    service(0x05, plain(0x5f, usage::RESERVE_OUT, reserves, LogicalUnit::decode_reserve_out)), // PREEMPT AND ABORT
    service(0x06, plain(0x5f, usage::RESERVE_OUT, reserves, LogicalUnit::decode_reserve_out)), // REGISTER AND IGNORE
    service(0x07, plain(0x5f, usage::RESERVE_OUT, reserves, LogicalUnit::decode_reserve_out)), // REGISTER AND MOVE
    plain(0x88, usage::SIXTEEN, reads, LogicalUnit::decode_read),                            // READ(16)
    plain(0x89, usage::COMPARE, writes, LogicalUnit::decode_compare_and_write),
    plain(0x8a, usage::SIXTEEN, writes, LogicalUnit::decode_write), // WRITE(16)
    plain(0x8b, usage::SIXTEEN, writes, LogicalUnit::decode_or_write), // ORWRITE(16)
    plain(0x8e, usage::VERIFY_16, writes, LogicalUnit::decode_write_verify), // WRITE AND VERIFY(16)
    plain(0x8f, usage::VERIFY_16, reads, LogicalUnit::decode_verify), // VERIFY(16)
    plain(0x90, usage::FLUSH_16, reads, LogicalUnit::decode_prefetch), // PRE-FETCH(16)
    plain(0x91, usage::FLUSH_16, writes, LogicalUnit::decode_flush), // SYNCHRONIZE CACHE(16)
    plain(WRITE_SAME_16, usage::SAME_16, writes, LogicalUnit::decode_write_same),
    service(0x10, plain(0x9e, usage::LONG_16, state, LogicalUnit::decode_capacity_16)),
    service(0x12, plain(0x9e, usage::LONG_16, reads, LogicalUnit::decode_lba_status)),
    quiet(plain(REPORT_LUNS, usage::LUNS, free, nothing)),
    service(0x0a, plain(0xa3, usage::GROUPS, state, LogicalUnit::decode_port_groups)),
    service(0x0c, plain(0xa3, usage::OPCODES, state, LogicalUnit::decode_supported_opcodes)),
    service(0x0d, plain(0xa3, usage::FUNCTIONS, state, LogicalUnit::decode_supported_functions)),
    plain(0xa8, usage::TWELVE, reads, LogicalUnit::decode_read), // READ(12)
    plain(0xaa, usage::TWELVE, writes, LogicalUnit::decode_write), // WRITE(12)
    plain(0xae, usage::VERIFY_12, writes, LogicalUnit::decode_write_verify), // WRITE AND VERIFY(12)
    plain(0xaf, usage::VERIFY_12, reads, LogicalUnit::decode_verify), // VERIFY(12)
    plain(0xb7, &[0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], state, LogicalUnit::decode_defects),
];
