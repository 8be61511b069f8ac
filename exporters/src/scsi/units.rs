//! The logical units of a target, and what can be asked where there is none (SPC-4 6.33, SAM-5 4.7).

use std::{collections::BTreeMap, sync::Arc};

use super::{
    attention::code,
    cdb::Cdb,
    inquiry, opcodes,
    sense::{Failure, Sense},
    unit::LogicalUnit,
};

/// The number of a logical unit: 0 to 16383.
pub type Lun = u16;

/// The largest number: what the flat space addressing method has room for.
const LARGEST: Lun = 0x3fff;

/// Units by number.
#[derive(Debug, Clone, Default)]
pub struct Units(BTreeMap<Lun, Arc<LogicalUnit>>);

impl Units {
    /// Add a unit. `false` when the number is taken or too large.
    pub(crate) fn insert(&mut self, lun: Lun, unit: Arc<LogicalUnit>) -> bool {
        if lun > LARGEST || self.0.contains_key(&lun) {
            return false;
        }
        self.changed();
        self.0.insert(lun, unit);
        true
    }

    /// Take a unit away.
    pub(crate) fn remove(&mut self, lun: Lun) -> Option<Arc<LogicalUnit>> {
        let removed = self.0.remove(&lun)?;
        self.changed();
        Some(removed)
    }

    /// Initiators ask for the list again.
    fn changed(&self) {
        self.0.values().for_each(|unit| unit.tell(code::LUNS_CHANGED, |_| true));
    }

    /// The unit of a number.
    #[must_use]
    pub fn get(&self, lun: Lun) -> Option<&Arc<LogicalUnit>> {
        self.0.get(&lun)
    }

    /// All units.
    pub fn iter(&self) -> impl Iterator<Item = (Lun, &Arc<LogicalUnit>)> {
        self.0.iter().map(|(lun, unit)| (*lun, unit))
    }

    /// REPORT LUNS (SPC-4 6.33), whatever unit it is sent to.
    pub(crate) fn report(&self, port: &str, cdb: &Cdb) -> Result<Vec<u8>, Failure> {
        let allocation = usize::try_from(cdb.be32(6)).unwrap_or(usize::MAX);
        let luns: Vec<Lun> = match cdb.byte(2) {
            0x00 | 0x02 => self.0.keys().copied().collect(),
            // There are no well known ones.
            0x01 => Vec::new(),
            _ => return Err(Sense::in_cdb(2).into()),
        };
        if allocation < 16 {
            return Err(Sense::in_cdb(6).into());
        }
        self.0.values().for_each(|unit| unit.attentions.forget(port, code::LUNS_CHANGED));
        let length = u32::try_from(luns.len() * 8).unwrap_or(u32::MAX);
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        luns.into_iter().for_each(|lun| bytes.extend(encode_lun(lun)));
        bytes.truncate(allocation);
        Ok(bytes)
    }

    /// What a command gets that is sent to a number without a unit.
    pub(crate) fn missing(cdb: &Cdb) -> Result<Vec<u8>, Failure> {
        match cdb.opcode() {
            opcodes::INQUIRY if !cdb.bit(1, 0x03) && cdb.byte(2) == 0 => {
                let mut bytes = inquiry::standard(inquiry::NO_UNIT);
                bytes.truncate(cdb.be16(3).into());
                Ok(bytes)
            }
            opcodes::REQUEST_SENSE => {
                let mut bytes = Sense::NO_SUCH_UNIT.encode(cdb.bit(1, 0x01));
                bytes.truncate(cdb.byte(4).into());
                Ok(bytes)
            }
            _ => Err(Sense::NO_SUCH_UNIT.into()),
        }
    }
}

/// Peripheral device addressing up to 255, flat space addressing above (SAM-5 4.7.7).
const fn encode_lun(lun: Lun) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    [if high == 0 { 0 } else { 0x40 | high }, low, 0, 0, 0, 0, 0, 0]
}

/// The number that the eight bytes of an address stand for; `None` for what no unit here can be at.
pub(crate) const fn decode_lun(address: [u8; 8]) -> Option<Lun> {
    let [high, low, rest @ ..] = address;
    let lun = u16::from_be_bytes([high & 0x3f, low]);
    match (high >> 6, rest) {
        (0, [0, 0, 0, 0, 0, 0]) if high == 0 => Some(lun),
        (1, [0, 0, 0, 0, 0, 0]) => Some(lun),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways() {
        for lun in [0, 1, 255, 256, 4711, LARGEST] {
            assert_eq!(decode_lun(encode_lun(lun)), Some(lun));
        }
        assert_eq!(decode_lun([0x40, 3, 0, 0, 0, 0, 0, 0]), Some(3), "flat addressing of a small number");
        assert_eq!(decode_lun([0, 3, 0, 1, 0, 0, 0, 0]), None);
        assert_eq!(decode_lun([1, 3, 0, 0, 0, 0, 0, 0]), None, "on another bus");
        assert_eq!(decode_lun([0xc1, 1, 0, 0, 0, 0, 0, 0]), None, "well known");
    }
}
