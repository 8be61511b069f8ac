//! What a pool may have and still be read: versions, and the names that came after them.

use std::ops::ControlFlow;

use blockdev::{Error, Result};

use super::{dsl::Mos, nvlist::NvList};

/// Versions: numbers up to 28, then names of features.
const NUMBERED_MAX: u64 = 28;
const NAMED: u64 = 5000;

/// Features that change how a pool is read, and are known here: most are about things that are not looked at.
const KNOWN: [&str; 23] = [
    "com.datto:bookmark_v2",
    "com.datto:encryption",
    "com.delphix:bookmark_written",
    "com.delphix:device_removal",
    "com.delphix:embedded_data",
    "com.delphix:extensible_dataset",
    "com.delphix:head_errlog",
    "com.delphix:hole_birth",
    "com.delphix:redacted_datasets",
    "com.delphix:redaction_bookmarks",
    "com.delphix:redaction_list_spill",
    "com.joyent:multi_vdev_crash_dump",
    "com.klarasystems:vdev_zaps_v2",
    "org.freebsd:zstd_compress",
    "org.illumos:edonr",
    "org.illumos:lz4_compress",
    "org.illumos:sha512",
    "org.illumos:skein",
    "org.open-zfs:large_blocks",
    "org.openzfs:blake3",
    "org.openzfs:raidz_expansion",
    "org.zfsonlinux:large_dnode",
    "org.zfsonlinux:longname",
];

/// Checks what a label says, before anything else of the pool is read.
///
/// # Errors
///
/// `Unsupported` when there is something that is not known.
pub fn check_label(config: &NvList) -> Result<()> {
    let version = config.number("version").unwrap_or(0);
    if !(1..=NUMBERED_MAX).contains(&version) && version != NAMED {
        return Err(Error::unsupported(format!(
            "the pool is of version {version}: 1 to {NUMBERED_MAX} and {NAMED} can be read"
        )));
    }
    let features = config.list("features_for_read");
    let names = features.into_iter().flat_map(NvList::iter).map(|(name, _)| String::from_utf8_lossy(name).into_owned());
    check(names)
}

/// Checks which features the pool uses.
///
/// # Errors
///
/// `Unsupported` when one is not known; when that cannot be read.
pub fn check_pool(mos: &Mos) -> Result<()> {
    let Some(number) = mos.entry("features_for_read")? else { return Ok(()) };
    let mut used = Vec::new();
    mos.with(number, |features| {
        features.list(0, &mut |entry| {
            // How often it is used.
            if entry.value.one() != Some(0) {
                used.push(String::from_utf8_lossy(&entry.name).into_owned());
            }
            Ok(ControlFlow::Continue(()))
        })
    })?;
    check(used.into_iter())
}

fn check(mut used: impl Iterator<Item = String>) -> Result<()> {
    match used.find(|name| !KNOWN.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::unsupported(format!("the pool uses the feature {name:?}, which cannot be read"))),
    }
}
