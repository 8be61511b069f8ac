//! What is alive of a session: its disks over their overlays, and the door at which they are.

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use blockdev::{
    BlockDevice, Error, Result, WriteAt,
    layers::{Counted, Counters, Operation, Prefetched, prefetch},
    overlay::{self, Overlay},
};
use parking_lot::Mutex;

use super::{
    doors::{self, Serving, nbd},
    record::Record,
    store::Store,
};
use crate::{
    boot_traces,
    commands::{
        Opened, machine,
        source::{DiskSource, Disks},
    },
    config,
    guest_fix::{self, apply::Place},
};

/// Memory for what is read ahead of a disk that is being started from, in bytes.
const PREFETCH: u64 = 64 << 20;

/// A disk that a hypervisor reads and writes.
pub struct LiveDisk {
    pub name: String,
    /// What stands for the disk and this session: the same after a restart, another for each session.
    pub identity: String,
    pub disk: Arc<dyn WriteAt>,
    pub source: DiskSource,
    counters: Arc<Counters>,
    overlay: Arc<Overlay>,
    /// What is read ahead for its machine's start.
    ahead: Option<Arc<Prefetched<Arc<dyn BlockDevice>>>>,
}

/// A session whose disks are served.
pub struct Live {
    pub disks: Vec<LiveDisk>,
    /// The door for this machine first, the one that was asked for last.
    serving: Mutex<Vec<Box<dyn Serving>>>,
    /// Somebody wants the session to end: what takes long gives up.
    pub is_ending: AtomicBool,
    // Last: the volumes stay open as long as the disks.
    pub opened: Arc<Opened>,
}

/// What a session has done so far, since the daemon began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Read before the machine asked for it.
    pub bytes_ahead: u64,
    pub overlay_bytes: u64,
    pub errors: u64,
    pub clients: usize,
}

impl Live {
    /// Opens the disks of `record`, makes overlays that are not there yet, and opens the door where it was, or anywhere if
    /// it was nowhere. The record then says where.
    ///
    /// # Errors
    ///
    /// When a disk or an overlay cannot be opened, or the address of the door is taken.
    pub fn open(record: &mut Record, opened: &Arc<Opened>, store: &Store, step: &dyn Fn(&str)) -> Result<Self> {
        let folder = store.session_folder(&record.id);
        let overlays = folder.join("overlays");
        fs::create_dir_all(&overlays).map_err(|e| Error::io(format!("cannot make {}", overlays.display()), e))?;
        let sources = Disks::opened(&record.sources, Arc::clone(opened));
        let cache = config::options(&record.sources)?.cache;
        let name = machine::name_of(record.point.as_ref());
        let mut disks = Vec::new();
        for disk in &record.disks {
            step(&format!("overlay over {}", disk.source));
            let source = sources.one(disk.source.as_ref(), None)?;
            let mut base: Arc<dyn BlockDevice> = Arc::<blockdev::images::Disk>::clone(&source.image.disk);
            if base.size() != disk.size {
                let is = base.size();
                let was = disk.size;
                return Err(Error::damaged(format!(
                    "{} has {is} bytes, and had {was} when the session began",
                    disk.source
                )));
            }
            // What it was read for when it was last started is read ahead.
            let known = cache.as_ref().filter(|_| record.settings.is_some());
            let mut ahead = None;
            if let Some(trace) = known.and_then(|cache| boot_traces::load(cache, &name, &disk.name, base.size())) {
                let options = prefetch::Options { memory: PREFETCH, ..prefetch::Options::default() };
                let prefetched = Arc::new(Prefetched::new(base, &trace, &options)?);
                base = Arc::clone(&prefetched) as Arc<dyn BlockDevice>;
                ahead = Some(prefetched);
            }
            let path = record.overlay(&folder, disk);
            let mut options = overlay::Options::new(String::from_utf8_lossy(&source.identity));
            options.quota = record.quota;
            let overlay = match Overlay::open(&path, Arc::clone(&base), &options) {
                // One whose making was broken off has no header yet, and nobody has written to it.
                Err(_) if !path.exists() || is_unfinished(&path) => {
                    remove(&path)?;
                    Overlay::create(&path, base, &options)?
                }
                opened => opened?,
            };
            let (overlay, counters) = (Arc::new(overlay), Arc::new(Counters::default()));
            disks.push(LiveDisk {
                name: disk.name.clone(),
                identity: format!("{}/{}", record.id, disk.name),
                disk: Arc::new(Counted::new(Arc::clone(&overlay), Arc::clone(&counters))),
                source,
                counters,
                overlay,
                ahead,
            });
        }
        let serving = doors::open(record, &folder, &disks, step)?;
        if let Some(asked) = serving.last() {
            record.addresses = asked.addresses();
            for disk in &mut record.disks {
                disk.uri = Some(asked.uri(&disk.name));
            }
        }
        Ok(Self { disks, serving: Mutex::new(serving), is_ending: AtomicBool::new(false), opened: Arc::clone(opened) })
    }

    /// Mends the guest for the devices of `target`, in the overlays. What it was given before is written again.
    ///
    /// # Errors
    ///
    /// When no system is found, or it cannot be written to.
    pub fn fix(&self, record: &Record, folder: &Path, target: guest_fix::Target, step: &dyn Fn(&str)) -> Result<()> {
        let secrets = config::secrets(&record.sources)?;
        let files = format!("{}/files", record.point);
        let plan = guest_fix::plan(&self.opened, &files, &self.sources(), &secrets, target)?;
        plan.notes.iter().for_each(|note| step(&format!("guest: {note}")));
        plan.edits.iter().for_each(|edit| step(&format!("guest fix: {}", edit.why)));
        let socket = nbd::socket(folder);
        let place =
            |disk: &LiveDisk| Place { at: format!("nbd:///{}?socket={}", disk.name, socket.display()), format: "raw" };
        guest_fix::apply::apply(&plan, &self.disks.iter().map(place).collect::<Vec<_>>())
    }

    /// The disks as they are in the backup.
    pub fn sources(&self) -> Vec<DiskSource> {
        self.disks.iter().map(|disk| disk.source.clone()).collect()
    }

    pub fn figures(&self) -> Figures {
        let mut all = Figures::default();
        for LiveDisk { counters, overlay, ahead, .. } in &self.disks {
            all.bytes_read += counters.bytes(Operation::Read) + counters.mapped();
            all.bytes_written += counters.bytes(Operation::Write) + counters.bytes(Operation::Zero);
            all.bytes_ahead += ahead.as_ref().map_or(0, |ahead| ahead.figures().0);
            all.overlay_bytes += overlay.used();
            all.errors += counters.errors(Operation::Read) + counters.errors(Operation::Write);
        }
        all.clients = self.serving.lock().iter().map(|serving| serving.clients()).sum();
        all
    }

    /// The disk whose overlay has come to its quota, and the bytes that it takes.
    pub fn full(&self) -> Option<(&str, u64)> {
        let disk = self.disks.iter().find(|disk| disk.overlay.is_full())?;
        Some((&disk.name, disk.overlay.used()))
    }

    /// From now on the overlay of each disk may take `quota` bytes.
    pub fn set_quota(&self, quota: Option<u64>) {
        self.disks.iter().for_each(|disk| disk.overlay.set_quota(quota));
    }

    /// Opens again the doors that have ended by themselves.
    ///
    /// # Errors
    ///
    /// When one cannot be opened.
    pub fn tend(&self) -> Result<()> {
        self.serving.lock().iter_mut().try_for_each(|serving| serving.tend())
    }

    /// Closes the doors, in good order: what was written is durable then. Does nothing the second time.
    ///
    /// # Errors
    ///
    /// When what was written cannot be made durable.
    pub fn close(&self) -> Result<()> {
        let all = std::mem::take(&mut *self.serving.lock());
        // Each is closed, whatever becomes of the others.
        let ended: Vec<_> = all.into_iter().map(Serving::end).collect();
        ended.into_iter().collect()
    }
}

/// Whether a file is an overlay whose making was broken off: its header is written last.
fn is_unfinished(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_err() || magic == [0; 4]
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
