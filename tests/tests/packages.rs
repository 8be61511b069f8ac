//! OVF packages: a machine in a backup as OVA and OVF, judged by `tar`, Python's XML parser and `qemu-img`; and read back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tests::{
    program::{Revenant, bare, run_within},
    temp,
};

/// The last point of the machine in `tests/data/machines`.
fn machine() -> (tempfile::TempDir, Revenant, String) {
    let folder = temp();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/machines/web01-0001.zst");
    let packed = fs::File::open(data).expect("the volume");
    let mut plain = fs::File::create(folder.path().join("web01-0001")).expect("a file");
    zstd::stream::copy_decode(packed, &mut plain).expect("unpacking");
    let revenant = Revenant::new(folder.path());
    let points = revenant.run(["points", "--json"]).good().json();
    let last = points.as_array().and_then(|p| p.last()).and_then(|p| p["tree_path"].as_str());
    let last = last.expect("a point").to_owned();
    (folder, revenant, last)
}

fn tool(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).stderr(Stdio::inherit()).output();
    let Ok(out) = out else {
        println!("SKIPPED: there is no {program} (cargo xtask setup)");
        return None;
    };
    assert!(out.status.success(), "{program} {args:?}");
    Some(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// The machine's disks as raw files.
fn raws(revenant: &Revenant, point: &str, folder: &Path) -> Vec<PathBuf> {
    let disk = |n| {
        let raw = folder.join(format!("disk{n}.raw"));
        let _said = revenant.run(["convert", &format!("{point}/disks/disk{n}.raw"), shown(&raw)]).good();
        raw
    };
    (0..2).map(disk).collect()
}

#[test]
fn a_machine_becomes_an_archive_that_others_read() {
    let (_volumes, revenant, point) = machine();
    let folder = temp();
    let ova = folder.path().join("web01.ova");
    let _said = revenant.run(["convert", "--verify", &point, shown(&ova)]).good();
    let raws = raws(&revenant, &point, folder.path());
    if tool("tar", &["-C", shown(folder.path()), "-xf", shown(&ova)]).is_none() {
        return;
    }
    let descriptor = folder.path().join("web01.ovf");
    let script = "import sys, xml.etree.ElementTree as E\n\
                  o = '{http://schemas.dmtf.org/ovf/envelope/1}'\n\
                  t = E.parse(sys.argv[1])\n\
                  files = {f.get(o+'id'): f for f in t.iter(o+'File')}\n\
                  for d in t.iter(o+'Disk'):\n\
                  \x20   f = files[d.get(o+'fileRef')]\n\
                  \x20   print(f.get(o+'href'), f.get(o+'size'), d.get(o+'capacity'))";
    let Some(disks) = tool("python3", &["-c", script, shown(&descriptor)]) else { return };
    assert_eq!(disks.lines().count(), 2);
    for (line, raw) in disks.lines().zip(&raws) {
        let fields: Vec<_> = line.split(' ').collect();
        let file = folder.path().join(fields[0]);
        assert_eq!(fs::metadata(&file).expect("a disk").len().to_string(), fields[1]);
        assert_eq!(fs::metadata(raw).expect("a disk").len().to_string(), fields[2]);
        let compared = tool("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", shown(&file), shown(raw)]);
        assert!(compared.is_none_or(|said| said.contains("identical")), "{line}");
    }
}

#[test]
fn a_package_is_a_source_like_any_other() {
    let (_volumes, revenant, point) = machine();
    let folder = temp();
    let raws = raws(&revenant, &point, folder.path());
    for name in ["web01.ova", "web01.ovf"] {
        let package = folder.path().join(name);
        let _said = revenant.run(["convert", &point, shown(&package)]).good();
        let inspected =
            run_within(bare(["inspect", "--json", shown(&package)]).stdin(Stdio::null()), LIMIT).good().json();
        assert_eq!(inspected.as_array().map(Vec::len), Some(2), "{name}");
        for (n, raw) in raws.iter().enumerate() {
            let path = format!("images/{name}/disks/disk{n}.raw");
            let bytes = run_within(&mut bare(["--image", shown(&package), "cat", &path]), LIMIT).good().stdout;
            assert!(bytes == fs::read(raw).expect("a disk"), "{path}");
        }
        let one = folder.path().join("one.qcow2");
        let refused = run_within(&mut bare(["convert", shown(&package), shown(&one)]), LIMIT);
        assert_eq!(refused.code(), Some(2));
        assert!(refused.stderr.contains("2 disks"), "{}", refused.stderr);
    }
    // An archive that was cut off says so.
    let ova = folder.path().join("web01.ova");
    let bytes = fs::read(&ova).expect("the archive");
    fs::write(&ova, &bytes[..bytes.len() / 2]).expect("a shorter one");
    let refused = run_within(&mut bare(["inspect", shown(&ova)]), LIMIT);
    assert_eq!(refused.code(), Some(2));
    assert!(refused.stderr.contains("cut off"), "{}", refused.stderr);
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);
