//! How a command ends: status (SAM-5 5.3) and sense data (SPC-4 4.5).

use blockdev::{Error, ErrorKind};

/// Status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Not done; the sense data tell why.
    CheckCondition = 0x02,
    /// Done, and the answer is yes (PRE-FETCH).
    ConditionMet = 0x04,
    /// Cannot be done now.
    Busy = 0x08,
    /// Another initiator has reserved the unit.
    ReservationConflict = 0x18,
    /// Too many commands.
    TaskSetFull = 0x28,
}

/// Sense keys.
mod key {
    pub const MEDIUM_ERROR: u8 = 0x03;
    pub const HARDWARE_ERROR: u8 = 0x04;
    pub const ILLEGAL_REQUEST: u8 = 0x05;
    pub const UNIT_ATTENTION: u8 = 0x06;
    pub const DATA_PROTECT: u8 = 0x07;
    pub const ABORTED_COMMAND: u8 = 0x0b;
    pub const MISCOMPARE: u8 = 0x0e;
}

/// Where an error in a CDB or in parameter data is: the sense key specific data (SPC-4 4.5.2.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    in_cdb: bool,
    byte: u16,
}

/// Sense data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    key: u8,
    /// Additional sense code and its qualifier.
    code: u16,
    information: Option<u64>,
    field: Option<Field>,
}

impl Sense {
    const fn new(key: u8, code: u16) -> Self {
        Self { key, code, information: None, field: None }
    }

    /// NO SENSE: there is nothing to tell.
    pub(crate) const NONE: Self = Self::new(0, 0);
    /// This target does not know the command.
    pub(crate) const INVALID_OPCODE: Self = Self::new(key::ILLEGAL_REQUEST, 0x2000);
    /// A range ends past the last block.
    pub(crate) const OUT_OF_RANGE: Self = Self::new(key::ILLEGAL_REQUEST, 0x2100);
    /// There is no unit of this number.
    pub(crate) const NO_SUCH_UNIT: Self = Self::new(key::ILLEGAL_REQUEST, 0x2500);
    /// The parameter list ends too early.
    pub(crate) const PARAMETER_LENGTH: Self = Self::new(key::ILLEGAL_REQUEST, 0x1a00);
    /// No such persistent reservation of this initiator (INVALID RELEASE OF PERSISTENT RESERVATION).
    pub(crate) const INVALID_RELEASE: Self = Self::new(key::ILLEGAL_REQUEST, 0x2604);
    /// Too many registrations.
    pub(crate) const NO_REGISTRATION_ROOM: Self = Self::new(key::ILLEGAL_REQUEST, 0x5504);
    /// Saved mode parameters (SAVING PARAMETERS NOT SUPPORTED).
    pub(crate) const NOT_SAVED: Self = Self::new(key::ILLEGAL_REQUEST, 0x3900);
    /// Nothing can be written (WRITE PROTECTED).
    pub(crate) const WRITE_PROTECTED: Self = Self::new(key::DATA_PROTECT, 0x2700);
    /// The overlay has no room. Hypervisors halt the guest on this one, and go on when there is room again.
    pub(crate) const NO_SPACE: Self = Self::new(key::DATA_PROTECT, 0x2707);
    /// The transport announced fewer bytes than the CDB (INVALID FIELD IN COMMAND INFORMATION UNIT).
    pub(crate) const SHORT_DATA: Self = Self::new(key::ILLEGAL_REQUEST, 0x0e03);
    /// The transport announced another number of bytes than the CDB (INVALID FIELD IN CDB).
    pub(crate) const LENGTHS_DIFFER: Self = Self::new(key::ILLEGAL_REQUEST, 0x2400);
    /// The initiator broke a rule of data transfer (RFC 7143 11.4.7.2: incorrect amount of data).
    pub(crate) const WRONG_AMOUNT: Self = Self::new(key::ABORTED_COMMAND, 0x0c0d);
    /// The server failed (INTERNAL TARGET FAILURE).
    pub(crate) const INTERNAL: Self = Self::new(key::HARDWARE_ERROR, 0x4400);

    /// A field of the CDB makes no sense; the number is that of its byte.
    pub(crate) const fn in_cdb(byte: u16) -> Self {
        Self { field: Some(Field { in_cdb: true, byte }), ..Self::new(key::ILLEGAL_REQUEST, 0x2400) }
    }

    /// A field of the parameter data makes no sense; the number is that of its byte.
    pub(crate) const fn in_parameters(byte: u16) -> Self {
        Self { field: Some(Field { in_cdb: false, byte }), ..Self::new(key::ILLEGAL_REQUEST, 0x2600) }
    }

    /// MISCOMPARE DURING VERIFY OPERATION; `offset` is that of the first byte that differs.
    pub(crate) const fn miscompare(offset: u64) -> Self {
        Self { information: Some(offset), ..Self::new(key::MISCOMPARE, 0x1d00) }
    }

    /// UNRECOVERED READ ERROR at a block.
    pub(crate) const fn read_error(lba: u64) -> Self {
        Self { information: Some(lba), ..Self::new(key::MEDIUM_ERROR, 0x1100) }
    }

    /// Something the initiator has to know before its next command is done.
    pub(crate) const fn attention(code: u16) -> Self {
        Self::new(key::UNIT_ATTENTION, code)
    }

    /// Why a write failed that began at `lba`.
    pub(crate) fn of_write(error: &Error, lba: u64) -> Self {
        match error.kind() {
            ErrorKind::NoSpace => Self::NO_SPACE,
            ErrorKind::Invalid => Self::in_cdb(2),
            // What is around the written bytes could not be read: it is the medium's fault, and no rewriting helps.
            ErrorKind::Damaged | ErrorKind::Missing => Self::read_error(lba),
            // WRITE ERROR.
            _ => Self { information: Some(lba), ..Self::new(key::MEDIUM_ERROR, 0x0c00) },
        }
    }

    /// The bytes of the sense data: of descriptor format where the initiator asked for it, otherwise fixed.
    pub(crate) fn encode(&self, descriptors: bool) -> Vec<u8> {
        let [code, qualifier] = self.code.to_be_bytes();
        let specific = self.field.map(|field| {
            let [high, low] = field.byte.to_be_bytes();
            [0x80 | if field.in_cdb { 0x40 } else { 0 }, high, low]
        });
        if descriptors {
            let mut bytes = vec![0x72, self.key, code, qualifier, 0, 0, 0, 0];
            if let Some(information) = self.information {
                bytes.extend([0x00, 0x0a, 0x80, 0x00]);
                bytes.extend(information.to_be_bytes());
            }
            if let Some(specific) = specific {
                bytes.extend([0x02, 0x06, 0, 0]);
                bytes.extend(specific);
                bytes.push(0);
            }
            let additional = u8::try_from(bytes.len() - 8).unwrap_or(0);
            bytes.iter_mut().skip(7).take(1).for_each(|length| *length = additional);
            return bytes;
        }
        // The field of four bytes is only valid when the number fits.
        let information = self.information.and_then(|information| u32::try_from(information).ok());
        let mut bytes = vec![if information.is_some() { 0xf0 } else { 0x70 }, 0, self.key];
        bytes.extend(information.unwrap_or(0).to_be_bytes());
        bytes.extend([10, 0, 0, 0, 0, code, qualifier, 0]);
        bytes.extend(specific.unwrap_or([0; 3]));
        bytes
    }
}

/// Why a command was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// CHECK CONDITION with these sense data.
    Check(Sense),
    /// RESERVATION CONFLICT.
    Conflict,
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_and_descriptor_format() {
        let sense = Sense::read_error(0x1234);
        assert_eq!(sense.encode(false), [0xf0, 0, 3, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0]);
        let far = Sense::read_error(1 << 40);
        assert_eq!(far.encode(false)[..7], [0x70, 0, 3, 0, 0, 0, 0], "a block number that does not fit is left out");
        assert_eq!(far.encode(true), [0x72, 3, 0x11, 0, 0, 0, 0, 12, 0, 0x0a, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(Sense::in_cdb(7).encode(false)[12..], [0x24, 0, 0, 0xc0, 0, 7]);
        assert_eq!(Sense::in_parameters(4).encode(true)[7..], [8, 2, 6, 0, 0, 0x80, 0, 4, 0]);
    }
}
