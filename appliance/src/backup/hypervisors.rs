//! The hypervisors of this host, as they are configured.

use std::sync::Arc;

use blockdev::{Error, Result};
use hv_drivers::{
    driver::{Driver, Inventory, Tracking},
    qemu::attached::AttachedQemu,
};

use crate::{cli::Sources, config};

/// All of them, by the names that they have in the tree.
pub fn all(sources: &Sources) -> Result<Vec<(String, Arc<dyn Driver>)>> {
    let configured = config::hypervisors(sources)?;
    let mut found: Vec<(String, Arc<dyn Driver>)> = Vec::new();
    if !configured.qemu.is_empty() {
        found.push(("qemu".to_owned(), Arc::new(AttachedQemu::new(configured.qemu))));
    }
    Ok(found)
}

/// The one called `name`.
///
/// # Errors
///
/// When there is none.
pub fn one(sources: &Sources, name: &str) -> Result<Arc<dyn Driver>> {
    let all = all(sources)?;
    let known: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    match all.iter().find(|(n, _)| n == name) {
        Some((_, driver)) => Ok(Arc::clone(driver)),
        None if known.is_empty() => Err(Error::not_found(
            "no hypervisor is configured; see [[qemu]] in /etc/revenant/revenant.toml (`man revenant-backup`)",
        )),
        None => Err(Error::not_found(format!("no hypervisor {name} is configured; there are: {}", known.join(", ")))),
    }
}

pub fn inventory(driver: &dyn Driver) -> Result<&dyn Inventory> {
    driver.inventory().ok_or_else(|| Error::unsupported(format!("{} has no list of machines", driver.name())))
}

pub fn tracking(driver: &dyn Driver) -> Result<&dyn Tracking> {
    driver.tracking().ok_or_else(|| Error::unsupported(format!("{} cannot back up running machines", driver.name())))
}
