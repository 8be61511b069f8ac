//! What becomes of a migration whose QEMU has ended on the way: killed, or with its host.
//!
//! The guest stands still between the moment in which its disks are complete on both sides and the moment in which
//! `run.json` names the new ones. So whichever it names has all that the guest was told to be written, and the machine
//! starts from those again.

use std::path::Path;

use super::{Moved, RECORD, RECORD_MAX, Record, scratch_file, verify};
use crate::{
    Error, Result,
    driver::{DiskSource, Settled},
    durable,
    qemu::{Running, read_spec},
};

impl Moved {
    fn is_at(&self, place: &DiskSource) -> bool {
        matches!(place, DiskSource::File { path, format } if *path == self.target.path && *format == self.target.format)
    }
}

/// Bring the migration of a machine to its end that does not run any more; `None` when there is none. What it made and
/// nobody needs is removed. It can be called again.
///
/// # Errors
///
/// `Invalid` when the machine runs, `Damaged` when what was begun cannot be understood, `Io` when a file cannot be
/// removed.
pub fn settle(folder: &Path) -> Result<Option<Settled>> {
    if Running::find(folder)?.is_some() {
        return Err(Error::invalid(format!("the machine in {} runs", folder.display())));
    }
    let Some(record) = Record::read(folder)? else { return Ok(None) };
    let places = read_spec(folder)?.disks;
    let has_moved = places.len() == record.disks.len() && record.disks.iter().zip(&places).all(|(d, at)| d.is_at(at));
    for disk in &record.disks {
        durable::remove(&scratch_file(disk))?;
        if !has_moved {
            durable::remove(&disk.target.path)?;
        }
    }
    durable::remove(&folder.join(verify::SOCKET))?;
    // Last: until then it is known what there is to remove.
    durable::remove(&folder.join(RECORD))?;
    Ok(Some(if has_moved { Settled::Moved } else { Settled::Stayed }))
}

impl Record {
    /// What was begun on the machine in `folder`; `None` when nothing was.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RECORD);
        let Some(text) = durable::read(&path, RECORD_MAX)? else { return Ok(None) };
        let record = serde_json::from_slice(&text);
        record.map(Some).map_err(|e| Error::damaged(format!("{}: {e}", path.display())))
    }
}
