//! `revenant inspect`: what disks are made of, how they are divided and what their volumes hold.

use std::{ffi::OsString, io::Write, sync::Arc};

use blockdev::{
    BlockDevice, ExtentKind, ReadAt, Result,
    encrypted::Secrets,
    images::{Disk, Member},
    partitions::{self, Encryption, FsKind, Scheme, Survey, Volume},
};
use guestfs::os::{self, Guest};
use hv_drivers::native;
use serde_json::{Value, json};

use super::{
    machine,
    source::{DiskSource, Disks},
};
use crate::{
    cli::Cli,
    config,
    output::{self, size},
};

/// Extents that are counted; a disk in more pieces is told as allocated as far as was looked.
const EXTENTS_MAX: usize = 1_000_000;

pub fn run(cli: &Cli, paths: &[OsString], format: Option<&str>) -> Result<u8> {
    let (disks, format) = (Disks::new(cli), format.map(str::parse).transpose()?);
    let secrets = config::secrets(&cli.sources)?;
    let mut out = output::stdout();
    let mut values = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        // Disks of one machine belong together: a volume group may lie on several.
        let sources = disks.several(path, format)?;
        let machine = Machine::of(&sources, &secrets)?;
        if cli.sources.json {
            values.extend(machine.values());
        } else {
            let gap = if number > 0 { writeln!(out) } else { Ok(()) };
            output::written(gap.and_then(|()| machine.print(&mut out)))?;
        }
    }
    if cli.sources.json {
        let one = values.len() == 1 && paths.len() == 1;
        let value = if one { values.remove(0) } else { Value::Array(values) };
        output::written(writeln!(out, "{value:#}"))?;
    }
    output::written(out.flush())?;
    Ok(0)
}

/// The machines as configurations of a hypervisor.
pub fn native(cli: &Cli, paths: &[OsString], format: Option<&str>, kind: &str) -> Result<u8> {
    let (disks, format, kind) = (Disks::new(cli), format.map(str::parse).transpose()?, kind.parse::<native::Kind>()?);
    let mut out = output::stdout();
    for path in paths {
        let found = machine::find(&disks, path, format)?;
        let file = |source: &DiskSource| format!("{}{}.{}", kind.disk_folder(), source.stem(), kind.disk_extension());
        let files: Vec<String> = found.sources.iter().map(file).collect();
        let config = native::write(kind, &found.machine, &files)?;
        config.notes.iter().for_each(|note| output::note(note));
        output::written(out.write_all(config.text.as_bytes()))?;
    }
    output::written(out.flush())?;
    Ok(0)
}

/// The disks of one machine.
struct Machine<'a> {
    sources: &'a [DiskSource],
    /// Bytes that are stored, of each disk.
    allocated: Vec<u64>,
    survey: Survey,
    guest: Guest,
}

impl<'a> Machine<'a> {
    fn of(sources: &'a [DiskSource], secrets: &Secrets) -> Result<Self> {
        let allocated = sources.iter().map(|s| allocated(s.image.disk.as_ref())).collect::<Result<_>>()?;
        let survey = survey(sources, secrets);
        let guest = os::examine(&survey);
        Ok(Self { sources, allocated, survey, guest })
    }

    /// The volumes that have a part on a disk.
    fn volumes_of<'s>(&'s self, label: &'s str) -> impl Iterator<Item = &'s Volume> {
        self.survey.volumes.iter().filter(move |v| v.disks.iter().any(|d| d == label))
    }

    /// How the machine would be started, as far as its disks tell.
    fn firmware(&self) -> Option<&'static str> {
        self.guest.firmware.map(os::Firmware::name)
    }

    /// The family of the system: as it says itself, or as its filesystems tell.
    fn family(&self) -> Option<&'static str> {
        if let Some(system) = &self.guest.system {
            return Some(system.family.name());
        }
        let kinds: Vec<_> = self.survey.volumes.iter().filter_map(|v| Some(v.content.as_ref()?.kind)).collect();
        let any = |wanted: &[FsKind]| kinds.iter().any(|k| wanted.contains(k));
        if any(&[FsKind::Ntfs, FsKind::Refs, FsKind::BitLocker]) {
            return Some("windows");
        }
        any(&[FsKind::Ext2, FsKind::Ext3, FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs]).then_some("linux")
    }

    /// What is known of the guest, for programs.
    fn guest_value(&self) -> Value {
        let mut guest = json!({ "family": self.family(), "firmware": self.firmware() });
        if let (Some(s), Value::Object(guest)) = (&self.guest.system, &mut guest) {
            guest.insert("name".into(), json!(s.name));
            guest.insert("version".into(), json!(s.version));
            guest.insert("architecture".into(), json!(s.architecture));
            guest.insert("hostname".into(), json!(s.hostname));
            guest.insert("kernels".into(), json!(s.kernels));
            guest.insert("notes".into(), json!(s.notes));
        }
        guest
    }

    /// Where the files of `volume` are in the tree.
    fn tree_path(&self, volume: &Volume) -> Option<String> {
        let has_files = volume.content.as_ref().is_some_and(|c| guestfs::open::is_readable(c.kind));
        let first = self.sources.iter().find(|s| volume.disks.contains(&s.label))?;
        let folder = first.files.as_ref().filter(|_| has_files && volume.device.is_some())?;
        Some(format!("{folder}/{}", volume.name))
    }

    fn values(&self) -> Vec<Value> {
        let disk = |(source, allocated): (&DiskSource, &u64)| {
            let disk = &source.image.disk;
            let top = source.image.members.first();
            let table = self.survey.disks.iter().find(|d| d.name == source.label);
            json!({
                "source": source.label,
                "format": top.map(|m| m.info.format.name()),
                "variant": top.map(|m| m.info.variant.as_str()),
                "virtual_size": disk.size(),
                "allocated": allocated,
                "block_size": disk.block_sizes().logical,
                "cluster_size": top.and_then(|m| m.info.cluster_size),
                "chain": source.image.members.iter().map(member_value).collect::<Vec<_>>(),
                "partition_table": table.map(|d| d.scheme.name()),
                "disk_id": table.and_then(|d| d.id.as_deref()),
                "volumes": self.volumes_of(&source.label).map(|v| volume_value(v, self.tree_path(v).as_deref())).collect::<Vec<_>>(),
                "guest": self.guest_value(),
                "notes": self.notes(source),
            })
        };
        self.sources.iter().zip(&self.allocated).map(disk).collect()
    }

    fn notes(&self, source: &DiskSource) -> Vec<String> {
        let members = source
            .image
            .members
            .iter()
            .flat_map(|m| m.info.notes.iter().map(move |n| format!("{}: {n}", m.name)).collect::<Vec<_>>());
        let tables = self.survey.disks.iter().filter(|d| d.name == source.label).flat_map(|d| d.notes.clone());
        members.chain(tables).chain(self.survey.notes.iter().cloned()).collect()
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for (source, allocated) in self.sources.iter().zip(&self.allocated) {
            let disk = &source.image.disk;
            writeln!(out, "{}", source.label)?;
            for (depth, member) in source.image.members.iter().enumerate() {
                let info = &member.info;
                let clusters = info.cluster_size.map_or_else(String::new, |c| format!(", clusters of {}", size(c)));
                let on = if depth > 0 { "  on " } else { "  " };
                writeln!(
                    out,
                    "{on}{}: {} ({}), {}{clusters}",
                    member.name,
                    info.format,
                    info.variant,
                    size(member.file_size)
                )?;
                for snapshot in &info.snapshots {
                    writeln!(out, "    snapshot {} {:?}", snapshot.id, snapshot.name)?;
                }
                for bitmap in &info.bitmaps {
                    let use_of = if bitmap.in_use { ", not usable" } else { "" };
                    writeln!(out, "    bitmap {:?}, {}{use_of}", bitmap.name, size(bitmap.granularity))?;
                }
            }
            let blocks = disk.block_sizes().logical;
            let table = self.survey.disks.iter().find(|d| d.name == source.label);
            let table = table.map_or_else(String::new, |d| match (&d.id, d.scheme) {
                (_, Scheme::Whole) => "no partition table".to_owned(),
                (Some(id), scheme) => format!("{} {id}", scheme.name()),
                (None, scheme) => scheme.name().to_owned(),
            });
            let stored = size(*allocated);
            writeln!(
                out,
                "  {} ({} bytes), {stored} stored, blocks of {blocks}, {table}",
                size(disk.size()),
                disk.size()
            )?;
            for note in self.notes(source) {
                writeln!(out, "  note: {note}")?;
            }
        }
        let rows: Vec<_> = self.survey.volumes.iter().map(row).collect();
        if !rows.is_empty() {
            writeln!(out)?;
            let head = ["VOLUME", "START", "SIZE", "TYPE", "FILESYSTEM", "LABEL", "UUID"];
            output::table(out, &head, &[1, 2], &rows)?;
        }
        for volume in &self.survey.volumes {
            if let Some(Encryption { kind, locked, .. }) = &volume.encryption {
                writeln!(out, "{}: {kind}: {}", volume.name, locked.as_deref().unwrap_or("unlocked"))?;
            }
            for note in &volume.notes {
                writeln!(out, "{}: {note}", volume.name)?;
            }
        }
        self.print_guest(out)
    }

    fn print_guest(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Some(system) = &self.guest.system else {
            let guest: Vec<_> = [self.family(), self.firmware()].into_iter().flatten().collect();
            return if guest.is_empty() { Ok(()) } else { writeln!(out, "\nguest: {}", guest.join(", ")) };
        };
        let version = system.version.as_deref().unwrap_or_default();
        let facts = [system.architecture.as_deref(), self.firmware(), system.hostname.as_deref()];
        let facts: Vec<_> = facts.into_iter().flatten().filter(|f| !f.is_empty()).collect();
        let comma = if facts.is_empty() { "" } else { ", " };
        writeln!(out, "\nguest: {}{comma}{}", format!("{} {version}", system.name).trim(), facts.join(", "))?;
        if !system.kernels.is_empty() {
            writeln!(out, "  kernels: {}", system.kernels.join(", "))?;
        }
        system.notes.iter().try_for_each(|note| writeln!(out, "  note: {note}"))
    }
}

/// The volumes of the disks of one machine.
pub fn survey(sources: &[DiskSource], secrets: &Secrets) -> Survey {
    let device = |disk: &Arc<Disk>| -> Arc<dyn BlockDevice> { Arc::<Disk>::clone(disk) };
    let disks: Vec<_> = sources.iter().map(|s| (s.label.clone(), device(&s.image.disk))).collect();
    partitions::survey_with(&disks, secrets)
}

/// Bytes that a disk stores.
fn allocated(disk: &Disk) -> Result<u64> {
    let (mut at, mut stored) = (0, 0);
    for _ in 0..EXTENTS_MAX {
        let Some(extent) = disk.extent_at(at)?.filter(|e| e.range.end > at) else { break };
        if extent.kind == ExtentKind::Data {
            stored += extent.range.end - at;
        }
        at = extent.range.end;
    }
    Ok(stored)
}

fn member_value(member: &Member) -> Value {
    let info = &member.info;
    let snapshots: Vec<_> = info
        .snapshots
        .iter()
        .map(|s| json!({ "id": s.id, "name": s.name, "time": s.time, "vm_state_size": s.vm_state_size }))
        .collect();
    let bitmaps: Vec<_> = info
        .bitmaps
        .iter()
        .map(|b| json!({ "name": b.name, "granularity": b.granularity, "in_use": b.in_use }))
        .collect();
    json!({
        "file": member.name,
        "file_size": member.file_size,
        "format": info.format.name(),
        "variant": info.variant,
        "virtual_size": info.virtual_size,
        "cluster_size": info.cluster_size,
        "identity": info.identity,
        "parts": info.parts,
        "snapshots": snapshots,
        "bitmaps": bitmaps,
    })
}

fn volume_value(volume: &Volume, tree_path: Option<&str>) -> Value {
    let content = volume.content.as_ref();
    json!({
        "name": volume.name,
        "disks": volume.disks,
        "scheme": volume.scheme.name(),
        "start": volume.start,
        "size": volume.size,
        "type": volume.kind.as_ref().map(|k| k.name),
        "type_code": volume.kind.as_ref().map(|k| k.code.as_str()),
        "active": volume.active,
        "encryption": volume.encryption.as_ref().map(|e| json!({ "kind": e.kind.name(), "locked": e.locked })),
        "filesystem": content.map(|c| c.kind.name()),
        "label": content.and_then(|c| c.label.as_deref()),
        "uuid": content.and_then(|c| c.uuid.as_deref()),
        "partition_label": volume.label,
        "partition_uuid": volume.uuid,
        "readable": volume.device.is_some(),
        "tree_path": tree_path,
        "notes": volume.notes,
    })
}

fn row(volume: &Volume) -> Vec<String> {
    let content = volume.content.as_ref();
    let or_dash = |text: Option<&str>| text.filter(|t| !t.is_empty()).unwrap_or("-").to_owned();
    vec![
        volume.name.clone(),
        volume.start.map_or_else(|| "-".to_owned(), |s| s.to_string()),
        size(volume.size),
        or_dash(volume.kind.as_ref().map(|k| k.name).or(Some(volume.scheme.name()))),
        or_dash(content.map(|c| c.kind.name())),
        or_dash(content.and_then(|c| c.label.as_deref()).or(volume.label.as_deref())),
        or_dash(content.and_then(|c| c.uuid.as_deref())),
    ]
}
