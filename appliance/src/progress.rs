//! Progress bars on a terminal: while volumes are indexed, while files are restored.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use volreader::archive::Archive;

/// Work that is over sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);
const TICK: Duration = Duration::from_millis(100);

fn bar(what: &str) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style);
    bar.set_message(what.to_owned());
    bar
}

/// Show how indexing goes until it is done, if anybody is looking.
pub fn show_indexing(archive: &Arc<Archive>, quiet: bool) {
    if quiet || !std::io::stderr().is_terminal() {
        return;
    }
    let archive = Arc::downgrade(archive);
    thread::spawn(move || {
        thread::sleep(PATIENCE);
        let mut shown = None;
        while let Some(archive) = archive.upgrade().filter(|a| !a.is_complete()) {
            let bar = shown.get_or_insert_with(|| bar("indexing"));
            bar.set_length(archive.progress.total.load(Relaxed));
            bar.set_position(archive.progress.passed.load(Relaxed));
            drop(archive);
            thread::sleep(TICK);
        }
        if let Some(bar) = shown {
            bar.finish_and_clear();
        }
    });
}

/// A bar that follows a counter of bytes.
pub struct Bytes {
    done: Arc<AtomicBool>,
    watcher: Option<thread::JoinHandle<()>>,
}

impl Bytes {
    /// Show how `counted` goes to `total`, if anybody is looking.
    pub fn show(what: &'static str, total: u64, counted: &Arc<AtomicU64>, quiet: bool) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        if quiet || !std::io::stderr().is_terminal() {
            return Self { done, watcher: None };
        }
        let (counted, over) = (Arc::clone(counted), Arc::clone(&done));
        let watcher = thread::spawn(move || {
            let bar = bar(what);
            bar.set_length(total);
            while !over.load(Relaxed) {
                bar.set_position(counted.load(Relaxed));
                thread::sleep(TICK);
            }
            bar.finish_and_clear();
        });
        Self { done, watcher: Some(watcher) }
    }

    /// Take the bar away.
    pub fn finish(self) {
        self.done.store(true, Relaxed);
        if let Some(watcher) = self.watcher {
            // It only shows; nothing depends on it.
            let _ = watcher.join();
        }
    }
}

/// Counts what is restored or verified, and shows it.
pub struct Work {
    found: AtomicU64,
    done: AtomicU64,
    files: AtomicU64,
    cancel: Arc<AtomicBool>,
    bar: Option<ProgressBar>,
}

impl Work {
    /// Progress of `what`; `cancel` stops it.
    pub fn new(what: &str, quiet: bool, cancel: Arc<AtomicBool>) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| bar(what));
        Self { found: AtomicU64::new(0), done: AtomicU64::new(0), files: AtomicU64::new(0), cancel, bar }
    }

    /// Take the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl vfs::extract::Progress for Work {
    fn found(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Relaxed);
        let total = self.found.fetch_add(bytes, Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    fn done(&self, _files: u64, bytes: u64) {
        let done = self.done.fetch_add(bytes, Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Relaxed)
    }
}
