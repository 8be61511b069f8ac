//! An NBD server.
//!
//! The protocol is the Network Block Device project's `doc/proto.md` with its `extension-ext-header` branch; comments
//! name its sections. A connection goes through two phases. In the first, `negotiation` answers the client's
//! options until it has chosen an export; `STARTTLS` swaps the [`Transport`] for an encrypted one on the way. In
//! the second, `session` serves requests.
//!
//! **Why threads, and when.** A connection is one thread that receives as many requests as are waiting with one call,
//! reads the device straight into the buffer of the replies, and sends those with one call. Nothing else is as cheap as
//! long as the device answers from memory. When it does not, one slow read would hold up every request behind it; so a
//! session that sees a slow answer hands its requests to a few threads of its own until answers are quick again.
//!
//! **What is bounded.** Connections, the time a handshake may take, the length of an option, requests in flight,
//! bytes in flight, the time a peer may leave a message half sent or half received: see [`Limits`].

mod export;
mod limits;
mod negotiation;
mod protocol;
mod server;
mod session;
mod tls;

pub use crate::net::{Address, Clients, Listener, Report, Transport};
pub use export::{ChangedBlocks, ChangedRun, Disk, Export, Exports};
pub use limits::Limits;
pub use negotiation::{Agreement, Negotiation, Outcome};
pub use server::{Config, Server, uri};
pub use session::serve;
pub use tls::{Tls, TlsMode};
