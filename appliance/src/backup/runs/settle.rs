//! What a job leaves behind: kept or taken back, also after a crash.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use blockdev::Result;
use parking_lot::Mutex;

use super::{Backups, Machine};
use crate::{
    backup::{
        chain, hypervisors,
        record::{Chain, Phase},
    },
    output,
};

/// How long nobody may read anything of a job that is running: a File daemon that was killed never says that it ended.
const LEASE: Duration = Duration::from_secs(2 * 3600);

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

    /// Cleans up after crashes and File daemons that never came back; called again and again.
    pub fn tend(&self) {
        let all: Vec<_> = self.machines.lock().values().cloned().collect();
        for machine in all {
            let Some(_changing) = machine.changing.try_lock() else { continue };
            let live = machine.live.read().clone();
            let key = machine.chain.read().key();
            let done = match live {
                Some(run) if run.idle() > LEASE => {
                    output::note(&format!("{key}: nobody reads the backup {}: it is taken back", run.point.job));
                    self.abandon(&machine)
                }
                Some(_) => Ok(()),
                None => self.settle(&machine),
            };
            if let Err(e) = done {
                static TOLD: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
                let text = e.to_string();
                if TOLD.lock().insert(key.clone(), text.clone()).as_ref() != Some(&text) {
                    output::note(&format!("{key}: {text}; trying again"));
                }
            }
        }
    }
}

/// Removes files of digests that no point has: of jobs that were taken back, or are not needed any more.
fn remove_unknown(folder: &Path, chain: &Chain) {
    let known = |name: &str| chain.points.iter().any(|point| point.digests.name == name);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".digests") && !known(&name) {
            // It is tried again after the next job.
            let _ = fs::remove_file(entry.path());
        }
    }
}
