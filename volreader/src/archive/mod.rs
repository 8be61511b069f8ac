//! An archive: volumes (and perhaps a catalog) opened together, with the jobs in them.
//!
//! Without a catalog the volumes are indexed by a thread of their own while the archive is already in use: jobs
//! appear as their ends are found. With a catalog nothing is scanned: jobs and files are its rows, and places in
//! the volumes are found by probing ([`crate::session::probe`]). A volume that grows is looked at again by
//! [`Archive::refresh`].

mod files;
mod indexing;
pub mod job;
pub mod point;
mod volumes;

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use blockdev::{Error, Result};

use crate::{
    block::Session,
    catalog::{self, Catalog},
    crypto::pki::KeyRing,
    index::entry::{Entry, RecordPos},
    scan::Progress,
    session::{
        SessionData,
        map::BlockMap,
        probe::Prober,
        store::{Integrity, Store},
    },
};
use files::Files;
pub use job::{Facts, Job};

/// How an archive is opened.
#[derive(Clone, Default)]
pub struct Options {
    /// Volume files, and folders that hold volumes.
    pub volumes: Vec<PathBuf>,
    /// A catalog's URL.
    pub catalog: Option<String>,
    /// PEM files with the keys of encrypted files.
    pub keys: Vec<PathBuf>,
    /// Folder with the keys of encrypted volumes, one file named after each volume.
    pub volume_keys: Option<PathBuf>,
    /// Folder for indexes; `None` keeps none.
    pub cache: Option<PathBuf>,
    /// When checksums are verified.
    pub integrity: Integrity,
    /// Bytes of blocks and decoded pieces that are kept.
    pub cache_bytes: Option<u64>,
}

impl std::fmt::Debug for Options {
    /// The catalog's URL may hold a password and is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let catalog = self.catalog.as_ref().map(|_| "(a URL)");
        f.debug_struct("Options").field("volumes", &self.volumes).field("catalog", &catalog).finish_non_exhaustive()
    }
}

/// What is kept of blocks and pieces when nothing else is said.
const CACHE_BYTES: u64 = 48 << 20;
/// A mounted tree looks for growth of its volumes at most that often.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

/// Volumes and the jobs in them.
pub struct Archive {
    options: Options,
    keys: KeyRing,
    catalog: Option<Arc<dyn Catalog>>,
    jobs: Registry,
    /// How far indexing is.
    pub progress: Progress,
    indexed: Mutex<indexing::State>,
    refreshed: Mutex<Option<Instant>>,
    problems: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The jobs found so far, and whether more may come.
#[derive(Default)]
struct Registry {
    found: RwLock<Found>,
    changed: Condvar,
    lock: Mutex<()>,
}

#[derive(Default)]
struct Found {
    jobs: Vec<Arc<Job>>,
    complete: bool,
    failed: Option<String>,
    generation: u64,
}

impl Archive {
    /// Open volumes and catalog as `options` say. Indexing goes on in a thread. Without either there are no jobs.
    ///
    /// # Errors
    ///
    /// When a path does not exist, a key cannot be read, or the catalog cannot be opened.
    pub fn open(options: Options) -> Result<Arc<Self>> {
        let keys = KeyRing::from_pem_files(&options.keys)?;
        let catalog = options.catalog.as_deref().map(catalog::open).transpose()?;
        for path in &options.volumes {
            path.metadata().map_err(|e| Error::io(format!("cannot open volumes {}", path.display()), e))?;
        }
        let archive = Arc::new(Self {
            keys,
            catalog,
            jobs: Registry::default(),
            progress: Progress::default(),
            indexed: Mutex::new(indexing::State::default()),
            refreshed: Mutex::new(None),
            problems: Mutex::new(Vec::new()),
            options,
        });
        if archive.catalog.is_some() {
            archive.load_catalog()?;
        } else if archive.options.volumes.is_empty() {
            archive.change(|found| found.complete = true);
        } else {
            let worker = Arc::clone(&archive);
            let spawned = std::thread::Builder::new().name("index".to_owned()).spawn(move || worker.index());
            spawned.map_err(|e| Error::io("cannot start the indexing thread", e))?;
        }
        Ok(archive)
    }

    /// When the volumes (files and folders as named) were last changed, seconds since 1970.
    #[must_use]
    pub fn modified_seconds(&self) -> i64 {
        use std::os::unix::fs::MetadataExt;
        let times = self.options.volumes.iter().filter_map(|p| p.metadata().ok()).map(|m| m.mtime());
        times.max().unwrap_or(0)
    }

    /// The keys of encrypted files.
    #[must_use]
    pub const fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// What was passed over while opening (files that are no volumes, damage), for the user to know.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn problem(&self, what: String) {
        const MAX_PROBLEMS: usize = 1000;
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < MAX_PROBLEMS && !problems.contains(&what) {
            problems.push(what);
        }
    }

    /// All jobs, oldest first, when indexing is done.
    ///
    /// # Errors
    ///
    /// When indexing failed.
    pub fn jobs(&self) -> Result<Vec<Arc<Job>>> {
        let mut jobs = Vec::new();
        loop {
            let (more, complete) = self.jobs_after(jobs.len())?;
            jobs.extend(more);
            if complete {
                break;
            }
        }
        // A session that went on may have been replaced meanwhile.
        jobs = self.jobs.found.read().unwrap_or_else(PoisonError::into_inner).jobs.clone();
        jobs.sort_by_key(|j| (j.facts.job_id, j.session));
        Ok(jobs)
    }

    /// The jobs found behind the first `known` ones, waiting for one at least; and whether that was all.
    ///
    /// # Errors
    ///
    /// When indexing failed.
    pub fn jobs_after(&self, known: usize) -> Result<(Vec<Arc<Job>>, bool)> {
        let mut guard = self.jobs.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            {
                let found = self.jobs.found.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(failed) = &found.failed {
                    return Err(Error::damaged(failed.clone()));
                }
                if found.complete || found.jobs.len() > known {
                    return Ok((found.jobs.get(known..).unwrap_or_default().to_vec(), found.complete));
                }
            }
            guard = self.jobs.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Changes whenever jobs are added or replaced.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.jobs.found.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// Whether indexing has ended.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.jobs.found.read().unwrap_or_else(PoisonError::into_inner).complete
    }

    fn change(&self, change: impl FnOnce(&mut Found)) {
        let _guard = self.jobs.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = self.jobs.found.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut found);
        found.generation += 1;
        self.jobs.changed.notify_all();
    }

    /// Add a job, or replace the one of the same session.
    fn publish(&self, job: Job) {
        let job = Arc::new(job);
        self.change(|found| {
            match found.jobs.iter_mut().find(|j| j.session == job.session && j.facts.job_id == job.facts.job_id) {
                Some(old) => *old = job,
                None => found.jobs.push(job),
            }
        });
    }

    /// Look whether volumes grew or were added since; at most every two seconds.
    ///
    /// # Errors
    ///
    /// When the volumes or the catalog cannot be read.
    pub fn refresh(&self) -> Result<()> {
        if !self.is_complete() {
            return Ok(());
        }
        {
            let mut refreshed = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
            if refreshed.is_some_and(|at| at.elapsed() < REFRESH_INTERVAL) {
                return Ok(());
            }
            *refreshed = Some(Instant::now());
        }
        match &self.catalog {
            Some(_) => self.load_catalog(),
            None if self.options.volumes.is_empty() => Ok(()),
            None => self.index_pass(),
        }
    }

    /// Jobs and places from the catalog.
    fn load_catalog(&self) -> Result<()> {
        let Some(catalog) = &self.catalog else { return Ok(()) };
        let volumes = self.open_volumes()?;
        let by_name = volumes::by_name(&volumes);
        let store = self.store(volumes);
        let mut media = catalog.all_job_media()?;
        let known: Vec<_> = self.jobs.found.read().unwrap_or_else(PoisonError::into_inner).jobs.clone();
        for row in catalog.jobs()? {
            let facts = Facts::from_catalog(&row);
            // A mounted tree keeps the nodes of jobs that did not change.
            if known.iter().any(|j| j.facts == facts) {
                continue;
            }
            let ranges = media.remove(&row.job_id).unwrap_or_default();
            let mut names: Vec<String> = Vec::new();
            for range in &ranges {
                if !names.contains(&range.volume) {
                    names.push(range.volume.clone());
                }
            }
            let missing = names.iter().filter(|n| !by_name.contains_key(*n)).cloned().collect();
            let session = Session { time: row.session_time, id: row.session_id };
            let prober = Prober::new(Arc::clone(&store), session, ranges, &by_name);
            let label = format!("job {}", row.job_id);
            let number = row.job_id;
            let data = SessionData::new(
                Arc::clone(&store),
                number,
                session,
                label,
                BlockMap::default(),
                Some(Box::new(prober)),
            );
            let (options, job_id, volumes) = (self.options.clone(), row.job_id, Arc::clone(&store));
            let files = Files::Catalog {
                catalog: Arc::clone(catalog),
                job_id,
                table: std::sync::OnceLock::new(),
                otherwise: Box::new(move || indexing::job_from_volumes(&options, &volumes, job_id, session)),
            };
            self.publish(Job { facts, session, volumes: names, missing, data: Arc::new(data), files });
        }
        self.change(|found| found.complete = true);
        Ok(())
    }

    fn store(&self, volumes: Vec<Arc<crate::volume::Volume>>) -> Arc<Store> {
        let bytes = self.options.cache_bytes.unwrap_or(CACHE_BYTES);
        Arc::new(Store::new(volumes, self.options.integrity, bytes))
    }

    fn open_volumes(&self) -> Result<Vec<Arc<crate::volume::Volume>>> {
        let (volumes, problems) = volumes::open(&self.options.volumes, self.options.volume_keys.as_deref())?;
        problems.into_iter().for_each(|p| self.problem(p));
        Ok(volumes)
    }

    /// The place of an entry's attributes record: from the index, or found by probing for its file index.
    ///
    /// # Errors
    ///
    /// When the file is nowhere in the volumes at hand.
    pub fn position(&self, job: &Job, entry: &Entry) -> Result<RecordPos> {
        match entry.pos {
            Some(pos) => Ok(pos),
            None => job.data().find_file(entry.file_index),
        }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.progress.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
