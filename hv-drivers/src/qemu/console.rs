//! What a guest says on its serial console.
//!
//! QEMU writes it into a file, whether anybody is connected or not. The guest decides how much that is, so whoever looks
//! after the machine cuts the file from time to time ([`bound`]); the watcher follows.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use regex::bytes::Regex;

use crate::{Error, Result};

/// The file, in the machine's folder.
pub const LOG: &str = "console.log";

/// Bytes of what was said last that are looked through.
const WINDOW: usize = 64 << 10;
/// How much of a pattern's automaton is kept in memory, in bytes.
const PATTERN_MAX: usize = 1 << 20;
/// How often the file is looked at.
const TICK: Duration = Duration::from_millis(50);

/// A reader of a console.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    at: u64,
    window: Vec<u8>,
}

impl Console {
    /// The console whose file is `path`; it need not be there yet.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), at: 0, window: Vec::new() }
    }

    /// Read what is new; whether there was any.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn poll(&mut self) -> Result<bool> {
        let failed = |e| Error::io(format!("cannot read {}", self.path.display()), e);
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        let len = file.metadata().map_err(failed)?.len();
        if len < self.at {
            // It was cut: what follows does not go on where this ends.
            self.at = 0;
            self.window.clear();
        }
        if len == self.at {
            return Ok(false);
        }
        let skipped = len.saturating_sub(WINDOW as u64).max(self.at);
        file.seek(SeekFrom::Start(skipped)).map_err(failed)?;
        let mut fresh = Vec::new();
        file.take(WINDOW as u64).read_to_end(&mut fresh).map_err(failed)?;
        self.at = skipped + fresh.len() as u64;
        self.window.extend_from_slice(&fresh);
        let excess = self.window.len().saturating_sub(2 * WINDOW);
        self.window.drain(..excess);
        Ok(true)
    }

    /// What was said last: at most 128 KiB.
    #[must_use]
    pub fn last(&self) -> &[u8] {
        &self.window
    }

    /// Whether it matches.
    #[must_use]
    pub fn matches(&self, pattern: &Regex) -> bool {
        pattern.is_match(&self.window)
    }

    /// Wait until what is said matches `pattern`; whether it did by `until`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn wait(&mut self, pattern: &Regex, until: Instant) -> Result<bool> {
        loop {
            if self.poll()? && self.matches(pattern) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(TICK);
        }
    }
}

/// The pattern that an operator gives for a console or a screen: text, or a regular expression between slashes.
///
/// # Errors
///
/// `Invalid` when it is no regular expression, or a monstrous one.
pub fn pattern(text: &str) -> Result<Regex> {
    let inner = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).filter(|inner| !inner.is_empty());
    let expression = inner.map_or_else(|| regex::escape(text), str::to_owned);
    let built = regex::bytes::RegexBuilder::new(&expression).size_limit(PATTERN_MAX).multi_line(true).build();
    built.map_err(|e| Error::invalid(format!("{text} is no regular expression")).with_source(e))
}

/// Cut the console of the machine in `folder` when it is longer than `max` bytes. QEMU appends, so it goes on at the new
/// end; the last 64 KiB are kept beside it as `console.log.old`.
///
/// # Errors
///
/// When it cannot be cut.
pub fn bound(folder: &Path, max: u64) -> Result<()> {
    let path = folder.join(LOG);
    let Ok(metadata) = fs::metadata(&path) else { return Ok(()) };
    if metadata.len() <= max {
        return Ok(());
    }
    let mut console = Console::of(&path);
    console.poll()?;
    let cut = fs::write(folder.join("console.log.old"), console.last())
        .and_then(|()| File::options().write(true).open(&path)?.set_len(0));
    cut.map_err(|e| Error::io(format!("cannot cut {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_console_that_is_cut() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(LOG);
        let mut console = Console::of(&path);
        assert!(!console.poll().expect("no file"));
        let mut file = File::options().create(true).append(true).open(&path).expect("a file");
        file.write_all(b"booting\nGUEST-").expect("writing");
        let ready = pattern("GUEST-READY").expect("a pattern");
        assert!(!console.wait(&ready, Instant::now()).expect("reading"));
        file.write_all(b"READY 12\n").expect("writing");
        assert!(console.wait(&ready, Instant::now()).expect("reading"), "in two parts");
        file.write_all(&vec![b'x'; 1 << 20]).expect("writing");
        assert!(console.poll().expect("reading"));
        assert!(console.last().len() <= 2 * WINDOW);
        bound(folder.path(), 1000).expect("cut");
        file.write_all(b"again GUEST-READY\n").expect("writing");
        assert_eq!(fs::metadata(&path).expect("a file").len(), 18);
        assert!(console.wait(&pattern("/^again .*READY$/").expect("a pattern"), Instant::now()).expect("reading"));
    }

    #[test]
    fn patterns() {
        assert!(pattern("a.b").expect("text").is_match(b"xa.bx"));
        assert!(!pattern("a.b").expect("text").is_match(b"axb"));
        assert!(pattern("/a.b/").expect("an expression").is_match(b"axb"));
        assert!(pattern("/(/").is_err() && pattern("/(a{1000}){1000}/").is_err());
    }
}
