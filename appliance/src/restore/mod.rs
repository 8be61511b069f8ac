//! Machines that stock Bacula restores into the tree: what is written into `restore/<hypervisor>/<machine>` becomes disks
//! and a machine, without lying anywhere as files first.
//!
//! ```text
//! restore client=vmgate-fd where=/run/revenant/tree/restore/libvirt/web02 select current all done yes
//! ```
//!
//! The File daemon writes the files of a chain one after another. The tables of each are kept, its data goes straight into
//! new disks; when the files that the machine's description names are there, the disks are read back and compared with the
//! digests that came along, the machine is defined, and a file `result` says so. What fails leaves nothing.
//!
//! * `words`: what is wished for, in the name of the folder; `incoming`: one machine that comes, `member`: its files, `disk`:
//!   the disk that they become; `point`: what is missing still;
//! * `finish`: the end of it, with `proof`; `made`: what a crash leaves is removed.

mod disk;
mod finish;
mod incoming;
mod made;
mod member;
mod point;
mod proof;
mod words;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, Weak},
    thread,
    time::Duration,
};

use blockdev::{Error, ErrorKind, Result, containers::Kind};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vfs::{
    node::{Create, Node, OpenFile, SetAttributes},
    providers::datastore::{Catch, Datastore, Settings},
};

use self::{
    incoming::{Incoming, Phase},
    made::Made,
    point::RestoredPoint,
    words::Wish,
};
use crate::{
    cli::Sources,
    config, output,
    recovery::{record::Hypervisor, sessions::Sessions},
};

/// What says how a restore has ended, in its folder.
const RESULT: &str = "result";

/// How long after the end of a restore its files stay: the File daemon still sets their attributes.
const GRACE: Duration = Duration::from_secs(20);

/// When nothing has come for so long, and no description of the machine at all, the disks that are whole are all there is.
const SINGLE: Duration = Duration::from_secs(60);

/// When nothing has come for so long, nothing will: a File daemon that was killed never says so.
const LEASE: Duration = Duration::from_secs(2 * 3600);

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// The job is over: how did it go?
    End {
        /// The restore's folder, `HYPERVISOR/FOLDER`; `None`: all of which nobody was told yet.
        folder: Option<String>,
        /// What Bacula says of the job.
        status: Option<String>,
    },
    /// What there is.
    Status,
}

/// All restores of a daemon.
pub struct Restores {
    /// Where the host keeps what is written.
    folder: PathBuf,
    state: PathBuf,
    sources: Sources,
    sessions: Arc<Sessions>,
    made: Arc<Made>,
    datastore: OnceLock<Datastore>,
    all: Mutex<BTreeMap<String, Arc<Incoming>>>,
}

impl Restores {
    /// Those of the state folder `state`. What was not complete when the last daemon ended is removed.
    ///
    /// # Errors
    ///
    /// When the folder cannot be used.
    pub fn open(state: &Path, sources: &Sources, sessions: &Arc<Sessions>) -> Result<Arc<Self>> {
        let made = Arc::new(Made::open(state)?);
        let folder = state.join("restore");
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("cannot empty {}", folder.display()), e));
            }
            _ => {}
        }
        let restores = Arc::new(Self {
            folder: folder.join("files"),
            state: state.to_owned(),
            sources: sources.clone(),
            sessions: Arc::clone(sessions),
            made,
            datastore: OnceLock::new(),
            all: Mutex::default(),
        });
        let catch: Weak<dyn Catch> = Arc::downgrade(&(Arc::clone(&restores) as Arc<dyn Catch>));
        let datastore = Datastore::catching(&folder, &Settings::new(Kind::Raw), catch)?;
        let Node::Dir(root) = datastore.root() else { return Err(Error::invalid("a datastore is a folder")) };
        for hypervisor in restores.hypervisors()?.into_keys() {
            if let Some(root) = root.writable() {
                root.make_dir(
                    hypervisor.as_bytes(),
                    &SetAttributes { permissions: Some(0o700), ..Default::default() },
                )?;
            }
        }
        let _once = restores.datastore.set(datastore);
        Ok(restores)
    }

    /// The folder `restore` of the tree.
    pub fn node(&self) -> Option<Node> {
        self.datastore.get().map(Datastore::root)
    }

    /// By their names in the tree.
    fn hypervisors(&self) -> Result<BTreeMap<String, Hypervisor>> {
        let configured = config::hypervisors(&self.sources)?;
        let libvirt = configured.libvirt.into_iter().map(|host| (host.name, Hypervisor::Libvirt(host.uri)));
        Ok(libvirt.chain([("qemu".to_owned(), Hypervisor::Qemu)]).collect())
    }

    /// Where the disks of a restored machine go.
    fn storage(&self, wish: &Wish, hypervisor: &Hypervisor) -> Result<PathBuf> {
        let configured = config::storages(&self.sources)?;
        let found = match &wish.storage {
            Some(name) => configured.iter().find(|storage| storage.name == *name),
            None => configured.first(),
        };
        match (found, &wish.storage, hypervisor) {
            (Some(storage), _, _) => Ok(storage.path.clone()),
            (None, None, Hypervisor::Libvirt(_)) => Ok("/var/lib/libvirt/images".into()),
            (None, None, Hypervisor::Qemu) => Ok(self.state.join("restored")),
            (None, Some(name), _) => {
                let known: Vec<_> = configured.iter().map(|storage| storage.name.as_str()).collect();
                Err(Error::not_found(format!(
                    "no [[storage]] called {name} is configured; there are: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                )))
            }
        }
    }

    /// The restore in the folder `name` below `hypervisor`, begun if it is not.
    fn incoming(&self, hypervisor: &str, name: &str) -> Result<Arc<Incoming>> {
        let key = format!("{hypervisor}/{name}");
        let mut all = self.all.lock();
        if let Some(known) = all.get(&key) {
            return Ok(Arc::clone(known));
        }
        let wish = Wish::read(name)?;
        let mut hypervisors = self.hypervisors()?;
        let known: Vec<_> = hypervisors.keys().cloned().collect();
        let hypervisor = hypervisors.remove(hypervisor).ok_or_else(|| {
            Error::not_found(format!("no hypervisor {hypervisor} is configured; there are: {}", known.join(", ")))
        })?;
        let storage = self.storage(&wish, &hypervisor)?;
        let incoming = Arc::new(Incoming::new(&key, wish, hypervisor, storage, &self.made));
        all.insert(key, Arc::clone(&incoming));
        Ok(incoming)
    }

    /// What has come of one.
    fn point(&self, restore: &Incoming) -> RestoredPoint {
        use std::os::unix::ffi::OsStrExt;
        let come = restore.come();
        let names = come.folder.iter().map(|name| std::ffi::OsStr::from_bytes(name));
        let folder = names.fold(self.folder.clone(), |path, name| path.join(name));
        RestoredPoint::of(restore, &come, &folder)
    }

    /// Completes what is complete, and removes what is over; called again and again.
    pub fn tend(self: &Arc<Self>) {
        let all: Vec<_> = self.all.lock().values().cloned().collect();
        for restore in all {
            match restore.phase() {
                Phase::Receiving => {
                    let point = self.point(&restore);
                    let is_point = point.machine.is_some() || !restore.wish.disks.is_empty();
                    if point.missing.is_empty() && (is_point || restore.idle() > SINGLE) {
                        let (own, restores) = (Arc::clone(&restore), Arc::clone(self));
                        let work = move || restores.complete(&own, &point);
                        // Without a thread it is tried again.
                        let _ = thread::Builder::new().name("restore".into()).spawn(work);
                    } else if restore.idle() > LEASE
                        && let Err(e) = self.give_up(&restore, &point)
                    {
                        output::note(&format!("{}: {e}", restore.key));
                    }
                }
                Phase::Ended(_) if restore.idle() > GRACE => self.put_away(&restore),
                Phase::Finishing | Phase::Ended(_) => {}
            }
        }
    }

    /// Makes the machine of what has come, unless somebody does.
    fn complete(&self, restore: &Incoming, point: &RestoredPoint) {
        if !restore.begin_finishing() {
            return;
        }
        let outcome = finish::finish(restore, point, &self.sessions, &self.sources);
        outcome.lines.iter().for_each(|line| output::note(line));
        if let Err(e) = self.write_result(restore, &outcome.lines) {
            output::note(&format!("{}: {e}", restore.key));
        }
        restore.end(outcome);
    }

    /// Ends one of which not everything has come, unless somebody completes it.
    fn give_up(&self, restore: &Incoming, point: &RestoredPoint) -> Result<()> {
        if !restore.begin_finishing() {
            return Ok(());
        }
        let outcome = finish::incomplete(restore, point);
        let written = self.write_result(restore, &outcome.lines);
        restore.end(outcome);
        written
    }

    /// Says how it has ended in the file `result` of its folder.
    fn write_result(&self, restore: &Incoming, lines: &[String]) -> Result<()> {
        let Some(Node::Dir(folder)) = self.walk(&restore.key)? else { return Ok(()) };
        let Some(folder) = folder.writable() else { return Ok(()) };
        let set = SetAttributes { permissions: Some(0o600), size: Some(0), ..Default::default() };
        let made = folder.create(RESULT.as_bytes(), &Create::Any(set))?;
        let Node::File(file) = made.node else { return Ok(()) };
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        file.writable()?.map_or(Ok(()), |file| file.write_at(text.as_bytes(), 0).map(drop))
    }

    fn walk(&self, path: &str) -> Result<Option<Node>> {
        let Some(Node::Dir(root)) = self.node() else { return Ok(None) };
        root.walk(&path.split('/').map(str::as_bytes).collect::<Vec<_>>())
    }

    /// Removes what a restore that is over has left in its folder, but its result.
    fn put_away(&self, restore: &Incoming) {
        let emptied = match self.walk(&restore.key) {
            Ok(Some(Node::Dir(folder))) => empty(&folder, true),
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = emptied {
            output::note(&format!("{}: {e}", restore.key));
        }
        self.all.lock().remove(&restore.key);
    }

    /// Whether nothing is coming.
    pub fn is_idle(&self) -> bool {
        self.all.lock().is_empty()
    }

    /// Does what is asked for, and tells its steps.
    ///
    /// # Errors
    ///
    /// When a restore has not gone well: the job is to be failed.
    pub fn answer(&self, request: &Request, step: &dyn Fn(&str)) -> Result<Value> {
        match request {
            Request::End { folder, status } => self.end(folder.as_deref(), status.as_deref(), step),
            Request::Status => Ok(self.status()),
        }
    }

    fn status(&self) -> Value {
        let all: Vec<_> = self.all.lock().values().cloned().collect();
        let told = |restore: &Arc<Incoming>| {
            let (state, lines) = match restore.phase() {
                Phase::Receiving => ("receiving", restore.problem().into_iter().collect()),
                Phase::Finishing => ("proving", Vec::new()),
                Phase::Ended(outcome) => (if outcome.is_good { "restored" } else { "failed" }, outcome.lines),
            };
            json!({
                "folder": restore.key,
                "machine": restore.wish.name,
                "state": state,
                "written": restore.written(),
                "missing": if state == "receiving" { self.point(restore).missing } else { Vec::new() },
                "storage": restore.storage,
                "lines": lines,
            })
        };
        all.iter().map(told).collect()
    }

    fn end(&self, folder: Option<&str>, status: Option<&str>, step: &dyn Fn(&str)) -> Result<Value> {
        let is_meant = |restore: &Arc<Incoming>| match (folder, restore.phase()) {
            (Some(folder), _) => restore.key == folder.trim_matches('/'),
            (None, Phase::Ended(outcome)) => !outcome.is_told,
            (None, _) => true,
        };
        let meant: Vec<_> = self.all.lock().values().filter(|restore| is_meant(restore)).cloned().collect();
        if meant.is_empty() {
            let which = folder.map_or_else(String::new, |folder| format!(" into {folder}"));
            return Err(Error::not_found(format!(
                "nothing was restored{which} since the daemon was started; if it was interrupted, restore once more"
            )));
        }
        let mut bad = Vec::new();
        for restore in &meant {
            if matches!(restore.phase(), Phase::Receiving) {
                let point = self.point(restore);
                if point.missing.is_empty() {
                    self.complete(restore, &point);
                } else {
                    self.give_up(restore, &point)?;
                }
            }
            let outcome = loop {
                match restore.phase() {
                    Phase::Ended(outcome) => break outcome,
                    _ => thread::sleep(Duration::from_millis(100)),
                }
            };
            outcome.lines.iter().for_each(|line| step(line));
            restore.told();
            if !outcome.is_good {
                bad.push(restore.wish.name.clone());
            }
            self.put_away(restore);
        }
        if bad.is_empty() {
            return Ok(json!({ "restored": meant.len() }));
        }
        let status = status.map_or_else(String::new, |status| format!(" (Bacula says: {status})"));
        Err(Error::new(ErrorKind::Damaged, format!("not restored: {}{status}", bad.join(", "))))
    }

    /// Ends in good order: what has not come is given up.
    pub fn close(&self) {
        for restore in self.all.lock().values() {
            if restore.begin_finishing() {
                restore.end(finish::incomplete(restore, &self.point(restore)));
            }
        }
    }
}

/// Removes what is in `folder`; its result stays if it is the `top`.
fn empty(folder: &Arc<dyn vfs::node::Dir>, is_top: bool) -> Result<()> {
    let mut entries = Vec::new();
    folder.list(0, &mut |entry| {
        entries.push(entry);
        vfs::node::ControlFlow::Continue(())
    })?;
    let Some(writable) = folder.writable() else { return Ok(()) };
    for entry in entries {
        match folder.lookup(&entry.name)? {
            Some(Node::Dir(below)) => {
                empty(&below, false)?;
                writable.remove_dir(&entry.name)?;
            }
            Some(_) if is_top && entry.name == RESULT.as_bytes() => {}
            Some(_) => {
                writable.remove_file(&entry.name)?;
            }
            None => {}
        }
    }
    Ok(())
}

impl Catch for Restores {
    fn catch(&self, path: &[Vec<u8>], file: &OpenFile) -> Result<Option<OpenFile>> {
        let text = |name: &[u8]| {
            let text = std::str::from_utf8(name).map(str::to_owned);
            text.map_err(|_| Error::invalid(format!("{} is no name of a machine here", name.escape_ascii())))
        };
        let [hypervisor, folder, below @ ..] = path else { return Ok(None) };
        let Some((name, _)) = below.split_last() else { return Ok(None) };
        if below.len() == 1 && name == RESULT.as_bytes() {
            return Ok(None);
        }
        let caught = self.incoming(&text(hypervisor)?, &text(folder)?).and_then(|restore| {
            let own = path.get(..path.len() - 1).unwrap_or_default();
            restore.file(own, &text(name)?, file).inspect_err(|e| restore.failing(e))
        });
        // The File daemon is told no more than a number.
        caught
            .map(Some)
            .inspect_err(|e| output::note(&format!("restore into {}: {e}", text(folder).unwrap_or_default())))
    }
}
