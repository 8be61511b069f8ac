//! Points in time by libvirt: pull-mode backups and checkpoints (libvirt, `formatbackup.html`, `formatcheckpoint.html`).
//!
//! A mark is a checkpoint, which is a bitmap in each disk: libvirt keeps those of a domain in order, merges what lies between
//! two, and merges that of a checkpoint that is deleted into the one before. So rolling back is deleting.
//!
//! QEMU runs as another user, who cannot enter our state: what the guest overwrites, and the socket, are in a folder of
//! that user's, named by the mark.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quick_xml::escape::escape;

use super::Libvirt;
use crate::{
    Error, ErrorKind, Result,
    driver::{Changed, Consistency, DiskWish, LifeCycle, Point, PointDisk, Tracking, Wish},
    freeze::{self, By, Guest},
    nbd::NbdDisk,
};

/// Where folders of points are: on a disk, since guests may overwrite much.
const SCRATCH: &str = "/var/tmp/revenant-points";
/// What a bitmap is called in an export.
const BITMAP: &str = "changed";

fn checkpoint(mark: &str) -> String {
    format!("revenant-{mark}")
}

fn folder(mark: &str) -> PathBuf {
    Path::new(SCRATCH).join(mark)
}

impl Libvirt {
    /// The names of a domain's checkpoints, the oldest first.
    fn checkpoints(&self, machine: &str) -> Result<Vec<String>> {
        let names = self.virsh.domain("checkpoint-list", machine, &["--topological".as_ref(), "--name".as_ref()])?;
        Ok(names.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    fn delete_checkpoint(&self, machine: &str, name: &str) -> Result<()> {
        let arguments = [OsStr::new("--checkpointname"), OsStr::new(name)];
        self.virsh.domain("checkpoint-delete", machine, &arguments).map(drop)
    }

    /// Ends the backup of `mark`; one that is not there is no matter.
    fn end_backup(&self, machine: &str, mark: &str) -> Result<()> {
        if folder(mark).exists() {
            // There is one job of a domain at a time, and this folder says that it is ours.
            let ours = self.virsh.domain("backup-dumpxml", machine, &[]);
            if ours.is_ok_and(|xml| xml.contains(&folder(mark).display().to_string())) {
                self.virsh.domain("domjobabort", machine, &[])?;
            }
        }
        match fs::remove_dir_all(folder(mark)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot remove {}", folder(mark).display()), e))
            }
            _ => Ok(()),
        }
    }

    /// A folder that QEMU's user may write into, and nobody else.
    fn make_folder(&self, mark: &str) -> Result<PathBuf> {
        let path = folder(mark);
        let cannot = |e| Error::io(format!("cannot make {} for QEMU's user (run this as root)", path.display()), e);
        fs::create_dir_all(SCRATCH).map_err(cannot)?;
        fs::set_permissions(SCRATCH, fs::Permissions::from_mode(0o711)).map_err(cannot)?;
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(cannot)?;
        if let Some((user, group)) = self.user()? {
            chown(&path, Some(user), Some(group)).map_err(cannot)?;
        }
        Ok(path)
    }

    /// Begins the backup; which of the disks can tell what has changed.
    fn begin_backup(&self, wish: &Wish<'_>, folder: &Path, since: &[Option<&str>]) -> Result<()> {
        let all: Vec<String> = super::shown::disks(&self.virsh.domain("dumpxml", wish.machine, &[])?)?
            .into_iter()
            .map(|disk| disk.target)
            .collect();
        let (mut backup, mut points) = (String::new(), String::new());
        for target in &all {
            let name = escape(target);
            let Some(number) = wish.disks.iter().position(|disk| disk.name == *target) else {
                backup.push_str(&format!("<disk name='{name}' backup='no'/>"));
                points.push_str(&format!("<disk name='{name}' checkpoint='no'/>"));
                continue;
            };
            let scratch = folder.join(format!("{number}.qcow2"));
            let scratch = escape(text(&scratch)?).into_owned();
            let mode = match since.get(number).copied().flatten() {
                Some(mark) => {
                    format!(
                        "backupmode='incremental' incremental='{}' exportbitmap='{BITMAP}'",
                        escape(checkpoint(mark))
                    )
                }
                None => "backupmode='full'".to_owned(),
            };
            backup.push_str(&format!(
                "<disk name='{name}' backup='yes' type='file' exportname='{name}' {mode}>\
                 <driver type='qcow2'/><scratch file='{scratch}'/></disk>"
            ));
            points.push_str(&format!("<disk name='{name}' checkpoint='bitmap'/>"));
        }
        let socket = folder.join("nbd.sock");
        let backup = format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks>{backup}</disks></domainbackup>",
            escape(text(&socket)?)
        );
        let points = format!(
            "<domaincheckpoint><name>{}</name><disks>{points}</disks></domaincheckpoint>",
            escape(checkpoint(wish.mark))
        );
        let (backup_file, points_file) = (folder.join("backup.xml"), folder.join("checkpoint.xml"));
        for (file, text) in [(&backup_file, backup), (&points_file, points)] {
            fs::write(file, text).map_err(|e| Error::io(format!("cannot write {}", file.display()), e))?;
        }
        let files = [
            OsStr::new("--backupxml"),
            backup_file.as_os_str(),
            OsStr::new("--checkpointxml"),
            points_file.as_os_str(),
        ];
        self.virsh.domain("backup-begin", wish.machine, &files).map(drop)
    }

    /// Does `work` while the guest's filesystems are frozen, if they can be.
    fn frozen(&self, wish: &Wish<'_>, work: impl FnOnce() -> Result<()>) -> Result<(Consistency, Duration)> {
        let guest = Guest { machine: wish.machine.to_owned(), by: By::Libvirt(self.virsh.uri().to_owned()) };
        let how = wish.quiesce.map(|guard| (guard, &guest)).ok_or_else(|| "not asked for".to_owned());
        freeze::during(how, work).map(|((), consistency, still)| (consistency, still))
    }

    fn make(&self, wish: &Wish<'_>) -> Result<Point> {
        let known = self.checkpoints(wish.machine)?;
        let folder = self.make_folder(wish.mark)?;
        let mut unknown: Vec<Option<String>> = wish.disks.iter().map(|disk| why_unknown(disk, &known)).collect();
        let first = self.frozen(wish, || self.begin_backup(wish, &folder, &since(wish, &unknown)));
        let (consistency, frozen) = match first {
            // libvirt says so of a checkpoint whose bitmap was lost, of whichever disk.
            Err(e) if unknown.iter().any(Option::is_none) => {
                unknown.fill(Some(format!("libvirt cannot tell what has changed ({e})")));
                self.frozen(wish, || self.begin_backup(wish, &folder, &since(wish, &unknown)))?
            }
            first => first?,
        };
        let socket = folder.join("nbd.sock");
        let mut disks = Vec::new();
        for (disk, why) in wish.disks.iter().zip(unknown) {
            let device = NbdDisk::connect(&socket, &disk.name)?;
            let changed = match why {
                Some(why) => Changed::Unknown(why),
                None => Changed::Ranges(device.changed(BITMAP)?),
            };
            disks.push(PointDisk { name: disk.name.clone(), device: Arc::new(device), changed });
        }
        Ok(Point { consistency, frozen, disks })
    }
}

/// The marks since which it is known what has changed, of each disk.
fn since<'a>(wish: &'a Wish<'_>, unknown: &[Option<String>]) -> Vec<Option<&'a str>> {
    let pairs = wish.disks.iter().zip(unknown);
    pairs.map(|(disk, why)| disk.since.first().filter(|_| why.is_none()).map(String::as_str)).collect()
}

/// Why it cannot be known what has changed of `disk`, as far as the list of checkpoints tells it.
fn why_unknown(disk: &DiskWish, known: &[String]) -> Option<String> {
    if disk.since.is_empty() {
        return Some("it was never backed up".to_owned());
    }
    let missing = disk.since.iter().map(|mark| checkpoint(mark)).find(|name| !known.contains(name));
    missing.map(|name| format!("its change tracking is gone (no checkpoint {name})"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::invalid(format!("libvirt cannot be told the path {}", path.display())))
}

impl Tracking for Libvirt {
    fn scratch(&self, _scratch: &Path) -> PathBuf {
        SCRATCH.into()
    }

    fn begin(&self, wish: &Wish<'_>) -> Result<Point> {
        if !self.is_local() {
            return Err(Error::unsupported("machines are backed up on the host that runs them: name its own libvirt"));
        }
        self.end_backup(wish.machine, wish.mark)?;
        let made = self.make(wish);
        if made.is_err() {
            // The first failure is the one to tell.
            let _ = self.roll_back(wish.machine, wish.mark, None);
        }
        made
    }

    fn keep(&self, machine: &str, mark: &str, kept: &[String]) -> Result<()> {
        self.end_backup(machine, mark)?;
        let stays: Vec<String> = kept.iter().map(String::as_str).chain([mark]).map(checkpoint).collect();
        let family = checkpoint(mark.rsplit_once('-').map_or(mark, |(family, _)| family)) + "-";
        for name in self.checkpoints(machine)? {
            if name.starts_with(&family) && !stays.contains(&name) {
                self.delete_checkpoint(machine, &name)?;
            }
        }
        Ok(())
    }

    fn roll_back(&self, machine: &str, mark: &str, _before: Option<&str>) -> Result<()> {
        let checkpoints = match self.checkpoints(machine) {
            // With the domain everything of it is gone.
            Err(e) if e.kind() != ErrorKind::Missing && e.to_string().contains("failed to get domain") => Vec::new(),
            checkpoints => checkpoints?,
        };
        let own = checkpoint(mark);
        let is_there = checkpoints.contains(&own);
        if is_there || folder(mark).exists() {
            // A guest that a crash of ours has left frozen.
            let _ = self.virsh.domain("domfsthaw", machine, &[]);
        }
        self.end_backup(machine, mark)?;
        // It was paused because what it overwrote had no room; its request is repeated, and now has.
        if is_there && self.virsh.domain("domstate", machine, &["--reason".as_ref()])?.contains("I/O error") {
            self.virsh.domain("resume", machine, &[])?;
        }
        if is_there { self.delete_checkpoint(machine, &own) } else { Ok(()) }
    }
}
