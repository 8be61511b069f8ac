//! Block nodes that are put into a running QEMU and taken out again.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    jobs,
    source::{self, below},
};
use crate::{
    Result,
    driver::{DiskSource, FileFormat},
    qmp::Client,
};

/// Adds the new file at `place` as the node `name`; one that is to be a qcow2 becomes an empty one of `size` bytes.
pub fn add_disk(monitor: &mut Client, place: &DiskSource, name: &str, size: u64) -> Result<()> {
    let over = prepare(monitor, place, name, size)?;
    monitor.execute("blockdev-add", &over).map(drop)
}

/// Adds the new qcow2 file at `path` as the node `name`: an empty one of `size` bytes on top of the node `backing`.
pub fn add_on_top(monitor: &mut Client, path: &Path, name: &str, size: u64, backing: &str) -> Result<()> {
    let place = DiskSource::File { path: path.to_owned(), format: FileFormat::Qcow2 };
    let mut over = prepare(monitor, &place, name, size)?;
    if let Some(fields) = over.as_object_mut() {
        fields.insert("backing".into(), json!(backing));
    }
    monitor.execute("blockdev-add", &over).map(drop)
}

/// Adds the node below `name`, formats it, and gives what is to be added over it.
fn prepare(monitor: &mut Client, place: &DiskSource, name: &str, size: u64) -> Result<Value> {
    let [fetch, over] = source::nodes(place, name, std::time::Duration::ZERO, false)?;
    monitor.execute("blockdev-add", &fetch)?;
    if matches!(place, DiskSource::File { format: FileFormat::Qcow2, .. }) {
        let job = format!("make-{name}");
        let options = json!({ "driver": "qcow2", "file": below(name), "size": size });
        monitor.execute("blockdev-create", &json!({ "job-id": job, "options": options }))?;
        jobs::finish(monitor, &job)?;
        jobs::dismiss(monitor, &job)?;
    }
    Ok(over)
}

/// Removes a node; one that is not there is no matter.
pub fn remove_node(monitor: &mut Client, node: &str) -> Result<()> {
    let known = monitor.execute("query-named-block-nodes", &json!({ "flat": true }))?;
    let is_it = |n: &Value| n.get("node-name").and_then(Value::as_str) == Some(node);
    if !known.as_array().into_iter().flatten().any(is_it) {
        return Ok(());
    }
    monitor.execute("blockdev-del", &json!({ "node-name": node })).map(drop)
}
