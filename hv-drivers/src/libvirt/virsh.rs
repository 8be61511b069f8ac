//! libvirt's own program: called, bounded in time and output, and its complaints said so that something can be done.

use std::{
    ffi::OsStr,
    io::Read,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{Error, ErrorKind, Result};

/// How long a command may take: libvirt waits for QEMU, and QEMU for disks.
const LIMIT: Duration = Duration::from_secs(120);
/// How often it is asked whether it has ended.
const TICK: Duration = Duration::from_millis(3);
/// What it may print, in bytes.
const OUTPUT_MAX: u64 = 16 << 20;

/// `virsh` for one libvirt.
#[derive(Debug, Clone)]
pub struct Virsh {
    uri: String,
}

impl Virsh {
    pub fn new(uri: &str) -> Self {
        Self { uri: uri.to_owned() }
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Runs `command` on the domain `name` with `more` arguments; what it prints.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn domain(&self, command: &str, name: &str, more: &[&OsStr]) -> Result<String> {
        let begin = [command.as_ref(), "--domain".as_ref(), OsStr::new(name)];
        self.run(&[&begin[..], more].concat())
    }

    /// Runs a command; what it prints.
    ///
    /// # Errors
    ///
    /// `Missing` when there is no virsh or no libvirt, otherwise `Io` with libvirt's words.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let mut command = Command::new("virsh");
        command.args(["--quiet", "--connect", &self.uri]).args(arguments);
        // Its words are looked at.
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| {
            let is_missing = e.kind() == std::io::ErrorKind::NotFound;
            let kind = if is_missing { ErrorKind::Missing } else { ErrorKind::Io };
            Error::new(kind, "cannot start virsh: install libvirt's client (Debian: apt install libvirt-clients)")
                .with_source(e)
        })?;
        let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let ended = wait(&mut child);
        let text =
            |reader: JoinHandle<Vec<u8>>| String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned();
        let (out, err) = (text(out), text(err));
        let what = arguments.first().map(|a| a.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
        match ended {
            Some(true) => Ok(out),
            Some(false) => Err(self.failure(&what, &err)),
            None => Err(Error::new(
                ErrorKind::Io,
                format!("libvirt at {} does not answer within {} s (virsh {what})", self.uri, LIMIT.as_secs()),
            )),
        }
    }

    fn failure(&self, what: &str, words: &str) -> Error {
        let lines: Vec<_> =
            words.lines().map(|l| l.trim().trim_start_matches("error: ")).filter(|l| !l.is_empty()).collect();
        // The last one says why.
        let why: String = lines.last().unwrap_or(&"it says nothing").chars().take(500).collect();
        if lines.iter().any(|line| line.contains("failed to connect to the hypervisor")) {
            let message = format!(
                "libvirt does not answer at {}: is its daemon installed and running (Debian: apt install \
                 libvirt-daemon-system; systemctl start libvirtd)? {why}",
                self.uri
            );
            return Error::new(ErrorKind::Missing, message);
        }
        Error::new(ErrorKind::Io, format!("libvirt at {} refuses (virsh {what}): {why}", self.uri))
    }
}

/// Whether it succeeded; `None`: it did not end in time, and was ended.
fn wait(child: &mut Child) -> Option<bool> {
    let until = Instant::now() + LIMIT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < until => thread::sleep(TICK),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

fn reader(from: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            // What came until it failed is all there is.
            let _ = from.take(OUTPUT_MAX).read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_say_what_to_do() {
        let virsh = Virsh::new("qemu:///system");
        let words = "error: failed to connect to the hypervisor\nerror: Failed to connect socket to \
                     '/var/run/libvirt/libvirt-sock': No such file or directory\n";
        let error = virsh.failure("list", words);
        assert_eq!(error.kind(), ErrorKind::Missing);
        let text = error.to_string();
        assert!(text.contains("libvirt-daemon-system") && text.contains("libvirt-sock"), "{text}");
        let error = virsh.failure("start", "error: Failed to start domain 'a'\nerror: no network 'default'\n\n");
        assert_eq!(error.to_string(), "libvirt at qemu:///system refuses (virsh start): no network 'default'");
        assert!(virsh.failure("start", "").to_string().contains("says nothing"));
    }
}
