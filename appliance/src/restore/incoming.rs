//! One machine that is being restored: the files that have come, and the disks that they become.
//!
//! A job that is broken off may be run again. A file that is begun a second time tells of it: everything comes once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use blockdev::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use vfs::node::OpenFile;

use super::{
    disk::Merging,
    made::Made,
    member::{Member, Other},
    words::{self, Wish},
};
use crate::{output, recovery::record::Hypervisor};

/// A machine that is being restored, or was.
pub struct Incoming {
    /// Its folder: `libvirt/web02,start`.
    pub key: String,
    pub wish: Wish,
    pub hypervisor: Hypervisor,
    /// Where its disks go.
    pub storage: PathBuf,
    /// Where they are written down while they are made.
    made: Arc<Made>,
    state: Mutex<State>,
}

struct State {
    /// The folder in which its files lie, from the top of the restores.
    folder: Option<Vec<Vec<u8>>>,
    disks: BTreeMap<String, Arc<Mutex<Merging>>>,
    members: BTreeMap<String, Arc<Member>>,
    /// The names of all files that have begun to come.
    begun: BTreeSet<String>,
    phase: Phase,
    /// When something came last.
    changed: Instant,
    /// Why something was refused.
    problem: Option<String>,
}

/// How far it has come.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Files are coming.
    Receiving,
    /// All have come: they are proven, and the machine is made.
    Finishing,
    /// It is over.
    Ended(Outcome),
}

/// How it has ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub is_good: bool,
    /// What there is to be said, the machine first.
    pub lines: Vec<String>,
    /// Somebody was told.
    pub is_told: bool,
}

/// What has come of one.
pub struct Come {
    /// The folder of its files, from the top of the restores.
    pub folder: Vec<Vec<u8>>,
    /// The names of its files.
    pub begun: BTreeSet<String>,
    /// Those of disks.
    pub members: BTreeMap<String, Arc<Member>>,
    pub disks: BTreeMap<String, Arc<Mutex<Merging>>>,
}

impl Incoming {
    pub fn new(key: &str, wish: Wish, hypervisor: Hypervisor, storage: PathBuf, made: &Arc<Made>) -> Self {
        let state = State {
            folder: None,
            disks: BTreeMap::new(),
            members: BTreeMap::new(),
            begun: BTreeSet::new(),
            phase: Phase::Receiving,
            changed: Instant::now(),
            problem: None,
        };
        Self { key: key.to_owned(), wish, hypervisor, storage, made: Arc::clone(made), state: Mutex::new(state) }
    }

    /// Where the disk is in the end.
    pub fn path(&self, disk: &str) -> PathBuf {
        self.storage.join(&self.wish.name).join(format!("{disk}.{}", self.wish.format.name()))
    }

    /// The file `name` in `folder`, which the host keeps in `file`: made now, or opened before.
    ///
    /// # Errors
    ///
    /// When it is not to be restored here.
    pub fn file(self: &Arc<Self>, folder: &[Vec<u8>], name: &str, file: &OpenFile) -> Result<OpenFile> {
        let mut state = self.state.lock();
        match &state.folder {
            None => state.folder = Some(folder.to_vec()),
            Some(known) if known != folder => {
                let shown = |path: &[Vec<u8>]| String::from_utf8_lossy(&path.join(&b'/')).into_owned();
                return Err(Error::invalid(format!(
                    "files of another folder come already, {}: a folder of restore/ takes one machine; leave out {}",
                    shown(known),
                    shown(folder)
                )));
            }
            Some(_) => {}
        }
        let Some((disk, number)) = words::member(name) else {
            return Ok(Arc::new(Other::new(name, Arc::clone(file), Arc::clone(self))));
        };
        if let Some(known) = state.members.get(name)
            && known.ino()? == file.attributes()?.ino
        {
            return Ok(Arc::clone(known) as OpenFile);
        }
        // Here a job that is not wanted ends early.
        if self.is_wanted(disk) {
            self.check_free(disk)?;
        }
        let member = Arc::new(Member::new(name, (disk, number), Arc::clone(file), Arc::clone(self)));
        // They hold one another until the end.
        if matches!(state.phase, Phase::Receiving) {
            state.members.insert(name.to_owned(), Arc::clone(&member));
        }
        Ok(member)
    }

    fn is_wanted(&self, disk: &str) -> bool {
        self.wish.disks.is_empty() || self.wish.disks.iter().any(|wanted| wanted == disk)
    }

    /// What the files of `disk` go into; `None`: nobody wants them.
    ///
    /// # Errors
    ///
    /// When there is no place for it.
    pub fn disk(&self, disk: &str) -> Result<Option<Arc<Mutex<Merging>>>> {
        if !self.is_wanted(disk) {
            return Ok(None);
        }
        let mut state = self.state.lock();
        if let Some(known) = state.disks.get(disk) {
            return Ok(Some(Arc::clone(known)));
        }
        let merging = Arc::new(Mutex::new(Merging::new(self.new_path(disk)?, self.wish.format)));
        state.disks.insert(disk.to_owned(), Arc::clone(&merging));
        Ok(Some(merging))
    }

    fn check_free(&self, disk: &str) -> Result<()> {
        let path = self.path(disk);
        if self.wish.overwrite || !path.exists() {
            return Ok(());
        }
        let folder = self.key.rsplit('/').next().unwrap_or_default();
        Err(Error::new(
            ErrorKind::Exists,
            format!(
                "{} is there already: restore into the folder {}-2, or into {folder},overwrite if it is to be replaced",
                path.display(),
                self.wish.name,
            ),
        ))
    }

    /// The file in which a disk is made, written down before it is.
    fn new_path(&self, disk: &str) -> Result<PathBuf> {
        self.check_free(disk)?;
        let path = self.path(disk);
        let new = path.with_extension(format!("{}.new", self.wish.format.name()));
        if let Some(folder) = new.parent() {
            use std::os::unix::fs::DirBuilderExt;
            // Who runs the machine has to get at its disks, and nobody has to see which there are.
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
            made.map_err(|e| Error::io(format!("cannot make {}", folder.display()), e))?;
        }
        self.made.add(&new)?;
        Ok(new)
    }

    /// Something of the file `name` is being written at `offset`.
    ///
    /// # Errors
    ///
    /// When nothing is taken any more.
    pub fn writing(&self, name: &str, offset: u64) -> Result<()> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Receiving) {
            return Err(Error::new(
                ErrorKind::Locked,
                format!(
                    "{} has everything: what is restored there now would be another; try again in a minute",
                    self.key
                ),
            ));
        }
        state.changed = Instant::now();
        if offset == 0 && !state.begun.insert(name.to_owned()) {
            // Once more from the start.
            state.disks.values().for_each(|disk| disk.lock().begin_again());
            state.members.values().for_each(|member| member.begin_again());
            state.begun = BTreeSet::from([name.to_owned()]);
            state.problem = None;
        }
        Ok(())
    }

    /// Something could not be taken.
    pub fn failing(&self, error: &Error) {
        let text = format!("{}: {error}", self.wish.name);
        let mut state = self.state.lock();
        if state.problem.as_ref() != Some(&text) {
            output::note(&text);
            state.problem = Some(text);
        }
    }

    fn remove(&self, state: &mut State) {
        for disk in state.disks.values() {
            let mut disk = disk.lock();
            disk.remove();
            self.made.forget(disk.path());
        }
        state.disks.clear();
    }

    /// Its disks stay.
    pub fn keep(&self, path: &std::path::Path) {
        self.made.forget(path);
    }

    /// Ends it: with a machine, or with nothing left of it.
    pub fn end(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        self.remove(&mut state);
        state.members.clear();
        state.phase = Phase::Ended(outcome);
    }

    /// Begins to complete it, unless somebody does.
    pub fn begin_finishing(&self) -> bool {
        let mut state = self.state.lock();
        let is_receiving = matches!(state.phase, Phase::Receiving);
        if is_receiving {
            state.phase = Phase::Finishing;
        }
        is_receiving
    }

    pub fn phase(&self) -> Phase {
        self.state.lock().phase.clone()
    }

    /// Says that the outcome was told to somebody.
    pub fn told(&self) {
        if let Phase::Ended(outcome) = &mut self.state.lock().phase {
            outcome.is_told = true;
        }
    }

    pub fn problem(&self) -> Option<String> {
        self.state.lock().problem.clone()
    }

    /// How long nothing has come.
    pub fn idle(&self) -> Duration {
        self.state.lock().changed.elapsed()
    }

    /// What has come.
    pub fn come(&self) -> Come {
        let state = self.state.lock();
        Come {
            folder: state.folder.clone().unwrap_or_default(),
            begun: state.begun.clone(),
            members: state.members.clone(),
            disks: state.disks.clone(),
        }
    }

    /// Bytes that were written to its disks.
    pub fn written(&self) -> u64 {
        let disks = self.state.lock().disks.clone();
        disks.values().map(|disk| disk.lock().written).sum()
    }
}
