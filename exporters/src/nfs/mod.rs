//! An NFS server: a directory of the tree for machines that mount it.
//!
//! Version 3 over TCP (RFC 1813), with its MOUNT protocol and a port mapper, all at one port unless other ones are wished
//! for. A call goes from `rpc` (records, credentials) by program to `procedures`, `mount` or `portmap`; `export` has what
//! is served; `handle` is what clients keep of it. Locks (NLM) are refused: what cannot change needs none, and hypervisors
//! that write bring their own (lock files).
//!
//! **Handles** outlive the server: see [`vfs::door::Trail`]. A node that is no longer there is stale.
//!
//! **Writing.** Only where the export says so ([`ExportOptions::writable`]), and only nodes that can be changed
//! ([`vfs::node::Changes`]). What is acknowledged as stable, and what a COMMIT covered, is durable; other writes may be lost
//! with the server, and the write verifier tells clients that. `replies` remembers the answers of what must not be done
//! twice.
//!
//! **Permissions.** A client says who its user is, and is believed: that is how this protocol works. So what protects is
//! [`Clients`], the list of machines that may connect. For the users of those, owners, modes and ACLs decide as on the
//! machine that was backed up; their root may read everything.
//!
//! **What is bounded.** Connections, calls and bytes in flight, the length of a request and of its parts, the nodes and
//! open files that are remembered, the time a peer may leave a message half sent or half received: see [`Limits`].

mod export;
mod handle;
mod limits;
mod mount;
mod portmap;
mod procedures;
mod protocol;
mod replies;
mod rpc;
mod server;
mod session;
mod udp;
mod xdr;

pub use crate::net::Clients;
pub use crate::net::{Address, Listener, Transport};
pub use export::{Export, ExportOptions, Squash, TellTotals};
pub use limits::Limits;
pub use server::{Config, Server, Sockets, serve};
