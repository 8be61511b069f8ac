//! The digest of every cluster of a point, in a file that is backed up beside the disks.
//!
//! ```text
//! "REVENANT DIGESTS"                 16 bytes
//! length of the header               8 bytes, little-endian, as all numbers
//! header                             JSON: each disk's name, file, size, and how many runs and digests it has
//! runs of each disk                  first cluster and number of clusters, 8 bytes each
//! digests of each disk               16 bytes for each cluster of its runs, in order
//! ```
//!
//! A cluster has 64 KiB; a digest is the first half of its BLAKE3, zeros behind the end of the disk included. Clusters that
//! are in no run are as in the point before, or zeros where there is none. The file's size is known before the first
//! digest is: each is written when its cluster was read.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, OnceLock},
};

use blockdev::{BlockDevice, BlockSizes, Error, Extent, MappedRun, ReadAt, Result, fields::le64, file::HostFile};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Bytes of a cluster: that of the deltas, and what a bit of a tracker stands for.
pub const CLUSTER: u64 = 64 << 10;
const MAGIC: &[u8; 16] = b"REVENANT DIGESTS";
/// The longest header, in bytes.
const HEADER_MAX: u64 = 1 << 20;
/// Bytes of a run, and of a digest.
const RUN: u64 = 16;
const DIGEST: u64 = 16;

pub type Digest = [u8; 16];

/// The digest of `bytes`, at most a cluster, and zeros up to its end.
pub fn digest(bytes: &[u8]) -> Digest {
    static ZEROS: [u8; CLUSTER as usize] = [0; CLUSTER as usize];
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytes);
    hasher.update(ZEROS.get(bytes.len()..).unwrap_or_default());
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    half
}

/// That of a cluster of zeros.
pub fn of_zeros() -> Digest {
    static OF_ZEROS: OnceLock<Digest> = OnceLock::new();
    *OF_ZEROS.get_or_init(|| digest(&[]))
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    machine: String,
    job: String,
    digest: String,
    cluster: u64,
    disks: Vec<DiskHeader>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DiskHeader {
    name: String,
    file: String,
    size: u64,
    runs: u64,
    digests: u64,
}

/// The file of a point.
#[derive(Debug)]
pub struct Digests {
    pub disks: Vec<Arc<DiskDigests>>,
    bytes: u64,
}

/// The digests of a disk.
#[derive(Debug)]
pub struct DiskDigests {
    pub name: String,
    /// The disk's size in bytes.
    pub size: u64,
    file: File,
    /// Clusters, ascending, not touching.
    runs: Vec<Range<u64>>,
    /// The clusters before each run.
    ranks: Vec<u64>,
    /// Where its digests begin in the file.
    at: u64,
    /// A bit for each digest that is there; none when all are.
    known: Option<Mutex<Vec<u64>>>,
}

/// A disk whose digests are to be taken.
pub struct Wanted {
    pub name: String,
    pub file: String,
    pub size: u64,
    /// The clusters that its file has.
    pub runs: Vec<Range<u64>>,
}

impl Digests {
    /// A new file at `path` for the disks of a job, with no digest yet.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn create(path: &Path, machine: &str, job: &str, wanted: Vec<Wanted>) -> Result<Self> {
        let count = |runs: &[Range<u64>]| runs.iter().map(|run| run.end - run.start).sum::<u64>();
        let header = Header {
            machine: machine.to_owned(),
            job: job.to_owned(),
            digest: "BLAKE3, first 16 bytes".to_owned(),
            cluster: CLUSTER,
            disks: wanted
                .iter()
                .map(|disk| DiskHeader {
                    name: disk.name.clone(),
                    file: disk.file.clone(),
                    size: disk.size,
                    runs: disk.runs.len() as u64,
                    digests: count(&disk.runs),
                })
                .collect(),
        };
        let text = serde_json::to_vec(&header).map_err(|e| Error::invalid(e.to_string()))?;
        let mut bytes = [&MAGIC[..], &(text.len() as u64).to_le_bytes(), &text].concat();
        for run in wanted.iter().flat_map(|disk| &disk.runs) {
            bytes.extend(run.start.to_le_bytes());
            bytes.extend((run.end - run.start).to_le_bytes());
        }
        let cannot = |e| Error::io(format!("cannot write {}", path.display()), e);
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path).map_err(cannot)?;
        file.write_all_at(&bytes, 0).map_err(cannot)?;
        let mut at = bytes.len() as u64;
        let mut disks = Vec::new();
        for disk in wanted {
            let digests = count(&disk.runs);
            let words = usize::try_from(digests.div_ceil(64)).unwrap_or(usize::MAX);
            let file = file.try_clone().map_err(cannot)?;
            disks.push(Arc::new(DiskDigests {
                known: Some(Mutex::new(vec![0; words])),
                ..DiskDigests::new(disk.name, disk.size, file, disk.runs, at)
            }));
            at += digests * DIGEST;
        }
        file.set_len(at).map_err(cannot)?;
        Ok(Self { disks, bytes: at })
    }

    /// The complete file at `path`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is not as it should be.
    pub fn open(path: &Path) -> Result<Self> {
        let damaged = || Error::damaged(format!("{} is no file of digests", path.display()));
        let cannot = |e| Error::io(format!("cannot read {}", path.display()), e);
        let file = File::open(path).map_err(cannot)?;
        let bytes = file.metadata().map_err(cannot)?.len();
        let mut start = [0; 24];
        file.read_exact_at(&mut start, 0).map_err(cannot)?;
        let length = le64(&start, 16);
        if !start.starts_with(MAGIC) || length > HEADER_MAX {
            return Err(damaged());
        }
        let mut text = vec![0; length as usize];
        file.read_exact_at(&mut text, 24).map_err(cannot)?;
        let header: Header = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let lengths = |of: fn(&DiskHeader) -> u64| {
            header.disks.iter().try_fold(0_u64, |sum, disk| sum.checked_add(of(disk))).and_then(|n| n.checked_mul(16))
        };
        let (runs, digests) = (lengths(|d| d.runs).ok_or_else(damaged)?, lengths(|d| d.digests).ok_or_else(damaged)?);
        let expected = [24, length, runs, digests].iter().try_fold(0_u64, |sum, n| sum.checked_add(*n));
        if expected != Some(bytes) || header.cluster != CLUSTER {
            return Err(damaged());
        }
        let mut runs_at = 24 + length;
        let mut at = runs_at + runs;
        let mut disks = Vec::new();
        for disk in header.disks {
            // No more than the file has.
            let mut raw = vec![0; (disk.runs * RUN) as usize];
            file.read_exact_at(&mut raw, runs_at).map_err(cannot)?;
            let mut runs: Vec<Range<u64>> = Vec::new();
            let mut total = 0_u64;
            for run in raw.chunks_exact(16) {
                let (first, count) = (le64(run, 0), le64(run, 8));
                let end = first.checked_add(count).filter(|end| *end <= disk.size.div_ceil(CLUSTER));
                let end = end.filter(|_| runs.last().is_none_or(|last| last.end < first)).ok_or_else(damaged)?;
                total += count;
                runs.push(first..end);
            }
            if total != disk.digests {
                return Err(damaged());
            }
            runs_at += disk.runs * RUN;
            let file = file.try_clone().map_err(cannot)?;
            disks.push(Arc::new(DiskDigests::new(disk.name, disk.size, file, runs, at)));
            at += disk.digests * DIGEST;
        }
        Ok(Self { disks, bytes })
    }

    /// Bytes of the file.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn disk(&self, name: &str) -> Option<&Arc<DiskDigests>> {
        self.disks.iter().find(|disk| disk.name == name)
    }
}

impl DiskDigests {
    fn new(name: String, size: u64, file: File, runs: Vec<Range<u64>>, at: u64) -> Self {
        let before = |sum: &mut u64, run: &Range<u64>| {
            let rank = *sum;
            *sum += run.end - run.start;
            Some(rank)
        };
        let ranks = runs.iter().scan(0, before).collect();
        Self { name, size, file, runs, ranks, at, known: None }
    }

    /// Clusters that have a digest here.
    pub fn clusters(&self) -> u64 {
        self.ranks.last().zip(self.runs.last()).map_or(0, |(rank, run)| rank + (run.end - run.start))
    }

    /// The place of `cluster` among them.
    fn rank(&self, cluster: u64) -> Option<u64> {
        let index = self.runs.partition_point(|run| run.end <= cluster);
        let run = self.runs.get(index).filter(|run| run.contains(&cluster))?;
        Some(self.ranks.get(index)? + (cluster - run.start))
    }

    /// The cluster at place `rank`.
    pub fn nth(&self, rank: u64) -> Option<u64> {
        let index = self.ranks.partition_point(|before| *before <= rank).checked_sub(1)?;
        let cluster = self.runs.get(index)?.start + (rank - self.ranks.get(index)?);
        (rank < self.clusters()).then_some(cluster)
    }

    fn is_known(&self, rank: u64) -> bool {
        self.known.as_ref().is_none_or(|known| {
            let word = known.lock().get((rank / 64) as usize).copied().unwrap_or(0);
            word >> (rank % 64) & 1 == 1
        })
    }

    /// The digest of `cluster`; `None` where it is in no run, or was not read yet.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn get(&self, cluster: u64) -> Result<Option<Digest>> {
        let Some(rank) = self.rank(cluster).filter(|rank| self.is_known(*rank)) else { return Ok(None) };
        let mut digest = [0; 16];
        let read = self.file.read_exact_at(&mut digest, self.at + rank * DIGEST);
        read.map_err(|e| Error::io("cannot read a file of digests", e))?;
        Ok(Some(digest))
    }

    /// Whether `cluster` is in a run.
    pub fn has(&self, cluster: u64) -> bool {
        self.rank(cluster).is_some()
    }

    /// Takes the digests of the clusters in `bytes`, which were read from `offset` on, as far as they are whole.
    fn take(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let first = offset.div_ceil(CLUSTER);
        let skipped = usize::try_from(first * CLUSTER - offset).unwrap_or(usize::MAX);
        let is_end = offset + bytes.len() as u64 >= self.size;
        let clusters = bytes.get(skipped..).unwrap_or_default().chunks(CLUSTER as usize);
        // Those that follow each other are written at once.
        let mut taken: (u64, Vec<Digest>) = (0, Vec::new());
        for (cluster, content) in (first..).zip(clusters) {
            let is_whole = content.len() as u64 == CLUSTER || is_end;
            let Some(rank) = self.rank(cluster).filter(|rank| is_whole && !self.is_known(*rank)) else { continue };
            if rank != taken.0 + taken.1.len() as u64 {
                self.set(taken.0, &taken.1)?;
                taken = (rank, Vec::new());
            }
            taken.1.push(digest(content));
        }
        self.set(taken.0, &taken.1)
    }

    /// Notes that `cluster` is zeros.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn is_zeros(&self, cluster: u64) -> Result<()> {
        let rank = self.rank(cluster).filter(|rank| !self.is_known(*rank));
        rank.map_or(Ok(()), |rank| self.set(rank, &[of_zeros()]))
    }

    /// Writes `digests` at the places from `rank` on.
    fn set(&self, rank: u64, digests: &[Digest]) -> Result<()> {
        let (Some(known), false) = (&self.known, digests.is_empty()) else { return Ok(()) };
        let written = self.file.write_all_at(digests.as_flattened(), self.at + rank * DIGEST);
        written.map_err(|e| Error::io("cannot write a file of digests", e))?;
        let mut known = known.lock();
        for rank in (rank..).take(digests.len()) {
            if let Some(word) = known.get_mut((rank / 64) as usize) {
                *word |= 1 << (rank % 64);
            }
        }
        Ok(())
    }

    /// The clusters that are in a run and were not read yet.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.clusters()).filter(|rank| !self.is_known(*rank)).filter_map(|rank| self.nth(rank))
    }

    /// Makes durable what is there.
    ///
    /// # Errors
    ///
    /// When it cannot be.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("cannot write a file of digests", e))
    }
}

/// A disk whose clusters' digests are taken as they are read.
pub struct Digesting<D> {
    device: D,
    digests: Arc<DiskDigests>,
}

impl<D: BlockDevice> Digesting<D> {
    pub const fn new(device: D, digests: Arc<DiskDigests>) -> Self {
        Self { device, digests }
    }
}

impl<D: BlockDevice> ReadAt for Digesting<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = self.device.read_at(buf, offset)?;
        self.digests.take(&buf[..n], offset)?;
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.device.extent_at(offset)
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        // Bytes that go by here unseen would have no digest.
        None
    }
}

impl<D: BlockDevice> BlockDevice for Digesting<D> {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}

/// The file as it is backed up: a digest that was not taken yet is taken when it is asked for.
pub struct DigestFile {
    file: HostFile,
    parts: Vec<(Arc<DiskDigests>, Arc<dyn BlockDevice>)>,
}

impl DigestFile {
    /// The file at `path`, and its disks in their order, each of which takes digests when it is read.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: &Path, parts: Vec<(Arc<DiskDigests>, Arc<dyn BlockDevice>)>) -> Result<Self> {
        Ok(Self { file: HostFile::open(path)?, parts })
    }

    /// Reads the clusters whose digests lie in `range` of the file and are not known.
    fn complete(&self, range: Range<u64>) -> Result<()> {
        for (digests, device) in &self.parts {
            let first = range.start.saturating_sub(digests.at) / DIGEST;
            let end = range.end.saturating_sub(digests.at).div_ceil(DIGEST).min(digests.clusters());
            for rank in (first..end).filter(|rank| !digests.is_known(*rank)) {
                let Some(cluster) = digests.nth(rank) else { continue };
                read_cluster(device.as_ref(), cluster)?;
            }
        }
        Ok(())
    }
}

/// The bytes of `cluster`: fewer at the end of the disk.
///
/// # Errors
///
/// When they cannot be read.
pub fn read_cluster(device: &dyn BlockDevice, cluster: u64) -> Result<Vec<u8>> {
    let at = cluster.saturating_mul(CLUSTER);
    let mut bytes = vec![0; device.size().saturating_sub(at).min(CLUSTER) as usize];
    let n = device.read_at(&mut bytes, at)?;
    bytes.truncate(n);
    Ok(bytes)
}

impl ReadAt for DigestFile {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.complete(offset..offset.saturating_add(buf.len() as u64))?;
        self.file.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.file.extent_at(offset)
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use blockdev::layers::AsDevice;

    use super::*;
    use crate::backup::proof::{self, Past};

    const CLUSTERS: usize = 20;

    /// A disk whose last cluster is not whole.
    fn disk(changed: &[usize]) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..(CLUSTERS - 1) * CLUSTER as usize + 700).map(|i| (i / 4096) as u8).collect();
        changed.iter().for_each(|cluster| bytes[cluster * CLUSTER as usize + 5] ^= 1);
        bytes
    }

    fn wanted(runs: Vec<Range<u64>>) -> Vec<Wanted> {
        let size = disk(&[]).len() as u64;
        vec![Wanted { name: "vd0".to_owned(), file: "vd0.qcow2".to_owned(), size, runs }]
    }

    /// The digests of `disk` in `runs`, taken while it is read in odd pieces, and read from the file again.
    fn taken(path: &Path, disk: &[u8], runs: Vec<Range<u64>>) -> Arc<DiskDigests> {
        let new = Digests::create(path, "web01", "job", wanted(runs)).expect("a file");
        let device: Arc<dyn BlockDevice> =
            Arc::new(Digesting::new(AsDevice::new(disk.to_vec(), BlockSizes::CLASSIC), Arc::clone(&new.disks[0])));
        let file = DigestFile::open(path, vec![(Arc::clone(&new.disks[0]), Arc::clone(&device))]).expect("a file");
        assert_eq!(file.size(), new.bytes());
        let mut buf = vec![0; 3 * CLUSTER as usize + 100];
        device.read_at(&mut buf, 7).expect("a read");
        assert!(new.disks[0].get(0).expect("a file").is_none(), "its first bytes were not read");
        // Who reads the file first gets the digests all the same.
        let mut whole = vec![0; usize::try_from(file.size()).expect("small")];
        assert_eq!(file.read_at(&mut whole, 0).expect("a read"), whole.len());
        assert_eq!(new.disks[0].missing().count(), 0);
        let again = Digests::open(path).expect("a complete file");
        assert_eq!(std::fs::read(path).expect("the file"), whole);
        Arc::clone(again.disk("vd0").expect("the disk"))
    }

    #[test]
    fn what_has_changed_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let full = taken(&folder.path().join("1"), &disk(&[]), vec![0..20]);
        let own = digest(&disk(&[])[19 * CLUSTER as usize..]);
        assert_eq!(full.get(19).expect("a file"), Some(own), "zeros are behind the end of the disk");
        let delta = taken(&folder.path().join("2"), &disk(&[4, 5]), vec![4..6]);
        let past = Past::new(vec![Arc::clone(&delta), Arc::clone(&full)]);

        let device = |changed: &[usize]| AsDevice::new(disk(changed), BlockSizes::CLASSIC);
        // Nothing but cluster 9 has changed since, and the tracker says so.
        assert_eq!(proof::sample(&device(&[4, 5, 9]), &[9..10], &past, 50).expect("right"), 50);
        // The tracker has forgotten it.
        let wrong = proof::sample(&device(&[4, 5, 9]), &[], &past, 5000).expect_err("a change");
        assert!(wrong.to_string().contains("change tracking is wrong"), "{wrong}");
        let whole = taken(&folder.path().join("3"), &disk(&[4, 5, 9]), vec![0..20]);
        assert_eq!(proof::all(&whole, &[9..10], &past).expect("right"), 18);
        assert!(proof::all(&whole, &[8..9], &past).is_err());
        // What is in no run of a whole disk is zeros.
        assert!(proof::all(&taken(&folder.path().join("4"), &disk(&[4, 5]), vec![0..3]), &[], &past).is_err());
    }

    #[test]
    fn a_file_that_is_harmed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("digests");
        taken(&path, &disk(&[]), vec![1..3, 7..20]);
        let good = std::fs::read(&path).expect("the file");
        let head = good.len() - 15 * 16;
        for at in 0..head {
            for bit in [0, 3, 7] {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                std::fs::write(&path, &bad).expect("a file");
                // An error, or another text in the header: never a panic, and never more than the file has.
                if let Ok(read) = Digests::open(&path) {
                    read.disks.iter().for_each(|disk| assert!(disk.clusters() <= 15));
                }
            }
        }
        for len in [0, 10, 24, head, good.len() - 1] {
            std::fs::write(&path, &good[..len]).expect("a file");
            assert!(Digests::open(&path).is_err(), "{len}");
        }
    }
}
