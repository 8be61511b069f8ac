//! libvirt: machines as domains of QEMU/KVM that libvirt runs.
//!
//! libvirt is asked through its own program, `virsh`: no library of it is needed to build this crate or to run it, and
//! where libvirt is not installed nothing but this driver is missing.
//!
//! A domain is defined (it survives a restart of libvirt's daemon, and can be started again after its guest has shut it
//! down) under the name of its place's folder. `libvirt.json` in that folder is written before anything is asked for, and
//! names the UUID: a domain of the same name and another UUID is somebody else's and is never touched.
//!
//! * `virsh`: the program, its limits, and what to do when it fails;
//! * [`domain`]: a domain's XML, written; `shown`: as libvirt shows it, read;
//! * `inventory`: domains and what they are made of; `tracking`: their points in time, and what has changed;
//! * `place`: what is kept of a domain; `relocation`: its disks moved by `blockcopy`, compared through a backup of libvirt's.

pub mod domain;
mod inventory;
mod place;
mod relocation;
mod shown;
mod tracking;
mod virsh;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use self::place::Placed;
pub(crate) use self::virsh::Virsh;
use crate::{
    Error, Result,
    driver::{Access, DiskSource, Driver, Inventory, LifeCycle, Progress, Relocation, State, Target, Tracking},
    machine::{Mac, Machine},
    qemu::accelerator::has_kvm,
    settings::{Accelerator, Settings, Spec},
};

/// libvirt on this host, run by root.
pub const SYSTEM: &str = "qemu:///system";

/// How often a domain is asked whether it is off.
const TICK: Duration = Duration::from_millis(250);

/// The driver; machines that it starts have these settings.
#[derive(Debug, Clone)]
pub struct Libvirt {
    virsh: Virsh,
    /// How machines are started.
    pub settings: Settings,
}

impl Libvirt {
    /// The driver for the libvirt at `uri`.
    ///
    /// # Errors
    ///
    /// When that is no URI of libvirt's for QEMU.
    pub fn new(uri: &str, settings: Settings) -> Result<Self> {
        let is_qemu = uri.starts_with("qemu:///") || (uri.starts_with("qemu+") && uri.contains("://"));
        if !is_qemu || uri.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Error::invalid(format!(
                "{uri:?} is no libvirt of QEMU/KVM: it is {SYSTEM}, qemu:///session or qemu+ssh://HOST/system"
            )));
        }
        Ok(Self { virsh: Virsh::new(uri), settings })
    }

    /// Whether it is libvirt on this host: others cannot reach sockets and files of it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.virsh.uri().starts_with("qemu:///")
    }

    /// The domain in `place`, if there is one.
    fn find(&self, place: &Path) -> Result<Option<Placed>> {
        let Some(placed) = Placed::read(place)? else { return Ok(None) };
        Ok(placed.exists(&self.virsh)?.then_some(placed))
    }

    fn found(&self, place: &Path) -> Result<Placed> {
        self.find(place)?.ok_or_else(|| Error::not_found(format!("libvirt has no domain for {}", place.display())))
    }
}

impl Driver for Libvirt {
    fn name(&self) -> &'static str {
        "libvirt"
    }

    fn life_cycle(&self) -> Option<&dyn LifeCycle> {
        Some(self)
    }

    fn inventory(&self) -> Option<&dyn Inventory> {
        Some(self)
    }

    fn tracking(&self) -> Option<&dyn Tracking> {
        Some(self)
    }

    /// Of another host's machines nothing can be compared here.
    fn relocation(&self) -> Option<&dyn Relocation> {
        if self.is_local() { Some(self) } else { None }
    }
}

impl LifeCycle for Libvirt {
    fn user(&self) -> Result<Option<(u32, u32)>> {
        let capabilities = self.virsh.run(&["capabilities"])?;
        if !self.is_local() {
            return Ok(None);
        }
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(shown::user(&capabilities)?.filter(|user| *user != own))
    }

    fn start(&self, machine: &Machine, disks: &[DiskSource], place: &Path) -> Result<Vec<String>> {
        let (placed, notes) = match Placed::read(place)? {
            Some(begun) => (begun, Vec::new()),
            None => self.begin(machine, disks, place, false)?,
        };
        if placed.exists(&self.virsh)? && placed.state(&self.virsh)? != State::Off {
            return Ok(notes);
        }
        let config = placed.define(&self.virsh, true)?;
        if let Err(e) = self.virsh.domain("start", placed.name(), &[]) {
            placed.undefine(&self.virsh)?;
            return Err(e);
        }
        Ok(notes.into_iter().chain(config.notes).collect())
    }

    fn define(&self, machine: &Machine, disks: &[DiskSource], place: &Path, replace: bool) -> Result<Vec<String>> {
        let (placed, notes) = self.begin(machine, disks, place, replace)?;
        Ok(notes.into_iter().chain(placed.define(&self.virsh, true)?.notes).collect())
    }

    fn state(&self, place: &Path) -> Result<State> {
        self.find(place)?.map_or(Ok(State::Off), |placed| placed.state(&self.virsh))
    }

    fn resume(&self, place: &Path) -> Result<()> {
        self.virsh.domain("resume", self.found(place)?.name(), &[]).map(drop)
    }

    fn shut_down(&self, place: &Path, grace: Duration) -> Result<bool> {
        let Some(placed) = self.find(place)? else { return Ok(true) };
        let until = Instant::now() + grace;
        match placed.state(&self.virsh)? {
            State::Off => return Ok(true),
            // One that stands still hears nothing.
            State::Paused(_) => self.resume(place)?,
            State::Running => {}
        }
        self.virsh.domain("shutdown", placed.name(), &[])?;
        while placed.state(&self.virsh)? != State::Off {
            if Instant::now() > until {
                return Ok(false);
            }
            thread::sleep(TICK);
        }
        Ok(true)
    }

    fn stop(&self, place: &Path) -> Result<()> {
        let Some(placed) = self.find(place)? else { return Ok(()) };
        if placed.state(&self.virsh)? != State::Off
            && let Err(e) = self.virsh.domain("destroy", placed.name(), &[])
            // Its guest may just have shut it down.
            && placed.state(&self.virsh)? != State::Off
        {
            return Err(e);
        }
        placed.undefine(&self.virsh)
    }

    fn access(&self, place: &Path) -> Access {
        let Ok(Some(placed)) = Placed::read(place) else { return Access::default() };
        let vnc = self.virsh.domain("domdisplay", placed.name(), &[]).ok().map(|uri| uri.trim().to_owned());
        Access {
            pid: None,
            domain: Some(placed.name().to_owned()),
            console: Some(format!("virsh -c {} console {}", self.virsh.uri(), placed.name())),
            console_log: Some(placed.console_log()).filter(|log| log.exists()),
            vnc: vnc.filter(|uri| !uri.is_empty()),
            qmp: None,
        }
    }
}

impl Libvirt {
    /// Writes down what is going to be defined in `place`. What is other than described.
    fn begin(
        &self,
        machine: &Machine,
        disks: &[DiskSource],
        place: &Path,
        replace: bool,
    ) -> Result<(Placed, Vec<String>)> {
        let mut notes = Vec::new();
        let spec = Spec {
            machine: self.identified(machine, place, replace, &mut notes)?,
            disks: disks.to_vec(),
            settings: Settings { accelerator: self.accelerator(), ..self.settings.clone() },
        };
        Ok((Placed::begin(place, &self.virsh, spec, replace)?, notes))
    }

    /// What runs processors: KVM where libvirt has it and, on this host, it works.
    fn accelerator(&self) -> Accelerator {
        if self.settings.accelerator != Accelerator::Auto {
            return self.settings.accelerator;
        }
        let told = self.virsh.run(&["domcapabilities", "--virttype", "kvm", "--arch", "x86_64"]);
        let emulator = told.ok().and_then(|told| shown::emulator(&told));
        match emulator {
            Some(program) if !self.is_local() || has_kvm(&program) => Accelerator::Kvm,
            _ => Accelerator::Tcg,
        }
    }

    /// `machine` with a UUID that no other domain has, but the one that it takes the place of with `replace`, and the
    /// addresses of its cards: it has them for good.
    fn identified(&self, machine: &Machine, place: &Path, replace: bool, notes: &mut Vec<String>) -> Result<Machine> {
        let mut machine = machine.clone();
        let replaced = place::name_of(place)?;
        let taken = place::domains(&self.virsh)?;
        let is_taken = |uuid: &String| taken.iter().any(|(its, name)| its == uuid && !(replace && *name == replaced));
        if machine.uuid.as_ref().is_some_and(is_taken) {
            machine.uuid = None;
            notes.push("it has a UUID of its own: another domain of this libvirt has the one that it had".into());
        }
        machine.uuid.get_or_insert_with(random_uuid);
        for nic in &mut machine.nics {
            nic.mac = Some(nic.mac.filter(|_| self.settings.keep_macs).unwrap_or_else(Mac::random));
        }
        Ok(machine)
    }
}

impl Relocation for Libvirt {
    fn disks(&self, place: &Path) -> Result<Vec<DiskSource>> {
        Ok(self.found(place)?.spec.disks)
    }

    fn begin(&self, place: &Path, targets: &[Target]) -> Result<()> {
        relocation::begin(&self.virsh, self.found(place)?, targets)
    }

    fn progress(&self, place: &Path) -> Result<Option<Progress>> {
        relocation::find(&self.virsh, self.found(place)?)?.map(|moving| moving.progress()).transpose()
    }

    fn complete(&self, place: &Path) -> Result<()> {
        let nothing = || Error::invalid(format!("the disks of the machine in {} are not being moved", place.display()));
        relocation::find(&self.virsh, self.found(place)?)?.ok_or_else(nothing)?.complete()
    }

    fn cancel(&self, place: &Path) -> Result<()> {
        relocation::find(&self.virsh, self.found(place)?)?.map_or(Ok(()), relocation::Moving::cancel)
    }
}

/// A new UUID (RFC 9562, version 4).
fn random_uuid() -> String {
    let bits = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_and_uris() {
        let uuid = random_uuid();
        assert!(uuid.len() == 36 && uuid.as_bytes()[14] == b'4' && b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
        assert_ne!(uuid, random_uuid());
        for (uri, is_local) in [(SYSTEM, true), ("qemu:///session", true), ("qemu+ssh://root@host/system", false)] {
            let driver = Libvirt::new(uri, Settings::default()).expect(uri);
            assert_eq!(driver.is_local(), is_local, "{uri}");
            assert_eq!(driver.relocation().is_some(), is_local, "{uri}");
        }
        for uri in ["", "xen:///system", "test:///default", "qemu:///system --help", "-x"] {
            assert!(Libvirt::new(uri, Settings::default()).is_err(), "{uri}");
        }
    }
}
