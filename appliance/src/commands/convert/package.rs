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
    BlockDevice, Error, ReadAt, Result,
    images::Disk,
    ovf::{Hardware, write},
    partitions::{self, Scheme},
};
use serde_json::{Value, json};
use vfs::node::Node;

use super::{Writer, absolute};
use crate::{
    commands::source::{DiskSource, Disks, is_host_path},
    output::{self, size},
};

/// What a machine has about which nothing is known.
const CPUS: u32 = 2;
const MEMORY_MIB: u64 = 4096;

/// The longest `machine.json` that is read, in bytes.
const DESCRIPTION_MAX: u64 = 1 << 20;

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
    let sources = tree.several(from, format)?;
    let started = Instant::now();
    let stem = to.file_stem().ok_or_else(|| Error::invalid(format!("{} is no file name", to.display())))?;
    let stem = stem.to_string_lossy().into_owned();
    let hardware = hardware(&tree, from, &stem, &sources)?;
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

/// The machine's hardware: as its description says it, as its disks tell it, or as most machines have it.
fn hardware(tree: &Disks<'_>, from: &OsStr, stem: &str, sources: &[DiskSource]) -> Result<Hardware> {
    let described = if is_host_path(from) { None } else { description(tree, from)? };
    let described = described.unwrap_or(Value::Null);
    let number = |keys: &[&str]| keys.iter().find_map(|k| described.get(k)?.as_u64()).filter(|n| *n > 0);
    let disks: Vec<(String, Arc<dyn BlockDevice>)> =
        sources.iter().map(|s| (s.label.clone(), Arc::<Disk>::clone(&s.image.disk) as Arc<dyn BlockDevice>)).collect();
    let uefi = match described.get("firmware").and_then(Value::as_str) {
        Some(firmware) => matches!(firmware, "uefi" | "efi" | "ovmf"),
        None => partitions::survey(&disks)
            .volumes
            .iter()
            .any(|v| v.scheme == Scheme::Gpt && v.kind.as_ref().is_some_and(|k| k.name.contains("EFI"))),
    };
    let memory = number(&["memory_mib"]).or_else(|| Some(number(&["memory", "memory_bytes"])? >> 20));
    Ok(Hardware {
        name: described.get("name").and_then(Value::as_str).unwrap_or(stem).to_owned(),
        cpus: number(&["cpus", "vcpus"]).and_then(|n| u32::try_from(n).ok()).unwrap_or(CPUS),
        memory_mib: memory.filter(|n| *n > 0).unwrap_or(MEMORY_MIB),
        uefi,
    })
}

/// `machine.json` in the folder `from` of the tree.
fn description(tree: &Disks<'_>, from: &OsStr) -> Result<Option<Value>> {
    let Node::Dir(folder) = tree.tree()?.resolve(from)? else { return Ok(None) };
    let Some(Node::File(file)) = folder.lookup(b"machine.json")? else { return Ok(None) };
    let content = file.open()?;
    let mut bytes = vec![0; content.size().min(DESCRIPTION_MAX) as usize];
    let n = content.read_at(&mut bytes, 0)?;
    Ok(serde_json::from_slice(bytes.get(..n).unwrap_or_default()).ok())
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
