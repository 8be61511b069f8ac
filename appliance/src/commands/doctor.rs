//! `revenant doctor`: whether everything is there, and how to mend what is not.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use blockdev::Result;
use serde_json::json;

use crate::{
    backup::hypervisors,
    cli::Cli,
    config,
    daemon::{self, client},
    output::{self, size},
};

/// Room that backups and recoveries need at least, in bytes.
const ROOM: u64 = 1 << 30;

/// What was looked at.
struct Finding {
    what: String,
    /// What was found, or what is wrong and how to mend it.
    found: std::result::Result<String, String>,
    /// Whether nothing works without it.
    needed: bool,
}

/// Findings, in their order.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: impl Into<String>, found: std::result::Result<String, String>) {
        self.0.push(Finding { what: what.into(), found, needed: true });
    }

    /// One that some things work without.
    fn add_wanted(&mut self, what: impl Into<String>, found: std::result::Result<String, String>) {
        self.0.push(Finding { what: what.into(), found, needed: false });
    }
}

pub fn run(cli: &Cli, state: Option<&Path>) -> Result<u8> {
    let folder = daemon::folder(&cli.sources, state)?;
    let mut findings = Findings::default();
    findings.add("fuse", fuse());
    let mount = config::mount(&cli.sources);
    match &mount {
        Err(e) => findings.add("configuration", Err(e.to_string())),
        Ok(mount) => {
            findings.add("configuration", Ok("can be read".to_owned()));
            findings.add("daemon", running(&folder));
            findings.add("tree", mounted(mount.as_ref()));
        }
    }
    findings.add("room", room(&folder));
    for (program, what) in
        [("qemu-img", "qemu-utils: restores without this program"), ("virsh", "libvirt-clients: machines of libvirt")]
    {
        findings.add_wanted(program, version(program, what));
    }
    findings.add_wanted("bacula-fd", file_daemon());
    machines(cli, &mut findings);

    let is_well = findings.0.iter().all(|finding| finding.found.is_ok() || !finding.needed);
    let mut out = output::stdout();
    let written = if cli.sources.json {
        let told: Vec<_> = findings
            .0
            .iter()
            .map(|f| {
                let (Ok(text) | Err(text)) = &f.found;
                json!({ "what": f.what, "ok": f.found.is_ok(), "needed": f.needed, "text": text })
            })
            .collect();
        writeln!(out, "{:#}", json!({ "ok": is_well, "findings": told }))
    } else {
        let row = |f: &Finding| {
            let (Ok(text) | Err(text)) = &f.found;
            let sign = match (&f.found, f.needed) {
                (Ok(_), _) => "ok",
                (Err(_), true) => "MISSING",
                (Err(_), false) => "not here",
            };
            vec![sign.to_owned(), f.what.clone(), text.clone()]
        };
        let rows: Vec<_> = findings.0.iter().map(row).collect();
        output::table(&mut out, &["", "WHAT", "FOUND"], &[], &rows)
    };
    output::written(written.and_then(|()| out.flush()))?;
    Ok(u8::from(!is_well))
}

fn fuse() -> std::result::Result<String, String> {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok("/dev/fuse can be used".to_owned()),
        Err(e) => Err(format!("/dev/fuse: {e}: modprobe fuse, and run this as root")),
    }
}

fn running(folder: &Path) -> std::result::Result<String, String> {
    client::ask_running(folder, &client::Request::Ping, &|_| ())
        .map(|_| format!("answers in {}", folder.display()))
        .map_err(|e| e.to_string())
}

fn mounted(mount: Option<&PathBuf>) -> std::result::Result<String, String> {
    let Some(mount) = mount else {
        return Err("`mount` is not in the configuration file: File daemons need a folder to read from".to_owned());
    };
    match mount.join("backup").is_dir() {
        true => Ok(format!("mounted on {}", mount.display())),
        false => Err(format!("not mounted on {}: is the daemon running, and did it say why not?", mount.display())),
    }
}

fn room(folder: &Path) -> std::result::Result<String, String> {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let found = rustix::fs::statvfs(existing).map_err(|e| format!("{}: {e}", existing.display()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    match free < ROOM {
        true => Err(format!("only {} free in {}: what guests overwrite has to fit", size(free), existing.display())),
        false => Ok(format!("{} free in {}", size(free), existing.display())),
    }
}

fn version(program: &str, what: &str) -> std::result::Result<String, String> {
    let out = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let out = out.map_err(|_| format!("install {what}"))?;
    Ok(String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or_default().to_owned())
}

/// A File daemon of this host, and whether it may enter the tree.
fn file_daemon() -> std::result::Result<String, String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_one =
        |folder: &PathBuf| fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim() == "bacula-fd");
    let Some(found) = processes.map(|entry| entry.path()).find(is_one) else {
        return Err("no File daemon runs here: start bacula-fd".to_owned());
    };
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(&found).map(|m| m.uid()) {
        Ok(0) => Ok("runs as root".to_owned()),
        Ok(user) => Err(format!("runs as user {user}: it has to be root to read `backup/`")),
        Err(e) => Err(e.to_string()),
    }
}

/// Each machine: whether it answers, what tracks its changes, whether its guest has an agent.
fn machines(cli: &Cli, findings: &mut Findings) {
    let all = match hypervisors::all(&cli.sources) {
        Ok(all) => all,
        Err(e) => return findings.add("hypervisors", Err(e.to_string())),
    };
    if all.is_empty() {
        findings.add_wanted("hypervisors", Err("none is configured: see docs/backup.md".to_owned()));
    }
    for (hypervisor, driver) in all {
        let inventory = match hypervisors::inventory(driver.as_ref()) {
            Ok(inventory) => inventory,
            Err(e) => return findings.add(hypervisor, Err(e.to_string())),
        };
        match inventory.machines() {
            Err(e) => findings.add(hypervisor, Err(e.to_string())),
            Ok(machines) => {
                for machine in machines {
                    let found = inventory.inspect(&machine.name).map_err(|e| e.to_string()).map(|found| {
                        let bytes = found.disks.iter().map(|disk| disk.size).sum();
                        let out: Vec<_> = found.left_out.iter().map(|(name, why)| format!("{name}: {why}")).collect();
                        let out =
                            if out.is_empty() { String::new() } else { format!("; left out: {}", out.join(", ")) };
                        format!("{} disks of {}{out}", found.disks.len(), size(bytes))
                    });
                    findings.add(format!("{hypervisor}/{}", machine.name), found);
                }
            }
        }
    }
}
