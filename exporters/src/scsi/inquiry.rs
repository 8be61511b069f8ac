//! Who the unit is: INQUIRY and the vital product data pages (SPC-4 6.6 and 7.8, SBC-3 6.5).

use sha2::{Digest, Sha256};

use super::{
    blocks::{MOST_COMPARED, MOST_TRANSFERRED},
    cdb::Cdb,
    provisioning::{MOST_REPEATED, MOST_UNMAPPED},
    sense::{Failure, Sense},
    unit::{Action, LogicalUnit},
};

/// Eight characters, sixteen and four (SPC-4 6.6.2).
const VENDOR: &[u8; 8] = b"REVENANT";
const PRODUCT: &[u8; 16] = b"Virtual Disk    ";
const REVISION: &[u8; 4] = b"1   ";

/// Standards that are followed (SPC-4 6.6.2, version descriptors): SAM-5, SPC-4, SBC-3, iSCSI.
const VERSIONS: [u16; 4] = [0x00a0, 0x0460, 0x04c0, 0x0960];

/// What a read of about this size is best served with, in bytes.
const BEST_TRANSFER: u64 = 1 << 20;
/// Blocks of the overlay of which each can be unmapped by itself, in bytes.
const UNMAP_GRANULARITY: u64 = 4096;

/// What initiators know a unit again by.
#[derive(Debug)]
pub(super) struct Identity {
    naa: [u8; 8],
    serial: String,
}

impl Identity {
    pub(super) fn new(identity: &[u8]) -> Self {
        let digest = Sha256::digest(identity);
        let mut naa = [0; 8];
        naa.iter_mut().zip(&digest).for_each(|(to, from)| *to = *from);
        // NAA 3h: locally assigned, 60 bits (SPC-4 7.8.5.6.4).
        naa[0] = 0x30 | naa[0] & 0x0f;
        let serial = digest.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
        Self { naa, serial }
    }

    pub(super) const fn naa(&self) -> &[u8; 8] {
        &self.naa
    }

    pub(super) fn serial(&self) -> &str {
        &self.serial
    }
}

/// The first bytes of INQUIRY data where there is no unit: peripheral qualifier 3, device type 1Fh (SPC-4 6.6.2).
pub(super) const NO_UNIT: u8 = 0x7f;

/// The standard data, for the first byte of whoever is asked.
pub(super) fn standard(peripheral: u8) -> Vec<u8> {
    // SPC-4; response format 2 with HiSup; the rest follows; TPGS: implicit ALUA, no copy manager.
    let mut bytes = vec![peripheral, 0, 0x06, 0x12, 0, 0x10, 0, 0x02];
    bytes.extend(VENDOR);
    bytes.extend(PRODUCT);
    bytes.extend(REVISION);
    bytes.resize(58, 0);
    VERSIONS.iter().for_each(|version| bytes.extend(version.to_be_bytes()));
    bytes.resize(96, 0);
    bytes[4] = 96 - 5;
    bytes
}

impl LogicalUnit {
    pub(super) fn decode_inquiry(&self, _port: &str, cdb: &Cdb) -> Result<Action, Failure> {
        let (vital, page) = (cdb.bit(1, 0x01), cdb.byte(2));
        if cdb.bit(1, 0x02) {
            return Err(Sense::in_cdb(1).into());
        }
        let mut bytes = match (vital, page) {
            (false, 0) => standard(0),
            (true, page) => self.page(page).ok_or(Sense::in_cdb(2))?,
            (false, _) => return Err(Sense::in_cdb(2).into()),
        };
        bytes.truncate(cdb.be16(3).into());
        Ok(Action::Answer(bytes))
    }

    fn page(&self, page: u8) -> Option<Vec<u8>> {
        let body = match page {
            0x00 => vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2],
            0x80 => self.identity.serial.as_bytes().to_vec(),
            0x83 => self.designators(),
            0xb0 => self.block_limits(),
            // Not rotating; no form factor.
            0xb1 => [&[0, 1][..], &[0; 58]].concat(),
            0xb2 => vec![0, self.provisioning(), 0x02, 0],
            _ => return None,
        };
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        let mut bytes = vec![0, page];
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        Some(bytes)
    }

    /// VPD page 83h: the unit by NAA and by name, and the port that is spoken with, which is the only one of the only
    /// group.
    fn designators(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |code: u8, kind: u8, body: &[u8]| {
            let length = u8::try_from(body.len()).unwrap_or(0);
            bytes.extend([code, kind, 0, length]);
            bytes.extend(body);
        };
        add(0x01, 0x03, &self.identity.naa);
        add(0x02, 0x01, &[&VENDOR[..], self.identity.serial.as_bytes()].concat());
        // Of the port: protocol iSCSI, PIV, association 1; relative target port and target port group, both 1.
        add(0x51, 0x94, &[0, 0, 0, 1]);
        add(0x51, 0x95, &[0, 0, 0, 1]);
        // SCSI name string, padded with NULs to a multiple of four bytes (SPC-4 7.8.5.11).
        let mut name = format!("naa.{:016X}", u64::from_be_bytes(self.identity.naa)).into_bytes();
        name.push(0);
        name.resize(name.len().next_multiple_of(4), 0);
        add(0x03, 0x08, &name);
        bytes
    }

    /// VPD page B0h (SBC-3 6.5.3).
    fn block_limits(&self) -> Vec<u8> {
        let blocks = |bytes: u64| u32::try_from(bytes / u64::from(self.block)).unwrap_or(u32::MAX).max(1);
        let granularity = u16::try_from(blocks(UNMAP_GRANULARITY)).unwrap_or(1);
        let mut bytes = vec![0, MOST_COMPARED];
        bytes.extend(granularity.to_be_bytes());
        bytes.extend(blocks(MOST_TRANSFERRED).to_be_bytes());
        bytes.extend(blocks(BEST_TRANSFER).to_be_bytes());
        // Any length may be prefetched and unmapped.
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend(u32::MAX.to_be_bytes());
        bytes.extend(u32::try_from(MOST_UNMAPPED).unwrap_or(1).to_be_bytes());
        bytes.extend(u32::from(granularity).to_be_bytes());
        // UGAVALID: aligned to the first block.
        bytes.extend(0x8000_0000_u32.to_be_bytes());
        bytes.extend(u64::from(blocks(MOST_REPEATED)).to_be_bytes());
        bytes.resize(60, 0);
        bytes
    }

    /// The flags of VPD page B2h (SBC-3 6.5.4): LBPU, LBPWS, LBPWS10 where there is something to unmap; LBPRZ; ANC_SUP.
    fn provisioning(&self) -> u8 {
        if self.disk.writable().is_some() { 0xe0 | 0x04 | 0x02 } else { 0x04 }
    }
}
