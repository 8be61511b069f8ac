//! A disk that is put together from the files of its chain while they come.
//!
//! Every file says of some ranges of the disk what they are; of what several say, the newest file is right. Bacula brings the
//! oldest first, mostly; what comes late is written only where no newer one has said anything. So nothing is kept but the
//! new disk and the tables of the files, and in whatever order they come the outcome is the same.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{
    BlockDevice, Error, ErrorKind, Result, WriteAt,
    file::RawDisk,
    images::qcow2::arriving::{DiskMap, Receiver},
    overlay::Overlay,
};
use hv_drivers::driver::FileFormat;

/// How many times larger than in the first file that comes a disk may have become in later ones.
const GROWTH: u64 = 4;
/// And how much larger at least, in bytes.
const GROWTH_MIN: u64 = 16 << 30;

/// A disk that is being made.
pub struct NewDisk {
    path: PathBuf,
    device: Device,
}

enum Device {
    Raw(RawDisk),
    Qcow2(Box<Overlay>),
}

impl NewDisk {
    fn create(path: &Path, format: FileFormat, room: u64) -> Result<Self> {
        let device = match format {
            FileFormat::Raw => Device::Raw(RawDisk::create(path, room)?),
            FileFormat::Qcow2 => Device::Qcow2(Box::new(Overlay::create_alone(path, room)?)),
        };
        Ok(Self { path: path.to_owned(), device })
    }

    fn device(&self) -> &dyn WriteAt {
        match &self.device {
            Device::Raw(raw) => raw,
            Device::Qcow2(overlay) => overlay.as_ref(),
        }
    }

    /// Its bytes, more than it will have.
    pub fn read(&self) -> &dyn BlockDevice {
        match &self.device {
            Device::Raw(raw) => raw,
            Device::Qcow2(overlay) => overlay.as_ref(),
        }
    }

    /// Makes it a disk of `size` bytes; it is durable then.
    fn finish(self, size: u64) -> Result<()> {
        let cannot = |e| Error::io(format!("cannot write {}", self.path.display()), e);
        match self.device {
            Device::Raw(raw) => {
                raw.flush()?;
                drop(raw);
                let file = fs::File::options().write(true).open(&self.path).map_err(cannot)?;
                file.set_len(size).and_then(|()| file.sync_all()).map_err(cannot)
            }
            Device::Qcow2(overlay) => overlay.finish_alone(size),
        }
    }
}

/// Who writes a piece of the disk.
type Writer<'a> = dyn FnMut(&dyn WriteAt, Range<u64>) -> Result<()> + 'a;

/// A disk, and the files that it is put together from.
pub struct Merging {
    /// Where it is made.
    path: PathBuf,
    format: FileFormat,
    new: Option<NewDisk>,
    /// There is a file of ours, complete or not.
    is_there: bool,
    /// What the files that have come say, by the numbers of their points.
    maps: BTreeMap<u64, Arc<DiskMap>>,
    /// Bytes that were written to it.
    pub written: u64,
}

impl Merging {
    pub const fn new(path: PathBuf, format: FileFormat) -> Self {
        Self { path, format, new: None, is_there: false, maps: BTreeMap::new(), written: 0 }
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who takes what comes in the file of point `number`.
    pub const fn receiving(&mut self, number: u64) -> Receiving<'_> {
        Receiving { disk: self, number }
    }

    /// The disk as far as it was made.
    pub const fn made(&self) -> Option<&NewDisk> {
        self.new.as_ref()
    }

    /// Ends it as a disk of `size` bytes.
    ///
    /// # Errors
    ///
    /// When nothing of it has come, or it cannot be written.
    pub fn finish(&mut self, size: u64) -> Result<()> {
        let nothing = || Error::invalid(format!("nothing has come of {}", self.path.display()));
        self.new.take().ok_or_else(nothing)?.finish(size)
    }

    /// As if nothing of it had come.
    pub fn begin_again(&mut self) {
        self.remove();
        self.maps.clear();
        self.written = 0;
    }

    /// Moves what is complete to `path`, where it stays.
    ///
    /// # Errors
    ///
    /// When it cannot be moved.
    pub fn keep(&mut self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(|e| Error::io(format!("cannot make {}", path.display()), e))?;
        self.is_there = false;
        Ok(())
    }

    /// Gives it up.
    pub fn remove(&mut self) {
        self.new = None;
        if std::mem::take(&mut self.is_there)
            && let Err(e) = fs::remove_file(&self.path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            crate::output::note(&format!("cannot remove {}: {e}", self.path.display()));
        }
    }

    fn device(&self) -> Result<&dyn WriteAt> {
        let none = || Error::invalid(format!("{} is not there any more", self.path.display()));
        self.new.as_ref().map(NewDisk::device).ok_or_else(none)
    }

    /// Calls `each` with the pieces of `range` of which no file newer than `number` says anything.
    fn visible(&self, number: u64, range: Range<u64>, each: &mut Writer<'_>) -> Result<()> {
        let device = self.device()?;
        if range.end > device.size() {
            return Err(Error::new(
                ErrorKind::Limit,
                format!(
                    "{} has grown to more than {GROWTH} times its size in its backups: restore it into a folder of another \
                     place, and use `revenant convert` there",
                    self.path.display()
                ),
            ));
        }
        let mut at = range.start;
        while at < range.end {
            let mut len = range.end - at;
            let mut hidden = false;
            for newer in self.maps.range(number + 1..).map(|(_, map)| map) {
                let (tells, for_bytes) = newer.tells(at, len)?;
                len = len.min(for_bytes.max(1));
                if tells {
                    hidden = true;
                    break;
                }
            }
            if !hidden {
                each(device, at..at + len)?;
            }
            at += len;
        }
        Ok(())
    }
}

/// Who takes what comes in one file.
pub struct Receiving<'a> {
    disk: &'a mut Merging,
    number: u64,
}

impl Receiver for Receiving<'_> {
    fn mapped(&mut self, map: &Arc<DiskMap>) -> Result<()> {
        let is_first = self.disk.new.is_none();
        if is_first {
            let room = map.size().saturating_mul(GROWTH).max(map.size().saturating_add(GROWTH_MIN)).min(1 << 50);
            self.disk.new = Some(NewDisk::create(&self.disk.path, self.disk.format, room)?);
            self.disk.is_there = true;
        }
        self.disk.maps.insert(self.number, Arc::clone(map));
        if is_first {
            return Ok(());
        }
        map.zeros(&mut |range| {
            self.disk.visible(self.number, range, &mut |device, range| device.write_zeroes(range, false))
        })?;
        if map.backing().is_some() {
            return Ok(());
        }
        // It stands by itself: what an older and larger one has behind its end is no part of the disk any more.
        let room = self.disk.device()?.size();
        self.disk.visible(self.number, map.size()..room, &mut |device, range| device.write_zeroes(range, false))
    }

    fn data(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        self.disk.visible(self.number, range, &mut |device, range| {
            let piece = (range.start - offset) as usize..(range.end - offset) as usize;
            device.write_at(bytes.get(piece).unwrap_or_default(), range.start)
        })?;
        self.disk.written += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, range: Range<u64>) -> Result<()> {
        self.disk.visible(self.number, range, &mut |device, range| device.write_zeroes(range, false))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blockdev::{
        Extent, ExtentKind, MappedRun, ReadAt,
        containers::{self, Backing, Kind},
        images::{
            Format,
            qcow2::arriving::{Arriving, Tables},
        },
    };
    use parking_lot::RwLock;

    use super::*;

    const CLUSTER: usize = 64 << 10;

    /// Tables in memory.
    #[derive(Default)]
    struct Kept(RwLock<BTreeMap<u64, Vec<u8>>>);

    impl Tables for Kept {
        fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
            self.0.write().insert(offset, bytes.to_vec());
            Ok(())
        }

        fn get(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            buf.fill(0);
            let end = offset + buf.len() as u64;
            for (at, bytes) in self.0.read().range(..end) {
                let from = offset.max(*at);
                let to = end.min(at + bytes.len() as u64);
                if from < to {
                    buf[(from - offset) as usize..(to - offset) as usize]
                        .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
                }
            }
            Ok(())
        }
    }

    /// A disk in memory whose clusters of zeros are holes.
    struct Ram(Vec<u8>);

    impl ReadAt for Ram {
        fn size(&self) -> u64 {
            self.0.size()
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
            self.0.read_at(buf, offset)
        }

        fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
            let at = offset as usize;
            let Some(rest) = self.0.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
            let len = rest.len().min(CLUSTER - at % CLUSTER);
            let kind = if rest[..len].iter().all(|b| *b == 0) { ExtentKind::Hole } else { ExtentKind::Data };
            Ok(Some(Extent { range: offset..offset + len as u64, kind }))
        }

        fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
            None
        }
    }

    impl BlockDevice for Ram {
        fn block_sizes(&self) -> blockdev::BlockSizes {
            blockdev::BlockSizes::CLASSIC
        }
    }

    /// The bytes of a file of a chain: of all of `disk`, or of what has changed since `before`.
    fn file(disk: &[u8], before: Option<(&str, &[u8])>) -> Vec<u8> {
        let device: Arc<dyn BlockDevice> = Arc::new(Ram(disk.to_vec()));
        let content = match before {
            None => containers::open(Kind::Qcow2, "x.qcow2", &device, b"x").expect("a file"),
            Some((name, before)) => {
                let end = |at: usize| (at + CLUSTER).min(disk.len());
                let differs = |at: &usize| before.get(*at..end(*at)) != Some(&disk[*at..end(*at)]);
                let clusters = (0..disk.len()).step_by(CLUSTER).filter(differs);
                let mut changed = clusters.map(|at| Ok(at as u64..end(at) as u64));
                let backing = Backing { name: name.to_owned(), format: Format::Qcow2 };
                containers::open_delta(&device, &mut changed, &backing).expect("a file")
            }
        };
        let mut bytes = vec![0; content.size() as usize];
        assert_eq!(content.read_at(&mut bytes, 0).expect("bytes"), bytes.len());
        bytes
    }

    /// Writes a file in pieces, as a File daemon does: blocks of zeros are left out, but for the last.
    fn write(merging: &mut Merging, number: u64, bytes: &[u8], piece: usize) -> Result<bool> {
        let mut coming = Arriving::new(Arc::new(Kept::default()));
        for (at, piece) in (0..).step_by(piece).zip(bytes.chunks(piece)) {
            if piece.iter().any(|b| *b != 0) || at + piece.len() == bytes.len() {
                coming.take(piece, at as u64, &mut merging.receiving(number))?;
            }
        }
        Ok(coming.is_whole())
    }

    fn random(rng: &mut fastrand::Rng, disk: &mut [u8]) {
        for _ in 0..rng.usize(1..12) {
            let at = rng.usize(..disk.len());
            let len = rng.usize(1..300_000).min(disk.len() - at);
            let byte = if rng.u8(..4) == 0 { 0 } else { rng.u8(..) };
            disk[at..at + len].fill(byte);
        }
    }

    /// The states of a disk that grows, is backed up whole once more when it has shrunk, and the files that they are saved
    /// in; the names of the files.
    fn chain(rng: &mut fastrand::Rng) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut disk = vec![0; 5 * MIB + 1536];
        let mut states: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for number in 0..6_usize {
            random(rng, &mut disk);
            let whole = number == 0 || number == 3;
            match number {
                2 => disk.resize(9 * MIB + 512, 0),
                3 => disk.truncate(3 * MIB),
                _ => {}
            }
            // A Differential is on top of the last whole one.
            let parent = if number == 5 { 3 } else { number.max(1) - 1 };
            let before = states.get(parent).map(|(state, _)| state.clone()).unwrap_or_default();
            let name = format!("d.{parent:04}-x.qcow2");
            let bytes = file(&disk, (!whole).then_some((name.as_str(), before.as_slice())));
            states.push((disk.clone(), bytes));
        }
        states
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn files_in_any_order_and_pieces_make_the_disk() {
        for seed in 0..40 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let states = chain(&mut rng);
            let last = rng.usize(..states.len());
            let mut order: Vec<usize> = (0..=last).collect();
            if seed % 2 == 1 {
                rng.shuffle(&mut order);
            }
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("disk");
            let format = if seed % 4 < 2 { FileFormat::Raw } else { FileFormat::Qcow2 };
            let mut merging = Merging::new(path.clone(), format);
            for number in order {
                let piece = [65536, 65536, 4096, 100_000][rng.usize(..4)];
                assert!(
                    write(&mut merging, number as u64, &states[number].1, piece).expect("taken"),
                    "{seed} {number}"
                );
            }
            let wanted = &states[last].0;
            let mut made = vec![1; wanted.len()];
            let device = merging.made().expect("a disk").read();
            assert_eq!(device.read_at(&mut made, 0).expect("read"), made.len());
            let differs = made.iter().zip(wanted).position(|(a, b)| a != b);
            assert_eq!(differs, None, "seed {seed}, up to {last}: {:?}", differs.map(|at| (made[at], wanted[at])));
            merging.finish(wanted.len() as u64).expect("finished");
            let len = fs::metadata(&path).expect("the disk").len();
            assert!(format == FileFormat::Qcow2 || len == wanted.len() as u64);
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        let mut rng = fastrand::Rng::with_seed(7);
        let states = chain(&mut rng);
        let folder = tempfile::tempdir().expect("a folder");
        for round in 0..1000_usize {
            let mut bytes = states[round % states.len()].1.clone();
            for _ in 0..rng.usize(1..5) {
                // In the header and the tables, mostly.
                let at = rng.usize(..[104, 66_000, 400_000][round % 3].min(bytes.len()));
                bytes[at] = rng.u8(..);
            }
            if rng.bool() {
                bytes.truncate(rng.usize(..bytes.len()));
            }
            let path = folder.path().join("disk");
            let mut merging = Merging::new(path.clone(), FileFormat::Raw);
            // Whatever comes of it: no panic, no hang, no file of any size.
            let _outcome = write(&mut merging, 1, &bytes, 65536);
            merging.remove();
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_file_of_others_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut merging = Merging::new(folder.path().join("disk"), FileFormat::Raw);
        let error = write(&mut merging, 1, &[7; 200_000], 65536).expect_err("no qcow2");
        assert!(error.to_string().contains("revenant convert"), "{error}");
    }
}
