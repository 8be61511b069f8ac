//! All machines' backups: begun, ended, shown, and cleaned up after a crash.
//!
//! What is done at a hypervisor is written down before it is done. So whatever a crash leaves there has a name here: a job
//! that was being read is taken back, one that was proven is kept, and both are tried until the hypervisor answers.
//!
//! `request`: what is asked for; `begin`, `end`: around a job; `settle`: what it leaves behind; `list`, `files`: what there
//! is to be seen.

mod begin;
mod end;
mod files;
mod list;
mod request;
mod settle;

use std::{
    collections::BTreeMap,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use blockdev::{Error, Result};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use self::list::Known;
pub use self::request::{Begin, End, List, Request};
use super::{file_daemon::FileDaemon, record::Chain, run::Run, store::Store};
use crate::{cli::Sources, output};

/// All of them. One process has them at a time.
pub struct Backups {
    store: Store,
    sources: Sources,
    /// Where the tree is mounted: without that nobody can read anything.
    mounted: OnceLock<PathBuf>,
    machines: Mutex<BTreeMap<String, Arc<Machine>>>,
    listed: Mutex<Option<Known>>,
}

/// A machine's.
struct Machine {
    /// Held by who begins, ends or cleans up.
    changing: Mutex<()>,
    chain: RwLock<Chain>,
    live: RwLock<Option<Arc<Run>>>,
    /// The job that was given up last, and why.
    given_up: Mutex<Option<(String, String)>>,
}

impl Machine {
    fn new(chain: Chain) -> Arc<Self> {
        Arc::new(Self {
            changing: Mutex::default(),
            chain: RwLock::new(chain),
            live: RwLock::default(),
            given_up: Mutex::default(),
        })
    }
}

/// `HYPERVISOR/MACHINE`.
fn split(name: &str) -> Result<(&str, &str)> {
    let parts = name.trim_matches('/').split_once('/');
    parts.filter(|(_, machine)| !machine.contains('/') && !machine.is_empty() && !machine.starts_with('.')).ok_or_else(
        || Error::invalid(format!("{name} is not HYPERVISOR/MACHINE; `revenant backup list` shows what there is")),
    )
}

impl Backups {
    /// Those of a state folder, with the hypervisors that are configured.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn open(folder: &Path, sources: &Sources) -> Result<Self> {
        let store = Store::open(folder)?;
        let machine = |chain: Chain| (chain.key(), Machine::new(chain));
        let machines = store.all()?.into_iter().map(machine).collect();
        Ok(Self {
            store,
            sources: sources.clone(),
            mounted: OnceLock::new(),
            machines: Mutex::new(machines),
            listed: Mutex::new(None),
        })
    }

    /// Says where the tree is mounted.
    pub fn mounted_on(&self, folder: &Path) {
        let _once = self.mounted.set(folder.to_owned());
    }

    /// Does what `client` asks for, and tells its steps.
    ///
    /// # Errors
    ///
    /// When it cannot be done: the job is to be failed.
    pub fn answer(&self, request: &Request, client: &UnixStream, step: &dyn Fn(&str)) -> Result<Value> {
        match request {
            Request::Begin(begin) => self.begin(begin, FileDaemon::of(client), step).inspect_err(|e| {
                if begin.is_silent {
                    output::note(&format!("{}: {} was not begun: {e}", begin.machine, begin.job));
                }
            }),
            Request::End(end) => self.end(end, step),
            Request::Status => self.status(),
            Request::List(list) => self.list(list),
        }
    }

    fn machine(&self, name: &str) -> Result<Arc<Machine>> {
        let (hypervisor, machine) = split(name)?;
        let mut machines = self.machines.lock();
        let new = || Machine::new(Chain::new(hypervisor, machine));
        Ok(Arc::clone(machines.entry(format!("{hypervisor}/{machine}")).or_insert_with(new)))
    }

    /// Whether nothing has to be looked after.
    pub fn is_idle(&self) -> bool {
        self.machines.lock().values().all(|machine| machine.chain.read().run.is_none())
    }

    /// Ends in good order: jobs that are being read are taken back.
    pub fn close(&self) {
        let all: Vec<_> = self.machines.lock().values().cloned().collect();
        for machine in all {
            let _changing = machine.changing.lock();
            let is_live = machine.live.read().is_some();
            if is_live && let Err(e) = self.abandon(&machine) {
                output::note(&format!("{}: {e}", machine.chain.read().key()));
            }
        }
    }
}

impl Machine {
    /// Changes the chain, durably.
    fn change(&self, store: &Store, how: impl FnOnce(&mut Chain)) -> Result<()> {
        let mut chain = self.chain.write();
        let mut changed = chain.clone();
        how(&mut changed);
        store.put(&changed)?;
        *chain = changed;
        Ok(())
    }
}
