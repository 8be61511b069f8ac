//! Volumes with all that NTFS-3G can make, against what it shows of them.

use std::{
    fs,
    io::Write,
    os::unix::fs::{FileExt, symlink},
    time::{Duration, UNIX_EPOCH},
};

use blockdev::{
    ErrorKind, ReadAt,
    fields::{le16, le32, le64},
};
use guestfs::Kind;

use crate::{
    common::{Random, filesystem, in_memory},
    lab::at,
    mounted::{Made, Mount, assert_same},
};

/// Attributes of files, as Windows numbers them.
const READ_ONLY: u32 = 0x1;
const HIDDEN: u32 = 0x2;
const SYSTEM: u32 = 0x4;
const COMPRESSED: u32 = 0x800;

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// A little of everything.
fn fill(mount: &Mount<'_>) {
    for (i, len) in [0, 1, 500, 700, 1000, 4096, 5000, 65536, 300_000].into_iter().enumerate() {
        mount.write(&format!("sizes/{len}"), random(i as u64, len));
    }
    for i in 0..300 {
        mount.write(&format!("many/entry number {i} with a name that takes some room"), format!("{i}"));
    }
    for name in ["Case", "case", "cAse", "CASE", "ß", "ÄÖÜ", "äöü", "日本語", "😀", "trailing.", "a:b", "x\\y", "é"]
    {
        mount.write(&format!("names/{name}"), name);
    }
    mount.write(&format!("names/{}", "n".repeat(255)), "long");
    fs::hard_link(mount.path("sizes/1"), mount.path("names/linked")).unwrap();
    symlink("../sizes/1", mount.path("names/link")).unwrap();
    symlink("/absolute", mount.path("names/absolute")).unwrap();

    mount.set("sizes/1000", "system.ntfs_dos_name", b"SHORT~1");
    mount.write("attributes/read-only", "r");
    mount.set("attributes/read-only", "system.ntfs_attrib", &READ_ONLY.to_le_bytes());
    mount.write("attributes/hidden system", "");
    mount.set("attributes/hidden system", "system.ntfs_attrib", &(HIDDEN | SYSTEM).to_le_bytes());

    let file = fs::File::create(mount.path("sparse")).unwrap();
    for at in [0, 1_000_000, 3_000_000] {
        file.write_all_at(&random(at, 20_000), at).unwrap();
    }
    file.set_len(4_000_001).unwrap();
    // What is behind the last byte written is allocated by some, and never written.
    let file = fs::File::create(mount.path("unwritten")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.set_len(200_000).unwrap();

    mount.write("streams/file", "main");
    mount.set("streams/file", "user.small", b"a small stream");
    mount.set("streams/file", "user.large", &random(7, 30_000));
    mount.set("streams/file", "user.ünicode", b"");
    mount.set("streams", "user.of a directory", b"x");

    for (name, seconds) in
        [("1700", -8_520_336_000_i64), ("1969", -1), ("2038", 2_147_483_648), ("2500", 16_725_225_600)]
    {
        mount.write(&format!("times/{name}"), name);
        let span = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span + Duration::from_nanos(123_456_700) };
        let file = fs::File::options().write(true).open(mount.path(&format!("times/{name}"))).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
    }
}

/// Compressed files: of text, of noise, of both, with holes, and with an end that is no unit's.
fn fill_compressed(mount: &Mount<'_>) {
    fs::create_dir(mount.path("compressed")).unwrap();
    mount.set("compressed", "system.ntfs_attrib", &COMPRESSED.to_le_bytes());
    let text: Vec<u8> = (0..20_000).flat_map(|i| format!("{i} the quick brown fox\n").into_bytes()).collect();
    mount.write("compressed/text", &text);
    mount.write("compressed/noise", random(1, 200_000));
    let mut mixed = text.clone();
    for (i, part) in mixed.chunks_mut(50_000).enumerate().filter(|(i, _)| i % 2 == 0) {
        part.copy_from_slice(&random(i as u64, part.len()));
    }
    mount.write("compressed/mixed", &mixed);
    mount.write("compressed/zeros", vec![0; 150_000]);
    mount.write("compressed/periods", b"abcabcabdabcabcabd".repeat(5000));
    let file = fs::File::create(mount.path("compressed/holes")).unwrap();
    file.write_all_at(&text[..100_000], 0).unwrap();
    file.write_all_at(&text[..100_000], 400_000).unwrap();
    file.set_len(600_000).unwrap();
    // Each byte of a flag, and units that just do and just do not get smaller.
    for i in 0..16 {
        let mut part = random(i, 66_000);
        part[..(i * 500) as usize].fill(b'x');
        mount.write(&format!("compressed/nearly-{i}"), part);
    }
}

#[test]
fn geometries() {
    for options in [
        &["-c", "512"][..],
        &["-c", "2048"],
        &["-c", "4096"],
        &["-s", "4096", "-c", "4096"],
        &["-s", "1024", "-c", "1024"],
        &["-c", "65536"],
        &["-c", "262144"],
    ] {
        let Some(made) = Made::new(if options.contains(&"262144") { 256 } else { 48 }, options) else { return };
        let mount = made.mount("");
        fill(&mount);
        let cluster: u32 = options[options.len() - 1].parse().unwrap();
        if cluster <= 4096 {
            fill_compressed(&mount);
        }
        drop(mount);
        let seen = assert_same(&made);
        assert!(seen > 340, "{options:?}: {seen} files");
        assert_usage(&made);
    }
}

fn assert_usage(made: &Made) {
    let mount = made.mount("ro");
    let theirs = rustix::fs::statvfs(mount.path("")).unwrap();
    let usage = made.filesystem().usage().unwrap();
    assert_eq!(usage.total, theirs.f_blocks * theirs.f_frsize);
    assert_eq!(usage.free, theirs.f_bfree * theirs.f_frsize);
}

#[test]
fn special_files_of_both_kinds() {
    for special in ["interix", "wsl"] {
        let Some(made) = Made::new(16, &[]) else { return };
        let mount = made.mount(&format!("special_files={special}"));
        let node = |name: &str, kind, device| {
            rustix::fs::mknodat(rustix::fs::CWD, mount.path(name), kind, 0o644.into(), device).unwrap();
        };
        node("fifo", rustix::fs::FileType::Fifo, 0);
        node("socket", rustix::fs::FileType::Socket, 0);
        node("char", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(4, 65));
        node("block", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
        symlink("to/sömewhere", mount.path("link")).unwrap();
        drop(mount);
        assert_eq!(assert_same(&made), 6, "{special}");
    }
}

#[test]
fn links_of_windows() {
    let Some(made) = Made::new(16, &[]) else { return };
    let mount = made.mount("");
    mount.write("dir/file", "x");
    fs::create_dir(mount.path("junction")).unwrap();
    mount.set("junction", "system.ntfs_reparse_data", &reparse(0xa000_0003, None, r"\??\C:\dir"));
    mount.write("relative", "");
    mount.set("relative", "system.ntfs_reparse_data", &reparse(0xa000_000c, Some(1), r"dir\file"));
    mount.write("cloud", "");
    mount.set("cloud", "system.ntfs_reparse_data", &[0x1a, 0x90, 0, 0x90, 4, 0, 0, 0, 1, 2, 3, 4]);
    mount.write("deduplicated", "");
    mount.set("deduplicated", "system.ntfs_reparse_data", &[0x13, 0, 0, 0x80, 4, 0, 0, 0, 1, 2, 3, 4]);
    drop(mount);
    let fs = made.filesystem();
    let target = |path| String::from_utf8(fs.link_target(at(fs.as_ref(), path)).unwrap()).unwrap();
    assert_eq!((target("junction"), target("relative")), ("C:/dir".to_owned(), "dir/file".to_owned()));
    let junction = at(fs.as_ref(), "junction");
    assert_eq!(fs.metadata(junction).unwrap().kind, Kind::Symlink);
    assert!(fs.lookup(junction, b"file").is_err(), "a link is no directory");
    let data = fs.xattrs(junction).unwrap().into_iter().find(|x| x.name == b"system.ntfs_reparse_data");
    assert_eq!(data.unwrap().value, reparse(0xa000_0003, None, r"\??\C:\dir"));
    // An empty file that was fetched is whole; one in the deduplication store is not there at all.
    assert_eq!(fs.content(at(fs.as_ref(), "cloud")).unwrap().size(), 0);
    let error = fs.content(at(fs.as_ref(), "deduplicated")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("deduplication"), "{error}");
}

fn reparse(tag: u32, flags: Option<u32>, target: &str) -> Vec<u8> {
    let target: Vec<u8> = target.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut data = Vec::new();
    for n in [0, target.len(), target.len() + 2, 0] {
        data.extend((n as u16).to_le_bytes());
    }
    data.extend(flags.map(u32::to_le_bytes).into_iter().flatten());
    data.extend([&target[..], &[0; 4]].concat());
    let head = [&tag.to_le_bytes()[..], &(data.len() as u16).to_le_bytes(), &[0; 2]].concat();
    [head, data].concat()
}

#[test]
fn owners_of_wsl() {
    let Some(made) = Made::new(16, &[]) else { return };
    let mount = made.mount("");
    mount.write("file", "x");
    let numbers = [("$LXUID", 1000_u32), ("$LXGID", 100), ("$LXMOD", 0o104_750)];
    let mut value = Vec::new();
    for (name, number) in numbers {
        value.extend(20_u32.to_le_bytes());
        value.extend([0, 6, 4, 0]);
        value.extend([name.as_bytes(), &[0], &number.to_le_bytes(), &[0]].concat());
    }
    value.extend([20, 0, 0, 0, 0, 4, 5, 0]);
    value.extend(b"NOTE\0value");
    value.extend([0; 2]);
    mount.set("file", "system.ntfs_ea", &value);
    drop(mount);
    let fs = made.filesystem();
    let file = at(fs.as_ref(), "file");
    let metadata = fs.metadata(file).unwrap();
    assert_eq!((metadata.uid, metadata.gid, metadata.permissions), (1000, 100, 0o4750));
    let notes: Vec<_> = fs.xattrs(file).unwrap().into_iter().filter(|x| x.name.starts_with(b"user.")).collect();
    assert_eq!(notes.len(), 1);
    assert_eq!((notes[0].name.as_slice(), notes[0].value.as_slice()), (&b"user.NOTE"[..], &b"value"[..]));
}

#[test]
fn permissions() {
    let Some(made) = Made::new(16, &[]) else { return };
    let mount = made.mount("");
    mount.write("dir/file", "x");
    mount.set("dir/file", "system.ntfs_attrib", &READ_ONLY.to_le_bytes());
    mount.set("dir", "system.ntfs_attrib", &READ_ONLY.to_le_bytes());
    mount.write("other", "x");
    drop(mount);
    let fs = made.filesystem();
    let mode = |path| fs.metadata(at(fs.as_ref(), path)).unwrap().permissions;
    assert_eq!([mode("dir"), mode("dir/file"), mode("other")], [0o755, 0o444, 0o644]);
}

/// Where the content's attribute is in the record of the file `path`, in the bytes of a volume of clusters of 4 KiB.
fn data_attribute(volume: &[u8], path: &str) -> usize {
    let record = at(filesystem(&[in_memory(volume.to_vec())]).as_ref(), path).number & 0xffff_ffff;
    // The start of the table of files is in one piece.
    let record = le64(volume, 48) as usize * 4096 + record as usize * 1024;
    let mut attribute = record + usize::from(le16(volume, record + 20));
    while le32(volume, attribute) != 0x80 {
        attribute += le32(volume, attribute + 4) as usize;
    }
    attribute
}

/// What NTFS-3G cannot make: bytes that were never written, behind others that were.
#[test]
fn content_that_was_not_written() {
    let Some(made) = Made::new(16, &[]) else { return };
    let mount = made.mount("");
    mount.write("plain", random(1, 100_000));
    fill_compressed(&mount);
    drop(mount);
    let mut volume = fs::read(made.image()).unwrap();
    for (path, initialized) in [("plain", 5000_u64), ("compressed/text", 150_001), ("compressed/mixed", 0)] {
        let attribute = data_attribute(&volume, path);
        volume[attribute + 56..attribute + 64].copy_from_slice(&initialized.to_le_bytes());
    }
    fs::write(made.image(), &volume).unwrap();
    assert!(assert_same(&made) > 20);
    let fs = made.filesystem();
    let content = crate::common::open(fs.as_ref(), at(fs.as_ref(), "plain")).unwrap();
    let mut bytes = [1; 100];
    assert_eq!(content.read_at(&mut bytes, 4950).unwrap(), 100);
    assert_eq!(bytes[..50], random(1, 100_000)[4950..5000]);
    assert_eq!(bytes[50..], [0; 50]);
}

#[test]
fn encrypted_files() {
    let Some(made) = Made::new(16, &[]) else { return };
    let mount = made.mount("");
    mount.write("secret", random(1, 10_000));
    drop(mount);
    let mut volume = fs::read(made.image()).unwrap();
    let attribute = data_attribute(&volume, "secret");
    volume[attribute + 13] |= 0x40;
    let fs = filesystem(&[in_memory(volume.clone())]);
    let secret = at(fs.as_ref(), "secret");
    assert_eq!(fs.metadata(secret).unwrap().size, 10_000);
    let error = fs.content(secret).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("EFS"), "{error}");
    // A method of compression that there is not.
    volume[attribute + 12..attribute + 14].copy_from_slice(&[2, 0]);
    let fs = filesystem(&[in_memory(volume)]);
    assert_eq!(fs.content(secret).err().unwrap().kind(), ErrorKind::Unsupported);
}

#[test]
fn references_that_are_old() {
    let Some(made) = Made::new(16, &[]) else { return };
    let write = |name| made.mount("").write(name, "x");
    write("first");
    let first = at(made.filesystem().as_ref(), "first");
    fs::remove_file(made.mount("").path("first")).unwrap();
    let error = made.filesystem().metadata(first).unwrap_err();
    assert!(error.to_string().contains("not in use"), "{error}");
    write("second");
    let fs = made.filesystem();
    let second = at(fs.as_ref(), "second");
    assert_eq!(first.number & 0xffff_ffff, second.number & 0xffff_ffff, "the record is used again");
    let error = fs.metadata(first).unwrap_err();
    assert!(error.to_string().contains("another file"), "{error}");
}

/// Free space in pieces of one record: whatever is written then, the table of files itself among it, is in as many.
#[test]
fn attribute_lists() {
    let Some(made) = Made::new(12, &["-c", "512"]) else { return };
    let mount = made.mount("");
    let [mut large, mut other] = ["large", "other"].map(|name| fs::File::create(mount.path(name)).unwrap());
    let mut pieces = 0;
    while large.write_all(&random(pieces, 1024)).and_then(|()| other.write_all(&[0; 1024])).is_ok() {
        pieces += 1;
    }
    drop((large, other));
    fs::remove_file(mount.path("other")).unwrap();
    mount.write("linked", "many names");
    for i in 0..100 {
        fs::hard_link(mount.path("linked"), mount.path(&format!("one of the many names of a file, number {i}")))
            .unwrap();
    }
    for i in 0..1000 {
        mount.write(&format!("dir/a name that takes so much room that there are many nodes: {i:0100}"), "");
    }
    drop(mount);
    let seen = assert_same(&made);
    assert_eq!(seen, 1 + 1 + 101 + 1 + 1000);
    let fs = made.filesystem();
    for path in ["large", "linked", "dir"] {
        assert_has_list(&made, at(fs.as_ref(), path).number & 0xffff_ffff);
    }
}

/// Otherwise the test proves nothing.
fn assert_has_list(made: &Made, record: u64) {
    let mut info = std::process::Command::new("ntfsinfo");
    let info = info.args(["-f", "-i", &record.to_string()]).arg(made.image()).output().unwrap();
    let info = String::from_utf8_lossy(&info.stdout).into_owned();
    assert!(info.contains("ATTRIBUTE_LIST"), "record {record} has no attribute list");
}

/// The table of files in so many pieces that its own run list is in records of itself.
#[test]
fn a_table_of_files_in_pieces() {
    let Some(made) = Made::new(20, &["-c", "512"]) else { return };
    let mount = made.mount("");
    fs::create_dir(mount.path("filler")).unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    let name = |i: u32| mount.path(&format!("filler/{i}"));
    let made_files = (0..).find(|i| fs::write(name(*i), [1; 16384]).is_err()).unwrap();
    for i in (0..made_files).step_by(2) {
        fs::remove_file(name(i)).unwrap();
    }
    let empty = (0..).find(|i| fs::write(mount.path(&format!("dir/{i:040}")), "").is_err()).unwrap();
    drop(mount);
    assert_has_list(&made, 0);
    let seen = assert_same(&made);
    assert!(seen > made_files as usize / 2 + empty, "{seen} files");
}

#[test]
fn states() {
    let Some(made) = Made::new(16, &[]) else { return };
    let mount = made.mount("");
    mount.write("hiberfil.sys", [b"HIBR".as_slice(), &[0; 8192]].concat());
    mount.write("file", "x");
    drop(mount);
    let whole = fs::read(made.image()).unwrap();
    let notes = |bytes: &[u8]| filesystem(&[in_memory(bytes.to_vec())]).info().notes.clone();
    let clean = notes(&whole);
    assert!(clean.len() == 1 && clean[0].contains("hibernated"), "{clean:?}");

    // The boot sector: cluster of the table of files, and all of it but the name.
    let mut harmed = whole.clone();
    harmed[48..56].fill(0xee);
    assert!(notes(&harmed)[0].contains("boot sector is damaged"));
    harmed[11..64].fill(0);
    assert!(notes(&harmed)[0].contains("boot sector is damaged"));

    // The first record of the table of files, and that of the volume.
    let table = u64::from_le_bytes(whole[48..56].try_into().unwrap()) as usize * 4096;
    for record in [0, 3] {
        let mut harmed = whole.clone();
        harmed[table + record * 1024..][..512].fill(0);
        let fs = filesystem(&[in_memory(harmed)]);
        assert!(fs.info().notes.iter().any(|note| note.contains("$MFTMirr")), "{:?}", fs.info().notes);
        assert_eq!(fs.metadata(at(fs.as_ref(), "file")).unwrap().size, 1);
    }

    // A volume that was mounted when it was copied.
    let flags = whole[table + 3 * 1024..][..1024].windows(4).position(|bytes| bytes == [3, 1, 0, 0]).unwrap();
    let mut dirty = whole.clone();
    dirty[table + 3 * 1024 + flags + 2] = 1;
    assert!(notes(&dirty).iter().any(|note| note.contains("chkdsk")), "{:?}", notes(&dirty));
    let cut = notes(&whole[..whole.len() / 2 + (1 << 20)]);
    assert!(cut.iter().any(|note| note.contains("ends before")), "{cut:?}");
}
