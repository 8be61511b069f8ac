//! The other end of the daemon's socket: commands of the command line.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use blockdev::{Error, Result};
use serde_json::Value;

pub use super::control::Request;
use super::{CONTROL, control};

/// How long a daemon that was just started may take to answer.
const START: Duration = Duration::from_secs(20);

/// How long a daemon that was started here stays when it has nothing to do, in seconds.
const IDLE: &str = "60";

/// Asks the daemon of a state folder, and starts one if there is none. `step` is called with what it does.
///
/// # Errors
///
/// When there is no daemon and none can be started, or what it answers is an error.
pub fn ask(folder: &Path, request: &Request, step: &dyn Fn(&str)) -> Result<Value> {
    let stream = match connect(folder) {
        Ok(stream) => stream,
        Err(_) => start(folder)?,
    };
    exchange(&stream, request, step)
}

/// Asks the daemon that runs.
///
/// # Errors
///
/// When there is none, or what it answers is an error.
pub fn ask_running(folder: &Path, request: &Request, step: &dyn Fn(&str)) -> Result<Value> {
    let nobody = |e| {
        let folder = folder.display();
        Error::io(format!("no daemon has {folder}: start `revenant serve --mount FOLDER --state {folder}`"), e)
    };
    exchange(&connect(folder).map_err(nobody)?, request, step)
}

fn exchange(mut stream: &UnixStream, request: &Request, step: &dyn Fn(&str)) -> Result<Value> {
    let line = serde_json::to_string(request).map_err(|e| Error::invalid(e.to_string()))?;
    let lost = |e| Error::io("the daemon is gone; `revenant serve` goes on with its sessions", e);
    stream.write_all(format!("{line}\n").as_bytes()).map_err(lost)?;
    for line in BufReader::new(stream).lines() {
        let value: Value = serde_json::from_str(&line.map_err(lost)?)
            .map_err(|e| Error::damaged(format!("what the daemon says cannot be read: {e}")))?;
        if let Some(text) = value["step"].as_str() {
            step(text);
        } else if let Some(error) = value.get("error") {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            return Err(Error::new(control::kind(&text("kind")), text("message")));
        } else if let Some(done) = value.get("done") {
            return Ok(done.clone());
        }
    }
    Err(lost(std::io::ErrorKind::UnexpectedEof.into()))
}

fn connect(folder: &Path) -> std::io::Result<UnixStream> {
    UnixStream::connect(folder.join(CONTROL))
}

/// Starts a daemon that outlives this program.
fn start(folder: &Path) -> Result<UnixStream> {
    let cannot = |e| Error::io("cannot start the daemon; try `revenant serve`", e);
    fs::create_dir_all(folder).map_err(|e| Error::io(format!("cannot make {}", folder.display()), e))?;
    let log = folder.join("daemon.log");
    let out = fs::OpenOptions::new().create(true).append(true).open(&log).map_err(cannot)?;
    let mut daemon = Command::new(std::env::current_exe().map_err(cannot)?);
    daemon.arg("serve").arg("--state").arg(folder).args(["--until-idle", IDLE]);
    daemon.stdin(Stdio::null()).stdout(out.try_clone().map_err(cannot)?).stderr(out).process_group(0);
    let mut child = daemon.current_dir("/").spawn().map_err(cannot)?;
    let begun = Instant::now();
    loop {
        if let Ok(stream) = connect(folder) {
            return Ok(stream);
        }
        // Another may have been faster: then its socket is there in a moment.
        let ended = child.try_wait().ok().flatten().is_some() && begun.elapsed() > Duration::from_secs(5);
        if ended || begun.elapsed() > START {
            return Err(Error::invalid(format!("the daemon does not start; {} says why", log.display())));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
