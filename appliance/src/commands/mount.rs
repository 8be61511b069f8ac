//! `revenant mount`: the whole tree as a filesystem.

use std::{path::Path, thread, time::Duration};

use blockdev::{Error, Result};
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};

use super::open;
use crate::{cli::Cli, output};

pub fn run(cli: &Cli, mountpoint: &Path, foreground: bool, threads: Option<usize>) -> Result<u8> {
    if !foreground {
        return background(mountpoint);
    }
    let opened = open(cli)?;
    let mut options = opened.mount_options();
    options.threads = threads;
    // Signals are caught before the mount exists, so that none leaves it behind.
    let mut signals = Signals::new(TERM_SIGNALS).map_err(|e| Error::io("cannot wait for signals", e))?;
    let mount = vfs::fuse::mount(opened.tree.root.clone(), mountpoint, &options)?;
    let unmounter = mount.unmounter();
    thread::spawn(move || {
        if signals.forever().next().is_some()
            && let Err(e) = unmounter.unmount()
        {
            output::error(&e);
        }
    });
    output::note(&format!("mounted on {}; Ctrl-C or umount ends it", mountpoint.display()));
    mount.wait()?;
    Ok(0)
}

/// Start the same command in a process of its own and return when the mount is there.
fn background(mountpoint: &Path) -> Result<u8> {
    use std::{
        os::unix::process::CommandExt,
        process::{Command, Stdio},
    };
    let is_mounted = || {
        let device = |p: &Path| std::fs::metadata(p).map(|m| std::os::unix::fs::MetadataExt::dev(&m)).ok();
        device(mountpoint) != mountpoint.canonicalize().ok().and_then(|p| device(p.parent()?))
    };
    let program = std::env::current_exe().map_err(|e| Error::io("cannot find this program", e))?;
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .arg("--foreground")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    let mut child = command.spawn().map_err(|e| Error::io("cannot start the mounting process", e))?;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Ok(u8::try_from(status.code().unwrap_or(2)).unwrap_or(2));
        }
        if is_mounted() {
            return Ok(0);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
