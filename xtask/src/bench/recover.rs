//! Instant Recovery: a machine started out of its backup, a Full and ten Incrementals in a volume of stock Bacula, until its
//! guest says that it is ready; beside it the same disk as a local raw file, and after a restore by bextract. Then: reading
//! ahead from slow storage, and many machines at once.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::fixtures::{Fixture, Kind};
use super::groups::{Bench, stock_volume};
use super::lab::Lab;
use super::measure;
use super::table::Table;
use crate::cmd::{self, quoted, quoted_path};
use crate::guests;

/// What the guest of `make-guest-vm.sh` says on its console.
const READY: &str = "GUEST-READY";

/// Incrementals after the Full.
const INCREMENTALS: u32 = 10;

/// Machines at once.
const AT_ONCE: u32 = 8;

/// Slow storage: bytes a second, and milliseconds that each read takes longer.
const SLOW: &str = "--slow-rate 20000000 --slow-latency 10";

/// A machine as `revenant recover` starts it, but for its disk and its sockets.
const QEMU: &str = "qemu-system-x86_64 -no-user-config -nodefaults -machine pc,accel=tcg,vmport=off -cpu max -smp 2 \
    -m 1024M -rtc base=utc -device virtio-serial-pci -device virtio-rng-pci -device VGA -display none \
    -device virtio-blk-pci,drive=disk0";

/// What all measurements of the group need.
struct Place<'a> {
    bench: &'a Bench,
    fixture: Fixture,
    /// The state folder, and one for the rest, quoted.
    state: String,
    scratch: String,
    /// Ends all that a measurement has left, and makes the folders anew.
    clean: String,
}

/// Measures the group.
pub fn recover(bench: &Bench) -> Result<Vec<Table>> {
    ensure!(cmd::find("qemu-system-x86_64").is_some(), "qemu-system-x86 is not installed");
    let fixture = bench.fixtures.get(Kind::Boot)?;
    let (state, scratch) = (bench.scratch("state"), bench.scratch("boot"));
    let clean = format!(
        "for s in {state}/sessions/*; do [ -d \"$s\" ] && {} -q recover stop ${{s##*/}} --state {state}; done\n\
         for p in {scratch}/*.pid; do [ -f \"$p\" ] && kill $(cat \"$p\"); done\n\
         rm -rf {state} {scratch}; mkdir -p {state} {scratch}",
        quoted(&bench.revenant)
    );
    let place = Place { bench, fixture, state, scratch, clean };
    let tables = vec![place.ready()?, place.export(), place.ahead()?, place.at_once()?];
    cmd::run_quietly(&mut cmd::command("sh", ["-c", &place.clean]))?;
    Ok(tables)
}

impl Place<'_> {
    /// A line that lasts until a guest is ready that writes into `log`.
    fn waits(log: &str) -> String {
        format!("until grep -qs {READY} {log}; do sleep 0.05; done")
    }

    /// A line that starts the machine by hand until it is ready; its disk is the block node `disk` says.
    fn boot(&self, disk: &str) -> String {
        let (scratch, console) = (&self.scratch, format!("{}/console", self.scratch));
        format!(
            "({QEMU} -blockdev {disk} -serial file:{console} -pidfile {scratch}/qemu.pid >/dev/null 2>&1 &); {}",
            Self::waits(&console)
        )
    }

    /// A line of Revenant on the machine's volume with its catalog.
    fn recovers(&self, words: &str) -> String {
        self.bench.with_catalog(&self.fixture, &format!("recover boot {words} --state {} >/dev/null 2>&1", self.state))
    }

    /// Until the guest is ready.
    fn ready(&self) -> Result<Table> {
        let Self { bench, scratch, clean, state, .. } = self;
        let mut table = Table::new("Until the guest is ready (TCG, two processors)");
        let raw = quoted_path(self.fixture.raw.as_deref().context("the guest's disk")?);
        let copied = format!("{clean}; cp --sparse=always {raw} {scratch}/disk.raw; cat {scratch}/disk.raw >/dev/null");
        let file =
            |driver: &str, path: &str| format!("driver={driver},node-name=disk0,file.driver=file,file.filename={path}");
        let local = self.boot(&file("raw", &format!("{scratch}/disk.raw")));
        bench.measure(&mut table, "local raw file", Some(&copied), &local, None);
        for door in ["nbd", "iscsi", "nfs"] {
            let line = self.recovers(&format!("--on qemu --memory 1024 --cpus 2 --through {door}"));
            let line = format!("{line}; {}", Self::waits(&format!("{state}/machines/*/console.log")));
            bench.measure(&mut table, &format!("revenant, by {door}"), Some(clean), &line, None);
        }
        // Again last: a machine that became slower meanwhile shows.
        bench.measure(&mut table, "local raw file, again", Some(&copied), &local, None);
        let top = format!("{scratch}{}", quoted(&self.fixture.big_file));
        let restore = format!(
            "{} {} {scratch} >/dev/null && {}",
            bench.lab().tool("bextract"),
            stock_volume(&self.fixture),
            self.boot(&file("qcow2", &top))
        );
        bench.measure(&mut table, "bextract, then boot", Some(clean), &restore, None);
        Ok(table)
    }

    /// The newest point of the machine in the tree.
    fn point(&self) -> Result<String> {
        let line = self.bench.with_catalog(&self.fixture, "points --json 2>/dev/null");
        let out = cmd::output(&mut cmd::command("sh", ["-c", &line]))?;
        let points: serde_json::Value = serde_json::from_slice(&out)?;
        let newest = points.as_array().and_then(|points| points.last()).context("a point")?;
        Ok(newest["tree_path"].as_str().context("`revenant points --json` shows no tree_path")?.to_owned())
    }

    /// Until disks can be used.
    fn export(&self) -> Table {
        let Self { bench, scratch, state, clean, .. } = self;
        let mut table = Table::new("Until the disks can be used");
        for door in ["nbd", "iscsi", "nfs"] {
            let line = self.recovers(&format!("--through {door}"));
            bench.measure(&mut table, &format!("by {door}"), Some(clean), &line, None);
        }
        let large = format!("{clean}; truncate -s 200G {scratch}/large.raw; mkfs.ext4 -q -F {scratch}/large.raw");
        for door in ["nbd", "iscsi", "nfs"] {
            let line = format!(
                "{} --image {scratch}/large.raw recover images/large.raw --through {door} --state {state} >/dev/null 2>&1",
                quoted(&bench.revenant)
            );
            bench.measure(&mut table, &format!("a disk of 200 GiB, by {door}"), Some(&large), &line, None);
        }
        table
    }

    /// A boot from slow storage, with and without what an earlier one has read.
    fn ahead(&self) -> Result<Table> {
        let Self { bench, clean, .. } = self;
        let mut table = Table::new("Until the guest is ready, from storage of 20 MB/s and 10 ms a read");
        let point = self.point()?;
        let verify = |more: &str| {
            let words = format!(
                "verify {} --boot --accelerator tcg --wait-for console:{READY} --memory 1024 --cpus 2 {more} >/dev/null 2>&1",
                quoted(&point)
            );
            bench.with_catalog(&self.fixture, &words)
        };
        // It notes what it reads.
        let prepare = format!("{clean}; {}", verify("--no-prefetch"));
        cmd::run_quietly(&mut cmd::command("sh", ["-c", &prepare]))?;
        bench.measure(&mut table, "read as it is asked for", None, &verify(&format!("{SLOW} --no-prefetch")), None);
        bench.measure(&mut table, "read ahead", None, &verify(SLOW), None);
        bench.measure(&mut table, "not slow, read ahead", None, &verify(""), None);
        Ok(table)
    }

    /// Machines at once: how long the slowest takes, against as many times what one alone takes.
    fn at_once(&self) -> Result<Table> {
        let mut table =
            Table::with_columns("Machines at once, each until its guest is ready", &["s", "of N times one alone"]);
        let machine = "--on qemu --memory 512 --cpus 2";
        let line = |count: u32| {
            let begin = self.recovers(machine);
            let all = format!("for n in $(seq {count}); do ( {begin} ) & done; wait");
            let ready = format!("$(grep -ls {READY} {}/machines/*/console.log | wc -l)", self.state);
            format!("{all}; until [ {ready} -ge {count} ]; do sleep 0.1; done")
        };
        let measured = |count: u32| -> Result<f64> {
            let line = line(count);
            eprintln!("  {count} at once: {line}");
            Ok(measure::single(Some(&self.clean), &line)?.seconds)
        };
        let alone = measured(1)?;
        let all = measured(AT_ONCE)?;
        let cells = |seconds: f64, count: u32| {
            vec![format!("{seconds:.1}"), format!("{:.2}", seconds / alone / f64::from(count))]
        };
        table.add_cells("one", &line(1), Ok(cells(alone, 1)));
        table.add_cells(&format!("{AT_ONCE}, the slowest"), &line(AT_ONCE), Ok(cells(all, AT_ONCE)));
        Ok(table)
    }
}

/// Makes the chain of images and has stock Bacula save each in a job of its own; the fixture's big file is the last.
pub fn make(lab: &Lab, name: &str, folder: &Path) -> Result<String> {
    let vm = guests::folder().join("vm");
    let raw = vm.join("guest.raw");
    if !raw.exists() {
        cmd::run(cmd::command("bash", [cmd::root().join("tests/lab/make-guest-vm.sh")]).arg(&vm).arg("2G"))?;
    }
    if !raw.exists() {
        bail!("{} cannot be made here", raw.display());
    }
    let sh = |line: String| cmd::run_quietly(cmd::command("sh", ["-ec", &line]).current_dir(folder));
    sh(format!("rm -f *.qcow2; qemu-img convert -O qcow2 {} disk0.0000-full.qcow2", quoted_path(&raw)))?;
    // Its folder's name says nothing of a machine.
    let described = format!(r#"{{"name": "{name}", "disks": [{{"name": "disk0", "file": "disk0.0000-full.qcow2"}}]}}"#);
    std::fs::write(folder.join("machine.json"), described)?;
    lab.define(name, folder, &["--accurate", "--signature", "MD5"])?;
    lab.full(name)?;
    let mut last = "disk0.0000-full.qcow2".to_owned();
    for number in 1..=INCREMENTALS {
        let next = format!("disk0.{number:04}-inc.qcow2");
        // What the guest has not used yet: it starts as before.
        let write = format!("write -P {number} {}M 2M", 1800 + 4 * number);
        sh(format!(
            "sleep 1; qemu-img create -q -f qcow2 -b {last} -F qcow2 {next}; qemu-io -f qcow2 -c '{write}' {next} >/dev/null"
        ))?;
        lab.backup(name, "Incremental")?;
        last = next;
    }
    Ok(last)
}

/// The volume and all that belongs to it.
pub fn describe(name: &str, volume: &Path, catalog: &Path, folder: &Path, last: &str) -> Result<Fixture> {
    let big = folder.join(last);
    Ok(Fixture {
        name: name.to_owned(),
        volume: volume.to_owned(),
        catalog: catalog.to_owned(),
        big_file: big.to_string_lossy().into_owned(),
        big_file_bytes: std::fs::metadata(&big)?.len(),
        raw: Some(guests::folder().join("vm/guest.raw")),
        volume_bytes: std::fs::metadata(volume)?.len(),
    })
}
