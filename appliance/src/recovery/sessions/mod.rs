//! All sessions of a daemon: begun, kept alive, stopped. What becomes of their machines is in `running`.
//!
//! Each session has a lock that whoever changes it holds: stopping waits for preparing. What a session needs besides, its
//! sources, is shared with others that name the same.

mod adopted;
mod moved;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use blockdev::{Error, ErrorKind, ReadAt, Result};
use hv_drivers::{driver::Settled, machine::Firmware, settings::Settings};
use parking_lot::Mutex;
use serde_json::{Value, json};

pub use self::adopted::Adopted;
use super::{
    doors::{self, reach::Reach},
    live::Live,
    machine,
    record::{DiskFormat, DiskRecord, Door, Hypervisor, Record, State, now},
    store::Store,
    target,
};
use crate::{
    cli::Sources,
    commands::{
        Opened, open_sources,
        source::{DiskSource, Disks},
    },
    guest_fix, output,
    smb::Login,
};

/// What is to be recovered, and how.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Wish {
    /// `MACHINE`, `MACHINE@TIME` or a path of the tree.
    pub target: String,
    pub sources: Sources,
    pub door: Door,
    pub format: Option<DiskFormat>,
    pub login: Option<Login>,
    pub listen: Option<String>,
    pub allow: Vec<String>,
    pub quota: Option<u64>,
    /// Seconds.
    pub lease: Option<u64>,
    pub fix: Option<guest_fix::Target>,
    /// How the machine is run here, and by whom; `None`: it is not.
    pub run: Option<(Hypervisor, Settings)>,
    /// Its firmware, whatever its description says.
    pub firmware: Option<Firmware>,
}

/// The sessions of a state folder. One process has them at a time.
pub struct Sessions {
    pub(super) store: Store,
    pub(super) live: Mutex<BTreeMap<String, Arc<Live>>>,
    /// What sessions wait for at this moment. It is not written down: it may be room for writing.
    waits: Mutex<BTreeMap<String, String>>,
    /// Locks of sessions that somebody is changing or has changed.
    changing: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    opened: Mutex<Vec<(Sources, Weak<Opened>)>>,
}

impl Sessions {
    pub fn new(store: Store) -> Self {
        Self {
            store,
            live: Mutex::default(),
            waits: Mutex::default(),
            changing: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    /// Begins a session and tells its steps; what it is then.
    ///
    /// # Errors
    ///
    /// When the restore point cannot be found, or the session cannot be made; nothing is left of it then.
    pub fn start(&self, wish: &Wish, step: &dyn Fn(&str)) -> Result<Value> {
        step("restore point");
        let opened = self.sources(&wish.sources, true)?;
        let target = target::Target::find(&opened, &wish.target)?;
        let disks = disks_of(&wish.sources, &opened, &target)?;
        let id = self.store.new_id(&target.machine)?;
        let (hypervisor, settings) = wish.run.clone().unzip();
        let mut record = Record {
            id: id.clone(),
            machine: target.machine,
            point: target.path,
            state: State::Preparing,
            problem: None,
            created: now(),
            lease_until: wish.lease.map(|seconds| now().saturating_add(seconds)),
            sources: wish.sources.clone(),
            door: wish.door,
            format: wish.format,
            login: wish.login.clone(),
            listen: wish.listen.clone(),
            allow: wish.allow.clone(),
            addresses: Vec::new(),
            disks,
            quota: wish.quota,
            fix: wish.fix,
            fixed: false,
            settings,
            hypervisor: hypervisor.unwrap_or_default(),
            reach: None,
            firmware: wish.firmware,
            targets: Vec::new(),
            moved: false,
        };
        record.reach = machine::check(&record)?.map(|user| Reach::new(&id, user));
        let lock = self.lock_of(&id);
        let guard = lock.lock();
        self.store.put(&record)?;
        step(&format!("session {id}"));
        let made = self.bring_up(record, &opened, step);
        drop(guard);
        match made {
            Ok(record) => Ok(self.value(&record)),
            Err(e) => {
                // Nobody knows of it yet, so nobody would stop it.
                if let Err(left) = self.stop(&id, None, &|_| ()) {
                    output::note(&format!("{id}: what is left of it cannot be removed: {left}"));
                }
                Err(e)
            }
        }
    }

    /// Makes alive what `record` says, as far as it is not.
    fn bring_up(&self, mut record: Record, opened: &Arc<Opened>, step: &dyn Fn(&str)) -> Result<Record> {
        if !self.live.lock().contains_key(&record.id) {
            let live = Live::open(&mut record, opened, &self.store, step)?;
            // What it waited for is there; who sees it served sees that, too.
            record.problem = None;
            self.store.put(&record)?;
            self.live.lock().insert(record.id.clone(), Arc::new(live));
        }
        let live = self.live.lock().get(&record.id).map(Arc::clone);
        if let (Some(live), Some(target), false) = (&live, record.fix, record.fixed) {
            live.fix(&record, &self.store.session_folder(&record.id), target, step)?;
            record.fixed = true;
            self.store.put(&record)?;
        }
        if let (Some(live), Some(_), State::Preparing) = (&live, &record.settings, record.state) {
            step("machine");
            let machine = machine::described(opened, &record, &live.sources())?;
            let (folder, session) = (self.store.machine_folder(&record.id), self.store.session_folder(&record.id));
            let notes = machine::start(&folder, &session, &record, &machine)?;
            notes.iter().for_each(|note| step(&format!("machine: {note}")));
        }
        if record.state == State::Preparing {
            record.state = if record.settings.is_some() { State::Running } else { State::Ready };
        }
        self.store.put(&record)?;
        step("ready");
        Ok(record)
    }

    /// Goes on with every session that was not ended, and ends those whose time is over. Called again and again: what fails
    /// is tried again, and its reason is in the listing.
    pub fn tend(self: &Arc<Self>) {
        let records = match self.store.all() {
            Ok(records) => records,
            Err(e) => return output::error(&e),
        };
        for record in records {
            let id = record.id.clone();
            let lock = self.lock_of(&id);
            // Somebody is at it.
            let Some(guard) = lock.try_lock() else { continue };
            // It may have changed since it was listed.
            let Ok(record) = self.store.get(&id) else { continue };
            let live = self.live.lock().get(&id).map(Arc::clone);
            let is_live = live.is_some();
            let waits = if record.state == State::Moved {
                Ok(None)
            } else if record.state == State::Stopping || record.is_overdue() {
                drop(guard);
                self.stop(&id, None, &|_| ()).map(|()| None)
            } else if record.state == State::Migrating && is_live {
                drop(guard);
                self.go_on_moving(id.clone());
                Ok(None)
            } else if let (State::Ready | State::Running | State::Off, Some(live)) = (record.state, &live) {
                live.tend().and_then(|()| self.look_after(record))
            } else if record.state == State::Preparing || (record.state.is_served() && !is_live) {
                let resumed =
                    self.sources(&record.sources, false).and_then(|opened| self.bring_up(record, &opened, &|_| ()));
                resumed.map(|_| {
                    output::note(&format!("{id}: goes on"));
                    None
                })
            } else {
                Ok(None)
            };
            self.waits_for(&id, waits.unwrap_or_else(|e| Some(e.to_string())));
        }
    }

    /// Tells what a session waits for, when it is another thing than before.
    fn waits_for(&self, id: &str, what: Option<String>) {
        let mut waits = self.waits.lock();
        if waits.get(id) == what.as_ref() {
            return;
        }
        match what {
            Some(what) => {
                output::note(&format!("{id}: {what}"));
                waits.insert(id.to_owned(), what);
            }
            None => drop(waits.remove(id)),
        }
    }

    /// Ends a session and removes all that it made. What was removed before, by a stop that was broken off, is no error. With
    /// `shutdown` its guest is asked to shut down first and has so long for that. A machine that has moved is only asked.
    ///
    /// # Errors
    ///
    /// When there is no such session, or something cannot be removed: then it stays listed and can be stopped again. When
    /// the guest of a machine that has moved does not shut down: it runs on.
    pub fn stop(&self, id: &str, shutdown: Option<Duration>, step: &dyn Fn(&str)) -> Result<()> {
        if let Some(live) = self.live.lock().get(id) {
            live.is_ending.store(true, Ordering::Relaxed);
        }
        let lock = self.lock_of(id);
        let _guard = lock.lock();
        let mut record = self.store.get(id)?;
        let machine = self.store.machine_folder(id);
        if record.state == State::Moved {
            return moved::shut_down(&record, &machine, shutdown, step);
        }
        if let (Some(grace), Some(_), false) = (shutdown, &record.settings, record.moved) {
            step("shutting down");
            match machine::shut_down(&record, &machine, grace) {
                Ok(true) => {}
                Ok(false) => step(&format!("the guest has not shut down within {} s; it is ended", grace.as_secs())),
                Err(e) => step(&format!("the guest cannot be asked to shut down: {e}")),
            }
        }
        record.state = State::Stopping;
        match self.store.put(&record) {
            // What is removed now makes the room.
            Err(e) if e.kind() == ErrorKind::NoSpace => output::note(&format!("{id}: {e}")),
            put => put?,
        }
        if !record.moved && machine.exists() {
            step("machine");
            // One that had gone over to disks that stay has left nothing here but what it is started by.
            if machine::stop(&record, &machine)? == Some(Settled::Moved) {
                record.moved = true;
                self.store.put(&record)?;
            } else {
                removed(&machine)?;
            }
        }
        let live = self.live.lock().remove(id);
        if let Some(live) = live {
            step("door");
            // What the machine wrote last is thrown away with the overlay.
            if let Err(e) = live.close() {
                output::note(&format!("{id}: {e}"));
            }
        }
        let session = self.store.session_folder(id);
        doors::sweep(&record, &session)?;
        step("overlays");
        removed(&session)?;
        if record.moved {
            record.state = State::Moved;
            (record.problem, record.lease_until) = (None, None);
            record.addresses.clear();
            record.disks.iter_mut().for_each(|disk| disk.uri = None);
            self.store.put(&record)?;
        } else {
            self.store.delete(id)?;
        }
        self.changing.lock().remove(id);
        self.waits.lock().remove(id);
        step("stopped");
        Ok(())
    }

    /// Gives a session `seconds` from now, or takes its end away.
    ///
    /// # Errors
    ///
    /// When there is no such session.
    pub fn renew(&self, id: &str, seconds: Option<u64>) -> Result<Value> {
        let lock = self.lock_of(id);
        let _guard = lock.lock();
        let mut record = self.store.get(id)?;
        if record.state == State::Moved {
            return Err(Error::invalid(format!("{id} is over: its machine has disks of its own, and stays")));
        }
        record.lease_until = seconds.map(|seconds| now().saturating_add(seconds));
        self.store.put(&record)?;
        Ok(self.value(&record))
    }

    /// Lets the overlays of a session take `bytes` each, or as much as there is.
    ///
    /// # Errors
    ///
    /// When there is no such session.
    pub fn set_quota(&self, id: &str, bytes: Option<u64>) -> Result<Value> {
        let lock = self.lock_of(id);
        let _guard = lock.lock();
        let mut record = self.store.get(id)?;
        record.quota = bytes;
        self.store.put(&record)?;
        if let Some(live) = self.live.lock().get(id) {
            live.set_quota(bytes);
        }
        Ok(self.value(&record))
    }

    /// The sessions; with `all` the machines, too, that have moved.
    pub fn list(&self, all: bool) -> Result<Value> {
        let records = self.store.all()?;
        let listed = records.iter().filter(|record| all || record.state != State::Moved);
        Ok(listed.map(|record| self.value(record)).collect())
    }

    pub fn show(&self, id: &str) -> Result<Value> {
        Ok(self.value(&self.store.get(id)?))
    }

    /// Whether there is nothing to keep alive.
    pub fn is_idle(&self) -> bool {
        self.store.all().is_ok_and(|all| all.iter().all(|record| record.state == State::Moved))
    }

    /// Closes all doors in good order. The sessions stay, and go on with the next daemon.
    pub fn close(&self) {
        for (id, live) in std::mem::take(&mut *self.live.lock()) {
            if let Err(e) = live.close() {
                output::note(&format!("{id}: {e}"));
            }
        }
    }

    /// A session for programs.
    pub(super) fn value(&self, record: &Record) -> Value {
        let live = self.live.lock().get(&record.id).map(Arc::clone);
        let waits = self.waits.lock().get(&record.id).cloned();
        let figures = live.as_ref().map(|live| live.figures()).unwrap_or_default();
        json!({
            "id": record.id,
            "machine": record.machine,
            "point": record.point,
            "state": record.state.name(),
            "problem": waits.or_else(|| record.problem.clone()),
            "served": live.is_some(),
            "created": record.created,
            "age": now().saturating_sub(record.created),
            "lease_until": record.lease_until,
            "door": record.door,
            "warning": doors::warning(record),
            "addresses": record.addresses,
            "disks": record.disks.iter().map(|disk| json!({
                "name": disk.name,
                "source": disk.source,
                "size": disk.size,
                "uri": disk.uri,
                "overlay": record.overlay(&self.store.session_folder(&record.id), disk),
            })).collect::<Vec<_>>(),
            "machine_state": machine::value(record, &self.store.machine_folder(&record.id)),
            "moved_to": record.targets.iter().filter(|_| record.moved).collect::<Vec<_>>(),
            "overlay_quota": record.quota,
            "overlay_bytes": figures.overlay_bytes,
            "bytes_read": figures.bytes_read,
            "bytes_written": figures.bytes_written,
            "bytes_read_ahead": figures.bytes_ahead,
            "errors": figures.errors,
            "clients": figures.clients,
        })
    }

    pub(super) fn lock_of(&self, id: &str) -> Arc<Mutex<()>> {
        Arc::clone(self.changing.lock().entry(id.to_owned()).or_default())
    }

    /// The opened sources, shared by all who name the same; looked at again if they are to be `fresh`.
    fn sources(&self, sources: &Sources, fresh: bool) -> Result<Arc<Opened>> {
        let mut all = self.opened.lock();
        all.retain(|(_, opened)| opened.strong_count() > 0);
        if let Some(opened) = all.iter().find(|(s, _)| s == sources).and_then(|(_, opened)| opened.upgrade()) {
            if fresh {
                opened.archive.refresh()?;
            }
            return Ok(opened);
        }
        let opened = Arc::new(open_sources(sources)?);
        all.push((sources.clone(), Arc::downgrade(&opened)));
        Ok(opened)
    }
}

/// Removes a folder and all in it, if it is there.
fn removed(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", folder.display()), e))
        }
        _ => Ok(()),
    }
}

/// The disks of a restore point.
fn disks_of(sources: &Sources, opened: &Arc<Opened>, target: &target::Target) -> Result<Vec<DiskRecord>> {
    let disks = Disks::opened(sources, Arc::clone(opened)).several(target.path.as_ref(), None)?;
    let record = |disk: &DiskSource| DiskRecord {
        // A name that is a path is no name of a file.
        name: disk.name(&disks).replace('/', "_"),
        source: disk.label.clone(),
        size: disk.image.disk.size(),
        uri: None,
    };
    Ok(disks.iter().map(record).collect())
}
