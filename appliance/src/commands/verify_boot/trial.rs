//! All that is made to start a machine once: a folder, overlays, a server, a QEMU. It is all taken away again, also when
//! the trial fails on the way; of one that was killed, the next one does so.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use blockdev::{
    BlockDevice, Error, ErrorKind, ReadAt, Result,
    images::Disk,
    layers::{
        Counted, Counters, Fault, Faulty, Operation, Prefetched, Rates, Recorder, Rule, Target, Throttled, Traced,
        prefetch,
    },
    overlay::{self, Overlay},
};
use exporters::nbd::{self, Config, Export, Exports, Listener};
use hv_drivers::{
    driver::DiskSource,
    qemu::{self, Accelerator, Display, Running, Settings, Spec},
};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::{super::machine::Found, signs::Signs};
use crate::{
    boot_traces,
    cli::{self, BootOptions},
    output,
};

/// Held by who makes the trial, in its folder: one that nobody holds is of a trial that was killed.
const LOCK: &str = "lock";
/// The longest path of a folder for trials; sockets have short ones.
const FOLDER_MAX: usize = 60;

/// A machine that is tried.
pub struct Trial {
    // In the order in which they have to go: QEMU first, the folder last.
    pub running: Guard,
    _server: nbd::Server,
    pub disks: Vec<TriedDisk>,
    pub machine: hv_drivers::machine::Machine,
    folder: TempDir,
    _lock: File,
    cache: PathBuf,
    name: String,
}

/// A running machine that is killed when it is dropped.
pub struct Guard(Running);

impl std::ops::Deref for Guard {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(e) = self.0.kill() {
            output::note(&e.to_string());
        }
    }
}

/// A disk of it.
pub struct TriedDisk {
    /// Its name.
    pub name: String,
    /// What is read of the backup for the machine.
    pub counters: Arc<Counters>,
    recorder: Arc<Recorder>,
    prefetched: Option<Arc<Prefetched<Arc<dyn BlockDevice>>>>,
    overlay: Arc<Overlay>,
}

/// What was read and written for a disk.
pub struct Figures {
    pub name: String,
    pub reads: u64,
    pub read: u64,
    pub ahead: u64,
    pub ahead_used: u64,
    pub overlay: u64,
    pub first_read: Option<std::time::Instant>,
}

impl Trial {
    /// Start `found`, called `name`, standing still. `cache` is where things are kept.
    pub fn start(cache: &Path, name: &str, found: Found, options: &BootOptions, signs: &Signs) -> Result<Self> {
        let (folder, lock) = folder(cache)?;
        let exports = Arc::new(Exports::new());
        let socket = folder.path().join("nbd.sock");
        let Found { mut machine, sources } = found;
        let (mut disks, mut places) = (Vec::new(), Vec::new());
        for (number, source) in sources.iter().enumerate() {
            let disk_name = machine.disks.get(number).and_then(|d| d.name.clone()).unwrap_or_default();
            let base: Arc<dyn BlockDevice> = Arc::<Disk>::clone(&source.image.disk);
            let disk = TriedDisk::new(base, disk_name, cache, name, folder.path(), number, options)?;
            let export = format!("disk{number}");
            exports.insert(Export::new(export.clone(), nbd::Disk::Writable(Arc::clone(&disk.overlay) as _)))?;
            places.push(DiskSource::NbdUnix { socket: socket.clone(), export });
            disks.push(disk);
        }
        let server = nbd::Server::start(Config::default(), exports, vec![Listener::unix(&socket)?])?;
        machine.memory_mib = machine.memory_mib.min(memory_max());
        let host_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cpus = machine.cpus.count().min(u32::try_from(host_cpus).unwrap_or(1));
        let settings = Settings {
            accelerator: match options.accelerator {
                cli::Accelerator::Auto => Accelerator::Auto,
                cli::Accelerator::Kvm => Accelerator::Kvm,
                cli::Accelerator::Tcg => Accelerator::Tcg,
            },
            network: signs.network(),
            // There is nobody who could have the same ones.
            keep_macs: true,
            display: Display::None,
            memory_mib: options.memory,
            cpus: Some(options.cpus.unwrap_or(cpus)),
            throwaway: true,
            paused: true,
            reconnect: Duration::ZERO,
            ..Settings::default()
        };
        let spec = Spec { machine, disks: places, settings };
        let running = Guard(qemu::start(&folder.path().join("m"), &spec)?);
        let machine = spec.machine;
        let (cache, name) = (cache.to_owned(), name.to_owned());
        Ok(Self { running, _server: server, disks, machine, folder, _lock: lock, cache, name })
    }

    /// Where what it says is.
    pub fn console(&self) -> PathBuf {
        self.folder.path().join("m").join(qemu::console::LOG)
    }

    /// End it; what was read and written. With `keep` what it was read for is kept: of a machine that came up.
    pub fn end(self, keep: bool) -> Vec<Figures> {
        let Self { running, _server: server, disks, folder, cache, name, .. } = self;
        drop(running);
        drop(server);
        let mut figures = Vec::new();
        for disk in &disks {
            let kept = || boot_traces::save(&cache, &name, &disk.name, &disk.recorder.trace());
            if let Some(Err(e)) = keep.then(kept) {
                output::note(&e.to_string());
            }
            figures.push(disk.figures());
        }
        drop(disks);
        drop(folder);
        figures
    }
}

impl TriedDisk {
    fn new(
        base: Arc<dyn BlockDevice>,
        name: String,
        cache: &Path,
        machine: &str,
        folder: &Path,
        number: usize,
        options: &BootOptions,
    ) -> Result<Self> {
        let mut base = slowed(base, options);
        let trace = boot_traces::load(cache, machine, &name, base.size()).filter(|_| !options.no_prefetch);
        let mut prefetched = None;
        if let Some(trace) = trace {
            let ahead = Arc::new(Prefetched::new(Arc::clone(&base), &trace, &prefetch::Options::default())?);
            base = Arc::clone(&ahead) as Arc<dyn BlockDevice>;
            prefetched = Some(ahead);
        }
        let (recorder, counters) = (Recorder::new(base.size()), Arc::new(Counters::default()));
        let base = Counted::new(Traced::new(base, Arc::clone(&recorder)), Arc::clone(&counters));
        let path = folder.join(format!("disk{number}.qcow2"));
        let overlay = Overlay::create(&path, Arc::new(base), &overlay::Options::new("a trial"))?;
        Ok(Self { name, counters, recorder, prefetched, overlay: Arc::new(overlay) })
    }

    fn figures(&self) -> Figures {
        let (ahead, ahead_used) = self.prefetched.as_ref().map_or((0, 0), |p| p.figures());
        Figures {
            name: self.name.clone(),
            reads: self.counters.count(Operation::Read),
            read: self.counters.bytes(Operation::Read) + self.counters.mapped(),
            ahead,
            ahead_used,
            overlay: self.overlay.used(),
            first_read: self.recorder.first_read(),
        }
    }
}

/// The disk as slow as is wanted, for measurements.
fn slowed(disk: Arc<dyn BlockDevice>, options: &BootOptions) -> Arc<dyn BlockDevice> {
    let mut disk = disk;
    if let Some(ms) = options.slow_latency {
        let fault = Fault::Delay(Duration::from_millis(ms));
        let rule = Rule { target: Target::Reads, range: 0..u64::MAX, probability: 1.0, fault };
        disk = Arc::new(Faulty::new(disk, vec![rule], 1));
    }
    if options.slow_rate.is_some() {
        disk = Arc::new(Throttled::new(disk, Rates { bytes: options.slow_rate, operations: None }));
    }
    disk
}

/// Half of this host's memory in MiB.
fn memory_max() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| (kib / 2048).max(256))
}

/// A folder for a trial, and the lock on it. Those of trials that were killed are cleared away first.
fn folder(cache: &Path) -> Result<(TempDir, File)> {
    let parent = if cache.as_os_str().len() > FOLDER_MAX { std::env::temp_dir() } else { cache.to_owned() };
    let parent = parent.join("boot-trials");
    let failed = |e| Error::io(format!("cannot make a folder in {}", parent.display()), e);
    fs::create_dir_all(&parent).map_err(failed)?;
    for entry in fs::read_dir(&parent).map_err(failed)?.flatten() {
        if let Err(e) = clear(&entry.path()) {
            output::note(&e.context("the rest of an earlier trial").to_string());
        }
    }
    let folder = tempfile::Builder::new().prefix("t").tempdir_in(&parent).map_err(failed)?;
    let lock = File::create(folder.path().join(LOCK)).map_err(failed)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
    Ok((folder, lock))
}

/// Takes away what a trial that was killed has left: its QEMU, then its folder.
fn clear(folder: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("cannot clear {}", folder.display()), e);
    let lock = match File::open(folder.join(LOCK)) {
        Ok(lock) => lock,
        // One that is just being made.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    match Running::find(&folder.join("m")) {
        Ok(Some(running)) => running.kill()?,
        Ok(None) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    fs::remove_dir_all(folder).map_err(failed)
}
