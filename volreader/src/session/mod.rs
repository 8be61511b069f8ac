//! A session: one job's data over all its volumes, addressed by block number.

pub mod map;
pub mod verified;
