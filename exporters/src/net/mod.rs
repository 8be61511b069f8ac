//! What the servers have in common: sockets, clients and their number, an orderly end, and threads for slow answers.

mod clients;
mod input;
mod listen;
mod pace;
mod sender;
mod server;
mod transport;
mod workers;

pub use clients::Clients;
pub(crate) use input::Input;
pub use listen::{Address, Listener};
pub(crate) use pace::Pace;
pub(crate) use sender::Sender;
pub use server::Report;
pub(crate) use server::{Server, Service};
pub use transport::Transport;
pub(crate) use workers::Workers;
