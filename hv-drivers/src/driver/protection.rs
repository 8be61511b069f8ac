//! What a backup of a running machine needs of its hypervisor: a list of machines, a point in time of all disks of one, and
//! which ranges were changed since an earlier point.
//!
//! A point has a *mark*: a name that is used once. The hypervisor's own tracker records, from the mark on, what is
//! written. A point that was backed up is [kept](Tracking::keep): later ones can ask what has changed since it. One whose
//! backup failed is [rolled back](Tracking::roll_back): what was changed before it and after it is then changed since the
//! mark before, so that nothing is lost. Both can be called again after a crash, with nothing but the names.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use blockdev::BlockDevice;

use super::State;
use crate::{Result, machine::Machine};

/// A machine in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is called, and asked for by.
    pub name: String,
    /// What the admin or the hypervisor has tagged it with.
    pub tags: Vec<String>,
}

/// A machine as it is at this moment.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Its portable description; its disks are those of [`disks`](Self::disks), in their order.
    pub machine: Machine,
    /// The hypervisor's own configuration: the name of a file, and its content.
    pub native: Vec<(String, Vec<u8>)>,
    /// How it is.
    pub state: State,
    /// The disks that can be backed up.
    pub disks: Vec<LiveDisk>,
    /// What cannot be: its name, and why.
    pub left_out: Vec<(String, String)>,
}

/// A disk of a running machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveDisk {
    /// Its name, fit for a file's: `vd0`, `scsi0`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What tells it from another disk that takes its place: the path of its image.
    pub place: String,
}

/// The machines of a hypervisor.
pub trait Inventory {
    /// All of them.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer.
    fn machines(&self) -> Result<Vec<Listed>>;

    /// What they are called, without their tags: some hypervisors tell that sooner.
    ///
    /// # Errors
    ///
    /// As [`machines`](Self::machines).
    fn names(&self) -> Result<Vec<String>> {
        Ok(self.machines()?.into_iter().map(|machine| machine.name).collect())
    }

    /// One, as it is now.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none of that name, or it is off.
    fn inspect(&self, machine: &str) -> Result<Inspected>;
}

/// The point in time that is wanted.
#[derive(Debug)]
pub struct Wish<'a> {
    /// The machine.
    pub machine: &'a str,
    /// The name of the point.
    pub mark: &'a str,
    /// The disks.
    pub disks: &'a [DiskWish],
    /// A folder for what the guest overwrites while the point is there. The hypervisor has to be able to write into it.
    pub scratch: &'a Path,
    /// The program that guards a guest that is asked to have its files in order ([`crate::freeze`]); `None`: it is not asked.
    pub quiesce: Option<&'a Path>,
}

/// A disk of such a point.
#[derive(Debug, Clone)]
pub struct DiskWish {
    /// Its name.
    pub name: String,
    /// The marks from the one since which changes are wanted to the newest that was kept; empty: nothing is known of it.
    pub since: Vec<String>,
}

/// In what order the guest's files are at a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consistency {
    /// The guest's agent had frozen so many filesystems.
    Files(u64),
    /// As after a loss of power; why nothing better was to be had.
    Crash(String),
}

/// A point in time, of all disks at once, which stays until it is kept or rolled back.
pub struct Point {
    /// The order of the guest's files.
    pub consistency: Consistency,
    /// How long the guest stood still for it.
    pub frozen: Duration,
    /// Its disks, in the order in which they were wished for.
    pub disks: Vec<PointDisk>,
}

/// A disk at a point in time.
pub struct PointDisk {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub device: Arc<dyn BlockDevice>,
    /// What has changed.
    pub changed: Changed,
}

/// What the tracker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// These ranges, ascending, and no others.
    Ranges(Vec<Range<u64>>),
    /// It does not know; why.
    Unknown(String),
}

/// Points in time, and what has changed between them.
pub trait Tracking {
    /// Where what the guest overwrites goes, of a point with the folder `scratch`.
    fn scratch(&self, scratch: &Path) -> PathBuf {
        scratch.to_owned()
    }

    /// Makes a point. If it fails, nothing of it is left.
    ///
    /// # Errors
    ///
    /// When the hypervisor refuses, or a disk is not there any more.
    fn begin(&self, wish: &Wish<'_>) -> Result<Point>;

    /// Ends a point that was backed up: from now on it can be asked what has changed since. Marks of ours that are not
    /// among `kept` are forgotten.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer.
    fn keep(&self, machine: &str, mark: &str, kept: &[String]) -> Result<()>;

    /// Ends a point as if it had never been: what was written since it counts as written since `before`, the newest mark
    /// that was kept. A guest that stands still because there was no room for what it overwrote goes on. One that is gone, or
    /// was made in part only, is no error.
    ///
    /// # Errors
    ///
    /// When the hypervisor does not answer; it is to be tried again then.
    fn roll_back(&self, machine: &str, mark: &str, before: Option<&str>) -> Result<()>;
}
