//! Reading a disk by NFS: the disk inside a volume and as a datastore, against nfs-ganesha on the equal raw file.
//!
//! Ganesha wants a port mapper of its own, so everything runs in namespaces of its own for network and mounts, one load
//! after the other, several rounds: a busy moment hits all servers alike.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

use super::fixtures::Kind;
use super::groups::Bench;
use super::table::Table;
use crate::cmd::{self, quoted};

/// Seconds of each measurement.
const SECONDS: u32 = 3;

/// Patterns of reading: name, words of the load, whether bandwidth or operations are what counts.
const PATTERNS: [(&str, &str, bool); 4] = [
    ("sequential 1 MiB, depth 1", "--block 1048576 --depth 1", true),
    ("sequential 1 MiB, depth 8", "--block 1048576 --depth 8", true),
    ("random 4 KiB, depth 1", "--block 4096 --depth 1 --random", false),
    ("random 4 KiB, depth 32", "--block 4096 --depth 32 --random", false),
];

const GANESHA: &str = r#"
NFS_CORE_PARAM { Protocols = 3; NFS_Port = 20493; MNT_Port = 20494; Enable_NLM = false; Enable_RQUOTA = false; }
EXPORT { Export_Id = 1; Path = "FOLDER"; Pseudo = "/disk"; Protocols = 3; Transports = TCP; SecType = sys;
         Access_Type = RO; Squash = No_Root_Squash; FSAL { Name = VFS; } }
"#;

/// Measures the group.
pub fn nfs(bench: &Bench) -> Result<Vec<Table>> {
    for (program, package) in [("ganesha.nfsd", "nfs-ganesha"), ("rpcbind", "rpcbind")] {
        if !crate::setup::ensure(program, package) {
            bail!("{program} is needed (Debian: apt install nfs-ganesha nfs-ganesha-vfs rpcbind)");
        }
    }
    let big = bench.fixtures.get(Kind::Big)?;
    let raw = big.raw.clone().context("the big fixture has a raw file")?;
    let scratch = bench.fixtures.scratch();
    std::fs::create_dir_all(&scratch)?;
    let folder = raw.parent().context("a folder")?.to_string_lossy().into_owned();
    let file = raw.file_name().context("a name")?.to_string_lossy().into_owned();
    std::fs::write(scratch.join("ganesha.conf"), GANESHA.replace("FOLDER", &folder))?;
    let in_volume = bench.big_path(&big)?;
    let (tree, name) = in_volume.rsplit_once('/').context("a path of the tree")?;
    let datastore = bench.scratch("datastore");
    let ours = bench.revenant(&big, &format!("export nfs {} --listen 127.0.0.1:20491", quoted(tree)));
    let writable = bench
        .revenant(&big, &format!("export nfs {in_volume} --overlay {datastore} --format raw --listen 127.0.0.1:20492"));
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let ganesha = format!("ganesha.nfsd -F -f {} -L {}", bench.scratch("ganesha.conf"), bench.scratch("ganesha.log"));
    let servers = [
        ("revenant, in the volume", &ours, format!("20491 20491 --export / --file {}", quoted(name))),
        (
            "revenant, datastore",
            &writable,
            format!("20492 20492 --export /datastore --file {}", quoted(&format!("{stem}.raw"))),
        ),
        (
            "nfs-ganesha, raw file",
            &ganesha,
            format!("20493 20494 --export {} --file {}", quoted(&folder), quoted(&file)),
        ),
    ];
    let load = quoted(&std::env::current_exe()?.to_string_lossy());
    let mut script = format!(
        "set -e; ip link set lo up; mount -t tmpfs none /run; mkdir -p /run/ganesha; rm -rf {datastore}; rpcbind -f & p=$!; sleep 1\n\
         trap 'kill $p' EXIT\n"
    );
    for (_, line, place) in &servers {
        script.push_str(&format!("{line} >/dev/null & p=\"$p $!\"\n"));
        let probe = format!("{load} nfs-load {place} --block 4096 --depth 1 --seconds 0 >/dev/null 2>&1");
        script.push_str(&format!("for n in $(seq 600); do {probe} && break; sleep 0.1; done\n"));
    }
    for round in 0..bench.runs {
        script.push_str(&format!(
            "cat {} {} >/dev/null\n",
            quoted(&raw.to_string_lossy()),
            quoted(&big.volume.to_string_lossy())
        ));
        for (number, (_, words, _)) in PATTERNS.iter().enumerate() {
            for (server, (_, _, place)) in servers.iter().enumerate() {
                script.push_str(&format!(
                    "echo {round} {number} {server} $({load} nfs-load {place} {words} --seconds {SECONDS})\n"
                ));
            }
        }
    }
    let out = cmd::output(&mut cmd::command("unshare", ["-n", "-m", "sh", "-c", &script]))?;
    let mut figures: HashMap<(usize, usize), Vec<f64>> = HashMap::new();
    for line in String::from_utf8_lossy(&out).lines() {
        let mut words = line.split(' ').skip(1);
        let number = |word: Option<&str>| word.and_then(|w| w.parse().ok());
        if let (Some(pattern), Some(server)) = (number(words.next()), number(words.next())) {
            let rate = words.next().and_then(|w| w.parse().ok()).with_context(|| format!("no figure: {line}"))?;
            figures.entry((pattern, server)).or_default().push(rate);
        }
    }
    let mut tables = Vec::new();
    for (number, (pattern, _, is_bandwidth)) in PATTERNS.iter().enumerate() {
        let unit = if *is_bandwidth { "MiB/s" } else { "reads/s" };
        let mut table = Table::with_columns(&format!("NFS, {pattern}"), &[unit]);
        for (server, (what, line, _)) in servers.iter().enumerate() {
            let mut rates = figures.remove(&(number, server)).unwrap_or_default();
            rates.sort_by(f64::total_cmp);
            let rate = rates.get(rates.len() / 2).copied().unwrap_or(0.0);
            let rate = if *is_bandwidth { rate / 1_048_576.0 } else { rate / 4096.0 };
            eprintln!("  {pattern}: {what}: {rate:.0}");
            table.add_cells(what, line, Ok(vec![format!("{rate:.0}")]));
        }
        tables.push(table);
    }
    Ok(tables)
}
