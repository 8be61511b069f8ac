//! One job's point in time: what it is to deliver, and whether it has.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use blockdev::{
    BlockDevice, ExtentKind, ReadAt, Result,
    containers::{self, Backing, Kind},
    images::Format,
    layers::{Ahead, Cached},
    origin::Identified,
};
use hv_drivers::driver::{Changed, PointDisk};
use parking_lot::Mutex;
use vfs::{
    changed::{self, Found},
    node::Node,
};

use super::{
    chain::Plan,
    delivery::{Delivered, Readers},
    digests::{CLUSTER, DigestFile, Digesting, Digests, DiskDigests, Wanted, read_cluster},
    file_daemon::FileDaemon,
    proof::{self, Past},
    record::{Member, Point, Small, Text},
    room,
    shown::Shown,
    stored::{Stored, clusters, stored},
};

/// How long nobody may read anything of a job that is running: not every File daemon that was killed is noticed.
const LEASE: Duration = Duration::from_secs(2 * 3600);
/// What is read ahead of a disk, in bytes, and by how many threads.
const AHEAD: u64 = 16 << 20;
const THREADS: usize = 2;

/// A job's point in time.
pub struct Run {
    pub point: Point,
    disks: Vec<Disk>,
    files: Vec<Arc<Shown>>,
    /// The files that have to be delivered, and who reads them.
    readers: Vec<(String, u64, Arc<Readers>)>,
    /// Bytes that were delivered when somebody last looked, and since when it is so.
    progress: Mutex<(u64, Instant)>,
    /// Who is to read it, where that is known.
    file_daemon: Option<FileDaemon>,
    /// What is to be said when it ends.
    unsaid: Vec<String>,
    /// Where what the guest overwrites goes.
    scratch: PathBuf,
}

/// A disk of it.
struct Disk {
    name: String,
    device: Arc<dyn BlockDevice>,
    digests: Arc<DiskDigests>,
    /// The clusters that the tracker says have changed since `known`; `None`: it does not know.
    changed: Option<Vec<Range<u64>>>,
    known: Option<u64>,
    is_delta: bool,
}

/// What the proof of a disk has shown.
pub struct Proven {
    pub disk: String,
    /// Clusters that were compared.
    pub clusters: u64,
    /// What was found wrong, and whether the disk was taken whole, so that it is right now.
    pub wrong: Option<(String, bool)>,
}

impl Run {
    /// What the job is to deliver: `disks` as `plan` says, in the point `point`, whose members are filled in, and the small
    /// files that `texts` makes for them. What the admin should know is told to `note`.
    ///
    /// # Errors
    ///
    /// When a disk cannot be read.
    pub fn new(
        plan: &Plan,
        disks: Vec<PointDisk>,
        mut point: Point,
        folder: &Path,
        texts: &dyn Fn(&Point) -> Vec<Text>,
        note: &dyn Fn(String),
    ) -> Result<Self> {
        let mut parts = Vec::new();
        let mut wanted = Vec::new();
        for (planned, disk) in plan.disks.iter().zip(disks) {
            let changed = match &disk.changed {
                Changed::Ranges(ranges) => Some(clusters(ranges.iter().cloned())),
                Changed::Unknown(_) => None,
            };
            let backing = match (&planned.base, &disk.changed) {
                (Ok(base), Changed::Ranges(_)) => Some(base.clone()),
                (Ok(_), Changed::Unknown(why)) | (Err(why), _) => {
                    if !why.is_empty() {
                        note(format!("disk {} is taken whole: {why}", disk.name));
                    }
                    None
                }
            };
            let touched = changed.as_deref().filter(|_| backing.is_some());
            let stored = stored(disk.device.as_ref(), touched)?;
            let file = planned.file(plan.number, plan.level, backing.is_some());
            let runs = touched.map_or_else(|| stored.clone(), <[_]>::to_vec);
            wanted.push(Wanted { name: disk.name.clone(), file: file.clone(), size: disk.device.size(), runs });
            parts.push((planned, disk, changed, backing, stored, file));
        }
        let name = format!("{:04}.digests", plan.number);
        let path = folder.join(&name);
        let digests = Digests::create(&path, &point.mark, &point.job, wanted)?;

        let mut contents = Vec::new();
        let mut own = Vec::new();
        let mut digested: Vec<(Arc<DiskDigests>, Arc<dyn BlockDevice>)> = Vec::new();
        for ((planned, disk, changed, backing, stored, file), digests) in parts.into_iter().zip(&digests.disks) {
            let device: Arc<dyn BlockDevice> = Arc::new(Digesting::new(disk.device, Arc::clone(digests)));
            let plan: Vec<Range<u64>> =
                stored.iter().map(|run| run.start * CLUSTER..(run.end * CLUSTER).min(device.size())).collect();
            let ahead = Ahead::new(Arc::clone(&device), plan, AHEAD, THREADS);
            let ahead: Arc<dyn BlockDevice> = Arc::new(Stored::new(ahead, stored));
            let content: Arc<dyn ReadAt> = match (&backing, &changed) {
                (Some(name), Some(changed)) => {
                    let size = device.size();
                    let mut ranges = changed.iter().map(|run| Ok(run.start * CLUSTER..(run.end * CLUSTER).min(size)));
                    let backing = Backing { name: name.clone(), format: Format::Qcow2 };
                    containers::open_delta(&ahead, &mut ranges, &backing)?
                }
                _ => containers::open(Kind::Qcow2, &file, &ahead, file.as_bytes())?,
            };
            point.disks.push(Member {
                disk: disk.name.clone(),
                file: file.clone(),
                bytes: content.size(),
                backing: backing.clone(),
                size: device.size(),
                place: planned.disk.place.clone(),
            });
            digested.push((Arc::clone(digests), Arc::clone(&device)));
            contents.push((file, content));
            own.push(Disk {
                name: disk.name,
                device,
                digests: Arc::clone(digests),
                changed,
                known: planned.known,
                is_delta: backing.is_some(),
            });
        }
        // Last, because it is known last.
        contents.push((name.clone(), Arc::new(DigestFile::open(&path, digested)?)));
        point.digests = Small { name, bytes: digests.bytes() };
        point.texts = texts(&point);
        let texts = point.texts.iter().map(|text| (text.name.clone(), Arc::new(text.text.clone().into_bytes()) as _));
        let contents: Vec<(String, Arc<dyn ReadAt>)> = texts.chain(contents).collect();
        let mut run = Self {
            point,
            disks: own,
            files: Vec::new(),
            readers: Vec::new(),
            progress: Mutex::new((0, Instant::now())),
            file_daemon: None,
            unsaid: Vec::new(),
            scratch: folder.to_owned(),
        };
        for (name, content) in contents {
            run.add(&name, run.point.time, content);
        }
        Ok(run)
    }

    /// The same, begun by this File daemon, with what could not be said then; what the guest overwrites goes to `scratch`.
    pub fn begun_by(mut self, file_daemon: Option<FileDaemon>, unsaid: Vec<String>, scratch: PathBuf) -> Self {
        (self.file_daemon, self.unsaid, self.scratch) = (file_daemon, unsaid, scratch);
        self
    }

    /// Why it has to be given up.
    pub fn doomed(&self) -> Option<String> {
        if self.file_daemon.as_ref().is_some_and(FileDaemon::has_ended) {
            return Some("its File daemon is gone".to_owned());
        }
        if self.idle() > LEASE {
            return Some("nobody reads it".to_owned());
        }
        room::shortage(&self.scratch)
    }

    /// What could not be said when it was begun.
    pub fn unsaid(&self) -> &[String] {
        &self.unsaid
    }

    fn add(&mut self, name: &str, time: i64, content: Arc<dyn ReadAt>) {
        let readers = Arc::new(Readers::default());
        self.readers.push((name.to_owned(), content.size(), Arc::clone(&readers)));
        self.files.push(Shown::own(name, time, content, &readers));
    }

    /// The files of its own, in the order in which they are to be read.
    pub fn files(&self) -> &[Arc<Shown>] {
        &self.files
    }

    /// Bytes of disks that are to be delivered.
    pub fn bytes(&self) -> u64 {
        self.point.disks.iter().map(|member| member.bytes).sum()
    }

    /// Bytes that were delivered.
    pub fn delivered(&self) -> u64 {
        self.readers.iter().map(|(_, _, readers)| readers.bytes()).sum()
    }

    /// How long nobody has read anything.
    fn idle(&self) -> Duration {
        let delivered = self.delivered();
        let mut progress = self.progress.lock();
        if progress.0 != delivered {
            *progress = (delivered, Instant::now());
        }
        progress.1.elapsed()
    }

    /// The files that were not delivered, and why not.
    pub fn not_delivered(&self) -> Vec<String> {
        let why = |(name, len, readers): &(String, u64, Arc<Readers>)| match readers.delivered(*len) {
            Delivered::Whole => None,
            Delivered::Not(why) => Some(format!("{name} {why}")),
        };
        self.readers.iter().filter_map(why).collect()
    }

    /// Takes the digests that delivering has not taken, and makes them durable.
    ///
    /// # Errors
    ///
    /// When a disk cannot be read.
    pub fn complete_digests(&self) -> Result<()> {
        for disk in &self.disks {
            let missing: Vec<u64> = disk.digests.missing().collect();
            for cluster in missing {
                // What the guest has discarded is not in the file, and not worth being read.
                let end = ((cluster + 1) * CLUSTER).min(disk.device.size());
                match disk.device.extent_at(cluster * CLUSTER)? {
                    Some(extent) if extent.kind == ExtentKind::Hole && extent.range.end >= end => {
                        disk.digests.is_zeros(cluster)?;
                    }
                    _ => drop(read_cluster(disk.device.as_ref(), cluster)?),
                }
            }
            disk.digests.sync()?;
        }
        Ok(())
    }

    /// Compares what the tracker calls unchanged with what it was, of which `past` knows: a disk at a point.
    ///
    /// # Errors
    ///
    /// When a disk, or what is known of the past, cannot be read.
    pub fn prove(&self, past: &dyn Fn(&str, u64) -> Result<Option<Past>>) -> Result<Vec<Proven>> {
        let mut proven = Vec::new();
        for disk in &self.disks {
            let (Some(changed), Some(known)) = (&disk.changed, disk.known) else { continue };
            let Some(past) = past(&disk.name, known)? else { continue };
            let compared = match disk.is_delta {
                true => proof::sample(disk.device.as_ref(), changed, &past, proof::SAMPLES).map(|n| n as u64),
                false => proof::all(&disk.digests, changed, &past),
            };
            proven.push(match compared {
                Ok(clusters) => Proven { disk: disk.name.clone(), clusters, wrong: None },
                Err(e) if e.kind() == blockdev::ErrorKind::Damaged => {
                    Proven { disk: disk.name.clone(), clusters: 0, wrong: Some((e.to_string(), !disk.is_delta)) }
                }
                Err(e) => return Err(e.context(format_args!("disk {}", disk.name))),
            });
        }
        Ok(proven)
    }

    /// The files of the guest that make up most of the change, out of its disks.
    pub fn top_changes(&self, most: usize) -> Found {
        /// How long it may be looked for them, and what of a disk is kept meanwhile, in bytes.
        const PATIENCE: Duration = Duration::from_secs(10);
        const KEPT: u64 = 32 << 20;
        let disk = |(number, disk): (u64, &Disk)| {
            let cached = Cached::new(Arc::clone(&disk.device), 64 << 10, KEPT).ok()?;
            Some((disk.name.clone(), Arc::new(Identified::new(cached, number)) as Arc<dyn ReadAt>))
        };
        let disks = (0..).zip(&self.disks).filter_map(disk).collect();
        let Node::Dir(files) = vfs::providers::guest_files(disks, &Arc::default()) else { return Found::default() };
        let within = |disk: u64, offset: u64, len: u64| {
            let disk = usize::try_from(disk).ok().and_then(|n| self.disks.get(n));
            let Some(changed) = disk.and_then(|disk| disk.changed.as_deref()) else { return 0 };
            let end = offset.saturating_add(len);
            let first = changed.partition_point(|run| run.end * CLUSTER <= offset);
            let runs = changed.iter().skip(first).take_while(|run| run.start * CLUSTER < end);
            runs.map(|run| (run.end * CLUSTER).min(end) - (run.start * CLUSTER).max(offset)).sum()
        };
        changed::files(files.as_ref(), &within, most, PATIENCE)
    }

    /// Bytes of disks that the tracker says have changed; `None` where a disk is taken whole.
    pub fn changed(&self) -> Option<u64> {
        let of = |disk: &Disk| {
            let clusters = disk.changed.as_ref().filter(|_| disk.is_delta)?;
            Some(clusters.iter().map(|run| run.end - run.start).sum::<u64>() * CLUSTER)
        };
        self.disks.iter().map(of).sum()
    }
}
