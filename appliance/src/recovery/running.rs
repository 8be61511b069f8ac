//! The machines of sessions: looked after, started again, moved to disks that stay.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread,
};

use blockdev::{Error, ErrorKind, Result};
use hv_drivers::driver::{FileFormat, Settled, Target};
use serde_json::{Value, json};

use super::{
    machine::{self, Health},
    record::{DiskRecord, Record, State},
    sessions::Sessions,
};
use crate::output::{self, size};

impl Sessions {
    /// Looks after the machine of a session, if it has one that should run; what it waits for.
    pub(super) fn look_after(&self, record: Record) -> Result<Option<String>> {
        if record.state != State::Running {
            return Ok(None);
        }
        match machine::tend(&record, &self.store.machine_folder(&record.id))? {
            Health::Well => Ok(None),
            Health::Stopped(how) => Ok(Some(format!("the machine stands still ({how})"))),
            Health::Stands(why) => Ok(Some(self.stands(&record, why.as_deref().unwrap_or("a disk fails")))),
            Health::Off(settled) => self.is_off(record, settled).map(|()| None),
        }
    }

    /// What an operator has to know of a machine that stands still.
    fn stands(&self, record: &Record, why: &str) -> String {
        let id = &record.id;
        let live = self.live.lock().get(id).map(Arc::clone);
        let full = live.and_then(|live| live.full().map(|(name, used)| (name.to_owned(), used)));
        let room = match (full, record.quota) {
            (Some((name, used)), Some(quota)) => format!(
                "the overlay of {name} takes {} and may take {}: `revenant recover quota {id} BYTES` gives it more",
                size(used),
                size(quota)
            ),
            _ => format!("is there room in {}?", self.store.session_folder(id).display()),
        };
        format!("the machine stands still: {why}; {room}; it goes on by itself")
    }

    /// Writes down that the machine of a session has ended.
    fn is_off(&self, record: Record, settled: Option<Settled>) -> Result<()> {
        let id = &record.id;
        let again = format!("`revenant recover start {id}` starts it again");
        let problem = match settled {
            Some(Settled::Moved) => format!(
                "the machine ended when it had gone over to its new disks, before those were compared; {again} on them, and \
                 `revenant recover stop {id}` leaves them where they are"
            ),
            Some(Settled::Stayed) => {
                format!("the machine ended while its disks were moved: they are where they were; {again}")
            }
            None => format!("the machine is off; {again}"),
        };
        output::note(&format!("{id}: {problem}"));
        self.store.put(&Record {
            state: State::Off,
            problem: Some(problem),
            targets: Vec::new(),
            moved: record.moved || settled == Some(Settled::Moved),
            ..record
        })
    }

    /// Starts the machine of a session again that has ended.
    ///
    /// # Errors
    ///
    /// When there is no such session, its machine runs or was never run here, or QEMU cannot be started.
    pub fn start_again(&self, id: &str, step: &dyn Fn(&str)) -> Result<Value> {
        let lock = self.lock_of(id);
        let _guard = lock.lock();
        let mut record = self.store.get(id)?;
        if record.state == State::Running {
            // It may not have been looked at yet.
            self.look_after(record)?;
            record = self.store.get(id)?;
        }
        let folder = self.store.machine_folder(id);
        match record.state {
            State::Off => {}
            State::Moved if machine::is_off(&record, &folder)? => {}
            State::Running | State::Moved => return Err(Error::invalid(format!("the machine of {id} runs"))),
            state => {
                let state = state.name();
                return Err(Error::invalid(format!("{id} is {state}: only a machine that is off is started again")));
            }
        }
        if !record.moved && !self.live.lock().contains_key(id) {
            return Err(Error::invalid(format!("the disks of {id} are not served at this moment; try again")));
        }
        step("machine");
        let notes = machine::start_again(&record, &folder)?;
        notes.iter().for_each(|note| step(&format!("machine: {note}")));
        if record.state == State::Off {
            record.state = State::Running;
        }
        record.problem = None;
        self.store.put(&record)?;
        Ok(self.value(&record))
    }

    /// Goes on moving disks after a restart, beside everything else.
    pub(super) fn go_on_moving(self: &Arc<Self>, id: String) {
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

    /// Moves the disks of a session's running machine into files of a folder, in the order of its disks, and ends the
    /// session: the machine stays. Without a folder, what was begun goes on.
    ///
    /// # Errors
    ///
    /// When there is no such session, its machine does not run, or its disks cannot be moved; it goes on as it was then.
    pub fn migrate(&self, id: &str, to: Option<(PathBuf, FileFormat)>, step: &dyn Fn(&str)) -> Result<Value> {
        let lock = self.lock_of(id);
        let guard = lock.lock();
        let mut record = self.store.get(id)?;
        let live = self.live.lock().get(id).map(Arc::clone);
        let live =
            live.ok_or_else(|| Error::invalid(format!("{id} is not served at this moment: nothing can be moved")))?;
        match (to, record.state) {
            (Some(_), State::Running) if record.moved => {
                return Err(Error::invalid(format!(
                    "the machine of {id} is on its new disks already: `revenant recover stop {id}` ends the session and \
                     leaves it running"
                )));
            }
            (Some((folder, format)), State::Running) => {
                record.targets = targets_in(&folder, format, &record)?;
                record.state = State::Migrating;
                record.problem = None;
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
        if let Err(e) = machine::move_disks(&record, &folder, &record.targets, &is_cancelled, step) {
            // Where there is no way back it is tried again and again; but not with a copy that differs.
            if e.kind() == ErrorKind::Damaged || !machine::is_moving(&record, &folder) {
                record.state = State::Running;
                record.targets.clear();
            }
            record.problem = Some(e.to_string());
            self.store.put(&record)?;
            // It may have ended: that is then what there is to know.
            self.look_after(record)?;
            return Err(match self.store.get(id)? {
                Record { state: State::Off, problem: Some(problem), .. } => Error::invalid(problem),
                _ => e,
            });
        }
        record.moved = true;
        record.state = State::Stopping;
        self.store.put(&record)?;
        let moved = json!({ "id": id, "disks": record.targets, "machine": machine::value(&record, &folder) });
        drop(guard);
        self.stop(id, None, step)?;
        Ok(moved)
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
