//! What must not be opened, and what a descriptor may name.

use std::{fs, os::unix::fs::symlink, sync::Arc};

use blockdev::{
    ErrorKind,
    images::{self, Format},
};

use crate::{
    common::{Folder, open},
    maker::descriptor,
};

fn error_of(lines: &str) -> blockdev::Error {
    let neighbours = Folder::of([("flat.bin", vec![1; 4096])]);
    let text = descriptor(1, u32::MAX, "custom", lines);
    images::open("disk.vmdk", Arc::new(text), None, &neighbours).err().unwrap()
}

#[test]
fn names_never_lead_out_of_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("vm");
    fs::create_dir(&folder).unwrap();
    fs::write(outside.path().join("secret"), [b's'; 512]).unwrap();
    fs::create_dir(folder.join("below")).unwrap();
    fs::write(folder.join("below/secret-below"), [b's'; 512]).unwrap();
    symlink(outside.path().join("secret"), folder.join("link")).unwrap();
    let secret = outside.path().join("secret");
    for (name, kind) in [
        ("../secret", ErrorKind::Missing),
        ("../../etc/passwd", ErrorKind::Missing),
        (r"..\secret", ErrorKind::Missing),
        ("/etc/passwd", ErrorKind::Missing),
        (secret.to_str().unwrap(), ErrorKind::Missing),
        ("below/secret-below", ErrorKind::Missing),
        ("link", ErrorKind::Missing),
        ("below", ErrorKind::Missing),
        ("..", ErrorKind::Missing),
        (".", ErrorKind::Missing),
        ("", ErrorKind::Damaged),
        ("/dev/sda", ErrorKind::Unsupported),
        ("/dev/../etc/passwd", ErrorKind::Unsupported),
        (r"\\.\PhysicalDrive0", ErrorKind::Unsupported),
        ("nbd://localhost:10809", ErrorKind::Missing),
        ("json:{}", ErrorKind::Missing),
    ] {
        for line in [format!("RW 1 FLAT \"{name}\" 0"), format!("RW 1 VMFS \"{name}\"")] {
            fs::write(folder.join("disk.vmdk"), descriptor(1, u32::MAX, "custom", &line)).unwrap();
            let error = open(&folder.join("disk.vmdk")).err().unwrap();
            assert_eq!(error.kind(), kind, "{line}: {error}");
        }
        let line = format!("RW 1 SPARSE \"{name}\"");
        fs::write(folder.join("disk.vmdk"), descriptor(1, u32::MAX, "custom", &line)).unwrap();
        assert!(open(&folder.join("disk.vmdk")).is_err(), "{line}");
        // As a parent.
        let lines = format!("RW 1 ZERO\nparentFileNameHint=\"{name}\"");
        fs::write(folder.join("disk.vmdk"), descriptor(1, 2, "custom", &lines)).unwrap();
        assert!(open(&folder.join("disk.vmdk")).is_err(), "parent {name}");
    }
}

#[test]
fn devices_encryption_and_unknown_kinds() {
    for (lines, kind, words) in [
        ("RW 8 VMFSRDM \"web-rdm.vmdk\"", ErrorKind::Unsupported, "stands for a device"),
        ("RW 8 VMFSRAW \"vml.0200\"", ErrorKind::Unsupported, "stands for a device"),
        ("RW 8 FLAT \"/dev/sda\" 63", ErrorKind::Unsupported, "stands for a device"),
        ("RW 8 VSANSPARSE \"vsan://1\"", ErrorKind::Unsupported, "of the kind VSANSPARSE"),
        ("RW 8 VMFS \"flat.bin\"\nddb.iofilters = \"vmwarevmcrypt\"", ErrorKind::Locked, "encrypted"),
        ("RW 8 VMFS \"flat.bin\"\nencryptionKeys=\"vmware:key/list/x\"", ErrorKind::Locked, "encrypted"),
        ("RW x FLAT \"flat.bin\" 0", ErrorKind::Damaged, "no such size"),
        ("RW 18446744073709551615 FLAT \"flat.bin\" 0", ErrorKind::Damaged, "no such size"),
        ("RW 8 FLAT \"flat.bin\" -1", ErrorKind::Damaged, "no such offset"),
        ("RW 8 FLAT flat.bin 0", ErrorKind::Damaged, "names no file"),
        ("RW 8 SPARSE \"flat.bin\"", ErrorKind::Damaged, "flat.bin: this is no sparse VMDK extent"),
        ("RW 70368744177664 ZERO\nRW 1 ZERO", ErrorKind::Damaged, "more than"),
        ("", ErrorKind::Damaged, "0 extents"),
    ] {
        let error = error_of(lines);
        assert_eq!(error.kind(), kind, "{lines}: {error}");
        assert!(error.to_string().contains(words), "{lines}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn contradictions_about_the_parent() {
    let open = |cid: u32, parent: u32, lines: &str| {
        let neighbours = Folder::of([
            ("base.vmdk", descriptor(0x10, u32::MAX, "custom", "RW 8 ZERO")),
            ("loop.vmdk", descriptor(0x20, 0x20, "custom", "RW 8 ZERO\nparentFileNameHint=\"loop.vmdk\"")),
        ]);
        let text = descriptor(cid, parent, "custom", &format!("RW 8 ZERO\n{lines}"));
        images::open("disk.vmdk", Arc::new(text), None, &neighbours)
    };
    assert_eq!(open(1, 0x10, "parentFileNameHint=\"D:\\VMs\\base.vmdk\"").unwrap().members.len(), 2);
    let kind = |parent, lines| open(1, parent, lines).err().unwrap().kind();
    assert_eq!(kind(0x11, "parentFileNameHint=\"base.vmdk\""), ErrorKind::Damaged);
    assert_eq!(kind(u32::MAX, "parentFileNameHint=\"base.vmdk\""), ErrorKind::Damaged);
    assert_eq!(kind(0x10, ""), ErrorKind::Missing);
    assert_eq!(kind(0x10, "parentFileNameHint=\"other.vmdk\""), ErrorKind::Missing);
    assert_eq!(kind(0x20, "parentFileNameHint=\"loop.vmdk\""), ErrorKind::Damaged);
}

/// A disk whose guest wrote a descriptor into its first sectors is a disk.
#[test]
fn a_guest_cannot_claim_to_be_a_descriptor() {
    let text = descriptor(1, u32::MAX, "vmfs", "RW 8 VMFS \"flat.bin\"");
    assert_eq!(images::detect(&text).unwrap(), Format::Vmdk);
    let mut disk = text;
    disk.resize(2 << 20, 0);
    assert_eq!(images::detect(&disk).unwrap(), Format::Raw);
    for other in ["# just a comment\nversion=1\n", "version=1\nCID=1\n", "[package]\nversion = 1\n"] {
        assert_eq!(images::detect(&other.as_bytes().to_vec()).unwrap(), Format::Raw);
    }
}
