//! All datasets of a pool as one tree.
//!
//! A file is known by dataset and object; what is no object (`.zfs` and what is in it, the topmost directory of a dataset,
//! whichever object that is) has numbers that no object has.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{Error, Result, images::layer::Layer, partitions::FsKind};
use quick_cache::sync::Cache;

use super::{
    dataset::{Dataset, State},
    dsl::Mos,
    import::Imported,
    log,
};
use crate::{DirEntry, FileId, FileSystem, Info, Kind, Metadata, Stream, Time, Usage, Xattr};

/// Opened datasets that are kept.
const DATASETS_KEPT: usize = 256;

/// Datasets whose intent logs are looked for when the pool is opened, and that the note on them names.
const LOGS_LOOKED_AT: usize = 64;
const LOGS_NAMED: usize = 8;

/// How deep datasets may lie in each other: their names have at most 256 bytes.
const DEPTH_MAX: usize = 130;

// Numbers of what is no object: those of objects are below 2^48.
/// The topmost directory of a dataset, or a volume.
const TOP: u64 = 0;
/// `.zfs` of a dataset.
const CONTROL: u64 = 1 << 60;
/// `.zfs/snapshot`.
const SNAPSHOTS: u64 = CONTROL + 1;
/// `.zfs/volumes`.
const VOLUMES: u64 = CONTROL + 2;
/// `.zfs/volumes/<volume>`; the dataset is the volume's.
const VOLUME_SNAPSHOTS: u64 = CONTROL + 3;

// A cookie in the topmost directory of a dataset says in its upper bits which part of the listing it is in.
const PART: u32 = 60;
const IN_CHILDREN: u64 = 1;
const IN_FILES: u64 = 2;

/// A pool's datasets.
pub struct Tree {
    mos: Mos,
    info: Info,
    /// The topmost directory of datasets, and its dataset.
    root_directory: u64,
    root: u64,
    datasets: Cache<u64, Arc<Dataset>>,
}

type Listed = Result<ControlFlow<()>>;

impl Tree {
    /// The datasets of a pool.
    ///
    /// # Errors
    ///
    /// When the topmost cannot be found.
    pub fn new(imported: Imported) -> Result<Self> {
        let Imported { mos, root: root_directory, group, name, guid, notes } = imported;
        let root = mos.directory(root_directory)?.head;
        let block_size = mos.pool().vdevs().sector_size();
        let info = Info { kind: FsKind::Zfs, label: name, uuid: Some(guid.to_string()), block_size, notes };
        let mut tree = Self { mos, info, root_directory, root, datasets: Cache::new(DATASETS_KEPT) };
        tree.note_logs(group);
        Ok(tree)
    }

    /// Notes which datasets have something in their intent logs that is not in transaction group `group`.
    fn note_logs(&mut self, group: u64) {
        let (mut logs, mut looked_at) = (Vec::new(), 0);
        let mut todo = vec![self.root];
        while let Some(number) = todo.pop() {
            looked_at += 1;
            let Ok(dataset) = self.dataset(number) else { continue };
            // Where a log cannot be read, more may lack.
            let has_more = |log| log::has_more(self.mos.pool(), log, group).unwrap_or(true);
            if dataset.log.is_some_and(has_more) {
                logs.push(self.name(number, &dataset));
            }
            let _ = self.children(&dataset, 0, &mut |_, head, _| {
                todo.push(head);
                let enough = looked_at + todo.len() >= LOGS_LOOKED_AT;
                Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
            if looked_at >= LOGS_LOOKED_AT {
                break;
            }
        }
        if !logs.is_empty() {
            let more = if logs.len() > LOGS_NAMED { " and others" } else { "" };
            logs.truncate(LOGS_NAMED);
            self.info.notes.push(format!(
                "what was written synchronously just before the copy lacks, since intent logs are not replayed: in {}{more}",
                logs.join(", ")
            ));
        }
    }

    fn dataset(&self, number: u64) -> Result<Arc<Dataset>> {
        if let Some(known) = self.datasets.get(&number) {
            return Ok(known);
        }
        let dataset = Arc::new(Dataset::open(&self.mos, number)?);
        self.datasets.insert(number, Arc::clone(&dataset));
        Ok(dataset)
    }

    /// Calls `found` with name, dataset and cookie for each dataset below `dataset`.
    fn children(
        &self,
        dataset: &Dataset,
        cookie: u64,
        found: &mut dyn FnMut(Vec<u8>, u64, u64) -> Listed,
    ) -> Result<()> {
        if dataset.children == 0 {
            return Ok(());
        }
        self.mos.with(dataset.children, |names| {
            names.list(cookie, &mut |entry| {
                let head =
                    entry.value.one().filter(|_| !is_hidden(&entry.name)).map(|n| self.mos.directory(n)).transpose()?;
                match head.map(|directory| directory.head).filter(|head| *head != 0) {
                    Some(head) => found(entry.name, head, entry.cookie),
                    None => Ok(ControlFlow::Continue(())),
                }
            })
        })
    }

    /// The dataset called `name` below `dataset`.
    fn child(&self, dataset: &Dataset, name: &[u8]) -> Result<Option<u64>> {
        if dataset.children == 0 || is_hidden(name) {
            return Ok(None);
        }
        let directory = self.mos.with(dataset.children, |names| names.get(name))?.and_then(|value| value.one());
        let head = directory.map(|number| self.mos.directory(number)).transpose()?.map(|directory| directory.head);
        Ok(head.filter(|head| *head != 0))
    }

    /// Calls `found` with name, dataset and cookie for each snapshot of `dataset`.
    fn snapshots(
        &self,
        dataset: &Dataset,
        cookie: u64,
        found: &mut dyn FnMut(Vec<u8>, u64, u64) -> Listed,
    ) -> Result<()> {
        if dataset.snapshots == 0 || !dataset.is_head {
            return Ok(());
        }
        self.mos.with(dataset.snapshots, |names| {
            names.list(cookie, &mut |entry| match entry.value.one() {
                Some(number) => found(entry.name, number, entry.cookie),
                None => Ok(ControlFlow::Continue(())),
            })
        })
    }

    /// The snapshot `name` of `dataset`.
    fn snapshot(&self, dataset: &Dataset, name: &[u8]) -> Result<Option<u64>> {
        if dataset.snapshots == 0 || !dataset.is_head {
            return Ok(None);
        }
        Ok(self.mos.with(dataset.snapshots, |names| names.get(name))?.and_then(|value| value.one()))
    }

    /// What the topmost entry of dataset `number` is.
    fn top_kind(&self, number: u64) -> Result<Kind> {
        Ok(if self.dataset(number)?.is_volume { Kind::File } else { Kind::Dir })
    }

    /// Whether there is a volume with snapshots directly below `dataset`.
    fn has_volumes(&self, dataset: &Dataset) -> Result<bool> {
        let mut found = false;
        self.volumes(dataset, 0, &mut |_, _, _| {
            found = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// Calls `found` for each volume directly below `dataset` that has snapshots.
    fn volumes(
        &self,
        dataset: &Dataset,
        cookie: u64,
        found: &mut dyn FnMut(Vec<u8>, u64, u64) -> Listed,
    ) -> Result<()> {
        self.children(dataset, cookie, &mut |name, head, cookie| {
            let child = self.dataset(head)?;
            let mut has_snapshots = false;
            if child.is_volume {
                self.snapshots(&child, 0, &mut |_, _, _| {
                    has_snapshots = true;
                    Ok(ControlFlow::Break(()))
                })?;
            }
            if has_snapshots { found(name, head, cookie) } else { Ok(ControlFlow::Continue(())) }
        })
    }

    /// The dataset's name, for messages: its path without the pool, or its number where that cannot be told.
    fn name(&self, number: u64, dataset: &Dataset) -> String {
        let found = dataset.name.get_or_init(|| {
            let path = self.path(number, dataset).unwrap_or_else(|_| format!("object {number}"));
            String::from_utf8_lossy(path.as_bytes()).into_owned()
        });
        found.clone()
    }

    fn path(&self, number: u64, dataset: &Dataset) -> Result<String> {
        let mut parts = Vec::new();
        let mut at = dataset.directory;
        for _ in 0..DEPTH_MAX {
            let parent = self.mos.directory(at)?.parent;
            if at == self.root_directory || parent == 0 {
                break;
            }
            let names = self.mos.directory(parent)?.children;
            parts.push(self.name_of(names, at)?);
            at = parent;
        }
        parts.push(self.info.label.clone().unwrap_or_else(|| "pool".to_owned()));
        parts.reverse();
        let mut path = parts.join("/");
        if !dataset.is_head {
            let head = self.mos.directory(dataset.directory)?.head;
            path = format!("{path}@{}", self.name_of(self.mos.dataset(head)?.snapshots, number)?);
        }
        Ok(path)
    }

    /// The name that has the value `wanted` in list `names`.
    fn name_of(&self, names: u64, wanted: u64) -> Result<String> {
        let mut name = None;
        self.mos.with(names, |names| {
            names.list(0, &mut |entry| {
                if entry.value.one() != Some(wanted) {
                    return Ok(ControlFlow::Continue(()));
                }
                name = Some(String::from_utf8_lossy(&entry.name).into_owned());
                Ok(ControlFlow::Break(()))
            })
        })?;
        name.ok_or_else(|| Error::damaged("a dataset has no name"))
    }

    /// Calls `work` with the dataset of `id`; its errors name the place.
    fn at<T>(&self, id: FileId, work: impl FnOnce(&Dataset) -> Result<T>) -> Result<T> {
        let dataset = self.dataset(id.tree)?;
        work(&dataset).map_err(|e| {
            let name = self.name(id.tree, &dataset);
            if id.number == TOP || id.number >= CONTROL {
                e.context(format!("dataset {name}"))
            } else {
                e.context(format!("object {} of dataset {name}", id.number))
            }
        })
    }

    /// The object of `number` in the files of `dataset`.
    fn object(dataset: &Dataset, number: u64) -> Result<u64> {
        let files = dataset.files()?;
        Ok(if number == TOP { files.root() } else { number })
    }

    fn list_top(
        &self,
        tree: u64,
        dataset: &Dataset,
        cookie: u64,
        sink: &mut dyn FnMut(DirEntry) -> Listed,
    ) -> Result<()> {
        let (part, within) = (cookie >> PART, cookie & ((1 << PART) - 1));
        let mut go_on = true;
        let mut give = |entry| {
            let flow = sink(entry)?;
            go_on = flow.is_continue();
            Ok(flow)
        };
        if cookie == 0 && dataset.is_head {
            let id = FileId { tree, number: CONTROL };
            if give(DirEntry { name: b".zfs".to_vec(), id, kind: Kind::Dir, cookie: 1 })?.is_break() {
                return Ok(());
            }
        }
        if part <= IN_CHILDREN {
            let from = if part == IN_CHILDREN { within } else { 0 };
            self.children(dataset, from, &mut |name, head, cookie| {
                let id = FileId { tree: head, number: TOP };
                give(DirEntry { name, id, kind: self.top_kind(head)?, cookie: IN_CHILDREN << PART | cookie })
            })?;
        }
        if !go_on {
            return Ok(());
        }
        let files = dataset.files()?;
        let from = if part == IN_FILES { within } else { 0 };
        files.list(files.root(), from, &mut |(name, number, kind, cookie)| {
            // What a dataset is mounted over is not seen.
            if dataset.children != 0 && self.child(dataset, &name)?.is_some() {
                return Ok(ControlFlow::Continue(()));
            }
            sink(DirEntry { name, id: FileId { tree, number }, kind, cookie: IN_FILES << PART | cookie })
        })
    }
}

/// Datasets of the system: `$MOS`, `$FREE`, `$ORIGIN`, and those that are being received.
fn is_hidden(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'$' | b'%'))
}

impl FileSystem for Tree {
    fn info(&self) -> &Info {
        &self.info
    }

    fn usage(&self) -> Result<Usage> {
        let total = self.mos.pool().vdevs().size();
        let used = self.mos.directory(self.root_directory)?.used;
        Ok(Usage { total, free: total.saturating_sub(used), files: None, files_free: None })
    }

    fn root(&self) -> FileId {
        FileId { tree: self.root, number: TOP }
    }

    fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Option<FileId>> {
        let tree = dir.tree;
        let top = |found: Option<u64>| found.map(|tree| FileId { tree, number: TOP });
        self.at(dir, |dataset| match dir.number {
            TOP => {
                if dataset.is_head && name == b".zfs" {
                    return Ok(Some(FileId { tree, number: CONTROL }));
                }
                if let Some(child) = self.child(dataset, name)? {
                    return Ok(top(Some(child)));
                }
                let files = dataset.files()?;
                Ok(files.lookup(files.root(), name)?.map(|number| FileId { tree, number }))
            }
            CONTROL => Ok(match name {
                b"snapshot" => Some(FileId { tree, number: SNAPSHOTS }),
                b"volumes" if self.has_volumes(dataset)? => Some(FileId { tree, number: VOLUMES }),
                _ => None,
            }),
            SNAPSHOTS | VOLUME_SNAPSHOTS => Ok(top(self.snapshot(dataset, name)?)),
            VOLUMES => {
                let Some(child) = self.child(dataset, name)? else { return Ok(None) };
                Ok(self.dataset(child)?.is_volume.then_some(FileId { tree: child, number: VOLUME_SNAPSHOTS }))
            }
            number => Ok(dataset.files()?.lookup(number, name)?.map(|number| FileId { tree, number })),
        })
    }

    fn list(&self, dir: FileId, cookie: u64, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        let tree = dir.tree;
        self.at(dir, |dataset| match dir.number {
            TOP => self.list_top(tree, dataset, cookie, &mut |entry| Ok(sink(entry))),
            CONTROL => {
                let mut give = |name: &[u8], number, at| {
                    let id = FileId { tree, number };
                    cookie < at && sink(DirEntry { name: name.to_vec(), id, kind: Kind::Dir, cookie: at }).is_break()
                };
                if !give(b"snapshot", SNAPSHOTS, 1) && self.has_volumes(dataset)? {
                    give(b"volumes", VOLUMES, 2);
                }
                Ok(())
            }
            SNAPSHOTS | VOLUME_SNAPSHOTS => self.snapshots(dataset, cookie, &mut |name, snapshot, cookie| {
                let id = FileId { tree: snapshot, number: TOP };
                Ok(sink(DirEntry { name, id, kind: self.top_kind(snapshot)?, cookie }))
            }),
            VOLUMES => self.volumes(dataset, cookie, &mut |name, head, cookie| {
                let id = FileId { tree: head, number: VOLUME_SNAPSHOTS };
                Ok(sink(DirEntry { name, id, kind: Kind::Dir, cookie }))
            }),
            number => dataset.files()?.list(number, cookie, &mut |(name, number, kind, cookie)| {
                Ok(sink(DirEntry { name, id: FileId { tree, number }, kind, cookie }))
            }),
        })
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        self.at(file, |dataset| {
            let made = Time { seconds: dataset.created as i64, nanos: 0 };
            let plain = |kind, permissions, nlink| Metadata {
                kind,
                permissions,
                nlink,
                uid: 0,
                gid: 0,
                rdev: (0, 0),
                size: 0,
                allocated: 0,
                accessed: made,
                modified: made,
                changed: made,
                created: Some(made),
            };
            match (file.number, &dataset.state) {
                (CONTROL | SNAPSHOTS | VOLUMES | VOLUME_SNAPSHOTS, _) => Ok(plain(Kind::Dir, 0o555, 2)),
                (TOP, State::Volume(volume)) => {
                    let (size, allocated) = (volume.size, volume.allocated());
                    Ok(Metadata { size, allocated, ..plain(Kind::File, 0o600, 1) })
                }
                (TOP, State::Unreadable(..)) if dataset.is_volume => Ok(plain(Kind::File, 0o600, 1)),
                (TOP, State::Unreadable(..)) => Ok(plain(Kind::Dir, 0o700, 2)),
                (number, _) => dataset.files()?.metadata(Self::object(dataset, number)?),
            }
        })
    }

    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>> {
        self.at(file, |dataset| match (file.number, &dataset.state) {
            (TOP, State::Volume(volume)) => Ok(Arc::new(volume.content()?) as _),
            (number, _) => Ok(Arc::new(dataset.files()?.content(Self::object(dataset, number)?)?) as _),
        })
    }

    fn link_target(&self, link: FileId) -> Result<Vec<u8>> {
        self.at(link, |dataset| dataset.files()?.link_target(Self::object(dataset, link.number)?))
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<Xattr>> {
        self.at(file, |dataset| match (file.number, &dataset.state) {
            (CONTROL.., _) | (TOP, State::Volume(_) | State::Unreadable(..)) => Ok(Vec::new()),
            (number, _) => dataset.files()?.xattrs(Self::object(dataset, number)?),
        })
    }

    fn streams(&self, file: FileId) -> Result<Vec<Stream>> {
        self.at(file, |dataset| match (file.number, &dataset.state) {
            (CONTROL.., _) | (TOP, State::Volume(_) | State::Unreadable(..)) => Ok(Vec::new()),
            (number, _) => dataset.files()?.streams(Self::object(dataset, number)?),
        })
    }

    fn stream(&self, file: FileId, name: &[u8]) -> Result<Arc<dyn Layer>> {
        self.at(file, |dataset| {
            let files = dataset.files()?;
            let object = files.stream(Self::object(dataset, file.number)?, name)?;
            Ok(Arc::new(files.content(object)?) as Arc<dyn Layer>)
        })
    }
}
