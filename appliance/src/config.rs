//! From command line, environment and configuration file to [`Options`]. The command line wins, then the
//! environment, then the file.

use std::{env, fs, path::PathBuf, sync::Arc};

use blockdev::{Error, Result, encrypted::Secrets};
use hv_drivers::qemu::attached::Attached;
use serde::Deserialize;
use volreader::{archive::Options, session::store};

use crate::cli::{Integrity, Sources};

const DEFAULT_FILE: &str = "/etc/revenant/revenant.toml";

/// The configuration file; every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    volumes: Vec<PathBuf>,
    catalog: Option<String>,
    #[serde(default)]
    keys: Vec<PathBuf>,
    volume_keys: Option<PathBuf>,
    #[serde(default)]
    unlock: Vec<PathBuf>,
    cache: Option<PathBuf>,
    cache_bytes: Option<u64>,
    mount: Option<PathBuf>,
    state: Option<PathBuf>,
    #[serde(default)]
    qemu: Vec<Attached>,
    #[serde(default)]
    libvirt: Vec<LibvirtHost>,
    #[serde(default)]
    storage: Vec<Storage>,
}

/// A folder for the disks of machines that are restored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// What it is asked for by.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// The hypervisors that are configured.
#[derive(Debug, Default)]
pub struct Hypervisors {
    /// `[[qemu]]`: machines of plain QEMU.
    pub qemu: Vec<Attached>,
    /// `[[libvirt]]`: libvirts of this host.
    pub libvirt: Vec<LibvirtHost>,
}

/// A libvirt.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LibvirtHost {
    /// Its name in the tree.
    #[serde(default = "libvirt_name")]
    pub name: String,
    /// Where it is.
    #[serde(default = "libvirt_uri")]
    pub uri: String,
}

fn libvirt_name() -> String {
    "libvirt".to_owned()
}

fn libvirt_uri() -> String {
    hv_drivers::libvirt::SYSTEM.to_owned()
}

/// How to open the archive.
///
/// # Errors
///
/// When the configuration file cannot be read or has an unknown key.
pub fn options(sources: &Sources) -> Result<Options> {
    let file = read(sources)?;
    Ok(Options {
        volumes: first(&sources.volumes, first(&from_environment("REVENANT_VOLUMES"), file.volumes)),
        catalog: sources.catalog.clone().or(file.catalog),
        keys: first(&sources.keys, file.keys),
        volume_keys: sources.volume_keys.clone().or(file.volume_keys),
        cache: cache(sources)?,
        integrity: match sources.integrity {
            Integrity::Always => store::Integrity::Always,
            Integrity::Once => store::Integrity::Once,
            Integrity::Never => store::Integrity::Never,
        },
        cache_bytes: file.cache_bytes,
    })
}

/// What encrypted volumes of guests are opened with.
///
/// # Errors
///
/// When the configuration file or that of a secret cannot be read.
pub fn secrets(sources: &Sources) -> Result<Arc<Secrets>> {
    Ok(Arc::new(Secrets::from_files(&unlock(sources)?)?))
}

/// The files of those secrets.
///
/// # Errors
///
/// When the configuration file cannot be read.
pub fn unlock(sources: &Sources) -> Result<Vec<PathBuf>> {
    Ok(first(&sources.unlock, first(&from_environment("REVENANT_UNLOCK"), read(sources)?.unlock)))
}

/// The folder of the daemon's state.
///
/// # Errors
///
/// When the configuration file cannot be read.
pub fn state(sources: &Sources) -> Result<Option<PathBuf>> {
    Ok(read(sources)?.state)
}

/// Where the daemon mounts the tree.
///
/// # Errors
///
/// When the configuration file cannot be read.
pub fn mount(sources: &Sources) -> Result<Option<PathBuf>> {
    Ok(read(sources)?.mount)
}

/// The folder of indexes and other things that can be made again.
///
/// # Errors
///
/// When the configuration file cannot be read.
pub fn cache(sources: &Sources) -> Result<Option<PathBuf>> {
    Ok(sources.cache.clone().or(read(sources)?.cache).or_else(default_cache))
}

/// The hypervisors.
///
/// # Errors
///
/// When the configuration file cannot be read, or a name is none.
pub fn hypervisors(sources: &Sources) -> Result<Hypervisors> {
    let file = read(sources)?;
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with('.')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let names = file.qemu.iter().map(|m| &m.name).chain(file.libvirt.iter().map(|l| &l.name));
    if let Some(odd) = names.into_iter().find(|name| !is_name(name)) {
        return Err(Error::invalid(format!("name = {odd:?}: a name here has letters, digits, `-`, `_` and `.`")));
    }
    Ok(Hypervisors { qemu: file.qemu, libvirt: file.libvirt })
}

/// Where the disks of restored machines can go; the first is taken where none is asked for.
///
/// # Errors
///
/// When the configuration file cannot be read.
pub fn storages(sources: &Sources) -> Result<Vec<Storage>> {
    Ok(read(sources)?.storage)
}

fn first(a: &[PathBuf], b: Vec<PathBuf>) -> Vec<PathBuf> {
    if a.is_empty() { b } else { a.to_vec() }
}

/// The files in the variable `name`, separated by colons.
fn from_environment(name: &str) -> Vec<PathBuf> {
    let value = env::var_os(name).unwrap_or_default();
    env::split_paths(&value).filter(|p| !p.as_os_str().is_empty()).collect()
}

fn read(sources: &Sources) -> Result<File> {
    let path = sources.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    if sources.config.is_none() && !path.exists() {
        return Ok(File::default());
    }
    let text = fs::read_to_string(&path).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
    toml::from_str(&text).map_err(|e| Error::invalid(format!("{}: {}", path.display(), e.message())))
}

/// Root keeps indexes for everybody, others for themselves.
fn default_cache() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some("/var/cache/revenant".into());
    }
    let home = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    home.map(|h| h.join("revenant"))
}
