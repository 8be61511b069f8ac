//! BitLocker, the encrypted volumes of Windows: since Vista, on fixed and on removable disks ("To Go").
//!
//! The volume's boot sector leads to three copies of the `metadata`, which is a list of items. Some of them are
//! `protectors`: each hides the volume's master key, which hides the key of its sectors, which is what [`open`] needs.
//! What Windows moved out of the way (the boot sectors of the filesystem) is shown in its place, and the metadata as zeros.
//! There is no specification: the facts are those that libbde, dislocker and cryptsetup found out.
//!
//! A volume whose protection is suspended has its key in the clear and needs no secret.

mod diffuser;
mod metadata;
mod protectors;
mod used_space;

use std::{ops::Range, sync::Arc};

use self::{
    diffuser::Diffused,
    metadata::{Metadata, State},
    used_space::UsedSpace,
};
use super::{
    Budget, Secrets,
    cipher::{self, SectorCipher},
    device::{Decrypted, Piece, Sectors},
    locked,
    secrets::Key,
};
use crate::{BlockDevice, Error, Result, fields};

/// Bytes at the beginning that Vista left as they were.
const VISTA_PLAIN: u64 = 0x2000;

/// The volume on `device`.
///
/// # Errors
///
/// Those of [`unlock`](super::unlock).
pub fn open(device: &Arc<dyn BlockDevice>, secrets: &Secrets, budget: &mut Budget) -> Result<Decrypted> {
    let metadata = metadata::read(device.as_ref())?;
    let found = secrets.key_of(metadata.id, || protectors::sector_key(&metadata, secrets, budget))?;
    let key = match found {
        Some(key) => key,
        // A volume that was decrypted again keeps its metadata for a while, and no key.
        None if metadata.state == State::Decrypted => Key::default(),
        None => {
            let wanted = metadata.protectors().collect::<Vec<_>>().join(" or ");
            return Err(locked(
                secrets,
                if wanted.is_empty() { "a protector, of which it has none," } else { &wanted },
            ));
        }
    };
    let sector = metadata.sector as usize;
    let size = device.size() - device.size() % metadata.sector;
    let known = encrypted(&metadata, device.as_ref(), size)?;
    let pieces = pieces(&metadata, device.as_ref(), known, size)?;
    let (cipher, unit) = sector_cipher(&key, sector)?;
    Decrypted::new(device, Sectors::new(cipher, &key, sector, unit, 0)?, 0, pieces, size)
}

/// The cipher of a volume's sectors, and the bytes from one number of a sector to the next. `key` is an item: what it is
/// for in two bytes, two of flags, and the key.
fn sector_cipher(key: &[u8], sector: usize) -> Result<(Box<dyn SectorCipher>, u64)> {
    let (method, key) = (fields::le16(key, 0), key.get(4..).unwrap_or_default());
    let part = |at: usize, len: usize| {
        let part = key.get(at..at + len);
        part.ok_or_else(|| Error::damaged(format!("the key of its sectors is of {} bytes", key.len())))
    };
    Ok(match method {
        0x8000 => (Box::new(Diffused::new(part(0, 16)?, part(32, 16)?)?), 1),
        0x8001 => (Box::new(Diffused::new(part(0, 32)?, part(32, 32)?)?), 1),
        0x8002 => (cipher::cbc_by_bytes(part(0, 16)?)?, 1),
        0x8003 => (cipher::cbc_by_bytes(part(0, 32)?)?, 1),
        0x8004 => (cipher::of("aes-xts-plain64", part(0, 32)?)?, sector as u64),
        0x8005 => (cipher::of("aes-xts-plain64", part(0, 64)?)?, sector as u64),
        // Nothing of it is encrypted any more.
        0 if key.is_empty() => (Box::new(Nothing), 1),
        other => return Err(Error::unsupported(format!("its sectors are encrypted by the method {other:#06x}"))),
    })
}

/// No encryption.
struct Nothing;

impl SectorCipher for Nothing {
    fn decrypt(&self, _number: u64, _sector: &mut [u8]) {}
}

/// How much of the device is encrypted.
fn encrypted(metadata: &Metadata, device: &dyn BlockDevice, size: u64) -> Result<UsedSpace> {
    if !metadata.used_space.is_empty() {
        return used_space::read(device, &metadata.used_space, metadata.sector, size);
    }
    // Encryption goes from the beginning to the end; so far it has come.
    let end = match (metadata.state, metadata.state_offset) {
        (State::Decrypted, _) => 0,
        (State::Encrypted, 0) => size,
        (State::Encrypted, offset) => offset.min(size),
    };
    Ok(UsedSpace { encrypted: vec![0..end - end % metadata.sector], reserved: Vec::new() })
}

/// What is where: moved sectors, zeros in place of metadata, encrypted and plain ranges.
fn pieces(metadata: &Metadata, device: &dyn BlockDevice, known: UsedSpace, size: u64) -> Result<Vec<(u64, Piece)>> {
    let mut layout = Layout { encrypted: &known.encrypted, pieces: Vec::new() };
    let mut at = 0;
    if metadata.version == 1 {
        // The boot sector is the filesystem's but for the name and the place of the MFT's mirror.
        let mut boot = fields::read(device, 0, metadata.sector as usize)?;
        for (at, bytes) in [(3, *b"NTFS    "), (56, metadata.moved_to.to_le_bytes())] {
            if let Some(field) = boot.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(&bytes);
            }
        }
        layout.pieces.push((0, Piece::Bytes(boot)));
        layout.pieces.push((metadata.sector, Piece::Plain(metadata.sector)));
        at = VISTA_PLAIN.min(size);
    } else if metadata.moved_len > 0 {
        at = metadata.moved_len.min(size);
        layout.stored(0..at, metadata.moved_to);
    }
    for reserved in metadata.reserved(known.reserved, device.size()) {
        let (start, end) = (reserved.start.clamp(at, size), reserved.end.clamp(at, size));
        if end > start {
            layout.stored(at..start, at);
            layout.pieces.push((start, Piece::Zeros));
            at = end;
        }
    }
    layout.stored(at..size, at);
    Ok(layout.pieces)
}

struct Layout<'a> {
    encrypted: &'a [Range<u64>],
    pieces: Vec<(u64, Piece)>,
}

impl Layout<'_> {
    /// What is shown in `range` is stored at `from` and onwards, encrypted as far as that place is.
    fn stored(&mut self, range: Range<u64>, from: u64) {
        let mut at = range.start;
        while at < range.end {
            let stored = from.saturating_add(at - range.start);
            let next = self.encrypted.partition_point(|e| e.end <= stored);
            let (piece, ends) = match self.encrypted.get(next) {
                Some(e) if e.contains(&stored) => (Piece::Encrypted(stored), e.end),
                Some(e) => (Piece::Plain(stored), e.start),
                None => (Piece::Plain(stored), u64::MAX),
            };
            self.pieces.push((at, piece));
            at = at.saturating_add(ends - stored).min(range.end);
        }
    }
}
