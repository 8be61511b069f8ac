//! `revenant backup`: around a Bacula job.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::backup::record::Level;

/// What to do.
#[derive(Debug, Args)]
pub struct Backup {
    #[command(subcommand)]
    pub action: BackupAction,
    /// Folder of the daemon's state [default: /var/lib/revenant; for others than root ~/.local/state/revenant]
    #[arg(long, global = true, value_name = "DIR", env = "REVENANT_STATE")]
    pub state: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum BackupAction {
    /// Before the job (RunsWhen = Before, RunsOnClient = yes): freeze the machine at one moment, and show it as files
    Begin(BeginOptions),
    /// After the job (RunsWhen = After, RunsOnClient = yes, also on failure): prove that everything was delivered. Exit
    /// code: 0 it was, or the job had failed before; otherwise it was not, and Bacula is to fail the job
    End(EndOptions),
    /// Show machines with their backups, and those that are running
    Status,
    /// List machines: their folders in the tree, one a line
    List(ListOptions),
}

/// A job that begins.
#[derive(Debug, Args)]
pub struct BeginOptions {
    /// The machine
    #[arg(value_name = "HYPERVISOR/MACHINE")]
    pub machine: String,
    /// Bacula's level: %l
    #[arg(long, value_enum, ignore_case = true)]
    pub level: Level,
    /// Bacula's unique name of the job: %j
    #[arg(long, value_name = "NAME")]
    pub job: String,
    /// Bacula's name of the job that this one is based on: '%S', in quotes, because it may be empty
    #[arg(long, value_name = "NAME", default_value = "")]
    pub parent: String,
    /// Only this disk; several times for several
    #[arg(long, value_name = "DISK")]
    pub include: Vec<String>,
    /// Leave a disk out
    #[arg(long, value_name = "DISK")]
    pub exclude: Vec<String>,
    /// Do not ask the guest to have its files in order
    #[arg(long)]
    pub no_quiesce: bool,
}

/// A job that ends.
#[derive(Debug, Args)]
pub struct EndOptions {
    /// The machine [default: all that this job has]
    #[arg(value_name = "HYPERVISOR/MACHINE")]
    pub machine: Option<String>,
    /// Bacula's unique name of the job: %j
    #[arg(long, value_name = "NAME")]
    pub job: String,
    /// What Bacula says of the job: '%e'
    #[arg(long, value_name = "TEXT")]
    pub status: String,
}

/// Machines, and a job of all of them.
#[derive(Debug, Args)]
pub struct ListOptions {
    #[command(flatten)]
    pub selection: Selection,
    /// Begin each: for a file set of many machines, `File = "\\|revenant backup list --begin ..."`
    #[arg(long, requires_all = ["level", "job"])]
    pub begin: bool,
    /// Bacula's level: %l
    #[arg(long, value_enum, ignore_case = true)]
    pub level: Option<Level>,
    /// Bacula's unique name of the job: %j
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// Bacula's name of the job that this one is based on: '%S', in quotes
    #[arg(long, value_name = "NAME", default_value = "")]
    pub parent: String,
}

/// Jobs for the Director.
#[derive(Debug, Args)]
pub struct BaculaConfig {
    #[command(flatten)]
    pub selection: Selection,
    /// Bacula's client of this host
    #[arg(long, value_name = "NAME")]
    pub client: String,
    /// The JobDefs that have storage, pool, schedule and messages
    #[arg(long, value_name = "NAME")]
    pub job_defs: String,
    /// What the names of jobs begin with
    #[arg(long, value_name = "TEXT", default_value = "vm-")]
    pub prefix: String,
    /// Where the daemon mounts the tree [default: `mount` of the configuration file]
    #[arg(long, value_name = "FOLDER")]
    pub mount: Option<PathBuf>,
    /// This program and its options, as the File daemon finds it
    #[arg(long, value_name = "COMMAND", default_value = "/usr/bin/revenant")]
    pub program: String,
}

/// Which machines: all of these have to be true.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// Only those of this hypervisor
    #[arg(long, value_name = "HYPERVISOR")]
    pub on: Option<String>,
    /// Only those with this tag
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Only those whose name is like this: `web*`
    #[arg(long, value_name = "PATTERN")]
    pub like: Vec<String>,
}
