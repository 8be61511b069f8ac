//! What a server is willing to spend on its clients.

use std::time::Duration;

/// Bounds of a server. Each protects it from clients that are hostile, broken or merely gone.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; one more is closed as soon as it is accepted.
    pub connections: usize,
    /// Requests of one connection that are worked on at a time, when the device is slow. 1 means one after the other.
    pub in_flight: usize,
    /// Bytes that the requests of one connection may hold at a time, when there is more than one.
    pub in_flight_bytes: usize,
    /// Longest read or write in bytes: the maximum payload size that clients are told. The protocol expects 32 MiB.
    pub request: u32,
    /// Longest data of an option in bytes.
    pub option: u32,
    /// Time from the connection to the choice of an export.
    pub handshake: Duration,
    /// Time that a peer may take to go on with a message that it began, or to take more of one that it is sent.
    /// Connections without a request may be idle for ever.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            in_flight: 16,
            in_flight_bytes: 64 << 20,
            request: 32 << 20,
            option: 64 << 10,
            handshake: Duration::from_secs(30),
            stall: Duration::from_secs(300),
        }
    }
}
