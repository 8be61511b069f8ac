//! The hypervisors of this host, as they are configured.

use std::sync::Arc;

use blockdev::{Error, Result};
use hv_drivers::{
    driver::{Driver, Inventory, Listed, Tracking},
    qemu::attached::AttachedQemu,
};

use super::runs::List;
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

/// The machines that `list` means, and their hypervisors.
///
/// # Errors
///
/// When a hypervisor does not answer.
pub fn listed(sources: &Sources, list: &List) -> Result<Vec<(String, Listed)>> {
    let mut found = Vec::new();
    for (hypervisor, driver) in all(sources)? {
        if list.on.as_ref().is_none_or(|on| *on == hypervisor) {
            let machines = inventory(driver.as_ref())?.machines()?;
            found.extend(machines.into_iter().filter(|m| list.has(&hypervisor, m)).map(|m| (hypervisor.clone(), m)));
        }
    }
    Ok(found)
}

pub fn inventory(driver: &dyn Driver) -> Result<&dyn Inventory> {
    driver.inventory().ok_or_else(|| Error::unsupported(format!("{} has no list of machines", driver.name())))
}

pub fn tracking(driver: &dyn Driver) -> Result<&dyn Tracking> {
    driver.tracking().ok_or_else(|| Error::unsupported(format!("{} cannot back up running machines", driver.name())))
}
