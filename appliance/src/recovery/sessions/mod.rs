//! All sessions of a daemon: begun, kept alive, moved, stopped.
//!
//! Each session has a lock that whoever changes it holds: stopping waits for preparing. What a session needs besides, its
//! sources, is shared with others that name the same.

mod moved;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Weak, atomic::Ordering},
    thread,
    time::Duration,
};

use blockdev::{Error, ErrorKind, ReadAt, Result};
use hv_drivers::{
    driver::{FileFormat, Target},
    settings::Settings,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

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
}

/// The sessions of a state folder. One process has them at a time.
pub struct Sessions {
    store: Store,
    live: Mutex<BTreeMap<String, Arc<Live>>>,
    /// Locks of sessions that somebody is changing or has changed.
    changing: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    opened: Mutex<Vec<(Sources, Weak<Opened>)>>,
}

impl Sessions {
    pub fn new(store: Store) -> Self {
        Self { store, live: Mutex::default(), changing: Mutex::default(), opened: Mutex::default() }
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
        record.problem = None;
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
            let outcome = if record.state == State::Moved {
                Ok(())
            } else if record.state == State::Stopping || record.is_overdue() {
                drop(guard);
                self.stop(&id, None, &|_| ())
            } else if record.state == State::Migrating && is_live {
                drop(guard);
                self.go_on_moving(id.clone());
                Ok(())
            } else if let (State::Ready | State::Running, Some(live)) = (record.state, &live) {
                self.look_after(&record, live)
            } else if record.state == State::Preparing || (record.state.is_served() && !is_live) {
                let resumed = self
                    .sources(&record.sources, false)
                    .and_then(|opened| self.bring_up(record.clone(), &opened, &|_| ()));
                resumed.map(|_| output::note(&format!("{id}: goes on")))
            } else {
                Ok(())
            };
            if let Err(e) = outcome {
                let text = e.to_string();
                if record.problem.as_ref() != Some(&text) {
                    output::note(&format!("{id}: {text}"));
                    let kept =
                        self.store.get(&id).and_then(|now| self.store.put(&Record { problem: Some(text), ..now }));
                    kept.unwrap_or_else(|e| output::error(&e));
                }
            }
        }
    }

    /// Looks after the doors and the machine of a session, and writes down what it waits for.
    fn look_after(&self, record: &Record, live: &Live) -> Result<()> {
        live.tend()?;
        let problem = match record.state {
            State::Running => machine::tend(record, &self.store.machine_folder(&record.id))?,
            _ => None,
        };
        if problem != record.problem {
            if let Some(problem) = &problem {
                output::note(&format!("{}: {problem}", record.id));
            }
            self.store.put(&Record { problem, ..record.clone() })?;
        }
        Ok(())
    }

    /// Goes on moving disks after a restart, beside everything else.
    fn go_on_moving(self: &Arc<Self>, id: String) {
        let all = Arc::clone(self);
        // Without a thread it is tried again in a moment.
        let _ = thread::Builder::new().name("moving".into()).spawn(move || {
            let known = all.store.get(&id).ok().and_then(|record| record.problem);
            if let Err(e) = all.migrate(&id, None, &|_| ())
                && known.is_none_or(|known| known != e.to_string())
            {
                output::note(&format!("{id}: {e}"));
            }
        });
    }

    /// Moves the disks of a session's running machine into `targets`, files in the order of its disks, and ends the session:
    /// the machine stays. Without targets, what was begun goes on.
    ///
    /// # Errors
    ///
    /// When there is no such session, its machine does not run, or its disks cannot be moved; it goes on as it was then.
    pub fn migrate(&self, id: &str, targets: Option<(PathBuf, FileFormat)>, step: &dyn Fn(&str)) -> Result<Value> {
        let lock = self.lock_of(id);
        let guard = lock.lock();
        let mut record = self.store.get(id)?;
        let live = self.live.lock().get(id).map(Arc::clone);
        let live =
            live.ok_or_else(|| Error::invalid(format!("{id} is not served at this moment: nothing can be moved")))?;
        match (targets, record.state) {
            (Some((folder, format)), State::Running) => {
                record.targets = targets_in(&folder, format, &record)?;
                record.state = State::Migrating;
                self.store.put(&record)?;
            }
            (None, State::Migrating) => {}
            (_, State::Migrating) => return Err(Error::invalid(format!("the disks of {id} are being moved already"))),
            (_, state) => {
                let state = state.name();
                return Err(Error::invalid(format!(
                    "{id} is {state}: only the disks of a running machine can be moved"
                )));
            }
        }
        let is_cancelled = || live.is_ending.load(Ordering::Relaxed);
        let folder = self.store.machine_folder(id);
        if let Err(e) = machine::migrate(&record, &folder, &record.targets, &is_cancelled, step) {
            // Where there is no way back it is tried again and again; but not with a copy that differs.
            if e.kind() == ErrorKind::Damaged || !machine::is_moving(&record, &folder) {
                record.state = State::Running;
                record.targets.clear();
            }
            record.problem = Some(e.to_string());
            self.store.put(&record)?;
            return Err(e);
        }
        record.moved = true;
        record.state = State::Stopping;
        self.store.put(&record)?;
        let moved = json!({ "id": id, "disks": record.targets, "machine": machine::value(&record, &folder) });
        drop(guard);
        self.stop(id, None, step)?;
        Ok(moved)
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
        self.store.put(&record)?;
        if !record.moved && machine.exists() {
            step("machine");
            machine::stop(&record, &machine)?;
            removed(&machine)?;
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
    fn value(&self, record: &Record) -> Value {
        let live = self.live.lock().get(&record.id).map(Arc::clone);
        let figures = live.as_ref().map(|live| live.figures()).unwrap_or_default();
        json!({
            "id": record.id,
            "machine": record.machine,
            "point": record.point,
            "state": record.state.name(),
            "problem": record.problem,
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
            "errors": figures.errors,
            "clients": figures.clients,
        })
    }

    fn lock_of(&self, id: &str) -> Arc<Mutex<()>> {
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

/// A file in `folder` for each disk.
fn targets_in(folder: &Path, format: FileFormat, record: &Record) -> Result<Vec<Target>> {
    if !folder.is_dir() {
        return Err(Error::not_found(format!(
            "{} is no folder: disks are moved into one that is there",
            folder.display()
        )));
    }
    let end = match format {
        FileFormat::Qcow2 => "qcow2",
        FileFormat::Raw => "raw",
    };
    let alone = record.disks.len() == 1;
    let name = |disk: &DiskRecord| match alone {
        true => format!("{}.{end}", record.machine),
        false => format!("{}-{}.{end}", record.machine, disk.name),
    };
    Ok(record.disks.iter().map(|disk| Target { path: folder.join(name(disk)), format }).collect())
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
