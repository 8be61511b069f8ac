//! What shows that a machine has come up.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use blockdev::{Error, Result};
use hv_drivers::{
    qemu::{
        Forward, Network, Running,
        console::{self, Console},
    },
    qmp::Agent,
};
use regex::bytes::Regex;
use serde_json::json;

/// How often those are looked for that cost something.
const SELDOM: Duration = Duration::from_secs(1);
/// How long the agent may take to answer.
const AGENT: Duration = Duration::from_secs(4);
/// What a system shows that nobody has logged in to.
const LOGIN: &str = "/login: ?$/";

/// One of them.
struct Sign {
    /// As it was asked for.
    name: String,
    kind: Kind,
}

enum Kind {
    Agent(Option<Arc<AtomicBool>>),
    Console(Regex),
    Screen(Regex),
    Port { forward: Forward, probe: Option<TcpStream> },
}

/// Those of which one is enough.
pub struct Signs {
    signs: Vec<Sign>,
    looked: Option<Instant>,
    met: Option<String>,
    /// Ends the thread that asks for the agent.
    over: Arc<AtomicBool>,
}

impl Signs {
    /// Those that are asked for; by default the agent, or a login prompt.
    ///
    /// # Errors
    ///
    /// `Invalid` when there is no such sign.
    pub fn parse(asked: &[String]) -> Result<Self> {
        let usual = ["agent".to_owned(), format!("console:{LOGIN}"), format!("screen:{LOGIN}")];
        let asked = if asked.is_empty() { &usual } else { asked };
        let sign = |text: &String| {
            let kind = match text.split_once(':') {
                None if text == "agent" => Kind::Agent(None),
                Some(("console", what)) if !what.is_empty() => Kind::Console(console::pattern(what)?),
                Some(("screen", what)) if !what.is_empty() => Kind::Screen(console::pattern(what)?),
                Some(("port", port)) => {
                    let port = port.parse().ok().filter(|port| *port > 0);
                    let guest = port.ok_or_else(|| Error::invalid(format!("{text} names no port")))?;
                    Kind::Port { forward: Forward { host: free_port()?, guest }, probe: None }
                }
                _ => {
                    let kinds = "agent, console:TEXT, screen:TEXT, port:N";
                    return Err(Error::invalid(format!("nobody can wait for {text}; there are {kinds}")));
                }
            };
            Ok(Sign { name: text.clone(), kind })
        };
        let signs = asked.iter().map(sign).collect::<Result<_>>()?;
        Ok(Self { signs, looked: None, met: None, over: Arc::default() })
    }

    /// The network that they need: one with nothing in it, or none.
    pub fn network(&self) -> Network {
        let forward = |sign: &Sign| match &sign.kind {
            Kind::Port { forward, .. } => Some(*forward),
            _ => None,
        };
        let forwards: Vec<_> = self.signs.iter().filter_map(forward).collect();
        // Cards are there all the same: some systems wait for them.
        Network::Isolated(forwards)
    }

    /// The sign that was seen.
    pub fn met(&self) -> Option<String> {
        self.met.clone()
    }

    /// Whether one is to be seen.
    ///
    /// # Errors
    ///
    /// When QEMU does not answer.
    pub fn look(&mut self, running: &Running, console: &Console) -> Result<bool> {
        let is_time = self.looked.is_none_or(|looked| looked.elapsed() >= SELDOM);
        if is_time {
            self.looked = Some(Instant::now());
        }
        for sign in &mut self.signs {
            let is_seen = match &mut sign.kind {
                Kind::Console(pattern) => console.matches(pattern),
                Kind::Agent(Some(answered)) => answered.load(Relaxed),
                Kind::Agent(asked) => {
                    *asked = Some(ask(running.folder().join("agent.sock"), Arc::clone(&self.over)));
                    false
                }
                Kind::Screen(pattern) => is_time && pattern.is_match(running.screen_text()?.as_bytes()),
                Kind::Port { forward, probe } => is_time && is_open(running, *forward, probe)?,
            };
            if is_seen {
                self.met = Some(sign.name.clone());
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Signs {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

/// Asks for the agent until it answers; whether it has.
fn ask(socket: PathBuf, over: Arc<AtomicBool>) -> Arc<AtomicBool> {
    let answered = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&answered);
    thread::spawn(move || {
        while !over.load(Relaxed) {
            if Agent::connect(&socket, AGENT).and_then(|mut agent| agent.ping()).is_ok() {
                return told.store(true, Relaxed);
            }
            thread::sleep(SELDOM / 4);
        }
    });
    answered
}

/// Whether the guest takes connections at a port. QEMU takes them for the guest before it asks it, so that one is open
/// says nothing; what the guest made of it is in QEMU's own list.
fn is_open(running: &Running, forward: Forward, probe: &mut Option<TcpStream>) -> Result<bool> {
    if let Some(open) = probe {
        let command = json!({ "command-line": "info usernet" });
        let list = running.execute("human-monitor-command", &command)?;
        let port = forward.guest.to_string();
        let is_it = |line: &str| {
            line.trim_start().starts_with("TCP[ESTABLISHED]") && line.split_whitespace().any(|word| word == port)
        };
        if list.as_str().unwrap_or_default().lines().any(is_it) {
            return Ok(true);
        }
        // One that the guest refused is closed; that shows when it is written to.
        if open.write_all(b"\r\n").is_ok() {
            return Ok(false);
        }
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, forward.host));
    *probe = TcpStream::connect_timeout(&address, SELDOM).ok();
    Ok(false)
}

/// A port of the loopback that is free now.
fn free_port() -> Result<u16> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|e| Error::io("there is no free port", e))
}
