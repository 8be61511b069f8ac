//! The command line. It is stable: scripts and Bacula RunScripts depend on it.

mod backup;
mod boot;
mod export;
mod recover;
mod restore;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::{Deserialize, Serialize};

pub use backup::{Backup, BackupAction, BaculaConfig, ListOptions, Selection};
pub use boot::{Accelerator, BootOptions};
pub use export::{DatastoreOptions, IscsiOptions, NbdOptions, NfsOptions, Protocol, SmbOptions};
pub use recover::{Recover, RecoverAction, RecoverStart, network};
pub use restore::{Restore, RestoreAction};

/// Bacula backups that get up and walk: volumes as a filesystem, without staging and without Bacula.
#[derive(Debug, Parser)]
#[command(name = "revenant", version, propagate_version = true, max_term_width = 110)]
// `--volumes A B ls`: the values of an option end where the command begins.
#[command(subcommand_precedence_over_arg = true)]
pub struct Cli {
    #[command(flatten)]
    pub sources: Sources,

    #[command(subcommand)]
    pub command: Command,
}

/// What is opened. Sessions remember it.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
pub struct Sources {
    /// Volume files, and folders that hold volumes [env: REVENANT_VOLUMES, separated by colons]
    #[arg(long, global = true, num_args = 1.., value_name = "PATH", help_heading = "Sources")]
    pub volumes: Vec<PathBuf>,

    /// Bacula catalog: sqlite:FILE, postgres://USER:PASSWORD@HOST/DB, mysql://USER:PASSWORD@HOST/DB
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "REVENANT_CATALOG",
        hide_env_values = true,
        help_heading = "Sources"
    )]
    pub catalog: Option<String>,

    /// Keys of encrypted files: PEM with certificate and private key, as PKI Keypair has them
    #[arg(long = "key", global = true, num_args = 1.., value_name = "PEM", help_heading = "Sources")]
    pub keys: Vec<PathBuf>,

    /// Keys of encrypted volumes (Bacula 15): a folder with one file named after each volume
    #[arg(long, global = true, value_name = "DIR", help_heading = "Sources")]
    pub volume_keys: Option<PathBuf>,

    /// Files with a secret each, for encrypted volumes of guests: the passphrase or key file of a LUKS volume; the
    /// recovery password, passphrase or startup key (.BEK) of a BitLocker volume [env: REVENANT_UNLOCK, separated by
    /// colons]
    #[arg(long, global = true, num_args = 1.., value_name = "FILE", help_heading = "Sources")]
    pub unlock: Vec<PathBuf>,

    /// Disk images outside any backup: they appear as `images/FILE-NAME`
    #[arg(long = "image", global = true, num_args = 1.., value_name = "FILE", help_heading = "Sources")]
    pub images: Vec<PathBuf>,

    /// Folder for indexes
    #[arg(long, global = true, value_name = "DIR", env = "REVENANT_CACHE", help_heading = "Sources")]
    pub cache: Option<PathBuf>,

    /// When block checksums are verified
    #[arg(long, global = true, value_enum, default_value_t = Integrity::Once, help_heading = "Sources")]
    pub integrity: Integrity,

    /// Configuration file [default: /etc/revenant/revenant.toml]
    #[arg(long, global = true, value_name = "FILE", env = "REVENANT_CONFIG", help_heading = "Sources")]
    pub config: Option<PathBuf>,

    /// Output for programs
    #[arg(long, global = true)]
    pub json: bool,

    /// No progress bars
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// When block checksums are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Integrity {
    /// Each time a byte of a block is delivered
    Always,
    /// The first time
    Once,
    /// Never: damaged bytes are delivered as they are
    Never,
}

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArchiveFormat {
    /// POSIX (pax), with attributes, ACLs, hard links and holes
    Tar,
    /// Deflated
    Zip,
    /// Not compressed
    ZipStored,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List jobs
    Jobs,
    /// List machines and their restore points
    Points {
        /// Only this machine
        machine: Option<String>,
    },
    /// List any path of the tree
    Ls {
        /// Paths in the tree: jobs/..., clients/..., machines/..., images/...
        #[arg(value_name = "TREE-PATH")]
        paths: Vec<OsString>,
        /// Attributes, too
        #[arg(short, long)]
        long: bool,
        /// Folders in folders
        #[arg(short = 'R', long)]
        recursive: bool,
    },
    /// Write bytes of a file of the tree to standard output
    Cat {
        /// The file
        #[arg(value_name = "TREE-PATH")]
        path: Option<OsString>,
        /// First byte
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// How many bytes
        #[arg(long)]
        length: Option<u64>,
    },
    /// Restore files and folders with all attributes. Exit code: 0 all, 1 some failed, 2 nothing was done
    Extract {
        /// Files or folders; of a folder the contents are written into DIR
        #[arg(value_name = "TREE-PATH")]
        paths: Vec<OsString>,
        /// Where to; - writes an archive to standard output
        #[arg(short, long, value_name = "DIR|-")]
        output: PathBuf,
        /// Format of the archive: tar keeps everything, zip what it can [default: tar]
        #[arg(long, value_enum, value_name = "FORMAT")]
        format: Option<ArchiveFormat>,
        /// Leave existing files as they are
        #[arg(long)]
        keep_existing: bool,
        /// Do not compare with the digests that were stored with the files (block checksums are verified all the same)
        #[arg(long)]
        no_digests: bool,
        /// Files worked on at once
        #[arg(long, value_name = "N")]
        workers: Option<usize>,
    },
    /// Mount the whole tree
    Mount {
        /// An empty folder
        mountpoint: Option<PathBuf>,
        /// Stay in the foreground until Ctrl-C
        #[arg(long)]
        foreground: bool,
        /// Threads that answer requests
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
    },
    /// Convert a disk into an image file: raw, qcow2, vmdk, vmdk-flat, vmdk-stream, vhdx, vhdx-fixed, vhd, vhd-fixed, vdi
    Convert {
        /// A disk in the tree, or an image file of this machine
        #[arg(value_name = "TREE-PATH|IMAGE")]
        from: Option<OsString>,
        /// The image file to write
        #[arg(value_name = "OUTPUT")]
        to: Option<PathBuf>,
        #[command(flatten)]
        options: ConvertOptions,
    },
    /// Show what differs between two points. Exit code: 0 nothing, 1 something, 2 not all could be compared
    Diff {
        /// Restore points of a machine, folders, or disks (in the tree, or image files of this machine): before, after
        #[arg(value_name = "TREE-PATH|IMAGE", num_args = 0..=2)]
        paths: Vec<OsString>,
        #[command(flatten)]
        options: DiffOptions,
    },
    /// Show what disks are: format, allocation, partitions, filesystems
    Inspect {
        /// Disks in the tree, folders with the disks of one machine, or image files of this machine
        #[arg(value_name = "TREE-PATH|IMAGE")]
        paths: Vec<OsString>,
        /// Format of the images, when their own bytes are not to tell
        #[arg(short, long, value_name = "FORMAT")]
        format: Option<String>,
        /// Print the machine as a hypervisor's own configuration: proxmox, vmx, hyperv, libvirt
        #[arg(long = "as", value_name = "HYPERVISOR")]
        native: Option<String>,
    },
    /// Serve disks and files over the network until Ctrl-C
    Export {
        #[command(subcommand)]
        protocol: Protocol,
    },
    /// Read files and folders and compare them with their checksums and digests, or boot machines
    Verify {
        /// Files or folders; with --boot, machines (machines/NAME/@TIME, images/NAME) or disk images
        #[arg(value_name = "TREE-PATH")]
        paths: Vec<OsString>,
        /// Start the machine from its disks, without a network, and throw away what it writes. Exit code: 0 it came up, 1 it did not, 2 it could not be tried
        #[arg(long)]
        boot: bool,
        #[command(flatten)]
        options: BootOptions,
    },
    /// Run a machine out of its backup: its disks are served at once, writable over overlays
    Recover(Recover),
    /// Keep recoveries alive until Ctrl-C: `recover` starts this where it does not run
    Serve {
        /// Folder of sessions [default: /var/lib/revenant; for others than root ~/.local/state/revenant]
        #[arg(long, value_name = "DIR", env = "REVENANT_STATE")]
        state: Option<PathBuf>,
        /// End when there has been no recovery for so long
        #[arg(long, value_name = "SECONDS")]
        until_idle: Option<u64>,
        /// Mount the tree here: what File daemons read backups of running machines from [default: `mount` of the
        /// configuration file]
        #[arg(long, value_name = "FOLDER")]
        mount: Option<PathBuf>,
    },
    /// Back up running machines: around a Bacula job that reads `backup/HYPERVISOR/MACHINE` of the mounted tree
    Backup(Backup),
    /// What Bacula restores into `restore/HYPERVISOR/MACHINE` of the mounted tree: disks and a machine
    Restore(Restore),
    /// Print jobs and file sets of running machines for Bacula's Director: `@|"revenant bacula-config ..."`
    BaculaConfig(BaculaConfig),
    /// Look whether everything is there that backups and recoveries need, and say how to mend what is not. Exit code: 0 it
    /// is, 1 something is missing
    Doctor {
        /// Folder of the daemon's state
        #[arg(long, value_name = "DIR", env = "REVENANT_STATE")]
        state: Option<PathBuf>,
    },
    /// Be the guard of a guest that is frozen: what `serve` starts
    #[command(name = hv_drivers::freeze::COMMAND, hide = true)]
    FreezeGuard,
    /// Print a script that completes commands in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
}

/// How to compare.
#[derive(Debug, Args)]
pub struct DiffOptions {
    /// Read also the content of files whose size and times are the same, where it is not known to be the same
    #[arg(long)]
    pub content: bool,
    /// Compare the disks of both, and show the ranges of bytes that differ
    #[arg(long)]
    pub blocks: bool,
    /// Bytes of the blocks in which disks are compared
    #[arg(long, value_name = "BYTES", default_value_t = 65536)]
    pub granularity: u32,
}

/// How to convert.
#[derive(Debug, Args)]
pub struct ConvertOptions {
    /// Kind of image to write [default: as OUTPUT ends]
    #[arg(short = 'O', long, value_name = "FORMAT")]
    pub output_format: Option<String>,
    /// Format of the source, when its own bytes are not to tell: raw, qcow2, vmdk, vhd, vhdx, vdi
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Read the result back and compare it with the source
    #[arg(long)]
    pub verify: bool,
    /// Do not read the disk for stored zeros first; they then take room in the image
    #[arg(long)]
    pub keep_zeros: bool,
    /// Overwrite OUTPUT
    #[arg(long)]
    pub force: bool,
    /// Threads
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

impl Cli {
    /// Parse the command line of this process.
    ///
    /// `--volumes A B C` takes any number of values, and so takes the paths behind it, too, in
    /// `revenant ls --volumes A jobs/1-...`. What a command lacks is given back to it: paths that only the tree can
    /// have, and the last path for a mount point.
    #[must_use]
    pub fn from_process() -> Self {
        let mut cli = Self::parse();
        let Sources { volumes, keys, unlock, images, .. } = &mut cli.sources;
        let mut options = [volumes, keys, unlock, images];
        match &mut cli.command {
            Command::Ls { paths, .. } => give_back(&mut options, paths),
            Command::Extract { paths, .. } | Command::Verify { paths, .. } => {
                if paths.is_empty() {
                    give_back(&mut options, paths);
                }
                if paths.is_empty() {
                    lacks("<TREE-PATH>...");
                }
            }
            Command::Cat { path, .. } => {
                let mut given = Vec::new();
                if path.is_none() {
                    give_back(&mut options, &mut given);
                    *path = given.pop();
                }
                if path.is_none() {
                    lacks("<TREE-PATH>");
                }
            }
            Command::Mount { mountpoint, .. } => {
                if mountpoint.is_none() {
                    *mountpoint = take_last(&mut options);
                }
                if mountpoint.is_none() {
                    lacks("<MOUNTPOINT>");
                }
            }
            Command::Points { machine } => {
                let mut given = Vec::new();
                if machine.is_none() {
                    give_back(&mut options, &mut given);
                    *machine = given.pop().map(|m| m.to_string_lossy().into_owned());
                }
            }
            Command::Convert { from, to, .. } => {
                // One that is there is the target: the option took the source, or it took both.
                if to.is_none() {
                    *to = from.take().map(PathBuf::from).or_else(|| take_last(&mut options));
                    *from = take_last(&mut options).map(PathBuf::into_os_string);
                }
                if from.is_none() || to.is_none() {
                    lacks("<TREE-PATH|IMAGE> <OUTPUT>");
                }
            }
            Command::Diff { paths, .. } => {
                if paths.len() < 2 {
                    give_back(&mut options, paths);
                }
                if paths.len() != 2 {
                    lacks("<TREE-PATH|IMAGE> <TREE-PATH|IMAGE>");
                }
            }
            Command::Inspect { paths, .. }
            | Command::Export { protocol: Protocol::Nbd { paths, .. } | Protocol::Iscsi { paths, .. } } => {
                if paths.is_empty() {
                    give_back(&mut options, paths);
                }
                if paths.is_empty() {
                    lacks("<TREE-PATH|IMAGE>...");
                }
            }
            Command::Export { protocol: Protocol::Nfs { path, .. } | Protocol::Smb { path, .. } } => {
                let mut given = Vec::new();
                if path.is_none() {
                    give_back(&mut options, &mut given);
                    *path = given.pop();
                }
            }
            Command::Recover(recover) => {
                let mut given = Vec::new();
                if recover.action.is_none() && recover.start.target.is_none() {
                    give_back(&mut options, &mut given);
                    recover.start.target = given.pop().map(|t| t.to_string_lossy().into_owned());
                }
            }
            Command::Serve { .. }
            | Command::Backup(_)
            | Command::Restore(_)
            | Command::BaculaConfig(_)
            | Command::Doctor { .. }
            | Command::Jobs
            | Command::FreezeGuard
            | Command::Completions { .. }
            | Command::Man { .. } => {}
        }
        cli
    }
}

/// Move the last values of an option that are no files of the host to `paths`.
fn give_back(options: &mut [&mut Vec<PathBuf>], paths: &mut Vec<OsString>) {
    for values in options {
        let kept = values.iter().rposition(|p| p.exists()).map_or(0, |i| i + 1);
        // Of several missing files the first is what was meant as the option's value.
        let moved = values.split_off(kept.max(1).min(values.len()));
        paths.splice(0..0, moved.into_iter().map(PathBuf::into_os_string));
    }
}

/// The last value of an option that keeps another.
fn take_last(options: &mut [&mut Vec<PathBuf>]) -> Option<PathBuf> {
    options.iter_mut().find(|values| values.len() > 1)?.pop()
}

fn lacks(what: &str) -> ! {
    use clap::{CommandFactory, error::ErrorKind};
    let message = format!("the following required arguments were not provided:\n  {what}");
    Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit()
}
