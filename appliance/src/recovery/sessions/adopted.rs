//! Machines that were not recovered here but restored: they are listed, started and forgotten as those whose disks have moved.

use blockdev::{Error, ErrorKind, Result};
use hv_drivers::{
    driver::{DiskSource, Target},
    machine::Machine,
    settings::Settings,
};

use super::{
    super::{
        machine,
        record::{DiskRecord, Door, Hypervisor, Record, State, now},
    },
    Sessions, removed,
};
use crate::cli::Sources;

/// A machine with disks that stay.
pub struct Adopted<'a> {
    /// What it is called here, and at its hypervisor.
    pub name: &'a str,
    pub machine: &'a Machine,
    pub hypervisor: &'a Hypervisor,
    pub settings: Settings,
    /// Its disks, files, in the order of the machine's.
    pub disks: &'a [DiskSource],
    /// One of its name that is off is replaced.
    pub replace: bool,
    /// What the daemon was started with.
    pub sources: &'a Sources,
}

impl Sessions {
    /// Makes a machine known to its hypervisor and puts it on the list. What is other than described.
    ///
    /// # Errors
    ///
    /// When there is one of its name, or the hypervisor refuses it: nothing of it is left then.
    pub fn adopt(&self, adopted: &Adopted<'_>) -> Result<Vec<String>> {
        let name = adopted.name;
        let lock = self.lock_of(name);
        let _guard = lock.lock();
        let folder = self.store.machine_folder(name);
        match self.store.get(name) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(known) if adopted.replace && known.state == State::Moved => {
                self.check_off(name)?;
                machine::stop(&known, &folder)?;
                removed(&folder)?;
            }
            Ok(_) => {
                return Err(Error::new(
                    ErrorKind::Exists,
                    format!("there is a machine {name} on the list already (`revenant recover list --all`)"),
                ));
            }
        }
        let record = record(adopted);
        self.store.put(&record)?;
        let made = machine::define(&record, adopted.machine, adopted.disks, &folder, adopted.replace);
        let notes = made.inspect_err(|_| {
            // It is not there: the list must not say so.
            let _ = self.store.delete(name).and_then(|()| removed(&folder));
        })?;
        Ok(notes)
    }

    /// Fails when a machine on the list runs: its disks are in use.
    ///
    /// # Errors
    ///
    /// So, and when its hypervisor does not answer.
    pub fn check_off(&self, name: &str) -> Result<()> {
        match self.store.get(name) {
            Ok(known) if !machine::is_off(&known, &self.store.machine_folder(name))? => {
                Err(Error::invalid(format!("the machine {name} runs: shut it down first")))
            }
            _ => Ok(()),
        }
    }

    /// Starts one that was adopted.
    ///
    /// # Errors
    ///
    /// When it does not start: it stays, and is off.
    pub fn start_adopted(&self, adopted: &Adopted<'_>) -> Result<()> {
        let lock = self.lock_of(adopted.name);
        let _guard = lock.lock();
        let record = self.store.get(adopted.name)?;
        machine::start_defined(&record, adopted.machine, adopted.disks, &self.store.machine_folder(adopted.name))
    }

    /// Takes one that was adopted away again: it has no disks.
    ///
    /// # Errors
    ///
    /// When its hypervisor does not let it go.
    pub fn disown(&self, name: &str) -> Result<()> {
        let lock = self.lock_of(name);
        let _guard = lock.lock();
        let folder = self.store.machine_folder(name);
        machine::stop(&self.store.get(name)?, &folder)?;
        removed(&folder)?;
        self.store.delete(name)
    }
}

fn record(adopted: &Adopted<'_>) -> Record {
    let file = |disk: &DiskSource| match disk {
        DiskSource::File { path, format } => Some(Target { path: path.clone(), format: *format }),
        _ => None,
    };
    let targets: Vec<Target> = adopted.disks.iter().filter_map(file).collect();
    let disk = |(disk, target): (&hv_drivers::machine::Disk, &Target)| DiskRecord {
        name: disk.name.clone().unwrap_or_default(),
        source: target.path.display().to_string(),
        size: disk.size.unwrap_or_default(),
        uri: None,
    };
    Record {
        id: adopted.name.to_owned(),
        machine: adopted.machine.name.clone(),
        point: "restored by Bacula".to_owned(),
        state: State::Moved,
        problem: None,
        created: now(),
        lease_until: None,
        sources: adopted.sources.clone(),
        door: Door::Nbd,
        format: None,
        login: None,
        listen: None,
        allow: Vec::new(),
        addresses: Vec::new(),
        disks: adopted.machine.disks.iter().zip(&targets).map(disk).collect(),
        quota: None,
        fix: None,
        fixed: false,
        settings: Some(adopted.settings.clone()),
        hypervisor: adopted.hypervisor.clone(),
        reach: None,
        firmware: None,
        targets,
        moved: true,
    }
}
