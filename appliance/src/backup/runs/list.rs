//! What there is: machines and their backups.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use blockdev::Result;
use hv_drivers::driver::{Inventory, Listed};
use serde_json::{Value, json};

use super::{Backups, List};
use crate::backup::{hypervisors, record::Point};

/// How long the lists of hypervisors are believed.
const LISTED: Duration = Duration::from_secs(2);

/// The machines of each hypervisor, and when they were asked for.
pub type Known = (Instant, BTreeMap<String, Vec<String>>);

impl List {
    /// Whether `machine` of `hypervisor` is one of them.
    pub fn has(&self, hypervisor: &str, machine: &Listed) -> bool {
        self.on.as_ref().is_none_or(|on| on == hypervisor)
            && (self.tags.is_empty() || self.tags.iter().any(|tag| machine.tags.contains(tag)))
            && (self.like.is_empty() || self.like.iter().any(|pattern| matches(pattern, &machine.name)))
    }
}

impl Backups {
    pub(super) fn status(&self) -> Result<Value> {
        let all: Vec<_> = self.machines.lock().values().cloned().collect();
        let point = |point: &Point| {
            json!({
                "job": point.job,
                "level": point.level,
                "time": point.begun,
                "files": point.disks.iter().map(|member| member.file.clone()).collect::<Vec<_>>(),
                "bytes": point.disks.iter().map(|member| member.bytes).sum::<u64>(),
            })
        };
        Ok(all
            .iter()
            .map(|machine| {
                let chain = machine.chain.read();
                let live = machine.live.read();
                json!({
                    "machine": chain.key(),
                    "points": chain.points.iter().map(point).collect::<Vec<_>>(),
                    "running": chain.run.as_ref().map(|run| json!({
                        "job": run.point.job,
                        "level": run.point.level,
                        "phase": run.phase,
                        "bytes": live.as_ref().map(|run| run.bytes()),
                        "delivered": live.as_ref().map(|run| run.delivered()),
                    })),
                    "distrusted": chain.distrusted,
                })
            })
            .collect())
    }

    pub(super) fn list(&self, list: &List) -> Result<Value> {
        let folder = |path: &Path| self.mounted.get().map_or_else(|| path.to_owned(), |mounted| mounted.join(path));
        let told = |(hypervisor, machine): (String, Listed)| {
            json!({
                "machine": format!("{hypervisor}/{}", machine.name),
                "tags": machine.tags,
                "folder": folder(&Path::new("backup").join(&hypervisor).join(&machine.name)),
            })
        };
        Ok(hypervisors::listed(&self.sources, list)?.into_iter().map(told).collect())
    }

    /// The machines of each hypervisor, and those that were backed up.
    pub(super) fn listed(&self) -> BTreeMap<String, Vec<String>> {
        let mut listed = self.listed.lock();
        if let Some((_, known)) = listed.as_ref().filter(|(at, _)| at.elapsed() < LISTED) {
            return known.clone();
        }
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, driver) in hypervisors::all(&self.sources).unwrap_or_default() {
            let names = hypervisors::inventory(driver.as_ref()).and_then(Inventory::names);
            found.insert(name, names.unwrap_or_default());
        }
        for machine in self.machines.lock().values() {
            let chain = machine.chain.read();
            let names = found.entry(chain.hypervisor.clone()).or_default();
            if !names.contains(&chain.machine) {
                names.push(chain.machine.clone());
            }
        }
        found.values_mut().for_each(|names| names.sort());
        *listed = Some((Instant::now(), found.clone()));
        found
    }
}

/// Whether `name` is as `pattern` says, in which `*` stands for any characters and `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Which beginnings of the name match the beginning of the pattern that was looked at.
    let mut reached: Vec<bool> = std::iter::once(true).chain(name.iter().map(|_| false)).collect();
    for wanted in pattern {
        let mut next = vec![false; reached.len()];
        let mut any = false;
        for at in 0..reached.len() {
            any |= reached[at];
            next[at] = match wanted {
                '*' => any,
                wanted => at > 0 && reached[at - 1] && (wanted == '?' || name[at - 1] == wanted),
            };
        }
        reached = next;
    }
    reached.last() == Some(&true)
}
