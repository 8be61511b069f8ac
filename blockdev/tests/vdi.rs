//! VDI: images made by QEMU, and differencing images, which QEMU does not make: two of its images with other headers.

mod common;

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use blockdev::{
    ErrorKind, ReadAt,
    file::HostFile,
    images::{self, Format},
};
use common::{Random, run};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Offsets of fields of the header.
const TYPE: u64 = 76;
const CREATED: u64 = 392;
const MODIFIED: u64 = 408;
const PARENT: u64 = 424;
const PARENT_MODIFIED: u64 = 440;

fn img(folder: &Path, arguments: &str) {
    let words = arguments.split_whitespace().map(OsStr::new);
    run("env", ["-C".as_ref(), folder.as_os_str(), "qemu-img".as_ref()].into_iter().chain(words));
}

/// A VDI image of a disk of `size` bytes, and the disk.
fn make(folder: &Path, name: &str, size: u64, options: &str, random: &mut Random) -> (PathBuf, PathBuf) {
    let (raw, vdi) = (format!("{name}.raw"), format!("{name}.vdi"));
    common::write_sparse(&folder.join(&raw), size, random);
    img(folder, &format!("convert -t unsafe -f raw -O vdi {options} {raw} {vdi}"));
    (folder.join(vdi), folder.join(raw))
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn field<const N: usize>(path: &Path, at: u64) -> [u8; N] {
    *fs::read(path).unwrap()[at as usize..].first_chunk().unwrap()
}

#[test]
fn images_read_as_the_disks_they_were_made_of() {
    let mut random = Random(1);
    let folder = tempfile::tempdir().unwrap();
    for (options, size, variant) in [
        ("", 20 << 20, "dynamic"),
        ("", (33 << 20) + 512 * 77, "dynamic"),
        ("-o static=on", (9 << 20) + 512, "fixed"),
        ("-o static=on,preallocation=full", 5 << 20, "fixed"),
        ("-o preallocation=falloc", 5 << 20, "dynamic"),
        ("", 512, "dynamic"),
    ] {
        let (vdi, raw) = make(folder.path(), "disk", size, options, &mut random);
        let image = common::open(&vdi).unwrap();
        common::assert_same(&image.disk, &HostFile::open(&raw).unwrap(), &mut random);
        let info = &image.members[0].info;
        assert_eq!((info.format, info.variant.as_str()), (Format::Vdi, variant));
        assert_eq!((info.virtual_size, info.cluster_size), (size, Some(1 << 20)));
        assert_eq!(info.parent, None);
    }
}

#[test]
fn images_that_were_written_out_of_order_read_as_qemu_reads_them() {
    let mut random = Random(2);
    let folder = tempfile::tempdir().unwrap();
    let vdi = folder.path().join("disk.vdi");
    img(folder.path(), "create -q -f vdi disk.vdi 64M");
    let mut arguments = vec!["-t".into(), "unsafe".into(), "-f".into(), "vdi".into()];
    for _ in 0..60 {
        let at = random.below(63 << 20) & !511;
        arguments.extend([
            "-c".to_owned(),
            format!("write -P {} {at} {}", random.below(256), 512 * (1 + random.below(999))),
        ]);
    }
    arguments.push(vdi.to_str().unwrap().to_owned());
    run("qemu-io", arguments);
    let expected = common::qemu_raw("vdi", &vdi, &folder.path().join("expected"));
    let image = common::open(&vdi).unwrap();
    common::assert_same(&image.disk, &expected, &mut random);
    // Block 3 as VirtualBox has it once it was discarded.
    let table = u64::from(u32::from_le_bytes(field(&vdi, 340)));
    patch(&vdi, table + 4 * 3, &[0xfe, 0xff, 0xff, 0xff]);
    let mut block = vec![1; 1 << 20];
    common::open(&vdi).unwrap().disk.read_at(&mut block, 3 << 20).unwrap();
    assert!(block.iter().all(|b| *b == 0));
}

/// The parent, `{its UUID}.vdi`, and a child on it.
fn family(folder: &Path, random: &mut Random) -> (PathBuf, PathBuf) {
    let (parent, _) = make(folder, "parent", 12 << 20, "", random);
    let (child, _) = make(folder, "child", 12 << 20, "", random);
    // The first three fields of a UUID are little-endian.
    patch(&parent, CREATED, &[0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 8, 9, 10, 11, 12, 13, 14, 15]);
    patch(&parent, MODIFIED, b"as it was before");
    let named = folder.join("{00112233-4455-6677-0809-0a0b0c0d0e0f}.vdi");
    fs::rename(parent, &named).unwrap();
    patch(&child, TYPE, &[4]);
    patch(&child, PARENT, &field::<16>(&named, CREATED));
    patch(&child, PARENT_MODIFIED, &field::<16>(&named, MODIFIED));
    (child, named)
}

#[test]
fn a_differencing_image_has_what_it_lacks_from_its_parent() {
    let mut random = Random(3);
    let folder = tempfile::tempdir().unwrap();
    let (child, parent) = family(folder.path(), &mut random);
    // Blocks that the child has not, and one that it has as zeros.
    let table = u64::from(u32::from_le_bytes(field(&child, 340)));
    for block in [1, 4, 5] {
        patch(&child, table + 4 * block, &[0xff; 4]);
    }
    patch(&child, table + 4 * 7, &[0xfe, 0xff, 0xff, 0xff]);
    let mut expected = fs::read(folder.path().join("child.raw")).unwrap();
    let below = fs::read(folder.path().join("parent.raw")).unwrap();
    let entries = fs::read(&child).unwrap();
    for block in 0..12 {
        let bytes = block << 20..(block + 1) << 20;
        match entries[table as usize + 4 * block..][..4] {
            [0xff, 0xff, 0xff, 0xff] => expected[bytes.clone()].copy_from_slice(&below[bytes]),
            [0xfe, 0xff, 0xff, 0xff] => expected[bytes].fill(0),
            _ => {}
        }
    }
    let image = common::open(&child).unwrap();
    common::assert_same(&image.disk, &expected, &mut random);
    assert_eq!(image.members[0].info.variant, "differencing");
    assert_eq!(image.members[1].name, parent.file_name().unwrap().to_str().unwrap());

    // The parent was written to since.
    patch(&parent, MODIFIED, b"something else..");
    let error = common::open(&child).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("changed since"), "{error}");
    // It is there under another name.
    fs::rename(&parent, folder.path().join("web01.vdi")).unwrap();
    let error = common::open(&child).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(error.to_string().contains("{00112233-4455-6677-0809-0a0b0c0d0e0f}.vdi"), "{error}");
    // It is not said at all.
    patch(&child, PARENT, &[0; 16]);
    assert_eq!(common::open(&child).err().map(|e| e.kind()), Some(ErrorKind::Damaged));
}

#[test]
fn impossible_headers_are_refused() {
    let mut random = Random(4);
    let folder = tempfile::tempdir().unwrap();
    let (vdi, _) = make(folder.path(), "disk", 4 << 20, "", &mut random);
    let bytes = fs::read(&vdi).unwrap();
    for (at, value, kind, word) in [
        (68, 0x0002_0000_u32, ErrorKind::Unsupported, "version 2.0"),
        (76, 3, ErrorKind::Unsupported, "type 3"),
        (340, 513, ErrorKind::Damaged, "begin at sectors"),
        (344, 1, ErrorKind::Damaged, "begin at sectors"),
        (360, 4096, ErrorKind::Unsupported, "sectors of 4096"),
        (372, 1 << 31, ErrorKind::Damaged, "too small"),
        (376, 3 << 20, ErrorKind::Damaged, "powers of two"),
        (376, 0, ErrorKind::Damaged, "powers of two"),
        (380, 512, ErrorKind::Unsupported, "extra bytes"),
        (384, 3, ErrorKind::Damaged, "too small"),
    ] {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let error = images::open("bad", Arc::new(bytes), None, &images::gate::Alone).err().unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    // Cut off: what is missing is not zeros.
    let cut = bytes[..bytes.len() - (1 << 20)].to_vec();
    let image = images::open("cut", Arc::new(cut), None, &images::gate::Alone).unwrap();
    let read = |at| image.disk.read_at(&mut [0; 512], at).map_err(|e| e.kind());
    assert_eq!(read(0), Ok(512));
    assert_eq!(read((4 << 20) - 512), Err(ErrorKind::Damaged));
}

#[test]
fn mutated_images_neither_panic_nor_hang_nor_eat_memory() {
    let mut random = Random(5);
    let folder = tempfile::tempdir().unwrap();
    let (vdi, _) = make(folder.path(), "disk", 12 << 20, "", &mut random);
    let bytes = fs::read(vdi).unwrap();
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let (mut opened, mut longest) = (0, Duration::ZERO);
    for _ in 0..300 {
        let mut bytes = bytes.clone();
        common::mutate(&mut bytes, &mut random);
        // The fields, which are not all in the first bytes.
        let at = 72 + random.below(800) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte = random.next() as u8;
        }
        let started = Instant::now();
        if let Ok(image) = images::open("mutated", Arc::new(bytes), Some(Format::Vdi), &images::gate::Alone) {
            common::touch(&image);
            opened += 1;
        }
        longest = longest.max(started.elapsed());
    }
    let peak = MEMORY.peak_usage() - before;
    println!("{opened} of 300 could be opened; the longest took {longest:?}, {} MiB at most", peak >> 20);
    assert!(opened > 100 && longest < Duration::from_secs(10));
    assert!(peak < 64 << 20, "{peak} bytes");
}
