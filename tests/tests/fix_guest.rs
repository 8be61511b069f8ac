//! `--fix-guest` on a guest that starts under virtio only: what libguestfs wrote into the overlay is looked at with our own
//! readers and with cpio, and the guest starts from a controller that it had no driver for.
//!
//! The guest is made by `tests/lab/make-guest-vm.sh DIR 2G --name fragile --fragile` (`vm/fragile.raw` in the folder that
//! `REVENANT_GUEST_IMAGES` names). Under emulation libguestfs takes a minute, and so does the guest.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tests::{
    installed,
    program::{self, Run, bare, run_within},
    recovery::{copy, uri},
    served::Served,
    temp,
};

const LIMIT: Duration = Duration::from_secs(600);

fn fragile() -> Option<PathBuf> {
    let path = std::env::var_os("REVENANT_GUEST_IMAGES").map(|f| PathBuf::from(f).join("vm/fragile.raw"));
    let found = path.filter(|path| path.exists());
    if found.is_none() {
        println!("SKIPPED: there is no vm/fragile.raw in REVENANT_GUEST_IMAGES (tests/lab/make-guest-vm.sh makes one)");
    }
    found
}

fn digest(path: &Path) -> String {
    run_within(Command::new("sha256sum").arg(path), LIMIT).good().text()
}

/// A file of the guest on `image`, read by the program.
fn guest_file(image: &Path, path: &str) -> Vec<u8> {
    let name = image.file_name().and_then(|name| name.to_str()).expect("a name");
    let mut command = bare(["-q", "cat", &format!("images/{name}/files/root{path}"), "--image"]);
    run_within(command.arg(image), LIMIT).good().stdout
}

fn guest_text(image: &Path, path: &str) -> String {
    String::from_utf8(guest_file(image, path)).expect("text")
}

/// The names in a cpio archive, as cpio sees them.
fn names(archive: &[u8]) -> String {
    let mut cpio = Command::new("cpio");
    let mut cpio = cpio.args(["-it", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cpio");
    let mut input = cpio.stdin.take().expect("its input");
    thread::scope(|scope| {
        scope.spawn(move || input.write_all(archive));
        let out = cpio.wait_with_output().expect("its end");
        String::from_utf8(out.stdout).expect("names")
    })
}

/// A QEMU that is killed in the end.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_guest_for_virtio_starts_from_ide() {
    let Some(image) = fragile() else { return };
    if !installed("fixing a guest", &["guestfish", "qemu-img", "qemu-system-x86_64", "cpio", "sha256sum"]) {
        return;
    }
    let manifest = fs::read_to_string(image.with_extension("manifest")).expect("what the script says of it");
    let fact = |key: &str| manifest.lines().find_map(|l| l.strip_prefix(key)).expect("a fact").to_owned();
    let (uuid, kernel) = (format!("UUID={}", fact("root_uuid=")), fact("kernel_version="));
    let before = digest(&image);
    let (state, cache, scratch) = (temp(), temp(), temp());
    let mut serve = Command::new(program::path());
    let daemon = Served::start(serve.args(["serve", "--json", "--state"]).arg(state.path()));
    let recover = |words: &[&str]| -> Run {
        let mut command = bare(["recover"]);
        command.args(words).arg("--json").arg("--state").arg(state.path()).arg("--cache").arg(cache.path());
        run_within(command.arg("--image").arg(&image), LIMIT)
    };
    let session = recover(&["images/fragile.raw", "--fix-guest=kvm"]).json();

    // What is in the overlay now, over the image.
    let fixed = scratch.path().join("fixed.raw");
    copy("raw", &uri(&session, 0), &fixed);
    for (path, was) in [("/etc/fstab", "/dev/vda3"), ("/boot/grub/grub.cfg", "root=/dev/vda3")] {
        let (old, new) = (guest_text(&image, path), guest_text(&fixed, path));
        assert!(old.contains(was) && !old.contains(&uuid), "{path}: {old}");
        assert!(new.contains(&uuid) && !new.contains("/dev/vda3"), "{path}: {new}");
    }
    let initramfs = format!("/boot/initrd.img-{kernel}");
    let (old, new) = (guest_file(&image, &initramfs), guest_file(&fixed, &initramfs));
    let end = old.len().next_multiple_of(4);
    assert!(new.len() > end && new[..old.len()] == old[..], "what there was is there still");
    let added = names(&new[end..]);
    let wanted = guest_text(&fixed, "/etc/initramfs-tools/modules");
    for module in ["ata_piix", "virtio_scsi"] {
        assert!(added.lines().any(|name| name.ends_with(&format!("/{module}.ko"))), "{module}: {added}");
        assert!(wanted.lines().any(|line| line == module), "{wanted}");
    }
    assert!(added.lines().any(|name| name.ends_with(&format!("lib/modules/{kernel}/modules.dep.bin"))), "{added}");

    // It starts from a controller that its own initramfs does not know.
    let console = scratch.path().join("console.log");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-no-user-config", "-nodefaults", "-machine", "pc,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "512"]);
    qemu.args(["-display", "none", "-device", "ide-hd,drive=disk", "-drive"]);
    qemu.arg(format!("if=none,id=disk,format=raw,file={}", uri(&session, 0)));
    qemu.arg("-serial").arg(format!("file:{}", console.display()));
    let qemu = Killed(qemu.stdin(Stdio::null()).spawn().expect("QEMU"));
    let begun = Instant::now();
    while !fs::read(&console).is_ok_and(|said| String::from_utf8_lossy(&said).contains("GUEST-READY")) {
        let said = fs::read(&console).unwrap_or_default();
        assert!(begun.elapsed() < LIMIT, "{}", String::from_utf8_lossy(&said));
        thread::sleep(Duration::from_millis(200));
    }
    println!("ready after {:.1} s", begun.elapsed().as_secs_f64());
    drop(qemu);
    let _ = recover(&["stop", session["id"].as_str().expect("a name")]).good();
    drop(daemon);
    assert_eq!(digest(&image), before, "the image is as it was");
}
