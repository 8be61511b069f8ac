//! `cargo xtask demo`: the main job on real volumes, from nothing: mount, list, read, restore, compare.
//!
//! The volume is that of the corpus case `disk-raw`: a machine's disk in a Full and two Incrementals, written by a
//! stock Bacula. Everything read is compared with the SHA-256 that was taken from the original disk at that time.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::corpus::Case;
use crate::mounted::Mounted;
use crate::{cmd, setup};

const CASE: &str = "disk-raw";
/// The disk image inside the volumes.
const DISK: &str = "/srv/data/src/disk.img";

/// How to show it.
#[derive(Debug, Args)]
pub struct Options {
    /// Do without FUSE: ls and cat only
    #[arg(long)]
    no_mount: bool,
    /// The program to show; built in release if not given
    #[arg(long)]
    revenant: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(options: &Options) -> Result<()> {
    let revenant = match &options.revenant {
        Some(path) => path.canonicalize()?,
        None => cmd::build_revenant()?,
    };
    let folder = tempfile::tempdir()?;
    let case = Case::open(CASE)?;
    say(&format!(
        "A machine's disk, saved by stock Bacula {} in {} jobs: a Full and Incrementals",
        case.bacula_release,
        case.restore_points.len()
    ));
    let start = Instant::now();
    let volumes = folder.path().join("volumes");
    for volume in case.unpack_volumes(&volumes)? {
        let name = volume.file_name().unwrap_or_default().to_string_lossy();
        done(&format!("volume {name} unpacked, {} MiB", fs::metadata(&volume)?.len() >> 20), start);
    }
    let demo = Demo { revenant, volumes, cache: folder.path().join("cache"), case };

    say("Its jobs, from the volume alone: no catalog, no Bacula");
    demo.show(&["jobs"])?;
    let points = demo.points()?;

    let can_mount = !options.no_mount && Path::new("/dev/fuse").exists() && setup::ensure("fusermount3", "fuse3");
    if can_mount {
        demo.look_around(&folder.path().join("mnt"), &points)?;
    } else {
        say("No FUSE here: the same tree without mounting, by ls and cat");
        demo.without_mount(&points)?;
    }
    demo.restore(&folder.path().join("restored"), &points)?;
    say("Everything read equals the original disk.");
    Ok(())
}

/// A merged restore point: where it is in the tree and what the disk in it must be.
struct Point {
    title: String,
    path: String,
    disk_sha256: String,
}

struct Demo {
    revenant: PathBuf,
    volumes: PathBuf,
    cache: PathBuf,
    case: Case,
}

impl Demo {
    fn revenant(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.revenant);
        command.args(arguments).arg("--volumes").arg(&self.volumes).env("REVENANT_CACHE", &self.cache);
        command
    }

    /// Runs the program as a user would, its output as it is.
    fn show(&self, arguments: &[&str]) -> Result<()> {
        println!("  $ revenant {}", arguments.join(" "));
        let start = Instant::now();
        let out = cmd::output(&mut self.revenant(arguments))?;
        for line in String::from_utf8_lossy(&out).lines() {
            println!("  {line}");
        }
        done(arguments[0], start);
        Ok(())
    }

    /// The restore points, in order of time, as `jobs --json` names them.
    fn points(&self) -> Result<Vec<Point>> {
        let out = cmd::output(&mut self.revenant(&["jobs", "--json"]))?;
        let jobs: Vec<serde_json::Value> = serde_json::from_slice(&out).context("revenant jobs --json")?;
        self.case
            .restore_points
            .iter()
            .map(|point| {
                let id = *point.chain.last().context("an empty chain in case.json")?;
                let job = jobs.iter().find(|job| job["job_id"].as_u64() == Some(id));
                let path = job.and_then(|job| job["point_path"].as_str());
                let path = path.with_context(|| format!("revenant jobs --json shows no point_path of job {id}"))?;
                let disk = self.case.digests(point)?.remove(DISK).context("no disk in the manifest")?;
                Ok(Point { title: format!("{} (job {id})", point.level), path: path.to_owned(), disk_sha256: disk })
            })
            .collect()
    }

    fn look_around(&self, mountpoint: &Path, points: &[Point]) -> Result<()> {
        say("Mounted, it is a folder like any other");
        fs::create_dir(mountpoint)?;
        let start = Instant::now();
        let line = cmd::shown(&self.revenant(&["mount", "--foreground", "--quiet", &mountpoint.to_string_lossy()]));
        let mounted = Mounted::start(&format!("env REVENANT_CACHE={} {line}", self.cache.display()), mountpoint)?;
        done("mounted", start);
        for folder in ["jobs", "clients"] {
            let start = Instant::now();
            println!("  $ ls {folder}");
            for entry in sorted(&mountpoint.join(folder))? {
                println!("  {entry}");
            }
            done("listed", start);
        }
        for point in points {
            let disk = mountpoint.join(format!("{}{DISK}", point.path));
            check(point, || sha256(&mut File::open(&disk).with_context(|| disk.display().to_string())?))?;
        }
        let start = Instant::now();
        mounted.stop()?;
        done("unmounted", start);
        Ok(())
    }

    fn without_mount(&self, points: &[Point]) -> Result<()> {
        self.show(&["ls", "jobs"])?;
        for point in points {
            check(point, || {
                let mut cat =
                    self.revenant(&["cat", &format!("{}{DISK}", point.path)]).stdout(Stdio::piped()).spawn()?;
                let digest = sha256(cat.stdout.as_mut().context("no output of revenant cat")?)?;
                ensure!(cat.wait()?.success(), "revenant cat failed");
                Ok(digest)
            })?;
        }
        Ok(())
    }

    fn restore(&self, target: &Path, points: &[Point]) -> Result<()> {
        let (point, last) = points.last().zip(self.case.restore_points.last()).context("no restore points")?;
        say("The last point restored: files, owners, modes, times, holes; every digest verified");
        println!("  $ revenant extract {} -o restored", point.path);
        let start = Instant::now();
        let mut extract = self.revenant(&["extract", &point.path, "--quiet", "-o", &target.to_string_lossy()]);
        cmd::run_quietly(extract.stdout(Stdio::null()))?;
        done("extracted", start);
        let digests = self.case.digests(last)?;
        for (path, wanted) in &digests {
            let file = target.join(path.trim_start_matches('/'));
            let found = sha256(&mut File::open(&file).with_context(|| file.display().to_string())?)?;
            ensure!(found == *wanted, "{path} was restored wrong: SHA-256 {found}, not {wanted}");
        }
        println!("  {} files equal the originals", digests.len());
        Ok(())
    }
}

/// Reads a disk and compares it with the original.
fn check(point: &Point, read: impl FnOnce() -> Result<String>) -> Result<()> {
    let start = Instant::now();
    let found = read()?;
    ensure!(found == point.disk_sha256, "{}: disk.img has SHA-256 {found}, not {}", point.title, point.disk_sha256);
    println!("  {}", point.path);
    done(&format!("{}: disk.img has the SHA-256 of the original, {}...", point.title, &found[..16]), start);
    Ok(())
}

fn sha256(from: &mut dyn Read) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn sorted(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut names = entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn say(text: &str) {
    println!("\n{text}");
}

fn done(what: &str, start: Instant) {
    println!("  ({what}: {:.3} s)", start.elapsed().as_secs_f64());
}
