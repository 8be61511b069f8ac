//! Machines that a stock Bacula restores into the tree: disks and a machine, not files.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use tests::{
    gate::{Gate, by_qemu_img, log_of},
    lab::Lab,
    live_vm::LiveVm,
    program::Run,
    temp,
};

const MIB: usize = 1 << 20;

/// A moment after the last job and before the next, as Bacula writes it, and what the disks were.
struct Point {
    after: String,
    disks: Vec<Vec<u8>>,
}

fn a_second_later() -> String {
    thread::sleep(Duration::from_millis(1100));
    let out = Command::new("date").arg("+%F %T").output().expect("date");
    String::from_utf8(out.stdout).expect("text").trim().to_owned()
}

/// A lab, a machine with two disks, and a daemon that keeps restored disks in `folder`.
fn scene(folder: &Path) -> Option<(Lab, LiveVm, Gate)> {
    let lab = Lab::up()?;
    let mut vm = LiveVm::start(folder, 2, 64 * MIB)?;
    vm.write(0, 0, 3 * MIB, 0x11);
    vm.write(0, 40 * MIB, 65536, 0x12);
    vm.write(1, 63 * MIB, MIB, 0x13);
    let config = format!(
        "[[qemu]]\nname = \"web01\"\nqmp = {:?}\n[[storage]]\nname = \"first\"\npath = {:?}\n[[storage]]\nname = \"other\"\npath = {:?}\n",
        vm.qmp(),
        folder.join("first"),
        folder.join("other"),
    );
    let gate = Gate::with("qemu/web01", &config);
    gate.define(&lab, "web", &["--accurate"], &[]);
    Some((lab, vm, gate))
}

fn take(lab: &Lab, vm: &LiveVm, level: &str) -> Point {
    let disks = vm.disks.clone();
    let job = lab.backup_any("web", level);
    let status = lab.run(&["status", &job.to_string()]);
    assert_eq!(status.trim(), "T", "{}", log_of(lab, job));
    Point { after: a_second_later(), disks }
}

/// Has Bacula restore a point into `restore/<folder>` of the tree, and asks how that went.
fn restore(lab: &Lab, gate: &Gate, point: &Point, folder: &str, more: &[&str]) -> Run {
    let to = gate.mount().join("restore").join(folder);
    let words = [&["restore", "web", to.to_str().expect("text"), "--before", &point.after], more].concat();
    lab.run(&words);
    gate.bare(&["restore", "end", folder])
}

fn assert_disk(path: &Path, wanted: &[u8]) {
    let (folder, name) = (path.parent().expect("a folder"), path.file_name().expect("a name").to_str().expect("text"));
    let check = Command::new("qemu-img").args(["check", "-q", name]).current_dir(folder).output().expect("qemu-img");
    assert!(check.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&check.stderr));
    assert!(by_qemu_img(folder, name) == wanted, "{} is not what the disk was", path.display());
}

#[test]
fn chains_become_machines() {
    let folder = temp();
    let Some((lab, mut vm, gate)) = scene(folder.path()) else { return };
    let mut points = vec![take(&lab, &vm, "Full")];
    vm.write(0, 10 * MIB, 8192, 0x21);
    // Zeros over what was something else.
    vm.write(0, MIB, 200_000, 0);
    points.push(take(&lab, &vm, "Incremental"));
    vm.write(1, 63 * MIB, MIB, 0);
    vm.write(0, 10 * MIB + 4096, 65536, 0x31);
    points.push(take(&lab, &vm, "Incremental"));
    vm.write(1, 0, 512, 0x41);
    points.push(take(&lab, &vm, "Differential"));
    vm.write(0, 63 * MIB, 512, 0x51);
    points.push(take(&lab, &vm, "Incremental"));
    for (number, point) in points.iter().enumerate() {
        let run = restore(&lab, &gate, point, &format!("qemu/web-{number}"), &[]).good();
        assert!(run.text().contains("proven by"), "{}", run.text());
        for (disk, wanted) in point.disks.iter().enumerate() {
            assert_disk(&folder.path().join(format!("first/web-{number}/vd{disk}.qcow2")), wanted);
        }
    }
    let machines = gate.bare(&["recover", "list", "--all", "--json"]).json();
    let names: Vec<_> =
        machines.as_array().expect("machines").iter().map(|m| m["id"].as_str().expect("text")).collect();
    assert_eq!(names, ["web-0", "web-1", "web-2", "web-3", "web-4"]);

    // What is wished for is said in the folder's name.
    let wished = "qemu/wished,start,network=none,storage=other,format=raw";
    let run = restore(&lab, &gate, &points[4], wished, &[]).good();
    assert!(run.text().contains("started"), "{}", run.text());
    let raw = fs::read(folder.path().join("other/wished/vd1.raw")).expect("a raw disk");
    assert!(raw == points[4].disks[1]);
    let machine = gate.bare(&["recover", "show", "wished", "--json"]).json();
    assert_eq!(machine["machine_state"]["state"], "running", "{machine}");
    let pid = machine["machine_state"]["pid"].to_string();
    assert!(Command::new("kill").arg(pid).status().expect("kill").success());
    // The folder of a restore that is over has its result, and nothing else.
    let left = gate.mount().join("restore").join(wished);
    let entries: Vec<_> = fs::read_dir(&left).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(entries, ["result"]);
    assert!(fs::read_to_string(left.join("result")).expect("the result").contains("proven by"));
}
