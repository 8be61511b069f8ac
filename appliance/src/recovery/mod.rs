//! Instant Recovery: sessions that make a restore point writable and hand it to a hypervisor.
//!
//! ```text
//!  restore point ──► overlay (qcow2, one a disk) ──► door (NBD, iSCSI, NFS, SMB) ──► machine
//!  never changes      what the machine writes         same address after a restart
//! ```
//!
//! A session is a [`Record`](record::Record) in the [`Store`](store::Store), made before anything else is, and what is
//! alive of it: a [`Live`](live::Live) in the daemon. The one can always be made from the other, so a daemon that was killed
//! goes on with every session where it was, and stopping a session removes all that its record names, however far it had
//! come.

pub mod doors;
pub mod live;
pub mod machine;
pub mod quote;
pub mod record;
mod running;
pub mod sessions;
pub mod store;
pub mod target;
