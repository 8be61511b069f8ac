//! Which volumes the disks of a machine have: partitions, Linux' LVM2 and md volumes, and filesystems without any table,
//! each as a [`BlockDevice`], with what they hold.
//!
//! * `table`, `mbr`, `gpt`: partition tables; `kinds`: their types' names;
//! * `content`: what a volume holds, by its superblock;
//! * encrypted volumes are unlocked as they are met, by [`crate::encrypted`];
//! * `md` and `lvm`: arrays and volume groups over all disks, put together as a `map` of parts, with `raid`'s
//!   arithmetic.
//!
//! [`survey`] does it all and never fails as a whole: what cannot be read is named in notes, and the rest stays
//! readable. Everything on a disk is hostile: nothing is allocated by a count that a disk claims, all chains end.

mod content;

mod gpt;
mod kinds;
mod lvm;
mod map;
mod mbr;
mod md;
mod raid;
mod table;

use std::sync::Arc;

use self::table::{Entry, Table};
pub use self::{
    content::{Content, FsKind, detect},
    kinds::PartitionKind,
    mbr::is_mbr,
    table::Scheme,
};
use crate::{
    BlockDevice, Result,
    encrypted::{self, Budget, Secrets},
    layers::Slice,
};

/// Volumes of all disks together; a machine with more is hostile.
const VOLUMES_MAX: usize = 512;

/// What the disks of a machine have.
#[derive(Debug, Default)]
pub struct Survey {
    /// One for each disk, in their order.
    pub disks: Vec<Disk>,
    /// The partitions and whole-disk volumes of each disk in their order, then md arrays, then logical volumes.
    pub volumes: Vec<Volume>,
    /// What is odd about the arrays and volume groups: members missing, copies, damaged metadata.
    pub notes: Vec<String>,
}

/// How a disk is divided.
#[derive(Debug)]
pub struct Disk {
    /// Its name as given.
    pub name: String,
    /// MBR, GPT or whole.
    pub scheme: Scheme,
    /// Its GUID, or the MBR's signature in eight hexadecimal digits.
    pub id: Option<String>,
    /// Bytes of the sectors that its table counts in.
    pub sector_size: u32,
    /// What is odd about its table.
    pub notes: Vec<String>,
}

/// A volume: something that may have a filesystem.
#[derive(Clone)]
pub struct Volume {
    /// `p1`, `p5` for partitions; `whole` for a disk without a table; `md0` for arrays, `md0p1` for their partitions;
    /// `<group>-<volume>` for logical volumes. Partitions of different disks may have the same name.
    pub name: String,
    /// The disks that have a part of it.
    pub disks: Vec<String>,
    /// What makes it a volume.
    pub scheme: Scheme,
    /// The byte of its disk at which it begins; `None` where it is put together of parts.
    pub start: Option<u64>,
    /// Its size in bytes.
    pub size: u64,
    /// What the partition table says it is for.
    pub kind: Option<PartitionKind>,
    /// Whether the table marks it to be booted from.
    pub active: bool,
    /// The partition's name in a GPT, or the array's name.
    pub label: Option<String>,
    /// The UUID of the partition, the array or the logical volume.
    pub uuid: Option<String>,
    /// How it is encrypted, if it is.
    pub encryption: Option<Encryption>,
    /// What it holds, where that is known; once it is unlocked, what is inside.
    pub content: Option<Content>,
    /// Its bytes, decrypted once it is unlocked; `None` when they cannot be read: `notes` tell why.
    pub device: Option<Arc<dyn BlockDevice>>,
    /// What an operator should know: overlaps, parts missing, what was left out.
    pub notes: Vec<String>,
}

/// How a volume is encrypted.
#[derive(Debug, Clone)]
pub struct Encryption {
    /// LUKS or BitLocker.
    pub kind: FsKind,
    /// The UUID of what is encrypted, by which a guest names it.
    pub uuid: Option<String>,
    /// Why it could not be unlocked; `None` when it was.
    pub locked: Option<String>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("name", &self.name)
            .field("disks", &self.disks)
            .field("scheme", &self.scheme)
            .field("start", &self.start)
            .field("size", &self.size)
            .field("kind", &self.kind)
            .field("label", &self.label)
            .field("uuid", &self.uuid)
            .field("encryption", &self.encryption)
            .field("content", &self.content)
            .field("readable", &self.device.is_some())
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// A volume that may be a part of an array or a group.
struct Member {
    device: Arc<dyn BlockDevice>,
    /// For messages: `disk0 p2`.
    place: String,
    disks: Vec<String>,
}

/// An array or a logical volume.
#[derive(Default)]
struct Assembled {
    name: String,
    label: Option<String>,
    uuid: Option<String>,
    size: u64,
    disks: Vec<String>,
    device: Option<Arc<dyn BlockDevice>>,
    notes: Vec<String>,
}

/// All volumes of `disks`, which are those of one machine, each with a name. Encrypted ones are left locked.
#[must_use]
pub fn survey(disks: &[(String, Arc<dyn BlockDevice>)]) -> Survey {
    survey_with(disks, &Secrets::default())
}

/// The same, with those volumes unlocked that `secrets` open.
#[must_use]
pub fn survey_with(disks: &[(String, Arc<dyn BlockDevice>)], secrets: &Secrets) -> Survey {
    let mut surveyor = Surveyor { survey: Survey::default(), secrets, budget: Budget::default() };
    surveyor.all(disks);
    surveyor.survey
}

/// A survey under way.
struct Surveyor<'a> {
    survey: Survey,
    secrets: &'a Secrets,
    budget: Budget,
}

impl Surveyor<'_> {
    fn all(&mut self, disks: &[(String, Arc<dyn BlockDevice>)]) {
        for (name, device) in disks {
            let disk = self.disk(name, device, std::slice::from_ref(name));
            self.survey.disks.push(disk);
        }
        let (arrays, notes) = md::assemble(&self.members(FsKind::MdMember));
        self.survey.notes.extend(notes);
        for array in arrays {
            let (name, disks, device) = (array.name.clone(), array.disks.clone(), array.device.clone());
            self.assembled(array, Scheme::Md);
            // An array may be divided like a disk.
            if let Some(device) = device
                && let Ok(Some(table)) = table::read(device.as_ref())
            {
                self.entries(&table, &device, &name, &disks);
            }
        }
        let (volumes, notes) = lvm::assemble(&self.members(FsKind::LvmMember));
        self.survey.notes.extend(notes);
        for volume in volumes {
            self.assembled(volume, Scheme::Lvm);
        }
        self.survey.make_names_unique();
    }

    /// Adds the volumes of one disk.
    fn disk(&mut self, name: &str, device: &Arc<dyn BlockDevice>, disks: &[String]) -> Disk {
        let mut disk = Disk {
            name: name.to_owned(),
            scheme: Scheme::Whole,
            id: None,
            sector_size: device.block_sizes().logical,
            notes: Vec::new(),
        };
        match table::read(device.as_ref()) {
            Ok(Some(mut table)) => {
                self.entries(&table, device, "", disks);
                disk.scheme = table.scheme;
                disk.id = table.id.take();
                disk.sector_size = table.sector_size;
                disk.notes = table.notes;
                if table.entries.iter().any(|e| e.kind.is_dynamic_disk()) {
                    disk.notes.push(
                        "a Windows dynamic disk: its volumes are described in a database of the logical disk manager, \
                         which is not read; the partitions shown may be parts of volumes"
                            .into(),
                    );
                }
            }
            Ok(None) => {
                let whole = Volume::new("whole".into(), Scheme::Whole, device, disks);
                self.push(Volume { start: Some(0), ..whole });
            }
            Err(e) => disk.notes.push(format!("cannot be read: {e}")),
        }
        disk
    }

    fn entries(&mut self, table: &Table, device: &Arc<dyn BlockDevice>, prefix: &str, disks: &[String]) {
        for entry in &table.entries {
            let Entry { number, start, size, .. } = *entry;
            // All entries were made to lie within the disk.
            let Ok(slice) = Slice::new(Arc::clone(device), start..start.saturating_add(size)) else { continue };
            let slice: Arc<dyn BlockDevice> = Arc::new(slice);
            let mut notes = entry.notes.clone();
            if entry.kind.is_dynamic_disk() {
                notes.push("a part of a Windows dynamic disk".into());
            }
            self.push(Volume {
                start: Some(start),
                kind: Some(entry.kind.clone()),
                active: entry.active,
                label: entry.label.clone(),
                uuid: entry.uuid.clone(),
                notes,
                ..Volume::new(format!("{prefix}p{number}"), table.scheme, &slice, disks)
            });
        }
    }

    fn assembled(&mut self, volume: Assembled, scheme: Scheme) {
        let Assembled { name, label, uuid, size, disks, device, notes } = volume;
        let size = device.as_ref().map_or(size, |d| d.size());
        self.push(Volume {
            name,
            disks,
            scheme,
            start: None,
            size,
            kind: None,
            active: false,
            label,
            uuid,
            encryption: None,
            content: None,
            device,
            notes,
        });
    }

    /// Adds `volume`, once what it holds is known.
    fn push(&mut self, mut volume: Volume) {
        let Survey { volumes, notes, .. } = &mut self.survey;
        if volumes.len() >= VOLUMES_MAX {
            if volumes.len() == VOLUMES_MAX && !notes.iter().any(|n| n.starts_with("more than")) {
                notes.push(format!("more than {VOLUMES_MAX} volumes: the others are left out"));
            }
            return;
        }
        volume.look_into();
        if let Some((Content { kind, uuid, .. }, device)) = volume.content.as_ref().zip(volume.device.as_ref())
            && kind.is_encrypted()
        {
            let opened = encrypted::unlock(*kind, device, self.secrets, &mut self.budget);
            let locked = opened.as_ref().err().map(ToString::to_string);
            volume.encryption = Some(Encryption { kind: *kind, uuid: uuid.clone(), locked });
            if let Ok(plain) = opened {
                volume.device = Some(plain);
                volume.look_into();
            }
        }
        volume.name = as_file_name(&volume.name);
        self.survey.volumes.push(volume);
    }

    /// The volumes that hold a `kind`.
    fn members(&self, kind: FsKind) -> Vec<Member> {
        let is_one = |v: &&Volume| v.content.as_ref().is_some_and(|c| c.kind == kind);
        let member = |v: &Volume| {
            let place = format!("{} {}", v.disks.join("+"), v.name);
            Some(Member { device: Arc::clone(v.device.as_ref()?), place, disks: v.disks.clone() })
        };
        self.survey.volumes.iter().filter(is_one).filter_map(member).collect()
    }
}

impl Survey {
    /// Two groups or arrays may have the same name: the later gets a number.
    fn make_names_unique(&mut self) {
        let mut taken = std::collections::HashSet::new();
        for volume in &mut self.volumes {
            // Partitions are told apart by their disk.
            let disk = volume.start.and(volume.disks.first().cloned()).unwrap_or_default();
            let mut name = volume.name.clone();
            let mut number = 2;
            while !taken.insert((disk.clone(), name.clone())) {
                name = format!("{}~{number}", volume.name);
                number += 1;
            }
            volume.name = name;
        }
    }
}

impl Volume {
    fn new(name: String, scheme: Scheme, device: &Arc<dyn BlockDevice>, disks: &[String]) -> Self {
        Self {
            name,
            disks: disks.to_vec(),
            scheme,
            start: None,
            size: device.size(),
            kind: None,
            active: false,
            label: None,
            uuid: None,
            encryption: None,
            content: None,
            device: Some(Arc::clone(device)),
            notes: Vec::new(),
        }
    }

    /// Tells what its device holds.
    fn look_into(&mut self) {
        match self.device.as_ref().map(|device| detect(device.as_ref())) {
            Some(Ok(content)) => self.content = content,
            Some(Err(e)) => self.notes.push(format!("what it holds cannot be told: {e}")),
            None => {}
        }
    }
}

/// A name from a disk's metadata as one part of a path.
fn as_file_name(name: &str) -> String {
    const LENGTH_MAX: usize = 200;
    let plain = |c: char| if c == '/' || c.is_control() { '_' } else { c };
    let name: String = name.chars().take(LENGTH_MAX).map(plain).collect();
    if name.is_empty() || name.starts_with('.') { format!("_{name}") } else { name }
}

/// Parses the text of LVM2 metadata: for fuzzing, because a checksum guards it on a disk.
#[doc(hidden)]
pub fn parse_lvm_metadata(text: &[u8]) -> Result<()> {
    lvm::parse(text)
}
