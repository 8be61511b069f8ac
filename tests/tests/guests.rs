//! The files of guests, through the program: out of images that stock tools made, against the manifests that the kernel (or
//! the tool that made them) wrote; and out of a machine that a stock Bacula backed up, compared with its next state.
//!
//! The images are those of `tests/lab/make-guest-images.sh`; `REVENANT_GUEST_IMAGES` names their folder.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    compare::sha256,
    is_root,
    lab::Lab,
    mounted::Mounted,
    program::{Revenant, bare, run_within},
    temp,
};

const LIMIT: Duration = Duration::from_secs(300);

fn images() -> Option<PathBuf> {
    let folder = std::env::var_os("REVENANT_GUEST_IMAGES").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED: REVENANT_GUEST_IMAGES names no folder with guest images (`cargo xtask test` makes one)");
    }
    folder
}

fn tool(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|e| panic!("{program} (cargo xtask setup): {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// A name as the manifests write it.
fn escaped(name: &str) -> String {
    let escape = |c: char| if c >= ' ' && c != '\\' { c.to_string() } else { format!("\\x{:02x}", c as u32) };
    name.chars().map(escape).collect()
}

/// All lines of a manifest by their path, or what a walk of `folder` finds in their form.
fn lines(manifest: &str) -> BTreeMap<String, String> {
    let line = |row: &str| row.rsplit_once('\t').map(|(facts, path)| (path.to_owned(), facts.to_owned()));
    manifest.lines().filter_map(line).collect()
}

fn walked(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(folder.to_owned(), String::new())];
    while let Some((dir, prefix)) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a name in UTF-8");
            let (path, place) = (entry.path(), format!("{prefix}{}", escaped(&name)));
            let metadata = entry.metadata().expect("attributes");
            let line = if metadata.is_dir() {
                todo.push((path, format!("{place}/")));
                "d\t0\t-".to_owned()
            } else if metadata.is_symlink() {
                format!("l\t0\t{}", escaped(shown(&fs::read_link(&path).expect("a target"))))
            } else {
                format!("f\t{}\t{}", metadata.len(), sha256(&path).expect("content"))
            };
            found.insert(place, line);
        }
    }
    found
}

/// Paths that the maker of a manifest leaves out: what mkfs makes, and the snapshots of each ZFS dataset.
fn is_extra(path: &str) -> bool {
    path.split('/').next() == Some("lost+found") || path.split('/').any(|part| part == ".zfs")
}

fn assert_same(what: &str, found: &BTreeMap<String, String>, manifest: &str) {
    let wanted = lines(manifest);
    let of_found = found.iter().filter(|(path, line)| !is_extra(path) && wanted.get(*path) != Some(line));
    let wrong: Vec<_> = of_found.map(|(path, line)| format!("{path}: {line}, not {:?}", wanted.get(path))).collect();
    let missing: Vec<_> = wanted.keys().filter(|path| !found.contains_key(*path)).collect();
    assert!(wrong.is_empty() && missing.is_empty(), "{what}: wrong {wrong:.3?}, missing {missing:.3?}");
    assert!(!wanted.is_empty(), "{what}: an empty manifest");
}

/// One image of each family, and members of those that need several.
const FAMILIES: [(&str, &str); 9] = [
    ("ext4", ""),
    ("ext4-dirty", ""),
    ("xfs-v5", ""),
    ("btrfs-zstd", ""),
    ("ntfs", ""),
    ("fat32", ""),
    ("exfat", ""),
    ("btrfs-raid1", ".0"),
    ("zfs-mirror", ".0"),
];

#[test]
fn the_mounted_files_are_those_of_the_guest() {
    let Some(folder) = images() else { return };
    let mut command = bare(["--image"]);
    let mut all: Vec<_> =
        fs::read_dir(folder.join("vol")).expect("images").map(|e| e.expect("an entry").path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "raw") && !shown(path).contains("/big-"));
    all.sort();
    command.args(&all);
    let Some(mounted) = Mounted::of(command) else { return };
    for (name, member) in FAMILIES {
        let image = folder.join(format!("vol/{name}{member}.raw"));
        if !image.exists() || !folder.join(format!("vol/{name}.manifest.tsv")).exists() {
            println!("SKIPPED: {name} could not be made on this machine");
            continue;
        }
        let files = mounted.path().join(format!("images/{name}{member}.raw/files/whole"));
        let manifest = fs::read_to_string(folder.join(format!("vol/{name}.manifest.tsv"))).expect("a manifest");
        assert_same(name, &walked(&files), &manifest);
    }
}

/// What the kernel says of an image that it mounts itself is what is shown, down to nanoseconds.
#[test]
fn attributes_are_what_the_kernel_says() {
    let Some(folder) = images().filter(|_| is_root()) else { return };
    for (name, options) in [("ext4", "ro,noload"), ("xfs-v5", "ro,norecovery"), ("btrfs", "ro")] {
        let image = folder.join(format!("vol/{name}.raw"));
        let kernel = temp();
        let copy = temp();
        let own = copy.path().join("image.raw");
        if !image.exists() || fs::copy(&image, &own).is_err() {
            println!("SKIPPED: {name} could not be made on this machine");
            continue;
        }
        let mount =
            Command::new("mount").args(["-o", &format!("loop,{options}"), shown(&own), shown(kernel.path())]).status();
        if !mount.is_ok_and(|status| status.success()) {
            println!("SKIPPED: this kernel does not mount {name}");
            continue;
        }
        let mounted = Mounted::of({
            let mut command = bare(["--image"]);
            command.arg(&own);
            command
        });
        if let Some(mounted) = &mounted {
            let ours = mounted.path().join("images/image.raw/files/whole");
            let facts = |path: &Path| {
                let m = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let times = [(m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())];
                let size = if m.is_dir() { 0 } else { m.size() };
                (m.mode(), m.uid(), m.gid(), if m.is_dir() { 0 } else { m.nlink() }, size, m.rdev(), times)
            };
            let mut compared = 0;
            for path in walked_paths(kernel.path()) {
                let below = path.strip_prefix(kernel.path()).expect("below");
                // The place of a subvolume that a snapshot did not take along: the kernel makes its attributes up.
                if below == Path::new("snap-ro/nested") {
                    continue;
                }
                assert_eq!(facts(&ours.join(below)), facts(&path), "{name}: {}", below.display());
                compared += 1;
            }
            assert!(compared > 5000, "{name}: {compared} files");
        }
        drop(mounted);
        tool("umount", &[shown(kernel.path())]);
    }
}

fn walked_paths(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
                todo.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// A disk with one ext4 partition, made of a folder by `mke2fs`, and changed by the kernel.
struct Disk {
    raw: PathBuf,
    work: tempfile::TempDir,
}

const PARTITION: u64 = 1 << 20;

impl Disk {
    fn make(path: PathBuf) -> Self {
        let work = temp();
        let tree = work.path().join("tree");
        fs::create_dir_all(tree.join("etc/app")).expect("a folder");
        fs::create_dir_all(tree.join("data")).expect("a folder");
        fs::write(tree.join("etc/hostname"), "web01\n").expect("a file");
        fs::write(tree.join("etc/app/app.conf"), "level = 1\n").expect("a file");
        for n in 0..40_u32 {
            let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(i ^ n) >> 5) as u8).collect();
            fs::write(tree.join(format!("data/file{n:02}.bin")), bytes).expect("a file");
        }
        let file = fs::File::create(&path).expect("a disk");
        file.set_len(96 << 20).expect("a disk");
        let disk = Self { raw: path, work };
        let table = disk.work.path().join("table");
        fs::write(&table, "label: gpt\nstart=2048,type=L,name=root\n").expect("a table");
        tool("sh", &["-c", &format!("sfdisk -q {} < {}", shown(&disk.raw), shown(&table))]);
        let offset = format!("offset={PARTITION}");
        tool("mke2fs", &["-q", "-t", "ext4", "-d", shown(&tree), "-E", &offset, shown(&disk.raw), "90M"]);
        disk
    }

    /// Lets the kernel change the filesystem.
    fn change(&self, change: impl FnOnce(&Path)) {
        let point = self.work.path().join("mnt");
        fs::create_dir_all(&point).expect("a folder");
        tool("mount", &["-o", &format!("loop,offset={PARTITION}"), shown(&self.raw), shown(&point)]);
        change(&point);
        tool("umount", &[shown(&point)]);
    }

    /// What has changed since `before`, as a qcow2 file that backs onto `parent`.
    fn delta(&self, before: &Path, parent: &str, delta: &Path) {
        const BLOCK: usize = 64 << 10;
        let folder = delta.parent().expect("a folder");
        tool(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-b", &format!("{}/{parent}", shown(folder)), "-F", "qcow2", shown(delta)],
        );
        tool("qemu-img", &["rebase", "-q", "-u", "-b", parent, "-F", "qcow2", shown(delta)]);
        let (old, new) = (fs::read(before).expect("a disk"), fs::read(&self.raw).expect("a disk"));
        let block = self.work.path().join("block");
        for (number, (old, new)) in old.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate() {
            if old != new {
                fs::write(&block, new).expect("a block");
                let write = format!("write -q -s {} {} {}", shown(&block), number * BLOCK, new.len());
                tool("qemu-io", &["-f", "qcow2", "-c", &write, shown(delta)]);
            }
        }
    }
}

/// Of each difference the change, and what differs, by path.
fn differences(value: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = value["differences"].as_array().expect("differences");
    let what =
        |d: &Value| d["what"].as_array().map(|w| w.iter().map(text).collect::<Vec<_>>().join(",")).unwrap_or_default();
    all.iter().map(|d| (text(&d["path"]), format!("{} {}", text(&d["change"]), what(d)).trim().to_owned())).collect()
}

#[test]
fn two_points_of_a_machine_in_a_stock_bacula() {
    if !["qemu-img", "sfdisk", "mke2fs"].iter().all(|t| Command::new(t).arg("--version").output().is_ok()) {
        return println!("SKIPPED: qemu-utils, fdisk or e2fsprogs is missing (cargo xtask setup)");
    }
    let Some(lab) = Lab::up() else { return };
    let source = lab.0.join("vms/web01");
    fs::create_dir_all(&source).expect("a folder");
    let disk = Disk::make(lab.0.join("disk.raw"));
    let full = source.join("disk0.0001-full.qcow2");
    tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", shown(&disk.raw), shown(&full)]);
    lab.run(&["define", "vm", "--path", shown(&source), "--accurate", "--signature", "MD5"]);
    let _full = lab.backup("vm", "Full");

    let before = lab.0.join("before.raw");
    fs::copy(&disk.raw, &before).expect("a copy");
    disk.change(|root| {
        fs::write(root.join("etc/app/app.conf"), "level = 2\n").expect("a change");
        fs::remove_file(root.join("data/file07.bin")).expect("a removal");
        fs::write(root.join("data/new.bin"), vec![7; 100_000]).expect("a new file");
        tool("chmod", &["600", shown(&root.join("etc/hostname"))]);
        // Changed without a trace in its size and time of change of content.
        let touched = root.join("data/file11.bin");
        let time = fs::metadata(&touched).and_then(|m| m.modified()).expect("a time");
        let file = fs::File::options().write(true).open(&touched).expect("a file");
        file.write_all_at(b"!", 150_000).expect("a byte");
        file.set_modified(time).expect("a time");
    });
    disk.delta(&before, "disk0.0001-full.qcow2", &source.join("disk0.0002-inc.qcow2"));
    let after = fs::read(&disk.raw).expect("the disk");
    std::thread::sleep(Duration::from_secs(1));
    let _incremental = lab.backup("vm", "Incremental");

    let revenant = Revenant::new(&lab.volumes("vm")).within(LIMIT);
    let points = revenant.run(["points", "--json"]).good().json();
    let paths: Vec<_> = points.as_array().expect("points").iter().filter_map(|p| p["tree_path"].as_str()).collect();
    let [old, new] = paths[..] else { panic!("{points}") };
    // The files of the newer point are those of the disk as it is now.
    let restored = temp();
    let _said = revenant.extract([format!("{new}/files/disk0/p1")], restored.path()).good();
    disk.change(|root| {
        let mut ours = walked(restored.path());
        ours.retain(|path, _| !is_extra(path));
        let mut kernels = walked(root);
        kernels.retain(|path, _| !is_extra(path));
        assert_eq!(ours, kernels);
    });
    let run = revenant.run(["diff", "--json", old, new]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr);
    let value: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    let expected = [
        ("disk0/p1/data/file07.bin", "removed"),
        ("disk0/p1/data/file11.bin", "changed content"),
        ("disk0/p1/data/new.bin", "added"),
        ("disk0/p1/etc/app/app.conf", "changed content,mtime"),
        ("disk0/p1/etc/hostname", "changed mode"),
    ];
    assert_eq!(differences(&value), expected.map(|(path, what)| (path.to_owned(), what.to_owned())).into());
    let read = value["summary"]["content_read"].as_u64().expect("a number");
    assert!(read < 2 << 20, "{read} bytes of content read, of 12 MB: what is the same was read");
    assert_eq!(revenant.run(["diff", new, new]).code(), Some(0), "a point does not differ from itself");
    // Blocks: all that differs, and nothing far from it.
    let blocks = revenant.run(["diff", "--blocks", "--granularity", "4096", "--json", old, new]);
    let blocks: Value = serde_json::from_slice(&blocks.stdout).expect("JSON");
    let ranges = blocks["differences"].as_array().expect("ranges").iter().map(|r| {
        let number = |key: &str| r[key].as_u64().expect("a number") as usize;
        number("start")..number("start") + number("length")
    });
    let ranges: Vec<_> = ranges.collect();
    let before = fs::read(&before).expect("the disk as it was");
    for (number, (a, b)) in before.chunks(4096).zip(after.chunks(4096)).enumerate() {
        let told = ranges.iter().any(|r| r.contains(&(number * 4096)));
        assert_eq!(told, a != b, "block {number}");
    }
    assert!(!ranges.is_empty());
}

#[test]
fn wrong_volumes_are_told() {
    let folder = temp();
    let image = folder.path().join("broken.raw");
    fs::File::create(&image).and_then(|f| f.set_len(8 << 20)).expect("a file");
    tool("mke2fs", &["-q", "-t", "ext4", shown(&image)]);
    // Of the root directory's inode nothing is left.
    let file = fs::File::options().write(true).open(&image).expect("a file");
    file.write_all_at(&[0xff; 64 << 10], 4096 * 2).expect("harm");
    let run = run_within(&mut bare(["ls", "--image", shown(&image), "images/broken.raw/files/whole"]), LIMIT);
    assert_ne!(run.code(), Some(0));
    assert!(run.stderr.contains("broken.raw"), "{}", run.stderr);
    let missing = run_within(&mut bare(["ls", "--image", shown(&image), "images/broken.raw/files/p7"]), LIMIT);
    assert_eq!(missing.code(), Some(2));
}

/// A volume that cryptsetup encrypted in place is listed as locked, and opens by the file with its passphrase.
#[test]
fn an_encrypted_volume_opens_with_its_passphrase() {
    let tools = ["cryptsetup", "mkfs.ext4", "debugfs"];
    if let Some(missing) = tools.iter().find(|tool| Command::new(tool).arg("-V").output().is_err()) {
        println!("SKIPPED: {missing} is not installed");
        return;
    }
    let folder = temp();
    let [image, secret, wrong, text] = ["disk.raw", "secret", "wrong", "text"].map(|name| folder.path().join(name));
    fs::File::create(&image).expect("an image").set_len(40 << 20).expect("its size");
    fs::write(&secret, "a pass phrase\n").expect("a secret");
    fs::write(&wrong, "another").expect("a secret");
    fs::write(&text, "what is inside\n").expect("a file");
    tool("mkfs.ext4", &["-q", "-F", shown(&image), "20M"]);
    tool("debugfs", &["-w", "-R", &format!("write {} text", shown(&text)), shown(&image)]);
    let key = folder.path().join("key");
    fs::write(&key, "a pass phrase").expect("a key");
    let kdf = ["--pbkdf", "argon2id", "--pbkdf-memory", "4096", "--pbkdf-force-iterations", "4"];
    let how = ["-q", "reencrypt", "--encrypt", "--reduce-device-size", "16M", "--key-file", shown(&key)];
    tool("cryptsetup", &[&how[..], &kdf, &[shown(&image)]].concat());

    let run = |options: &[&str], args: &[&str]| {
        let mut command = bare(["--image", shown(&image)]);
        command.args(options).args(args);
        run_within(&mut command, LIMIT)
    };
    let path = "images/disk.raw/files/whole/text";
    let open = ["--unlock", shown(&wrong), shown(&secret)];
    assert_eq!(run(&open, &["cat", path]).good().text(), "what is inside\n");
    let listed = run(&[], &["ls", "images/disk.raw/files"]).good().text();
    assert!(listed.contains("whole"), "{listed}");
    for options in [&[][..], &["--unlock", shown(&wrong)]] {
        let locked = run(options, &["cat", path]);
        assert_ne!(locked.code(), Some(0));
        assert!(locked.stderr.contains("luks2") && locked.stderr.contains("--unlock"), "{}", locked.stderr);
    }
    let mut by_environment = bare(["--image", shown(&image), "cat", path]);
    by_environment.env("REVENANT_UNLOCK", &secret);
    assert_eq!(run_within(&mut by_environment, LIMIT).good().text(), "what is inside\n");
    let inspected = run(&open, &["--json", "inspect", "images/disk.raw/disks/disk0.raw"]).good().json();
    let volume = &inspected["volumes"][0];
    assert_eq!((&volume["encryption"]["kind"], &volume["filesystem"]), (&Value::from("luks2"), &Value::from("ext4")));
    assert_eq!(volume["encryption"]["locked"], Value::Null);
}

/// Streams of directories come out as those of files do: beside them, in a folder and in an archive.
#[test]
fn streams_of_directories_are_restored() {
    if !is_root() || !Path::new("/dev/fuse").exists() || Command::new("ntfs-3g").arg("--version").output().is_err() {
        println!("SKIPPED: making NTFS volumes needs root, FUSE and ntfs-3g");
        return;
    }
    let folder = temp();
    let [image, place, out] = ["ntfs.raw", "mounted", "out"].map(|name| folder.path().join(name));
    fs::File::create(&image).expect("an image").set_len(16 << 20).expect("its size");
    fs::create_dir(&place).expect("a place");
    tool("mkntfs", &["-q", "-F", "-f", shown(&image)]);
    tool("ntfs-3g", &["-o", "streams_interface=xattr", shown(&image), shown(&place)]);
    fs::create_dir_all(place.join("dir/sub")).expect("directories");
    fs::write(place.join("dir/file"), "content").expect("a file");
    for (path, value) in [("dir", "of a directory"), ("dir/sub", "of one in it"), ("dir/file", "of a file")] {
        tool("setfattr", &["-n", "user.note", "-v", value, shown(&place.join(path))]);
    }
    tool("umount", &[shown(&place)]);
    let run = |args: &[&str]| {
        let mut command = bare(["--image", shown(&image)]);
        command.args(args);
        run_within(&mut command, LIMIT).good()
    };
    let root = "images/ntfs.raw/files/whole";
    run(&["extract", root, "-o", shown(&out)]);
    for (path, value) in
        [("dir:note", "of a directory"), ("dir/sub:note", "of one in it"), ("dir/file:note", "of a file")]
    {
        assert_eq!(fs::read_to_string(out.join(path)).unwrap_or_else(|e| panic!("{path}: {e}")), value);
    }
    assert!(out.join("dir/sub").is_dir() && out.join("dir/file").is_file());
    let archive = folder.path().join("all.tar");
    fs::write(&archive, run(&["extract", root, "-o", "-"]).stdout).expect("an archive");
    let listed = Command::new("tar").args(["-tf", shown(&archive)]).output().expect("tar");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in ["dir:note", "dir/sub:note", "dir/file:note", "dir/file"] {
        assert!(listed.lines().any(|line| line == name), "{name} is not in {listed}");
    }
}

/// The most memory that the program had while it did `args`, in bytes.
fn peak(image: &Path, args: &[&str]) -> u64 {
    let mut command = bare(["--image", shown(image)]);
    let mut child = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program");
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let (start, mut peak) = (Instant::now(), 0);
    // It only grows, so the last look before the end is near the truth.
    let ended = loop {
        let of_line = |line: &str| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok();
        let found = fs::read_to_string(&status).ok().and_then(|text| text.lines().find_map(of_line));
        peak = peak.max(found.unwrap_or(0) << 10);
        if let Some(ended) = child.try_wait().expect("waiting") {
            break ended;
        }
        if start.elapsed() > LIMIT {
            child.kill().and_then(|()| child.wait()).expect("stopped");
            panic!("{args:?} takes more than {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success() && peak > 0, "{args:?}: {ended}");
    peak
}

/// Bound for the memory of a walk over a large volume.
const PEAK_MAX: u64 = 128 << 20;

/// A volume of 200 GiB, sparse, with some thousand files: what is kept of it in memory does not grow with it.
#[test]
fn large_volumes_take_little_memory() {
    let folder = temp();
    let files = folder.path().join("files");
    fs::create_dir(&files).expect("a folder");
    for number in 0..3000 {
        fs::write(files.join(format!("file-{number}")), format!("content {number}\n")).expect("a file");
    }
    let large = |name: &str| {
        let image = folder.path().join(name);
        fs::File::create(&image).expect("an image").set_len(200 << 30).expect("its size");
        image
    };
    if Command::new("mkfs.ext4").arg("-V").output().is_ok() {
        let image = large("ext4.raw");
        tool(
            "mkfs.ext4",
            &["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", shown(&files), shown(&image)],
        );
        assert_walk(&image, folder.path());
    }
    if Command::new("mkntfs").arg("-V").output().is_ok() && is_root() && Path::new("/dev/fuse").exists() {
        let (image, place) = (large("ntfs.raw"), folder.path().join("mounted"));
        fs::create_dir(&place).expect("a place");
        tool("mkntfs", &["-q", "-F", "-f", shown(&image)]);
        tool("ntfs-3g", &[shown(&image), shown(&place)]);
        tool("cp", &["-r", &format!("{}/.", shown(&files)), shown(&place)]);
        tool("umount", &[shown(&place)]);
        assert_walk(&image, folder.path());
    }
}

fn assert_walk(image: &Path, folder: &Path) {
    let name = image.file_name().and_then(|name| name.to_str()).expect("a name");
    let (root, out) = (format!("images/{name}/files/whole"), folder.join(format!("{name}.out")));
    let listing = peak(image, &["ls", "-R", &root]);
    let extraction = peak(image, &["extract", &root, "-o", shown(&out)]);
    println!("{name}: {} MiB to list it, {} MiB to extract it", listing >> 20, extraction >> 20);
    assert!(listing < PEAK_MAX && extraction < PEAK_MAX, "{name}: {listing} and {extraction} bytes");
    assert_eq!(fs::read_to_string(out.join("file-2999")).expect("restored"), "content 2999\n");
}
