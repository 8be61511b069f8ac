//! What a driver can do, as small traits: a hypervisor's driver implements those that it can, and says so.
//!
//! Whoever runs a recovery asks a [`Driver`] for what it needs, and tells the operator when the hypervisor has no such
//! thing, instead of asking which hypervisor it is.

mod protection;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::protection::{
    Changed, Consistency, DiskWish, Inspected, Inventory, Listed, LiveDisk, Point, PointDisk, Tracking, Wish,
};
use crate::{Error, Result, machine::Machine};

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
///
/// A machine is called by its place: the folder that it was started in, where the driver keeps what it has to know to find
/// it again after this program was killed.
pub trait LifeCycle {
    /// The user and group of this host as whom disks' sockets are opened, where it is not this process's. Asking also tells
    /// whether the hypervisor can be reached at all.
    ///
    /// # Errors
    ///
    /// When it cannot, with what to do.
    fn user(&self) -> Result<Option<(u32, u32)>> {
        Ok(None)
    }

    /// Start `machine` in the folder `place` with `disks`, which are its disks in their order. One that runs there already
    /// is left alone. What is other than described, a sentence each.
    ///
    /// # Errors
    ///
    /// When it cannot be started; nothing of it runs then.
    fn start(&self, machine: &Machine, disks: &[DiskSource], place: &Path) -> Result<Vec<String>>;

    /// Write down `machine`, with disks that stay, in the folder `place`, so that it is there and is off: what
    /// [`start`](Self::start) starts. With `replace` one of its name that is off is replaced. What is other than described.
    ///
    /// # Errors
    ///
    /// When the hypervisor has no such thing, or has one of that name.
    fn define(&self, machine: &Machine, disks: &[DiskSource], place: &Path, replace: bool) -> Result<Vec<String>> {
        let _ = (machine, disks, replace);
        Err(Error::unsupported(format!("no machine can be defined for {}", place.display())))
    }

    /// Start one again that was started in `place` and has ended, with the disks that it had. What is other than described.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or is started by other means.
    fn start_again(&self, place: &Path) -> Result<Vec<String>> {
        let shown = place.display();
        Err(Error::unsupported(format!(
            "the machine of {shown} is started again by its hypervisor's own tools (virsh start)"
        )))
    }

    /// How it is. One that never was is off.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer.
    fn state(&self, place: &Path) -> Result<State>;

    /// Why one stands still, by its disks, where the hypervisor tells: a sentence without its end.
    ///
    /// # Errors
    ///
    /// When there is none, or the hypervisor does not answer.
    fn failing(&self, place: &Path) -> Result<Option<String>> {
        let _ = place;
        Ok(None)
    }

    /// Let one go on that stands still, also after a disk had failed: what could not be done is then repeated.
    ///
    /// # Errors
    ///
    /// When there is none, or the hypervisor does not answer.
    fn resume(&self, place: &Path) -> Result<()>;

    /// Ask its guest to shut down; whether it is off within `grace`. One that is off is.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer.
    fn shut_down(&self, place: &Path, grace: Duration) -> Result<bool>;

    /// End it without asking its guest, and take it away from the hypervisor. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// When it cannot be ended.
    fn stop(&self, place: &Path) -> Result<()>;

    /// How an operator gets at it.
    fn access(&self, place: &Path) -> Access;
}

/// How an operator gets at a machine: what is known at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Access {
    /// Its process.
    pub pid: Option<u32>,
    /// What its hypervisor calls it.
    pub domain: Option<String>,
    /// Where its serial console is: a socket, or a command.
    pub console: Option<String>,
    /// The file with what it said there.
    pub console_log: Option<PathBuf>,
    /// Where its screen is (VNC): a socket, or a URI.
    pub vnc: Option<String>,
    /// The socket of its monitor (QMP).
    pub qmp: Option<PathBuf>,
}

/// How the moving of a machine's disks has ended when the machine itself ended on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The machine had not left its disks and starts from them again. The copies were removed.
    Stayed,
    /// The machine had gone over to the copies and starts from them again. They were not compared to their end, and can
    /// be no more: what they were in the moment of going over was known to the hypervisor alone.
    Moved,
}

/// Moving disks to other storage while the machine runs.
pub trait Relocation {
    /// Where its disks are now.
    ///
    /// # Errors
    ///
    /// When there is no such machine.
    fn disks(&self, place: &Path) -> Result<Vec<DiskSource>>;

    /// Bring the moving of disks to its end whose machine has ended on the way; `None` where there is nothing to bring to
    /// an end.
    ///
    /// # Errors
    ///
    /// When the machine runs, or what was made for moving cannot be removed.
    fn settle(&self, place: &Path) -> Result<Option<Settled>> {
        let _ = place;
        Ok(None)
    }

    /// Begin to copy each disk to the target of its place. A copy that has begun is found again by
    /// [`progress`](Self::progress) after this program was killed.
    ///
    /// # Errors
    ///
    /// When it cannot begin; the machine is as it was then.
    fn begin(&self, place: &Path, targets: &[Target]) -> Result<()>;

    /// How far the copy is; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer, or the copy has failed.
    fn progress(&self, place: &Path) -> Result<Option<Progress>>;

    /// Let the machine go on with the copies, and compare them with what they were made of.
    ///
    /// # Errors
    ///
    /// When they are not complete, or differ.
    fn complete(&self, place: &Path) -> Result<()>;

    /// Give the copies up; the machine goes on with its own disks.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer.
    fn cancel(&self, place: &Path) -> Result<()>;
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
        /// The port of NFS and of mounting; `None`: the server's port mapper knows them.
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
