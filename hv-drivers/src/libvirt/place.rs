//! What is kept of a domain in its place, and what is asked of libvirt by its name.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{
    domain::{self, Cards, Domain},
    shown,
    virsh::Virsh,
};
use crate::{
    Error, Result,
    driver::{DiskSource, State},
    native::Config,
    settings::{Accelerator, Network, Spec},
};

/// What it was started with.
const SPEC: &str = "libvirt.json";
/// Its XML, as it was defined last.
const XML: &str = "domain.xml";
/// What its guest says on the serial console.
const CONSOLE_LOG: &str = "console.log";

/// A domain of ours: it may not be there any more.
#[derive(Debug)]
pub struct Placed {
    folder: PathBuf,
    name: String,
    /// What it was started with; its disks are where they are now.
    pub spec: Spec,
}

impl Placed {
    /// What is kept in `folder`, if anything is.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        match Spec::read(&folder.join(SPEC)) {
            Ok(spec) => Ok(Some(Self { folder: folder.to_owned(), name: name_of(folder)?, spec })),
            Err(e) if e.kind() == crate::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes down what is going to be defined. With `replace` a domain of that name that is off is taken out of libvirt.
    ///
    /// # Errors
    ///
    /// When there is a domain of that name, or it cannot be written.
    pub fn begin(folder: &Path, virsh: &Virsh, spec: Spec, replace: bool) -> Result<Self> {
        let placed = Self { folder: folder.to_owned(), name: name_of(folder)?, spec };
        let is_there = domains(virsh)?.iter().any(|(_, name)| *name == placed.name);
        if is_there && replace {
            if placed.state(virsh)? != State::Off {
                return Err(Error::invalid(format!("the domain {} runs: shut it down first", placed.name)));
            }
            placed.undefine(virsh)?;
        } else if is_there {
            return Err(Error::invalid(format!(
                "libvirt at {} has a domain {} already, which is not of this recovery: rename that one",
                virsh.uri(),
                placed.name
            )));
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| Error::io(format!("cannot make {}", folder.display()), e))?;
        placed.spec.write(&folder.join(SPEC))?;
        Ok(placed)
    }

    /// Its name in libvirt.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn console_log(&self) -> PathBuf {
        self.file(CONSOLE_LOG)
    }

    /// Whether libvirt has it. One of the same name with another UUID is somebody else's.
    pub fn exists(&self, virsh: &Virsh) -> Result<bool> {
        let uuid = self.spec.machine.uuid.as_deref().unwrap_or_default();
        Ok(domains(virsh)?.iter().any(|(its, name)| *name == self.name && its == uuid))
    }

    /// How it is.
    pub fn state(&self, virsh: &Virsh) -> Result<State> {
        Ok(state(&virsh.domain("domstate", &self.name, &["--reason".as_ref()])?))
    }

    /// Its disks as libvirt has them while it runs.
    pub fn shown(&self, virsh: &Virsh) -> Result<Vec<shown::Disk>> {
        shown::disks(&virsh.domain("dumpxml", &self.name, &[])?)
    }

    /// What the guest's side of its disks is called, in their order.
    pub fn targets(&self) -> Result<Vec<String>> {
        let places = domain::places(&self.spec.machine, &mut Vec::new())?;
        Ok(places.into_iter().map(|place| place.target).collect())
    }

    /// Says where its disks are now.
    pub fn moved(&mut self, disks: Vec<DiskSource>) -> Result<()> {
        self.spec.disks = disks;
        self.spec.write(&self.file(SPEC))
    }

    /// Defines it, or defines it anew. With `log` what its guest says on the console is kept in its folder.
    ///
    /// # Errors
    ///
    /// When a setting is one that libvirt has not, or libvirt refuses.
    pub fn define(&self, virsh: &Virsh, log: bool) -> Result<Config> {
        let (machine, settings) = (&self.spec.machine, &self.spec.settings);
        let cards = match &settings.network {
            Network::None => Cards::None,
            Network::Isolated(forwards) | Network::Nat(forwards) if !forwards.is_empty() => {
                return Err(Error::invalid(
                    "libvirt leads no ports of this host into a guest: leave them out, or connect it by a bridge",
                ));
            }
            Network::Isolated(_) => Cards::Isolated,
            Network::Nat(_) => Cards::Network("default"),
            Network::Bridge(name) => Cards::Bridge(name),
        };
        let log = log.then(|| self.console_log());
        let domain = Domain {
            machine,
            name: &self.name,
            kvm: settings.accelerator != Accelerator::Tcg,
            memory_mib: settings.memory_mib,
            cpus: settings.cpus,
            disks: &self.spec.disks,
            cards,
            console_log: log.as_deref(),
            reconnect: settings.reconnect,
        };
        let config = domain.xml()?;
        let file = self.file(XML);
        fs::write(&file, &config.text).map_err(|e| Error::io(format!("cannot write {}", file.display()), e))?;
        virsh.run(&["define".as_ref(), "--file".as_ref(), file.as_os_str()])?;
        Ok(config)
    }

    /// Takes it out of libvirt, with its firmware's variables. It is off.
    pub fn undefine(&self, virsh: &Virsh) -> Result<()> {
        let all = ["--nvram", "--managed-save", "--snapshots-metadata", "--checkpoints-metadata"].map(OsStr::new);
        virsh.domain("undefine", &self.name, &all).map(drop)
    }
}

/// Domains are called as their folders.
pub fn name_of(folder: &Path) -> Result<String> {
    let name = folder.file_name().and_then(OsStr::to_str);
    let name = name.filter(|name| !name.chars().any(char::is_control) && !name.trim().is_empty());
    name.map(str::to_owned).ok_or_else(|| Error::invalid(format!("{} cannot name a domain", folder.display())))
}

/// UUIDs and names of all domains.
pub fn domains(virsh: &Virsh) -> Result<Vec<(String, String)>> {
    let all = virsh.run(&["list", "--all", "--uuid", "--name"])?;
    let pair = |line: &str| line.trim().split_once(' ').map(|(uuid, name)| (uuid.to_owned(), name.trim().to_owned()));
    Ok(all.lines().filter_map(pair).collect())
}

/// What `domstate --reason` says: `paused (I/O error)`.
fn state(words: &str) -> State {
    let words = words.trim();
    let (state, reason) = words.split_once(" (").map_or((words, ""), |(state, why)| (state, why.trim_end_matches(')')));
    match (state, reason) {
        ("shut off" | "crashed", _) => State::Off,
        // As QEMU itself calls it.
        ("paused", "I/O error") => State::Paused("io-error".into()),
        ("paused" | "pmsuspended", "") => State::Paused(state.to_owned()),
        ("paused" | "pmsuspended", why) => State::Paused(why.to_owned()),
        _ => State::Running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let paused = |why: &str| State::Paused(why.into());
        for (words, is) in [
            ("running (booted)\n", State::Running),
            ("in shutdown (user)", State::Running),
            ("paused (I/O error)", paused("io-error")),
            ("paused (user)\n", paused("user")),
            ("paused", paused("paused")),
            ("shut off (destroyed)", State::Off),
            ("crashed (panicked)", State::Off),
        ] {
            assert_eq!(state(words), is, "{words}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(name_of(Path::new("/state/machines/web 01-1")).expect("a name"), "web 01-1");
        for folder in ["/", "/a/..", "/a/x\ny", "/a/ "] {
            assert!(name_of(Path::new(folder)).is_err(), "{folder:?}");
        }
    }
}
