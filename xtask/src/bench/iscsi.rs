//! A disk by iSCSI: inside a volume, and the equal raw file served by ourselves and by tgtd.

use anyhow::{Context, Result, bail};

use super::fixtures::Kind;
use super::groups::Bench;
use super::server::{At, Server};
use super::table::Table;
use crate::cmd::{self, quoted};

/// Seconds of each measurement.
const SECONDS: u32 = 4;

/// Patterns of reading: name, iscsi-perf's words, bytes of a read, whether bandwidth or operations are what counts.
const PATTERNS: [(&str, &str, f64, bool); 4] = [
    ("sequential 1 MiB, depth 1", "-b 2048 -m 1", 1_048_576.0, true),
    ("sequential 1 MiB, depth 8", "-b 2048 -m 8", 1_048_576.0, true),
    ("random 4 KiB, depth 1", "-b 8 -m 1 -r", 4096.0, false),
    ("random 4 KiB, depth 32", "-b 8 -m 32 -r", 4096.0, false),
];

const NAME: &str = "iqn.2026-01.example.bench:disk";
/// The number by which tgtadm finds the tgtd of the benchmark, and not another one.
const CONTROL: u16 = 4713;

/// Reading a disk by iSCSI with libiscsi's iscsi-perf.
pub fn iscsi(bench: &Bench) -> Result<Vec<Table>> {
    if !crate::setup::ensure("iscsi-perf", "libiscsi-bin") || !crate::setup::ensure("tgtd", "tgt") {
        bail!("libiscsi-bin and tgt are needed");
    }
    let big = bench.fixtures.get(Kind::Big)?;
    let raw = quoted(&big.raw.clone().context("the big fixture has a raw file")?.to_string_lossy());
    let in_volume = bench.big_path(&big)?;
    std::fs::create_dir_all(bench.fixtures.scratch())?;
    let ours = |disk: &str, port: u16| {
        bench.revenant(&big, &format!("export iscsi {disk} --iqn {NAME} --listen 127.0.0.1:{port}"))
    };
    let tgtd = format!("tgtd -f -C {CONTROL} --iscsi portal=127.0.0.1:32603");
    let servers = [
        ("revenant, in the volume", ours(&in_volume, 32601), 32601, 0),
        ("revenant, raw file", ours(&raw, 32602), 32602, 0),
        ("tgtd, raw file", tgtd, 32603, 1),
    ];
    let mut running = Vec::new();
    for (what, line, port, lun) in &servers {
        running.push((what, line, lun, Server::start(line, At::Port(*port))?));
    }
    let admin = format!("tgtadm -C {CONTROL} --lld iscsi");
    let make = format!(
        "{admin} --mode target --op new --tid 1 -T {NAME} && \
         {admin} --mode logicalunit --op new --tid 1 --lun 1 -b {raw} && {admin} --mode target --op bind --tid 1 -I ALL"
    );
    cmd::run_quietly(&mut cmd::command("sh", ["-c", &make]))?;
    let mut tables = Vec::new();
    for (pattern, words, size, is_bandwidth) in PATTERNS {
        let unit = if is_bandwidth { "MiB/s" } else { "reads/s" };
        let mut table = Table::with_columns(&format!("iSCSI, {pattern}"), &[unit, "server CPU s/GiB", "peak MiB"]);
        // All servers in turn, several rounds: a busy moment hits them alike.
        let mut figures: Vec<Vec<(f64, f64)>> = vec![Vec::new(); running.len()];
        let volume = quoted(&big.volume.to_string_lossy());
        for _ in 0..bench.runs {
            // Into the page cache: some kernels take back what has not been used for a while.
            cmd::run_quietly(&mut cmd::command("sh", ["-c", &format!("cat {raw} {volume} >/dev/null")]))?;
            for ((_, _, lun, server), figures) in running.iter().zip(&mut figures) {
                figures.push(measure(server, **lun, words, size)?);
            }
        }
        for ((what, line, _, server), mut figures) in running.iter().zip(figures) {
            figures.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (reads, cpu) = figures[figures.len() / 2];
            let rate = if is_bandwidth { reads * size / 1_048_576.0 } else { reads };
            let peak = server.cost().1.div_ceil(1 << 20);
            let cells = vec![format!("{rate:.0}"), format!("{cpu:.2}"), peak.to_string()];
            eprintln!("  {pattern}: {what}: {}", cells.join(", "));
            table.add_cells(what, line, Ok(cells));
        }
        tables.push(table);
    }
    Ok(tables)
}

/// Reads a second, and the server's CPU seconds per GiB.
fn measure(server: &Server, lun: u16, words: &str, size: f64) -> Result<(f64, f64)> {
    let line = format!("timeout 60 iscsi-perf {words} -t {SECONDS} iscsi://{}/{NAME}/{lun}", server.at);
    let before = server.cost().0;
    let out = cmd::output(&mut cmd::command("sh", ["-c", &line]))?;
    let cpu = server.cost().0 - before;
    // "iops average 12345 (48 MB/s)", several times; the last is that of the whole run.
    let text = String::from_utf8_lossy(&out);
    let (_, last) = text.rsplit_once("iops average ").context("iscsi-perf reports nothing")?;
    let reads: f64 = last.split_whitespace().next().context("no number")?.parse()?;
    let bytes = reads * size * f64::from(SECONDS);
    Ok((reads, cpu / (bytes / (1_u64 << 30) as f64)))
}
