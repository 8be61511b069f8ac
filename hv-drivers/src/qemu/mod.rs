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
mod source;

use std::{path::Path, time::Duration};

pub use self::{
    plan::Plan,
    running::{Running, Stopped, define, read_spec, start},
};
pub use crate::settings::{Accelerator, Display, Forward, Network, Settings, Spec};
use crate::{
    Error, Result,
    driver::{Access, DiskSource, Driver, LifeCycle, Progress, Relocation, Settled, State, Target},
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

/// The machine in `place`.
fn found(place: &Path) -> Result<Running> {
    Running::find(place)?.ok_or_else(|| Error::not_found(format!("no machine runs in {}", place.display())))
}

impl LifeCycle for Qemu {
    fn start(&self, machine: &Machine, disks: &[DiskSource], place: &Path) -> Result<Vec<String>> {
        if Running::find(place)?.is_some() {
            return Ok(Vec::new());
        }
        let spec = Spec { machine: machine.clone(), disks: disks.to_vec(), settings: self.settings.clone() };
        Ok(start(place, &spec)?.notes)
    }

    fn define(&self, machine: &Machine, disks: &[DiskSource], place: &Path, replace: bool) -> Result<Vec<String>> {
        let spec = Spec { machine: machine.clone(), disks: disks.to_vec(), settings: self.settings.clone() };
        define(place, &spec, replace)
    }

    fn start_again(&self, place: &Path) -> Result<Vec<String>> {
        migrate::settle(place)?;
        Ok(start(place, &read_spec(place)?)?.notes)
    }

    fn failing(&self, place: &Path) -> Result<Option<String>> {
        found(place)?.failing()
    }

    fn state(&self, place: &Path) -> Result<State> {
        Running::find(place)?.map_or(Ok(State::Off), |running| running.state())
    }

    fn resume(&self, place: &Path) -> Result<()> {
        found(place)?.resume()
    }

    fn shut_down(&self, place: &Path, grace: Duration) -> Result<bool> {
        Running::find(place)?.map_or(Ok(true), |running| running.shut_down(grace))
    }

    fn stop(&self, place: &Path) -> Result<()> {
        Running::find(place)?.map_or(Ok(()), |running| running.stop(Duration::ZERO).map(drop))
    }

    fn access(&self, place: &Path) -> Access {
        let socket = |name: &str| place.join(name);
        let shown = |name: &str| Some(socket(name).to_string_lossy().into_owned());
        Access {
            pid: Running::find(place).ok().flatten().map(|running| running.pid()),
            domain: None,
            console: shown("console.sock"),
            console_log: Some(socket(console::LOG)),
            vnc: shown("vnc.sock"),
            qmp: Some(socket("qmp.sock")),
        }
    }
}

impl Relocation for Qemu {
    fn disks(&self, place: &Path) -> Result<Vec<DiskSource>> {
        Ok(found(place)?.spec().disks.clone())
    }

    fn settle(&self, place: &Path) -> Result<Option<Settled>> {
        if place.exists() { migrate::settle(place) } else { Ok(None) }
    }

    fn begin(&self, place: &Path, targets: &[Target]) -> Result<()> {
        migrate::Migration::begin(&found(place)?, targets).map(drop)
    }

    fn progress(&self, place: &Path) -> Result<Option<Progress>> {
        migrate::Migration::find(&found(place)?)?.map(|migration| migration.progress()).transpose()
    }

    fn complete(&self, place: &Path) -> Result<()> {
        let nothing = || Error::invalid(format!("the disks of the machine in {} are not being moved", place.display()));
        migrate::Migration::find(&found(place)?)?
            .ok_or_else(nothing)?
            .complete(&migrate::Completion::default())
            .map(drop)
    }

    fn cancel(&self, place: &Path) -> Result<()> {
        migrate::Migration::find(&found(place)?)?.map_or(Ok(()), migrate::Migration::cancel)
    }
}
