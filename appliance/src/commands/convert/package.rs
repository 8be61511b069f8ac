//! A machine with all its disks as an OVF package: files beside each other, or one archive (OVA).

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use blockdev::{
    Error, ReadAt, Result,
    images::Disk,
    ovf::{Hardware, write},
};
use hv_drivers::machine::{Firmware, Machine};
use serde_json::json;

use super::{Writer, absolute};
use crate::{
    commands::{
        machine::{self, Found},
        source::{DiskSource, Disks},
    },
    output::{self, size},
};

/// How the package is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One archive.
    Ova,
    /// A descriptor and disks beside it.
    Ovf,
}

/// Whether a package is wanted: as said, or else as the name of the target ends.
pub fn form_of(to: &Path, named: Option<&str>) -> Option<Form> {
    let extension = to.extension().map(|e| e.to_string_lossy().into_owned());
    match named.map(str::to_owned).or(extension)?.to_ascii_lowercase().as_str() {
        "ova" => Some(Form::Ova),
        "ovf" => Some(Form::Ovf),
        _ => None,
    }
}

pub fn run(writer: &Writer<'_>, from: &OsStr, to: &Path, form: Form) -> Result<u8> {
    let tree = Disks::new(writer.cli);
    let format = writer.options.format.as_deref().map(str::parse).transpose()?;
    let Found { machine, sources } = machine::find(&tree, from, format)?;
    let started = Instant::now();
    let stem = to.file_stem().ok_or_else(|| Error::invalid(format!("{} is no file name", to.display())))?;
    let stem = stem.to_string_lossy().into_owned();
    let hardware = hardware(&machine);
    let mut disks = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        let disk = writer.without_zeros(Arc::<Disk>::clone(&source.image.disk))?;
        disks.push((format!("disk{number}"), disk, source.identity.clone()));
    }
    let files = write::files(&stem, &hardware, &disks)?;
    let what = |name: &str| format!("{name} of {}", from.to_string_lossy());
    let mut paths = vec![to.to_owned()];
    match form {
        Form::Ova => writer.write(write::archive(files)?.as_ref(), &what("ova"), to)?,
        Form::Ovf => {
            for (name, disk) in &files.disks {
                let path = to.with_file_name(name);
                writer.write(disk.as_ref(), &what(name), &path)?;
                paths.push(path);
            }
            // Last: a descriptor says that all is there.
            writer.write(&files.descriptor.1, &what("ovf"), to)?;
        }
    }
    let verified = writer.options.verify;
    if verified {
        let written = Disks::new(writer.cli).several(absolute(to).as_os_str(), None)?;
        if written.len() != sources.len() {
            return Err(Error::damaged(format!("{} has {} disks, not {}", to.display(), written.len(), sources.len())));
        }
        sources.iter().zip(&written).try_for_each(|(source, written)| writer.compare(source, written))?;
    }
    tell(writer, &sources, to, &paths, started)?;
    Ok(0)
}

/// The machine's hardware, as far as a package carries it.
fn hardware(machine: &Machine) -> Hardware {
    Hardware {
        name: machine.name.clone(),
        cpus: machine.cpus.count(),
        memory_mib: machine.memory_mib,
        uefi: machine.firmware.is_some_and(Firmware::is_uefi),
    }
}

fn tell(writer: &Writer<'_>, sources: &[DiskSource], to: &Path, paths: &[PathBuf], started: Instant) -> Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    let length: u64 = paths.iter().filter_map(|p| fs::metadata(p).ok()).map(|m| m.len()).sum();
    let virtual_size: u64 = sources.iter().map(|s| s.image.disk.size()).sum();
    let text = if writer.cli.sources.json {
        let value = json!({
            "output": to.to_string_lossy(),
            "files": paths.iter().map(|p| p.to_string_lossy()).collect::<Vec<_>>(),
            "disks": sources.iter().map(|s| s.label.as_str()).collect::<Vec<_>>(),
            "virtual_size": virtual_size,
            "output_size": length,
            "seconds": seconds,
            "verified": writer.options.verify,
        });
        format!("{value:#}")
    } else {
        let checked = if writer.options.verify { ", verified" } else { "" };
        let (disks, all) = (sources.len(), size(virtual_size));
        format!("{}: {disks} disks of {all}, {} in files; {seconds:.1} s{checked}", to.display(), size(length))
    };
    let mut out = output::stdout();
    output::written(writeln!(out, "{text}").and_then(|()| out.flush()))
}
