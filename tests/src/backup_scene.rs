//! A running machine, and a stock Bacula that backs it up: jobs that go well and jobs that fail, and what is restored of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    gate::{Gate, by_qemu_img, log_of},
    lab::Lab,
    live_vm::LiveVm,
};

/// Bytes of a MiB.
pub const MIB: usize = 1 << 20;

/// What the disks were at a point, and the newest files of it.
#[derive(Debug)]
pub struct Point {
    /// The number of its job.
    pub job: u64,
    /// A moment after the job and before the next, as Bacula writes it.
    pub after: String,
    /// The bytes of its disks.
    pub disks: Vec<Vec<u8>>,
    /// The file of each.
    pub files: Vec<String>,
}

impl Point {
    /// That of `machine` in the job that has just gone well, while `vm` stood still.
    ///
    /// # Panics
    ///
    /// When it has none.
    #[must_use]
    pub fn of(job: u64, gate: &Gate, machine: &str, vm: &LiveVm) -> Self {
        let points = gate.machine(machine)["points"].clone();
        let files = points.as_array().and_then(|all| all.last()).expect("a point")["files"].clone();
        let files = files.as_array().expect("files").iter().map(|f| f.as_str().expect("text").to_owned()).collect();
        Self { job, after: a_second_later(), disks: vm.disks.clone(), files }
    }
}

/// Restores a job's point by stock Bacula, and compares its disks by stock qemu-img.
///
/// # Panics
///
/// When they are not what the disks were.
pub fn compare(lab: &Lab, gate: &Gate, name: &str, point: &Point) {
    compare_in(lab, &gate.folder(), name, point);
}

/// The same of a machine whose folder in the tree is `folder`.
///
/// # Panics
///
/// When they are not what the disks were.
pub fn compare_in(lab: &Lab, folder: &Path, name: &str, point: &Point) {
    let out = lab.0.join(format!("restored-{}", point.job));
    lab.run(&["restore", name, out.to_str().expect("text"), "--before", &point.after]);
    let folder: PathBuf = out.join(folder.strip_prefix("/").expect("an absolute path"));
    for (disk, file) in point.disks.iter().zip(&point.files) {
        assert!(by_qemu_img(&folder, file) == *disk, "job {}: {file} is not what the disk was", point.job);
    }
    fs::remove_dir_all(&out).expect("removing");
}

/// The time in a second: Bacula's times have no fractions.
///
/// # Panics
///
/// When there is no `date`.
#[must_use]
pub fn a_second_later() -> String {
    thread::sleep(Duration::from_millis(1100));
    let out = Command::new("date").arg("+%F %T").output().expect("date");
    String::from_utf8(out.stdout).expect("text").trim().to_owned()
}

/// Bacula's letter for how a job has ended.
///
/// # Panics
///
/// When the catalog does not answer.
#[must_use]
pub fn status(lab: &Lab, job: u64) -> String {
    lab.run(&["status", &job.to_string()]).trim().to_owned()
}

/// The files of the point of that number.
///
/// # Panics
///
/// When the machine's folder cannot be read.
#[must_use]
pub fn newest(gate: &Gate, number: u32) -> Vec<String> {
    let part = format!(".{number:04}-");
    gate.files().into_iter().filter(|name| name.contains(&part)).collect()
}

/// A lab, a machine of two disks with something on them, and a daemon; `None`, with a line that says why, where they cannot
/// be had.
///
/// # Panics
///
/// When one does not start.
#[must_use]
pub fn scene(folder: &Path) -> Option<(Lab, LiveVm, Gate)> {
    let lab = Lab::up()?;
    let mut vm = LiveVm::start(folder, 2, 64 * MIB)?;
    vm.write(0, 0, 3 * MIB, 0x11);
    vm.write(0, 40 * MIB, 65536, 0x12);
    vm.write(1, 63 * MIB, MIB, 0x13);
    let gate = Gate::new(&vm);
    Some((lab, vm, gate))
}

/// Runs a job that has to fail, and gives its log.
///
/// # Panics
///
/// When it goes well.
#[must_use]
pub fn fails(lab: &Lab, name: &str, level: &str) -> String {
    let job = lab.backup_any(name, level);
    let log = log_of(lab, job);
    assert!(["E", "f", "A"].contains(&status(lab, job).as_str()), "{}: {log}", status(lab, job));
    log
}

/// Runs a job that has to go well.
///
/// # Panics
///
/// When it fails.
#[must_use]
pub fn succeeds(lab: &Lab, gate: &Gate, vm: &LiveVm, level: &str) -> (Point, String) {
    let job = lab.backup_any("web", level);
    let log = log_of(lab, job);
    assert_eq!(status(lab, job), "T", "{log}");
    (Point::of(job, gate, "qemu/web01", vm), log)
}
