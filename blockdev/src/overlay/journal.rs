//! Changes of the tables since they were last written, kept where they outlive this process.
//!
//! Changed L2 entries are in memory until a commit writes them. With the power the guest goes, too, and what it had not
//! flushed may go with it. But a process that is killed under a guest that runs on must lose nothing: the guest's next
//! flush would succeed in the next process, which knows nothing of the writes before. So a change is appended to a file
//! beside the overlay before it is acknowledged, and what is there is put into the tables when the overlay is opened again.
//!
//! The file is never synced: it is the kernel's, and whole as long as that runs. After a loss of power it may name data that
//! was never written, so it holds the kernel's boot id, and is not looked at under another.
//!
//! ```text
//! 0      magic (8), boot id (36), device (8), inode (8) of the overlay
//! 4096   changes: turn (8), page (8), index (8), the L2 entry (16); little-endian, the entry as in the table
//! 1 TiB  changes of every second turn
//! ```
//!
//! Each commit begins a new turn, unless the last one has failed, so that the turn before is in the tables when its place is
//! taken. The two that are in the file hold, for each entry, its last change or none: put in again in order they give the
//! tables as they were, whatever of it was there already.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    layout::{CLUSTER, ENTRY, Entry, Layout, PAGE},
    medium::Medium,
    pages::lock,
};
use crate::{Error, Result, fields::le64};

const MAGIC: &[u8; 8] = b"RVNOVJ01";
const HEAD: usize = 60;
/// Where the changes of a turn begin: even ones, odd ones.
const PLACES: [u64; 2] = [4096, 1 << 40];
const CHANGE: usize = 40;
/// Bytes of changes after which the tables are written without a flush.
const PRESSED: u64 = 4 << 20;
/// Bytes of one turn that are read at most: more than are ever written.
const TURN_MAX: u64 = 16 << 20;

/// The file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Held, shared, from before a change is appended until it is in the list of changed pages.
    gate: RwLock<()>,
    end: Mutex<End>,
    /// Bytes of the turn.
    len: AtomicU64,
}

#[derive(Debug)]
struct End {
    turn: u64,
    /// The changes of the turn before are in the tables.
    covered: bool,
}

/// The file that belongs to the overlay at `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".journal");
    PathBuf::from(name)
}

/// What the file begins with for the overlay `file`, while this kernel runs.
fn head(file: &File) -> io::Result<[u8; HEAD]> {
    let (boot, metadata) = (std::fs::read("/proc/sys/kernel/random/boot_id")?, file.metadata()?);
    let mut head = [0; HEAD];
    let mut rest = &mut head[..];
    for part in [&MAGIC[..], boot.trim_ascii(), &metadata.dev().to_le_bytes(), &metadata.ino().to_le_bytes()] {
        let Some((to, behind)) = rest.split_at_mut_checked(part.len()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        to.copy_from_slice(part);
        rest = behind;
    }
    Ok(head)
}

impl Journal {
    /// A new one for the overlay `file` at `path`, in the place of an older.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn create(path: &Path, file: &File) -> Result<Self> {
        let path = beside(path);
        let made = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let made =
            made.and_then(|journal| head(file).and_then(|head| journal.write_all_at(&head, 0)).map(|()| journal));
        let journal = made.map_err(|e| Error::io(format!("cannot make {}", path.display()), e))?;
        let end = Mutex::new(End { turn: 1, covered: true });
        Ok(Self { file: journal, path, gate: RwLock::default(), end, len: AtomicU64::new(0) })
    }

    /// Keeps a commit from beginning a turn.
    pub fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Append what `fresh` has other than `old`, the entries of page `number`. The caller holds the gate, and the page.
    ///
    /// # Errors
    ///
    /// When there is no room.
    pub fn append(&self, number: u64, old: &[Entry], fresh: &[Entry]) -> io::Result<()> {
        let end = lock(&self.end);
        let mut bytes = Vec::new();
        for (index, (_, entry)) in (0_u64..).zip(old.iter().zip(fresh)).filter(|(_, (old, fresh))| old != fresh) {
            for field in [end.turn, number, index] {
                bytes.extend(field.to_le_bytes());
            }
            bytes.extend(entry.encode());
        }
        let at = self.len.load(Ordering::Relaxed);
        self.file.write_all_at(&bytes, place(end.turn) + at)?;
        self.len.store(at + bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Whether there are so many changes that the tables should be written.
    pub fn pressed(&self) -> bool {
        self.len.load(Ordering::Relaxed) >= PRESSED
    }

    /// A commit begins: all changes that were appended before are in the list of changed pages.
    pub fn begin(&self) {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut end = lock(&self.end);
        // A turn without changes would leave its place to an older one than the last.
        if std::mem::replace(&mut end.covered, false) && self.len.load(Ordering::Relaxed) > 0 {
            end.turn += 1;
            self.len.store(0, Ordering::Relaxed);
        }
    }

    /// The changed pages are in the file that were in the list when the commit began.
    pub fn done(&self) {
        lock(&self.end).covered = true;
    }

    /// The overlay is closed, and needs it no more.
    pub fn remove(&self) {
        // One that stays has nothing in it that the tables have not.
        let _ = std::fs::remove_file(&self.path);
    }
}

const fn place(turn: u64) -> u64 {
    PLACES[(turn % 2) as usize]
}

/// Put the changes into the tables of the overlay `file` at `path` that a process has left there when it was killed. What
/// cannot be understood is as if it were not there.
///
/// # Errors
///
/// When the file fails; it is then as before, or has some of the changes, and all of them can be put in again.
pub fn replay(path: &Path, file: &File, medium: &dyn Medium, layout: &Layout) -> Result<()> {
    let journal = beside(path);
    let failed = |e| Error::io(format!("cannot read {}", journal.display()), e);
    let mut changes = match File::open(&journal) {
        Ok(changes) => changes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    let mut found = [0; HEAD];
    if changes.read_exact(&mut found).is_err() || head(file).map_err(failed)? != found {
        return Ok(());
    }
    let mut turns = [read_turn(&mut changes, 0).map_err(failed)?, read_turn(&mut changes, 1).map_err(failed)?];
    turns.sort_unstable_by_key(|(turn, _)| *turn);
    if turns.iter().all(|(_, changes)| changes.is_empty()) {
        return Ok(());
    }
    let cannot = |e| Error::io(format!("cannot write the tables of {}", path.display()), e);
    let end = medium.size().map_err(cannot)?.next_multiple_of(CLUSTER).min(layout.end_max());
    let in_page = PAGE / ENTRY;
    // What they point to first, as a commit does.
    medium.sync().map_err(cannot)?;
    for (page, index, bytes) in turns.iter().flat_map(|(_, changes)| changes) {
        let cluster = page.checked_mul(in_page).and_then(|first| first.checked_add(*index));
        let is_within = *index < in_page && cluster.is_some_and(|c| c < layout.size.div_ceil(CLUSTER));
        if is_within && Entry::decode(*bytes, layout.data, end).is_ok() {
            medium.write(bytes, layout.page(*page) + index * ENTRY).map_err(cannot)?;
        }
    }
    medium.sync().map_err(cannot)
}

/// A turn's number and its changes: page, index, entry.
type Turn = (u64, Vec<(u64, u64, [u8; ENTRY as usize])>);

fn read_turn(file: &mut File, odd: u64) -> io::Result<Turn> {
    file.seek(SeekFrom::Start(place(odd)))?;
    let mut input = BufReader::new(file.by_ref().take(TURN_MAX));
    let (mut turn, mut changes) = (0, Vec::new());
    let mut bytes = [0; CHANGE];
    loop {
        match input.read_exact(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        let number = le64(&bytes, 0);
        // What is behind the turn is of an older one, or nothing.
        if number == 0 || number % 2 != odd || (turn != 0 && number != turn) {
            break;
        }
        turn = number;
        let mut entry = [0; ENTRY as usize];
        entry.copy_from_slice(bytes.last_chunk::<{ ENTRY as usize }>().unwrap_or(&[0; ENTRY as usize]));
        changes.push((le64(&bytes, 8), le64(&bytes, 16), entry));
    }
    Ok((turn, changes))
}
