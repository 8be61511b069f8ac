//! Journals as the kernel leaves them on a volume that is copied while it is mounted, against what the kernel makes of
//! the same copy when it replays it.

use std::{
    fs,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use blockdev::ErrorKind;

use crate::{
    common::{device, digest, entries, filesystem, filesystems, in_memory, walk},
    kernel::{Mount, assert_same, formatted, run},
    made::{build_indexes, debugfs},
};

/// Kinds of journals: options of `mkfs` and of the mount. They differ in tags, checksums, and in what is logged.
const KINDS: [(&str, &str, &str); 6] = [
    ("no checksums", "-t ext3 -b 1024 -J size=4", "data=journal"),
    ("CRC-32 of transactions", "-t ext4 -b 1024 -O ^metadata_csum,^64bit -J size=4", "data=journal,journal_checksum"),
    ("64 bits", "-t ext4 -b 4096 -O ^metadata_csum,64bit -J size=4", "data=journal"),
    ("asynchronous", "-t ext4 -b 1024 -O ^metadata_csum -J size=4", "data=writeback,journal_async_commit"),
    ("CRC-32C", "-t ext4 -b 1024 -J size=4", "data=journal"),
    ("CRC-32C, asynchronous", "-t ext4 -b 2048 -O 64bit -J size=4", "data=writeback,journal_async_commit"),
];

/// What a block of the log begins with: content that begins so has to be escaped.
const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

/// A copy of a volume in use, made in `folder`.
fn copied_in_use(folder: &Path, options: &str, mount: &str) -> Option<PathBuf> {
    let image = formatted(folder, 32, options);
    let copy = folder.join("copy.raw");
    let mounted = Mount::new(&image, folder, mount)?;
    let root = mounted.path();
    // Directories whose blocks become those of files: revoked, or the log would put them back over the content.
    for round in 0..3 {
        for dir in 0..10 {
            let dir = root.join(format!("round {round} dir {dir}"));
            fs::create_dir(&dir).unwrap();
            (0..40).for_each(|n| fs::write(dir.join(format!("a longer name {n}")), format!("{round} {n}")).unwrap());
        }
        sync(root);
        (0..8).for_each(|dir| fs::remove_dir_all(root.join(format!("round {round} dir {dir}"))).unwrap());
        fs::write(root.join(format!("content of round {round}")), [round; 150_000]).unwrap();
        sync(root);
    }
    let mut file = fs::File::create(root.join("looks like a journal")).unwrap();
    for n in 0..10_u8 {
        file.write_all(&MAGIC).unwrap();
        file.write_all(&[n; 4092]).unwrap();
    }
    sync(root);
    fs::write(root.join("last"), "last").unwrap();
    sync(root);
    fs::copy(&image, &copy).unwrap();
    Some(copy)
}

/// Commits what was done below `root` to the journal. (`syncfs` would put it in place as well.)
fn sync(root: &Path) {
    let file = fs::OpenOptions::new().create(true).append(true).open(root.join("committed")).unwrap();
    (&file).write_all(b"again ").unwrap();
    file.sync_all().unwrap();
}

/// The replay in memory gives what the kernel's gives.
#[test]
fn replayed_as_by_the_kernel() {
    for (name, options, mount) in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let Some(copy) = copied_in_use(folder.path(), options, mount) else { continue };
        // The kernel writes what it replays: it gets a copy of its own.
        let ours = in_memory(fs::read(&copy).unwrap());
        let fs = filesystem(&[ours]);
        println!("{name}: {:?}", fs.info().notes);
        assert!(fs.info().notes[0].contains("replayed"), "{name}: {:?}", fs.info().notes);
        let Some(mounted) = Mount::new(&copy, folder.path(), "noatime") else {
            panic!("{name}: the kernel refuses it")
        };
        let count = assert_same(fs.as_ref(), mounted.path());
        assert!(count > 250, "{name}: {count} files");
        assert!(mounted.path().join("last").exists(), "{name}");
    }
}

/// Without the replay the same copy is another: the test above can fail.
#[test]
fn the_log_has_what_is_not_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let (_, options, mount) = KINDS[4];
    let Some(copy) = copied_in_use(folder.path(), options, mount) else { return };
    let replayed = walk(filesystem(&[device(&copy)]).as_ref(), usize::MAX, u64::MAX);
    let file = fs::OpenOptions::new().write(true).read(true).open(&copy).unwrap();
    // The superblock's magic makes it a journal.
    let log = log_of(&fs::read(&copy).unwrap());
    file.write_all_at(&[0; 4], log as u64).unwrap();
    let error = filesystems(&[device(&copy)]).remove(0).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    // What says that the journal has to be replayed.
    let mut superblock = vec![0; 1024];
    file.read_exact_at(&mut superblock, 1024).unwrap();
    superblock[96] &= !4;
    seal(&mut superblock);
    file.write_all_at(&superblock, 1024).unwrap();
    let before = walk(filesystem(&[device(&copy)]).as_ref(), usize::MAX, u64::MAX);
    assert!(before.lines != replayed.lines, "the log has nothing new");
}

/// Sets the checksum of a superblock.
pub fn seal(superblock: &mut [u8]) {
    let mut sum = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    sum.update(&superblock[..1020]);
    superblock[1020..1024].copy_from_slice(&(!sum.finalize() as u32).to_le_bytes());
}

/// Where the journal begins in the volume `bytes`: blocks are 1 KiB, and it is the only one with a superblock.
fn log_of(bytes: &[u8]) -> usize {
    let is_superblock = |block: &[u8]| block[..4] == MAGIC && block[4..8] == [0, 0, 0, 4];
    bytes.chunks(1024).position(is_superblock).unwrap() * 1024
}

/// A block that is damaged in the log is missed where it belongs, and nowhere else; a damaged descriptor makes the log
/// worthless.
#[test]
fn damage_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (_, options, mount) = KINDS[4];
    let Some(copy) = copied_in_use(folder.path(), options, mount) else { return };
    let bytes = fs::read(&copy).unwrap();
    let truth = walk(filesystem(&[device(&copy)]).as_ref(), usize::MAX, u64::MAX);
    let log = log_of(&bytes);
    let start = log + 1024 * u32::from_be_bytes(bytes[log + 28..log + 32].try_into().unwrap()) as usize;
    let (mut lost, mut refused) = (0, 0);
    for block in (0..2000).step_by(43) {
        let mut harmed = bytes.clone();
        let at = start + block * 1024;
        harmed[at + 700] ^= 4;
        let is_logged_content = bytes[at..at + 4] != MAGIC;
        match filesystems(&[in_memory(harmed)]).remove(0) {
            Ok(fs) => {
                let found = walk(fs.as_ref(), usize::MAX, u64::MAX);
                for (path, line) in &found.lines {
                    assert_eq!(truth.lines.get(path), Some(line), "block {block}: {path}");
                }
                let is_noted = fs.info().notes.iter().any(|note| note.contains("damaged"));
                assert!(found.errors.is_empty() || is_noted, "block {block}: {:?}", found.errors);
                assert!(found.lines.len() == truth.lines.len() || !found.errors.is_empty(), "block {block}");
                lost += usize::from(!found.errors.is_empty());
                assert!(is_logged_content, "block {block} is the journal's own");
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Damaged, "block {block}: {e}");
                refused += 1;
            }
        }
    }
    println!("{lost} with files that are lost, {refused} refused");
    assert!(lost > 0 && refused > 0);
}

/// Fast commits are behind the log and not replayed: the operator is told.
#[test]
fn fast_commits_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let image = formatted(folder.path(), 32, "-t ext4 -b 1024 -O fast_commit -J size=4");
    let Some(mounted) = Mount::new(&image, folder.path(), "defaults") else { return };
    fs::write(mounted.path().join("first"), "first").unwrap();
    sync(mounted.path());
    let copy = || in_memory(fs::read(&image).unwrap());
    let before = filesystem(&[copy()]);
    for n in 0..3 {
        let file = fs::File::create(mounted.path().join(format!("fast {n}"))).unwrap();
        file.write_all_at(b"content", 0).unwrap();
        file.sync_all().unwrap();
    }
    let after = filesystem(&[copy()]);
    let is_noted = |fs: &dyn guestfs::FileSystem| fs.info().notes.iter().any(|note| note.contains("fast commits"));
    let names = entries(after.as_ref(), after.root()).unwrap();
    let names: Vec<_> = names.iter().map(|e| String::from_utf8_lossy(&e.name)).collect();
    println!("{:?} {names:?}", after.info().notes);
    assert!(!is_noted(before.as_ref()), "{:?}", before.info().notes);
    assert!(is_noted(after.as_ref()) != names.contains(&"fast 0".into()), "{:?}", after.info().notes);
}

/// A journal on another device cannot be asked: the operator is told.
#[test]
fn a_journal_elsewhere_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let image = formatted(folder.path(), 8, "-t ext4 -b 1024 -O ^metadata_csum");
    let mut bytes = fs::read(&image).unwrap();
    bytes[1024 + 96] |= 4;
    bytes[1024 + 224..1024 + 228].fill(0);
    let fs = filesystem(&[in_memory(bytes)]);
    assert!(fs.info().notes[0].contains("another device"), "{:?}", fs.info().notes);
}

/// Journals of the second version of checksums, which no kernel of today writes, and of all others by a second hand:
/// `debugfs` writes them, and `e2fsck` replays a copy to compare with.
#[test]
fn written_by_debugfs() {
    for (options, version) in [
        ("-O 64bit,metadata_csum", "-c -v 2"),
        ("-O ^64bit,metadata_csum", "-c -v 2"),
        ("-O 64bit,metadata_csum", "-c -v 3"),
        ("-O ^64bit,metadata_csum", "-c -v 3"),
        ("-O ^64bit,^metadata_csum", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        for n in 0..20_u8 {
            fs::write(source.join(format!("{n}")), [n; 5000]).unwrap();
        }
        let image = formatted(folder.path(), 8, &format!("-t ext4 -b 1024 {options} -d {}", source.display()));
        // Each block of a file gets other content, some of it like the journal's own; some is taken back, and some of that
        // is written again.
        let blocks = |n: u8| debugfs(&image, &format!("blocks /{n}")).trim().replace(' ', ",");
        let mut commands = format!("jo {version}\n");
        for n in 0..20_u8 {
            let content = folder.path().join(format!("content {n}"));
            let begin = if n % 3 == 0 { MAGIC } else { [n; 4] };
            fs::write(&content, [&begin[..], &[n + 100; 1020]].concat().repeat(5)).unwrap();
            commands += &format!("jw -b {} \"{}\"\n", blocks(n), content.display());
            if n % 4 == 3 {
                commands += &format!("jw -r {}\n", blocks(n - 1));
            }
            if n % 8 == 7 {
                commands += &format!("jw -b {} \"{}\"\n", blocks(n - 1), content.display());
            }
        }
        commands += "jc\n";
        let script = folder.path().join("script");
        fs::write(&script, commands).unwrap();
        run("debugfs", &["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()]);
        let fs = filesystem(&[in_memory(fs::read(&image).unwrap())]);
        println!("{options} {version}: {:?}", fs.info().notes);
        assert!(fs.info().notes[0].contains("replayed"), "{version}: {:?}", fs.info().notes);
        let ours = walk(fs.as_ref(), usize::MAX, u64::MAX);
        build_indexes(&image);
        let known = filesystem(&[device(&image)]);
        assert!(known.info().notes.is_empty(), "{version}: {:?}", known.info().notes);
        let known = walk(known.as_ref(), usize::MAX, u64::MAX);
        assert!(ours.errors.is_empty() && known.errors.is_empty(), "{version}: {:?}", ours.errors);
        assert_eq!(ours.lines, known.lines, "{version}");
        let changed = known.lines.iter().filter(|(path, line)| {
            let content = source.join(path);
            content.exists() && line.2 != digest(&fs::read(content).unwrap(), u64::MAX).unwrap()
        });
        // All but those that were taken back and not written again.
        assert!((16..=17).contains(&changed.count()), "{version}");
    }
}
