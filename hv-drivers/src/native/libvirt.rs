//! libvirt: the XML of a domain, for `virsh define`.

use std::{path::PathBuf, time::Duration};

use super::Config;
use crate::{
    Result,
    driver::{DiskSource, FileFormat},
    libvirt::domain::{Cards, Domain},
    machine::Machine,
};

pub fn write(machine: &Machine, disks: &[String]) -> Result<Config> {
    let file = |file: &String| DiskSource::File {
        path: PathBuf::from(file),
        format: if file.ends_with(".qcow2") { FileFormat::Qcow2 } else { FileFormat::Raw },
    };
    let disks: Vec<_> = disks.iter().map(file).collect();
    let domain = Domain {
        machine,
        name: &machine.name,
        kvm: true,
        memory_mib: None,
        cpus: None,
        disks: &disks,
        // A copy beside the original must not take its address: the admin connects it.
        cards: Cards::Unplugged("default"),
        console_log: None,
        reconnect: Duration::ZERO,
    };
    domain.xml()
}
