//! What an admin wishes of a restore, said in the name of the folder that it goes to: that is all that a console of Bacula's
//! can say.
//!
//! ```text
//! restore/libvirt/web01                          as it was called, not started
//! restore/libvirt/web02,start,network=nat        another one beside it, started
//! restore/qemu/web01,disk=vd1,format=raw         one disk of it
//! ```

use blockdev::{Error, Result};
use hv_drivers::{driver::FileFormat, settings::Network};

use crate::cli::network;

/// What is wished for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What the machine is to be called.
    pub name: String,
    /// It is started.
    pub start: bool,
    /// One of that name, and disks that are there, are replaced.
    pub overwrite: bool,
    /// The storage, by its name in the configuration.
    pub storage: Option<String>,
    pub network: Network,
    /// The only disks that are wanted; none: all, and the machine.
    pub disks: Vec<String>,
    pub format: FileFormat,
}

impl Wish {
    /// What the name of a folder says.
    ///
    /// # Errors
    ///
    /// When it says something that is not known.
    pub fn read(folder: &str) -> Result<Self> {
        let mut words = folder.split(',');
        let name = words.next().unwrap_or_default();
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with(['.', '-'])
                && name.len() <= 100
                && name.chars().all(|c| c.is_alphanumeric() || "-_. ".contains(c))
        };
        if !is_name(name) {
            return Err(Error::invalid(format!("{name:?} cannot be the name of a machine")));
        }
        let mut wish = Self {
            name: name.to_owned(),
            start: false,
            overwrite: false,
            storage: None,
            network: Network::default(),
            disks: Vec::new(),
            format: FileFormat::Qcow2,
        };
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("start", "") => wish.start = true,
                ("overwrite", "") => wish.overwrite = true,
                ("storage", name) if is_name(name) => wish.storage = Some(name.to_owned()),
                ("network", text) => {
                    let known = network(text).map_err(|e| Error::invalid(format!("{word}: {e}")));
                    wish.network = known?;
                }
                ("disk", name) if is_name(name) => wish.disks.push(name.to_owned()),
                ("format", "raw") => wish.format = FileFormat::Raw,
                ("format", "qcow2") => wish.format = FileFormat::Qcow2,
                _ => {
                    return Err(Error::invalid(format!(
                        "{word:?} is not known; behind the name can be: start, overwrite, storage=NAME, network=NETWORK, \
                         disk=NAME, format=raw"
                    )));
                }
            }
        }
        Ok(wish)
    }
}

/// The parts of the name of a disk's file: the disk, and the number of its point.
pub fn member(name: &str) -> Option<(&str, u64)> {
    let (disk, level) = name.strip_suffix(".qcow2")?.rsplit_once('-')?;
    let (disk, number) = disk.rsplit_once('.')?;
    let is_one = ["full", "diff", "inc"].contains(&level) && !disk.is_empty() && !disk.contains('/');
    is_one.then_some((disk, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let wish = Wish::read("web02,start,network=nat,storage=fast,format=raw,overwrite").expect("words");
        assert_eq!((wish.name.as_str(), wish.start, wish.overwrite), ("web02", true, true));
        assert_eq!((wish.network, wish.format), (Network::Nat(Vec::new()), FileFormat::Raw));
        assert_eq!(wish.storage.as_deref(), Some("fast"));
        let plain = Wish::read("web 01").expect("a name");
        assert_eq!((plain.start, plain.overwrite, plain.network), (false, false, Network::default()));
        assert_eq!(Wish::read("a,disk=vd0,disk=vd1").expect("disks").disks, ["vd0", "vd1"]);
        for odd in ["", ".x", "../x", "-x", "a,", "a,begin", "a,start=1", "a,network=x", "a,disk=", "a,storage=../x"] {
            assert!(Wish::read(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn names_of_members() {
        assert_eq!(member("vd0.0001-full.qcow2"), Some(("vd0", 1)));
        assert_eq!(member("scsi0.a.0012-inc.qcow2"), Some(("scsi0.a", 12)));
        for other in
            ["machine.json", "vd0.qcow2", "vd0.0001-full.raw", ".0001-full.qcow2", "vd0.x-inc.qcow2", "vd0.1-x.qcow2"]
        {
            assert_eq!(member(other), None, "{other}");
        }
    }
}
