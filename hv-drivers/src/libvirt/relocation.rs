//! The disks of a running domain moved to permanent files: the end of a recovery.
//!
//! libvirt copies each disk (`blockcopy`) while the guest runs; what the guest writes meanwhile goes to both. When all are
//! copied, the guest stands still for a moment, goes over to the copies (pivot), and libvirt begins a backup of them that
//! nobody fetches: a point in time, behind a socket. The guest goes on, and every byte of that point is compared with the
//! disks that it has left, which nobody writes any more. Then the domain is defined anew with its files.
//!
//! **A crash of this program** stops nothing. `relocation.json` in the domain's place says what was begun, and is written
//! before it is begun; what is done is asked of libvirt. So every step can be taken again.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64},
    thread,
    time::{Duration, Instant},
};

use blockdev::compare::first_difference;
use quick_xml::escape::escape;
use serde::{Deserialize, Serialize};

use super::{place::Placed, shown, virsh::Virsh};
use crate::{
    Error, ErrorKind, Result,
    driver::{DiskSource, Progress, State, Target},
    durable,
    nbd::NbdDisk,
};

/// What was begun, in the domain's place.
const RECORD: &str = "relocation.json";
/// The description of the backup, there too.
const BACKUP: &str = "backup.xml";
/// The longest record that is read, in bytes.
const RECORD_MAX: u64 = 1 << 20;
/// How often libvirt is asked whether a copy is where it should be.
const TICK: Duration = Duration::from_millis(50);
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long it may take when libvirt refuses, and has been asked by somebody else.
const MOMENT: Duration = Duration::from_secs(5);
/// Threads that compare.
const WORKERS: usize = 2;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    phase: Phase,
    disks: Vec<Moved>,
    /// The guest ran when it was stopped for going over.
    was_running: bool,
}

/// How far it is; what is not told here is asked of libvirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    /// Disks are copied; it can be given up.
    Copying,
    /// The guest stands still and goes over.
    GoingOver,
    /// The guest runs on the copies; what they were in the moment of going over is kept until it is compared.
    Verifying,
    /// They were the same.
    LettingGo,
}

/// A disk on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Moved {
    /// The guest's side of it: `vda`.
    device: String,
    /// Where it was.
    from: DiskSource,
    /// Where it goes.
    target: Target,
}

/// A domain's disks on their way.
pub struct Moving {
    virsh: Virsh,
    placed: Placed,
    record: Record,
}

/// Begins to copy the disks of a domain, each to the target of its place.
///
/// # Errors
///
/// When they are being moved already, there are not as many targets as disks, or libvirt refuses. Nothing is left then.
pub fn begin(virsh: &Virsh, placed: Placed, targets: &[Target]) -> Result<()> {
    if placed.file(RECORD).exists() {
        return Err(Error::invalid(format!("the disks of {} are being moved already", placed.name())));
    }
    let devices = placed.targets()?;
    if targets.len() != devices.len() {
        let (disks, files) = (devices.len(), targets.len());
        return Err(Error::invalid(format!("{} has {disks} disks, and {files} files are given", placed.name())));
    }
    if let Some(there) = targets.iter().find(|target| target.path.symlink_metadata().is_ok()) {
        return Err(Error::invalid(format!("{} is there already: name another folder", there.path.display())));
    }
    let moved = |((device, from), target): ((String, &DiskSource), &Target)| Moved {
        device,
        from: from.clone(),
        target: target.clone(),
    };
    let disks = devices.into_iter().zip(&placed.spec.disks).zip(targets).map(moved).collect();
    let record = Record { phase: Phase::Copying, disks, was_running: false };
    let moving = Moving { virsh: virsh.clone(), placed, record };
    // All that is compared has to be reachable before anything is copied.
    moving.record.disks.iter().try_for_each(|disk| open(&disk.from).map(drop))?;
    moving.save()?;
    if let Err(e) = moving.copy() {
        moving.cancel()?;
        return Err(e);
    }
    Ok(())
}

/// What was begun for a domain, if anything was.
///
/// # Errors
///
/// When its record cannot be read.
pub fn find(virsh: &Virsh, placed: Placed) -> Result<Option<Moving>> {
    let path = placed.file(RECORD);
    let Some(text) = durable::read(&path, RECORD_MAX)? else { return Ok(None) };
    let record = serde_json::from_slice(&text).map_err(|e| Error::damaged(format!("{}: {e}", path.display())))?;
    Ok(Some(Moving { virsh: virsh.clone(), placed, record }))
}

impl Moving {
    /// How far the copies are.
    ///
    /// # Errors
    ///
    /// When one has ended before it was complete.
    pub fn progress(&self) -> Result<Progress> {
        if self.record.phase != Phase::Copying {
            return Ok(Progress { is_ready: true, ..Progress::default() });
        }
        let mut all = Progress { is_ready: true, ..Progress::default() };
        for (disk, shown) in self.record.disks.iter().zip(self.shown()?) {
            let Some(is_ready) = shown.mirror else { return Err(disk.lost()) };
            let job = self.on(disk, "blockjob", &["--raw".as_ref()])?;
            let number = |key: &str| {
                let line = job.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
                line.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
            };
            all.done += number("cur");
            all.total += number("end");
            all.is_ready &= is_ready;
        }
        Ok(all)
    }

    /// Lets the guest go over to the copies, compares them, and defines the domain anew. It can be called again.
    ///
    /// # Errors
    ///
    /// `Invalid` when they are not ready; `Damaged` when a copy differs: the guest then stands still on the copies.
    pub fn complete(mut self) -> Result<()> {
        if self.record.phase == Phase::Copying {
            if !self.progress()?.is_ready {
                return Err(Error::invalid("the disks are not copied yet"));
            }
            self.record.was_running = self.placed.state(&self.virsh)? == State::Running;
            self.go_on_to(Phase::GoingOver)?;
        }
        if self.record.phase == Phase::GoingOver {
            self.go_over()?;
            self.go_on_to(Phase::Verifying)?;
        }
        if self.record.phase == Phase::Verifying {
            self.resume()?;
            let verified = self.verify();
            if verified.as_ref().is_err_and(|e| e.kind() == ErrorKind::Damaged) {
                // Not let go by whoever tries again, either.
                self.record.was_running = false;
                self.save()?;
            }
            verified?;
            self.go_on_to(Phase::LettingGo)?;
        }
        // What it says on the console is the admin's now.
        self.placed.define(&self.virsh, false)?;
        self.end_backup()?;
        self.resume()?;
        durable::remove(&self.placed.file(BACKUP))?;
        durable::remove(&self.placed.file(RECORD))
    }

    /// Gives the copies up: they are removed, and the guest goes on with the disks that it has.
    ///
    /// # Errors
    ///
    /// `Invalid` when it has gone over already.
    pub fn cancel(self) -> Result<()> {
        if self.record.phase != Phase::Copying {
            return Err(Error::invalid("the machine is on its new disks already: complete the migration"));
        }
        for (disk, shown) in self.record.disks.iter().zip(self.shown()?) {
            if shown.mirror.is_some() {
                self.on(disk, "blockjob", &["--abort".as_ref()])?;
                self.until(disk, PATIENCE, |shown| shown.mirror.is_none())?;
            }
            durable::remove(&disk.target.path)?;
        }
        durable::remove(&self.placed.file(RECORD))
    }

    fn copy(&self) -> Result<()> {
        let help = self.virsh.run(&["help", "blockcopy"])?;
        // What the guest writes is on both before it is told so: once ready, they stay the same (libvirt 8.0).
        let is_synchronous = help.contains("--synchronous-writes");
        for disk in &self.record.disks {
            let words = ["--transient-job", "--format", disk.target.format.name(), "--dest"];
            let mut more: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
            more.push(disk.target.path.as_os_str());
            if is_synchronous {
                more.push("--synchronous-writes".as_ref());
            }
            self.on(disk, "blockcopy", &more)?;
        }
        Ok(())
    }

    /// Stops the guest, goes over, and begins a backup of what the copies are then.
    fn go_over(&mut self) -> Result<()> {
        // A virsh that this program began before it was killed may be at the same still.
        if self.placed.state(&self.virsh)? == State::Running
            && let Err(e) = self.virsh.domain("suspend", self.placed.name(), &[])
            && self.placed.state(&self.virsh)? == State::Running
        {
            return Err(e);
        }
        // Of an earlier attempt.
        self.end_backup()?;
        for (disk, shown) in self.record.disks.iter().zip(self.shown()?) {
            if shown.mirror.is_some() {
                let asked = self.on(disk, "blockjob", &["--abort".as_ref(), "--pivot".as_ref()]);
                let patience = if asked.is_ok() { PATIENCE } else { MOMENT };
                self.until(disk, patience, |shown| shown.mirror.is_none()).map_err(|e| asked.err().unwrap_or(e))?;
            }
        }
        for (disk, shown) in self.record.disks.iter().zip(self.shown()?) {
            if shown.file.as_deref() != Some(&disk.target.path) {
                return Err(disk.lost());
            }
        }
        let file = |disk: &Moved| DiskSource::File { path: disk.target.path.clone(), format: disk.target.format };
        self.placed.moved(self.record.disks.iter().map(file).collect())?;
        let path = self.placed.file(BACKUP);
        fs::write(&path, self.backup()?).map_err(|e| Error::io(format!("cannot write {}", path.display()), e))?;
        self.virsh.domain("backup-begin", self.placed.name(), &["--backupxml".as_ref(), path.as_os_str()]).map(drop)
    }

    /// The backup that keeps what the copies are.
    fn backup(&self) -> Result<String> {
        let text = |path: &Path| path.to_str().map(|text| escape(text).into_owned()).ok_or_else(not_utf8);
        let mut disks = String::new();
        for disk in &self.record.disks {
            disks.push_str(&format!(
                "<disk name='{0}' backup='yes' type='file' exportname='{0}'><scratch file='{1}'/></disk>",
                disk.device,
                text(&disk.scratch())?
            ));
        }
        Ok(format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks>{disks}</disks></domainbackup>\n",
            text(&self.socket()?)?
        ))
    }

    /// Where the backup is served: beside the socket of the disks, which QEMU reaches.
    fn socket(&self) -> Result<PathBuf> {
        let from = self.record.disks.first().map(|disk| &disk.from);
        match from {
            Some(DiskSource::NbdUnix { socket, .. }) => Ok(socket.with_file_name("verify.sock")),
            _ => Err(no_way()),
        }
    }

    /// Compares.
    fn verify(&self) -> Result<()> {
        let socket = self.socket()?;
        for disk in &self.record.disks {
            let before = open(&disk.from)?;
            let copy = NbdDisk::connect(&socket, &disk.device)?;
            let at = first_difference(&before, &copy, WORKERS, &AtomicU64::new(0), &AtomicBool::new(false))?;
            if let Some(at) = at {
                // It must not go on with wrong bytes; what is right is still there.
                self.virsh.domain("suspend", self.placed.name(), &[])?;
                return Err(Error::damaged(format!(
                    "{} differs from the disk that it was copied from at byte {at}: the machine stands still",
                    disk.target.path.display()
                )));
            }
        }
        Ok(())
    }

    /// Ends the backup, if there is one, and takes away what it kept.
    fn end_backup(&self) -> Result<()> {
        // It fails when there is none.
        if self.virsh.domain("backup-dumpxml", self.placed.name(), &[]).is_ok() {
            self.virsh.domain("domjobabort", self.placed.name(), &[])?;
            let until = Instant::now() + PATIENCE;
            while self.virsh.domain("backup-dumpxml", self.placed.name(), &[]).is_ok() {
                if Instant::now() > until {
                    return Err(Error::new(
                        ErrorKind::Io,
                        format!("libvirt's backup of {} does not end", self.placed.name()),
                    ));
                }
                thread::sleep(TICK);
            }
        }
        self.record.disks.iter().try_for_each(|disk| durable::remove(&disk.scratch()))?;
        durable::remove(&self.socket()?)
    }

    /// Lets the guest go on, if it ran.
    fn resume(&self) -> Result<()> {
        if self.record.was_running && matches!(self.placed.state(&self.virsh)?, State::Paused(_)) {
            self.virsh.domain("resume", self.placed.name(), &[])?;
        }
        Ok(())
    }

    /// libvirt's words on a disk.
    fn on(&self, disk: &Moved, command: &str, more: &[&OsStr]) -> Result<String> {
        let path = ["--path".as_ref(), OsStr::new(&disk.device)];
        self.virsh.domain(command, self.placed.name(), &[&path[..], more].concat())
    }

    /// The disks as libvirt has them, in their order here.
    fn shown(&self) -> Result<Vec<shown::Disk>> {
        let all = self.placed.shown(&self.virsh)?;
        let one = |disk: &Moved| {
            let shown = all.iter().find(|shown| shown.target == disk.device).cloned();
            shown.ok_or_else(|| Error::not_found(format!("{} has no disk {}", self.placed.name(), disk.device)))
        };
        self.record.disks.iter().map(one).collect()
    }

    /// Waits until a disk is as `is` wants it.
    fn until(&self, disk: &Moved, patience: Duration, is: impl Fn(&shown::Disk) -> bool) -> Result<()> {
        let until = Instant::now() + patience;
        while !self.placed.shown(&self.virsh)?.iter().any(|shown| shown.target == disk.device && is(shown)) {
            if Instant::now() > until {
                return Err(disk.failed("libvirt does not come to an end with it"));
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    fn go_on_to(&mut self, phase: Phase) -> Result<()> {
        self.record.phase = phase;
        self.save()
    }

    fn save(&self) -> Result<()> {
        let path = self.placed.file(RECORD);
        let text = serde_json::to_vec_pretty(&self.record);
        let text = text.map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
        durable::write(&path, &text).map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
    }
}

impl Moved {
    /// What is kept of the copy as it was in the moment of going over, beside it.
    fn scratch(&self) -> PathBuf {
        let mut path = self.target.path.as_os_str().to_owned();
        path.push(".verify");
        path.into()
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(ErrorKind::Io, format!("cannot copy {} to {}: {why}", self.device, self.target.path.display()))
    }

    /// Neither copied nor gone over.
    fn lost(&self) -> Error {
        self.failed("the copy has ended before it was complete; begin again")
    }
}

/// The disk that the machine was recovered from.
fn open(from: &DiskSource) -> Result<NbdDisk> {
    match from {
        DiskSource::NbdUnix { socket, export } => NbdDisk::connect(socket, export),
        _ => Err(no_way()),
    }
}

fn no_way() -> Error {
    Error::unsupported(
        "only disks behind a socket of this host can be compared, and so be moved: recover without --listen",
    )
}

fn not_utf8() -> Error {
    Error::invalid("libvirt takes paths in UTF-8 only")
}
