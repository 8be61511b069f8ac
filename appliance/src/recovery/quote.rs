//! What a recovery would need and take, told before anything is made.
//!
//! Times are estimates from a measurement of a second: how fast the restore point's disks are read here and now.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use blockdev::{ExtentKind, ReadAt, Result};
use serde_json::{Value, json};
use volreader::archive::{job::Job, point::Point};

use super::target::Target;
use crate::{
    cli::Sources,
    commands::{
        Opened,
        source::{DiskSource, Disks},
    },
};

/// How long is measured at most, for each way of reading.
const MEASURED: Duration = Duration::from_millis(500);
const MEASURED_BYTES: u64 = 256 << 20;
const SEQUENTIAL: usize = 1 << 20;
const RANDOM: usize = 16 << 10;

/// What an ordinary Linux or Windows guest reads until it can be logged in to: a server's boot is between 100 and 500 MiB
/// in reads of some 16 KiB to 64 KiB.
const BOOT_BYTES: u64 = 300 << 20;
const BOOT_READS: u64 = 10_000;

/// The quote for a restore point.
///
/// # Errors
///
/// When it cannot be found or its disks cannot be read.
pub fn quote(sources: &Sources, opened: &Arc<Opened>, text: &str) -> Result<Value> {
    let target = Target::find(opened, text)?;
    let disks = Disks::opened(sources, Arc::clone(opened)).several(target.path.as_ref(), None)?;
    let (mut size, mut stored) = (0, 0);
    for disk in &disks {
        size += disk.image.disk.size();
        stored += data_bytes(disk)?;
    }
    let pace = disks.first().map(pace).transpose()?.unwrap_or_default();
    let boot = BOOT_READS as f64 * pace.seconds_per_read;
    let copy = if pace.bytes_per_second > 0.0 { stored as f64 / pace.bytes_per_second } else { 0.0 };
    let jobs = jobs_of(opened, &target)?;
    let missing: Vec<String> = jobs.iter().flat_map(|job| job.missing.clone()).collect();
    let mut volumes: Vec<String> = jobs.iter().flat_map(|job| job.volumes.clone()).collect();
    volumes.sort();
    volumes.dedup();
    Ok(json!({
        "machine": target.machine,
        "point": target.path,
        "jobs": jobs.iter().map(|job| job.facts.job_id).collect::<Vec<_>>(),
        "volumes": volumes,
        "missing": missing,
        "online": missing.is_empty(),
        "disks": disks.len(),
        "bytes": size,
        "data_bytes": stored,
        "read_bytes_per_second": pace.bytes_per_second as u64,
        "random_read_seconds": pace.seconds_per_read,
        "boot_reads_assumed": { "reads": BOOT_READS, "bytes": BOOT_BYTES },
        "boot_reading_seconds": boot,
        "full_copy_seconds": copy,
    }))
}

/// Bytes of a disk that are data, by its extents.
fn data_bytes(disk: &DiskSource) -> Result<u64> {
    let mut bytes = 0;
    data_runs(disk, &mut |run| {
        bytes += run.end - run.start;
        Ok(true)
    })?;
    Ok(bytes)
}

/// Calls `each` with the runs of data of a disk, as long as it wants more.
fn data_runs(disk: &DiskSource, each: &mut dyn FnMut(Range<u64>) -> Result<bool>) -> Result<()> {
    let disk = &disk.image.disk;
    let mut at = 0;
    while at < disk.size() {
        let Some(extent) = disk.extent_at(at)? else { break };
        let end = extent.range.end.max(at + 1).min(disk.size());
        if extent.kind == ExtentKind::Data && !each(at..end)? {
            break;
        }
        at = end;
    }
    Ok(())
}

#[derive(Debug, Default, Clone, Copy)]
struct Pace {
    bytes_per_second: f64,
    seconds_per_read: f64,
}

/// How fast a disk is read where it holds data.
fn pace(source: &DiskSource) -> Result<Pace> {
    let disk = &source.image.disk;
    let mut buffer = vec![0; SEQUENTIAL];
    let (mut bytes, begun) = (0, Instant::now());
    let is_enough = |bytes: u64| begun.elapsed() >= MEASURED || bytes >= MEASURED_BYTES;
    data_runs(source, &mut |run| {
        let mut at = run.start;
        while at < run.end && !is_enough(bytes) {
            let len = usize::try_from(run.end - at).unwrap_or(SEQUENTIAL).min(SEQUENTIAL);
            let Some(part) = buffer.get_mut(..len) else { break };
            bytes += disk.read_at(part, at)? as u64;
            at += len as u64;
        }
        Ok(!is_enough(bytes))
    })?;
    let bytes_per_second = bytes as f64 / begun.elapsed().as_secs_f64().max(1e-6);
    let (mut reads, begun) = (0_u64, Instant::now());
    let places = disk.size() / RANDOM as u64;
    // Places that are far from each other, and the same each time.
    while places > 0 && reads < 200 && begun.elapsed() < MEASURED {
        reads += 1;
        let place = reads.wrapping_mul(0x9E37_79B9_7F4A_7C15) % places * RANDOM as u64;
        let Some(part) = buffer.get_mut(..RANDOM) else { break };
        let _ = disk.read_at(part, place)?;
    }
    Ok(Pace { bytes_per_second, seconds_per_read: begun.elapsed().as_secs_f64() / reads.max(1) as f64 })
}

/// The jobs that a restore point is made of; none for an image.
fn jobs_of(opened: &Opened, target: &Target) -> Result<Vec<Arc<Job>>> {
    let machines = opened.tree.machines.as_ref().map(|m| m.all()).transpose()?.unwrap_or_default();
    let time = target.path.rsplit('/').next().unwrap_or_default();
    let point = machines.get(&target.machine).and_then(|points| points.iter().find(|p| p.time == time));
    let Some(point) = point else { return Ok(Vec::new()) };
    let jobs = opened.archive.jobs()?;
    let Some(last) = jobs.iter().find(|job| job.facts.job_id == point.job_id) else { return Ok(Vec::new()) };
    Ok(Point::of(last, &jobs).map_or_else(|| vec![Arc::clone(last)], |point| point.chain))
}
