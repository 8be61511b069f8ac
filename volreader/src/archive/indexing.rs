//! Indexing an archive's volumes: what the kept index still tells, and scanning for the rest.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, atomic::Ordering},
};

use blockdev::{Error, Result};

use super::{
    Archive, Options,
    files::Files,
    job::{Facts, Job},
};
use crate::{
    block::Session,
    index::{
        store::{self, Directory, SessionEntry, VolumeEntry, Writer},
        table::Table,
    },
    scan::{self, JobScan, Jobs, Progress},
    session::{
        SessionData,
        map::{BlockMap, Run, VolumeIndex},
        store::Store,
    },
    volume::Volume,
};

/// What indexing has come to so far.
#[derive(Default)]
pub(super) struct State {
    directory: Directory,
    tables: Vec<Table>,
    loaded: bool,
}

/// A session that an earlier pass found whole.
struct Kept {
    entry: SessionEntry,
    table: Table,
}

impl Archive {
    /// The indexing thread.
    pub(super) fn index(&self) {
        let mut ending = Ending { archive: self, failed: Some("indexing ended in a fault of the program".to_owned()) };
        ending.failed = self.index_pass().err().map(|e| e.to_string());
    }

    /// Bring the index up to date with the volumes and publish what is new.
    pub(super) fn index_pass(&self) -> Result<()> {
        let mut state = self.indexed.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = self.open_volumes()?;
        let path = self.options.cache.as_deref().and_then(|c| index_path(c, &self.options.volumes));
        if let Some((file, directory)) = path.as_deref().filter(|_| !state.loaded).and_then(store::read) {
            let open = |s: &SessionEntry| Table::open(Arc::clone(&file), s.table.0, s.table.1)?.verified(s.table.2);
            if let Ok(tables) = directory.sessions.iter().map(open).collect::<Result<Vec<_>>>() {
                (state.directory, state.tables) = (directory, tables);
            }
        }
        let first_pass = !std::mem::replace(&mut state.loaded, true);
        let old = std::mem::take(&mut *state);
        let store = self.store(opened.clone());
        let mut pass = Pass {
            archive: self,
            store: Arc::clone(&store),
            kept: Vec::new(),
            directory: Directory::default(),
            tables: Vec::new(),
        };
        let changed = pass.recall(old, &opened)?;
        if changed || first_pass {
            pass.kept.iter().for_each(|k| self.publish(job_of(&store, &k.entry, k.table.share())));
        }
        if changed {
            pass.scan(&opened, path.as_deref())?;
        } else {
            for Kept { entry, table } in std::mem::take(&mut pass.kept) {
                pass.directory.sessions.push(entry);
                pass.tables.push(table);
            }
        }
        for (volume, entry) in opened.iter().zip(&pass.directory.volumes) {
            for (start, end, what) in &entry.damage {
                self.problem(format!("volume {}, addresses {start} to {end}: {what}", volume.name()));
            }
        }
        *state = State { directory: pass.directory, tables: pass.tables, loaded: true };
        Ok(())
    }
}

/// Says that indexing has ended, however it did: whoever waits for jobs would wait forever.
struct Ending<'a> {
    archive: &'a Archive,
    failed: Option<String>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.archive.change(|found| {
            found.complete = true;
            found.failed = self.failed.take();
        });
    }
}

/// One pass over the volumes.
struct Pass<'a> {
    archive: &'a Archive,
    store: Arc<Store>,
    kept: Vec<Kept>,
    directory: Directory,
    tables: Vec<Table>,
}

impl Pass<'_> {
    /// Take over from `old` what is still true of `volumes`. Returns whether anything has to be scanned.
    fn recall(&mut self, old: State, volumes: &[Arc<Volume>]) -> Result<bool> {
        // Where each volume of the old index is now.
        let mut now: Vec<Option<VolumeIndex>> = vec![None; old.directory.volumes.len()];
        let mut changed = old.directory.volumes.len() != volumes.len();
        for (volume, index) in volumes.iter().zip(0..) {
            let len = volume.medium().present_len()?;
            let known = old.directory.volumes.iter().position(|v| v.name == volume.name() && is_same(v, volume, len));
            let entry = match known {
                Some(k) => {
                    now[k] = Some(VolumeIndex(index));
                    let mut entry = old.directory.volumes[k].clone();
                    changed |= entry.len != len;
                    entry.path = volume.medium().path().to_owned();
                    entry
                }
                None => {
                    changed = true;
                    let label = volume.label();
                    let start = volume.medium().start();
                    VolumeEntry {
                        name: volume.name().to_owned(),
                        times: (label.labelled_at, label.written_at),
                        path: volume.medium().path().to_owned(),
                        len: 0,
                        end: start,
                        resume: start,
                        witness: None,
                        damage: Vec::new(),
                    }
                }
            };
            self.directory.volumes.push(entry);
        }
        for (mut entry, table) in old.directory.sessions.into_iter().zip(old.tables) {
            let mapped: Option<Vec<_>> = entry
                .runs
                .iter()
                .map(|r| now.get(r.2 as usize).copied().flatten().map(|v| (r.0, r.1, v.0, r.3, r.4, r.5)))
                .collect();
            // A session that had not ended is looked for again when there is anything new at all.
            let whole = entry.job.status.is_some() || !changed;
            if let Some(runs) = mapped.filter(|_| whole) {
                entry.runs = runs;
                self.kept.push(Kept { entry, table });
            } else {
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Scan what is new and write the index.
    fn scan(&mut self, volumes: &[Arc<Volume>], path: Option<&Path>) -> Result<()> {
        let mut writer = Writer::create(path)?;
        let mut known = HashSet::new();
        for Kept { entry, table } in std::mem::take(&mut self.kept) {
            known.insert(session_of(&entry));
            let copy = writer.copy(&table)?;
            self.note(entry, copy);
        }
        let progress = &self.archive.progress;
        let mut total = 0;
        for (volume, entry) in volumes.iter().zip(&self.directory.volumes) {
            total += volume.medium().present_len()?.saturating_sub(entry.resume - volume.medium().start());
        }
        progress.passed.store(0, Ordering::Relaxed);
        progress.total.store(total, Ordering::Relaxed);

        let mut jobs = Jobs::new();
        let mut first_seen: Vec<HashMap<Session, u64>> = Vec::new();
        for (volume, index) in volumes.iter().zip(0..) {
            let from = self.directory.volumes[index as usize].resume;
            let mut finished = Vec::new();
            let report = scan::scan(volume, VolumeIndex(index), from, &mut jobs, progress, &mut |session, job| {
                if !known.contains(&session) {
                    finished.push((session, job));
                    for (session, job) in finished.drain(..) {
                        self.finish(&mut writer, session, job)?;
                        known.insert(session);
                    }
                }
                Ok(())
            })?;
            let entry = &mut self.directory.volumes[index as usize];
            entry.len = volume.medium().present_len()?;
            entry.end = report.end;
            entry.witness = report.last.map(|(at, h)| (at, h.number, h.session.id, h.session.time)).or(entry.witness);
            entry.damage.retain(|d| d.0 < from);
            entry.damage.extend(report.damage.into_iter().map(|d| (d.range.start, d.range.end, d.what)));
            first_seen.push(report.first_seen);
        }
        jobs.retain(|session, _| !known.contains(session));
        for (entry, seen) in self.directory.volumes.iter_mut().zip(first_seen) {
            let open = seen.iter().filter(|(session, _)| jobs.contains_key(session)).map(|(_, at)| *at).min();
            entry.resume = open.unwrap_or(entry.end);
        }
        let mut rest: Vec<_> = jobs.into_iter().collect();
        rest.sort_by_key(|(session, _)| *session);
        for (session, job) in rest {
            self.finish(&mut writer, session, job)?;
        }
        writer.finish(&self.directory);
        Ok(())
    }

    /// A session is complete: write its table and show it.
    fn finish(&mut self, writer: &mut Writer, session: Session, mut job: JobScan) -> Result<()> {
        if job.end.is_none() {
            job.cut_off();
        }
        if job.map.is_empty() {
            return Ok(());
        }
        let entry = SessionEntry {
            session: (session.id, session.time),
            job: Facts::from_scan(session, &job),
            runs: job.map.runs().map(|r| (r.first, r.count, r.volume.0, r.address, r.stride, r.last_len)).collect(),
            table: (0, 0, 0),
        };
        let table = writer.table(job.files)?;
        self.archive.publish(job_of(&self.store, &entry, table.share()));
        self.note(entry, table);
        Ok(())
    }

    fn note(&mut self, mut entry: SessionEntry, table: Table) {
        let (_, base, len) = table.bytes();
        entry.table = (base, len, table.checksum().unwrap_or(0));
        self.directory.sessions.push(entry);
        self.tables.push(table);
    }
}

const fn session_of(entry: &SessionEntry) -> Session {
    Session { id: entry.session.0, time: entry.session.1 }
}

/// Whether `volume` is the one the index knows, perhaps longer.
fn is_same(known: &VolumeEntry, volume: &Volume, len: u64) -> bool {
    let label = volume.label();
    let witness = known.witness.is_none_or(|(at, number, id, time)| {
        let session = Session { time, id };
        volume.block_header(at).is_ok_and(|h| h.is_some_and(|h| h.number == number && h.session == session))
    });
    known.times == (label.labelled_at, label.written_at) && known.len <= len && witness
}

fn job_of(store: &Arc<Store>, entry: &SessionEntry, table: Table) -> Job {
    let mut map = BlockMap::default();
    let mut names: Vec<String> = Vec::new();
    for &(first, count, volume, address, stride, last_len) in &entry.runs {
        map.push_run(Run { first, count, volume: VolumeIndex(volume), address, stride, last_len });
        if let Ok(volume) = store.volume(VolumeIndex(volume))
            && !names.iter().any(|n| n == volume.name())
        {
            names.push(volume.name().to_owned());
        }
    }
    let session = session_of(entry);
    let label = if entry.job.job_id > 0 { format!("job {}", entry.job.job_id) } else { entry.job.name.clone() };
    let mut missing: Vec<String> = Vec::new();
    let first = map.at_or_after(0).map_or(0, |(n, _)| n);
    if first > 1 {
        missing.push(format!("blocks 0 to {first} (on an earlier volume)"));
    }
    missing.extend(
        map.gaps().map(|g| format!("blocks {} to {} (on another volume, or damaged)", g.start, g.end)).take(100),
    );
    missing.extend(
        entry
            .job
            .lost
            .iter()
            .map(|(first, last)| format!("files {first} to {last}: their names are in damaged or missing blocks")),
    );
    // Sessions of one archive never have the same (time, id); the low bits tell them apart in caches.
    let number = session.time.wrapping_mul(31).wrapping_add(session.id);
    let data = SessionData::new(Arc::clone(store), number, session, label, map, None);
    Job {
        facts: entry.job.clone(),
        session,
        volumes: names,
        missing,
        data: Arc::new(data),
        files: Files::Indexed(table),
    }
}

/// The file that keeps the index of this set of volumes.
fn index_path(cache: &Path, volumes: &[PathBuf]) -> Option<PathBuf> {
    std::fs::create_dir_all(cache).ok()?;
    let mut names: Vec<_> = volumes.iter().filter_map(|p| p.canonicalize().ok()).collect();
    names.sort();
    let key: Vec<u8> = names.iter().flat_map(|p| [p.as_os_str().as_encoded_bytes(), b"\0"].concat()).collect();
    Some(cache.join(format!("{:016x}.rvindex", xxhash_rust::xxh3::xxh3_64(&key))))
}

/// For a job that the catalog knows without its files: index the volumes and take the job's files and data.
pub(super) fn job_from_volumes(
    options: &Options,
    store: &Arc<Store>,
    job_id: u32,
    session: Session,
) -> Result<(Table, Arc<SessionData>)> {
    let mut writer = Writer::create(None)?;
    let mut jobs = Jobs::new();
    let mut found = None;
    let mut consider = |writer: &mut Writer, at: Session, mut job: JobScan| {
        if job.end.is_none() {
            job.cut_off();
        }
        let label = job.start.as_ref().or(job.end.as_ref()).map(|l| l.job_id);
        if at == session || label == Some(job_id) {
            let number = at.time.wrapping_mul(31).wrapping_add(at.id);
            let data = SessionData::new(Arc::clone(store), number, at, format!("job {job_id}"), job.map, None);
            found = Some((writer.table(job.files)?, Arc::new(data)));
        }
        Ok::<_, Error>(())
    };
    for (volume, index) in store.volumes().iter().zip(0..) {
        scan::scan(volume, VolumeIndex(index), 0, &mut jobs, &Progress::default(), &mut |s, j| {
            consider(&mut writer, s, j)
        })?;
    }
    for (session, job) in jobs {
        consider(&mut writer, session, job)?;
    }
    found.ok_or_else(|| {
        let hint = if options.volumes.is_empty() { "; name volumes by --volumes" } else { "" };
        Error::not_found(format!(
            "the files of job {job_id} are neither in the catalog nor in the volumes at hand{hint}"
        ))
    })
}
