//! The disks of a machine and the volumes with files on them, looked for when they are first wanted.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use blockdev::{
    BlockDevice, Result,
    encrypted::Secrets,
    images::Disk,
    partitions::{self, Survey, Volume},
};
use guestfs::{
    Found,
    os::{self, System},
};

use super::mount::Mount;
use crate::{
    node::Time,
    providers::{disks::LazyImage, ino},
};

/// Disks looked at together in search of the other parts of a volume.
const COMPANY_MAX: usize = 256;

/// A disk by its name.
pub type NamedDisk = (String, Arc<LazyImage>);

/// The disks of a machine, and what is on them.
pub struct Guest {
    disks: Vec<NamedDisk>,
    /// Disks that may have parts of the same volumes; they are looked at only when parts are missing.
    company: Arc<Vec<NamedDisk>>,
    /// Stands for this machine at this time, and for no other.
    identity: Vec<u8>,
    time: Time,
    /// What encrypted volumes are opened with.
    secrets: Arc<Secrets>,
    /// Whoever comes first looks; the others wait. A failure is not kept.
    volumes: Mutex<Option<Arc<Volumes>>>,
}

/// What is on the disks.
pub struct Volumes {
    survey: Survey,
    /// Volumes with files.
    pub shown: Vec<Shown>,
    system: OnceLock<Option<System>>,
}

/// A volume with files.
pub struct Shown {
    /// Its name.
    pub name: String,
    /// The disks that have a part of it.
    pub disks: Vec<String>,
    /// Its filesystem.
    pub mount: Arc<Mount>,
    /// Its place in the survey.
    index: usize,
}

impl Guest {
    /// The machine of `disks`, whose encrypted volumes `secrets` may open.
    pub fn new(
        disks: Vec<NamedDisk>,
        company: Arc<Vec<NamedDisk>>,
        identity: Vec<u8>,
        time: Time,
        secrets: &Arc<Secrets>,
    ) -> Arc<Self> {
        let secrets = Arc::clone(secrets);
        Arc::new(Self { disks, company, identity, time, secrets, volumes: Mutex::new(None) })
    }

    /// The names of its disks.
    pub fn disks(&self) -> impl Iterator<Item = &str> {
        self.disks.iter().map(|(name, _)| name.as_str())
    }

    /// The time of the point.
    pub const fn time(&self) -> Time {
        self.time
    }

    /// An inode number for what `parts` name in this machine.
    pub fn ino(&self, parts: &[&[u8]]) -> u64 {
        ino(&[&[&self.identity[..]], parts].concat())
    }

    /// Whether the disk `name` can be opened.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn try_disk(&self, name: &str) -> Result<()> {
        self.disks.iter().find(|(n, _)| n == name).map_or(Ok(()), |(_, image)| image.get().map(drop))
    }

    /// The volumes with files.
    ///
    /// # Errors
    ///
    /// None that a single disk causes.
    pub fn volumes(&self) -> Result<Arc<Volumes>> {
        let mut kept = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(volumes) = &*kept {
            return Ok(Arc::clone(volumes));
        }
        let own = opened(&self.disks);
        let mut survey = partitions::survey_with(&own, &self.secrets);
        if is_part(&survey) {
            let others = self.company.iter().filter(|(name, _)| !self.disks().any(|own| own == name));
            let others: Vec<_> = others.take(COMPANY_MAX).cloned().collect();
            if !others.is_empty() {
                survey = partitions::survey_with(&[own, opened(&others)].concat(), &self.secrets);
            }
        }
        let found = guestfs::find(&survey.volumes);
        let shown = found.into_iter().filter_map(|f| self.shown(&survey, f)).collect();
        let volumes = Arc::new(Volumes { survey, shown, system: OnceLock::new() });
        *kept = Some(Arc::clone(&volumes));
        Ok(volumes)
    }

    fn shown(&self, survey: &Survey, found: Found) -> Option<Shown> {
        let volumes: Vec<_> = found.volumes.iter().filter_map(|v| survey.volumes.get(*v)).collect();
        let (name, index) = (volumes.first()?.name.clone(), *found.volumes.first()?);
        let mut disks: Vec<String> = Vec::new();
        for disk in volumes.iter().flat_map(|v| &v.disks) {
            if !disks.contains(disk) {
                disks.push(disk.clone());
            }
        }
        let first = disks.iter().find(|d| self.disks().any(|own| own == *d))?;
        let key = [&self.identity[..], b"\0", first.as_bytes(), b"\0", name.as_bytes()].concat();
        let place = format!("{first} {name}");
        let mount = Mount::new(found, place, key, self.time);
        Some(Shown { name, disks, mount, index })
    }
}

impl Volumes {
    /// Who the guest is; what cannot be opened is left out.
    pub fn system(&self) -> Option<&System> {
        let system = || {
            let opened = |s: &Shown| Some((self.survey.volumes.get(s.index)?, s.mount.filesystem().ok()?));
            let opened: Vec<(&Volume, _)> = self.shown.iter().filter_map(opened).collect();
            os::identify(&self.survey.disks, &opened).map(|mut system| {
                // Numbered among what could be opened; from now on among all.
                for mount in &mut system.mounts {
                    let volume = opened.get(mount.volume).map(|(v, _)| std::ptr::from_ref(*v));
                    let same = |s: &Shown| self.survey.volumes.get(s.index).map(std::ptr::from_ref) == volume;
                    mount.volume = self.shown.iter().position(same).unwrap_or(usize::MAX);
                }
                system
            })
        };
        self.system.get_or_init(system).as_ref()
    }
}

/// Those of `disks` that can be opened.
fn opened(disks: &[NamedDisk]) -> Vec<(String, Arc<dyn BlockDevice>)> {
    let device = |(name, image): &NamedDisk| {
        let disk: Arc<dyn BlockDevice> = Arc::<Disk>::clone(&image.get().ok()?.disk);
        Some((name.clone(), disk))
    };
    disks.iter().filter_map(device).collect()
}

/// Whether something on the disks may have parts elsewhere.
fn is_part(survey: &Survey) -> bool {
    let mut kinds = survey.volumes.iter().filter_map(|v| Some(v.content.as_ref()?.kind));
    kinds.any(|kind| kind.is_member() || guestfs::open::has_members(kind))
}
