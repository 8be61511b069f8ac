//! Encrypted volumes, opened with what an administrator knows: LUKS 1 and 2 of Linux, BitLocker of Windows.
//!
//! * [`Secrets`]: passphrases, key files, recovery passwords, startup keys; each is tried for each volume;
//! * `luks`, `bitlocker`: the headers, and how a secret becomes the key of the volume;
//! * `kdf`: what makes guessing expensive, and a [`Budget`] that keeps a hostile header from making it endless;
//! * `cipher`: sectors decrypted; `device`: a device of plain bytes over one of encrypted ones.
//!
//! What is unlocked is a [`BlockDevice`] like any other, so partitions, volume groups and filesystems lie in encrypted
//! volumes and encrypted volumes in volume groups. The primitives are RustCrypto's; `aes` uses the processor's AES
//! instructions. Keys are wiped from memory when they are dropped.

mod bitlocker;
mod cipher;
mod device;
mod kdf;
mod luks;
mod secrets;

use std::sync::Arc;

use self::device::Decrypted;
pub use self::{kdf::Budget, secrets::Secrets};
use crate::{BlockDevice, Error, ErrorKind, Result, partitions::FsKind};

/// What is decrypted from the volume of `kind` on `device`, by the first of `secrets` that opens it.
///
/// # Errors
///
/// `Locked` when none of them does, `Limit` when trying takes more than `budget` has, `Unsupported` for ciphers and states
/// that are not known, `Damaged` when no header is whole.
pub fn unlock(
    kind: FsKind,
    device: &Arc<dyn BlockDevice>,
    secrets: &Secrets,
    budget: &mut Budget,
) -> Result<Arc<dyn BlockDevice>> {
    let opened: Decrypted = match kind {
        FsKind::Luks1 | FsKind::Luks2 => luks::open(device, secrets, budget),
        FsKind::BitLocker => bitlocker::open(device, secrets, budget),
        other => Err(Error::invalid(format!("{other} is not encrypted"))),
    }?;
    Ok(Arc::new(opened))
}

/// Nothing that was given opens a volume.
fn locked(secrets: &Secrets, wanted: &str) -> Error {
    let message = match secrets.len() {
        0 => format!("it is locked: name a file with {wanted} by --unlock"),
        1 => format!("it is locked, and the secret given by --unlock does not open it: {wanted} is needed"),
        n => format!("it is locked, and none of the {n} secrets given by --unlock opens it: {wanted} is needed"),
    };
    Error::new(ErrorKind::Locked, message)
}
