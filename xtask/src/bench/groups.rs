//! What is measured: each group is a table of commands that do the same job, Revenant's first, then its peers.

use std::path::Path;

use anyhow::{Context, Result};

use super::backup;
use super::disks;
use super::fixtures::{Fixture, Fixtures, Kind};
use super::guests;
use super::iscsi;
use super::lab::Lab;
use super::measure;
use super::nfs;
use super::recover;
use super::synthetic;
use super::table::{Outcome, Table};
use crate::cmd::{self, quoted};
use crate::mounted::Mounted;

/// The groups, by the name that selects them.
pub const GROUPS: [(&str, Group); 13] = [
    ("list", list),
    ("first-byte", first_byte),
    ("sequential", sequential),
    ("fuse", fuse),
    ("extract", extract),
    ("library", library),
    ("nbd", disks::nbd),
    ("nfs", nfs::nfs),
    ("iscsi", iscsi::iscsi),
    ("convert", disks::convert),
    ("guests", guests::guests),
    ("recover", recover::recover),
    ("backup", backup::backup),
];

/// Measures one group.
pub type Group = fn(&Bench) -> Result<Vec<Table>>;

/// What all groups need.
pub struct Bench {
    /// The volumes.
    pub fixtures: Fixtures,
    /// The program to measure.
    pub revenant: String,
    /// Runs a command; the median counts.
    pub runs: usize,
}

impl Bench {
    pub(super) fn measure(&self, table: &mut Table, what: &str, prepare: Option<&str>, line: &str, bytes: Option<u64>) {
        eprintln!("  {what}: {line}");
        table.add(what, line, outcome(measure::median(prepare, line, self.runs), bytes));
    }

    /// The same for what takes minutes: one run.
    pub(super) fn measure_once(
        &self,
        table: &mut Table,
        what: &str,
        prepare: Option<&str>,
        line: &str,
        bytes: Option<u64>,
    ) {
        eprintln!("  {what}, once: {line}");
        table.add(&format!("{what}, one run"), line, outcome(measure::single(prepare, line), bytes));
    }

    pub(super) fn scratch(&self, name: &str) -> String {
        quoted(&self.fixtures.scratch().join(name).to_string_lossy())
    }

    /// A command line of Revenant on this volume, with a cache folder that `fresh_cache` empties.
    pub(super) fn revenant(&self, fixture: &Fixture, arguments: &str) -> String {
        let volume = quoted(&fixture.volume.to_string_lossy());
        format!("{} --volumes {volume} --cache {} {arguments}", quoted(&self.revenant), self.scratch("cache"))
    }

    /// The same with the volume's catalog.
    pub(super) fn with_catalog(&self, fixture: &Fixture, arguments: &str) -> String {
        let catalog = quoted(&format!("sqlite:{}", fixture.catalog.display()));
        self.revenant(fixture, &format!("--catalog {catalog} {arguments}"))
    }

    fn fresh_cache(&self) -> String {
        self.fresh("cache")
    }

    fn fresh(&self, name: &str) -> String {
        let folder = self.scratch(name);
        format!("rm -rf {folder} && mkdir -p {folder}")
    }

    /// The path in the tree of the only job of a volume.
    fn job_path(&self, fixture: &Fixture) -> Result<String> {
        let line = format!("{} 2>/dev/null", self.revenant(fixture, "jobs --json"));
        let out = cmd::output(&mut cmd::command("sh", ["-c", &line]))?;
        let jobs: serde_json::Value = serde_json::from_slice(&out)?;
        Ok(jobs[0]["tree_path"].as_str().context("`revenant jobs --json` shows no tree_path")?.to_owned())
    }

    /// The path in the tree of the big file.
    pub(super) fn big_path(&self, fixture: &Fixture) -> Result<String> {
        Ok(quoted(&format!("{}{}", self.job_path(fixture)?, fixture.big_file)))
    }

    pub(super) fn lab(&self) -> Lab {
        self.fixtures.lab()
    }
}

fn outcome(cost: Result<measure::Cost>, bytes: Option<u64>) -> Outcome {
    match cost {
        Ok(cost) => Outcome::Measured(cost, bytes),
        Err(error) => Outcome::Skipped(format!("{error:#}")),
    }
}

fn file_name(path: &Path) -> String {
    quoted(&path.file_name().unwrap_or_default().to_string_lossy())
}

/// `-V VOLUME DEVICE`, the last words of every stock tool.
pub(super) fn stock_volume(fixture: &Fixture) -> String {
    let device = fixture.volume.parent().unwrap_or(Path::new("."));
    format!("-V {} {}", file_name(&fixture.volume), quoted(&device.to_string_lossy()))
}

fn list(bench: &Bench) -> Result<Vec<Table>> {
    let big = bench.fixtures.get(Kind::Big)?;
    let mut table = Table::new("Listing jobs and all files: 4 GiB volume, no index, no catalog");
    let fresh = bench.fresh_cache();
    let bytes = Some(big.volume_bytes);
    let ours = |arguments: &str| format!("{} >/dev/null", bench.revenant(&big, arguments));
    bench.measure(&mut table, "all files, fresh cache", Some(&fresh), &ours("ls -R jobs"), bytes);
    bench.measure(&mut table, "all files, kept index", None, &ours("ls -R jobs"), bytes);
    bench.measure(&mut table, "jobs, fresh cache", Some(&fresh), &ours("jobs"), bytes);
    let stock = stock_volume(&big);
    let (bls, bscan) = (bench.lab().tool("bls"), bench.lab().tool("bscan"));
    bench.measure(&mut table, "stock, all files", None, &format!("{bls} {stock} >/dev/null"), bytes);
    bench.measure(&mut table, "stock, jobs", None, &format!("{bls} -j {stock} >/dev/null"), bytes);
    let work = bench.scratch("bscan");
    let schema = quoted(&Lab::schema()?.to_string_lossy());
    let empty_catalog = format!("{} && sqlite3 {work}/bacula.db <{schema}", bench.fresh("bscan"));
    let line = format!("timeout 600 {bscan} -s -m -n bacula -w {work} {stock} >/dev/null 2>&1");
    bench.measure_once(&mut table, "stock, into a catalog", Some(&empty_catalog), &line, bytes);
    let volume = quoted(&big.volume.to_string_lossy());
    let read_all = format!("dd if={volume} of=/dev/null bs=1M status=none");
    bench.measure(&mut table, "reading the bytes", None, &read_all, bytes);

    let million = bench.fixtures.get(Kind::Million)?;
    let mut many = Table::new("Listing 1 million files (synthetic volume)");
    let ours = |arguments: &str| format!("{} >/dev/null", bench.revenant(&million, arguments));
    bench.measure(&mut many, "fresh cache", Some(&fresh), &ours("ls -R jobs"), Some(million.volume_bytes));
    bench.measure(&mut many, "kept index", None, &ours("ls -R jobs"), Some(million.volume_bytes));
    let configuration = quoted(&synthetic::stock_configuration(bench.fixtures.folder())?.to_string_lossy());
    let line = format!("/usr/sbin/bls -c {configuration} {} >/dev/null", stock_volume(&million));
    bench.measure(&mut many, "stock bls", None, &line, Some(million.volume_bytes));
    Ok(vec![table, many])
}

fn first_byte(bench: &Bench) -> Result<Vec<Table>> {
    let mut table = Table::new("4 KiB from the middle of the big file, with the catalog");
    for (what, kind) in [("4 GiB volume", Kind::Big), ("64 GiB volume", Kind::Sparse64)] {
        let fixture = bench.fixtures.get(kind)?;
        let path = bench.big_path(&fixture)?;
        let middle = fixture.big_file_bytes / 2;
        let line = bench.with_catalog(&fixture, &format!("cat {path} --offset {middle} --length 4096"));
        let fresh = bench.fresh_cache();
        bench.measure(&mut table, what, Some(&fresh), &format!("{line} >/dev/null"), None);
        if let Some(raw) = &fixture.raw {
            let raw = quoted(&raw.to_string_lossy());
            let line = format!("dd if={raw} of=/dev/null bs=4096 count=1 skip={} status=none", middle / 4096);
            bench.measure(&mut table, "the raw file", None, &line, None);
        }
    }
    let line = format!("{} --version >/dev/null", quoted(&bench.revenant));
    bench.measure(&mut table, "starting the program", None, &line, None);
    Ok(vec![table])
}

fn sequential(bench: &Bench) -> Result<Vec<Table>> {
    let mut table = Table::new("The big file from start to end, to standard output");
    for (what, kind) in [("plain", Kind::Big), ("gzip", Kind::Gzip), ("LZO", Kind::Lzo)] {
        let fixture = bench.fixtures.get(kind)?;
        let path = bench.big_path(&fixture)?;
        let line = format!("{} >/dev/null", bench.revenant(&fixture, &format!("cat {path}")));
        bench.measure(&mut table, what, None, &line, Some(fixture.big_file_bytes));
        if let (Kind::Big, Some(raw)) = (kind, &fixture.raw) {
            let line = format!("dd if={} of=/dev/null bs=1M status=none", quoted(&raw.to_string_lossy()));
            bench.measure(&mut table, "pread of the raw file", None, &line, Some(fixture.big_file_bytes));
        }
    }
    Ok(vec![table])
}

fn fuse(bench: &Bench) -> Result<Vec<Table>> {
    let big = bench.fixtures.get(Kind::Big)?;
    let raw = big.raw.clone().context("the big fixture has a raw file")?;
    let raw_folder = quoted(&raw.parent().unwrap_or(Path::new("/")).to_string_lossy());
    let (raw_name, raw) = (file_name(&raw), quoted(&raw.to_string_lossy()));
    let place = |name: &str| bench.fixtures.scratch().join(name);
    let shown = |name: &str| quoted(&place(name).to_string_lossy());
    let (ours, bindfs, nbd) = ("mnt-revenant", "mnt-bindfs", "mnt-nbdfuse");
    let servers = [
        (
            "revenant",
            bench.revenant(&big, &format!("mount {} --foreground", shown(ours))),
            ours,
            format!("{}/{}", shown(ours), bench.big_path(&big)?),
        ),
        (
            "bindfs",
            format!("bindfs -f --no-allow-other {raw_folder} {}", shown(bindfs)),
            bindfs,
            format!("{}/{raw_name}", shown(bindfs)),
        ),
        (
            "nbdkit and nbdfuse",
            format!("nbdfuse -r {} --command nbdkit -s file {raw}", shown(nbd)),
            nbd,
            format!("{}/nbd", shown(nbd)),
        ),
    ];
    let mut table = Table::new("The big file through FUSE");
    for (what, server, mountpoint, file) in &servers {
        let mounted = match Mounted::start(server, &place(mountpoint)) {
            Ok(mounted) => mounted,
            Err(error) => {
                table.add(what, server, Outcome::Skipped(format!("{error:#}")));
                continue;
            }
        };
        for (how, flags) in [("buffered", "bs=1M"), ("direct", "bs=1M iflag=direct")] {
            // Buffered reads of a second run would come from the kernel's page cache and measure nothing.
            let drop_cached = (how == "buffered").then(|| format!("dd if={file} iflag=nocache count=0 status=none"));
            let line = format!("dd if={file} of=/dev/null {flags} status=none");
            let label = format!("{what}, {how}");
            bench.measure(&mut table, &label, drop_cached.as_deref(), &line, Some(big.big_file_bytes));
        }
        if let Err(error) = mounted.stop() {
            eprintln!("  {what}: {error:#}");
        }
    }
    Ok(vec![table])
}

fn extract(bench: &Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for (what, kind) in [
        ("4 GiB: one disk image, 40,000 small files", Kind::Big),
        ("1 GiB of text, gzip", Kind::Gzip),
        ("1 GiB of text, LZO", Kind::Lzo),
    ] {
        let fixture = bench.fixtures.get(kind)?;
        let mut table = Table::new(&format!("Extracting everything: {what}"));
        let (fresh, out) = (bench.fresh("out"), bench.scratch("out"));
        let prepare = format!("{} && {fresh}", bench.fresh_cache());
        let path = quoted(&bench.job_path(&fixture)?);
        let ours = bench.revenant(&fixture, &format!("extract {path} -o {out}"));
        let bytes = Some(fixture.volume_bytes);
        bench.measure(&mut table, "revenant", Some(&prepare), &format!("{ours} 2>/dev/null"), bytes);
        let one_core = format!("taskset -c 0 {ours} 2>/dev/null");
        bench.measure(&mut table, "revenant, one core", Some(&prepare), &one_core, bytes);
        let stock = format!("{} {} {out} >/dev/null", bench.lab().tool("bextract"), stock_volume(&fixture));
        bench.measure(&mut table, "bextract", Some(&fresh), &stock, bytes);
        tables.push(table);
    }
    let _ = std::fs::remove_dir_all(bench.fixtures.scratch());
    Ok(tables)
}

/// The library's own benchmark, where `volreader` has one: it prints its table itself.
fn library(bench: &Bench) -> Result<Vec<Table>> {
    let source = cmd::root().join("volreader/benches/read.rs");
    if !source.is_file() {
        eprintln!("skipped: volreader/benches/read.rs is not there yet");
        return Ok(Vec::new());
    }
    let big = bench.fixtures.get(Kind::Big)?;
    let raw = big.raw.clone().context("the big fixture has a raw file")?;
    let mut command = cmd::cargo();
    command.args(["bench", "--package", "volreader", "--bench", "read"]);
    command.env("BENCH_VOLUME", &big.volume).env("BENCH_CATALOG", &big.catalog);
    command.env("BENCH_FILE", &big.big_file).env("BENCH_RAW", raw);
    cmd::run(&mut command)?;
    Ok(Vec::new())
}
