//! Encrypted volumes against the software that made them: LUKS by cryptsetup and QEMU, BitLocker by Windows.

mod bitlocker;
mod luks;
#[path = "../partitions/support.rs"]
#[allow(dead_code, reason = "these tests need a part of it")]
mod support;
