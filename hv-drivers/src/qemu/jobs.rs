//! QEMU's background jobs, asked until they are where they should be.
//!
//! They are asked and not listened to: an event that was sent while this program was down is lost, a state is not. A job
//! that has ended stays until it is dismissed, so that nobody misses how it ended.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Error, ErrorKind, Result, qmp::Client};

/// How often a job is asked.
const TICK: Duration = Duration::from_millis(10);
/// How long a job may take for what is not copying: to make a file, to end, to go over.
const PATIENCE: Duration = Duration::from_secs(300);

/// A job.
#[derive(Debug)]
pub struct Job {
    /// `running`, `ready`, `concluded` and others.
    status: String,
    /// Why it has failed.
    pub error: Option<String>,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes to do.
    pub total: u64,
}

impl Job {
    /// Whether a copy is complete and kept so.
    pub fn is_ready(&self) -> bool {
        self.status == "ready"
    }

    fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "concluded" | "null")
    }
}

/// The job of that name; `None` when there is none.
pub fn find(monitor: &mut Client, id: &str) -> Result<Option<Job>> {
    let all = monitor.execute("query-jobs", &json!({}))?;
    let job = all.as_array().into_iter().flatten().find(|job| job.get("id").and_then(Value::as_str) == Some(id));
    let number = |job: &Value, key: &str| job.get(key).and_then(Value::as_u64).unwrap_or(0);
    Ok(job.map(|job| Job {
        status: job.get("status").and_then(Value::as_str).unwrap_or_default().to_owned(),
        error: job.get("error").and_then(Value::as_str).map(|e| e.chars().take(500).collect()),
        done: number(job, "current-progress"),
        total: number(job, "total-progress"),
    }))
}

/// Wait for its end.
///
/// # Errors
///
/// When it has failed, or does not end.
pub fn finish(monitor: &mut Client, id: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while let Some(job) = find(monitor, id)? {
        if job.is_over() {
            return job.error.map_or(Ok(()), |e| Err(Error::new(ErrorKind::Io, e)));
        }
        if Instant::now() > until {
            return Err(Error::new(ErrorKind::Io, format!("QEMU's job {id} does not come to an end")));
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// Let a copy that is ready take the place of what it was made of.
///
/// # Errors
///
/// When it cannot.
pub fn complete(monitor: &mut Client, id: &str) -> Result<()> {
    if find(monitor, id)?.is_some_and(|job| job.is_ready()) {
        monitor.execute("job-complete", &json!({ "id": id }))?;
    }
    finish(monitor, id)
}

/// End a job, whatever comes of it; one that is not there is no matter.
///
/// # Errors
///
/// When it does not end.
pub fn cancel(monitor: &mut Client, id: &str) -> Result<()> {
    if find(monitor, id)?.is_some_and(|job| !job.is_over()) {
        // It may end by itself in between.
        let _ = monitor.execute("block-job-cancel", &json!({ "device": id, "force": true }));
        // That it was cancelled is no failure.
        let _ = finish(monitor, id);
    }
    dismiss(monitor, id)
}

/// Forget a job that has ended; one that is not there is no matter.
///
/// # Errors
///
/// When it has not ended.
pub fn dismiss(monitor: &mut Client, id: &str) -> Result<()> {
    match find(monitor, id)? {
        Some(_) => monitor.execute("job-dismiss", &json!({ "id": id })).map(drop),
        None => Ok(()),
    }
}
