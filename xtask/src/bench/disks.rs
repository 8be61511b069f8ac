//! Disks: served by NBD, converted. What is inside a volume against what the peers do with the equal raw file.

use anyhow::{Context, Result, bail};

use super::fixtures::Kind;
use super::groups::Bench;
use super::server::{At, Server};
use super::table::Table;
use crate::cmd::{self, quoted};

/// Seconds of each measurement.
const SECONDS: u32 = 3;

/// Patterns of reading: name, fio's words, whether bandwidth or operations are what counts.
const PATTERNS: [(&str, &str, bool); 4] = [
    ("sequential 1 MiB, depth 1", "--rw=read --bs=1M --iodepth=1", true),
    ("sequential 1 MiB, depth 8", "--rw=read --bs=1M --iodepth=8", true),
    ("random 4 KiB, depth 1", "--rw=randread --bs=4k --iodepth=1", false),
    ("random 4 KiB, depth 32", "--rw=randread --bs=4k --iodepth=32", false),
];

/// Reading a disk over NBD: the disk inside the volume, and the raw file served by the peers.
pub fn nbd(bench: &Bench) -> Result<Vec<Table>> {
    if !crate::setup::ensure("fio", "fio") || !crate::setup::ensure("nbdkit", "nbdkit") {
        bail!("fio and nbdkit are needed");
    }
    let big = bench.fixtures.get(Kind::Big)?;
    let raw = quoted(&big.raw.clone().context("the big fixture has a raw file")?.to_string_lossy());
    let in_volume = bench.big_path(&big)?;
    let socket = |name: &str| bench.fixtures.scratch().join(format!("{name}.sock"));
    std::fs::create_dir_all(bench.fixtures.scratch())?;
    let shown = |name: &str| quoted(&socket(name).to_string_lossy());
    let ours = |disk: &str, name: &str| {
        bench.revenant(&big, &format!("export nbd {disk} --name disk --listen unix:{}", shown(name)))
    };
    let servers = [
        ("revenant, in the volume", "volume", ours(&in_volume, "volume"), "disk"),
        ("revenant, raw file", "raw", ours(&raw, "raw"), "disk"),
        ("qemu-nbd, raw file", "qemu", format!("qemu-nbd -r -t -e 16 -f raw -k {} {raw}", shown("qemu")), ""),
        ("nbdkit, raw file", "nbdkit", format!("nbdkit -f -r -U {} file {raw}", shown("nbdkit")), ""),
    ];
    let mut running = Vec::new();
    for (what, name, line, export) in &servers {
        running.push((what, line, export, Server::start(line, At::Socket(socket(name)))?));
    }
    let mut tables = Vec::new();
    for (pattern, words, is_bandwidth) in PATTERNS {
        let unit = if is_bandwidth { "MiB/s" } else { "reads/s" };
        let mut table = Table::with_columns(&format!("NBD, {pattern}"), &[unit, "server CPU s/GiB", "peak MiB"]);
        // All servers in turn, several rounds: a busy moment hits them alike.
        let mut figures: Vec<Vec<(f64, f64)>> = vec![Vec::new(); running.len()];
        let volume = quoted(&big.volume.to_string_lossy());
        for _ in 0..bench.runs {
            // Into the page cache: some kernels take back what has not been used for a while.
            cmd::run_quietly(&mut cmd::command("sh", ["-c", &format!("cat {raw} {volume} >/dev/null")]))?;
            for ((_, _, export, server), figures) in running.iter().zip(&mut figures) {
                figures.push(measure(server, export, words)?);
            }
        }
        for ((what, line, _, server), mut figures) in running.iter().zip(figures) {
            figures.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (bytes, cpu) = figures[figures.len() / 2];
            let rate = if is_bandwidth { bytes / 1_048_576.0 } else { bytes / 4096.0 };
            let peak = server.cost().1.div_ceil(1 << 20);
            let cells = vec![format!("{rate:.0}"), format!("{cpu:.2}"), peak.to_string()];
            eprintln!("  {pattern}: {what}: {}", cells.join(", "));
            table.add_cells(what, line, Ok(cells));
        }
        tables.push(table);
    }
    Ok(tables)
}

/// Bytes a second, and the server's CPU seconds per GiB.
fn measure(server: &Server, export: &str, words: &str) -> Result<(f64, f64)> {
    let uri = format!("nbd+unix:///{export}?socket={}", server.at);
    let line = format!(
        "fio --name=x --ioengine=nbd '--uri={uri}' {words} --size=3g --runtime={SECONDS} --time_based --randrepeat=1 \
         --output-format=json"
    );
    let before = server.cost().0;
    let out = cmd::output(&mut cmd::command("sh", ["-c", &line]))?;
    let cpu = server.cost().0 - before;
    // It says first that it is connected.
    let start = out.iter().position(|b| *b == b'{').context("fio reports nothing")?;
    let report: serde_json::Value = serde_json::from_slice(&out[start..]).context("fio's report")?;
    let read = &report["jobs"][0]["read"];
    let rate = read["bw_bytes"].as_f64().context("no bandwidth in fio's report")?;
    let bytes = read["io_bytes"].as_f64().context("no bytes in fio's report")?;
    Ok((rate, cpu / (bytes / (1u64 << 30) as f64)))
}

/// Converting the disk inside the volume against `qemu-img convert` of the equal raw file.
pub fn convert(bench: &Bench) -> Result<Vec<Table>> {
    let big = bench.fixtures.get(Kind::Big)?;
    let raw = quoted(&big.raw.clone().context("the big fixture has a raw file")?.to_string_lossy());
    let in_volume = bench.big_path(&big)?;
    let mut tables = Vec::new();
    for (kind, qemu) in [("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vhdx", "vhdx"), ("raw", "raw")] {
        let out = bench.scratch(&format!("convert.{kind}"));
        let fresh = format!("mkdir -p {} && rm -f {out} {out}.revenant-part && sync", bench.scratch(""));
        let bytes = Some(big.big_file_bytes);
        let mut table = Table::new(&format!("Converting a disk of 3.5 GiB to {kind}"));
        for (what, disk) in [("in the volume", &in_volume), ("raw file", &raw)] {
            for (how, more) in [("", ""), (", zeros kept", " --keep-zeros")] {
                let line = bench.revenant(&big, &format!("convert {disk} {out} -O {kind}{more} >/dev/null"));
                bench.measure(&mut table, &format!("revenant, {what}{how}"), Some(&fresh), &line, bytes);
            }
        }
        let line = format!("qemu-img convert -f raw -O {qemu} {raw} {out} && sync {out}");
        bench.measure(&mut table, "qemu-img, raw file", Some(&fresh), &line, bytes);
        tables.push(table);
    }
    let _ = std::fs::remove_dir_all(bench.fixtures.scratch());
    Ok(tables)
}
