//! `revenant verify --boot`: how machines are started for a trial.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How a machine is started for a trial.
#[derive(Debug, Args)]
pub struct BootOptions {
    /// What shows that it has come up: agent (the guest agent answers), console:TEXT, screen:TEXT (in text mode), port:N
    /// (a TCP port); TEXT between slashes is a regular expression. Several: the first counts [default: agent, or a login
    /// prompt on the console or the screen]
    #[arg(long, value_name = "WHAT", requires = "boot", help_heading = "Boot")]
    pub wait_for: Vec<String>,
    /// Seconds that it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "boot", help_heading = "Boot")]
    pub timeout: u64,
    /// Memory in MiB [default: as described, at most half of this host's]
    #[arg(long, value_name = "MIB", requires = "boot", help_heading = "Boot")]
    pub memory: Option<u64>,
    /// Processors [default: as described, at most this host's]
    #[arg(long, value_name = "N", requires = "boot", help_heading = "Boot")]
    pub cpus: Option<u32>,
    /// Firmware, whatever the description or the disks say: bios, uefi, secure-boot
    #[arg(long, value_name = "KIND", requires = "boot", help_heading = "Boot")]
    pub firmware: Option<String>,
    /// What runs its processors
    #[arg(long, value_enum, default_value_t = Accelerator::Auto, requires = "boot", help_heading = "Boot")]
    pub accelerator: Accelerator,
    /// Folder for verdict, screenshot and console [default: one of the cache]
    #[arg(long, value_name = "DIR", requires = "boot", help_heading = "Boot")]
    pub report: Option<PathBuf>,
    /// Read nothing ahead, whatever an earlier boot has read
    #[arg(long, requires = "boot", help_heading = "Boot")]
    pub no_prefetch: bool,
    /// For measurements: read the disks no faster than so many bytes a second
    #[arg(long, value_name = "BYTES", requires = "boot", hide = true)]
    pub slow_rate: Option<u64>,
    /// For measurements: each read takes so many milliseconds longer
    #[arg(long, value_name = "MS", requires = "boot", hide = true)]
    pub slow_latency: Option<u64>,
}

/// What runs a guest's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accelerator {
    /// KVM where it works, else emulation
    Auto,
    /// KVM
    Kvm,
    /// Emulation
    Tcg,
}
