//! A guest that stands still for a moment, and the process that sees to it that it goes on.
//!
//! Between freezing a guest's filesystems and thawing them this program may be killed, and a Linux guest stays frozen for
//! ever. So it does neither by itself: a process of its own, the guard, freezes, and thaws when it is told to, when
//! whoever told it to freeze is gone, or when that takes too long. One process does both, because an agent's socket has
//! one client at a time.
//!
//! The guard is this program, started by [`during`] and running [`keep`]. They talk by the guard's standard input and
//! output:
//!
//! ```text
//! → {"machine": "web01", "by": {"agent": "/run/qemu/web01/qga.sock"}}
//! ← {"frozen": 2}                       or {"failed": "..."}: it is not frozen
//! → thaw                                or the end of the pipe, or nothing for LIMIT
//! ← {"thawed": {"count": 2, "ms": 41}}  or {"failed": "..."}: who knows since when it is not
//! ```

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, driver::Consistency, libvirt::Virsh, qmp::Agent};

/// What this program has to be called with to be the guard.
pub const COMMAND: &str = "freeze-guard";

/// How long the agent may take: to answer, and to freeze. Windows gives its writers ten seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a guest stands still at most, whatever happens.
const LIMIT: Duration = Duration::from_secs(10);
/// How long thawing is tried.
const THAWING: Duration = Duration::from_secs(120);
/// How long it is waited between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the guard may take for an answer: it has limits of its own.
const ANSWER: Duration = Duration::from_secs(150);
/// The longest line of theirs, in bytes.
const LINE_MAX: u64 = 64 << 10;

/// A guest that is to stand still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// What it is called, in messages and by libvirt.
    pub machine: String,
    /// Who is asked to freeze it.
    pub by: By,
}

/// Who freezes a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The agent behind this socket.
    Agent(PathBuf),
    /// The libvirt at this URI.
    Libvirt(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Frozen(u64),
    Thawed { count: u64, ms: u64 },
    Failed(String),
}

/// Does `work` while the guest's filesystems are frozen by a guard, if they can be: `program` is what the guard runs. In
/// what order the guest's files were, and how long it stood still.
///
/// A guest that stays frozen is worse than a point that is not in order: what keeps it from being frozen costs no more than
/// the order.
///
/// # Errors
///
/// Those of `work`.
pub fn during<T>(
    guest: std::result::Result<(&Path, &Guest), String>,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Consistency, Duration)> {
    let frozen = guest.and_then(|(program, guest)| Frozen::freeze(program, guest));
    let begun = Instant::now();
    let done = work();
    let (consistency, still) = match frozen {
        Ok(frozen) => {
            let count = frozen.count;
            match frozen.thaw() {
                Ok((0, still)) if count > 0 => {
                    (Consistency::Crash("the guest had thawed itself before the point was made".to_owned()), still)
                }
                Ok((_, still)) => (Consistency::Files(count), still),
                Err(why) => (Consistency::Crash(why), begun.elapsed()),
            }
        }
        Err(why) => (Consistency::Crash(why), begun.elapsed()),
    };
    Ok((done?, consistency, still))
}

/// A frozen guest; dropping it, and the end of this process, thaws.
struct Frozen {
    guard: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    count: u64,
}

impl Frozen {
    fn freeze(program: &Path, guest: &Guest) -> std::result::Result<Self, String> {
        let cannot = |e: &dyn std::fmt::Display| format!("no guard against a guest that stays frozen: {e}");
        let order = serde_json::to_string(guest).map_err(|e| cannot(&e))?;
        let mut command = Command::new(program);
        // What it had to do stands in this process's log.
        command.arg0("revenant").arg(COMMAND).current_dir("/");
        let mut guard = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| cannot(&e))?;
        let (Some(input), Some(output)) = (guard.stdin.take(), guard.stdout.take()) else {
            return Err(cannot(&"it has no pipes"));
        };
        let mut frozen = Self { guard, input: Some(input), output: BufReader::new(output), count: 0 };
        match frozen.ask(&order)? {
            Answer::Frozen(count) => {
                frozen.count = count;
                Ok(frozen)
            }
            Answer::Failed(why) => Err(why),
            Answer::Thawed { .. } => Err(cannot(&"it says what it was not asked")),
        }
    }

    /// Thaws: how many filesystems, and how long they were frozen. An error when it cannot be known that all stood still
    /// until now.
    fn thaw(mut self) -> std::result::Result<(u64, Duration), String> {
        match self.ask("thaw")? {
            Answer::Thawed { count, ms } => Ok((count, Duration::from_millis(ms))),
            Answer::Failed(why) => Err(why),
            Answer::Frozen(_) => Err("the guard of the freeze says what it was not asked".to_owned()),
        }
    }

    fn ask(&mut self, line: &str) -> std::result::Result<Answer, String> {
        let gone = |e: &dyn std::fmt::Display| format!("the guard of the freeze does not answer: {e}");
        let input = self.input.as_mut().ok_or_else(|| gone(&"it was let go"))?;
        // One that has ended has said why.
        let _ = input.write_all(format!("{line}\n").as_bytes());
        let timeout = Timespec { tv_sec: i64::try_from(ANSWER.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(self.output.get_ref(), PollFlags::IN)], Some(&timeout));
        if ready.map_err(|e| gone(&e))? == 0 {
            return Err(gone(&format_args!("nothing in {} s", ANSWER.as_secs())));
        }
        let mut answer = String::new();
        (&mut self.output).take(LINE_MAX).read_line(&mut answer).map_err(|e| gone(&e))?;
        serde_json::from_str(&answer).map_err(|e| gone(&e))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The end of the pipe: it thaws if it has not, and ends.
        drop(self.input.take());
        let until = Instant::now() + Duration::from_secs(5);
        while matches!(self.guard.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Is the guard: freezes the guest that `input` names, tells `output`, and thaws it. What only somebody who looks for a
/// guest that stood still wants to know is told to `log`.
///
/// # Errors
///
/// When it was asked for nothing, or the guest could not be thawed.
pub fn keep(input: impl Read + Send + 'static, output: &mut impl Write, log: &dyn Fn(&str)) -> Result<()> {
    let lines = lines(input)?;
    let order = lines.recv().map_err(|_| Error::invalid("no guest is named to be frozen: `revenant` starts this"))?;
    let guest: Guest = serde_json::from_str(&order)
        .map_err(|e| Error::invalid(format!("what is to be frozen cannot be read: {e}")))?;
    // Who asked may be gone; the guest is thawed all the same.
    let mut tell = |answer: &Answer| {
        let line = serde_json::to_string(answer).unwrap_or_default();
        let _ = output.write_all(format!("{line}\n").as_bytes()).and_then(|()| output.flush());
    };
    let mut hand = match Hand::of(&guest.by) {
        Ok(hand) => hand,
        Err(e) => {
            tell(&Answer::Failed(e.to_string()));
            return Ok(());
        }
    };
    let begun = Instant::now();
    let why = match hand.freeze(&guest) {
        Ok(count) => {
            tell(&Answer::Frozen(count));
            match lines.recv_timeout(LIMIT) {
                Ok(line) if line == "thaw" => None,
                Ok(_) | Err(RecvTimeoutError::Disconnected) => Some("whoever had it frozen is gone".to_owned()),
                Err(RecvTimeoutError::Timeout) => Some(format!("it stood still for {} s", LIMIT.as_secs())),
            }
        }
        Err(e) => {
            tell(&Answer::Failed(e.to_string()));
            // If only the answer was lost it is frozen all the same.
            return if hand.may_be_frozen(&e) { hand.thaw(&guest, log).map(drop) } else { Ok(()) };
        }
    };
    let thawed = hand.thaw(&guest, log);
    match (&why, &thawed) {
        (Some(why), Ok(count)) if *count > 0 => log(&format!("{}: thawed by the guard: {why}", guest.machine)),
        _ => {}
    }
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tell(&match (why, &thawed) {
        (Some(why), _) => Answer::Failed(why),
        (None, Ok(count)) => Answer::Thawed { count: *count, ms },
        (None, Err(e)) => Answer::Failed(e.to_string()),
    });
    thawed.map(drop)
}

/// What is said to the guard, a line at a time; until who says it is gone.
fn lines(input: impl Read + Send + 'static) -> Result<Receiver<String>> {
    let (line, lines) = mpsc::channel();
    let read = move || {
        let mut input = BufReader::new(input);
        loop {
            let mut text = String::new();
            match (&mut input).take(LINE_MAX).read_line(&mut text) {
                Ok(n) if n > 0 && text.ends_with('\n') && line.send(text.trim_end().to_owned()).is_ok() => {}
                _ => return,
            }
        }
    };
    thread::Builder::new()
        .name("freeze-guard".into())
        .spawn(read)
        .map_err(|e| Error::io("cannot guard a freeze", e))?;
    Ok(lines)
}

/// How the guest is got at.
enum Hand {
    Agent { agent: Box<Agent>, socket: PathBuf },
    Libvirt(Virsh),
}

impl Hand {
    fn of(by: &By) -> Result<Self> {
        match by {
            By::Agent(socket) => {
                let agent = Box::new(Agent::connect(socket, PATIENCE)?);
                Ok(Self::Agent { agent, socket: socket.clone() })
            }
            By::Libvirt(uri) => Ok(Self::Libvirt(Virsh::new(uri))),
        }
    }

    fn freeze(&mut self, guest: &Guest) -> Result<u64> {
        match self {
            Self::Agent { agent, .. } => agent.freeze(),
            Self::Libvirt(virsh) => virsh.domain("domfsfreeze", &guest.machine, &[]).map(|words| counted(&words)),
        }
    }

    /// Whether the guest can be frozen although freezing has failed, as `failed` says: an agent that says no has thawed what
    /// it had frozen.
    fn may_be_frozen(&self, failed: &Error) -> bool {
        match self {
            Self::Agent { .. } => failed.kind() != ErrorKind::Unsupported,
            Self::Libvirt(_) => ["not responding", "does not answer"].iter().any(|w| failed.to_string().contains(w)),
        }
    }

    /// Thaws, again and again: nothing is worse than a guest that stays frozen.
    fn thaw(&mut self, guest: &Guest, log: &dyn Fn(&str)) -> Result<u64> {
        let until = Instant::now() + THAWING;
        let mut has_failed = false;
        loop {
            let failed = match self.thaw_once(guest) {
                Ok(count) => return Ok(count),
                Err(e) => e,
            };
            if !has_failed {
                log(&format!("{}: it cannot be thawed: {failed}; trying again", guest.machine));
                has_failed = true;
            }
            if Instant::now() > until {
                let remedy = match &guest.by {
                    By::Agent(socket) => format!("send guest-fsfreeze-thaw to {}", socket.display()),
                    By::Libvirt(uri) => format!("virsh -c {uri} domfsthaw {}", guest.machine),
                };
                let e = failed.context(format_args!("the guest could not be thawed; thaw it by hand ({remedy})"));
                log(&format!("{}: {e}", guest.machine));
                return Err(e);
            }
            thread::sleep(PAUSE);
        }
    }

    fn thaw_once(&mut self, guest: &Guest) -> Result<u64> {
        match self {
            Self::Agent { agent, socket } => match agent.thaw() {
                Ok(count) => Ok(count),
                Err(e) => {
                    // Its end of the channel may have been lost: the next attempt has a new one.
                    if let Ok(fresh) = Agent::connect(socket, PATIENCE) {
                        **agent = fresh;
                    }
                    Err(e)
                }
            },
            Self::Libvirt(virsh) => virsh.domain("domfsthaw", &guest.machine, &[]).map(|words| counted(&words)),
        }
    }
}

/// The number in libvirt's words: `Froze 2 filesystem(s)`.
fn counted(words: &str) -> u64 {
    words.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::pipe,
        os::unix::net::UnixListener,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// What stands for a guest's agent (it is none): it takes one client at a time, as QEMU's socket does, and writes down
    /// what it was asked.
    fn agent(refuses: &'static str) -> (tempfile::TempDir, Guest, Arc<Mutex<Vec<String>>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("qga");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a client");
                for line in BufReader::new(&client).split(b'\n').map_while(std::io::Result::ok) {
                    let text = String::from_utf8_lossy(line.strip_prefix(b"\xff").unwrap_or(&line)).into_owned();
                    let said: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                    let command = said["execute"].as_str().expect("a command");
                    let answer = match command {
                        "guest-sync-delimited" => format!("\u{fffd}{{\"return\":{}}}\n", said["arguments"]["id"]),
                        refused if refused == refuses => "{\"error\":{\"desc\":\"no\"}}\n".to_owned(),
                        _ => "{\"return\":3}\n".to_owned(),
                    };
                    if command != "guest-sync-delimited" {
                        heard.lock().expect("asked").push(command.trim_start_matches("guest-fsfreeze-").to_owned());
                    }
                    // The byte that no text has.
                    let bytes = answer.replace('\u{fffd}', "").into_bytes();
                    let mark = if command == "guest-sync-delimited" { &b"\xff"[..] } else { b"" };
                    (&client).write_all(&[mark, &bytes].concat()).expect("an answer");
                }
            }
        });
        (folder, Guest { machine: "web01".to_owned(), by: By::Agent(socket) }, asked)
    }

    /// What the guard answers to these lines, after which its pipe is closed; and its log.
    fn kept(guest: &Guest, then: &str) -> (String, Vec<String>) {
        let (read, mut write) = pipe().expect("a pipe");
        write
            .write_all(format!("{}\n{then}", serde_json::to_string(guest).expect("JSON")).as_bytes())
            .expect("sending");
        drop(write);
        let (mut answers, log) = (Vec::new(), Mutex::new(Vec::new()));
        keep(read, &mut answers, &|line| log.lock().expect("the log").push(line.to_owned())).expect("kept");
        (String::from_utf8(answers).expect("text"), log.into_inner().expect("the log"))
    }

    #[test]
    fn whatever_happens_it_is_thawed() {
        let (_folder, guest, asked) = agent("");
        let (answers, log) = kept(&guest, "thaw\n");
        assert!(answers.starts_with("{\"frozen\":3}\n{\"thawed\":{\"count\":3,\"ms\":"), "{answers}");
        assert!(log.is_empty(), "{log:?}");
        // Who asked is killed, before or after a part of a word.
        for end in ["", "tha"] {
            let (answers, log) = kept(&guest, end);
            assert!(answers.contains("is gone"), "{answers}");
            assert_eq!(log, ["web01: thawed by the guard: whoever had it frozen is gone"]);
        }
        assert_eq!(*asked.lock().expect("asked"), ["freeze", "thaw"].repeat(3));
        // An agent that cannot freeze has nothing to thaw.
        let (_folder, guest, asked) = agent("guest-fsfreeze-freeze");
        let (answers, log) = kept(&guest, "");
        assert!(answers.starts_with("{\"failed\":\"the guest agent refuses guest-fsfreeze-freeze"), "{answers}");
        assert_eq!((asked.lock().expect("asked").len(), log.len()), (1, 0));
    }

    #[test]
    fn without_an_agent_or_a_guard() {
        let folder = tempfile::tempdir().expect("a folder");
        let guest = Guest { machine: "web01".to_owned(), by: By::Agent(folder.path().join("none")) };
        assert!(kept(&guest, "thaw\n").0.starts_with("{\"failed\":"));
        let why = |program: &str| {
            let ((), consistency, _) = during(Ok((Path::new(program), &guest)), || Ok(())).expect("the work is done");
            match consistency {
                Consistency::Crash(why) => why,
                Consistency::Files(_) => panic!("nobody has frozen anything"),
            }
        };
        assert!(why("/nonexistent/guard").contains("no guard"));
        // One that ends at once, and one that says something else.
        assert!(why("/bin/true").contains("does not answer"));
        assert!(why("/bin/echo").contains("does not answer"));
    }

    #[test]
    fn what_libvirt_says() {
        assert_eq!((counted("Froze 2 filesystem(s)"), counted("")), (2, 0));
    }
}
