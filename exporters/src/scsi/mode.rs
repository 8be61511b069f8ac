//! Mode parameters: MODE SENSE and MODE SELECT (SPC-4 6.11 to 6.14, 7.5; SBC-3 6.4).
//!
//! Three bits can be changed: the write cache (WCE), write protection (SWP) and the format of sense data (D_SENSE).
//! They are those of the unit, for all initiators, and last until it is reset.

use std::sync::atomic::{AtomicBool, Ordering};

use blockdev::fields::{be16, slice};

use super::{
    attention::code,
    cdb::Cdb,
    sense::{Failure, Sense},
    unit::{Action, LogicalUnit},
};

/// Pages by code, with their lengths.
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const EXCEPTIONS: u8 = 0x1c;
const ALL: u8 = 0x3f;
const PAGES: [u8; 3] = [CACHING, CONTROL, EXCEPTIONS];

/// A bit of a page that can be changed: page, byte, mask.
const WCE: (u8, usize, u8) = (CACHING, 2, 0x04);
const D_SENSE: (u8, usize, u8) = (CONTROL, 2, 0x04);
const SWP: (u8, usize, u8) = (CONTROL, 4, 0x08);

/// Which values MODE SENSE is after (SPC-4 6.11.2, page control).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Current,
    Changeable,
    Default,
}

impl LogicalUnit {
    pub(super) fn decode_mode_sense(&self, _port: &str, cdb: &Cdb) -> Result<Action, Failure> {
        let long = cdb.opcode() == super::opcodes::MODE_SENSE_10;
        let values = match cdb.byte(2) >> 6 {
            0 => Values::Current,
            1 => Values::Changeable,
            2 => Values::Default,
            _ => return Err(Sense::NOT_SAVED.into()),
        };
        let (wanted, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
        if subpage != 0 && subpage != 0xff {
            return Err(Sense::in_cdb(3).into());
        }
        let pages: Vec<u8> = PAGES.into_iter().filter(|page| wanted == ALL || wanted == *page).collect();
        if pages.is_empty() {
            return Err(Sense::in_cdb(2).into());
        }
        let descriptor = if cdb.bit(1, 0x08) { Vec::new() } else { self.block_descriptor() };
        // WP, and DPOFUA.
        let device = if self.is_protected() { 0x80 } else { 0 } | 0x10;
        let body: Vec<u8> = pages.into_iter().flat_map(|page| self.mode_page(page, values)).collect();
        let descriptor_len = u8::try_from(descriptor.len()).unwrap_or(0);
        let mut bytes = if long {
            let length = u16::try_from(6 + descriptor.len() + body.len()).unwrap_or(u16::MAX).to_be_bytes();
            vec![length[0], length[1], 0, device, 0, 0, 0, descriptor_len]
        } else {
            vec![u8::try_from(3 + descriptor.len() + body.len()).unwrap_or(u8::MAX), 0, device, descriptor_len]
        };
        bytes.extend(descriptor);
        bytes.extend(body);
        bytes.truncate(if long { cdb.be16(7).into() } else { cdb.byte(4).into() });
        Ok(Action::Answer(bytes))
    }

    /// The short block descriptor (SBC-3 6.4.2.2).
    fn block_descriptor(&self) -> Vec<u8> {
        let blocks = u32::try_from(self.count).unwrap_or(u32::MAX);
        [blocks.to_be_bytes(), (self.block & 0x00ff_ffff).to_be_bytes()].concat()
    }

    fn mode_page(&self, page: u8, values: Values) -> Vec<u8> {
        let mut bytes = match page {
            CACHING => vec![0; 20],
            CONTROL => vec![0; 12],
            _ => vec![0; 12],
        };
        let length = u8::try_from(bytes.len() - 2).unwrap_or(0);
        let set =
            |bytes: &mut Vec<u8>, at: usize, value: u8| bytes.iter_mut().skip(at).take(1).for_each(|b| *b |= value);
        set(&mut bytes, 0, page);
        set(&mut bytes, 1, length);
        for (bit, state, initial) in self.switches() {
            let on = match values {
                Values::Current => state.load(Ordering::Relaxed),
                Values::Changeable => true,
                Values::Default => initial,
            };
            if bit.0 == page && on {
                set(&mut bytes, bit.1, bit.2);
            }
        }
        if values != Values::Changeable && page == CONTROL {
            // TST 001b: a task set for each initiator; commands may be reordered (QUEUE ALGORITHM MODIFIER 1); a busy
            // unit waits for ever.
            set(&mut bytes, 2, 0x20);
            set(&mut bytes, 3, 0x10);
            set(&mut bytes, 8, 0xff);
            set(&mut bytes, 9, 0xff);
        }
        bytes
    }

    /// The bits that can be changed, where they are kept, and what they are at first.
    fn switches(&self) -> [((u8, usize, u8), &AtomicBool, bool); 3] {
        [
            (WCE, &self.cache, self.caches()),
            (D_SENSE, &self.descriptor_sense, false),
            (SWP, &self.software_protected, false),
        ]
    }

    pub(super) fn decode_mode_select(&self, _port: &str, cdb: &Cdb) -> Result<Action, Failure> {
        let long = cdb.opcode() == super::opcodes::MODE_SELECT_10;
        // PF has to be set, SP cannot be (nothing is saved).
        if !cdb.bit(1, 0x10) || cdb.bit(1, 0x01) {
            return Err(Sense::in_cdb(1).into());
        }
        Ok(Action::ModeSelect { long, length: if long { cdb.be16(7).into() } else { cdb.byte(4).into() } })
    }

    /// The parameter list of MODE SELECT (SPC-4 7.5.4).
    pub(super) fn mode_select(&self, port: &str, long: bool, list: &[u8]) -> Result<(), Failure> {
        if list.is_empty() {
            return Ok(());
        }
        let (header, descriptor) =
            if long { (8, be16(list, 6).into()) } else { (4, list.get(3).copied().unwrap_or(0).into()) };
        if list.len() < header + descriptor {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        if descriptor != 0 && slice(list, header, descriptor) != self.block_descriptor() {
            return Err(Sense::in_parameters(u16::try_from(header).unwrap_or(0)).into());
        }
        let mut at = header + descriptor;
        let mut changes = Vec::new();
        while at < list.len() {
            let place = |byte: usize| Sense::in_parameters(u16::try_from(at + byte).unwrap_or(u16::MAX));
            let (code, length) = match list.get(at..at + 2) {
                Some(&[code, length]) => (code & 0x7f, usize::from(length)),
                _ => return Err(Sense::PARAMETER_LENGTH.into()),
            };
            if !PAGES.contains(&code) {
                return Err(place(0).into());
            }
            let current = self.mode_page(code, Values::Current);
            let changeable = self.mode_page(code, Values::Changeable);
            if length + 2 != current.len() {
                return Err(place(1).into());
            }
            let new = list.get(at..at + current.len()).ok_or(Sense::PARAMETER_LENGTH)?;
            let fixed =
                new.iter().zip(&current).zip(&changeable).skip(2).position(|((n, c), mask)| (n ^ c) & !mask != 0);
            if let Some(byte) = fixed {
                return Err(place(byte + 2).into());
            }
            changes.extend(self.switches().into_iter().filter(|(bit, _, _)| bit.0 == code).map(|(bit, state, _)| {
                let on = new.get(bit.1).is_some_and(|byte| byte & bit.2 != 0);
                (state, on)
            }));
            at += current.len();
        }
        let mut changed = false;
        for (state, on) in changes {
            changed |= state.swap(on, Ordering::Relaxed) != on;
        }
        if changed {
            // What was written into the cache is not left there when it is turned off.
            self.settle(false)?;
            self.attentions.tell(code::MODE_CHANGED, |other| other != port);
        }
        Ok(())
    }
}
