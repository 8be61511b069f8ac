//! What a server is willing to spend on its clients.

use std::time::Duration;

/// Bounds of a server. Each protects it from clients that are hostile, broken or merely gone.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; one more is closed as soon as it is accepted.
    pub connections: usize,
    /// Requests of one connection that are worked on at a time, when the tree is slow. 1 means one after the other.
    pub in_flight: usize,
    /// Longest read in bytes, which clients are told. Those of Linux take 1 MiB at most.
    pub read: u32,
    /// Longest write in bytes, which clients are told.
    pub write: u32,
    /// Longest listing in bytes.
    pub listing: u32,
    /// Longest request in bytes. What is sent to be written where nothing can be written is not kept; it is only there
    /// to be refused.
    pub request: usize,
    /// Time that a peer may take to go on with a message that it began, or to take more of one that it is sent.
    /// Connections without a request may be idle for ever.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            in_flight: 16,
            read: 1 << 20,
            write: 1 << 20,
            listing: 256 << 10,
            request: 4 << 20,
            stall: Duration::from_secs(300),
        }
    }
}
