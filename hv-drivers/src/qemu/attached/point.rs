//! Points in time: fleecing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Attached,
    blocks::{self, Disk},
    marks, quiesce,
};
use crate::{
    Error, Result,
    driver::{Changed, DiskWish, Point, PointDisk, Wish},
    durable,
    nbd::NbdDisk,
    qemu::{
        jobs,
        nodes::{add_on_top, remove_node},
        source::{self, below},
    },
    qmp::Client,
};

/// Disks of a machine at most.
const DISKS_MAX: usize = 256;

/// A disk of a point that is being made.
struct Part {
    disk: Disk,
    since: Vec<String>,
    /// Why it is not known what has changed.
    unknown: Option<String>,
}

/// Names of what a point has in QEMU, of its disk `number`.
fn scratch_node(mark: &str, number: usize) -> String {
    // The names of nodes have at most 31 characters.
    let mark: String = mark.chars().rev().take(16).collect::<Vec<_>>().into_iter().rev().collect();
    format!("rvt-{mark}-{number}")
}

/// What the names of its jobs and exports begin with.
fn prefix(mark: &str) -> String {
    format!("{}-", marks::bitmap(mark))
}

/// A job, or an export.
fn named(mark: &str, number: usize) -> String {
    format!("{}{number}", prefix(mark))
}

fn scratch_file(folder: &Path, mark: &str, number: usize) -> PathBuf {
    folder.join(format!("{mark}-{number}.qcow2"))
}

/// Where the disks of a point are served.
fn socket(folder: &Path, mark: &str) -> PathBuf {
    folder.join(format!("{mark}.sock"))
}

/// Makes a point.
///
/// # Errors
///
/// When QEMU refuses; nothing is left of it then.
pub fn begin(machine: &Attached, wish: &Wish<'_>) -> Result<Point> {
    let mut monitor = machine.monitor()?;
    // Of an attempt that was killed.
    end(&mut monitor, wish.mark)?;
    let made = make(machine, &mut monitor, wish);
    if made.is_err() {
        // The first failure is the one to tell.
        let before = wish.disks.iter().find_map(|disk| disk.since.last()).map(String::as_str);
        let _ = end(&mut monitor, wish.mark);
        let _ = marks::roll_back(&mut monitor, wish.mark, before);
    }
    made
}

fn make(machine: &Attached, monitor: &mut Client, wish: &Wish<'_>) -> Result<Point> {
    let present = blocks::disks(monitor)?.disks;
    let mut parts = Vec::new();
    for wanted in wish.disks {
        parts.push(part(monitor, &present, wanted)?);
    }
    for (number, part) in parts.iter().enumerate() {
        let path = scratch_file(wish.scratch, wish.mark, number);
        durable::remove(&path)?;
        fs::File::create_new(&path).map_err(|e| Error::io(format!("cannot make {}", path.display()), e))?;
        let node = scratch_node(wish.mark, number);
        add_on_top(monitor, &path, &node, part.disk.size, &part.disk.node)?;
    }
    let mut actions = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let since = if part.unknown.is_some() { &[][..] } else { &part.since };
        actions.extend(marks::begin(&part.disk, wish.mark, since)?);
        actions.push(json!({ "type": "blockdev-backup", "data": {
            "job-id": named(wish.mark, number), "device": part.disk.node, "target": scratch_node(wish.mark, number),
            "sync": "none", "auto-dismiss": false,
        }}));
    }
    // The point in time of all disks.
    let transaction = json!({ "actions": actions });
    let cut = || monitor.execute("transaction", &transaction).map(drop);
    let ((), consistency, frozen) = quiesce::frozen(machine, wish.quiesce, cut)?;
    let disks = serve(monitor, wish, parts)?;
    Ok(Point { consistency, frozen, disks })
}

/// The disk that is `wanted`, and whether it is known what has changed of it.
fn part(monitor: &mut Client, present: &[Disk], wanted: &DiskWish) -> Result<Part> {
    let disk = present.iter().find(|d| d.name == wanted.name).cloned();
    let disk = disk.ok_or_else(|| Error::not_found(format!("disk {} is not there any more", wanted.name)))?;
    let unknown = if wanted.since.is_empty() {
        Some("it was never backed up".to_owned())
    } else {
        marks::check(&blocks::bitmaps(monitor, &disk.node)?, &wanted.since).err()
    };
    Ok(Part { disk, since: wanted.since.clone(), unknown })
}

/// Serves the point, and opens its disks.
fn serve(monitor: &mut Client, wish: &Wish<'_>, parts: Vec<Part>) -> Result<Vec<PointDisk>> {
    let socket = socket(wish.scratch, wish.mark);
    durable::remove(&socket)?;
    let address = json!({ "type": "unix", "data": { "path": source::path(&socket)? } });
    start_server(monitor, &json!({ "addr": address, "max-connections": 0 }))?;
    let mut disks = Vec::new();
    for (number, part) in parts.into_iter().enumerate() {
        let export = named(wish.mark, number);
        let mut wanted = json!({
            "type": "nbd", "id": export, "name": export, "node-name": scratch_node(wish.mark, number), "writable": false,
        });
        let frozen = marks::frozen(wish.mark);
        if part.unknown.is_none()
            && let Some(fields) = wanted.as_object_mut()
        {
            fields.insert("bitmaps".into(), json!([{ "node": part.disk.node, "name": frozen }]));
        }
        monitor.execute("block-export-add", &wanted)?;
        let device = NbdDisk::connect(&socket, &export)?;
        let changed = match part.unknown {
            Some(why) => Changed::Unknown(why),
            None => Changed::Ranges(device.changed(&frozen)?),
        };
        disks.push(PointDisk { name: part.disk.name, device: Arc::new(device), changed });
    }
    Ok(disks)
}

/// Starts QEMU's NBD server, of which there can be one. One without an export was left by a crash.
fn start_server(monitor: &mut Client, how: &Value) -> Result<()> {
    let Err(refused) = monitor.execute("nbd-server-start", how) else { return Ok(()) };
    let exports = monitor.execute("query-block-exports", &json!({}))?;
    if exports.as_array().is_some_and(Vec::is_empty) && monitor.execute("nbd-server-stop", &json!({})).is_ok() {
        return monitor.execute("nbd-server-start", how).map(drop);
    }
    Err(refused.context("the machine's NBD server cannot be started; does another backup program use it?"))
}

/// Ends what there is of the point `mark` but its bitmaps; what is not there is no matter.
///
/// # Errors
///
/// When QEMU does not answer.
pub fn end(monitor: &mut Client, mark: &str) -> Result<()> {
    let exports = monitor.execute("query-block-exports", &json!({}))?;
    let all: Vec<&str> =
        exports.as_array().into_iter().flatten().filter_map(|e| e.get("id").and_then(Value::as_str)).collect();
    let prefix = prefix(mark);
    let (own, others): (Vec<&str>, Vec<&str>) = all.into_iter().partition(|id| id.starts_with(&prefix));
    for id in &own {
        monitor.execute("block-export-del", &json!({ "id": id, "mode": "hard" }))?;
    }
    wait_for_exports(monitor, mark)?;
    // The server of another backup program is not ours to stop.
    if !own.is_empty() && others.is_empty() {
        let _stopped_already = monitor.execute("nbd-server-stop", &json!({}));
    }
    let scratch = scratch(monitor, mark)?;
    let was_there = !scratch.is_empty();
    for (number, file) in scratch {
        jobs::cancel(monitor, &named(mark, number))?;
        let node = scratch_node(mark, number);
        remove_node(monitor, &node)?;
        remove_node(monitor, &below(&node))?;
        if let Some(file) = file.as_deref().map(Path::new) {
            durable::remove(file)?;
            if let Some(folder) = file.parent() {
                durable::remove(&socket(folder, mark))?;
            }
        }
    }
    // It was paused because what it overwrote had no room; its request is repeated, and now has.
    let status = monitor.execute("query-status", &json!({}))?;
    if was_there && status.get("status").and_then(Value::as_str) == Some("io-error") {
        monitor.execute("cont", &json!({}))?;
    }
    Ok(())
}

/// Waits until the exports of a point are gone: their clients may be in the middle of a request.
fn wait_for_exports(monitor: &mut Client, mark: &str) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(30);
    let until = Instant::now() + LIMIT;
    let prefix = prefix(mark);
    loop {
        let all = monitor.execute("query-block-exports", &json!({}))?;
        let left = all.as_array().into_iter().flatten().filter_map(|e| e.get("id").and_then(Value::as_str));
        if !left.into_iter().any(|id| id.starts_with(&prefix)) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::invalid("QEMU does not let go of the disks that it serves"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The scratch images of a point: their numbers, and their files.
fn scratch(monitor: &mut Client, mark: &str) -> Result<BTreeMap<usize, Option<String>>> {
    let all = monitor.execute("query-named-block-nodes", &json!({ "flat": true }))?;
    let mut found = BTreeMap::new();
    for node in all.as_array().into_iter().flatten() {
        let name = node.get("node-name").and_then(Value::as_str).unwrap_or_default();
        let own = (0..DISKS_MAX).find(|n| {
            let own = scratch_node(mark, *n);
            name == own || name == below(&own)
        });
        if let Some(number) = own {
            let file = node.pointer("/image/filename").and_then(Value::as_str).map(str::to_owned);
            found
                .entry(number)
                .and_modify(|known: &mut Option<String>| *known = known.take().or(file.clone()))
                .or_insert(file);
        }
    }
    Ok(found)
}
