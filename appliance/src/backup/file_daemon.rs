//! The File daemon that had a job begun. One that was killed never says that its job has ended: it is looked at.

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::socket_peercred,
    process::{Pid, PidfdFlags, pidfd_open},
};

/// What the kernel calls it.
const NAME: &str = "bacula-fd";
/// Processes that are looked at, from a script of Bacula's upwards.
const ANCESTORS_MAX: usize = 64;

/// A process, held by a descriptor: its number is used again.
#[derive(Debug)]
pub struct FileDaemon(OwnedFd);

impl FileDaemon {
    /// The one that runs the script that is at the other end of `client`; `None` when nobody can tell: then a job is known
    /// to be dead only by that nobody reads it.
    pub fn of(client: &UnixStream) -> Option<Self> {
        let mut pid = socket_peercred(client).ok()?.pid;
        for _ in 0..ANCESTORS_MAX {
            let (name, parent) = status(pid)?;
            if name == NAME {
                let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
                // It is that one which is held: its number was not used again in between.
                return (status(pid)?.0 == NAME).then_some(Self(held));
            }
            pid = parent?;
        }
        None
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A pidfd is readable when its process has ended.
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

/// What the kernel calls a process, and its parent.
fn status(pid: Pid) -> Option<(String, Option<Pid>)> {
    parsed(&fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
}

/// `1234 (name) S 1 ...` (`proc_pid_stat(5)`): a name may have anything in it, also parentheses.
fn parsed(stat: &str) -> Option<(String, Option<Pid>)> {
    let (begin, rest) = stat.rsplit_once(") ")?;
    let (_, name) = begin.split_once(" (")?;
    let parent = rest.split(' ').nth(1)?.parse().ok()?;
    Some((name.to_owned(), Pid::from_raw(parent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_began() {
        assert_eq!(parsed("7 (bacula-fd) S 1 7 7 0"), Some(("bacula-fd".to_owned(), Pid::from_raw(1))));
        let odd = parsed("7 (a) S 1 (b) c) R 0 7").expect("a name");
        assert_eq!(odd, ("a) S 1 (b) c".to_owned(), None));
        assert_eq!(parsed("7 (a"), None);
        // This test is none of a File daemon's.
        let (near, _far) = UnixStream::pair().expect("sockets");
        assert!(FileDaemon::of(&near).is_none());
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let daemon = FileDaemon(pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a process"));
        assert!(!daemon.has_ended());
        child.kill().and_then(|()| child.wait()).expect("its end");
        assert!(daemon.has_ended());
    }
}
