//! Instant Recovery: a machine started out of its backup, a Full and ten Incrementals in a volume of stock Bacula, until its
//! guest says that it is ready; beside it the same disk as a local raw file, and after a restore by bextract. Then: until
//! disks can be used, reading ahead from slow storage, and many machines at once.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::fixtures::{Fixture, Kind};
use super::groups::{Bench, stock_volume};
use super::lab::Lab;
use super::measure::{self, Prepared};
use super::table::Table;
use crate::cmd::{self, quoted, quoted_path};
use crate::guests;

/// What the guest of `make-guest-vm.sh` says on its console.
const READY: &str = "GUEST-READY";

/// Incrementals after the Full.
const INCREMENTALS: u32 = 10;

/// Machines at once.
const AT_ONCE: u32 = 8;

/// The machine that is started, and one with a large disk of which little is used.
const MACHINE: &str = "boot";
const LARGE: &str = "large";

/// Protocols by which disks are served.
const DOORS: [&str; 3] = ["nbd", "iscsi", "nfs"];

/// Slow storage: bytes a second, and milliseconds that each read takes longer.
const SLOW: &str = "--slow-rate 20000000 --slow-latency 10";

/// A machine as `revenant recover` starts it, but for its disk and its sockets.
const QEMU: &str = "qemu-system-x86_64 -no-user-config -nodefaults -machine pc,accel=tcg,vmport=off -cpu max -smp 2 \
    -m 1024M -rtc base=utc -device virtio-serial-pci -device virtio-rng-pci -device VGA -display none \
    -device virtio-blk-pci,drive=disk0";

/// How often it is looked whether a guest is ready, in seconds, and how often at most: twenty minutes.
const LOOK: &str = "0.05";
const LOOKS_MAX: u32 = 24_000;

/// What all measurements of the group need.
struct Place<'a> {
    bench: &'a Bench,
    fixture: Fixture,
    /// The state folder, and one for the rest, quoted.
    state: String,
    scratch: String,
    /// Ends all that a measurement has left.
    end: String,
    /// The same, and makes everything anew: folders, a daemon, the volume in the page cache.
    clean: String,
}

/// Measures the group.
pub fn recover(bench: &Bench) -> Result<Vec<Table>> {
    ensure!(cmd::find("qemu-system-x86_64").is_some(), "qemu-system-x86 is not installed");
    let fixture = bench.fixtures.get(Kind::Boot)?;
    let (state, scratch, cache) = (bench.scratch("state"), bench.scratch("boot"), bench.scratch("cache"));
    let (program, volume) = (quoted(&bench.revenant), quoted_path(&fixture.volume));
    // What is to be started next gets memory and processors that the last one has given back.
    let end = format!(
        "for s in {state}/sessions/*; do [ -d \"$s\" ] && {program} -q recover stop \"${{s##*/}}\" --state {state}; done\n\
         for p in {scratch}/*.pid; do\n\
         [ -f \"$p\" ] || continue\n\
         pid=$(cat \"$p\"); kill $pid 2>/dev/null; while kill -0 $pid 2>/dev/null; do sleep {LOOK}; done\n\
         done\n\
         rm -rf {state} {scratch} {cache}"
    );
    let clean = format!(
        "{end}; mkdir -p {state} {scratch}; {program} -q serve --state {state} >{scratch}/daemon.log 2>&1 &\n\
         echo $! >{scratch}/daemon.pid; until [ -S {state}/control.sock ]; do sleep {LOOK}; done\n\
         cat {volume} >/dev/null"
    );
    let place = Place { bench, fixture, state, scratch, end, clean };
    let measured = (|| Ok(vec![place.ready()?, place.export(), place.ahead()?, place.at_once()?]))();
    cmd::run_quietly(&mut cmd::command("sh", ["-c", &place.end]))?;
    measured
}

impl Place<'_> {
    /// A line that lasts until `is_ready`, which is one for the shell, too.
    fn until(is_ready: &str) -> String {
        format!("n=0; until {is_ready}; do n=$((n+1)); [ $n -lt {LOOKS_MAX} ] || exit 9; sleep {LOOK}; done")
    }

    /// A line that lasts until a guest is ready that writes into `log`.
    fn waits(log: &str) -> String {
        Self::until(&format!("grep -qs {READY} {log}"))
    }

    /// A line that starts the machine by hand until it is ready; its disk is the block node `disk` says.
    fn boot(&self, disk: &str) -> String {
        let (scratch, console) = (&self.scratch, format!("{}/console", self.scratch));
        format!(
            "({QEMU} -blockdev {disk} -serial file:{console} -pidfile {scratch}/qemu.pid >/dev/null &); {}",
            Self::waits(&console)
        )
    }

    /// A line of Revenant on the machines' volume with its catalog.
    fn recovers(&self, machine: &str, words: &str) -> String {
        let words = format!("-q recover {machine} {words} --state {} >/dev/null", self.state);
        self.bench.with_catalog(&self.fixture, &words)
    }

    /// A row for each of `lines`: what it is, what is run before it, and it; all in turn. The last column has the time in
    /// times of the first row's.
    fn in_turn(&self, title: &str, relative: &'static str, lines: &[(String, Option<String>, String)]) -> Table {
        let mut table = Table::with_columns(title, &["median s", relative]);
        lines.iter().for_each(|(what, _, line)| eprintln!("  {what}: {line}"));
        let prepared: Vec<Prepared<'_>> = lines.iter().map(|(_, p, line)| (p.as_deref(), line.as_str())).collect();
        let costs = measure::in_turn(&prepared, self.bench.runs);
        let rows = lines.iter().zip(costs).map(|((what, _, line), cost)| (what.clone(), line.clone(), cost));
        table.add_relative(rows.collect(), 0);
        table
    }

    /// Until the guest is ready.
    fn ready(&self) -> Result<Table> {
        let Self { bench, scratch, clean, state, .. } = self;
        let raw = quoted_path(self.fixture.raw.as_deref().context("the guest's disk")?);
        let copied = format!("{clean}; cp --sparse=always {raw} {scratch}/disk.raw; cat {scratch}/disk.raw >/dev/null");
        let file =
            |driver: &str, path: &str| format!("driver={driver},node-name=disk0,file.driver=file,file.filename={path}");
        let mut lines =
            vec![("local raw file".to_owned(), Some(copied), self.boot(&file("raw", &format!("{scratch}/disk.raw"))))];
        for door in DOORS {
            let line = self.recovers(MACHINE, &format!("--on qemu --memory 1024 --cpus 2 --through {door}"));
            let line = format!("{line} && {}", Self::waits(&format!("{state}/machines/*/console.log")));
            lines.push((format!("revenant, by {door}"), Some(clean.clone()), line));
        }
        let top = format!("{scratch}{}", quoted(&self.fixture.big_file));
        let restore = format!(
            "{} {} {scratch} >/dev/null && {}",
            bench.lab().tool("bextract"),
            stock_volume(&self.fixture),
            self.boot(&file("qcow2", &top))
        );
        lines.push(("bextract, then boot".to_owned(), Some(clean.clone()), restore));
        Ok(self.in_turn("Until the guest is ready (TCG, two processors)", "of the raw file", &lines))
    }

    /// The newest point of the machine in the tree.
    fn point(&self) -> Result<String> {
        let line = self.bench.with_catalog(&self.fixture, "points --json 2>/dev/null");
        let out = cmd::output(&mut cmd::command("sh", ["-c", &line]))?;
        let points: serde_json::Value = serde_json::from_slice(&out)?;
        let path = |point: &serde_json::Value| Some(point["tree_path"].as_str()?.to_owned());
        let of_machine = |path: &String| path.starts_with(&format!("machines/{MACHINE}/"));
        let paths = points.as_array().into_iter().flatten().filter_map(path).filter(of_machine);
        paths.max().context("`revenant points --json` shows no tree_path of the machine")
    }

    /// Until disks can be used.
    fn export(&self) -> Table {
        let mut lines = Vec::new();
        for (machine, what) in [(MACHINE, "2 GiB"), (LARGE, "200 GiB")] {
            for door in DOORS {
                let line = self.recovers(machine, &format!("--through {door}"));
                lines.push((format!("a disk of {what}, by {door}"), Some(self.clean.clone()), line));
            }
        }
        self.in_turn("Until the disks can be used", "of the first", &lines)
    }

    /// A boot from slow storage, with and without what an earlier one has read.
    fn ahead(&self) -> Result<Table> {
        let point = self.point()?;
        let verify = |more: &str| {
            let words = format!(
                "verify {} --boot --accelerator tcg --wait-for console:{READY} --memory 1024 --cpus 2 {more} >/dev/null",
                quoted(&point)
            );
            self.bench.with_catalog(&self.fixture, &words)
        };
        // It notes what it reads.
        let prepare = format!("{}; {}", self.clean, verify("--no-prefetch"));
        cmd::run_quietly(&mut cmd::command("sh", ["-c", &prepare]))?;
        let lines = [
            ("read as it is asked for", format!("{SLOW} --no-prefetch")),
            ("read ahead", SLOW.to_owned()),
            ("not slow, read as it is asked for", "--no-prefetch".to_owned()),
            ("not slow, read ahead", String::new()),
        ];
        let lines = lines.map(|(what, more)| (what.to_owned(), None, verify(&more)));
        let title = "Until the guest is ready, from storage of 20 MB/s and 10 ms a read";
        Ok(self.in_turn(title, "of the first", &lines))
    }

    /// Machines at once: how long the slowest takes, against as many times what one alone takes.
    fn at_once(&self) -> Result<Table> {
        let mut table =
            Table::with_columns("Machines at once, each until its guest is ready", &["s", "of N times one alone"]);
        let line = |count: u32| {
            let begin = self.recovers(MACHINE, "--on qemu --memory 512 --cpus 2");
            let ready = format!("[ $(grep -ls {READY} {}/machines/*/console.log | wc -l) -ge {count} ]", self.state);
            format!("for n in $(seq {count}); do {begin} & done; wait; {}", Self::until(&ready))
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
    let large = folder.join("large");
    std::fs::create_dir_all(&large)?;
    let make_large = "truncate -s 200G large.raw; mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 large.raw; \
                      qemu-img convert -f raw -O qcow2 large.raw large/disk.qcow2; rm large.raw";
    sh(make_large.to_owned())?;
    // Their folders' names say nothing of machines.
    for (name, folder, file) in [(MACHINE, folder, "disk0.0000-full.qcow2"), (LARGE, &large, "disk.qcow2")] {
        let described = format!(r#"{{"name": "{name}", "disks": [{{"name": "disk0", "file": "{file}"}}]}}"#);
        std::fs::write(folder.join("machine.json"), described)?;
    }
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
