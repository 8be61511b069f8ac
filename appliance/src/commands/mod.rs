//! The commands, one module each.

mod cat;
mod extract;
mod jobs;
mod ls;
mod mount;
mod verify;

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use blockdev::{Error, Result};
use clap::CommandFactory;
use vfs::node::Node;
use volreader::archive::Archive;

use crate::{
    cli::{Cli, Command},
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
        Command::Ls { paths, long, recursive } => ls::run(cli, paths, ls::How { long: *long, recursive: *recursive }),
        Command::Cat { path, offset, length } => cat::run(cli, path.as_deref().unwrap_or_default(), *offset, *length),
        Command::Extract { paths, output, keep_existing, no_digests, workers } => {
            extract::run(cli, paths, output, *keep_existing, *no_digests, *workers)
        }
        Command::Mount { mountpoint, foreground, threads } => {
            mount::run(cli, mountpoint.as_deref().unwrap_or(Path::new("")), *foreground, *threads)
        }
        Command::Verify { paths } => verify::run(cli, paths),
    }
}

fn manual(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|e| Error::io(format!("cannot write manual pages into {}", folder.display()), e))
}

/// The archive and its tree.
struct Opened {
    archive: Arc<Archive>,
    tree: Node,
}

fn open(cli: &Cli) -> Result<Opened> {
    let archive = Archive::open(config::options(&cli.sources)?)?;
    progress::show_indexing(&archive, cli.sources.quiet || cli.sources.json);
    let tree = vfs::providers::tree(&archive);
    Ok(Opened { archive, tree })
}

impl Opened {
    /// The node at a path of the tree.
    fn resolve(&self, path: &OsStr) -> Result<Node> {
        let components: Vec<&[u8]> =
            path.as_bytes().split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
        if components.is_empty() {
            return Ok(self.tree.clone());
        }
        let Node::Dir(root) = &self.tree else { return Err(Error::invalid("the tree has no root")) };
        root.walk(&components)?.ok_or_else(|| {
            let shown = path.to_string_lossy();
            Error::not_found(format!("{shown} is not in the tree; see `revenant ls` and `revenant jobs` for what is"))
        })
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
