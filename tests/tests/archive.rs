//! `extract -o -`: archives that the stock programs read, with everything in them that was backed up.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::{Command, Stdio},
};

use tests::{
    case::{self, Case},
    compare::{What, differences},
    is_root, parallel,
    program::{Revenant, Run},
    temp,
};

/// Cases with every kind of file and content.
const CASES: [&str; 7] =
    ["special", "r15-special", "xattr-acl", "sparse", "sparse-lzo", "gzip9-sha256", "disk-sparse-gzip"];

/// Whether what is not as it was backed up is the unpacking program's doing, by path, type and what differs.
type Excused = fn(&[u8], &str, &str) -> bool;

/// Whether a program is here; says that something is skipped otherwise.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Runs `program` in `folder` and returns what it says when it fails.
fn fails(program: &str, args: &[&str], folder: &Path) -> Option<String> {
    let run = Command::new(program).args(args).current_dir(folder).env("LC_ALL", "C.UTF-8").output().expect(program);
    (!run.status.success()).then(|| {
        let said = [run.stdout, run.stderr].concat();
        format!("{program} {args:?}: {} {}", run.status, String::from_utf8_lossy(&said))
    })
}

/// The first job of `case` as an archive, in `folder` as `archive`.
fn archive(case: &Case, format: &str, folder: &Path) -> Run {
    let volumes = case.unpack();
    of_volumes(case, volumes.path(), format, folder)
}

fn of_volumes(case: &Case, volumes: &Path, format: &str, folder: &Path) -> Run {
    let revenant = Revenant::of(case, volumes);
    let job = revenant.jobs()[0]["tree_path"].as_str().expect("a path").to_owned();
    let run = revenant.run(["extract", &job, "-o", "-", "--format", format]);
    fs::write(folder.join("archive"), &run.stdout).expect("writing an archive");
    run
}

/// What is not as it was backed up after `unpack` (a program and its arguments) has unpacked the archive of `case`, and is
/// not excused.
fn faults(case: &Case, format: &str, unpack: &[&str], excused: Excused) -> Vec<String> {
    let (folder, out) = (temp(), temp());
    let run = archive(case, format, folder.path());
    let path = folder.path().join("archive");
    let mut args = unpack[1..].to_vec();
    for arg in &mut args {
        if *arg == "ARCHIVE" {
            *arg = path.to_str().expect("a path in UTF-8");
        }
    }
    let mut faults: Vec<String> = fails(unpack[0], &args, out.path()).into_iter().collect();
    if run.code() != Some(0) {
        faults.push(format!("{:?} {}", run.status, run.stderr));
    }
    let wanted = case.first_manifest();
    for difference in differences(&wanted, out.path(), What::Restored) {
        let kind = wanted.iter().find(|e| e.path == difference.path).map_or("", |e| e.text("type"));
        if !excused(&difference.path, kind, &difference.what) {
            faults.push(difference.to_string());
        }
    }
    faults.into_iter().map(|fault| format!("{} {format} {}: {fault}", case.name, unpack[0])).collect()
}

fn check(format: &str, unpack: &[&str], excused: Excused) {
    if has(unpack[0]) {
        parallel::check(&CASES.map(case::shipped), |case| faults(case, format, unpack, excused));
    }
}

#[test]
fn gnu_tar_restores_everything() {
    let unpack = ["tar", "-xpf", "ARCHIVE", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"];
    check("tar", &unpack, |_, _, _| false);
}

#[test]
fn bsdtar_restores_everything() {
    // Names are normalised by libarchive.
    let unpack = ["bsdtar", "-xpf", "ARCHIVE", "--xattrs", "--acls", "--numeric-owner"];
    check("tar", &unpack, |path, _, _| path.ends_with(b"-nfd"));
}

#[test]
fn python_restores_all_but_attributes() {
    let script = "import sys, tarfile\nt = tarfile.open(sys.argv[1], errors='surrogateescape')\n\
        t.extractall('.', **({'filter': 'fully_trusted'} if hasattr(tarfile, 'data_filter') else {}))";
    let excused: Excused = |_, kind, what| what.starts_with("xattr") || kind == "symlink" && what.starts_with("mtime");
    check("tar", &["python3", "-c", script, "ARCHIVE"], excused);
}

/// Zip has no attributes, devices, fifos and hard links; unzip sets no times of links and none before 1970, and takes a name
/// that is no text for one in a code page.
fn not_in_zip(path: &[u8], kind: &str, what: &str) -> bool {
    matches!(kind, "chardev" | "blockdev" | "fifo")
        || kind == "symlink" && what.starts_with("mtime")
        || what.ends_with("wanted -3600")
        || path.ends_with(b"\xfe\x80")
        || what.starts_with("xattr")
        || what.contains("names of one")
}

#[test]
fn unzip_restores_what_zip_keeps() {
    for format in ["zip", "zip-stored"] {
        check(format, &["unzip", "-q", "-X", "-K", "-^", "ARCHIVE"], not_in_zip);
    }
}

#[test]
fn python_and_7z_find_every_byte_of_a_zip() {
    let script =
        "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\nassert z.namelist()";
    for program in [&["python3", "-c", script, "ARCHIVE"][..], &["7z", "t", "ARCHIVE"]] {
        // Only whether the program finds anything wrong.
        check("zip", program, |_, _, _| true);
    }
}

/// What cannot be read is zeros, and all that follows is where it should be.
#[test]
fn an_archive_of_a_damaged_volume_is_whole() {
    let case = case::shipped("corrupt");
    let volumes = temp();
    let name = case.list("volumes")[0]["name"].as_str().expect("a name").to_owned();
    let mut bytes = case.first_volume();
    // In the middle of the volume, where the content of files is.
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 100] {
        *byte ^= 0x55;
    }
    fs::write(volumes.path().join(name), bytes).expect("writing a volume");
    let (folder, restored) = (temp(), temp());
    let revenant = Revenant::of(&case, volumes.path());
    let job = revenant.jobs()[0]["tree_path"].as_str().expect("a path").to_owned();
    let run = revenant.extract([&job], restored.path());
    assert_eq!(run.code(), Some(1), "{}", run.stderr);
    let told = |stderr: &str| {
        let mut told: Vec<_> = stderr.lines().filter(|line| line.contains("bytes ")).map(str::to_owned).collect();
        told.sort();
        told
    };
    let expected = told(&run.stderr);
    assert!(!expected.is_empty(), "{}", run.stderr);
    for (format, unpack) in
        [("tar", &["tar", "-xpf"][..]), ("zip", &["unzip", "-q", "-X"]), ("zip-stored", &["unzip", "-q", "-X"])]
    {
        let run = of_volumes(&case, volumes.path(), format, folder.path());
        assert_eq!(run.code(), Some(1), "{format}: {}", run.stderr);
        assert_eq!(told(&run.stderr), expected, "{format}");
        let out = temp();
        let path = folder.path().join("archive");
        let args = [&unpack[1..], &[path.to_str().expect("UTF-8")]].concat();
        assert_eq!(fails(unpack[0], &args, out.path()), None);
        // As the folder that the same volume is restored to.
        let restored = restored.path().to_str().expect("UTF-8");
        assert_eq!(fails("diff", &["-r", "--no-dereference", restored, "."], out.path()), None, "{format}");
    }
}

#[test]
fn large_sparse_files_stay_sparse() {
    const SIZE: u64 = 9 << 30;
    let folder = temp();
    let image = folder.path().join("large.raw");
    let mut file = fs::File::create(&image).expect("a file");
    file.set_len(SIZE).expect("a large file");
    for at in [0, 5_000_000_001, SIZE - 3] {
        file.seek(SeekFrom::Start(at)).expect("seeking");
        file.write_all(b"end").expect("writing");
    }
    let volumes = case::shipped("plain-nosig").unpack();
    let revenant = Revenant::new(volumes.path()).with("--image", &image);
    let run = revenant.run(["extract", "images/large.raw/disks/disk0.raw", "-o", "-"]).good();
    assert!(run.stdout.len() < 1 << 20, "{} bytes", run.stdout.len());
    fs::write(folder.path().join("archive"), &run.stdout).expect("writing an archive");
    for program in ["tar", "bsdtar"].into_iter().filter(|program| has(program)) {
        let out = temp();
        assert_eq!(fails(program, &["-xf", folder.path().join("archive").to_str().expect("UTF-8")], out.path()), None);
        let file = fs::File::open(out.path().join("disk0.raw")).expect("the file");
        let about = file.metadata().expect("its size");
        assert_eq!(about.len(), SIZE, "{program}");
        assert!(about.blocks() < 1 << 11, "{program}: {} blocks", about.blocks());
        for at in [0, 5_000_000_001, SIZE - 3] {
            let mut bytes = [0; 3];
            file.read_exact_at(&mut bytes, at).expect("reading");
            assert_eq!(&bytes, b"end", "{program} at {at}");
        }
    }
}

#[test]
fn wrong_ways_to_ask_are_refused() {
    let case = case::shipped("plain-nosig");
    let volumes = case.unpack();
    let revenant = Revenant::new(volumes.path());
    let job = revenant.jobs()[0]["tree_path"].as_str().expect("a path").to_owned();
    for (args, told) in [
        (&["-o", "/nonexistent", "--format", "tar"][..], "--format"),
        (&["-o", "-", "--keep-existing"], "--keep-existing"),
        (&["-o", "-", "--workers", "2"], "--workers"),
    ] {
        let run = revenant.run([&["extract", job.as_str()], args].concat());
        assert_eq!(run.code(), Some(2), "{args:?}");
        assert!(run.stdout.is_empty() && run.stderr.contains(told), "{args:?}: {}", run.stderr);
    }
    // The summary does not get into the archive.
    let run = revenant.run(["extract", &job, "-o", "-", "--json"]).good();
    let summary: serde_json::Value = serde_json::from_str(&run.stderr).expect("JSON on standard error");
    assert_eq!(summary["failed"], 0);
    assert!(run.stdout.ends_with(&[0; 1024]));
    assert!(is_root() || summary["files"].as_u64() > Some(0));
}
