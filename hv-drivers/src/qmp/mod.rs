//! QEMU's control protocols: QMP itself ([`Client`]) and the one of its guest agent ([`Agent`]).
//!
//! Both are lines of JSON over a Unix socket. A monitor serves one client at a time, and a second one waits without an
//! answer: so everything here has a deadline, and whoever needs a monitor connects, says what it has to say, and leaves.
//! Answers come from a program that a hostile guest may have taken over: lines are bounded, and nothing in them is used
//! but what was asked for.

mod agent;
mod channel;
mod client;

pub use self::{
    agent::{Agent, GuestInfo},
    client::{Client, Event, EventKind},
};
