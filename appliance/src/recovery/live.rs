//! What is alive of a session: its disks over their overlays, and the door at which they are.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

use blockdev::{
    BlockDevice, Error, Result, WriteAt,
    layers::{Counted, Counters, Operation},
    overlay::{self, Overlay},
};
use parking_lot::Mutex;

use super::{
    doors::{self, Serving},
    record::Record,
    store::Store,
};
use crate::commands::{
    Opened,
    source::{DiskSource, Disks},
};

/// A disk that a hypervisor reads and writes.
pub struct LiveDisk {
    pub name: String,
    /// What stands for the disk and this session: the same after a restart, another for each session.
    #[expect(dead_code, reason = "for doors that name disks by themselves")]
    pub identity: String,
    pub disk: Arc<dyn WriteAt>,
    pub source: DiskSource,
    counters: Arc<Counters>,
    overlay: PathBuf,
}

/// A session whose disks are served.
pub struct Live {
    pub disks: Vec<LiveDisk>,
    serving: Mutex<Option<Box<dyn Serving>>>,
    // Last: the volumes stay open as long as the disks.
    _opened: Arc<Opened>,
}

/// What a session has done so far, since the daemon began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub bytes_read: u64,
    pub bytes_written: u64,
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
        let mut disks = Vec::new();
        for disk in &record.disks {
            step(&format!("overlay over {}", disk.source));
            let source = sources.one(disk.source.as_ref(), None)?;
            let base: Arc<dyn BlockDevice> = Arc::<blockdev::images::Disk>::clone(&source.image.disk);
            if base.size() != disk.size {
                let is = base.size();
                let was = disk.size;
                return Err(Error::damaged(format!(
                    "{} has {is} bytes, and had {was} when the session began",
                    disk.source
                )));
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
            let counters = Arc::new(Counters::default());
            disks.push(LiveDisk {
                name: disk.name.clone(),
                identity: format!("{}/{}", record.id, disk.name),
                disk: Arc::new(Counted::new(overlay, Arc::clone(&counters))),
                source,
                counters,
                overlay: path,
            });
        }
        step("door");
        let serving = doors::open(record, &folder, &disks)?;
        record.addresses = serving.addresses();
        for disk in &mut record.disks {
            disk.uri = Some(serving.uri(&disk.name));
        }
        Ok(Self { disks, serving: Mutex::new(Some(serving)), _opened: Arc::clone(opened) })
    }

    pub fn figures(&self) -> Figures {
        let mut all = Figures::default();
        for LiveDisk { counters, overlay, .. } in &self.disks {
            all.bytes_read += counters.bytes(Operation::Read) + counters.mapped();
            all.bytes_written += counters.bytes(Operation::Write) + counters.bytes(Operation::Zero);
            all.overlay_bytes += fs::metadata(overlay).map_or(0, |m| m.blocks() * 512);
            all.errors += counters.errors(Operation::Read) + counters.errors(Operation::Write);
        }
        all.clients = self.serving.lock().as_ref().map_or(0, |serving| serving.clients());
        all
    }

    /// Closes the door, in good order: what was written is durable then. Does nothing the second time.
    ///
    /// # Errors
    ///
    /// When what was written cannot be made durable.
    pub fn close(&self) -> Result<()> {
        let serving = self.serving.lock().take();
        serving.map_or(Ok(()), Serving::end)
    }
}

/// Whether a file is an overlay whose making was broken off: its header is written last.
fn is_unfinished(path: &std::path::Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_err() || magic == [0; 4]
}

fn remove(path: &std::path::Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
