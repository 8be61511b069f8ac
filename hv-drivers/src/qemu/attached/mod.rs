//! Machines that somebody else started: they are found by the socket of their monitor, and backed up while they run.
//!
//! A point in time is QEMU's fleecing (QEMU, `docs/interop/live-block-operations.rst`, `docs/interop/bitmaps.rst`): what
//! the guest overwrites is first copied into a scratch image on top of its disk, and that image is served by NBD at a
//! socket of ours. Which ranges were changed is recorded by dirty bitmaps, one for each mark that was kept, stored in the
//! disk's own qcow2 file:
//!
//! ```text
//! mark        1            2        3              now
//! bitmap 1    |############|                              changed between 1 and 2; recording has stopped
//! bitmap 2                 |########|
//! bitmap 3                          |#############        recording
//! ```
//!
//! What has changed since mark 2 is bitmaps 2 and 3 together. So an Incremental and a Differential each have their own
//! parent, and a job that Bacula failed afterwards is no loss. Rolling a mark back merges its bitmap into the one before.
//!
//! * `blocks`: disks, nodes and bitmaps, as QEMU lists them; `hardware`: the description; `marks`: bitmaps that stand for
//!   marks; `point`: points in time; `quiesce`: the guest's files in order.

mod blocks;
mod hardware;
mod marks;
mod point;
mod quiesce;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    driver::{Driver, Inspected, Inventory, Listed, Point, Tracking, Wish},
    qmp::Client,
};

/// How long QEMU may take for a command.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine, as the admin names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// Its name, fit for a folder's.
    pub name: String,
    /// The socket of a monitor (QMP) that nobody else uses all the time.
    pub qmp: PathBuf,
    /// The socket of its guest agent.
    pub agent: Option<PathBuf>,
    /// What it is chosen by.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// The driver.
#[derive(Debug, Clone, Default)]
pub struct AttachedQemu {
    machines: Vec<Attached>,
}

impl AttachedQemu {
    /// For these machines.
    #[must_use]
    pub fn new(machines: Vec<Attached>) -> Self {
        Self { machines }
    }

    fn machine(&self, name: &str) -> Result<&Attached> {
        self.machines.iter().find(|m| m.name == name).ok_or_else(|| {
            let known: Vec<_> = self.machines.iter().map(|m| m.name.as_str()).collect();
            Error::not_found(format!("no machine {name} is configured; there are: {}", known.join(", ")))
        })
    }
}

impl Attached {
    fn monitor(&self) -> Result<Client> {
        Client::connect(&self.qmp, PATIENCE).map_err(|e| e.context(format_args!("{}: is it running?", self.name)))
    }
}

impl Driver for AttachedQemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn inventory(&self) -> Option<&dyn Inventory> {
        Some(self)
    }

    fn tracking(&self) -> Option<&dyn Tracking> {
        Some(self)
    }
}

impl Inventory for AttachedQemu {
    fn machines(&self) -> Result<Vec<Listed>> {
        Ok(self.machines.iter().map(|m| Listed { name: m.name.clone(), tags: m.tags.clone() }).collect())
    }

    fn inspect(&self, machine: &str) -> Result<Inspected> {
        let machine = self.machine(machine)?;
        hardware::inspect(machine, &mut machine.monitor()?)
    }
}

impl Tracking for AttachedQemu {
    fn begin(&self, wish: &Wish<'_>) -> Result<Point> {
        point::begin(self.machine(wish.machine)?, wish)
    }

    fn keep(&self, machine: &str, mark: &str, kept: &[String]) -> Result<()> {
        let mut monitor = self.machine(machine)?.monitor()?;
        point::end(&mut monitor, mark)?;
        marks::keep(&mut monitor, mark, kept)
    }

    fn roll_back(&self, machine: &str, mark: &str, before: Option<&str>) -> Result<()> {
        let machine = self.machine(machine)?;
        quiesce::thaw_if_frozen(machine);
        let mut monitor = machine.monitor()?;
        point::end(&mut monitor, mark)?;
        marks::roll_back(&mut monitor, mark, before)
    }
}
