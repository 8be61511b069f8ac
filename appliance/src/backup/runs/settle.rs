//! What a job leaves behind: kept or taken back, also after a crash.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use blockdev::{Error, Result};
use parking_lot::Mutex;

use super::{Backups, Machine};
use crate::{
    backup::{
        chain, hypervisors,
        record::{Chain, Phase},
        run::Run,
    },
    output,
};

impl Backups {
    /// Brings to its end what a job has left: kept, or taken back. Nothing is live any more.
    pub(super) fn settle(&self, machine: &Machine) -> Result<()> {
        let chain = machine.chain.read().clone();
        let Some(run) = &chain.run else { return Ok(()) };
        let driver = hypervisors::one(&self.sources, &chain.hypervisor)?;
        let tracking = hypervisors::tracking(driver.as_ref())?;
        let folder = self.store.folder(&chain);
        let mark = &run.point.mark;
        if run.phase == Phase::Keeping {
            let needed = chain::still_needed(&chain.points, &run.point);
            let kept: Vec<String> =
                chain.points.iter().filter(|p| needed.contains(&p.number)).map(|p| p.mark.clone()).collect();
            tracking.keep(&chain.machine, mark, &kept)?;
            machine.change(&self.store, |chain| {
                chain.points.retain(|point| needed.contains(&point.number));
                chain.points.extend(chain.run.take().map(|run| run.point));
            })?;
        } else {
            tracking.roll_back(&chain.machine, mark, chain.points.last().map(|point| point.mark.as_str()))?;
            machine.change(&self.store, |chain| chain.run = None)?;
        }
        remove_unknown(&folder, &machine.chain.read());
        Ok(())
    }

    /// Takes back a job that cannot be ended well any more. Who ends it is told why.
    pub(super) fn give_up(&self, machine: &Machine, run: &Run, why: &str) -> Result<()> {
        let job = run.point.job.clone();
        output::note(&format!("{}: {job} is taken back: {why}", machine.chain.read().key()));
        *machine.given_up.lock() = Some((job, why.to_owned()));
        self.abandon(machine)
    }

    /// Takes back the running jobs that cannot be ended well any more; called often: a guest may be waiting for room.
    pub fn watch(&self) {
        for machine in self.machines() {
            let Some(_changing) = machine.changing.try_lock() else { continue };
            let live = machine.live.read().clone();
            if let Some(run) = live
                && let Some(why) = run.doomed()
                && let Err(e) = self.give_up(&machine, &run, &why)
            {
                tell_once(&machine, &e);
            }
        }
    }

    /// Cleans up what crashes have left; called again and again.
    pub fn tend(&self) {
        for machine in self.machines() {
            let Some(_changing) = machine.changing.try_lock() else { continue };
            let is_live = machine.live.read().is_some();
            if !is_live && let Err(e) = self.settle(&machine) {
                tell_once(&machine, &e);
            }
        }
        // Last: what was taken back has made room for it.
        self.store.keep_reserve();
    }

    fn machines(&self) -> Vec<Arc<Machine>> {
        self.machines.lock().values().cloned().collect()
    }
}

/// Notes what keeps a machine from being cleaned up, when that is new.
fn tell_once(machine: &Machine, e: &Error) {
    static TOLD: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let (key, text) = (machine.chain.read().key(), e.to_string());
    if TOLD.lock().insert(key.clone(), text.clone()).as_ref() != Some(&text) {
        output::note(&format!("{key}: {text}; trying again"));
    }
}

/// Removes files that no point has: digests of jobs that were taken back or are not needed any more, and what the guest had
/// overwritten during a job whose hypervisor did not live to its end.
fn remove_unknown(folder: &Path, chain: &Chain) {
    let known = |name: &str| chain.points.iter().any(|point| point.digests.name == name);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if [".digests", ".qcow2", ".sock"].iter().any(|end| name.ends_with(end)) && !known(&name) {
            // It is tried again after the next job.
            let _ = fs::remove_file(entry.path());
        }
    }
}
