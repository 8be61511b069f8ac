//! Machines in backups: found by their disks, read as chains, shown in every format, converted, exported.
//!
//! The volume in `tests/data/machines` was written by stock Bacula (`tests/lab/machine-volume.sh`); `points.tsv` says what
//! `qemu-img` read of each disk after each job. What Revenant makes of the disks is judged by `qemu-img` again.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tests::{
    case,
    program::{Revenant, bare, run_within},
    temp,
};

/// A line of `points.tsv`.
struct Wanted {
    job: u64,
    disk: String,
    file: String,
    sha256: String,
    size: u64,
}

fn wanted() -> Vec<Wanted> {
    let text = fs::read_to_string(case::machine_data("points.tsv")).expect("points.tsv");
    let line = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [job, disk, file, sha256, size] = fields[..] else { panic!("{line}") };
        let number = |n: &str| n.parse().expect("a number");
        Wanted { job: number(job), disk: disk.into(), file: file.into(), sha256: sha256.into(), size: number(size) }
    };
    text.lines().map(line).collect()
}

/// The volume, and the program on it.
fn machine() -> (tempfile::TempDir, Revenant) {
    let folder = case::machine_volume();
    let revenant = Revenant::new(folder.path());
    (folder, revenant)
}

fn points(revenant: &Revenant) -> Vec<Value> {
    revenant.run(["points", "--json"]).good().json().as_array().expect("an array").clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: there is no {tool} (cargo xtask setup)");
    }
    found
}

fn tool(tool: &str, args: &[&str]) -> String {
    let out = Command::new(tool).args(args).output().expect("a tool that is there");
    assert!(out.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn qemu_name(format: &str) -> &str {
    if format == "vhd" { "vpc" } else { format }
}

#[test]
fn every_point_of_every_disk() {
    let (_volumes, revenant) = machine();
    let points = points(&revenant);
    assert_eq!(points.len(), 5);
    for wanted in wanted() {
        let point = points.iter().find(|p| p["job_id"] == wanted.job).expect("a point for each job");
        assert_eq!(point["machine"], "web01");
        let disks = point["disks"].as_array().expect("disks");
        assert_eq!(disks.len(), 2, "deltas and their parents are one disk: {point}");
        let disk = disks.iter().find(|d| d["name"] == wanted.disk.as_str()).expect("the disk");
        let what = format!("job {} {}", wanted.job, wanted.disk);
        assert_eq!((text(&disk["file"]), &disk["virtual_size"]), (&*wanted.file, &wanted.size.into()), "{what}");
        let raw = revenant.run(["cat", text(&disk["tree_path"])]).good().stdout;
        assert_eq!(sha256(&raw), wanted.sha256, "{what}");
    }
}

#[test]
fn machines_without_a_description() {
    let case = case::shipped("disk-raw");
    let volumes = case.unpack();
    let revenant = Revenant::of(&case, volumes.path());
    let points = points(&revenant);
    assert_eq!(points.len(), 3);
    for (number, point) in points.iter().enumerate() {
        let disk = &point["disks"][0];
        let manifest = case.wanted(&case.list("restore_points")[number]);
        let entry = manifest.iter().find(|e| e.path.ends_with(b"/disk.img")).expect("the disk");
        let raw = revenant.run(["cat", text(&disk["tree_path"])]).good().stdout;
        assert_eq!(sha256(&raw), entry.text("sha256"), "{point}");
    }
}

/// The files of a disk in the tree, extracted, are images of their formats with the disk's content.
#[test]
fn every_face_is_an_image() {
    if !has("qemu-img") {
        return;
    }
    let (_volumes, revenant) = machine();
    let out = temp();
    let point = points(&revenant).pop().expect("a point");
    let disks = format!("{}/disks", text(&point["tree_path"]));
    assert_eq!(revenant.extract([&disks], out.path()).code(), Some(0));
    let shown = |name: &str| out.path().join(name).to_str().expect("text").to_owned();
    for disk in ["disk0", "disk1"] {
        let raw = shown(&format!("{disk}.raw"));
        for format in ["qcow2", "vmdk", "vhdx", "vhd", "vdi"] {
            let image = shown(&format!("{disk}.{format}"));
            tool("qemu-img", &["compare", "-f", qemu_name(format), "-F", "raw", &image, &raw]);
            if matches!(format, "qcow2" | "vmdk" | "vhdx" | "vdi") {
                tool("qemu-img", &["check", "-q", "-f", format, &image]);
            }
            let again = revenant.run(["cat", &format!("{disks}/{disk}.{format}")]).good().stdout;
            assert!(again == fs::read(&image).expect("the image"), "{format}: the same bytes each time");
        }
    }
}

#[test]
fn converted_and_verified() {
    let (_volumes, revenant) = machine();
    let out = temp();
    let wanted = wanted().into_iter().rfind(|w| w.disk == "disk0").expect("a line");
    let point = points(&revenant).pop().expect("a point");
    let source = format!("{}/disks/disk0.raw", text(&point["tree_path"]));
    for kind in ["raw", "qcow2", "vmdk", "vmdk-flat", "vmdk-stream", "vhdx", "vhdx-fixed", "vhd", "vhd-fixed", "vdi"] {
        let format = kind.split('-').next().expect("a word");
        let target = out.path().join(format!("{kind}.{format}"));
        let target = target.to_str().expect("text");
        let told = revenant.run(["convert", &source, target, "-O", kind, "--verify", "--json"]).good().json();
        assert_eq!((&told["verified"], &told["format"]), (&true.into(), &kind.into()));
        // Read by another program, and by this one as a plain file.
        if has("qemu-img") {
            let raw = out.path().join("back.raw");
            let raw = raw.to_str().expect("text");
            tool("qemu-img", &["convert", "-f", qemu_name(format), "-O", "raw", target, raw]);
            let mut raw = fs::read(raw).expect("the disk");
            raw.truncate(usize::try_from(wanted.size).expect("small"));
            assert_eq!(sha256(&raw), wanted.sha256, "{kind}");
        }
        let shown = bare(["--image", target, "cat", &format!("images/{kind}.{format}/disks/disk0.raw")]).output();
        let mut bytes = shown.expect("the program").stdout;
        bytes.truncate(usize::try_from(wanted.size).expect("small"));
        assert_eq!(sha256(&bytes), wanted.sha256, "{kind} as --image");
        let again = revenant.run(["convert", &source, target, "-O", kind]);
        assert_eq!(again.code(), Some(2));
        assert!(again.stderr.contains("--force"), "{}", again.stderr);
    }
}

#[test]
fn inspected() {
    let (_volumes, revenant) = machine();
    let point = points(&revenant).pop().expect("a point");
    let told = revenant.run(["inspect", text(&point["tree_path"]), "--json"]).good().json();
    let disk = &told[0];
    assert_eq!((&disk["format"], &disk["partition_table"]), (&"qcow2".into(), &"gpt".into()));
    assert_eq!(disk["chain"].as_array().map(Vec::len), Some(5));
    let volume = |n: usize| {
        let v = &disk["volumes"][n];
        (text(&v["name"]), v["start"].as_u64(), v["size"].as_u64(), text(&v["filesystem"]), text(&v["label"]))
    };
    assert_eq!(volume(0), ("p1", Some(2048 * 512), Some(40960 * 512), "fat16", "EFI"));
    let (name, start, _, filesystem, label) = volume(1);
    assert_eq!((name, start, filesystem, label), ("p2", Some(43008 * 512), "ext4", "root"));
    assert_eq!(disk["guest"]["firmware"], "uefi");
    let table = revenant.run(["inspect", text(&point["tree_path"])]).good().text();
    assert!(table.contains("FILESYSTEM") && table.contains("11111111-2222-3333-4444-555555555555"), "{table}");
}

/// A server that is ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let ended = self.0.wait().expect("the server ends");
        if !std::thread::panicking() {
            assert!(ended.success(), "SIGTERM is a good end: {ended}");
        }
    }
}

#[test]
fn exported_by_nbd() {
    if !has("qemu-img") {
        return;
    }
    let (_volumes, revenant) = machine();
    let folder = temp();
    let point = points(&revenant).pop().expect("a point");
    let path = text(&point["tree_path"]);
    let listen = format!("unix:{}", folder.path().join("nbd").display());
    let mut command = revenant.command(["export", "nbd", path, "--listen", &listen, "--json"]);
    let mut server = Server(command.stdout(Stdio::piped()).spawn().expect("the server"));
    let mut lines = BufReader::new(server.0.stdout.take().expect("its output")).lines();
    for wanted in wanted().into_iter().rev().take(2).collect::<Vec<_>>().into_iter().rev() {
        let told: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
        assert_eq!((text(&told["name"]), &told["size"]), (&*wanted.disk, &wanted.size.into()));
        let raw = folder.path().join("copy.raw");
        tool("qemu-img", &["convert", "-f", "raw", "-O", "raw", text(&told["uri"]), raw.to_str().expect("text")]);
        assert_eq!(sha256(&fs::read(&raw).expect("the copy")), wanted.sha256);
        // What the last delta changed, and nothing else, is dirty.
        if has("nbdinfo") {
            let map = tool("nbdinfo", &["--map=qemu:dirty-bitmap:changed", text(&told["uri"])]);
            let dirty = map.lines().filter(|l| l.contains("dirty")).count();
            assert!((1..=8).contains(&dirty), "{map}");
        }
    }
}

#[test]
fn wrong_words_are_told() {
    let (_volumes, revenant) = machine();
    let wrong: [(&[&str], &str); 6] = [
        (&["points", "nobody"], "there are: web01"),
        (&["convert", "machines/web01", "/tmp/x.raw"], "is no file"),
        (&["convert", "/nonexistent", "/tmp/x.raw"], "/nonexistent"),
        (&["convert", "machines/web01", "/tmp/x.xyz"], "-O"),
        (&["inspect", "jobs"], "no disks"),
        (&["export", "nbd", "machines/nobody"], "machines/nobody"),
    ];
    for (args, told) in wrong {
        let run = revenant.run(args);
        assert_eq!(run.code(), Some(2), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(told) && run.stderr.lines().count() == 1, "{args:?}: {}", run.stderr);
    }
    let run = run_within(&mut bare(["ls"]), std::time::Duration::from_secs(20));
    assert!(run.stderr.contains("--image"), "{}", run.stderr);
}

/// What clients write goes into the overlay, is there again after a restart, and never into the backup.
#[test]
fn written_over_an_overlay() {
    if !has("qemu-io") {
        return;
    }
    let (volumes, revenant) = machine();
    let volume = volumes.path().join("web01-0001");
    let before = fs::read(&volume).expect("the volume");
    let folder = temp();
    let overlay = folder.path().join("web01.qcow2");
    let point = points(&revenant).pop().expect("a point");
    let disk = format!("{}/disks/disk0.raw", text(&point["tree_path"]));
    let listen = format!("unix:{}", folder.path().join("nbd").display());
    let serve = |overlay: &Path| {
        let overlay = overlay.to_str().expect("text");
        let mut command =
            revenant.command(["export", "nbd", &disk, "--listen", &listen, "--overlay", overlay, "--json"]);
        let mut server = Server(command.stdout(Stdio::piped()).spawn().expect("the server"));
        let line = BufReader::new(server.0.stdout.take().expect("its output")).lines().next();
        let told: Value = serde_json::from_str(&line.expect("a line").expect("text")).expect("JSON");
        assert_eq!(told["read_only"], false);
        (server, text(&told["uri"]).to_owned())
    };
    {
        let (_server, uri) = serve(&overlay);
        tool("qemu-io", &["-f", "raw", "-c", "write -P 0x5a 5000k 300k", "-c", "flush", "-c", "discard 0 1M", &uri]);
        // A second server on the same file would destroy it.
        let args = ["export", "nbd", &disk, "--listen", "127.0.0.1:0", "--overlay", overlay.to_str().expect("text")];
        let second = revenant.run(args);
        assert!(second.code() == Some(2) && second.stderr.contains("web01.qcow2"), "{}", second.stderr);
    }
    tool("qemu-img", &["check", "-q", "-f", "qcow2", overlay.to_str().expect("text")]);
    {
        let (_server, uri) = serve(&overlay);
        let read = tool("qemu-io", &["-f", "raw", "-c", "read -P 0x5a 5000k 300k", &uri]);
        assert!(!read.contains("failed"), "{read}");
    }
    assert!(fs::read(&volume).expect("the volume") == before, "the backup is as it was");
    // Another disk's overlay is refused.
    let other = format!("{}/disks/disk1.raw", text(&point["tree_path"]));
    let args = ["export", "nbd", &other, "--listen", "127.0.0.1:0", "--overlay", overlay.to_str().expect("text")];
    let refused = revenant.run(args);
    assert!(refused.code() == Some(2) && refused.stderr.contains("made over"), "{}", refused.stderr);
}
