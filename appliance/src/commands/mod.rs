//! The commands, one module each.

mod backup;
mod bacula_config;
mod cat;
mod convert;
mod diff;
mod doctor;
mod export;
mod extract;
mod freeze_guard;
pub mod inspect;
mod jobs;
mod ls;
pub mod machine;
mod mount;
mod points;
mod recover;
mod restore;
mod serve;
pub mod source;
mod verify;
mod verify_boot;

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use blockdev::{Error, Result};
use clap::CommandFactory;
use vfs::{
    door::Totals,
    fuse::MountOptions,
    node::Node,
    providers::{self, Sources, Tree, backup::Live},
};
use volreader::archive::{Archive, point::Point};

use crate::{
    cli::{self, Cli, Command},
    config, output, progress,
};

/// Run the command; the exit code.
///
/// # Errors
///
/// What kept it from doing anything.
pub fn run(cli: &Cli) -> Result<u8> {
    match &cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "revenant", &mut std::io::stdout());
            Ok(0)
        }
        Command::Man { folder } => manual(folder).map(|()| 0),
        Command::Jobs => jobs::run(cli),
        Command::Points { machine } => points::run(cli, machine.as_deref()),
        Command::Ls { paths, long, recursive } => ls::run(cli, paths, ls::How { long: *long, recursive: *recursive }),
        Command::Cat { path, offset, length } => cat::run(cli, path.as_deref().unwrap_or_default(), *offset, *length),
        Command::Extract { paths, output, format, keep_existing, no_digests, workers } => {
            let how = extract::How {
                format: *format,
                keep_existing: *keep_existing,
                no_digests: *no_digests,
                workers: *workers,
            };
            extract::run(cli, paths, output, &how)
        }
        Command::Mount { mountpoint, foreground, threads } => {
            mount::run(cli, mountpoint.as_deref().unwrap_or(Path::new("")), *foreground, *threads)
        }
        Command::Convert { from, to, options } => {
            convert::run(cli, from.as_deref().unwrap_or_default(), to.as_deref().unwrap_or(Path::new("")), options)
        }
        Command::Diff { paths, options } => diff::run(cli, paths, options),
        Command::Inspect { paths, format, native: Some(kind) } => inspect::native(cli, paths, format.as_deref(), kind),
        Command::Inspect { paths, format, native: None } => inspect::run(cli, paths, format.as_deref()),
        Command::Export { protocol } => export::run(cli, protocol),
        Command::Verify { paths, boot: true, options } => verify_boot::run(cli, paths, options),
        Command::Verify { paths, boot: false, .. } => verify::run(cli, paths),
        Command::Recover(recover) => recover::run(cli, recover),
        Command::Serve { state, until_idle, mount } => serve::run(cli, state.as_deref(), *until_idle, mount.as_deref()),
        Command::Backup(backup) => backup::run(cli, backup),
        Command::Restore(restore) => restore::run(cli, restore),
        Command::BaculaConfig(config) => bacula_config::run(cli, config),
        Command::Doctor { state } => doctor::run(cli, state.as_deref()),
        Command::FreezeGuard => freeze_guard::run(),
    }
}

fn manual(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|e| Error::io(format!("cannot write manual pages into {}", folder.display()), e))
}

/// How long open files are still served after a mount was ended while busy.
const GRACE: Duration = Duration::from_secs(5);

/// The sources and their tree.
pub struct Opened {
    pub archive: Arc<Archive>,
    pub tree: Tree,
}

fn open(cli: &Cli) -> Result<Opened> {
    open_sources(&cli.sources)
}

/// Open what is named by `sources`.
///
/// # Errors
///
/// When nothing is named, or what is cannot be opened.
pub fn open_sources(sources: &cli::Sources) -> Result<Opened> {
    let options = config::options(sources)?;
    if options.volumes.is_empty() && options.catalog.is_none() && sources.images.is_empty() {
        return Err(Error::invalid(
            "no volumes are given; name files or folders by --volumes (or REVENANT_VOLUMES), a catalog by --catalog, or \
             disk images by --image",
        ));
    }
    open_tree(sources, None, None)
}

/// Open what is named by `sources`, which may be nothing, `live` machines, and the folder that takes them back.
///
/// # Errors
///
/// When what is named cannot be opened.
pub fn open_tree(sources: &cli::Sources, live: Option<Arc<dyn Live>>, restore: Option<Node>) -> Result<Opened> {
    let options = config::options(sources)?;
    let has_archive = !options.volumes.is_empty() || options.catalog.is_some();
    let archive = Archive::open(options)?;
    progress::show_indexing(&archive, sources.quiet || sources.json);
    let sources = Sources {
        archive: has_archive.then(|| Arc::clone(&archive)),
        images: sources.images.clone(),
        secrets: config::secrets(sources)?,
        live,
        restore,
    };
    Ok(Opened { tree: providers::tree(&sources)?, archive })
}

impl Opened {
    /// The node at a path of the tree.
    pub fn resolve(&self, path: &OsStr) -> Result<Node> {
        let components: Vec<&[u8]> =
            path.as_bytes().split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
        if components.is_empty() {
            return Ok(self.tree.root.clone());
        }
        let Node::Dir(root) = &self.tree.root else { return Err(Error::invalid("the tree has no root")) };
        root.walk(&components)?.ok_or_else(|| {
            let shown = path.to_string_lossy();
            Error::not_found(format!("{shown} is not in the tree; see `revenant ls` and `revenant jobs` for what is"))
        })
    }

    /// How its tree is mounted.
    pub fn mount_options(&self) -> MountOptions {
        let mut options = MountOptions::default();
        options.log = Arc::new(output::note);
        options.detach_grace = GRACE;
        options.totals = self.totals();
        options
    }

    /// Tells how much the jobs hold, as soon as all are known.
    fn totals(&self) -> Arc<dyn Fn() -> Totals + Send + Sync> {
        let archive = Arc::downgrade(&self.archive);
        Arc::new(move || {
            let Some(archive) = archive.upgrade().filter(|a| a.is_complete()) else { return Totals::default() };
            let jobs = archive.jobs().unwrap_or_default();
            Totals { bytes: jobs.iter().map(|j| j.facts.bytes).sum(), files: jobs.iter().map(|j| j.facts.files).sum() }
        })
    }

    /// What is missing of the jobs that `path` shows.
    fn missing(&self, path: &OsStr) -> Vec<String> {
        let path = path.to_string_lossy();
        let path = path.trim_matches('/');
        let jobs = self.archive.jobs().unwrap_or_default();
        let shows = |tree: &str| path.is_empty() || tree.starts_with(path) || path.starts_with(tree);
        let mut missing = Vec::new();
        for job in &jobs {
            let in_jobs = shows(&format!("jobs/{}", job.facts.folder()));
            let point = providers::points::point_path(&self.archive, job).ok().flatten();
            let chain =
                Point::of(job, &jobs).filter(|_| point.is_some_and(|p| shows(&p))).map(|p| p.chain).unwrap_or_default();
            for job in chain.iter().chain(in_jobs.then_some(job)) {
                missing.extend(job.missing.iter().map(|m| format!("job {}: missing: {m}", job.facts.job_id)));
            }
        }
        missing.sort();
        missing.dedup();
        missing
    }

    /// Say what was passed over, and what is missing of the jobs in `paths`; whether anything is.
    fn tell_missing(&self, paths: &[std::ffi::OsString]) -> bool {
        let mut missing: Vec<_> = paths.iter().flat_map(|p| self.missing(p)).collect();
        missing.sort();
        missing.dedup();
        missing.iter().for_each(|m| output::note(m));
        self.tell_problems();
        !missing.is_empty()
    }

    /// Say what was passed over.
    fn tell_problems(&self) {
        for problem in self.archive.problems() {
            output::note(&problem);
        }
    }
}

/// A flag that Ctrl-C and SIGTERM set; a second Ctrl-C ends the program at once.
fn cancel_flag() -> Result<Arc<AtomicBool>> {
    use signal_hook::{consts::TERM_SIGNALS, flag};
    let cancel = Arc::new(AtomicBool::new(false));
    for &signal in TERM_SIGNALS {
        let armed = flag::register_conditional_shutdown(signal, 130, Arc::clone(&cancel));
        armed
            .and_then(|_| flag::register(signal, Arc::clone(&cancel)))
            .map_err(|e| Error::io("cannot wait for signals", e))?;
    }
    Ok(cancel)
}

/// The last component of a path.
fn base_name(path: &OsStr) -> Vec<u8> {
    let mut components = path.as_bytes().split(|&b| b == b'/').filter(|c| !c.is_empty());
    components.next_back().unwrap_or_default().to_vec()
}
