//! QEMU's guest agent: a program in the guest that answers over a serial channel.
//!
//! The channel is there whether the agent is or not, and holds what somebody asked before us: so every connection begins
//! with `guest-sync-delimited`, whose answer stands behind a byte (0xFF) that no JSON has, and everything before it is
//! thrown away. What the agent says is the guest's word and no more.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::channel::Channel;
use crate::{Error, ErrorKind, Result};

/// How long the agent may take for its part of the handshake before it is asked again.
const SYNC: Duration = Duration::from_secs(2);
/// Lines of what others had asked for that are thrown away before this is given up.
const LINES_MAX: usize = 10_000;

/// A connection to the agent of a guest.
#[derive(Debug)]
pub struct Agent {
    channel: Channel,
    timeout: Duration,
}

/// What the agent says about itself and its system.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestInfo {
    /// The agent's version.
    pub version: String,
    /// The commands that it takes.
    pub commands: Vec<String>,
    /// The name of the guest's system, where the agent tells it.
    pub os: Option<String>,
}

impl Agent {
    /// The agent behind the socket at `path`; each command, and finding it, may take `timeout`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such machine, `Io` when no agent answers in it.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self> {
        let mut agent = Self { channel: Channel::connect(path, "guest agent")?, timeout };
        agent.sync()?;
        Ok(agent)
    }

    fn sync(&mut self) -> Result<()> {
        let until = Instant::now() + self.timeout;
        let mut lines = 0;
        while Instant::now() < until {
            // A number of its own for each attempt: when its answer comes, those of all earlier ones have come.
            let id = fastrand::u32(..);
            let line = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } }).to_string();
            self.channel.send(&[b"\xff", line.as_bytes(), b"\n"].concat(), until)?;
            let again = (Instant::now() + SYNC).min(until);
            while let Some(line) = self.channel.line(again)? {
                let answer = line.iter().rposition(|b| *b == 0xff).and_then(|at| line.get(at + 1..));
                let answer: Option<Value> = answer.and_then(|text| serde_json::from_slice(text).ok());
                if answer.is_some_and(|a| a.get("return").and_then(Value::as_u64) == Some(u64::from(id))) {
                    return Ok(());
                }
                lines += 1;
                if lines > LINES_MAX {
                    return Err(Error::new(
                        ErrorKind::Limit,
                        format!("the {} does not stop talking", self.channel.peer()),
                    ));
                }
            }
        }
        Err(Error::new(ErrorKind::Io, format!("no {} answers", self.channel.peer())))
    }

    /// Run a command; what it returns.
    ///
    /// # Errors
    ///
    /// When the agent refuses, with its words, or does not answer in time.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let until = Instant::now() + self.timeout;
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.channel.send(format!("{line}\n").as_bytes(), until)?;
        let mut message = self.channel.message(until)?.ok_or_else(|| self.channel.late().context(command))?;
        if let Some(value) = message.get_mut("return") {
            return Ok(value.take());
        }
        let words = message.pointer("/error/desc").and_then(Value::as_str).unwrap_or("no answer");
        let words: String = words.chars().take(500).collect();
        Err(Error::new(ErrorKind::Unsupported, format!("the guest agent refuses {command}: {words}")))
    }

    /// Whether it is there.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn ping(&mut self) -> Result<()> {
        self.execute("guest-ping", &json!({})).map(drop)
    }

    /// What it is and what it can do.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub fn info(&mut self) -> Result<GuestInfo> {
        let info = self.execute("guest-info", &json!({}))?;
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().chars().take(256).collect();
        let listed = info.get("supported_commands").and_then(Value::as_array).into_iter().flatten().take(1000);
        let enabled = listed.filter(|c| c.get("enabled").and_then(Value::as_bool) != Some(false));
        let commands: Vec<String> = enabled.map(|c| text(c.get("name"))).collect();
        let os = if commands.iter().any(|c| c == "guest-get-osinfo") {
            self.execute("guest-get-osinfo", &json!({}))
                .ok()
                .map(|os| text(os.get("pretty-name")))
                .filter(|os: &String| !os.is_empty())
        } else {
            None
        };
        Ok(GuestInfo { version: text(info.get("version")), commands, os })
    }

    /// Freeze all filesystems; how many were frozen. Thaw them whatever happens: Linux stays frozen for ever.
    ///
    /// # Errors
    ///
    /// When the agent refuses or does not answer: then thaw, too.
    pub fn freeze(&mut self) -> Result<u64> {
        self.execute("guest-fsfreeze-freeze", &json!({})).map(|n| n.as_u64().unwrap_or(0))
    }

    /// Thaw all filesystems; how many were thawed.
    ///
    /// # Errors
    ///
    /// When the agent refuses or does not answer.
    pub fn thaw(&mut self) -> Result<u64> {
        self.execute("guest-fsfreeze-thaw", &json!({})).map(|n| n.as_u64().unwrap_or(0))
    }

    /// Whether filesystems are frozen.
    ///
    /// # Errors
    ///
    /// When the agent refuses or does not answer.
    pub fn is_frozen(&mut self) -> Result<bool> {
        self.execute("guest-fsfreeze-status", &json!({})).map(|s| s.as_str() == Some("frozen"))
    }
}
