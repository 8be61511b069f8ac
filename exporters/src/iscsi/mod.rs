//! An iSCSI target: disks for hypervisors and other initiators.
//!
//! The protocol is RFC 7143; comments name its sections. What it carries is [`scsi`](crate::scsi)'s. A connection goes
//! through two phases. In the first, `login` finds out who the initiator is and what it wants ([`Chap`], `negotiate`). In
//! the second, `session` serves its commands: a [`Target`] for a normal session, the list of targets for discovery.
//!
//! **Error recovery level 0.** A connection on which something is wrong is ended, and the initiator logs in again: all of
//! them do that well. A session may have several connections; commands are done in the order of their numbers,
//! whichever connection they come by.
//!
//! **Why threads, and when.** The thread that receives does a command itself, as long as the disk answers quickly, and
//! sends replies of several with one call. When the disk turns out to be slow, commands go to a few workers. And when it
//! is slow without a warning, another thread takes over receiving (`session::relay`): pings and aborts are
//! answered at once, whatever the disk does.
//!
//! **What is bounded.** Connections, the time of a login, lengths of texts and segments, commands (by the window that
//! initiators are told), bytes that they are asked to send, the time a peer may take for anything: see [`Limits`].

mod chap;
mod limits;
mod login;
mod negotiate;
mod pdu;
mod server;
mod session;
mod target;
mod text;

pub use crate::net::{Address, Clients, Listener, Report, Transport};
pub use chap::{Chap, Secret};
pub use limits::Limits;
pub use server::{Config, Server, serve};
pub use target::{Target, Targets};
pub use text::is_name;
