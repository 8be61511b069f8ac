//! Questions after what the unit is and can: capacity, commands, ports (SPC-4 6.33 to 6.39, SBC-3 5.15, 5.16).

use super::{
    cdb::Cdb,
    opcodes::{OPCODES, Opcode},
    sense::{Failure, Sense},
    unit::{Action, LogicalUnit},
};

type Decoded = Result<Action, Failure>;

/// Timeouts are not known: a descriptor that says so (SPC-4 6.35.4).
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl LogicalUnit {
    pub(super) fn decode_request_sense(&self, port: &str, cdb: &Cdb) -> Decoded {
        let sense = self.attentions.take(port).unwrap_or(Sense::NONE);
        let mut bytes = sense.encode(cdb.bit(1, 0x01));
        bytes.truncate(cdb.byte(4).into());
        Ok(Action::Answer(bytes))
    }

    pub(super) fn decode_capacity_10(&self, _port: &str, cdb: &Cdb) -> Decoded {
        // PMI is obsolete, and an address without it never meant anything.
        if cdb.bit(8, 0x01) || cdb.be32(2) != 0 {
            return Err(Sense::in_cdb(if cdb.bit(8, 0x01) { 8 } else { 2 }).into());
        }
        // FFFFFFFFh: ask by READ CAPACITY(16).
        let last = u32::try_from(self.count - 1).unwrap_or(u32::MAX);
        Ok(Action::Answer([last.to_be_bytes(), self.block.to_be_bytes()].concat()))
    }

    pub(super) fn decode_capacity_16(&self, _port: &str, cdb: &Cdb) -> Decoded {
        let physical = self.device().block_sizes().physical.max(self.block);
        let exponent = (physical / self.block).checked_ilog2().and_then(|n| u8::try_from(n).ok()).unwrap_or(0);
        let mut bytes = (self.count - 1).to_be_bytes().to_vec();
        bytes.extend(self.block.to_be_bytes());
        // No protection; physical blocks; LBPME and LBPRZ.
        bytes.extend([0, exponent.min(15), 0xc0, 0]);
        bytes.resize(32, 0);
        bytes.truncate(usize::try_from(cdb.be32(10)).unwrap_or(usize::MAX));
        Ok(Action::Answer(bytes))
    }

    /// READ DEFECT DATA (SBC-3 5.17, 5.18): there is no defect, in whatever list and format.
    pub(super) fn decode_defects(&self, _port: &str, cdb: &Cdb) -> Decoded {
        let short = cdb.opcode() == super::opcodes::READ_DEFECTS_10;
        let which = cdb.byte(if short { 2 } else { 1 }) & 0x1f;
        let (mut bytes, allocation) = match short {
            true => (vec![0, which, 0, 0], cdb.be16(7).into()),
            false => (vec![0, which, 0, 0, 0, 0, 0, 0], usize::try_from(cdb.be32(6)).unwrap_or(usize::MAX)),
        };
        bytes.truncate(allocation);
        Ok(Action::Answer(bytes))
    }

    /// REPORT TARGET PORT GROUPS (SPC-4 6.37): one port in one group, which is active and optimized.
    pub(super) fn decode_port_groups(&self, _port: &str, cdb: &Cdb) -> Decoded {
        let extended = match cdb.byte(1) >> 5 {
            0 => false,
            1 => true,
            _ => return Err(Sense::in_cdb(1).into()),
        };
        let mut body = if extended { vec![0x10, 0, 0, 0] } else { Vec::new() };
        // PREF, active/optimized; which is all that is supported (AO_SUP); group 1; one port: relative identifier 1.
        body.extend([0x80, 0x01, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
        let length = u32::try_from(body.len()).unwrap_or(0);
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(body);
        bytes.truncate(usize::try_from(cdb.be32(6)).unwrap_or(usize::MAX));
        Ok(Action::Answer(bytes))
    }

    /// REPORT SUPPORTED OPERATION CODES (SPC-4 6.35).
    pub(super) fn decode_supported_opcodes(&self, _port: &str, cdb: &Cdb) -> Decoded {
        let (timeouts, code, service) = (cdb.bit(2, 0x80), cdb.byte(3), cdb.be16(4));
        let mut bytes = match cdb.byte(2) & 0x07 {
            0 => all(timeouts),
            1 => one(timeouts, code, None)?,
            2 => one(timeouts, code, Some(service))?,
            // A service action where there is one, and zero otherwise.
            3 => either(timeouts, code, service),
            _ => return Err(Sense::in_cdb(2).into()),
        };
        bytes.truncate(usize::try_from(cdb.be32(6)).unwrap_or(usize::MAX));
        Ok(Action::Answer(bytes))
    }

    /// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36).
    pub(super) fn decode_supported_functions(&self, _port: &str, cdb: &Cdb) -> Decoded {
        // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
        let functions = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;
        let mut bytes = if cdb.bit(2, 0x80) {
            let mut bytes = vec![functions, 0, 0, 12];
            bytes.resize(16, 0);
            bytes
        } else {
            vec![functions, 0, 0, 0]
        };
        bytes.truncate(usize::try_from(cdb.be32(6)).unwrap_or(usize::MAX));
        Ok(Action::Answer(bytes))
    }
}

fn cdb_length(opcode: &Opcode) -> u16 {
    u16::try_from(opcode.usage.len() + 1).unwrap_or(0)
}

fn all(timeouts: bool) -> Vec<u8> {
    let mut list = Vec::new();
    for opcode in OPCODES {
        let service = opcode.service.unwrap_or(0);
        // SERVACTV, CTDP.
        let flags = u8::from(opcode.service.is_some()) | if timeouts { 0x02 } else { 0 };
        list.extend([opcode.code, 0, 0, service, 0, flags]);
        list.extend(cdb_length(opcode).to_be_bytes());
        if timeouts {
            list.extend(NO_TIMEOUTS);
        }
    }
    let length = u32::try_from(list.len()).unwrap_or(0);
    [&length.to_be_bytes()[..], &list].concat()
}

/// SUPPORT 011b and the CDB usage data of a command; 001b where there is none.
fn described(timeouts: bool, opcode: Option<&Opcode>) -> Vec<u8> {
    let Some(opcode) = opcode else { return vec![0, 0x01, 0, 0] };
    let mut bytes = vec![0, 0x03 | if timeouts { 0x80 } else { 0 }];
    bytes.extend(cdb_length(opcode).to_be_bytes());
    bytes.push(opcode.code);
    let mut usage = opcode.usage.to_vec();
    if let Some(service) = opcode.service {
        // The service action is given as it is.
        usage.iter_mut().take(1).for_each(|first| *first = *first & 0xe0 | service);
    }
    bytes.extend(usage);
    if timeouts {
        bytes.extend(NO_TIMEOUTS);
    }
    bytes
}

fn of_code(code: u8) -> impl Iterator<Item = &'static Opcode> {
    OPCODES.iter().filter(move |opcode| opcode.code == code)
}

/// A command with the service action `service`, or without one.
fn one(timeouts: bool, code: u8, service: Option<u16>) -> Result<Vec<u8>, Failure> {
    let has_services = of_code(code).any(|opcode| opcode.service.is_some());
    if of_code(code).next().is_some() && has_services != service.is_some() {
        return Err(Sense::in_cdb(2).into());
    }
    Ok(described(timeouts, of_code(code).find(|o| o.service.map(u16::from) == service)))
}

fn either(timeouts: bool, code: u8, service: u16) -> Vec<u8> {
    let found = of_code(code).find(|opcode| u16::from(opcode.service.unwrap_or(0)) == service);
    described(timeouts, found)
}
