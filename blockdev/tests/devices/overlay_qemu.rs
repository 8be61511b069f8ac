//! QEMU opens, checks, compares and writes overlay files.

use std::{fs::File, os::unix::fs::FileExt, path::Path, process::Command, sync::Arc};

use blockdev::{
    Extent, ExtentKind, ReadAt, WriteAt,
    overlay::{Backing, Options, Overlay},
};

use crate::{
    model::{Model, areas, read},
    source::Source,
};

/// Run QEMU's `program`; its exit code and what it said, or `None` where it is not installed.
fn qemu(program: &str, args: &[&str]) -> Option<(i32, String)> {
    let Ok(out) = Command::new(program).args(args).output() else {
        println!("skipped: {program} is not installed");
        return None;
    };
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    Some((out.status.code().unwrap_or(-1), said))
}

/// `qemu-img check` finds nothing, or leaked clusters alone (exit code 3).
pub fn checks_but_for_leaks(path: &Path, what: &str) {
    if let Some((code, said)) = qemu("qemu-img", &["check", "-q", path.to_str().unwrap()]) {
        assert!(code == 0 || code == 3, "{what}: {said}");
        let (code, said) = qemu("qemu-img", &["check", "-r", "leaks", path.to_str().unwrap()]).unwrap();
        assert_eq!(code, 0, "{what}: {said}");
        let (code, said) = qemu("qemu-img", &["check", path.to_str().unwrap()]).unwrap();
        assert_eq!(code, 0, "{what}: {said}");
    }
}

/// The disk as a sparse raw file.
fn save(device: &dyn ReadAt, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(device.size()).unwrap();
    let mut at = 0;
    while let Some(Extent { range, kind }) = device.extent_at(at).unwrap() {
        if kind == ExtentKind::Data {
            file.write_all_at(&read(device, &range), range.start).unwrap();
        }
        at = range.end;
    }
}

/// Over the base as a raw file, recorded at making or given later, QEMU finds the file whole and the disk equal.
#[test]
fn checked_and_compared() {
    for recorded in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let backing = recorded.then(|| Backing { name: "base.raw".to_owned(), format: "raw".to_owned() });
        let options = Options { backing, ..Options::new("the source") };
        let overlay = Overlay::create(&at("o.qcow2"), Arc::new(Source), &options).unwrap();
        let mut random = fastrand::Rng::with_seed(5);
        let mut model = Model::new(&areas(), &Source);
        for _ in 0..400 {
            let op = model.random_op(&mut random);
            op.perform(&overlay).unwrap();
            model.apply(&op);
        }
        save(&overlay, &at("now.raw"));
        save(&Source, &at("base.raw"));
        let file = at("o.qcow2");
        let file = file.to_str().unwrap();
        let Some((code, said)) = qemu("qemu-img", &["check", file]) else { return };
        assert!(code != 0 && said.contains("lock"), "QEMU opened an overlay in use: {said}");
        overlay.close().unwrap();
        let (code, said) = qemu("qemu-img", &["check", file]).unwrap();
        assert_eq!(code, 0, "{said}");
        if !recorded {
            let (code, said) = qemu("qemu-img", &["rebase", "-u", "-b", "base.raw", "-F", "raw", file]).unwrap();
            assert_eq!(code, 0, "{said}");
        }
        let now = at("now.raw");
        let compare = ["compare", "-f", "qcow2", "-F", "raw", file, now.to_str().unwrap()];
        let (code, said) = qemu("qemu-img", &compare).unwrap();
        assert_eq!(code, 0, "{said}");
        // Its header was rewritten by qemu-img, and is still ours.
        let overlay = Overlay::open(&at("o.qcow2"), Arc::new(Source), &options).unwrap();
        model.check(&overlay, "after qemu-img");
    }
}

/// What QEMU writes to the file, the next opening reads, and it can be written on, and checked again.
#[test]
fn written_by_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("o.qcow2");
    let backing = Some(Backing { name: "base.raw".to_owned(), format: "raw".to_owned() });
    let options = Options { backing, ..Options::new("the source") };
    save(&Source, &folder.path().join("base.raw"));
    let overlay = Overlay::create(&path, Arc::new(Source), &options).unwrap();
    overlay.write_at(&[1; 10_000], 5000).unwrap();
    overlay.close().unwrap();
    let args = [
        "-f",
        "qcow2",
        "-c",
        "write -P 0x22 8192 200k",
        "-c",
        "write -P 0x33 1000M 1M",
        "-c",
        "write -z 500M 64k",
        path.to_str().unwrap(),
    ];
    let Some((code, said)) = qemu("qemu-io", &args) else { return };
    assert_eq!(code, 0, "{said}");
    let overlay = Overlay::open(&path, Arc::new(Source), &options).unwrap();
    let is = |offset: u64, len: usize, value: u8| {
        let mut bytes = vec![!value; len];
        overlay.read_at(&mut bytes, offset).unwrap();
        bytes.iter().all(|b| *b == value)
    };
    assert!(
        is(5000, 3192, 1) && is(8192, 200 << 10, 0x22) && is(1000 << 20, 1 << 20, 0x33) && is(500 << 20, 64 << 10, 0)
    );
    overlay.write_at(&[0x44; 1 << 20], 700 << 20).unwrap();
    overlay.write_at(&[0x44; 100], 1000 << 20).unwrap();
    assert!(is(1000 << 20, 100, 0x44) && is((1000 << 20) + 100, 5000, 0x33));
    overlay.close().unwrap();
    let (code, said) = qemu("qemu-img", &["check", path.to_str().unwrap()]).unwrap();
    assert_eq!(code, 0, "{said}");
}

/// A disk of 16 TiB: the file is made in a moment, takes little room, and QEMU opens it.
#[test]
fn a_huge_disk() {
    struct Huge;
    impl ReadAt for Huge {
        fn size(&self) -> u64 {
            16 << 40
        }
        fn read_at(&self, buf: &mut [u8], _offset: u64) -> blockdev::Result<usize> {
            buf.fill(0);
            Ok(buf.len())
        }
        fn extent_at(&self, offset: u64) -> blockdev::Result<Option<Extent>> {
            Ok(Some(Extent { range: offset..self.size(), kind: ExtentKind::Hole }))
        }
        fn map(&self, _offset: u64, _len: u64) -> Option<blockdev::MappedRun<'_>> {
            None
        }
    }
    impl blockdev::BlockDevice for Huge {
        fn block_sizes(&self) -> blockdev::BlockSizes {
            blockdev::BlockSizes::CLASSIC
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.qcow2");
    let overlay = Overlay::create(&path, Arc::new(Huge), &Options::new("huge")).unwrap();
    overlay.write_at(&[1; 4096], (16 << 40) - 4096).unwrap();
    overlay.close().unwrap();
    let overlay = Overlay::open(&path, Arc::new(Huge), &Options::new("huge")).unwrap();
    assert!(overlay.used() < 2 << 20, "{}", overlay.used());
    drop(overlay);
    if let Some((code, said)) = qemu("qemu-img", &["info", path.to_str().unwrap()]) {
        assert!(code == 0 && said.contains("16 TiB"), "{said}");
    }
}
