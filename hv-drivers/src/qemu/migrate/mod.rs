//! The disks of a running machine moved to permanent files: the end of a recovery.
//!
//! QEMU copies each disk (`blockdev-mirror`) while the guest runs; what the guest writes meanwhile goes to both. When
//! all are copied, the guest stands still for a moment, its devices go over to the copies, and it goes on. Then every byte
//! of the copies, as they were in that moment, is compared with what they were made of (`verify`); only then is the
//! session's disk let go.
//!
//! **A crash of this program** stops nothing: QEMU copies on. `migration.json` in the machine's folder says what was
//! begun, and is written before it is begun; which steps are done is asked of QEMU. So [`Migration::find`] finds it again,
//! and every step can be taken again. **A crash of QEMU** before the guest has gone over leaves the machine on the
//! session's disks; `run.json` names the new ones before the guest goes on with them, and the guest stands still in
//! between: whichever it names, it is complete. [`settle`] brings such a migration to its end.

mod settle;
mod verify;

use std::{
    fs::{self, File},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
pub use settle::settle;

use super::{
    Running,
    arguments::device,
    jobs,
    nodes::{add_disk, remove_node},
    source::below,
};
use crate::{
    Error, ErrorKind, Result,
    driver::{DiskSource, FileFormat, Progress, State, Target},
    durable,
    qmp::Client,
};

/// What was begun, in the machine's folder.
const RECORD: &str = "migration.json";
/// The longest of them that is read, in bytes.
const RECORD_MAX: u64 = 1 << 20;

/// A machine's disks on their way.
#[derive(Debug)]
pub struct Migration {
    running: Running,
    record: Record,
}

/// How a migration is brought to its end.
#[derive(Debug, Clone)]
pub struct Completion {
    /// Compare the copies with what they were made of.
    pub verify: bool,
    /// The guest stands still until they were compared: it never runs on a copy that was not.
    pub paused: bool,
    /// Threads that compare.
    pub workers: usize,
    /// Bytes that were compared.
    pub progress: Arc<AtomicU64>,
    /// Set it to stop comparing. The migration is then not complete, and can be completed later.
    pub cancel: Arc<AtomicBool>,
}

impl Default for Completion {
    fn default() -> Self {
        Self { verify: true, paused: false, workers: 2, progress: Arc::default(), cancel: Arc::default() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    phase: Phase,
    disks: Vec<Moved>,
    /// The guest ran when it was stopped for going over.
    was_running: bool,
}

/// How far it is; what is not told here is asked of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    /// Disks are copied; it can be given up.
    Copying,
    /// The guest stands still, its devices go over.
    GoingOver,
    /// The guest runs on the copies; what they were in the moment of going over is kept until it is compared.
    Verifying,
}

/// A disk on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Moved {
    /// The device.
    device: String,
    /// The node that it had.
    from: String,
    /// The node that it gets.
    node: String,
    /// Where that is.
    target: Target,
    /// Its size in bytes.
    size: u64,
}

impl Moved {
    fn job(&self) -> String {
        format!("move-{}", self.device)
    }
}

impl Migration {
    /// Begin to copy the disks of a machine, each to the target of its place.
    ///
    /// # Errors
    ///
    /// `Invalid` when they are being moved already, when there are not as many targets as disks, or when a target is
    /// there already; `NoSpace`, `Io`. Nothing of it is left then.
    pub fn begin(running: &Running, targets: &[Target]) -> Result<Self> {
        let folder = running.folder();
        if folder.join(RECORD).exists() {
            return Err(Error::invalid(format!(
                "the disks of the machine in {} are being moved already",
                folder.display()
            )));
        }
        let disks = running.spec().disks.len();
        if disks != targets.len() {
            return Err(Error::invalid(format!(
                "the machine has {disks} disks, and {} targets are given",
                targets.len()
            )));
        }
        let mut monitor = running.monitor()?;
        let mut moved = Vec::new();
        for (number, target) in targets.iter().enumerate() {
            let path = std::path::absolute(&target.path).map_err(|e| Error::io("cannot find the target", e))?;
            if fs::symlink_metadata(&path).is_ok() || moved.iter().any(|m: &Moved| m.target.path == path) {
                return Err(Error::invalid(format!("{} is there already; name a new file", path.display())));
            }
            let device = device(number);
            let (from, size) = medium(&mut monitor, &device)?;
            let node = fresh_node(&from, number);
            moved.push(Moved { device, from, node, target: Target { path, format: target.format }, size });
        }
        drop(monitor);
        let record = Record { phase: Phase::Copying, disks: moved, was_running: true };
        let migration = Self { running: again(running)?, record };
        migration.save()?;
        match migration.copy() {
            Ok(()) => Ok(migration),
            Err(e) => {
                // The first failure is the one to tell.
                let _ = migration.cancel();
                Err(e)
            }
        }
    }

    /// The migration that was begun on a machine; `None` when there is none.
    ///
    /// # Errors
    ///
    /// `Damaged` when its record cannot be understood.
    pub fn find(running: &Running) -> Result<Option<Self>> {
        let Some(record) = Record::read(running.folder())? else { return Ok(None) };
        Ok(Some(Self { running: again(running)?, record }))
    }

    /// How far the copies are. They are ready, too, when the machine has gone over to them.
    ///
    /// # Errors
    ///
    /// When a copy has failed, with QEMU's words: [`cancel`](Self::cancel) it and begin again.
    pub fn progress(&self) -> Result<Progress> {
        let mut all = Progress { is_ready: true, ..Progress::default() };
        let mut monitor = self.running.monitor()?;
        for disk in &self.record.disks {
            if medium(&mut monitor, &disk.device)?.0 == disk.node {
                all.done += disk.size;
                all.total += disk.size;
                continue;
            }
            let job = jobs::find(&mut monitor, &disk.job())?.ok_or_else(|| disk.lost())?;
            if let Some(error) = job.error {
                return Err(disk.failed(&error));
            }
            all.done += job.done;
            all.total += job.total;
            all.is_ready &= job.is_ready();
        }
        Ok(all)
    }

    /// Let the machine go over to the copies, compare them, and let go of what they were made of.
    ///
    /// # Errors
    ///
    /// `Invalid` when they are not ready; `Damaged` when a copy differs: the machine then stands still on the copies, and
    /// what they were made of is still there; `Limit` when comparing was cancelled. It can be called again.
    pub fn complete(mut self, completion: &Completion) -> Result<Vec<DiskSource>> {
        if self.record.phase == Phase::Copying {
            if !self.progress()?.is_ready {
                return Err(Error::invalid("the disks are not copied yet"));
            }
            self.record.was_running = self.running.state()? == State::Running;
            self.record.phase = Phase::GoingOver;
            self.save()?;
        }
        if self.record.phase == Phase::GoingOver {
            self.go_over(completion.verify)?;
        }
        if self.record.was_running && !(completion.verify && completion.paused) {
            self.running.resume()?;
        }
        if completion.verify {
            self.verify(completion)?;
        }
        self.let_go()?;
        if self.record.was_running {
            self.running.resume()?;
        }
        Ok(self.running.spec().disks.clone())
    }

    /// Give the copies up: they are removed, and the machine goes on with the disks that it has.
    ///
    /// # Errors
    ///
    /// `Invalid` when it has gone over already.
    pub fn cancel(self) -> Result<()> {
        if self.record.phase != Phase::Copying {
            return Err(Error::invalid("the machine is on its new disks already: complete the migration"));
        }
        let mut monitor = self.running.monitor()?;
        for disk in &self.record.disks {
            jobs::cancel(&mut monitor, &disk.job())?;
            remove_node(&mut monitor, &disk.node)?;
            remove_node(&mut monitor, &below(&disk.node))?;
            durable::remove(&disk.target.path)?;
        }
        self.forget()
    }

    /// Makes the targets and begins to copy.
    fn copy(&self) -> Result<()> {
        let mut monitor = self.running.monitor()?;
        for disk in &self.record.disks {
            disk.make(&mut monitor)?;
            monitor.execute(
                "blockdev-mirror",
                &json!({
                    "job-id": disk.job(), "device": disk.from, "target": disk.node, "sync": "full",
                    // What the guest writes is on both before it is told so: once ready, they stay the same.
                    "copy-mode": "write-blocking", "auto-dismiss": false,
                }),
            )?;
        }
        Ok(())
    }

    /// Stops the guest, and lets its devices go over; with `keep` what the disks are then is kept for comparing.
    fn go_over(&mut self, keep: bool) -> Result<()> {
        let mut monitor = self.running.monitor()?;
        // This makes durable what is in QEMU, too.
        monitor.execute("stop", &json!({}))?;
        // Of an earlier attempt.
        self.thaw(&mut monitor)?;
        for disk in &self.record.disks {
            if medium(&mut monitor, &disk.device)?.0 != disk.node {
                jobs::complete(&mut monitor, &disk.job()).map_err(|e| disk.failed(&e.to_string()))?;
            }
            jobs::dismiss(&mut monitor, &disk.job())?;
            if medium(&mut monitor, &disk.device)?.0 != disk.node {
                return Err(disk.lost());
            }
        }
        let target = |disk: &Moved| DiskSource::File { path: disk.target.path.clone(), format: disk.target.format };
        self.running.moved(self.record.disks.iter().map(target).collect())?;
        if keep {
            self.freeze(&mut monitor)?;
        }
        self.record.phase = Phase::Verifying;
        self.save()
    }

    /// Takes away what QEMU had of the disks that the machine has left.
    fn let_go(&self) -> Result<()> {
        let mut monitor = self.running.monitor()?;
        self.thaw(&mut monitor)?;
        for disk in &self.record.disks {
            remove_node(&mut monitor, &disk.from)?;
            remove_node(&mut monitor, &below(&disk.from))?;
        }
        self.forget()
    }

    fn save(&self) -> Result<()> {
        let path = self.running.folder().join(RECORD);
        let text = serde_json::to_vec_pretty(&self.record);
        let text = text.map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
        durable::write(&path, &text).map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
    }

    fn forget(&self) -> Result<()> {
        durable::remove(&self.running.folder().join(RECORD))
    }
}

impl Moved {
    /// Makes the target, and the node that it is in QEMU.
    fn make(&self, monitor: &mut Client) -> Result<()> {
        let path = &self.target.path;
        let failed = |e| Error::io(format!("cannot make {}", path.display()), e);
        let file = File::create_new(path).map_err(failed)?;
        if self.target.format == FileFormat::Raw {
            file.set_len(self.size).map_err(failed)?;
        }
        durable::sync_folder_of(path).map_err(failed)?;
        let place = DiskSource::File { path: path.clone(), format: self.target.format };
        add_disk(monitor, &place, &self.node, self.size)
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(ErrorKind::Io, format!("cannot copy {} to {}: {why}", self.device, self.target.path.display()))
    }

    /// Neither copied nor gone over.
    fn lost(&self) -> Error {
        self.failed("the copy has ended before it was complete; cancel the migration and begin again")
    }
}

/// The node that a device has, and its size in bytes.
fn medium(monitor: &mut Client, device: &str) -> Result<(String, u64)> {
    let all = monitor.execute("query-block", &json!({}))?;
    let is_it = |entry: &&Value| {
        let path = entry.get("qdev").and_then(Value::as_str).unwrap_or_default();
        path.split('/').any(|part| part == device)
    };
    let entry = all.as_array().into_iter().flatten().find(is_it);
    let text = |path: &str| entry.and_then(|e| e.pointer(path));
    let node = text("/inserted/node-name").and_then(Value::as_str);
    let size = text("/inserted/image/virtual-size").and_then(Value::as_u64);
    match (node, size) {
        // The filter of a job that copies is passed over by QEMU.
        (Some(node), Some(size)) => Ok((node.to_owned(), size)),
        _ => Err(Error::not_found(format!("QEMU has no device {device} with a disk"))),
    }
}

/// A name for the node that takes the place of `from`: `disk0` and `disk0-moved` take turns.
fn fresh_node(from: &str, number: usize) -> String {
    let first = super::arguments::node(number);
    if from == first { format!("{first}-moved") } else { first }
}

/// The same machine once more.
fn again(running: &Running) -> Result<Running> {
    let gone = || Error::not_found(format!("the machine in {} has ended", running.folder().display()));
    Running::find(running.folder())?.ok_or_else(gone)
}

/// What is kept of a copy as it was in the moment of going over, beside it.
fn scratch_file(disk: &Moved) -> PathBuf {
    let mut path = disk.target.path.as_os_str().to_owned();
    path.push(".verify");
    path.into()
}
