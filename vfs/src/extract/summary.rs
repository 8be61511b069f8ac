//! What became of an extraction.

use std::{fmt, ops::Range};

use blockdev::{Error, ErrorKind};
use parking_lot::Mutex;

/// Failures and warnings kept in words; the rest is counted.
const KEPT: usize = 1000;

/// Something that was not restored, or not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where, relative to the target.
    pub path: Vec<u8>,
    /// The bytes that could not be read and are zeros now; empty if the whole thing failed. At most the first 16.
    pub ranges: Vec<Range<u64>>,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.escape_ascii())?;
        for (n, range) in self.ranges.iter().enumerate() {
            let lead = if n == 0 { "bytes " } else { ", " };
            write!(f, "{lead}{}-{}", range.start, range.end.saturating_sub(1))?;
        }
        let colon = if self.ranges.is_empty() { "" } else { ": " };
        write!(f, "{colon}{}", self.reason)
    }
}

/// The result of an extraction.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Everything restored that is no directory: files, links, devices, fifos, sockets.
    pub files: u64,
    /// Files that are there, but whose content is not as it was stored; they are among the failures.
    pub partly: u64,
    /// Directories made or given their attributes.
    pub dirs: u64,
    /// Size of the restored files.
    pub bytes: u64,
    /// Files left as they were, because they were to be kept.
    pub kept: u64,
    /// What failed, in words: the first 1000.
    pub failures: Vec<Failure>,
    /// How much failed.
    pub failed: u64,
    /// Attributes that could not be restored and the like, in words: the first 1000.
    pub warnings: Vec<String>,
    /// How many warnings there were.
    pub warned: u64,
    /// Why it ended before the end, if it did.
    pub stopped: Option<String>,
}

impl Summary {
    /// The exit code of a command: 0 everything was restored, 1 something was not, 2 nothing was restored.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let all = self.failed == 0 && self.stopped.is_none();
        let nothing = self.files == 0 && self.partly == 0 && self.dirs == 0 && self.kept == 0;
        match (all, nothing) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        }
    }
}

/// A summary in the making, by several threads.
#[derive(Default)]
pub(super) struct Tally {
    summary: Mutex<Summary>,
    stopped: std::sync::atomic::AtomicBool,
}

impl Tally {
    pub(super) fn restored(&self, bytes: u64) {
        let mut summary = self.summary.lock();
        summary.files += 1;
        summary.bytes = summary.bytes.saturating_add(bytes);
    }

    pub(super) fn directory(&self) {
        self.summary.lock().dirs += 1;
    }

    pub(super) fn kept(&self) {
        self.summary.lock().kept += 1;
    }

    pub(super) fn warn(&self, warning: impl Into<String>) {
        let mut summary = self.summary.lock();
        summary.warned += 1;
        if summary.warnings.len() < KEPT {
            summary.warnings.push(warning.into());
        }
    }

    /// The same for what holds for many files: it is told once.
    pub(super) fn warn_once(&self, warning: &str) {
        let known = self.summary.lock().warnings.iter().any(|w| w == warning);
        if !known {
            self.warn(warning);
        }
    }

    pub(super) fn partly(&self, failure: Failure) {
        self.summary.lock().partly += 1;
        self.fail(failure);
    }

    fn fail(&self, failure: Failure) {
        let mut summary = self.summary.lock();
        summary.failed += 1;
        if summary.failures.len() < KEPT {
            summary.failures.push(failure);
        }
    }

    /// `path` could not be restored at all. A full disk fails everything: it ends the work instead.
    pub(super) fn fail_whole(&self, path: Vec<u8>, error: &Error) {
        if error.kind() == ErrorKind::NoSpace {
            self.stop(&format!("the target is full: free some space and run it again ({error})"));
        } else if !self.stopped() {
            // After a stop, failures are its consequences.
            self.fail(Failure { path, ranges: Vec::new(), reason: error.to_string() });
        }
    }

    pub(super) fn stop(&self, reason: &str) {
        self.stopped.store(true, std::sync::atomic::Ordering::Relaxed);
        self.summary.lock().stopped.get_or_insert_with(|| reason.to_owned());
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn into_summary(self) -> Summary {
        self.summary.into_inner()
    }
}
