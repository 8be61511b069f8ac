//! What stands for a guest's agent: it is none. It speaks the agent's protocol and writes down whether a guest would stand
//! still. So it can be said exactly when something happens between freezing and thawing.
//!
//! As QEMU's socket does it takes one client at a time, and the next one waits.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

/// What became of the guest, in order: `frozen`, `thawed`.
#[derive(Debug, Clone, Default)]
pub struct Asked(Arc<Mutex<Vec<&'static str>>>);

impl Asked {
    /// All of it.
    ///
    /// # Panics
    ///
    /// When the agent has panicked.
    #[must_use]
    pub fn all(&self) -> Vec<&'static str> {
        self.0.lock().expect("what was asked").clone()
    }

    /// Whether the guest would stand still now.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.all().last() == Some(&"frozen")
    }

    fn add(&self, what: &'static str) {
        self.0.lock().expect("what was asked").push(what);
    }
}

/// Answers at `socket` from now on. `frozen` is called when everything is frozen, before that is answered.
///
/// # Panics
///
/// When there can be no socket.
#[must_use]
pub fn start(socket: &Path, frozen: impl Fn() + Send + 'static) -> Asked {
    let listener = UnixListener::bind(socket).expect("a socket");
    let asked = Asked::default();
    let own = asked.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            serve(&client, &own, &frozen);
        }
    });
    asked
}

fn serve(client: &UnixStream, asked: &Asked, frozen: &dyn Fn()) {
    for line in BufReader::new(client).split(b'\n') {
        let Ok(line) = line else { return };
        let text = line.strip_prefix(b"\xff").unwrap_or(&line);
        let Ok(said) = serde_json::from_slice::<Value>(text) else { return };
        let (answer, is_marked) = match said["execute"].as_str().unwrap_or_default() {
            "guest-sync-delimited" => (said["arguments"]["id"].clone(), true),
            "guest-info" => (json!({ "version": "0", "supported_commands": [] }), false),
            "guest-fsfreeze-status" => (json!(if asked.is_frozen() { "frozen" } else { "thawed" }), false),
            "guest-fsfreeze-freeze" => {
                asked.add("frozen");
                frozen();
                (json!(2), false)
            }
            "guest-fsfreeze-thaw" => {
                let count = if asked.is_frozen() { 2 } else { 0 };
                asked.add("thawed");
                (json!(count), false)
            }
            _ => (json!({}), false),
        };
        let mut bytes = if is_marked { b"\xff".to_vec() } else { Vec::new() };
        bytes.extend_from_slice(format!("{}\n", json!({ "return": answer })).as_bytes());
        let mut client = client;
        if client.write_all(&bytes).is_err() {
            return;
        }
    }
}
