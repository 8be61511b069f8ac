//! `revenant restore`: around a Bacula job that restores into the tree.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do.
#[derive(Debug, Args)]
pub struct Restore {
    #[command(subcommand)]
    pub action: RestoreAction,
    /// Folder of the daemon's state [default: /var/lib/revenant; for others than root ~/.local/state/revenant]
    #[arg(long, global = true, value_name = "DIR", env = "REVENANT_STATE")]
    pub state: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum RestoreAction {
    /// After the job (RunsWhen = After, RunsOnClient = yes, also on failure): say how it went. Exit code: 0 the machine is
    /// there and was proven; otherwise it is not, nothing of it is left, and Bacula is to fail the job
    End {
        /// The folder below `restore` that it went to [default: all of which nobody was told yet]
        #[arg(value_name = "HYPERVISOR/FOLDER")]
        folder: Option<String>,
        /// What Bacula says of the job: '%e'
        #[arg(long, value_name = "TEXT")]
        status: Option<String>,
    },
    /// Show restores that are coming, and what they wait for
    Status,
}
