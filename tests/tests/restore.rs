//! Machines that a stock Bacula restores into the tree: disks and a machine, not files.

use std::{fs, path::Path, process::Command};

use tests::{
    backup_scene::{MIB, Point, status},
    gate::{Gate, by_qemu_img, log_of},
    lab::Lab,
    live_vm::LiveVm,
    mounted::wait,
    program::Run,
    temp,
};

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

fn take(lab: &Lab, gate: &Gate, vm: &LiveVm, level: &str) -> Point {
    let job = lab.backup_any("web", level);
    assert_eq!(status(lab, job), "T", "{}", log_of(lab, job));
    Point::of(job, gate, "qemu/web01", vm)
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
    let made = by_qemu_img(folder, name);
    let differs = made.iter().zip(wanted).position(|(a, b)| a != b);
    assert!(made == wanted, "{} is not what the disk was, from {differs:?} on", path.display());
}

/// Ends a machine that runs, as a loss of power would.
fn end_machine(gate: &Gate, name: &str) {
    let machine = || gate.bare(&["recover", "show", name, "--json"]).json()["machine_state"].clone();
    assert_eq!(machine()["state"], "running", "{}", machine());
    let pid = machine()["pid"].to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill").success());
    wait("the machine's end", || machine()["state"] == "off");
}

#[test]
fn chains_become_machines() {
    let folder = temp();
    let Some((lab, mut vm, gate)) = scene(folder.path()) else { return };
    let mut points = vec![take(&lab, &gate, &vm, "Full")];
    vm.write(0, 10 * MIB, 8192, 0x21);
    // Zeros over what was something else.
    vm.write(0, MIB, 200_000, 0);
    points.push(take(&lab, &gate, &vm, "Incremental"));
    vm.write(1, 63 * MIB, MIB, 0);
    vm.write(0, 10 * MIB + 4096, 65536, 0x31);
    points.push(take(&lab, &gate, &vm, "Incremental"));
    vm.write(1, 0, 512, 0x41);
    points.push(take(&lab, &gate, &vm, "Differential"));
    vm.write(0, 63 * MIB, 512, 0x51);
    points.push(take(&lab, &gate, &vm, "Incremental"));
    for (number, point) in points.iter().enumerate().skip(1).step_by(2).chain([(4, &points[4])]) {
        let run = restore(&lab, &gate, point, &format!("qemu/web-{number}"), &[]).good();
        assert!(run.text().contains("proven by"), "{}", run.text());
        for (disk, wanted) in point.disks.iter().enumerate() {
            assert_disk(&folder.path().join(format!("first/web-{number}/vd{disk}.qcow2")), wanted);
        }
    }
    let machines = gate.bare(&["recover", "list", "--all", "--json"]).json();
    let names: Vec<_> =
        machines.as_array().expect("machines").iter().map(|m| m["id"].as_str().expect("text")).collect();
    assert_eq!(names, ["web-1", "web-3", "web-4"]);

    let _ = gate.bare(&["recover", "start", "web-1"]).good();
    end_machine(&gate, "web-1");
    let _ = gate.bare(&["recover", "forget", "web-1"]).good();

    // What is wished for is said in the folder's name.
    let wished = "qemu/wished,start,network=none,storage=other,format=raw";
    let run = restore(&lab, &gate, &points[4], wished, &[]).good();
    assert!(run.text().contains("started"), "{}", run.text());
    let raw = fs::read(folder.path().join("other/wished/vd1.raw")).expect("a raw disk");
    assert!(raw == points[4].disks[1]);
    let run = restore(&lab, &gate, &points[4], "qemu/wished,disk=vd1,overwrite,storage=other,format=raw", &[]);
    assert!(run.code() == Some(2) && run.text().contains("runs: shut it down first"), "{}", run.text());
    end_machine(&gate, "wished");
    // The folder of a restore that is over has its result, and nothing else.
    let left = gate.mount().join("restore").join(wished);
    let entries: Vec<_> = fs::read_dir(&left).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(entries, ["result"]);
    assert!(fs::read_to_string(left.join("result")).expect("the result").contains("proven by"));
}

/// Runs the restore job that `revenant bacula-config` prints: its status, and its log.
fn by_job(lab: &Lab, gate: &Gate, folder: &str, which: &str) -> (String, String) {
    to_folder(lab, "vm-restore", &gate.mount().join("restore").join(folder), which)
}

/// Runs a restore job: its status, and its log.
fn to_folder(lab: &Lab, job: &str, to: &Path, which: &str) -> (String, String) {
    let command = format!(
        "restore restorejob={job} client=lab-fd restoreclient=lab-fd where={} {which} all done yes",
        to.display()
    );
    let said = lab.run(&["console", &command]);
    let job = said.split("Job queued. JobId=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let job = job.unwrap_or_else(|| panic!("no job: {said}"));
    lab.run(&["wait", job]);
    let job = job.parse().expect("a number");
    (status(lab, job), log_of(lab, job))
}

#[test]
fn what_is_wished_for_and_what_goes_wrong() {
    let folder = temp();
    let Some((lab, mut vm, gate)) = scene(folder.path()) else { return };
    let program = format!("{} --config {}", tests::program::path().display(), gate.config().display());
    let cache = folder.path().join("cache");
    let words = ["bacula-config", "--client", "lab-fd", "--job-defs", "VMs", "--program", &program];
    let jobs = gate.bare(&[&words[..], &["--cache", cache.to_str().expect("text")]].concat()).good().text();
    let defs = "JobDefs { Name = VMs; Type = Backup; Storage = web-sd; Pool = web-pool; Messages = Standard }\n";
    fs::write(lab.0.join("etc/jobs/vm-web01.dir"), format!("{defs}{jobs}")).expect("the jobs");
    fs::write(lab.0.join("etc/jobs/vm-web01.sd"), "").expect("no device");
    lab.run(&["define", "other", "--path", "/nonexistent"]);
    let full = lab.backup("vm-web01", "Full");
    vm.write(1, 20 * MIB, MIB, 0x22);
    let delta = lab.backup("vm-web01", "Incremental");
    let first = |name: &str| folder.path().join("first").join(name);

    let (status, log) = by_job(&lab, &gate, "qemu/web01", "fileset=vm-web01 select current");
    assert_eq!(status, "T", "{log}");
    assert!(log.contains("web01: disk vd1 of 64.0 MiB, proven by") && log.contains("a machine on"), "{log}");
    assert_disk(&first("web01/vd1.qcow2"), &vm.disks[1]);

    // It is there now: nobody's disk is replaced unasked.
    let (status, log) = by_job(&lab, &gate, "qemu/web01", &format!("jobid={full}"));
    assert_ne!(status, "T", "{log}");
    assert!(log.contains("is there already"), "{log}");
    assert_disk(&first("web01/vd1.qcow2"), &vm.disks[1]);
    let (status, log) = by_job(&lab, &gate, "qemu/web01,overwrite", &format!("jobid={full}"));
    assert_eq!(status, "T", "{log}");
    let mut then = vm.disks[1].clone();
    then[20 * MIB..21 * MIB].fill(0);
    assert_disk(&first("web01/vd1.qcow2"), &then);

    // A part of a chain is no disk.
    let (status, log) = by_job(&lab, &gate, "qemu/part", &format!("jobid={delta}"));
    assert!(["E", "f"].contains(&status.as_str()), "{status}: {log}");
    assert!(log.contains("part: NOT restored") && log.contains("missing vd0.0001-full.qcow2"), "{log}");
    let left: Vec<_> = fs::read_dir(first("part")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");

    // One disk.
    let (status, log) = by_job(&lab, &gate, "qemu/one,disk=vd1", "fileset=vm-web01 select current");
    assert_eq!(status, "T", "{log}");
    assert!(log.contains("no machine was made"), "{log}");
    assert_disk(&first("one/vd1.qcow2"), &vm.disks[1]);
    assert!(!first("one/vd0.qcow2").exists());
    for odd in ["qemu/x,begin", "vmware/x"] {
        let (status, log) = by_job(&lab, &gate, odd, "fileset=vm-web01 select current");
        assert_ne!(status, "T", "{log}");
    }

    // What was not backed up so: a byte that differs.
    let out = folder.path().join("files");
    let (status, log) = to_folder(&lab, "RestoreFiles", &out, &format!("jobid={full}"));
    assert_eq!(status, "T", "{log}");
    let source = out.join(gate.folder().strip_prefix("/").expect("an absolute path"));
    let copy = |names: &[&str], to: &str| {
        let to = gate.mount().join("restore/qemu").join(to);
        fs::create_dir_all(&to).expect("a folder");
        for name in names {
            let done = Command::new("cp").arg("--sparse=always").arg(source.join(name)).arg(&to).status().expect("cp");
            assert!(done.success(), "{name}");
        }
    };
    let all = ["machine.json", "vd0.0001-full.qcow2", "vd1.0001-full.qcow2", "0001.digests"];
    // In the last disk: what is complete before it does not stay either.
    let mut bytes = fs::read(source.join(all[2])).expect("a file");
    let at = bytes.len() - 1000;
    bytes[at] ^= 1;
    fs::write(source.join(all[2]), &bytes).expect("written");
    copy(&all, "flipped");
    let run = gate.bare(&["restore", "end", "qemu/flipped"]);
    assert_eq!(run.code(), Some(2), "{}", run.text());
    assert!(run.text().contains("are not what was backed up"), "{}", run.text());
    assert!(fs::read_dir(first("flipped")).into_iter().flatten().next().is_none());
    bytes[at] ^= 1;
    fs::write(source.join(all[2]), &bytes).expect("written");

    // Broken off, and once more from the start.
    copy(&["machine.json"], "again");
    fs::write(gate.mount().join("restore/qemu/again").join(all[2]), &bytes[..bytes.len() / 2]).expect("written");
    let waits = gate.bare(&["restore", "status", "--json"]).json();
    assert!(waits[0]["missing"].to_string().contains("vd1.0001-full.qcow2"), "{waits}");
    copy(&all, "again");
    let run = gate.bare(&["restore", "end", "qemu/again"]).good();
    assert!(run.text().contains("proven by"), "{}", run.text());
    assert_disk(&first("again/vd1.qcow2"), &then);
    let run = gate.bare(&["restore", "end", "qemu/nothing"]);
    assert!(run.code() == Some(2) && run.stderr.contains("nothing was restored into qemu/nothing"), "{}", run.stderr);
}

/// The daemon is killed while files come: what it has made is removed, and nothing is taken for a machine.
#[test]
fn a_crash_leaves_nothing() {
    let folder = temp();
    let Some(mut vm) = LiveVm::start(folder.path(), 1, 64 * MIB) else { return };
    vm.write(0, 0, 8 * MIB, 0x11);
    let storage = folder.path().join("disks");
    let config = format!(
        "[[qemu]]\nname = \"web01\"\nqmp = {:?}\n[[storage]]\nname = \"disks\"\npath = {storage:?}\n",
        vm.qmp()
    );
    let mut gate = Gate::with("qemu/web01", &config);
    let _ = gate.run(&["begin", "qemu/web01", "--level", "full", "--job", "j.1"]).good();
    let file = fs::read(gate.folder().join("vd0.0001-full.qcow2")).expect("the disk's file");
    let to = gate.mount().join("restore/qemu/web02");
    fs::create_dir_all(&to).expect("a folder");
    fs::write(to.join("vd0.0001-full.qcow2"), &file[..file.len() / 2]).expect("written");
    assert!(storage.join("web02/vd0.qcow2.new").exists());
    gate.kill();
    gate.start();
    assert!(!storage.join("web02/vd0.qcow2.new").exists());
    let run = gate.bare(&["restore", "end"]);
    assert!(run.code() == Some(2) && run.stderr.contains("restore once more"), "{}", run.stderr);
    let entries = fs::read_dir(gate.mount().join("restore/qemu")).expect("a folder").count();
    assert_eq!(entries, 0);
}
