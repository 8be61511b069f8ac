//! Plain QEMU: machines as processes of this host.
//!
//! A machine lives in a folder of its own: what it was started with (`run.json`), its process's number, its sockets
//! (`qmp.sock`, `events.sock`, `console.sock`, `agent.sock`, `vnc.sock`), what it said (`console.log`, `qemu.log`) and its
//! firmware's variables (`vars.fd`). The folder is all that is needed to find it again: [`Running::find`] does so after
//! this program was restarted or killed, and nothing of the machine depends on it meanwhile.
//!
//! * `plan`: which of the described hardware QEMU has, and what stands for the rest; `arguments`: the same as words of a
//!   command line; `source`: a disk's place as QEMU is told it;
//! * [`firmware`]: where this host has UEFI; [`accelerator`]: whether KVM works, which is more than being there;
//! * `process`: processes by number, and what keeps them from being confused; `running`: start, find, ask, stop;
//! * [`console`]: what the guest says; [`screen`]: what it shows; [`migrate`]: its disks moved while it runs;
//! * [`attached`]: machines that others started, backed up while they run;
//! * `jobs`, `nodes`: background jobs and block nodes of a running QEMU.

pub mod accelerator;
mod arguments;
pub mod attached;
pub mod console;
pub mod firmware;
mod jobs;
pub mod migrate;
mod nodes;
mod plan;
mod process;
mod running;
pub mod screen;
mod settings;
mod source;

use std::{path::Path, time::Duration};

pub use self::{
    plan::Plan,
    running::{Running, Stopped, read_spec, start},
    settings::{Accelerator, Display, Forward, Network, Settings, Spec},
};
use crate::{
    Error, Result,
    driver::{DiskSource, Driver, LifeCycle, Progress, Relocation, State, Target},
    machine::Machine,
};

/// The driver; machines that it starts have these settings.
#[derive(Debug, Clone, Default)]
pub struct Qemu {
    /// How machines are started.
    pub settings: Settings,
}

impl Driver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn life_cycle(&self) -> Option<&dyn LifeCycle> {
        Some(self)
    }

    fn relocation(&self) -> Option<&dyn Relocation> {
        Some(self)
    }
}

/// The machine whose folder is `id`.
fn found(id: &str) -> Result<Running> {
    Running::find(Path::new(id))?.ok_or_else(|| Error::not_found(format!("no machine runs in {id}")))
}

impl LifeCycle for Qemu {
    fn start(&self, machine: &Machine, disks: &[DiskSource], place: &Path) -> Result<String> {
        let spec = Spec { machine: machine.clone(), disks: disks.to_vec(), settings: self.settings.clone() };
        start(place, &spec)?;
        Ok(place.to_string_lossy().into_owned())
    }

    fn state(&self, id: &str) -> Result<State> {
        Running::find(Path::new(id))?.map_or(Ok(State::Off), |running| running.state())
    }

    fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        Running::find(Path::new(id))?.map_or(Ok(()), |running| running.stop(grace).map(drop))
    }
}

impl Relocation for Qemu {
    fn begin(&self, id: &str, targets: &[Target]) -> Result<()> {
        migrate::Migration::begin(&found(id)?, targets).map(drop)
    }

    fn progress(&self, id: &str) -> Result<Option<Progress>> {
        migrate::Migration::find(&found(id)?)?.map(|migration| migration.progress()).transpose()
    }

    fn complete(&self, id: &str) -> Result<()> {
        let nothing = || Error::invalid(format!("the disks of the machine in {id} are not being moved"));
        migrate::Migration::find(&found(id)?)?.ok_or_else(nothing)?.complete(&migrate::Completion::default()).map(drop)
    }

    fn cancel(&self, id: &str) -> Result<()> {
        migrate::Migration::find(&found(id)?)?.map_or(Ok(()), migrate::Migration::cancel)
    }
}
