//! Fuzzes the negotiation of the NBD server, and the requests of clients that get that far.
//!
//!     cargo xtask fuzz nbd_negotiation

#![no_main]

mod nbd_client;

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd_client::run(data.to_vec()));
