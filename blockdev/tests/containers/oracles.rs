//! Programs by others that know the formats.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    ops::Range,
    path::Path,
    process::{Command, Stdio},
};

use blockdev::images::Format;
use serde_json::Value;

/// Run a program; `None`, and a message, where it is not installed.
fn run(program: &str, arguments: &[&OsStr]) -> Option<Vec<u8>> {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(e) => {
            eprintln!("skipped: {program}: {e}");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(2000)])
    );
    Some(output.stdout)
}

/// What QEMU calls a format.
pub const fn qemu_name(format: Format) -> &'static str {
    match format {
        Format::Vhd => "vpc",
        format => format.name(),
    }
}

fn json(arguments: &[&OsStr]) -> Option<Value> {
    run("qemu-img", arguments).map(|out| serde_json::from_slice(&out).unwrap())
}

/// `qemu-img check`, where QEMU can check the format.
pub fn check(format: Format, path: &Path) {
    if matches!(format, Format::Raw | Format::Vhd) {
        return;
    }
    let arguments: [&OsStr; 5] =
        ["check".as_ref(), "--output=json".as_ref(), "-f".as_ref(), qemu_name(format).as_ref(), path.as_ref()];
    if let Some(found) = json(&arguments) {
        for bad in ["corruptions", "leaks", "check-errors"] {
            assert_eq!(found.get(bad).and_then(Value::as_u64).unwrap_or(0), 0, "{found}");
        }
    }
}

/// `qemu-img compare` with the raw file.
pub fn compare(format: Format, path: &Path, raw: &Path) {
    let name = qemu_name(format).as_ref();
    run(
        "qemu-img",
        &["compare".as_ref(), "-f".as_ref(), name, "-F".as_ref(), "raw".as_ref(), path.as_ref(), raw.as_ref()],
    );
}

/// `qemu-img compare` of a range of the disk with the raw file.
pub fn compare_range(format: Format, path: &Path, raw: &Path, range: Range<u64>) {
    let window = format!("driver=raw,offset={},size={}", range.start, range.end - range.start);
    let ours = format!(
        "{window},file.driver={},file.file.driver=file,file.file.filename={}",
        qemu_name(format),
        path.display()
    );
    let theirs = format!("{window},file.driver=file,file.filename={}", raw.display());
    run("qemu-img", &["compare".as_ref(), "--image-opts".as_ref(), ours.as_ref(), theirs.as_ref()]);
}

/// The size of the disk, as QEMU sees it.
pub fn virtual_size(format: Format, path: &Path) -> Option<u64> {
    let arguments: [&OsStr; 5] =
        ["info".as_ref(), "--output=json".as_ref(), "-f".as_ref(), qemu_name(format).as_ref(), path.as_ref()];
    json(&arguments).and_then(|info| info["virtual-size"].as_u64())
}

/// The ranges of the disk that QEMU takes for data.
pub fn data(format: Format, path: &Path) -> Option<Vec<Range<u64>>> {
    let arguments: [&OsStr; 5] =
        ["map".as_ref(), "--output=json".as_ref(), "-f".as_ref(), qemu_name(format).as_ref(), path.as_ref()];
    let map = json(&arguments)?;
    let data = map.as_array().unwrap().iter().filter(|run| run["data"] == true);
    Some(
        data.map(|run| {
            let start = run["start"].as_u64().unwrap();
            start..start + run["length"].as_u64().unwrap()
        })
        .collect(),
    )
}

/// What 7-Zip unpacks from the image has to be the raw file.
pub fn seven_zip(format: Format, path: &Path, raw: &Path) {
    let kind = format!("-t{}", format.name().trim_end_matches('2'));
    let child =
        Command::new("7z").args(["e", "-so", &kind]).arg(path).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => return eprintln!("skipped: 7z: {e}"),
    };
    let mut unpacked = child.stdout.take().unwrap();
    let mut raw = File::open(raw).unwrap();
    let (mut ours, mut theirs) = (vec![0; 1 << 20], Vec::with_capacity(1 << 20));
    let mut at = 0;
    loop {
        theirs.clear();
        let n = unpacked.by_ref().take(1 << 20).read_to_end(&mut theirs).unwrap();
        raw.read_exact(&mut ours[..n]).unwrap_or_else(|_| panic!("7z unpacked more than the disk from {path:?}"));
        assert!(ours[..n] == theirs[..], "7z has other bytes in {path:?} in the MiB at {at}");
        at += n as u64;
        if n == 0 {
            break;
        }
    }
    assert!(child.wait().unwrap().success(), "7z on {path:?}");
    assert_eq!(at, raw.metadata().unwrap().len(), "7z unpacked less than the disk from {path:?}");
}

/// The tool of the libyal project that knows the format prints the size in bytes.
pub fn libyal(format: Format, path: &Path, size: u64) {
    let program = match format {
        Format::Vmdk => "vmdkinfo",
        Format::Vhd | Format::Vhdx => "vhdiinfo",
        Format::Qcow2 => "qcowinfo",
        Format::Raw | Format::Vdi => return,
    };
    if let Some(out) = run(program, &[path.as_ref()]) {
        let out = String::from_utf8_lossy(&out);
        assert!(out.contains(&format!("({size} bytes)")) || out.contains(&format!(": {size} bytes")), "{size}: {out}");
    }
}
