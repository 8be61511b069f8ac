//! The driver with real QEMUs: machines without a guest (firmware only), whose disks a stock `qemu-nbd` or QEMU itself
//! serves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use blockdev::{ExtentKind, ReadAt};
use hv_drivers::{
    ErrorKind,
    driver::{DiskSource, Driver, FileFormat, State, Target},
    machine::{Bus, Disk, Firmware, Machine, Nic},
    nbd::NbdDisk,
    qemu::{
        self, Accelerator, Forward, Network, Qemu, Running, Settings, Spec, Stopped, console,
        migrate::{Completion, Migration},
    },
    qmp::EventKind,
};
use serde_json::json;

const MIB: u64 = 1 << 20;
/// Emulation on a busy machine takes its time.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether all of `programs` are there; says so otherwise.
fn installed(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|p| Command::new(p).arg("--version").output().is_err());
    if let Some(program) = missing {
        println!("SKIPPED: {program} is not installed");
    }
    missing.is_none()
}

fn temp() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("rvq.").tempdir().expect("a folder")
}

fn settings() -> Settings {
    Settings { accelerator: Accelerator::Tcg, memory_mib: Some(64), cpus: Some(1), ..Settings::default() }
}

/// A machine whose disks are these files.
fn spec(files: &[(&Path, FileFormat)], bus: Bus) -> Spec {
    let disk = |_| Disk { bus: Some(bus), ..Disk::default() };
    let place = |(path, format): &(&Path, FileFormat)| DiskSource::File { path: path.to_path_buf(), format: *format };
    Spec {
        machine: Machine::new("a, 'machine'", files.iter().map(disk)),
        disks: files.iter().map(place).collect(),
        settings: settings(),
    }
}

/// A file with something at every MiB.
fn disk_file(path: &Path, mib: u64) {
    let mut bytes = vec![0; (mib * MIB) as usize];
    for (number, part) in bytes.chunks_mut(MIB as usize).enumerate() {
        part[4096..8192].fill(number as u8 + 1);
    }
    fs::write(path, bytes).expect("a file");
}

/// Kills what a test left.
struct Killed(PathBuf);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Ok(Some(running)) = Running::find(&self.0) {
            let _ = running.kill();
        }
    }
}

/// A process that is killed in the end.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nbd_server(file: &Path, socket: &Path) -> Server {
    let mut command = Command::new("qemu-nbd");
    command.args(["-f", "raw", "-t", "-e", "8", "-x", "disk0", "-k"]).arg(socket).arg(file).stdin(Stdio::null());
    let server = Server(command.spawn().expect("qemu-nbd"));
    let begun = Instant::now();
    while NbdDisk::connect(socket, "disk0").is_err() {
        assert!(begun.elapsed() < LIMIT, "qemu-nbd does not answer");
        std::thread::sleep(Duration::from_millis(10));
    }
    server
}

/// Writes through the block layer of the disk's device, as its guest would; whether that went well. The monitor's
/// answer is empty: QEMU prints what comes of it into its log.
fn guest_write(running: &Running, device: &str, command: &str) -> bool {
    let log = running.folder().join("qemu.log");
    let before = fs::metadata(&log).expect("a log").len() as usize;
    let line = format!("qemu-io -d {device} \"{command}\"");
    running.execute("human-monitor-command", &json!({ "command-line": line })).expect("the monitor");
    let said = fs::read(&log).expect("a log");
    let said = String::from_utf8_lossy(&said[before..]).into_owned();
    !said.contains("rror") && !said.contains("ailed")
}

const VIRTIO: &str = "/machine/peripheral/dev-disk0/virtio-backend";

#[test]
fn started_found_again_and_stopped() {
    if !installed(&["qemu-system-x86_64"]) {
        return;
    }
    let folder = temp();
    let (file, place) = (folder.path().join("disk, one.raw"), folder.path().join("machine, one"));
    disk_file(&file, 4);
    let _killed = Killed(place.clone());
    let spec = spec(&[(&file, FileFormat::Raw)], Bus::VirtioBlk);
    let running = qemu::start(&place, &spec).expect("a machine");
    assert_eq!(running.state().expect("a state"), State::Running);
    assert_eq!(qemu::start(&place, &spec).expect_err("a second one").kind(), ErrorKind::Invalid);
    let pid = running.pid();
    drop(running);

    let running = Running::find(&place).expect("looking").expect("a machine");
    assert_eq!((running.pid(), &running.spec().disks), (pid, &spec.disks));
    let mut events = running.events().expect("a second monitor");
    running.pause().expect("pausing");
    assert!(matches!(running.state().expect("a state"), State::Paused(why) if why == "paused"));
    let mut kinds = Vec::new();
    while let Some(event) = events.event(Duration::from_millis(500)).expect("a connection") {
        kinds.push(event.kind());
    }
    assert!(kinds.contains(&EventKind::Stopped), "{kinds:?}");
    running.resume().expect("going on");
    // SeaBIOS finds nothing to start and says so on the screen, in text.
    let begun = Instant::now();
    while !running.screen_text().expect("a screen").contains("No bootable device") {
        assert!(begun.elapsed() < LIMIT, "{}", running.screen_text().expect("a screen"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let picture = folder.path().join("screen.png");
    running.screenshot(&picture).expect("a picture");
    assert!(fs::read(&picture).expect("a picture").starts_with(b"\x89PNG\r\n\x1a\n"));
    // Nobody shuts down there.
    assert_eq!(running.stop(Duration::from_millis(200)).expect("an end"), Stopped::ByQuit);
    assert!(Running::find(&place).expect("looking").is_none());
    assert!(matches!(events.event(LIMIT).map(|e| e.map(|e| e.kind())), Ok(Some(_)) | Err(_)));
    let driver = Qemu::default();
    let life = driver.life_cycle().expect("a life cycle");
    assert_eq!(life.state(&place).expect("a state"), State::Off);
    life.stop(&place).expect("stopping twice is no error");
    assert!(life.shut_down(&place, Duration::ZERO).expect("one that is off is shut down"));
    // It can be started again as it was.
    let again = qemu::start(&place, &qemu::read_spec(&place).expect("a record")).expect("a machine");
    again.kill().expect("killing");
    assert!(Running::find(&place).expect("looking").is_none());
}

#[test]
fn what_cannot_be_started_leaves_nothing() {
    if !installed(&["qemu-system-x86_64"]) {
        return;
    }
    let folder = temp();
    let place = folder.path().join("m");
    let missing = folder.path().join("missing.raw");
    let mut wanted = spec(&[(&missing, FileFormat::Raw)], Bus::Sata);
    let error = qemu::start(&place, &wanted).expect_err("no disk");
    assert!(error.to_string().contains("missing.raw"), "{error}");
    assert!(Running::find(&place).expect("looking").is_none());
    wanted.settings.program = Some("/nonexistent/qemu".into());
    assert_eq!(qemu::start(&place, &wanted).expect_err("no program").kind(), ErrorKind::Missing);
    let long = folder.path().join("x".repeat(120));
    assert!(qemu::start(&long, &spec(&[(&missing, FileFormat::Raw)], Bus::Sata)).is_err());
}

/// Every controller and card that a description can name, and UEFI, in QEMUs that take them.
#[test]
fn all_hardware() {
    if !installed(&["qemu-system-x86_64"]) {
        return;
    }
    let folder = temp();
    let file = folder.path().join("disk.raw");
    disk_file(&file, 2);
    let kinds = [
        Bus::VirtioBlk,
        Bus::VirtioScsi,
        Bus::Pvscsi,
        Bus::LsiSas,
        Bus::LsiParallel,
        Bus::Lsi53c895a,
        Bus::MegaSas,
        Bus::HyperV,
        Bus::Xen,
        Bus::Sata,
        Bus::Nvme,
    ];
    for firmware in [Firmware::Bios, Firmware::Uefi, Firmware::SecureBoot] {
        let place = folder.path().join(firmware.name());
        let _killed = Killed(place.clone());
        let files: Vec<PathBuf> = (0..kinds.len()).map(|n| folder.path().join(format!("{firmware}{n}.raw"))).collect();
        files.iter().for_each(|f| {
            fs::copy(&file, f).expect("a copy");
        });
        let files: Vec<_> = files.iter().map(|f| (f.as_path(), FileFormat::Raw)).collect();
        let mut spec = spec(&files, Bus::VirtioBlk);
        spec.machine.disks.iter_mut().zip(kinds).for_each(|(disk, bus)| disk.bus = Some(bus));
        spec.machine.firmware = Some(firmware);
        spec.settings.memory_mib = Some(256);
        let models = ["virtio", "vmxnet3", "e1000e", "e1000", "rtl8139", "pcnet", "netvsc"];
        let nic = |name: &&str| Nic { model: hv_drivers::machine::NicModel::of_name(name), ..Nic::default() };
        spec.machine.nics = models.iter().map(nic).collect();
        spec.settings.network = Network::Isolated(vec![Forward { host: free_port(), guest: 22 }]);
        match qemu::start(&place, &spec) {
            Ok(running) => {
                assert_eq!(running.state().expect("a state"), State::Running, "{firmware}");
                if firmware.is_uefi() {
                    // OVMF speaks on the serial console, too.
                    let boots = console::pattern("BdsDxe").expect("a pattern");
                    assert!(running.console().wait(&boots, Instant::now() + LIMIT).expect("a console"), "{firmware}");
                    assert!(place.join("vars.fd").exists());
                }
                running.kill().expect("an end");
            }
            Err(e) if e.kind() == ErrorKind::Missing => println!("SKIPPED: {e}"),
            Err(e) => panic!("{firmware}: {e}"),
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[test]
fn an_nbd_server_is_read() {
    if !installed(&["qemu-nbd"]) {
        return;
    }
    let folder = temp();
    let (file, socket) = (folder.path().join("disk.raw"), folder.path().join("nbd.sock"));
    disk_file(&file, 3);
    let made = fs::File::options().write(true).open(&file).and_then(|f| f.set_len(64 * MIB));
    made.expect("a hole at the end");
    let _server = nbd_server(&file, &socket);
    assert!(NbdDisk::connect(&socket, "disk1").is_err());
    let disk = NbdDisk::connect(&socket, "disk0").expect("the export");
    assert_eq!(disk.size(), 64 * MIB);
    let mut bytes = vec![0; 5 * MIB as usize];
    assert_eq!(disk.read_at(&mut bytes, 100).expect("reading"), bytes.len());
    assert!(bytes[..] == [&fs::read(&file).expect("the file")[100..], &[]].concat()[..5 * MIB as usize]);
    assert_eq!(disk.read_at(&mut bytes, 64 * MIB - 10).expect("reading"), 10);
    let last = disk.extent_at(63 * MIB).expect("an extent").expect("within the disk");
    assert_eq!((last.kind, last.range.end), (ExtentKind::Hole, 64 * MIB));
    assert_eq!(disk.extent_at(4096).expect("an extent").expect("within the disk").kind, ExtentKind::Data);
}

/// The server of the disk dies and comes back: the guest's write waits, and is then done.
#[test]
fn a_server_that_restarts_is_a_pause() {
    if !installed(&["qemu-system-x86_64", "qemu-nbd"]) {
        return;
    }
    let folder = temp();
    let (file, socket, place) = (folder.path().join("d.raw"), folder.path().join("nbd.sock"), folder.path().join("m"));
    disk_file(&file, 4);
    let _killed = Killed(place.clone());
    let server = nbd_server(&file, &socket);
    let mut spec = spec(&[(&file, FileFormat::Raw)], Bus::VirtioBlk);
    spec.disks = vec![DiskSource::NbdUnix { socket: socket.clone(), export: "disk0".into() }];
    let running = qemu::start(&place, &spec).expect("a machine");
    assert!(guest_write(&running, VIRTIO, "write -P 0xaa 1M 4k"));
    drop(server);
    fs::remove_file(&socket).expect("the socket");
    let back = std::thread::spawn({
        let (file, socket) = (file.clone(), socket.clone());
        move || {
            std::thread::sleep(Duration::from_secs(1));
            nbd_server(&file, &socket)
        }
    });
    assert!(guest_write(&running, VIRTIO, "write -P 0xbb 2M 4k"), "it waits for the server");
    let _server = back.join().expect("a server");
    running.stop(Duration::ZERO).expect("an end");
    let bytes = fs::read(&file).expect("the file");
    assert!(bytes[MIB as usize..][..4096].iter().all(|b| *b == 0xaa));
    assert!(bytes[2 * MIB as usize..][..4096].iter().all(|b| *b == 0xbb));
}

fn wait_ready(migration: &Migration) {
    let begun = Instant::now();
    while !migration.progress().expect("progress").is_ready {
        assert!(begun.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Two disks move to new files while the machine runs; this program "dies" after every step, that is, finds all again.
#[test]
fn disks_move_while_the_machine_runs() {
    if !installed(&["qemu-system-x86_64", "qemu-nbd", "qemu-img"]) {
        return;
    }
    let folder = temp();
    let at = |name: &str| folder.path().join(name);
    let place = at("m");
    let _killed = Killed(place.clone());
    for name in ["a.raw", "b.raw"] {
        disk_file(&at(name), 40);
    }
    let server = nbd_server(&at("a.raw"), &at("nbd.sock"));
    let mut spec = spec(&[(&at("a.raw"), FileFormat::Raw), (&at("b.raw"), FileFormat::Raw)], Bus::VirtioBlk);
    spec.disks[0] = DiskSource::NbdUnix { socket: at("nbd.sock"), export: "disk0".into() };
    let running = qemu::start(&place, &spec).expect("a machine");
    let target = |name: &str, format| Target { path: at(name), format };
    let targets = [target("new-a.qcow2", FileFormat::Qcow2), target("new-b.raw", FileFormat::Raw)];

    let taken = [target("a.raw", FileFormat::Raw), target("new-b.raw", FileFormat::Raw)];
    assert_eq!(Migration::begin(&running, &taken).expect_err("a file in the way").kind(), ErrorKind::Invalid);
    let given_up = Migration::begin(&running, &targets).expect("a copy");
    assert!(Migration::begin(&running, &targets).is_err(), "one at a time");
    given_up.cancel().expect("giving up");
    assert!(!at("new-a.qcow2").exists() && !at("new-b.raw").exists());
    assert!(Migration::find(&running).expect("looking").is_none());

    drop(Migration::begin(&running, &targets).expect("a copy"));
    let migration = Migration::find(&running).expect("looking").expect("one that was begun");
    assert!(guest_write(&running, VIRTIO, "write -P 0xaa 1M 4k"), "the guest writes meanwhile");
    wait_ready(&migration);
    assert!(guest_write(&running, VIRTIO, "write -P 0xbb 2M 4k"));
    drop(migration);
    let migration = Migration::find(&running).expect("looking").expect("one that was begun");
    let completion = Completion::default();
    let disks = migration.complete(&completion).expect("new disks");
    assert_eq!(completion.progress.load(std::sync::atomic::Ordering::Relaxed), 80 * MIB, "all was compared");
    assert_eq!(disks[1], DiskSource::File { path: at("new-b.raw"), format: FileFormat::Raw });
    assert_eq!(running.state().expect("a state"), State::Running);
    // Nobody needs the old ones any more.
    drop(server);
    let nodes = running.execute("query-named-block-nodes", &json!({ "flat": true })).expect("nodes").to_string();
    assert!(!nodes.contains("nbd.sock") && !nodes.contains("/b.raw") && !nodes.contains("verify"), "{nodes}");
    let jobs = running.execute("query-jobs", &json!({})).expect("jobs");
    assert_eq!(jobs, json!([]));
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("the folder").map(|e| e.expect("an entry").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("verify")), "{left:?}");
    assert!(guest_write(&running, VIRTIO, "write -P 0xcc 3M 4k"));
    let again = Running::find(&place).expect("looking").expect("a machine");
    assert_eq!(again.spec().disks, disks, "a restart takes the new disks");
    again.stop(Duration::ZERO).expect("an end");

    let mut wanted = fs::read(at("a.raw")).expect("the old disk");
    for (mib, byte) in [(1, 0xaa), (2, 0xbb)] {
        assert!(
            wanted[mib * MIB as usize..][..4096].iter().all(|b| *b == byte),
            "before it went over, both were written"
        );
    }
    wanted[3 * MIB as usize..][..4096].fill(0xcc);
    let convert = ["convert", "-O", "raw"].map(std::ffi::OsString::from);
    let files = [at("new-a.qcow2").into_os_string(), at("back.raw").into_os_string()];
    assert!(Command::new("qemu-img").args(convert).args(files).status().expect("qemu-img").success());
    assert!(fs::read(at("back.raw")).expect("the new disk") == wanted);
    assert!(fs::read(at("new-b.raw")).expect("the new disk") == fs::read(at("b.raw")).expect("the old disk"));
    assert!(
        Command::new("qemu-img").arg("check").arg("-q").arg(at("new-a.qcow2")).status().expect("qemu-img").success()
    );
}

/// A copy that became wrong is noticed, and the machine does not go on with it.
#[test]
fn a_wrong_copy_is_noticed() {
    if !installed(&["qemu-system-x86_64"]) {
        return;
    }
    let folder = temp();
    let at = |name: &str| folder.path().join(name);
    let place = at("m");
    let _killed = Killed(place.clone());
    disk_file(&at("a.raw"), 8);
    let running = qemu::start(&place, &spec(&[(&at("a.raw"), FileFormat::Raw)], Bus::VirtioBlk)).expect("a machine");
    let target = Target { path: at("new.raw"), format: FileFormat::Raw };
    let migration = Migration::begin(&running, &[target]).expect("a copy");
    wait_ready(&migration);
    // Behind QEMU's back.
    let copy = fs::File::options().write(true).open(at("new.raw")).expect("the copy");
    std::os::unix::fs::FileExt::write_all_at(&copy, b"wrong", 5 * MIB).expect("writing");
    let error = migration.complete(&Completion { paused: true, ..Completion::default() }).expect_err("a difference");
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains(&(5 * MIB).to_string()), "{error}");
    assert!(matches!(running.state().expect("a state"), State::Paused(_)));
    // Mended, it can be completed.
    std::os::unix::fs::FileExt::write_all_at(&copy, &[0; 5], 5 * MIB).expect("writing");
    let migration = Migration::find(&running).expect("looking").expect("it is not complete");
    migration.complete(&Completion::default()).expect("an equal copy");
    assert_eq!(running.state().expect("a state"), State::Running);
    running.kill().expect("an end");
}
