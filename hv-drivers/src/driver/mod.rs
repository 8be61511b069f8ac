//! What a driver can do, as small traits: a hypervisor's driver implements those that it can, and says so.
//!
//! Whoever runs a recovery asks a [`Driver`] for what it needs, and tells the operator when the hypervisor has no such
//! thing, instead of asking which hypervisor it is.

mod protection;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::protection::{
    Changed, Consistency, DiskWish, Inspected, Inventory, Listed, LiveDisk, Point, PointDisk, Tracking, Wish,
};
use crate::{Result, machine::Machine};

/// A hypervisor.
pub trait Driver: Send + Sync {
    /// Its name: `qemu`.
    fn name(&self) -> &'static str;

    /// Starting and stopping machines, where it can.
    fn life_cycle(&self) -> Option<&dyn LifeCycle> {
        None
    }

    /// Its machines, where it has a list of them.
    fn inventory(&self) -> Option<&dyn Inventory> {
        None
    }

    /// Points in time of running machines, and what has changed between them, where it can.
    fn tracking(&self) -> Option<&dyn Tracking> {
        None
    }

    /// Moving the disks of a running machine, where it can.
    fn relocation(&self) -> Option<&dyn Relocation> {
        None
    }
}

/// Starting and stopping machines over disks that somebody serves.
pub trait LifeCycle {
    /// Start `machine` with `disks`, which are its disks in their order. `place` is a folder for what the driver keeps
    /// of it. What it is called from now on.
    ///
    /// # Errors
    ///
    /// When it cannot be started; nothing of it is left then.
    fn start(&self, machine: &Machine, disks: &[DiskSource], place: &std::path::Path) -> Result<String>;

    /// How it is.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer.
    fn state(&self, id: &str) -> Result<State>;

    /// End it: its guest is asked to shut down and has `grace` for that. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// When it cannot be ended.
    fn stop(&self, id: &str, grace: Duration) -> Result<()>;
}

/// Moving disks to other storage while the machine runs.
pub trait Relocation {
    /// Begin to copy each disk to the target of its place. A copy that has begun is found again by
    /// [`progress`](Self::progress) after this program was killed.
    ///
    /// # Errors
    ///
    /// When it cannot begin; the machine is as it was then.
    fn begin(&self, id: &str, targets: &[Target]) -> Result<()>;

    /// How far the copy is; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer, or the copy has failed.
    fn progress(&self, id: &str) -> Result<Option<Progress>>;

    /// Let the machine go on with the copies, and compare them with what they were made of.
    ///
    /// # Errors
    ///
    /// When they are not complete, or differ.
    fn complete(&self, id: &str) -> Result<()>;

    /// Give the copies up; the machine goes on with its own disks.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer.
    fn cancel(&self, id: &str) -> Result<()>;
}

/// Where the hypervisor finds a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DiskSource {
    /// An NBD export behind a Unix socket.
    NbdUnix {
        /// The socket.
        socket: PathBuf,
        /// The export's name.
        export: String,
    },
    /// An NBD export.
    NbdTcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// The export's name.
        export: String,
    },
    /// A unit of an iSCSI target.
    Iscsi {
        /// `HOST:PORT`.
        portal: String,
        /// The target's name.
        target: String,
        /// The unit.
        lun: u16,
        /// The name of the user and the file with the password, where the target asks for them. QEMU is told the
        /// password through a file that only its user can read.
        chap: Option<(String, PathBuf)>,
    },
    /// A raw file on an NFS server, version 3.
    Nfs {
        /// A name or an address.
        host: String,
        /// The file's path on the server.
        path: String,
        /// The port of NFS and of mounting, where they are not the usual ones.
        ports: Option<(u16, u16)>,
    },
    /// A file or block device of this host.
    File {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: FileFormat,
    },
}

/// The format of a permanent disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    /// The disk's bytes.
    Raw,
    /// qcow2.
    Qcow2,
}

impl FileFormat {
    /// Its name in QEMU.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Where a disk is moved to: a file that does not exist yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: FileFormat,
}

/// How a machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It stands still; why, in the hypervisor's word: `paused`, `io-error`.
    Paused(String),
    /// It is off, and nothing of it runs.
    Off,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that are copied.
    pub done: u64,
    /// Bytes that are to be copied, as far as is known now: what the guest writes meanwhile is added.
    pub total: u64,
    /// Everything is copied and is kept the same: the machine can go over.
    pub is_ready: bool,
}
