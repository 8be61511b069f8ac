//! Compressed system files. There is no Windows here to make some; but their content is packed as a resource of a WIM
//! archive is, so that `wimlib` packs it, and NTFS-3G makes the file around it.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use blockdev::{
    ReadAt,
    fields::{le32, le64},
};

use crate::{
    common::{Random, open},
    lab::at,
    mounted::{Made, Mount},
};

/// Methods of packing: as wimlib calls them, the chunk, and as FILE_PROVIDER_EXTERNAL_INFO numbers them.
pub const METHODS: [(&str, u32, u32); 4] =
    [("XPRESS", 4096, 0), ("LZX", 32768, 1), ("XPRESS", 8192, 2), ("XPRESS", 16384, 3)];

/// Files of all kinds, by name.
pub fn samples() -> BTreeMap<&'static str, Vec<u8>> {
    let mut random = Random(1);
    let noise: Vec<u8> = (0..100_000).map(|_| random.next() as u8).collect();
    let text: Vec<u8> =
        (0..30_000).flat_map(|i| format!("{i} the quick brown fox {}\n", i % 97).into_bytes()).collect();
    // Code of x86: with calls.
    let mut code = fs::read(std::env::current_exe().unwrap()).unwrap();
    code.truncate(3_000_000);
    let mut mixed = text[..200_000].to_vec();
    for part in mixed.chunks_mut(30_000).step_by(2) {
        let len = part.len();
        part.copy_from_slice(&noise[..len]);
    }
    let few: Vec<u8> = (0..150_000).map(|_| b'a' + random.below(3) as u8).collect();
    BTreeMap::from([
        ("noise", noise),
        ("code", code),
        ("mixed", mixed),
        ("few", few),
        ("zeros", vec![0; 120_000]),
        ("period", b"abcdefg".repeat(20_000)),
        ("chunk", text[..32768].to_vec()),
        ("short", b"short ".repeat(100)),
        ("text", text),
    ])
}

/// The packed form of each sample, by its unpacked content.
pub fn packed(samples: &BTreeMap<&str, Vec<u8>>, method: &str, chunk: u32) -> Option<Vec<(Vec<u8>, u64)>> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    for (name, content) in samples {
        fs::write(source.join(name), content).unwrap();
    }
    let wim = folder.path().join("packed.wim");
    let mut command = Command::new("wimlib-imagex");
    command.arg("capture").arg(&source).arg(&wim);
    command.args([format!("--compress={method}"), format!("--chunk-size={chunk}"), "--nocheck".to_owned()]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !status.is_ok_and(|status| status.success()) {
        println!("SKIPPED: packing needs wimlib-imagex (Debian: wimtools)");
        return None;
    }
    Some(resources(&wim))
}

/// The compressed resources of a WIM archive that are of files: their bytes, and unpacked sizes.
fn resources(wim: &Path) -> Vec<(Vec<u8>, u64)> {
    let wim = fs::read(wim).unwrap();
    // A resource's head: size in 56 bits, flags, offset, unpacked size.
    let head = |at: usize| (le64(&wim, at) & ((1 << 56) - 1), wim[at + 7], le64(&wim, at + 8), le64(&wim, at + 16));
    let (size, flags, offset, _) = head(48);
    assert_eq!(flags & 4, 0, "the table of resources is not compressed");
    let mut found = Vec::new();
    for at in (offset as usize..(offset + size) as usize).step_by(50) {
        let (size, flags, offset, unpacked) = head(at);
        const IS_METADATA: u8 = 2;
        const IS_COMPRESSED: u8 = 4;
        if flags & IS_METADATA == 0 && flags & IS_COMPRESSED != 0 {
            found.push((wim[offset as usize..(offset + size) as usize].to_vec(), unpacked));
        }
    }
    found
}

pub fn make(mount: &Mount<'_>, name: &str, packed: &[u8], size: u64, method: u32) {
    fs::File::create(mount.path(name)).unwrap().set_len(size).unwrap();
    fs::write(mount.path(&format!("{name}:WofCompressedData")), packed).unwrap();
    fs::write(mount.path(&format!("{name}:other")), "kept").unwrap();
    let numbers = [0x8000_0017, 16, 1, 2, 1, method];
    let reparse: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
    mount.set(name, "system.ntfs_reparse_data", &reparse);
}

#[test]
fn compressed_system_files() {
    let samples = samples();
    let Some(made) = Made::new(64, &[]) else { return };
    for (method, chunk, number) in METHODS {
        let Some(packed) = packed(&samples, method, chunk) else { return };
        let mount = made.mount("streams_interface=windows");
        let mut expected = Vec::new();
        for (bytes, size) in &packed {
            let (name, content) = samples.iter().find(|(_, content)| content.len() as u64 == *size).unwrap();
            let path = format!("{name}-{number}");
            make(&mount, &path, bytes, *size, number);
            expected.push((path, content));
        }
        drop(mount);
        // Noise does not get smaller and is no compressed resource; all others are.
        assert_eq!(expected.len(), samples.len() - 1, "{method} {chunk}");
        let fs = made.filesystem();
        for (path, content) in expected {
            let file = at(fs.as_ref(), &path);
            let metadata = fs.metadata(file).unwrap();
            let found = open(fs.as_ref(), file).unwrap();
            assert_eq!((found.size(), metadata.size), (content.len() as u64, content.len() as u64));
            let mut bytes = vec![0; content.len()];
            found.read_at(&mut bytes, 0).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert!(bytes == *content, "{path}");
            // From the middle of a chunk on.
            let mut part = [0; 10];
            let n = found.read_at(&mut part, content.len() as u64 - 5).unwrap();
            assert_eq!(part[..n], content[content.len() - 5..]);

            let streams = fs.streams(file).unwrap();
            assert_eq!(streams.iter().map(|s| s.name.as_slice()).collect::<Vec<_>>(), [b"other"]);
            let xattrs = fs.xattrs(file).unwrap();
            let flags = xattrs.iter().find(|x| x.name == b"system.ntfs_attrib").unwrap();
            assert_eq!(le32(&flags.value, 0) & 0x600, 0, "neither sparse nor a reparse point");
            assert!(!xattrs.iter().any(|x| x.name == b"system.ntfs_reparse_data"));
        }
    }
}

/// What is packed is harmed: no panic, and no end of memory.
#[test]
fn harmed_system_files() {
    let samples = samples();
    let Some(made) = Made::new(64, &[]) else { return };
    let mut random = Random(2);
    let mut refused = 0;
    for (method, chunk, number) in METHODS {
        let Some(packed) = packed(&samples, method, chunk) else { return };
        let (bytes, size) = packed.iter().find(|(_, size)| *size == 200_000).unwrap();
        let mount = made.mount("streams_interface=windows");
        for i in 0..20 {
            let mut harmed = bytes.clone();
            for _ in 0..20 {
                let at = random.below(harmed.len() as u64) as usize;
                harmed[at] = random.next() as u8;
            }
            make(&mount, &format!("{number}-{i}"), &harmed, *size, number);
        }
        drop(mount);
        let fs = made.filesystem();
        for i in 0..20 {
            let found = open(fs.as_ref(), at(fs.as_ref(), &format!("{number}-{i}"))).unwrap();
            let mut part = vec![0; chunk as usize];
            for offset in (0..*size).step_by(chunk as usize) {
                refused += u32::from(found.read_at(&mut part, offset).is_err());
            }
        }
    }
    assert!(refused > 50, "{refused}");
}
