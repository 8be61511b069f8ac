//! The same domain of libvirt's backed up in turn, Full and Incremental after one percent was changed: its folder in our tree,
//! copied and by a stock File daemon; and by virtnbdbackup, which copies to a folder, too.
//!
//! A libvirt is started for it where none runs. Each begins with a domain without checkpoints: virtnbdbackup refuses those of
//! others.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::backup::{CHANGED, CLUSTER, SIZE, scripts};
use super::fixtures::Kind;
use super::groups::Bench;
use super::lab::Lab;
use super::measure::{self, Costs};
use super::server::{At, Server};
use super::table::Table;
use crate::cmd::{self, quoted, quoted_path};

const DOMAIN: &str = "revenant-bench";
const URI: &str = "qemu:///system";
/// Keeps users of a host's libvirt apart: the tests', too.
const LOCK: &str = "/tmp/revenant-test-libvirt.lock";
/// The domain's disk, as QEMU calls it.
const DEVICE: &str = "/machine/peripheral/virtio-disk0/virtio-backend";

/// Where the copies go: a folder in memory, so that no disk is measured.
const TARGET: &str = "/dev/shm/revenant-bench";

/// Who backs up.
const WHO: [&str; 3] = ["revenant, its folder copied", "revenant, by a stock File daemon", "virtnbdbackup"];
/// What all times are compared with.
const PEER: usize = 2;

/// Measures it; nothing where there is no libvirt or no virtnbdbackup.
pub fn libvirt(bench: &Bench) -> Result<Vec<Table>> {
    for program in ["virsh", "libvirtd", "virtlogd", "qemu-img"] {
        if cmd::find(program).is_none() {
            eprintln!("skipped: domains of libvirt: {program} is not installed");
            return Ok(Vec::new());
        }
    }
    if !crate::setup::ensure("virtnbdbackup", "virtnbdbackup") {
        eprintln!("skipped: domains of libvirt: virtnbdbackup is not installed");
        return Ok(Vec::new());
    }
    let _libvirt = Libvirt::up()?;
    let lab = bench.lab();
    lab.up()?;
    let measured = Place::new(bench, &lab).and_then(|place| place.measure());
    lab.stop()?;
    measured
}

/// A running libvirt, ended if it was started here.
struct Libvirt {
    // In the order in which they end.
    _daemons: Vec<Server>,
    _turn: File,
}

impl Libvirt {
    fn up() -> Result<Self> {
        let turn = File::create(LOCK)?;
        turn.lock()?;
        let mut daemons = Vec::new();
        if virsh("list").is_err() {
            // A domain's console goes through the second one.
            for (daemon, socket) in [("virtlogd", "virtlogd-sock"), ("libvirtd", "libvirt-sock")] {
                let program = cmd::find(daemon).context(daemon)?;
                let socket = At::Socket(Path::new("/run/libvirt").join(socket));
                daemons.insert(0, Server::start(&format!("{} 2>/dev/null", quoted_path(&program)), socket)?);
            }
            let begun = Instant::now();
            while virsh("list").is_err() {
                ensure!(begun.elapsed() < Duration::from_secs(60), "libvirt does not answer");
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(Self { _daemons: daemons, _turn: turn })
    }
}

/// What virsh prints on `line`, which is commands for it.
fn virsh(line: &str) -> Result<String> {
    let output = cmd::command("virsh", ["--quiet", "--connect", URI, line]).env("LC_ALL", "C").output()?;
    if !output.status.success() {
        bail!("virsh {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The domain, our daemon, and what is written.
struct Place<'a> {
    bench: &'a Bench,
    lab: &'a Lab,
    /// QEMU runs as another user, who gets at it.
    disk: tempfile::TempDir,
    folder: PathBuf,
    program: String,
    _daemon: Server,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        for line in [format!("destroy {DOMAIN}"), format!("undefine {DOMAIN} --checkpoints-metadata")] {
            if let Err(error) = virsh(&line) {
                eprintln!("  {error:#}");
            }
        }
        for folder in [self.folder.as_path(), Path::new(TARGET)] {
            let _gone = fs::remove_dir_all(folder);
        }
    }
}

impl<'a> Place<'a> {
    fn new(bench: &'a Bench, lab: &'a Lab) -> Result<Self> {
        let raw = bench.fixtures.get(Kind::Big)?.raw.context("the big fixture has a raw file")?;
        let disk = tempfile::Builder::new().prefix("revenant-bench.").tempdir_in("/var/tmp")?;
        let image = disk.path().join("vda.qcow2");
        let make = format!(
            "head -c {SIZE} {} >{image}.raw && qemu-img convert -f raw -O qcow2 {image}.raw {image} && rm {image}.raw",
            quoted_path(&raw),
            image = quoted_path(&image)
        );
        cmd::run_quietly(&mut cmd::command("sh", ["-c", &make]))?;
        for (path, mode) in [(disk.path(), 0o755), (&image, 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        let xml = format!(
            "<domain type='qemu'><name>{DOMAIN}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk></devices></domain>",
            image.display()
        );
        let description = disk.path().join("domain.xml");
        fs::write(&description, xml)?;
        virsh(&format!("define {}; start {DOMAIN}", quoted_path(&description)))?;
        let folder = bench.fixtures.scratch().join("libvirt");
        let _was_there = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("mount"))?;
        let config = folder.join("revenant.toml");
        let text = format!("state = {:?}\nmount = {:?}\n[[libvirt]]\n", folder.join("state"), folder.join("mount"));
        fs::write(&config, text)?;
        let program = format!("{} --config {}", quoted(&bench.revenant), quoted_path(&config));
        let daemon = Server::start(&format!("{program} serve"), At::Socket(folder.join("state/control.sock")))?;
        let place = Self { bench, lab, disk, folder, program, _daemon: daemon };
        let [before, after] = scripts(&place.program, &place.machine());
        let options = ["--sparse", "--signature", "MD5", "--job-option", &before, "--job-option", &after];
        lab.define(DOMAIN, &place.shown(), &options)?;
        Ok(place)
    }

    fn machine(&self) -> String {
        format!("libvirt/{DOMAIN}")
    }

    /// The domain's folder in the tree.
    fn shown(&self) -> PathBuf {
        self.folder.join("mount/backup").join(self.machine())
    }

    /// The line by which `who` backs up at `level`, in a round of all.
    fn line(&self, who: usize, level: &str, round: usize) -> String {
        let (program, machine) = (&self.program, self.machine());
        match who {
            0 => {
                let job = |level: &str| format!("{level}-{round}");
                let parent = if level == "Full" { String::new() } else { job("Full") };
                // In the folder's order, as a File daemon does. What is in earlier jobs cannot be read; whether all of this
                // one was, our last command knows.
                format!(
                    "{program} backup begin {machine} --level {level} --job {job} --parent '{parent}' >/dev/null 2>&1 && \
                     {{ ls -U {from} | while read -r file; do cp {from}/\"$file\" {TARGET} 2>/dev/null; done; {program} backup end {machine} --job {job} --status OK >/dev/null 2>&1; }}",
                    job = job(level),
                    from = quoted_path(&self.shown()),
                )
            }
            1 => self.lab.backup_line(DOMAIN, level),
            _ => {
                let level = if level == "Full" { "full" } else { "inc" };
                format!("virtnbdbackup -d {DOMAIN} -l {level} -o {TARGET} --noprogress >/dev/null 2>&1")
            }
        }
    }

    /// The guest changes one percent of its disk, in places that do not touch.
    fn change(&self, round: usize) -> Result<()> {
        let write = |n: u64| {
            let at = n * 100 * CLUSTER;
            let byte = (round + 1) % 256;
            format!("qemu-monitor-command {DOMAIN} --hmp 'qemu-io -d {DEVICE} \"write -P {byte} {at} {CLUSTER}\"'")
        };
        virsh(&(0..CHANGED).map(write).collect::<Vec<_>>().join("; ")).map(drop)
    }

    fn forget_checkpoints(&self) -> Result<()> {
        let names = virsh(&format!("checkpoint-list {DOMAIN} --topological --name"))?;
        for name in names.split_whitespace().rev() {
            virsh(&format!("checkpoint-delete {DOMAIN} {name}"))?;
        }
        Ok(())
    }

    fn measure(&self) -> Result<Vec<Table>> {
        const LEVELS: [&str; 2] = ["Full", "Incremental"];
        let mut costs: [[Costs; WHO.len()]; LEVELS.len()] = Default::default();
        let cached = format!("cat {} >/dev/null", quoted_path(&self.disk.path().join("vda.qcow2")));
        for round in 0..self.bench.runs {
            for (who, what) in WHO.iter().enumerate() {
                self.forget_checkpoints()?;
                self.lab.forget_volumes(DOMAIN)?;
                let fresh = format!("rm -rf {TARGET} && mkdir -p {TARGET}");
                cmd::run_quietly(&mut cmd::command("sh", ["-c", &fresh]))?;
                for (level, costs) in LEVELS.iter().zip(&mut costs) {
                    if *level != "Full" {
                        self.change(round)?;
                    }
                    eprintln!("  {what}, {level}");
                    costs[who].add(|| measure::single(Some(&cached), &self.line(who, level, round)));
                }
            }
        }
        let titles = [
            "A Full of a running domain's disk of 2 GiB, into memory",
            "An Incremental of it after one percent was changed",
        ];
        let mut tables = Vec::new();
        for ((title, level), costs) in titles.iter().zip(LEVELS).zip(costs) {
            let mut table = Table::with_columns(title, &["median s", "of virtnbdbackup"]);
            let row = |(who, costs): (usize, Costs)| (WHO[who].to_owned(), self.line(who, level, 0), costs.median());
            table.add_relative(costs.into_iter().enumerate().map(row).collect(), PEER);
            tables.push(table);
        }
        Ok(tables)
    }
}
