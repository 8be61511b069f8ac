//! Running machines backed up by a stock Bacula, and restored without this program.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use tests::{
    gate::{Gate, by_qemu_img, log_of},
    lab::Lab,
    live_vm::LiveVm,
    temp,
};

const MIB: usize = 1 << 20;

/// What the disks were at a point, and the newest files of it.
struct Point {
    job: u64,
    /// A moment after the job and before the next, as Bacula writes it.
    after: String,
    disks: Vec<Vec<u8>>,
    files: Vec<String>,
}

/// Restores a job's point by stock Bacula, and compares its disks by stock qemu-img.
fn compare(lab: &Lab, gate: &Gate, name: &str, point: &Point) {
    let out = lab.0.join(format!("restored-{}", point.job));
    lab.run(&["restore", name, out.to_str().expect("text"), "--before", &point.after]);
    let folder: PathBuf = out.join(gate.folder().strip_prefix("/").expect("an absolute path"));
    for (disk, file) in point.disks.iter().zip(&point.files) {
        assert!(by_qemu_img(&folder, file) == *disk, "job {}: {file} is not what the disk was", point.job);
    }
    fs::remove_dir_all(&out).expect("removing");
}

/// The time in a second: Bacula's times have no fractions.
fn a_second_later() -> String {
    thread::sleep(Duration::from_millis(1100));
    let out = Command::new("date").arg("+%F %T").output().expect("date");
    String::from_utf8(out.stdout).expect("text").trim().to_owned()
}

fn status(lab: &Lab, job: u64) -> String {
    lab.run(&["status", &job.to_string()]).trim().to_owned()
}

fn newest(gate: &Gate, number: u32) -> Vec<String> {
    let part = format!(".{number:04}-");
    gate.files().into_iter().filter(|name| name.contains(&part)).collect()
}

#[test]
fn a_chain_by_stock_bacula() {
    let Some(lab) = Lab::up() else { return };
    let folder = temp();
    let Some(mut vm) = LiveVm::start(folder.path(), 2, 64 * MIB) else { return };
    vm.write(0, 0, 3 * MIB, 0x11);
    vm.write(0, 40 * MIB, 65536, 0x12);
    vm.write(1, 63 * MIB, MIB, 0x13);
    let gate = Gate::new(&vm);
    // While the job reads, the guest goes on writing: what is backed up is what was there before.
    let meanwhile = [vm.write_command(0, MIB, 65536, 0xee), vm.write_command(1, 5 * MIB, 4096, 0xef)];
    gate.define(&lab, "web", &["--accurate"], &[&meanwhile[0], &meanwhile[1]]);
    let mut points: Vec<Point> = Vec::new();
    let mut take = |vm: &mut LiveVm, level: &str| {
        let disks = vm.disks.clone();
        let job = lab.backup("web", level);
        let log = log_of(&lab, job);
        assert_eq!(status(&lab, job), "T", "{log}");
        vm.disks[0][MIB..MIB + 65536].fill(0xee);
        vm.disks[1][5 * MIB..5 * MIB + 4096].fill(0xef);
        let number = u32::try_from(points.len()).expect("few") + 1;
        points.push(Point { job, after: a_second_later(), disks, files: newest(&gate, number) });
        log
    };
    let log = take(&mut vm, "Full");
    assert!(log.contains("web01: qemu ") && log.contains("2 disks"), "{log}");
    assert!(log.contains("delivered 2 of 2 disks"), "{log}");
    assert!(log.contains("CRASH CONSISTENT"), "{log}");
    vm.write(0, 10 * MIB, 8192, 0x21);
    let log = take(&mut vm, "Incremental");
    assert!(log.contains("changed") && log.contains("change tracking proven on"), "{log}");
    vm.write(0, 10 * MIB + 4096, 65536, 0x31);
    vm.write(1, 63 * MIB, MIB, 0);
    take(&mut vm, "Incremental");
    take(&mut vm, "Incremental");
    vm.write(1, 0, 512, 0x41);
    let log = take(&mut vm, "Differential");
    assert!(log.contains("Differential on"), "{log}");
    vm.write(0, 63 * MIB, 512, 0x51);
    take(&mut vm, "Incremental");
    let files: Vec<_> = points.iter().map(|p| p.files.join(" ")).collect();
    assert_eq!(
        files,
        [
            "vd0.0001-full.qcow2 vd1.0001-full.qcow2",
            "vd0.0002-inc.qcow2 vd1.0002-inc.qcow2",
            "vd0.0003-inc.qcow2 vd1.0003-inc.qcow2",
            "vd0.0004-inc.qcow2 vd1.0004-inc.qcow2",
            "vd0.0005-diff.qcow2 vd1.0005-diff.qcow2",
            "vd0.0006-inc.qcow2 vd1.0006-inc.qcow2",
        ]
    );
    points.iter().for_each(|point| compare(&lab, &gate, "web", point));
    // Each job has read what is its own and nothing else.
    let own = lab.run(&["sql", &format!("SELECT JobFiles FROM Job WHERE JobId={}", points[3].job)]);
    assert_eq!(own.trim(), "7", "two disks, machine.json, command line, RESTORE.txt, digests, the folder");
    // The bitmaps of what is not needed any more are gone, and nothing else of ours is left in QEMU.
    let left = vm.ask(r#"{"execute":"query-block-exports"}"#);
    assert_eq!(left.trim(), "[]");
}
