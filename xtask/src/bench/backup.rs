//! Running machines backed up: a stock File daemon reads the tree, and beside it the equal raw file; an Incremental after
//! one percent was changed. Domains of libvirt's: see [`libvirt`].

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::fixtures::Kind;
use super::groups::Bench;
use super::libvirt;
use super::measure::{self, Costs};
use super::server::{At, Server};
use super::table::{Outcome, Table};
use crate::cmd::{self, quoted};

/// Bytes of the disk.
pub(super) const SIZE: u64 = 2 << 30;
/// Bytes of a cluster, and how many of them are changed: one percent.
pub(super) const CLUSTER: u64 = 64 << 10;
pub(super) const CHANGED: u64 = SIZE / CLUSTER / 100;

/// Measures the group.
pub fn backup(bench: &Bench) -> Result<Vec<Table>> {
    ensure!(cmd::find("qemu-system-x86_64").is_some(), "qemu-system-x86 is not installed");
    let big = bench.fixtures.get(Kind::Big)?;
    let raw = big.raw.clone().context("the big fixture has a raw file")?;
    let folder = bench.fixtures.scratch().join("live");
    let _was_there = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("mount"))?;
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let sh = |line: &str| cmd::run_quietly(&mut cmd::command("sh", ["-c", line]));
    let disk = path("disk.raw");
    sh(&format!("head -c {SIZE} {} >{}", quoted(&raw.to_string_lossy()), quoted(&disk)))?;
    sh(&format!("qemu-img convert -f raw -O qcow2 {} {}", quoted(&disk), quoted(&path("disk0.qcow2"))))?;
    let script = cmd::root().join("tests/lab/qemu-live-vm.sh");
    let vm = |words: &[&str]| {
        let mut command = Command::new("bash");
        cmd::run_quietly(command.arg(&script).args(words))
    };
    vm(&["start", &folder.to_string_lossy(), &SIZE.to_string()])?;
    let config = path("revenant.toml");
    let text = format!(
        "state = {:?}\nmount = {:?}\n[[qemu]]\nname = \"live\"\nqmp = {:?}\n",
        path("state"),
        path("mount"),
        path("qmp.sock")
    );
    fs::write(&config, text)?;
    let program = format!("{} --config {}", bench.revenant, config);
    let daemon = Server::start(&format!("{program} serve"), At::Socket(folder.join("state/control.sock")))?;

    let lab = bench.lab();
    lab.up()?;
    lab.define("rawdisk", &folder.join("disk.raw"), &["--sparse", "--signature", "MD5"])?;
    let [before, after] = scripts(&program, "qemu/live");
    let options = ["--sparse", "--signature", "MD5", "--job-option", &before, "--job-option", &after];
    lab.define("live", &folder.join("mount/backup/qemu/live"), &options)?;

    let mut full =
        Table::new("A Full of a running machine's disk of 2 GiB by stock Bacula, everything that a job does included");
    let mut costs: [Costs; 2] = Default::default();
    let jobs = [("rawdisk", "the equal raw file"), ("live", "revenant, the running machine")];
    for _ in 0..bench.runs {
        for ((name, _), costs) in jobs.iter().zip(&mut costs) {
            lab.forget_volumes(name)?;
            costs.add(|| measure::single(None, &lab.backup_line(name, "Full")));
        }
    }
    for ((name, what), costs) in jobs.into_iter().zip(costs) {
        full.add(what, &format!("bacula-lab.sh backup {name} Full"), Outcome::Measured(costs.median()?, Some(SIZE)));
    }

    // One percent, in places that do not touch.
    let mut incremental =
        Table::with_columns("An Incremental after one percent was changed", &["changed MiB", "saved MiB", "ratio"]);
    for n in 0..CHANGED {
        let at = n * 100 * CLUSTER;
        vm(&["write", &folder.to_string_lossy(), &at.to_string(), &CLUSTER.to_string(), "0x5a"])?;
    }
    let job = lab.backup("live", "Incremental")?;
    let saved: f64 = lab.sql(&format!("SELECT JobBytes FROM Job WHERE JobId={job}"))?.trim().parse()?;
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let changed = (CHANGED * CLUSTER) as f64;
    let mib = |bytes: f64| format!("{:.1}", bytes / f64::from(1 << 20));
    let cells = vec![mib(changed), mib(saved), format!("{:.2}", saved / changed)];
    incremental.add_cells("revenant", "bacula-lab.sh backup live Incremental", Ok(cells));
    drop(daemon);
    vm(&["stop", &folder.to_string_lossy()])?;
    lab.stop()?;
    fs::remove_dir_all(&folder)?;
    let mut tables = vec![full, incremental];
    tables.extend(libvirt::libvirt(bench)?);
    Ok(tables)
}

/// The RunScripts by which the job of a machine is begun and ended, as options of the job.
pub(super) fn scripts(program: &str, machine: &str) -> [String; 2] {
    [
        format!(
            "RunScript {{ RunsWhen = Before; RunsOnClient = yes; FailJobOnError = yes; \
             Command = \"{program} backup begin {machine} --level %l --job %j --parent '%S'\" }}"
        ),
        format!(
            "RunScript {{ RunsWhen = After; RunsOnClient = yes; RunsOnSuccess = yes; RunsOnFailure = yes; \
             FailJobOnError = yes; Command = \"{program} backup end {machine} --job %j --status '%e'\" }}"
        ),
    ]
}
