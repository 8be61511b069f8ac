//! QMP: commands, their answers, and the events in between.

use std::{
    collections::VecDeque,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::channel::Channel;
use crate::{Error, ErrorKind, Result};

/// Events that are kept until somebody asks; older ones are forgotten.
const EVENTS_MAX: usize = 1024;
/// Characters of QEMU's own words that are passed on.
const WORDS_MAX: usize = 500;

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    timeout: Duration,
    next_id: u64,
    events: VecDeque<Event>,
    version: (u64, u64),
}

/// Something that happened to the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// QEMU's name of it: `SHUTDOWN`.
    pub name: String,
    /// What it tells.
    pub data: Value,
}

/// The events that matter to whoever runs a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A disk failed; with `paused` the guest stands still until it is told to go on, and its request is then repeated.
    IoError {
        /// The name of the disk in QEMU.
        disk: String,
        /// Whether it was a write.
        write: bool,
        /// Whether there was no room left.
        no_space: bool,
        /// Whether the guest was paused.
        paused: bool,
    },
    /// The guest has shut down or was ended; `guest` tells which.
    Shutdown {
        /// The guest itself did it.
        guest: bool,
    },
    /// The guest restarts.
    Reset,
    /// The guest's kernel has given up.
    Panicked,
    /// The guest stands still.
    Stopped,
    /// The guest goes on.
    Resumed,
    /// Any other.
    Other,
}

impl Event {
    /// What it means.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        let text = |key: &str| self.data.get(key).and_then(Value::as_str).unwrap_or_default();
        let is = |key: &str| self.data.get(key).and_then(Value::as_bool) == Some(true);
        match self.name.as_str() {
            "BLOCK_IO_ERROR" => EventKind::IoError {
                disk: [text("node-name"), text("device")]
                    .into_iter()
                    .find(|n| !n.is_empty())
                    .unwrap_or("a disk")
                    .into(),
                write: text("operation") == "write",
                no_space: is("nospace"),
                paused: text("action") == "stop",
            },
            "SHUTDOWN" => EventKind::Shutdown { guest: is("guest") },
            "RESET" => EventKind::Reset,
            "GUEST_PANICKED" => EventKind::Panicked,
            "STOP" => EventKind::Stopped,
            "RESUME" => EventKind::Resumed,
            _ => EventKind::Other,
        }
    }
}

impl Client {
    /// A client of the monitor at `path`. Each command may take `timeout`, and so may the monitor's greeting: one that
    /// serves somebody else does not greet.
    ///
    /// # Errors
    ///
    /// `NotFound` when no QEMU listens there, `Io` when it does not answer, `Damaged` when it is no QEMU.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self> {
        let mut channel = Channel::connect(path, "QEMU monitor")?;
        let greeting = channel.message(Instant::now() + timeout)?.ok_or_else(|| channel.late())?;
        let Some(version) = greeting.pointer("/QMP/version/qemu") else {
            return Err(Error::damaged(format!("{} does not greet as QEMU does", channel.peer())));
        };
        let part = |name: &str| version.get(name).and_then(Value::as_u64).unwrap_or(0);
        let version = (part("major"), part("minor"));
        let mut client = Self { channel, timeout, next_id: 1, events: VecDeque::new(), version };
        client.execute("qmp_capabilities", &json!({}))?;
        Ok(client)
    }

    /// QEMU's version: major and minor.
    #[must_use]
    pub const fn version(&self) -> (u64, u64) {
        self.version
    }

    /// The number of QEMU's process, where it is one of this host.
    #[must_use]
    pub fn process(&self) -> Option<i32> {
        self.channel.process()
    }

    /// Run a command; what it returns.
    ///
    /// # Errors
    ///
    /// `Unsupported` when QEMU does not know the command, `NotFound` when it does not know the device, `Invalid` for any
    /// other refusal, with QEMU's words; `Io` when it does not answer in time, `NotFound` when it has ended.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let until = Instant::now() + self.timeout;
        let id = self.next_id;
        self.next_id += 1;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        self.channel.send(line.as_bytes(), until)?;
        loop {
            let message = self.channel.message(until)?.ok_or_else(|| self.channel.late().context(command))?;
            // An answer to an earlier command, which its caller did not wait for, is passed over.
            if !self.keep_event(&message) && message.get("id").and_then(Value::as_u64) == Some(id) {
                return answer(command, message);
            }
        }
    }

    /// The next event; `None` when there is none by then.
    ///
    /// # Errors
    ///
    /// `NotFound` when QEMU has ended.
    pub fn event(&mut self, within: Duration) -> Result<Option<Event>> {
        let until = Instant::now() + within;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let Some(message) = self.channel.message(until)? else { return Ok(None) };
            self.keep_event(&message);
        }
    }

    /// Keeps `message` if it is an event; whether it is one.
    fn keep_event(&mut self, message: &Value) -> bool {
        let Some(name) = message.get("event").and_then(Value::as_str) else { return false };
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        let data = message.get("data").cloned().unwrap_or(Value::Null);
        self.events.push_back(Event { name: name.to_owned(), data });
        true
    }
}

fn answer(command: &str, mut message: Value) -> Result<Value> {
    if let Some(value) = message.get_mut("return") {
        return Ok(value.take());
    }
    let text = |key: &str| message.pointer(key).and_then(Value::as_str).unwrap_or_default();
    let words: String = text("/error/desc").chars().take(WORDS_MAX).collect();
    let kind = match text("/error/class") {
        "CommandNotFound" => ErrorKind::Unsupported,
        "DeviceNotFound" => ErrorKind::NotFound,
        _ => ErrorKind::Invalid,
    };
    Err(Error::new(kind, format!("QEMU refuses {command}: {words}")))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::UnixListener,
        thread,
    };

    use super::*;

    /// A monitor that says `lines` after the greeting: one for each line that it receives.
    fn monitor(lines: Vec<String>) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).expect("a socket");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut received = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            let greeting = "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7,\"minor\":2}},\"capabilities\":[]}}\r\n";
            stream.write_all(greeting.as_bytes()).expect("sending");
            for line in std::iter::once("{\"return\":{},\"id\":1}".to_owned()).chain(lines) {
                received.next().expect("a command").expect("a line");
                let _ = stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n"));
            }
            let _ = received.next();
        });
        (folder, path)
    }

    #[test]
    fn answers_among_events() {
        let lines = [
            r#"{"event":"STOP","data":{}}"#,
            r#"{"return":"late","id":77}"#,
            r#"{"event":"BLOCK_IO_ERROR","data":{"device":"","node-name":"disk0","operation":"write","action":"stop","nospace":true}}"#,
            r#"{"return":{"running":true},"id":2}"#,
        ];
        let refusal = r#"{"error":{"class":"DeviceNotFound","desc":"no disk9"},"id":3}"#.to_owned();
        let (_folder, path) = monitor(vec![lines.join("\n"), refusal]);
        let mut client = Client::connect(&path, Duration::from_secs(10)).expect("a greeting");
        assert_eq!(client.version(), (7, 2));
        assert_eq!(client.execute("query-status", &json!({})).expect("an answer"), json!({ "running": true }));
        let refused = client.execute("blockdev-del", &json!({})).expect_err("a refusal");
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        assert_eq!(refused.to_string(), "QEMU refuses blockdev-del: no disk9");
        let mut kinds = Vec::new();
        while let Some(event) = client.event(Duration::from_millis(1)).expect("a connection") {
            kinds.push(event.kind());
        }
        let io = EventKind::IoError { disk: "disk0".into(), write: true, no_space: true, paused: true };
        assert_eq!(kinds, [EventKind::Stopped, io]);
    }

    #[test]
    fn what_is_no_monitor_or_hangs() {
        let (_folder, path) = monitor(vec!["x".repeat(5 << 20)]);
        let mut client = Client::connect(&path, Duration::from_secs(10)).expect("a greeting");
        assert_eq!(client.execute("query-status", &json!({})).expect_err("too long").kind(), ErrorKind::Limit);

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        assert_eq!(Client::connect(&path, Duration::from_secs(1)).expect_err("nobody").kind(), ErrorKind::NotFound);
        let _silent = UnixListener::bind(&path).expect("a socket");
        let begun = Instant::now();
        assert_eq!(Client::connect(&path, Duration::from_millis(50)).expect_err("silence").kind(), ErrorKind::Io);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
