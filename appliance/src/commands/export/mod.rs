//! `revenant export`: disks and files served by a network protocol until the program is ended.

mod datastore;
mod disks;
mod iscsi;
mod nbd;
mod nfs;
mod smb;

use std::{net::IpAddr, time::Duration};

use blockdev::{Error, Result};
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};

use crate::cli::{Cli, Protocol};

/// How long clients may take to be served what they have asked for when the server is ended.
const GRACE: Duration = Duration::from_secs(10);

pub fn run(cli: &Cli, protocol: &Protocol) -> Result<u8> {
    match protocol {
        Protocol::Nbd { paths, options } => nbd::run(cli, paths, options),
        Protocol::Iscsi { paths, options } => iscsi::run(cli, paths, options),
        Protocol::Nfs { path, options } => nfs::run(cli, path.as_deref(), options),
        Protocol::Smb { path, options } => smb::run(cli, path.as_deref(), options),
    }
}

/// What clients call the machine that listens at `ip`.
fn host(ip: IpAddr) -> String {
    match ip {
        ip if ip.is_unspecified() => "HOST".into(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        IpAddr::V4(ip) => ip.to_string(),
    }
}

/// The signals that end a server. Caught before anybody can connect.
fn signals() -> Result<Signals> {
    Signals::new(TERM_SIGNALS).map_err(|e| Error::io("cannot wait for signals", e))
}
