//! The copies compared with what they were made of.
//!
//! The guest writes to the copies as soon as it has gone over to them. So in the moment of going over, while it stands
//! still, QEMU is told to keep what is overwritten from then on (a backup job without a copy of its own, which saves the
//! old bytes before each write into a scratch file): the scratch file over the copy is the copy as it was. That and the
//! disk that the machine has left, which nobody writes any more, are then read through QEMU's own server, and every byte is
//! compared, while the guest runs.

use blockdev::compare::first_difference;
use serde_json::json;

use super::{
    super::{
        jobs,
        nodes::{add_disk, remove_node},
    },
    Completion, Migration, Moved, scratch_file,
};
use crate::{
    Error, Result,
    driver::{DiskSource, FileFormat},
    durable,
    nbd::NbdDisk,
    qemu::source::{self, below},
    qmp::Client,
};

/// QEMU's server, in the machine's folder.
pub(super) const SOCKET: &str = "verify.sock";

impl Moved {
    fn scratch(&self) -> String {
        format!("{}-kept", self.device)
    }

    fn keeper(&self) -> String {
        format!("keep-{}", self.device)
    }
}

impl Migration {
    /// Keeps what the copies are now. The guest stands still.
    pub(super) fn freeze(&self, monitor: &mut Client) -> Result<()> {
        let mut actions = Vec::new();
        for disk in &self.record.disks {
            let path = scratch_file(disk);
            let made = std::fs::File::create_new(&path);
            made.map_err(|e| Error::io(format!("cannot make {}", path.display()), e))?;
            let place = DiskSource::File { path, format: FileFormat::Qcow2 };
            // First an empty image; then it is opened again with the copy below it.
            add_disk(monitor, &place, &disk.scratch(), disk.size)?;
            monitor.execute("blockdev-del", &json!({ "node-name": disk.scratch() }))?;
            let over = json!({
                "driver": "qcow2", "node-name": disk.scratch(), "file": below(&disk.scratch()), "backing": disk.node,
            });
            monitor.execute("blockdev-add", &over)?;
            let job = json!({
                "job-id": disk.keeper(), "device": disk.node, "target": disk.scratch(), "sync": "none", "auto-dismiss": false,
            });
            actions.push(json!({ "type": "blockdev-backup", "data": job }));
        }
        monitor.execute("transaction", &json!({ "actions": actions })).map(drop)
    }

    /// Takes away what [`freeze`](Self::freeze) and [`verify`](Self::verify) have made.
    pub(super) fn thaw(&self, monitor: &mut Client) -> Result<()> {
        // There may be no server.
        let _ = monitor.execute("nbd-server-stop", &json!({}));
        for disk in &self.record.disks {
            jobs::cancel(monitor, &disk.keeper())?;
            remove_node(monitor, &disk.scratch())?;
            remove_node(monitor, &below(&disk.scratch()))?;
            durable::remove(&scratch_file(disk))?;
        }
        durable::remove(&self.running.folder().join(SOCKET))
    }

    /// Compares.
    pub(super) fn verify(&self, completion: &Completion) -> Result<()> {
        let socket = self.running.folder().join(SOCKET);
        self.serve(&socket)?;
        for disk in &self.record.disks {
            let before = NbdDisk::connect(&socket, &disk.from)?;
            let copy = NbdDisk::connect(&socket, &disk.scratch())?;
            let at = first_difference(&before, &copy, completion.workers, &completion.progress, &completion.cancel)?;
            if let Some(at) = at {
                // It must not go on with wrong bytes; what is right is still there.
                self.running.pause()?;
                return Err(Error::damaged(format!(
                    "{} differs from the disk that it was copied from at byte {at}: the machine stands still",
                    disk.target.path.display()
                )));
            }
        }
        Ok(())
    }

    fn serve(&self, socket: &std::path::Path) -> Result<()> {
        let mut monitor = self.running.monitor()?;
        // Of an earlier attempt.
        let _ = monitor.execute("nbd-server-stop", &json!({}));
        durable::remove(socket)?;
        let address = json!({ "type": "unix", "data": { "path": source::path(socket)? } });
        monitor.execute("nbd-server-start", &json!({ "addr": address }))?;
        for node in self.record.disks.iter().flat_map(|disk| [disk.from.clone(), disk.scratch()]) {
            let export = json!({ "type": "nbd", "id": format!("export-{node}"), "node-name": node, "name": node });
            monitor.execute("block-export-add", &export)?;
        }
        Ok(())
    }
}
