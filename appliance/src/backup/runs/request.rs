//! What the command line asks the daemon for.

use serde::{Deserialize, Serialize};

use crate::backup::record::Level;

/// What the command line asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    Begin(Begin),
    End(End),
    /// All machines' backups.
    Status,
    /// The folders of machines.
    List(List),
}

/// Which machines: all of these have to be true.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct List {
    /// Of this hypervisor.
    pub on: Option<String>,
    /// With one of these tags.
    pub tags: Vec<String>,
    /// Called as one of these patterns says.
    pub like: Vec<String>,
}

/// What is known of a job when it begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begin {
    /// `HYPERVISOR/MACHINE`.
    pub machine: String,
    pub level: Level,
    /// Bacula's unique name of the job.
    pub job: String,
    /// That of the job it is based on.
    pub parent: Option<String>,
    /// Whether the guest is asked to have its files in order.
    pub quiesce: bool,
    /// The only disks that are wanted; none: all.
    pub include: Vec<String>,
    /// Disks that are left out.
    pub exclude: Vec<String>,
    /// Whether what is to be said is said when the job ends: who asks has no place for it.
    pub is_silent: bool,
}

/// What is known of it when it ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct End {
    /// `HYPERVISOR/MACHINE`; `None`: all that the job has.
    pub machine: Option<String>,
    pub job: String,
    /// What Bacula says of it.
    pub status: String,
}
