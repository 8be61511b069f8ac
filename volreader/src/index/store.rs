//! The index of one set of volumes, kept in one file of the cache folder.
//!
//! ```text
//! magic      8 bytes
//! tables     one a job, as the jobs are found
//! directory  volumes, sessions, block maps, places of the tables (postcard)
//! trailer    offset, length and XXH3 of the directory, magic                               32 bytes
//! ```
//!
//! The file is written under a temporary name while the volumes are scanned, and takes its name when it is whole,
//! so a reader never sees half of one. It is a cache: what does not verify is dropped and made again.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{Error, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{builder::Builder, table::Table};

/// The number is raised whenever what a scan finds out, or its form, changes: older indexes are then made again.
const MAGIC: &[u8; 8] = b"rvindex6";
const TRAILER_LEN: u64 = 32;
/// Bytes of all indexes in one cache folder; the oldest are removed beyond.
const MAX_KEPT: u64 = 4 << 30;
/// A larger directory is damage.
const MAX_DIRECTORY: u64 = 1 << 30;

/// What the index knows of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEntry {
    /// Name, from the label.
    pub name: String,
    /// When it was labelled and first written: recycling changes the second.
    pub times: (i64, i64),
    /// Where it was found.
    pub path: PathBuf,
    /// Bytes when it was scanned.
    pub len: u64,
    /// Behind the last whole block.
    pub end: u64,
    /// Where the next scan has to start: at the first block of a session that had not ended.
    pub resume: u64,
    /// A block near the end, to recognise the volume by: address, number, session id and time.
    pub witness: Option<(u64, u32, u32, u32)>,
    /// Damaged ranges.
    pub damage: Vec<(u64, u64, String)>,
}

/// What the index knows of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionEntry {
    /// Session id and time.
    pub session: (u32, u32),
    /// Everything about the job but its files.
    pub job: crate::archive::job::Facts,
    /// Its block map: first number, count, volume, address, stride, length of the last.
    pub runs: Vec<(u32, u32, u32, u64, u32, u32)>,
    /// Where its table is: offset, length, and XXH3 of its bytes.
    pub table: (u64, u64, u64),
}

/// The directory of an index.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Directory {
    /// The volumes, in the order of their indices.
    pub volumes: Vec<VolumeEntry>,
    /// The sessions.
    pub sessions: Vec<SessionEntry>,
}

/// An index that is being written.
#[derive(Debug)]
pub struct Writer {
    file: Arc<File>,
    /// Temporary and final name; `None` when there is no place to keep it.
    names: Option<(PathBuf, PathBuf)>,
    end: u64,
}

impl Writer {
    /// Start an index that will be kept as `path`, or one that is not kept.
    ///
    /// # Errors
    ///
    /// When no temporary file can be made at all.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        let kept = path.and_then(|path| {
            let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(true).open(&temporary).ok()?;
            Some((file, Some((temporary, path.to_owned()))))
        });
        let (file, names) = match kept {
            Some(kept) => kept,
            None => {
                (tempfile::tempfile().map_err(|e| Error::io("cannot make a temporary file for the index", e))?, None)
            }
        };
        let mut writer = Self { file: Arc::new(file), names, end: 0 };
        writer.append(MAGIC)?;
        Ok(writer)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.end).map_err(|e| Error::io("cannot write the index", e))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Add a job's table.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn table(&mut self, files: Builder) -> Result<Table> {
        let fail = |e| Error::io("cannot write the index", e);
        let mut out = &*self.file;
        out.seek(SeekFrom::Start(self.end)).map_err(fail)?;
        let len = files.write(&mut out).map_err(fail)?;
        let table = Table::open(Arc::clone(&self.file), self.end, len)?;
        self.end += len;
        Ok(table)
    }

    /// Take over a table of an older index.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written.
    pub fn copy(&mut self, table: &Table) -> Result<Table> {
        let (from, base, len) = table.bytes();
        let mut buf = vec![0; 1 << 20];
        let start = self.end;
        let mut done = 0;
        while done < len {
            let n = (len - done).min(buf.len() as u64) as usize;
            from.read_exact_at(&mut buf[..n], base + done).map_err(|e| Error::io("cannot read the index", e))?;
            self.append(&buf[..n])?;
            done += n as u64;
        }
        Table::open(Arc::clone(&self.file), start, len)
    }

    /// Write the directory and give the file its name. Failing to keep it is no error: it is only a cache.
    pub fn finish(mut self, directory: &Directory) {
        let Some((temporary, path)) = self.names.take() else { return };
        let kept = (|| {
            let bytes = postcard::to_allocvec(directory).ok()?;
            let at = self.end;
            self.append(&bytes).ok()?;
            self.append(&trailer(at, &bytes)).ok()?;
            std::fs::rename(&temporary, &path).ok()?;
            prune(&path);
            Some(())
        })();
        if kept.is_none() {
            let _ = std::fs::remove_file(&temporary);
        }
    }
}

/// What stands at the end of an index whose `directory` is at `at`.
#[must_use]
pub fn trailer(at: u64, directory: &[u8]) -> Vec<u8> {
    let mut trailer = Vec::with_capacity(TRAILER_LEN as usize);
    for v in [at, directory.len() as u64, xxh3_64(directory)] {
        trailer.extend(v.to_le_bytes());
    }
    trailer.extend(MAGIC);
    trailer
}

/// Remove the oldest indexes beside the one at `kept` until all together are within the bound.
fn prune(kept: &Path) {
    let Some(entries) = kept.parent().and_then(|folder| std::fs::read_dir(folder).ok()) else { return };
    let index = |e: std::fs::DirEntry| {
        let path = e.path();
        let metadata = e.metadata().ok().filter(|_| path.extension().is_some_and(|x| x == "rvindex"))?;
        Some((metadata.modified().ok()?, metadata.len(), path))
    };
    let mut indexes: Vec<_> = entries.flatten().filter_map(index).collect();
    indexes.sort();
    let mut total: u64 = indexes.iter().map(|i| i.1).sum();
    for (_, len, path) in indexes {
        if total <= MAX_KEPT {
            break;
        }
        if path != kept && std::fs::remove_file(&path).is_ok() {
            total -= len;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.names {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Read the directory of the index at `path`; `None` when there is none or it is not whole.
#[must_use]
pub fn read(path: &Path) -> Option<(Arc<File>, Directory)> {
    let file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    let mut trailer = [0; TRAILER_LEN as usize];
    file.read_exact_at(&mut trailer, len.checked_sub(TRAILER_LEN)?).ok()?;
    let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| trailer[i * 8 + k]));
    let (at, directory_len, sum) = (word(0), word(1), word(2));
    if &trailer[24..] != MAGIC || directory_len > MAX_DIRECTORY || at.checked_add(directory_len)? != len - TRAILER_LEN {
        return None;
    }
    let mut bytes = vec![0; directory_len as usize];
    file.read_exact_at(&mut bytes, at).ok()?;
    (xxh3_64(&bytes) == sum).then_some(())?;
    Some((Arc::new(file), postcard::from_bytes(&bytes).ok()?))
}
