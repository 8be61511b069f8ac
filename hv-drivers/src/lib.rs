//! Hypervisors: what a machine is, whatever runs it, and how to have it run.
//!
//! * [`machine`]: the portable description of a machine (`machine.json`), read leniently, bounded, written;
//! * [`native`]: the same as each hypervisor's own configuration says it;
//! * [`driver`]: what a driver can do, as small traits that each implements in part;
//! * [`qemu`]: the driver for plain QEMU: machines are started over disks that somebody serves, found again after a
//!   restart, watched, moved to other storage while they run, and stopped; [`libvirt`]: the same through libvirt;
//! * [`settings`]: how a machine is started, whoever runs it; [`freeze`]: a guest that stands still, and goes on;
//! * [`qmp`]: QEMU's control protocol and its guest agent's; [`nbd`]: a client for the disks that QEMU serves.
//!
//! A driver is told where disks are (a socket, a portal, a file) and never where they come from: nothing here knows
//! backups.

pub mod driver;
mod durable;
pub mod freeze;
pub mod libvirt;
pub mod machine;
pub mod native;
pub mod nbd;
pub mod qemu;
pub mod qmp;
pub mod settings;

pub use blockdev::{Error, ErrorKind, Result};
