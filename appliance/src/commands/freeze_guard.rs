//! `revenant freeze-guard`: the process that thaws a guest whatever happens to the daemon that had it frozen.

use std::sync::{Arc, atomic::AtomicBool};

use blockdev::{Error, Result};
use hv_drivers::freeze;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::output;

pub fn run() -> Result<u8> {
    // It ends in a moment by itself, and not before the guest goes on: also when all that the daemon has started is ended.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register(signal, Arc::new(AtomicBool::new(false)))
            .map_err(|e| Error::io("cannot pass over signals", e))?;
    }
    // What ends the daemon's session or group does not end this. One that somebody started by hand may have its own already.
    let _ = rustix::process::setsid();
    freeze::keep(std::io::stdin(), &mut std::io::stdout(), &output::note)?;
    Ok(0)
}
