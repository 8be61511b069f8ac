//! `revenant recover`: what becomes of a restore point.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::recovery::record::Door;

/// What to recover, or what to do with a recovery.
#[derive(Debug, Args)]
#[command(subcommand_precedence_over_arg = true)]
pub struct Recover {
    #[command(subcommand)]
    pub action: Option<RecoverAction>,
    #[command(flatten)]
    pub start: RecoverStart,
    /// Folder of sessions [default: /var/lib/revenant; for others than root ~/.local/state/revenant]
    #[arg(long, global = true, value_name = "DIR", env = "REVENANT_STATE")]
    pub state: Option<PathBuf>,
}

/// How to recover.
#[derive(Debug, Args)]
pub struct RecoverStart {
    /// Machine, its newest point or the one whose time begins so; or a point in the tree (machines/..., images/...)
    #[arg(value_name = "MACHINE[@TIME]")]
    pub target: Option<String>,
    /// Protocol by which the disks are served
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value = "nbd")]
    pub through: Door,
    /// Serve at ADDRESS:PORT, too
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Bytes that the overlay of each disk may take
    #[arg(long, value_name = "BYTES")]
    pub overlay_quota: Option<u64>,
    /// End by itself after so many minutes (see `renew`)
    #[arg(long, value_name = "MINUTES")]
    pub lease: Option<u64>,
    /// Only tell what it needs: volumes, whether they are at hand, how long it would take
    #[arg(long)]
    pub quote: bool,
}

/// What to do with a recovery.
#[derive(Debug, Subcommand)]
pub enum RecoverAction {
    /// List recoveries
    List,
    /// Show one
    Show {
        /// Its name
        id: String,
    },
    /// End one, and remove all that it made
    Stop {
        /// Its name
        id: String,
    },
    /// Give one more time
    Renew {
        /// Its name
        id: String,
        /// Minutes from now [default: no end]
        #[arg(long, value_name = "MINUTES")]
        lease: Option<u64>,
    },
}
