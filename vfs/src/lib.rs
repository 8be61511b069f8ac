//! One tree of nodes, composed lazily from providers, and the doors that show it: FUSE and `extract`.
//!
//! A door knows [`node`]s and never providers; a provider knows where its nodes come from and no door.

pub mod changed;
pub mod diff;
pub mod door;
pub mod extract;
pub mod fuse;
pub mod node;
pub mod providers;
pub mod verify;

pub use blockdev::{Error, ErrorKind, Result};
