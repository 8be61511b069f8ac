//! Machines booted for a trial: `revenant verify --boot` with a real QEMU.
//!
//! The guest is a small Debian that `tests/lab/make-guest-vm.sh` makes (`vm/guest.raw` in the folder that
//! `REVENANT_GUEST_IMAGES` names); it prints `GUEST-READY` on its serial console. Under emulation it takes half a minute to
//! get there, so one boot stands for several tests. The others need only a firmware.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tests::{
    compare::sha256,
    installed,
    lab::Lab,
    program::{Revenant, Run, bare, run_within},
    recovery::entries,
    served::Served,
    temp,
    tiny_guest::reader_disk,
};

const LIMIT: Duration = Duration::from_secs(600);

/// A bootable disk.
fn guest() -> Option<PathBuf> {
    let path = std::env::var_os("REVENANT_GUEST_IMAGES").map(|f| PathBuf::from(f).join("vm/guest.raw"));
    let found = path.filter(|path| path.exists());
    if found.is_none() {
        println!("SKIPPED: there is no vm/guest.raw in REVENANT_GUEST_IMAGES (`cargo xtask test` makes one)");
    }
    found
}

/// A disk that nothing boots from.
fn empty_disk(folder: &Path) -> PathBuf {
    let path = folder.join("empty.raw");
    fs::File::create(&path).and_then(|f| f.set_len(4 << 20)).expect("a file");
    path
}

struct Place {
    cache: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { cache: temp() }
    }

    fn command(&self, image: &Path, args: &[&str]) -> Command {
        let name = image.file_name().expect("a name").to_str().expect("text");
        let path = format!("images/{name}");
        let mut command = bare(["verify", &path, "--boot", "--json", "--accelerator", "tcg"]);
        command.args(args).arg("--image").arg(image).arg("--cache").arg(self.cache.path());
        command
    }

    fn boot(&self, image: &Path, args: &[&str]) -> (Run, Value) {
        let run = run_within(&mut self.command(image, args), LIMIT);
        let verdict = serde_json::from_slice(&run.stdout).unwrap_or(Value::Null);
        (run, verdict)
    }

    /// Asserts that nothing of a trial is left.
    fn is_clean(&self) {
        let trials = self.cache.path().join("boot-trials");
        let left: Vec<_> = fs::read_dir(&trials).expect("trials").map(|e| e.expect("an entry").path()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.machines(), 0, "a QEMU is left");
    }

    /// QEMUs of trials here.
    fn machines(&self) -> usize {
        let needle = self.cache.path().join("boot-trials").into_os_string().into_encoded_bytes();
        let is_one = |entry: &fs::DirEntry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with(b"qemu-system") && line.windows(needle.len()).any(|w| w == needle)
        };
        fs::read_dir("/proc").expect("/proc").flatten().filter(is_one).count()
    }
}

#[test]
fn a_machine_comes_up_and_its_next_boot_is_read_ahead() {
    let Some(image) = guest().filter(|_| installed("boot", &["qemu-system-x86_64"])) else { return };
    let before = sha256(&image).expect("the disk");
    let place = Place::new();
    let report = temp();
    let args = ["--wait-for", "console:GUEST-READY", "--memory", "512", "--report"];
    let (run, verdict) = place.boot(&image, &[&args[..], &[report.path().to_str().expect("text")]].concat());
    assert_eq!(run.code(), Some(0), "{}: {verdict}", run.stderr);
    assert_eq!((&verdict["verdict"], &verdict["sign"]), (&"ready".into(), &"console:GUEST-READY".into()));
    let times = &verdict["times_ms"];
    let ms = |name: &str| times[name].as_u64().unwrap_or_else(|| panic!("no {name} in {times}"));
    assert!(ms("process_start") < ms("first_console") && ms("first_read") < ms("first_console"), "{times}");
    assert!(ms("first_console") < ms("ready"), "{times}");
    assert!(fs::read(report.path().join("screen.png")).expect("a picture").starts_with(b"\x89PNG"));
    let said = fs::read_to_string(report.path().join("console.log")).expect("a console");
    assert!(said.contains("GUEST-READY"));
    let kept: Value =
        serde_json::from_slice(&fs::read(report.path().join("verdict.json")).expect("a file")).expect("JSON");
    assert_eq!(kept, verdict);
    place.is_clean();

    let args = ["--wait-for", "console:GUEST-READY", "--wait-for", "agent", "--memory", "512", "--firmware", "uefi"];
    let (run, verdict) = place.boot(&image, &args);
    assert_eq!(run.code(), Some(0), "{}: {verdict}", run.stderr);
    assert_eq!(verdict["firmware"], "uefi");
    place.is_clean();
    assert_eq!(sha256(&image).expect("the disk"), before, "the disk is as it was");
}

#[test]
fn what_does_not_come_up() {
    if !installed("boot", &["qemu-system-x86_64"]) {
        return;
    }
    let place = Place::new();
    let image = empty_disk(place.cache.path());
    let (run, verdict) = place.boot(&image, &["--timeout", "3", "--memory", "64"]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr);
    assert_eq!(verdict["verdict"], "timeout");
    let picture = verdict["screenshot"].as_str().expect("a picture is there all the same");
    assert!(fs::read(picture).expect("a picture").starts_with(b"\x89PNG"));
    place.is_clean();
    // The firmware's own words are on the screen.
    let (run, verdict) = place.boot(&image, &["--wait-for", "screen:No bootable device", "--memory", "64"]);
    assert_eq!(run.code(), Some(0), "{}: {verdict}", run.stderr);
    for wrong in [["--wait-for", "smoke"], ["--wait-for", "port:0"], ["--wait-for", "console:/(/"], ["--firmware", "x"]]
    {
        let (run, _) = place.boot(&image, &wrong);
        assert_eq!(run.code(), Some(2), "{wrong:?}");
    }
    place.is_clean();
}

/// Ended on the way, by Ctrl-C and by `kill -9`: in the end nothing is left.
#[test]
fn a_trial_that_is_ended() {
    if !installed("boot", &["qemu-system-x86_64"]) {
        return;
    }
    let place = Place::new();
    let image = empty_disk(place.cache.path());
    for signal in [Signal::INT, Signal::KILL] {
        let mut command = place.command(&image, &["--timeout", "600", "--memory", "64"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program");
        let begun = Instant::now();
        while place.machines() == 0 {
            assert!(begun.elapsed() < LIMIT, "no QEMU");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).expect("a signal");
        let status = child.wait().expect("an end");
        if signal == Signal::INT {
            assert_eq!(status.code(), Some(1));
            place.is_clean();
        } else {
            assert_eq!(place.machines(), 1, "nobody could end it");
        }
    }
    // The next trial does.
    let (run, _) = place.boot(&image, &["--timeout", "1", "--memory", "64"]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr);
    place.is_clean();
}

/// The granules of a boot trace, by number, in their order (the format is in `blockdev/src/layers/trace.rs`).
fn granules(trace: &[u8]) -> Vec<u32> {
    let number = |at: usize| u32::from_le_bytes(trace[at..at + 4].try_into().expect("four bytes"));
    let run = |run: u32| {
        let at = 28 + 8 * run as usize;
        number(at)..number(at) + number(at + 4)
    };
    (0..number(24)).flat_map(run).collect()
}

/// What a machine in a volume of stock Bacula reads in a trial, where and in which order, is what is noted, and exactly that
/// is read ahead by its next trial and by its recovery.
#[test]
fn what_a_trial_has_read_is_read_ahead() {
    const GRANULE: u64 = 64 << 10;
    const READ: [u32; 6] = [160, 32, 700, 96, 699, 40];
    if !installed("boot traces", &["qemu-system-x86_64", "qemu-img"]) {
        return;
    }
    let Some(lab) = Lab::up() else { return };
    let source = lab.0.join("vms/tiny");
    fs::create_dir_all(&source).expect("a folder");
    // In the middle of a granule.
    let places = READ.map(|granule| u64::from(granule) * GRANULE + 16384);
    let raw = lab.0.join("disk.raw");
    let Some(raw) = reader_disk(&raw, 48 << 20, &places) else { return };
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(source.join("disk0.qcow2"));
    let _ = run_within(&mut convert, LIMIT).good();
    lab.run(&["define", "tiny", "--path", source.to_str().expect("text"), "--signature", "MD5"]);
    let _full = lab.backup("tiny", "Full");

    let revenant = Revenant::new(&lab.volumes("tiny")).within(LIMIT);
    let points = revenant.run(["points", "--json"]).json();
    let point = points[0]["tree_path"].as_str().expect("a point");
    let trial = ["verify", point, "--boot", "--json", "--accelerator", "tcg", "--memory", "64", "--wait-for"];
    let trial = || revenant.run(trial.into_iter().chain(["console:READ-ALL"])).json()["disks"][0].clone();
    let first = trial();
    assert_eq!(first["read_ahead"], 0, "nothing was known: {first}");
    let traces = entries(&revenant.cache.path().join("boot-traces"));
    let [trace] = &traces[..] else { panic!("{traces:?}") };
    // The firmware looks at the boot sector before the guest reads.
    let noted = granules(&fs::read(trace).expect("a trace"));
    assert_eq!(noted, [&[0], &READ[..]].concat());
    let ahead = noted.len() as u64 * GRANULE;
    assert_eq!(trial()["read_ahead"], ahead);

    let state = temp();
    let mut serve = bare(["serve", "--json", "--state"]);
    let _daemon = Served::start(serve.arg(state.path()));
    let with_state = |words: &[&str]| {
        let mut command = revenant.command([&["recover"], words].concat());
        run_within(command.arg("--json").arg("--state").arg(state.path()), LIMIT)
    };
    let session = with_state(&["tiny", "--on", "qemu", "--memory", "64", "--network", "none"]).json();
    let console = session["machine_state"]["console_log"].as_str().expect("a console");
    let begun = Instant::now();
    while !fs::read_to_string(console).unwrap_or_default().contains("READ-ALL") {
        assert!(begun.elapsed() < LIMIT, "it does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    let id = session["id"].as_str().expect("a name");
    let figures = with_state(&["show", id]).json();
    assert_eq!(figures["bytes_read_ahead"], ahead, "{figures:#}");
    let _ = with_state(&["stop", id]).good();
}

/// What the configurations are judged by is in `hv-drivers`; here: that they come from the machine's own description.
#[test]
fn native_configurations() {
    let volumes = tests::case::machine_volume();
    let revenant = Revenant::new(volumes.path());
    let points = revenant.run(["points", "--json"]).json();
    let time = points[0]["time"].as_str().expect("a time").to_owned();
    let path = points[0]["tree_path"].as_str().map_or_else(|| format!("machines/web01/{time}"), str::to_owned);
    for (kind, wanted) in [
        ("proxmox", "import-from=disk1.qcow2"),
        ("vmx", "fileName = \"disk1.vmdk\""),
        ("hyperv", "'disk1.vhdx'"),
        ("libvirt", "<source file='/var/lib/libvirt/images/disk1.qcow2'/>"),
    ] {
        let text = revenant.run(["inspect", &path, "--as", kind]).good().text();
        assert!(text.contains("web01") && text.contains(wanted), "{kind}: {text}");
    }
    assert_eq!(revenant.run(["inspect", &path, "--as", "xyz"]).code(), Some(2));
}
