//! What went wrong, told once: a damaged file that is read a million times gives one line, and a damaged volume with
//! a million such files gives no flood.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Lines per [`WINDOW`]; what exceeds it is counted.
const LINES: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10);

/// Messages remembered as told; after that many they may be told again.
const REMEMBERED: usize = 4096;

/// Passes each message on once, and not too many in a short time.
pub struct Report {
    log: Arc<dyn Fn(&str) + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    told: HashSet<u64>,
    window: Instant,
    lines: u32,
    withheld: u64,
}

impl Report {
    /// For the receiver `log`, which is called from any thread.
    #[must_use]
    pub fn new(log: Arc<dyn Fn(&str) + Send + Sync>) -> Self {
        let state = State { told: HashSet::new(), window: Instant::now(), lines: 0, withheld: 0 };
        Self { log, state: Mutex::new(state) }
    }

    /// Pass `message` on, unless it was told already or there is a flood of others.
    pub fn tell(&self, message: &str) {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let (tell, withheld) = self.state.lock().admit(hasher.finish(), Instant::now());
        if withheld > 0 {
            (self.log)(&format!("{withheld} more failures were not shown"));
        }
        if tell {
            (self.log)(message);
        }
    }
}

impl State {
    /// Whether to tell the message with this hash, and how many withheld ones to own up to before.
    fn admit(&mut self, hash: u64, now: Instant) -> (bool, u64) {
        if self.told.contains(&hash) {
            return (false, 0);
        }
        let mut withheld = 0;
        if now.duration_since(self.window) >= WINDOW {
            self.window = now;
            self.lines = 0;
            withheld = std::mem::take(&mut self.withheld);
        }
        if self.lines >= LINES {
            self.withheld += 1;
            return (false, withheld);
        }
        self.lines += 1;
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        self.told.insert(hash);
        (true, withheld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_once_and_not_too_many() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let report = Report::new(Arc::new(move |line: &str| sink.lock().push(line.to_owned())));
        for _ in 0..3 {
            report.tell("one");
        }
        assert_eq!(*lines.lock(), ["one"]);
        for n in 0..1000 {
            report.tell(&n.to_string());
        }
        assert_eq!(lines.lock().len(), LINES as usize);
        // When the window is over the rest is owned up to.
        let later = Instant::now() + WINDOW;
        assert_eq!(report.state.lock().admit(0, later), (true, 1000 - u64::from(LINES) + 1));
    }
}
