//! What is written down of a machine's backups.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// The level of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Everything
    Full,
    /// What has changed since the last Full
    Differential,
    /// What has changed since the last job
    Incremental,
}

impl Level {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "Full",
            Self::Differential => "Differential",
            Self::Incremental => "Incremental",
        }
    }

    /// In the names of files.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Differential => "diff",
            Self::Incremental => "inc",
        }
    }
}

/// A machine's backups.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Chain {
    pub hypervisor: String,
    pub machine: String,
    /// The number of the last point that was begun.
    pub last: u64,
    /// Points that later jobs can be based on, oldest first.
    pub points: Vec<Point>,
    /// The job that was begun last, whatever came of it.
    #[serde(default)]
    pub last_job: String,
    /// The job that is running.
    pub run: Option<Run>,
    /// Disks of which no delta is believed any more, and why: the next job takes them whole.
    pub distrusted: BTreeMap<String, String>,
}

/// A job in progress, or what a crash left of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    pub point: Point,
    pub phase: Phase,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is being read. After a crash it is taken back.
    Open,
    /// It was read and proven. After a crash it is kept.
    Keeping,
    /// It has failed. What is left of it is taken back, again and again until the hypervisor answers.
    RollingBack,
}

/// A point in time that was backed up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its number, which is in the names of its files.
    pub number: u64,
    /// What the hypervisor's tracker calls it.
    pub mark: String,
    /// Bacula's unique name of the job.
    pub job: String,
    pub level: Level,
    /// The point that it is based on; `None`: it stands by itself.
    pub parent: Option<u64>,
    /// When it was begun, in seconds since 1970.
    pub begun: i64,
    /// When all of it was delivered; 0 until then.
    pub ended: i64,
    /// The times of its files.
    pub time: i64,
    pub disks: Vec<Member>,
    /// Its other files: they are small and are kept.
    pub texts: Vec<Text>,
    /// The file of digests.
    pub digests: Small,
}

/// A disk of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub disk: String,
    /// The file.
    pub file: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The file it is on top of.
    pub backing: Option<String>,
    /// The disk's size in bytes.
    pub size: u64,
    /// The path of the disk's image.
    pub place: String,
}

/// A small file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Text {
    pub name: String,
    pub text: String,
}

/// A file that is kept in the folder of the machine's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Small {
    pub name: String,
    pub bytes: u64,
}

impl Chain {
    pub fn new(hypervisor: &str, machine: &str) -> Self {
        Self {
            hypervisor: hypervisor.to_owned(),
            machine: machine.to_owned(),
            last: 0,
            points: Vec::new(),
            last_job: String::new(),
            run: None,
            distrusted: BTreeMap::new(),
        }
    }

    /// `qemu/web01`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.hypervisor, self.machine)
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_secs()).ok()).unwrap_or(0)
}
