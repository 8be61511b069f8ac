//! Backups of running machines by a stock Bacula while something goes wrong: what comes afterwards has everything, and what
//! is wrong is an error of the job.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use rustix::process::Signal;
use tests::{
    agent,
    backup_scene::{MIB, Point, compare, compare_in, fails, scene, status, succeeds},
    gate::{Gate, log_of},
    lab::Lab,
    live_vm::LiveVm,
    mounted::wait,
    random::Random,
    temp,
    tiny_guest::{Said, Writer},
};

/// So slow that a job can be caught while it runs.
const SLOW: [&str; 2] = ["--job-option", "Maximum Bandwidth = 1mb/s"];

/// A job that the File daemon is reading for.
fn being_read(lab: &Lab, gate: &Gate) -> u64 {
    let job = lab.begin("web", "Incremental");
    wait("what is read of the job", || gate.delivered() > 0);
    job
}

/// Bacula's letter and log of a job that was caught, once it has ended.
fn ended(lab: &Lab, job: u64) -> (String, String) {
    lab.wait(job);
    (status(lab, job), log_of(lab, job))
}

/// A job that is cancelled by the Director, and one whose File daemon is killed, while they are read. Nobody has to clean up
/// after them, and the next one has everything.
#[test]
fn jobs_that_are_cut_off() {
    let folder = temp();
    let Some((lab, mut vm, gate)) = scene(folder.path()) else { return };
    gate.define(&lab, "web", &SLOW, &[]);
    let (full, _) = succeeds(&lab, &gate, &vm, "Full");

    vm.write(0, 8 * MIB, 4 * MIB, 0x21);
    let job = being_read(&lab, &gate);
    lab.run(&["cancel", &job.to_string()]);
    let (letter, log) = ended(&lab, job);
    assert_eq!(letter, "A", "{log}");
    wait("the end of the job", || gate.is_idle());
    let (after_cancel, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("changed 4.0 MiB"), "{log}");

    vm.write(1, 8 * MIB, 4 * MIB, 0x31);
    let job = being_read(&lab, &gate);
    lab.kill_file_daemon();
    let (letter, log) = ended(&lab, job);
    assert!(["E", "f"].contains(&letter.as_str()), "{letter}: {log}");
    // Nobody says that this job has ended.
    wait("the end of the job", || gate.is_idle());
    assert!(gate.said().contains("is taken back: its File daemon is gone"), "{}", gate.said());
    assert_eq!(vm.ask(r#"{"execute":"query-block-jobs"}"#).trim(), "[]");
    lab.run(&["start"]);
    vm.write(1, 16 * MIB, 65536, 0x32);
    let (after_kill, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("changed 4.1 MiB"), "{log}");
    for point in [&full, &after_cancel, &after_kill] {
        compare(&lab, &gate, "web", point);
    }
}

/// The machine's QEMU is killed while the job is read, and the whole host is: the job is in error, and the next one takes
/// whole what cannot be known.
#[test]
fn hosts_that_lose_their_power() {
    let folder = temp();
    let Some((lab, mut vm, mut gate)) = scene(folder.path()) else { return };
    gate.define(&lab, "web", &SLOW, &[]);
    let (full, _) = succeeds(&lab, &gate, &vm, "Full");

    vm.write(0, 8 * MIB, 4 * MIB, 0x21);
    [0, 1].into_iter().for_each(|disk| vm.flush(disk));
    let job = being_read(&lab, &gate);
    vm.kill();
    let (letter, log) = ended(&lab, job);
    assert_eq!(letter, "E", "{log}");
    assert!(log.contains("this backup is NOT usable"), "{log}");
    // Nor is there one while it is off.
    let log = fails(&lab, "web", "Incremental");
    assert!(log.contains("web01: is it running?"), "{log}");
    vm.boot();
    let (after_qemu, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("disk vd0 is taken whole") && log.contains("power loss"), "{log}");
    assert_eq!(left(&gate), Vec::<String>::new());

    vm.write(1, 8 * MIB, 4 * MIB, 0x31);
    [0, 1].into_iter().for_each(|disk| vm.flush(disk));
    let job = being_read(&lab, &gate);
    gate.kill();
    vm.kill();
    lab.kill_file_daemon();
    assert!(fs::read_dir(gate.mount()).is_err(), "the mount is dead");
    let (letter, log) = ended(&lab, job);
    assert!(["E", "f"].contains(&letter.as_str()), "{letter}: {log}");
    vm.boot();
    gate.start();
    lab.run(&["start"]);
    vm.write(1, 16 * MIB, 65536, 0x32);
    let (after_host, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("disk vd1 is taken whole") && log.contains("power loss"), "{log}");
    let (last, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("changed 0 B"), "{log}");
    assert_eq!(left(&gate), Vec::<String>::new());
    for point in [&full, &after_qemu, &after_host, &last] {
        compare(&lab, &gate, "web", point);
    }
}

/// What jobs have left behind in the daemon's folder of the machine.
fn left(gate: &Gate) -> Vec<String> {
    let names = fs::read_dir(gate.state()).expect("the folder");
    let names = names.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    names.filter(|name| !name.ends_with(".digests")).collect()
}

/// A disk whose image was removed or replaced, or that was taken away and comes back: the log says so, and each point has what
/// the machine had.
#[test]
fn disks_that_are_missing() {
    let folder = temp();
    let Some((lab, mut vm, gate)) = scene(folder.path()) else { return };
    gate.define(&lab, "web", &[], &[]);
    let (full, log) = succeeds(&lab, &gate, &vm, "Full");
    assert!(!log.contains("WARNING"), "{log}");

    // Somebody deletes the image of a disk that the machine has open.
    let (image, aside) = (vm.image(1), folder.path().join("aside"));
    fs::rename(&image, &aside).expect("renaming");
    vm.write(1, 8 * MIB, 65536, 0x21);
    let (removed, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("the image of disk vd1 is not there any more") && log.contains("changed 64.0 KiB"), "{log}");
    fs::rename(&aside, &image).expect("renaming");

    // The machine loses the disk, and gets it back.
    vm.stop();
    let detached = vm.disks.pop().expect("a disk");
    vm.boot();
    vm.write(0, 8 * MIB, 65536, 0x31);
    let (without, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("NOT in this backup: disk vd1, which the last one had"), "{log}");
    assert_eq!(without.files.len(), 1);
    vm.stop();
    vm.disks.push(detached);
    vm.boot();
    let (again, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("disk vd1 is taken whole: it is new"), "{log}");

    // Its image is put back from elsewhere: what was tracked in the old one is gone.
    vm.stop();
    let mut copy = Command::new("qemu-img");
    copy.args(["convert", "-f", "qcow2", "-O", "qcow2"]).arg(&image).arg(&aside);
    assert!(copy.status().expect("qemu-img").success());
    fs::rename(&aside, &image).expect("renaming");
    vm.boot();
    vm.write(1, 9 * MIB, 65536, 0x41);
    let (replaced, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("disk vd1 is taken whole") && log.contains("the image was replaced"), "{log}");
    for point in [&full, &removed, &without, &again, &replaced] {
        compare(&lab, &gate, "web", point);
    }
}

/// A small disk, mounted.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &str) -> Self {
        let folder = temp();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.expect("mount").success());
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// What the guest overwrites during a job has no room: the job is in error and says where, the guest goes on writing, and
/// nothing that changed is lost.
#[test]
fn no_room_for_what_the_guest_overwrites() {
    let folder = temp();
    let Some(lab) = Lab::up() else { return };
    let Some(mut vm) = LiveVm::start(folder.path(), 1, 64 * MIB) else { return };
    vm.write(0, 0, 48 * MIB, 0x11);
    let small = SmallDisk::new("size=40m");
    let state = tempfile::Builder::new().prefix("s.").tempdir_in(small.0.path()).expect("a folder");
    let gate = Gate::in_state(state, "qemu/web01", &format!("[[qemu]]\nname = \"web01\"\nqmp = {:?}\n", vm.qmp()));
    gate.define(&lab, "web", &["--job-option", "Maximum Bandwidth = 2mb/s"], &[]);
    let job = lab.begin("web", "Full");
    wait("what is read of the job", || gate.delivered() > 0);
    // Every write of the guest's has to succeed.
    for number in 0..48 {
        vm.write(0, number * MIB, MIB, 0x22);
    }
    let (letter, log) = ended(&lab, job);
    assert_eq!(letter, "E", "{log}");
    let place = gate.state();
    assert!(log.contains(&format!("{} has no more than ", place.display())), "{log}");
    assert!(log.contains("what the guest overwrites during a backup goes there: make room"), "{log}");
    assert!(log.contains("this backup is NOT usable"), "{log}");
    assert_eq!(vm.ask(r#"{"execute":"query-block-jobs"}"#).trim(), "[]");

    // As little room is left before a job: it is not begun.
    let filler = place.join("filler");
    fs::write(&filler, vec![1; 36 * MIB + MIB / 2]).expect("a file that is large");
    let log = fails(&lab, "web", "Full");
    assert!(log.contains("make room, or name a folder on a larger disk"), "{log}");
    fs::remove_file(filler).expect("removing");
    gate.define(&lab, "web", &[], &[]);
    let (full, _) = succeeds(&lab, &gate, &vm, "Full");
    vm.write(0, 50 * MIB, 65536, 0x33);
    let (incremental, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("changed 64.0 KiB"), "{log}");
    [&full, &incremental].into_iter().for_each(|point| compare(&lab, &gate, "web", point));
}

/// The same while the daemon is down, with a guest that runs (`tests/lab/tiny-guests`): it is paused when there is no room left,
/// goes on when the daemon is back, and nothing that it was told to be written is lost.
#[test]
fn a_guest_that_waits_for_room() {
    const SIZE: usize = 24 * MIB;
    let folder = temp();
    let needed = tests::can_mount("a_guest_that_waits_for_room", &["qemu-img"]);
    let Some(writer) = needed.then(|| Writer::new(MIB as u64, 4096)).flatten() else { return };
    let (before, image, after) =
        (folder.path().join("before"), folder.path().join("disk0.qcow2"), folder.path().join("after"));
    let mut bytes = Random(11).bytes(SIZE);
    bytes[..512].copy_from_slice(&writer.sector);
    // Where it counts its starts.
    bytes[64 * 512..65 * 512].fill(0);
    fs::write(&before, bytes).expect("a disk");
    let convert = |from: &Path, to: &Path, format: &str| {
        let mut convert = Command::new("qemu-img");
        assert!(convert.args(["convert", "-O", format]).arg(from).arg(to).status().expect("qemu-img").success());
    };
    convert(&before, &image, "qcow2");
    let Some(vm) = LiveVm::start(folder.path(), 1, SIZE) else { return };
    let small = SmallDisk::new("size=8m");
    let state = tempfile::Builder::new().prefix("s.").tempdir_in(small.0.path()).expect("a folder");
    let mut gate = Gate::in_state(state, "qemu/web01", &format!("[[qemu]]\nname = \"web01\"\nqmp = {:?}\n", vm.qmp()));
    let _ = begin(&gate, "one.1").good();
    gate.kill();
    let console = folder.path().join("serial.log");
    let status = || vm.ask(r#"{"execute":"query-status"}"#);
    let _ = vm.ask(r#"{"execute":"cont"}"#);
    wait("a guest without room", || status().contains("io-error"));
    let (_, blocks) = Said::read(&console).last();
    assert!(blocks > 0 && blocks < 4096, "{blocks} blocks were written");
    gate.start();
    wait("the guest's last word", || fs::read_to_string(&console).is_ok_and(|said| said.ends_with('.')));
    assert!(gate.is_idle());
    let said = Said::read(&console);
    assert_eq!(said.last(), (1, 4096));
    assert!(!fs::read_to_string(&console).expect("what it said").contains('!'), "a write of the guest's failed");
    vm.stop();
    convert(&image, &after, "raw");
    writer.assert_holds(&said, &before, &after);
}

/// Two machines that are chosen by a tag, in one job: each disk of each point is restored; a machine that cannot be backed up
/// fails the job for both, and costs neither anything.
#[test]
fn many_machines_in_one_job() {
    let folder = temp();
    let Some(lab) = Lab::up() else { return };
    let machine = |name: &str, size| LiveVm::start(&folder.path().join(name), 1, size);
    let (Some(mut one), Some(mut two)) = (machine("one", 64 * MIB), machine("two", 32 * MIB)) else { return };
    let configured = |name: &str, vm: &LiveVm, tag: &str| {
        format!("[[qemu]]\nname = {name:?}\nqmp = {:?}\ntags = [{tag:?}]\n", vm.qmp())
    };
    let off = "[[qemu]]\nname = \"off\"\nqmp = \"/nonexistent\"\ntags = [\"silver\"]\n";
    let all = [configured("one", &one, "gold"), configured("two", &two, "gold"), off.to_owned()].concat();
    let gate = Gate::with("qemu/one", &all);
    gate.define_gold(&lab, "gold");
    one.write(0, 0, 2 * MIB, 0x11);
    two.write(0, 5 * MIB, MIB, 0x12);
    let mut points = Vec::new();
    let mut take = |one: &LiveVm, two: &LiveVm, level: &str| {
        let job = lab.backup_any("gold", level);
        let log = log_of(&lab, job);
        assert_eq!(status(&lab, job), "T", "{log}");
        points.push(("one", Point::of(job, &gate, "qemu/one", one)));
        points.push(("two", Point::of(job, &gate, "qemu/two", two)));
        log
    };
    let log = take(&one, &two, "Full");
    for told in ["one: CRASH CONSISTENT", "two: Full, ", "one: delivered 1 of 1 disks", "two: delivered 1 of 1 disks"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    one.write(0, 10 * MIB, 65536, 0x21);
    two.write(0, 11 * MIB, 2 * 65536, 0x22);
    let log = take(&one, &two, "Incremental");
    assert!(log.contains("one: Incremental on gold.") && log.contains("changed 64.0 KiB"), "{log}");
    assert!(log.contains("changed 128.0 KiB"), "{log}");

    // One of them cannot be begun: nothing is left of the other's.
    one.write(0, 20 * MIB, 65536, 0x31);
    two.write(0, 21 * MIB, 65536, 0x32);
    two.stop();
    let log = fails(&lab, "gold", "Incremental");
    assert!(log.contains("Error running program"), "{log}");
    assert!(gate.said().contains("two: is it running?"), "{}", gate.said());
    assert!(gate.is_idle(), "one was taken back");
    two.boot();
    let log = take(&one, &two, "Incremental");
    assert_eq!(log.matches("changed 64.0 KiB").count(), 2, "{log}");
    for (name, point) in &points {
        compare_in(&lab, &gate.mount().join("backup/qemu").join(name), "gold", point);
    }
    let doctor = gate.bare(&["backup", "list", "--tag", "gold"]).good().text();
    assert_eq!(doctor.lines().count(), 2, "{doctor}");
}

/// The chain of a year, by the Bacula that is newest.
#[test]
fn a_chain_by_bacula_15() {
    let folder = temp();
    let Some(lab) = Lab::up_15() else { return };
    let Some(mut vm) = LiveVm::start(folder.path(), 2, 64 * MIB) else { return };
    let gate = Gate::new(&vm);
    gate.define(&lab, "web", &["--accurate"], &[]);
    let mut points = Vec::new();
    for (number, level) in (0..).zip(["Full", "Incremental", "Differential", "Incremental"]) {
        vm.write(number % 2, (3 + 5 * number) * MIB, MIB, 0x41);
        let (point, log) = succeeds(&lab, &gate, &vm, level);
        assert!(log.contains(&format!("{level} on")) || number == 0, "{log}");
        points.push(point);
    }
    points.iter().for_each(|point| compare(&lab, &gate, "web", point));
}

/// A machine with what stands for a guest's agent (it is none: see `tests::agent`), whose QEMU stands still, and so cannot
/// answer, from the moment in which the guest is frozen.
fn stuck_while_frozen(folder: &Path) -> Option<(LiveVm, Gate, agent::Asked)> {
    let vm = LiveVm::start(folder, 1, 16 * MIB)?;
    let socket = folder.join("qga.sock");
    let pid = vm.pid();
    let asked = agent::start(&socket, move || {
        rustix::process::kill_process(pid, Signal::STOP).expect("a signal");
    });
    let machine = format!("[[qemu]]\nname = \"web01\"\nqmp = {:?}\nagent = {socket:?}\n", vm.qmp());
    Some((vm, Gate::with("qemu/web01", &machine), asked))
}

fn begin(gate: &Gate, job: &str) -> tests::program::Run {
    gate.run(&["begin", "qemu/web01", "--level", "Full", "--job", job])
}

/// The daemon is killed while the guest is frozen: the guest is thawed at once, without the daemon.
#[test]
fn killed_while_the_guest_is_frozen() {
    let folder = temp();
    if !tests::can_mount("killed_while_the_guest_is_frozen", &[]) {
        return;
    }
    let Some((vm, mut gate, asked)) = stuck_while_frozen(folder.path()) else { return };
    thread::scope(|scope| {
        let begun = scope.spawn(|| begin(&gate, "one.1"));
        wait("the freeze", || asked.is_frozen());
        // Not the moment in which it is answered.
        thread::sleep(Duration::from_millis(300));
        assert!(asked.is_frozen());
        gate.signal(Signal::KILL);
        wait("the thaw", || !asked.is_frozen());
        assert_eq!(begun.join().expect("a run").code(), Some(2));
    });
    assert_eq!(asked.all(), ["frozen", "thawed"]);
    assert!(gate.said().contains("web01: thawed by the guard: whoever had it frozen is gone"), "{}", gate.said());
    vm.signal(Signal::CONT);
    gate.restart();
    assert!(gate.is_idle());
}

/// QEMU does not answer while the guest is frozen: the guest does not wait for it, and the log does not say that its files
/// were in order.
#[test]
fn a_freeze_that_takes_too_long() {
    let folder = temp();
    if !tests::can_mount("a_freeze_that_takes_too_long", &[]) {
        return;
    }
    let Some((vm, gate, asked)) = stuck_while_frozen(folder.path()) else { return };
    let begun = thread::scope(|scope| {
        let begun = scope.spawn(|| begin(&gate, "one.1"));
        wait("the freeze", || asked.is_frozen());
        wait("the thaw", || !asked.is_frozen());
        vm.signal(Signal::CONT);
        begun.join().expect("a run").good()
    });
    assert!(
        begun.text().contains("web01: CRASH CONSISTENT, as after a power loss: it stood still for 10 s"),
        "{}",
        begun.text()
    );
    assert!(gate.said().contains("web01: thawed by the guard: it stood still for 10 s"), "{}", gate.said());
    assert_eq!(asked.all(), ["frozen", "thawed"]);
}

/// Nothing goes wrong: what was frozen is thawed once, and its files were in order.
#[test]
fn a_freeze_that_goes_well() {
    let folder = temp();
    if !tests::can_mount("a_freeze_that_goes_well", &[]) {
        return;
    }
    let Some(vm) = LiveVm::start(folder.path(), 1, 16 * MIB) else { return };
    let socket = folder.path().join("qga.sock");
    let asked = agent::start(&socket, || ());
    let machine = format!("[[qemu]]\nname = \"web01\"\nqmp = {:?}\nagent = {socket:?}\n", vm.qmp());
    let gate = Gate::with("qemu/web01", &machine);
    let told = begin(&gate, "one.1").good().text();
    assert!(told.contains("web01: 2 filesystems frozen for "), "{told}");
    assert_eq!(asked.all(), ["frozen", "thawed"]);
    let end = gate.run(&["end", "qemu/web01", "--job", "one.1", "--status", "Canceled"]);
    assert_eq!(end.code(), Some(0), "{}", end.stderr);
    assert_eq!(asked.all(), ["frozen", "thawed"], "nothing was left to be thawed");
}
