//! LUKS volumes that cryptsetup and QEMU made of known content. cryptsetup encrypts a file in place without the kernel.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use blockdev::{
    BlockDevice, BlockSizes, ErrorKind, ReadAt,
    encrypted::{Budget, Secrets, unlock},
    layers::Slice,
    partitions::{self, FsKind, detect},
};

use super::support::{Random, file, memory, named, run, sha256, sparse, tool};

const MIB: usize = 1 << 20;
/// What the tests' volumes are opened with.
const PASSPHRASE: &str = "a pass phrase";

/// Derivations that take no time; the work itself is proved by the volumes of others.
const PBKDF2: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

fn secrets(all: &[&str]) -> Secrets {
    Secrets::new(all.iter().map(|secret| secret.as_bytes().to_vec()).collect())
}

/// Content of which no sector is like another, with the filesystem of a label in front where there is `mkfs.ext4`.
fn content(folder: &Path) -> Vec<u8> {
    let path = folder.join("content");
    let mut bytes = vec![0; 8 * MIB];
    let mut random = Random(4);
    bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.next().to_le_bytes()));
    fs::write(&path, &bytes).unwrap();
    if let Some(mkfs) = tool("mkfs.ext4") {
        run(&mkfs, &["-q", "-F", "-L", "inside", "-b", "4096", "-E", "nodiscard", path.to_str().unwrap()], "");
    }
    fs::read(path).unwrap()
}

/// `content` encrypted by cryptsetup with `arguments`, in a file at `path`.
fn encrypted(path: &Path, content: &[u8], kind: FsKind, arguments: &[&str]) -> bool {
    let Some(cryptsetup) = tool("cryptsetup") else { return false };
    fs::write(path, [content, &vec![0; 16 * MIB]].concat()).unwrap();
    let name = path.to_str().unwrap();
    let fixed = ["-q", "reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "16M", "--key-file", "-"];
    run(&cryptsetup, &[&fixed[..], arguments, &[name]].concat(), PASSPHRASE);
    if kind == FsKind::Luks1 {
        // Only the second version can be encrypted in place; the first is made of it.
        run(&cryptsetup, &["-q", "convert", "--type", "luks1", name], "");
    }
    true
}

fn open(device: &Arc<dyn BlockDevice>, secrets: &Secrets) -> blockdev::Result<Arc<dyn BlockDevice>> {
    let kind = detect(device.as_ref())?.expect("told what it is").kind;
    unlock(kind, device, secrets, &mut Budget::default())
}

/// `device` has `content`, however it is read.
fn assert_is(device: &dyn BlockDevice, content: &[u8], what: &str) {
    let mut whole = vec![0; content.len()];
    assert_eq!(device.read_at(&mut whole, 0).unwrap(), content.len(), "{what}");
    assert!(whole == content, "{what}");
    let mut random = Random(7);
    for _ in 0..200 {
        let (at, len) = (random.index(content.len()), random.index(20_000));
        let wanted = &content[at..(at + len).min(content.len())];
        let mut part = vec![0; wanted.len()];
        assert_eq!(device.read_at(&mut part, at as u64).unwrap(), wanted.len(), "{what}: {len} bytes at {at}");
        assert!(part == wanted, "{what}: {len} bytes at {at}");
    }
    assert_eq!(device.read_at(&mut [0; 10], device.size()).unwrap(), 0);
}

#[test]
fn volumes_of_cryptsetup_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let content = content(folder.path());
    let argon2 = |kind| ["--pbkdf", kind, "--pbkdf-memory", "4096", "--pbkdf-force-iterations", "4"];
    let cases: [(FsKind, &[&str]); 9] = [
        (FsKind::Luks2, &argon2("argon2id")),
        (FsKind::Luks2, &[&["--sector-size", "4096"], &argon2("argon2i")[..]].concat()),
        (FsKind::Luks2, &[&["--hash", "sha512", "-c", "aes-xts-plain64", "-s", "256"], &PBKDF2[..]].concat()),
        (FsKind::Luks2, &[&["-c", "aes-cbc-essiv:sha256", "-s", "128"], &PBKDF2[..]].concat()),
        (FsKind::Luks2, &[&["-c", "aes-cbc-plain64", "-s", "192"], &PBKDF2[..]].concat()),
        (FsKind::Luks2, &[&["-c", "aes-ecb", "-s", "256"], &PBKDF2[..]].concat()),
        (FsKind::Luks1, &PBKDF2),
        (FsKind::Luks1, &[&["--hash", "sha1", "-c", "aes-cbc-essiv:sha256", "-s", "256"], &PBKDF2[..]].concat()),
        (FsKind::Luks1, &[&["--hash", "sha384", "-c", "aes-cbc-plain", "-s", "256"], &PBKDF2[..]].concat()),
    ];
    for (kind, arguments) in cases {
        let (path, what) = (folder.path().join("volume"), format!("{kind} {}", arguments.join(" ")));
        if !encrypted(&path, &content, kind, arguments) {
            return;
        }
        let volume = file(&path, BlockSizes::CLASSIC);
        let opened = open(&volume, &secrets(&["another", &format!("{PASSPHRASE}\n")])).expect(&what);
        assert_is(opened.as_ref(), &content, &what);
        let locked = open(&volume, &secrets(&["another"])).err().expect("refused");
        assert_eq!(locked.kind(), ErrorKind::Locked, "{locked}");
        assert!(locked.to_string().contains("--unlock"), "{locked}");
        assert_eq!(open(&volume, &Secrets::default()).err().expect("refused").kind(), ErrorKind::Locked);
    }
}

#[test]
fn every_slot_and_either_header_opens_a_volume() {
    let folder = tempfile::tempdir().unwrap();
    let (path, content) = (folder.path().join("volume"), content(folder.path()));
    if !encrypted(&path, &content, FsKind::Luks2, &PBKDF2) {
        return;
    }
    let cryptsetup = tool("cryptsetup").unwrap();
    let key = folder.path().join("key");
    fs::write(&key, [0, 1, 2, b'\n', 0xff, b'\n']).unwrap();
    let arguments =
        [&["-q", "luksAddKey", "--key-file", "-"], &PBKDF2[..], &[path.to_str().unwrap(), key.to_str().unwrap()]];
    run(&cryptsetup, &arguments.concat(), PASSPHRASE);
    let whole = fs::read(&path).unwrap();
    let file_of_key = Secrets::from_files(&[&key]).unwrap();
    assert_is(open(&memory(whole.clone()), &file_of_key).unwrap().as_ref(), &content, "the second slot");
    // The first header: its sequence, its text, its size.
    for at in [16, 5000, 13] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        let opened = open(&memory(damaged.clone()), &secrets(&[PASSPHRASE])).expect("the second header is whole");
        assert_is(opened.as_ref(), &content, "the second header");
        damaged[0x4000 + at] ^= 1;
        let both = open(&memory(damaged), &secrets(&[PASSPHRASE])).err().expect("none is whole");
        assert_eq!(both.kind(), ErrorKind::Damaged, "{both}");
    }
}

#[test]
fn volumes_of_qemu_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (content, path) = (content(folder.path()), folder.path().join("volume"));
    let Some(qemu) = tool("qemu-img") else { return };
    let secret = format!("secret,id=s,data={PASSPHRASE}");
    let from = folder.path().join("content");
    let options = ["convert", "-f", "raw", "-O", "luks", "--object", &secret, "-o"];
    for more in [",cipher-alg=aes-128,hash-alg=sha1", ",cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256"] {
        let how = format!("key-secret=s,iter-time=10{more}");
        run(&qemu, &[&options[..], &[&how, from.to_str().unwrap(), path.to_str().unwrap()]].concat(), "");
        let opened = open(&file(&path, BlockSizes::CLASSIC), &secrets(&[PASSPHRASE])).expect(more);
        assert_is(opened.as_ref(), &content, more);
    }
}

/// A disk with a volume in its second partition.
#[test]
fn a_survey_unlocks_what_it_meets() {
    let folder = tempfile::tempdir().unwrap();
    let (path, content) = (folder.path().join("volume"), content(folder.path()));
    let Some(sfdisk) = tool("sfdisk") else { return };
    if !encrypted(&path, &content, FsKind::Luks2, &PBKDF2) {
        return;
    }
    let (disk, volume) = (folder.path().join("disk"), fs::read(&path).unwrap());
    sparse(&disk, 40 << 20);
    run(&sfdisk, &["-q", disk.to_str().unwrap()], "label: gpt\nstart=2048, size=2048\nstart=4096, size=65536\n");
    let mut bytes = fs::read(&disk).unwrap();
    bytes[4096 * 512..4096 * 512 + volume.len()].copy_from_slice(&volume);
    let disks = [("disk0".to_owned(), memory(bytes))];

    let locked = partitions::survey(&disks);
    let of = named(&locked, "p2");
    let encryption = of.encryption.as_ref().expect("encrypted");
    assert_eq!((encryption.kind, of.content.as_ref().unwrap().kind), (FsKind::Luks2, FsKind::Luks2));
    assert!(encryption.locked.as_ref().unwrap().contains("--unlock"), "{encryption:?}");
    assert!(named(&locked, "p1").encryption.is_none());

    let open = partitions::survey_with(&disks, &secrets(&[PASSPHRASE]));
    let of = named(&open, "p2");
    assert_eq!(of.encryption.as_ref().unwrap().locked, None);
    assert_is(of.device.as_ref().unwrap().as_ref(), &content, "p2");
    if tool("mkfs.ext4").is_some() {
        let inside = of.content.as_ref().expect("a filesystem");
        assert_eq!((inside.kind, inside.label.as_deref()), (FsKind::Ext4, Some("inside")));
    }
}

/// The kept group of volumes in a LUKS volume: what is inside is put together like what is outside.
#[test]
fn volume_groups_are_found_inside() {
    let folder = tempfile::tempdir().unwrap();
    let (mut within, mut open) = (Vec::new(), Vec::new());
    for (name, device) in super::support::disks("lvm") {
        let mut bytes = vec![0; device.size() as usize];
        device.read_at(&mut bytes, 0).unwrap();
        let path = folder.path().join(&name);
        if !encrypted(&path, &bytes, FsKind::Luks2, &PBKDF2) {
            return;
        }
        within.push((name.clone(), file(&path, BlockSizes::CLASSIC)));
        open.push((name, device));
    }
    let (open, within) = (partitions::survey(&open), partitions::survey_with(&within, &secrets(&[PASSPHRASE])));
    let mut compared = 0;
    for volume in open.volumes.iter().filter(|v| v.start.is_none()) {
        let (wanted, found) = (volume.device.as_ref().unwrap(), named(&within, &volume.name).device.as_ref().unwrap());
        assert_eq!(sha256(wanted.as_ref()).unwrap(), sha256(found.as_ref()).unwrap(), "{}", volume.name);
        compared += 1;
    }
    assert!(compared > 2, "{open:#?}");
}

/// Where bytes come from goes through the encryption: equal only for the same key at the same place.
#[test]
fn origins_go_through_the_encryption() {
    let folder = tempfile::tempdir().unwrap();
    let (path, content) = (folder.path().join("volume"), content(folder.path()));
    if !encrypted(&path, &content, FsKind::Luks2, &[&["--sector-size", "4096"], &PBKDF2[..]].concat()) {
        return;
    }
    let identified = |file: u64| -> Arc<dyn BlockDevice> {
        let bytes = Slice::new(memory(fs::read(&path).unwrap()), 0..24 << 20).unwrap();
        Arc::new(blockdev::origin::Identified::new(bytes, file))
    };
    let opened = |device| open(&device, &secrets(&[PASSPHRASE])).unwrap();
    let (first, again, other) = (opened(identified(1)), opened(identified(1)), opened(identified(2)));
    for (at, limit) in [(0, 4096), (5000, 100), (4096, 1 << 20), (10_000, 123_456)] {
        let origin = first.origin_at(at, limit).unwrap();
        assert_eq!(origin.len, limit);
        assert_eq!(origin, again.origin_at(at, limit).unwrap());
        assert_ne!(origin.source, blockdev::origin::Source::Unknown);
        assert_ne!(origin.source, other.origin_at(at, limit).unwrap().source);
        assert_ne!(origin.source, identified(1).origin_at(at, limit).unwrap().source, "it is not the encrypted bytes");
    }
}

/// Headers broken at random, with their checksum made right, so that the text is believed.
#[test]
fn broken_headers_take_no_time_and_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (path, content) = (folder.path().join("volume"), content(folder.path()));
    for kind in [FsKind::Luks1, FsKind::Luks2] {
        if !encrypted(&path, &content, kind, &PBKDF2) {
            return;
        }
        let whole = fs::read(&path).unwrap();
        for seed in 0..60 {
            let mut random = Random(seed);
            let mut bytes = whole.clone();
            for _ in 0..=random.index(4) {
                let text_len = whole[4096..0x4000].iter().position(|b| *b == 0).unwrap_or(0);
                let at = if kind == FsKind::Luks2 { 4096 + random.index(text_len) } else { 8 + random.index(584) };
                // How often a passphrase is hashed is bounded, and proved to be, in `kdf`: it would only take time here.
                let iterations = at.wrapping_sub(208) % 48 / 4 == 1 || at / 4 == 41;
                if kind == FsKind::Luks1 && iterations {
                    continue;
                }
                bytes[at] = match random.index(3) {
                    0 => b'9',
                    1 => bytes[at] ^ (1 << random.index(8)),
                    _ => random.next() as u8,
                };
            }
            if kind == FsKind::Luks2 {
                bytes[448..512].fill(0);
                let sum = <sha2::Sha256 as sha2::Digest>::digest(&bytes[..0x4000]);
                bytes[448..480].copy_from_slice(&sum);
            }
            let start = Instant::now();
            if let Ok(opened) = open(&memory(bytes), &secrets(&[PASSPHRASE])) {
                let _ = opened.read_at(&mut vec![0; MIB], 0);
                let _ = opened.read_at(&mut vec![0; MIB], opened.size().saturating_sub(1000));
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{kind}, seed {seed}: {:?}", start.elapsed());
        }
    }
}

/// How fast sectors are decrypted; told, not judged: `cargo nextest run --release -p blockdev speed --no-capture`.
#[test]
fn speed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, content) = (folder.path().join("volume"), content(folder.path()));
    for (cipher, size) in [("aes-xts-plain64", "512"), ("aes-xts-plain64", "256"), ("aes-cbc-essiv:sha256", "256")] {
        if !encrypted(&path, &content, FsKind::Luks2, &[&["-c", cipher, "-s", size], &PBKDF2[..]].concat()) {
            return;
        }
        let opened = open(&memory(fs::read(&path).unwrap()), &secrets(&[PASSPHRASE])).unwrap();
        let (mut buf, start, mut done) = (vec![0; MIB], Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(300) {
            for at in (0..8 * MIB).step_by(MIB) {
                done += opened.read_at(&mut buf, at as u64).unwrap();
            }
        }
        println!("{cipher} with a key of {size} bits: {:.0} MB/s", done as f64 / 1e6 / start.elapsed().as_secs_f64());
        assert!(done > 0);
    }
}
