//! Whether KVM works: a `/dev/kvm` that opens may still not run a single instruction (nested virtualisation, other
//! hypervisors' hosts), and then QEMU ends or hangs.
//!
//! So it is tried: QEMU's BIOS is started under KVM without any disk, and has to say its first word.

use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};

/// How long the BIOS may take for its first word; under KVM it takes some hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether `program` runs a guest under KVM here. Each program is asked once.
#[must_use]
pub fn has_kvm(program: &Path) -> bool {
    static KNOWN: OnceLock<Mutex<HashMap<PathBuf, bool>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    *known.entry(program.to_owned()).or_insert_with(|| std::fs::metadata("/dev/kvm").is_ok() && speaks(program))
}

/// Whether the BIOS speaks under KVM.
fn speaks(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.args([
        "-no-user-config",
        "-nodefaults",
        "-machine",
        "pc,accel=kvm",
        "-cpu",
        "host",
        "-m",
        "32",
        "-display",
        "none",
    ]);
    // SeaBIOS writes its log to this port.
    command.args(["-chardev", "stdio,id=log", "-device", "isa-debugcon,iobase=0x402,chardev=log"]);
    let Ok(mut child) = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
        return false;
    };
    let (said, heard) = mpsc::channel();
    if let Some(mut out) = child.stdout.take() {
        // Ends when QEMU does.
        thread::spawn(move || {
            let mut word = [0; 7];
            let _ = said.send(out.read_exact(&mut word).is_ok() && &word == b"SeaBIOS");
        });
    }
    let speaks = heard.recv_timeout(PATIENCE).unwrap_or(false);
    let _ = child.kill();
    let _ = child.wait();
    speaks
}
