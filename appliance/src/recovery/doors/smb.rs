//! SMB: the session's disks in a datastore, by default as fixed VHDX files, shared by stock Samba.
//!
//! The datastore is mounted in the session's folder, and a Samba of the session's own serves the mount. Both end with the
//! daemon: Samba by itself when that is killed, the mount when the next daemon opens the door again, or ends the session.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::Result;
use vfs::{fuse::MountOptions, providers::datastore::Datastore};

use super::{super::live::LiveDisk, Record, Serving, check_allowed, datastore};
use crate::{
    output,
    smb::{self, Configuration, Share},
};

/// Where it listens if nobody says: at any free port, for this machine.
const LISTEN: &str = "127.0.0.1:0";

/// Characters of a share's name.
const NAME_MAX: usize = 60;

pub fn open(record: &Record, folder: &Path, disks: &[LiveDisk], step: &dyn Fn(&str)) -> Result<Box<dyn Serving>> {
    let configuration = configuration(record)?;
    check_allowed(record, configuration.address)?;
    let datastore = datastore::open(record, folder, disks)?;
    let mut door = Smb { share: None, configuration, place: place(folder), datastore, record: record.clone() };
    door.share(step)?;
    Ok(Box::new(door))
}

/// Takes away what a share has left in a session's folder. Nothing is no error.
///
/// # Errors
///
/// When something of it cannot be ended or removed.
pub fn sweep(folder: &Path) -> Result<()> {
    smb::sweep(&place(folder))
}

/// What is to be said of a session's share that other machines reach.
pub fn warning(record: &Record) -> Option<String> {
    configuration(record).ok()?.warning(&format!("the disks of {}", record.id))
}

/// Where Samba has its files, and the mount is.
fn place(folder: &Path) -> PathBuf {
    folder.join("smb")
}

fn configuration(record: &Record) -> Result<Configuration> {
    let listen = record.wanted(LISTEN).into_iter().next().unwrap_or_else(|| LISTEN.to_owned());
    let name = share_name(&record.id);
    let mut configuration =
        Configuration::new(&name, record.login.clone().into(), smb::address(&listen)?, &record.allow)?;
    configuration.writable = true;
    Ok(configuration)
}

/// The session's name with what clients take in a share's.
fn share_name(id: &str) -> String {
    let plain: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    // Its number, at the end, tells it from others.
    plain.get(plain.len().saturating_sub(NAME_MAX)..).unwrap_or_default().to_owned()
}

struct Smb {
    /// `None`: it has ended, and could not be opened again.
    share: Option<Share>,
    configuration: Configuration,
    place: PathBuf,
    datastore: Datastore,
    record: Record,
}

impl Smb {
    /// Mounts and shares.
    fn share(&mut self, step: &dyn Fn(&str)) -> Result<()> {
        smb::sweep(&self.place)?;
        smb::made(self.place.clone())?;
        let mut mounting = MountOptions::default();
        mounting.log = Arc::new(output::note);
        let root = self.datastore.root();
        self.share = Some(Share::open(root, mounting, &mut self.configuration, &self.place, None, step)?);
        Ok(())
    }
}

impl Serving for Smb {
    fn addresses(&self) -> Vec<String> {
        vec![self.configuration.address.to_string()]
    }

    fn uri(&self, disk: &str) -> String {
        let Configuration { address, share, .. } = &self.configuration;
        format!("smb://{address}/{share}/{}", datastore::file(&self.record, disk))
    }

    fn clients(&self) -> usize {
        connections(self.configuration.address)
    }

    fn tend(&mut self) -> Result<()> {
        let ended = match &mut self.share {
            Some(share) => share.check().err(),
            None => None,
        };
        if let Some(e) = ended {
            output::note(&format!("{}: {e}; it is shared again", self.record.id));
            self.share = None;
        }
        if self.share.is_none() { self.share(&|_| ()) } else { Ok(()) }
    }

    fn end(self: Box<Self>) -> Result<()> {
        let Self { share, datastore, .. } = *self;
        let ended = share.map_or(Ok(()), Share::end);
        ended.and(datastore.sync())
    }
}

/// TCP connections of clients to `address`, as the kernel lists them (proc(5)).
fn connections(address: SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    let end = format!(":{:04X}", address.port());
    let is_one = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        local.is_some_and(|local| local.ends_with(&end)) && state == Some(ESTABLISHED)
    };
    let of = |file: &str| fs::read_to_string(file).map_or(0, |text| text.lines().filter(|line| is_one(line)).count());
    of("/proc/net/tcp") + of("/proc/net/tcp6")
}
