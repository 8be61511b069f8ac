//! What the tree shows of them.

use std::{path::Path, sync::Arc};

use vfs::providers::backup::{Live, LiveFile};

use super::{Backups, Machine};
use crate::backup::{chain, shown::Shown};

impl Machine {
    fn files(&self, folder: &Path) -> Vec<Arc<dyn LiveFile>> {
        let chain = self.chain.read();
        let live = self.live.read();
        let newest = chain.points.last().map(|point| point.number);
        let top = match live.as_ref() {
            Some(run) => run.point.parent,
            None => newest,
        };
        let ancestors =
            top.map(|number| chain::ancestors(&chain.points, number).unwrap_or_default()).unwrap_or_default();
        let past = ancestors.iter().flat_map(|point| Shown::past(point, folder));
        let own: Vec<Arc<Shown>> = match (live.as_ref(), ancestors.last()) {
            (Some(run), _) => run.files().to_vec(),
            (None, Some(point)) => Shown::texts(point),
            (None, None) => Vec::new(),
        };
        past.chain(own).map(|file| file as Arc<dyn LiveFile>).collect()
    }
}

impl Live for Backups {
    fn folders(&self, path: &[&str]) -> Option<Vec<String>> {
        let mut listed = self.listed();
        match path {
            [] => Some(listed.into_keys().collect()),
            [hypervisor] => listed.remove(*hypervisor),
            _ => None,
        }
    }

    fn files(&self, hypervisor: &str, machine: &str) -> Vec<Arc<dyn LiveFile>> {
        let found = self.machines.lock().get(&format!("{hypervisor}/{machine}")).cloned();
        let Some(machine) = found else { return Vec::new() };
        let folder = self.store.folder(&machine.chain.read());
        machine.files(&folder)
    }
}
