//! `revenant export`: what is served, and how.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};

/// What is served, and how.
#[derive(Debug, Subcommand)]
pub enum Protocol {
    /// As network block devices (NBD), each as an export of its name
    Nbd {
        /// Disks in the tree, folders with disks (machines/NAME/@TIME), or image files of this machine
        #[arg(value_name = "TREE-PATH|IMAGE")]
        paths: Vec<OsString>,
        #[command(flatten)]
        options: NbdOptions,
    },
    /// As an iSCSI target, each disk as one of its logical units
    Iscsi {
        /// Disks in the tree, folders with disks (machines/NAME/@TIME), or image files of this machine
        #[arg(value_name = "TREE-PATH|IMAGE")]
        paths: Vec<OsString>,
        #[command(flatten)]
        options: IscsiOptions,
    },
    /// As NFS version 3: the whole tree or a folder of it, read-only; or a machine's disks, writable
    Nfs {
        /// A folder [default: the whole tree]; with --overlay a machine's point, or a disk
        #[arg(value_name = "TREE-PATH")]
        path: Option<OsString>,
        #[command(flatten)]
        options: NfsOptions,
    },
    /// As an SMB share (Samba over a mount): the whole tree or a folder of it, read-only; or a machine's disks, writable
    Smb {
        /// A folder [default: the whole tree]; with --overlay a machine's point, or a disk
        #[arg(value_name = "TREE-PATH")]
        path: Option<OsString>,
        #[command(flatten)]
        options: SmbOptions,
    },
}

/// How to serve by NBD.
#[derive(Debug, Args)]
pub struct NbdOptions {
    /// ADDRESS:PORT or unix:PATH; sockets that systemd hands over go first
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10809")]
    pub listen: String,
    /// Name of the export [default: the disk's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Format of the images, when their own bytes are not to tell
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Clients cannot write: so it is without --overlay
    #[arg(long, conflicts_with = "overlay")]
    pub read_only: bool,
    /// Clients may write; what they write is kept in this qcow2 file (or one a disk in this folder), never in the backup
    #[arg(long, value_name = "FILE|DIR")]
    pub overlay: Option<PathBuf>,
    /// Bytes that an overlay may take
    #[arg(long, value_name = "BYTES", requires = "overlay")]
    pub overlay_quota: Option<u64>,
    /// Certificate of this server, with its chain
    #[arg(long, value_name = "PEM", help_heading = "Encryption")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate
    #[arg(long, value_name = "PEM", help_heading = "Encryption")]
    pub tls_key: Option<PathBuf>,
    /// Clients need a certificate of this authority
    #[arg(long, value_name = "PEM", help_heading = "Encryption")]
    pub tls_client_ca: Option<PathBuf>,
    /// Serve clients that do not encrypt, too
    #[arg(long, help_heading = "Encryption")]
    pub tls_optional: bool,
    /// Clients at once
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_connections: usize,
}

/// A folder that clients write to, with a machine's disks in it.
#[derive(Debug, Args)]
pub struct DatastoreOptions {
    /// Clients may write; what they write is kept in this folder, never in the backup. It is made when it is not there
    #[arg(long, value_name = "DIR", help_heading = "Writing")]
    pub overlay: Option<PathBuf>,
    /// What the disks look like: vmdk, raw, qcow2, vhdx, ... [default: vmdk by NFS, vhdx by SMB]
    #[arg(long, value_name = "FORMAT", requires = "overlay", help_heading = "Writing")]
    pub format: Option<String>,
    /// Bytes that the overlay of a disk may take
    #[arg(long, value_name = "BYTES", requires = "overlay", help_heading = "Writing")]
    pub overlay_quota: Option<u64>,
    /// Bytes that the clients' own files may have together
    #[arg(long, value_name = "BYTES", requires = "overlay", help_heading = "Writing")]
    pub files_quota: Option<u64>,
}

/// How to serve by iSCSI.
#[derive(Debug, Args)]
pub struct IscsiOptions {
    /// ADDRESS:PORT; sockets that systemd hands over go first
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3260")]
    pub listen: String,
    /// Name of the target, such as iqn.2026-01.org.example:web01 [default: made of the disk's name]
    #[arg(long, value_name = "NAME")]
    pub iqn: Option<String>,
    /// Format of the images, when their own bytes are not to tell
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Clients may write; what they write is kept in this qcow2 file (or one a disk in this folder), never in the backup
    #[arg(long, value_name = "FILE|DIR")]
    pub overlay: Option<PathBuf>,
    /// Bytes that an overlay may take
    #[arg(long, value_name = "BYTES", requires = "overlay")]
    pub overlay_quota: Option<u64>,
    /// Every write is durable when it is acknowledged: for ESXi, which flushes nothing
    #[arg(long, requires = "overlay")]
    pub write_through: bool,
    /// Machines that may connect, as addresses or networks [default: all that reach the address]
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', help_heading = "Access")]
    pub allow: Vec<String>,
    /// Initiators that may log in, by name [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Access")]
    pub initiator: Vec<String>,
    /// Name by which initiators authenticate (CHAP)
    #[arg(long, value_name = "NAME", help_heading = "Access")]
    pub chap_user: Option<String>,
    /// File with the secret of that name: 12 to 16 characters for Windows
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    pub chap_secret_file: Option<PathBuf>,
    /// Name by which the target authenticates to initiators (mutual CHAP)
    #[arg(long, value_name = "NAME", help_heading = "Access")]
    pub mutual_user: Option<String>,
    /// File with the secret of that name
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    pub mutual_secret_file: Option<PathBuf>,
    /// Address and port that initiators are told, where they reach this machine by others than it has
    #[arg(long, value_name = "ADDRESS")]
    pub portal: Option<SocketAddr>,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_connections: usize,
}

/// How to serve by NFS.
#[derive(Debug, Args)]
pub struct NfsOptions {
    #[command(flatten)]
    pub datastore: DatastoreOptions,
    /// What clients mount the folder as
    #[arg(long, value_name = "NAME", default_value = "datastore", requires = "overlay", help_heading = "Writing")]
    pub name: String,
    /// Clients cannot write: so it is without --overlay
    #[arg(long, conflicts_with = "overlay", help_heading = "Writing")]
    pub read_only: bool,
    /// Root of the clients (root), or everybody (all), acts as the user of --anonymous
    #[arg(long, value_name = "WHO", value_parser = ["none", "root", "all"], default_value = "none", help_heading = "Access")]
    pub squash: String,
    /// User and group for --squash
    #[arg(long, value_name = "UID:GID", default_value = "65534:65534", help_heading = "Access")]
    pub anonymous: String,
    /// ADDRESS:PORT for files and mounting; sockets that systemd hands over go first
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2049")]
    pub listen: String,
    /// Another port for mounting
    #[arg(long, value_name = "PORT")]
    pub mount_port: Option<u16>,
    /// Tell clients the ports, too, at the port that they ask without being told one (rpcbind must not run here)
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "111")]
    pub portmap: Option<u16>,
    /// Machines that may connect: addresses and networks such as 192.168.7.0/24. Needed unless it listens at loopback
    #[arg(long, value_name = "CIDR", value_delimiter = ',', help_heading = "Access")]
    pub allow: Vec<String>,
    /// Clients have to come from a port below 1024, which only root of their machine can use
    #[arg(long, help_heading = "Access")]
    pub privileged_ports: bool,
    /// Every user of the clients may read everything; otherwise stored owners, modes and ACLs decide
    #[arg(long, help_heading = "Access")]
    pub ignore_permissions: bool,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_connections: usize,
}

/// How to serve by SMB.
#[derive(Debug, Args)]
pub struct SmbOptions {
    #[command(flatten)]
    pub datastore: DatastoreOptions,
    /// Name of the share
    #[arg(long, value_name = "NAME", default_value = "backup")]
    pub share: String,
    /// ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:445")]
    pub listen: String,
    /// An empty folder to mount the tree on [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// A user of this machine who may connect and read everything
    #[arg(long, value_name = "NAME", conflicts_with = "guest", help_heading = "Access")]
    pub user: Option<String>,
    /// File whose first line is the user's password for the share [default: REVENANT_SMB_PASSWORD]
    #[arg(long, value_name = "FILE", requires = "user", help_heading = "Access")]
    pub password_file: Option<PathBuf>,
    /// Everybody may connect and read everything, without a password
    #[arg(long, help_heading = "Access")]
    pub guest: bool,
    /// Machines that may connect: addresses and networks such as 192.168.7.0/24 [default: all that reach the address]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', help_heading = "Access")]
    pub allow: Vec<String>,
    /// Only print a Samba configuration for a tree mounted on --mount
    #[arg(long)]
    pub print_config: bool,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_connections: usize,
}
