//! What a server is willing to spend on its clients.

use std::time::Duration;

/// Bounds of a server. Each protects it from clients that are hostile, broken or merely gone.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; one more is closed as soon as it is accepted.
    pub connections: usize,
    /// Connections of one session (MaxConnections).
    pub session_connections: u16,
    /// Commands of a session that may wait or be worked on: the command window.
    pub commands: u32,
    /// Commands of one connection that are worked on at a time, when the device is slow.
    pub in_flight: usize,
    /// Bytes that one connection's commands may be asked to send at a time, when there is more than one.
    pub in_flight_bytes: usize,
    /// Longest data segment that is received in bytes (MaxRecvDataSegmentLength).
    pub segment: u32,
    /// Most bytes of a burst (MaxBurstLength).
    pub burst: u32,
    /// Most bytes that are sent unasked (FirstBurstLength).
    pub first_burst: u32,
    /// Time from the connection to the full feature phase.
    pub login: Duration,
    /// Time that a peer may take to go on with a message that it began, or to take more of one that it is sent.
    pub stall: Duration,
    /// A peer that says nothing for this long is asked whether it is there, and cut off when it does not answer for as
    /// long again.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            session_connections: 8,
            commands: 128,
            in_flight: 16,
            in_flight_bytes: 64 << 20,
            segment: 256 << 10,
            burst: 4 << 20,
            first_burst: 256 << 10,
            login: Duration::from_secs(30),
            stall: Duration::from_secs(300),
            silence: Duration::from_secs(60),
        }
    }
}
