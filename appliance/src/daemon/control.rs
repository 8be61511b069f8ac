//! The daemon's socket of commands: a line of JSON for a request, lines of JSON for what comes of it.
//!
//! ```text
//! → {"stop": {"id": "web01-1", "shutdown": null}}
//! ← {"step": "door"}
//! ← {"step": "overlays"}
//! ← {"done": null}            or {"error": {"kind": "NotFound", "message": "..."}}
//! ```
//!
//! Only who may enter the state folder, its owner, can connect.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use blockdev::{Error, ErrorKind, Result};
use hv_drivers::driver::FileFormat;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    backup::runs::{self, Backups},
    recovery::sessions::{Sessions, Wish},
    restore::{self, Restores},
};

/// The longest request, in bytes.
const REQUEST: u64 = 1 << 20;

/// How long a client may take for its request, and for taking a line.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Whether the daemon is there.
    Ping,
    /// Begin a session.
    Recover(Box<Wish>),
    /// All sessions; with `all` machines, too, that have moved.
    List { all: bool },
    /// One.
    Show { id: String },
    /// Start the machine of one again.
    Start { id: String },
    /// Let its overlays take `bytes` each, or as much as there is.
    Quota { id: String, bytes: Option<u64> },
    /// End one; with `shutdown` its guest is asked first, and has so many seconds.
    Stop { id: String, shutdown: Option<u64> },
    /// Take a machine that has moved off the list.
    Forget { id: String },
    /// Move the disks of its machine into files of `folder`.
    Migrate { id: String, folder: PathBuf, format: FileFormat },
    /// Give one `seconds` from now, or no end.
    Renew { id: String, seconds: Option<u64> },
    /// What a backup of a running machine needs.
    Backup(runs::Request),
    /// What a restore of one needs.
    Restore(restore::Request),
}

/// Who answers.
pub struct Answering {
    pub sessions: Arc<Sessions>,
    pub backups: Arc<Backups>,
    pub restores: Arc<Restores>,
}

/// The socket.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    busy: Arc<AtomicUsize>,
}

impl Control {
    /// Binds `path`. A socket that is there was left by a daemon that was killed: the folder's lock is ours.
    ///
    /// # Errors
    ///
    /// When it cannot be bound.
    pub fn bind(path: &Path) -> Result<Self> {
        let cannot = |e| Error::io(format!("cannot listen at {}", path.display()), e);
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(cannot)?;
        Ok(Self { listener, path: path.to_owned(), busy: Arc::default() })
    }

    /// Answers from now on, each client in a thread.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub fn serve(&self, answering: &Arc<Answering>) -> Result<()> {
        let cannot = |e| Error::io("cannot serve commands", e);
        let listener = self.listener.try_clone().map_err(cannot)?;
        let (answering, busy) = (Arc::clone(answering), Arc::clone(&self.busy));
        let accept = move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                let (answering, busy) = (Arc::clone(&answering), Arc::clone(&busy));
                busy.fetch_add(1, Ordering::Relaxed);
                let counted = Busy(busy);
                // Without a thread the client is hung up on, and says so.
                let _ = thread::Builder::new().name("control".into()).spawn(move || {
                    answer(&client, &answering);
                    drop(counted);
                });
            }
        };
        thread::Builder::new().name("control-accept".into()).spawn(accept).map(drop).map_err(cannot)
    }

    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// New commands find nobody; those that are being done have a while to end.
    pub fn close(&self) {
        let _ = fs::remove_file(&self.path);
        for _ in 0..100 {
            if !self.is_busy() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn answer(client: &UnixStream, answering: &Answering) {
    let _ = client.set_read_timeout(Some(PATIENCE)).and_then(|()| client.set_write_timeout(Some(PATIENCE)));
    let mut line = String::new();
    if BufReader::new(client.take(REQUEST)).read_line(&mut line).is_err() {
        return;
    }
    let out = Mutex::new(client);
    // A client that has gone does not end what it asked for.
    let tell = |value: Value| {
        let _ = out.lock().write_all(format!("{value}\n").as_bytes());
    };
    let outcome = match serde_json::from_str(&line) {
        Ok(request) => run(request, answering, client, &|step| tell(json!({ "step": step }))),
        Err(e) => Err(Error::invalid(format!("the daemon does not know this command: {e}"))),
    };
    tell(match outcome {
        Ok(value) => json!({ "done": value }),
        Err(e) => json!({ "error": { "kind": format!("{:?}", e.kind()), "message": e.to_string() } }),
    });
}

fn run(request: Request, answering: &Answering, client: &UnixStream, step: &dyn Fn(&str)) -> Result<Value> {
    let sessions = &answering.sessions;
    match request {
        Request::Ping => Ok(Value::Null),
        Request::Recover(wish) => sessions.start(&wish, step),
        Request::List { all } => sessions.list(all),
        Request::Show { id } => sessions.show(&id),
        Request::Start { id } => sessions.start_again(&id, step),
        Request::Quota { id, bytes } => sessions.set_quota(&id, bytes),
        Request::Stop { id, shutdown } => {
            sessions.stop(&id, shutdown.map(Duration::from_secs), step).map(|()| Value::Null)
        }
        Request::Forget { id } => sessions.forget(&id),
        Request::Migrate { id, folder, format } => sessions.migrate(&id, Some((folder, format)), step),
        Request::Renew { id, seconds } => sessions.renew(&id, seconds),
        Request::Backup(request) => answering.backups.answer(&request, client, step),
        Request::Restore(request) => answering.restores.answer(&request, step),
    }
}

/// The kind that an error was told to have.
pub fn kind(name: &str) -> ErrorKind {
    use ErrorKind::{Damaged, Invalid, Io, Limit, Locked, Missing, NoSpace, NotFound, Unsupported};
    let kinds = [NotFound, Damaged, Missing, Locked, Unsupported, Invalid, Limit, NoSpace];
    kinds.into_iter().find(|kind| format!("{kind:?}") == name).unwrap_or(Io)
}
