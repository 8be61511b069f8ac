//! Volumes that Windows encrypted, found through `REVENANT_TESTDATA`: its folder `images/bitlocker` has compressed images
//! and a manifest with what opens each and the SHA-256 of what is inside, of all of it or of ranges, as cryptsetup's tests or dissect.fve tell it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use blockdev::{
    BlockDevice, ErrorKind, ReadAt, Result,
    encrypted::{Budget, Secrets, unlock},
    layers::Slice,
    partitions::{FsKind, detect},
};
use serde_json::Value;

use super::support::{Random, memory, sha256};

/// The folder, and the images in its manifest.
fn images() -> Option<(PathBuf, Vec<Value>)> {
    let folder = std::env::var_os("REVENANT_TESTDATA").map(|data| Path::new(&data).join("images/bitlocker"));
    let Some(folder) = folder.filter(|folder| folder.join("manifest.json").exists()) else {
        println!("skipped: there is no images/bitlocker in REVENANT_TESTDATA");
        return None;
    };
    let manifest = fs::read(folder.join("manifest.json")).unwrap();
    Some((folder, serde_json::from_slice(&manifest).unwrap()))
}

fn image(folder: &Path, entry: &Value) -> Vec<u8> {
    zstd::decode_all(File::open(folder.join(entry["image"].as_str().unwrap())).unwrap()).unwrap()
}

/// Every single secret that opens the image.
fn secrets(folder: &Path, entry: &Value) -> Vec<Vec<u8>> {
    let text = |key: &str| entry[key].as_str().map(|text| format!("{text}\r\n").into_bytes());
    let startup_key = entry["bek"].as_str().map(|file| fs::read(folder.join(file)).unwrap());
    [text("passphrase"), text("recovery"), text("recovery2"), startup_key].into_iter().flatten().collect()
}

fn open(device: &Arc<dyn BlockDevice>, secrets: Vec<Vec<u8>>) -> Result<Arc<dyn BlockDevice>> {
    unlock(FsKind::BitLocker, device, &Secrets::new(secrets), &mut Budget::default())
}

#[test]
fn volumes_of_windows_are_read_by_each_of_their_secrets() {
    let Some((folder, images)) = images() else { return };
    let mut checked = 0;
    for entry in &images {
        let name = entry["image"].as_str().unwrap();
        let device = memory(image(&folder, entry));
        assert_eq!(detect(device.as_ref()).unwrap().expect("told what it is").kind, FsKind::BitLocker, "{name}");
        let secrets = secrets(&folder, entry);
        let tries: Vec<Vec<Vec<u8>>> = match secrets.len() {
            // It needs none: its key is in the clear, or it is decrypted.
            0 => vec![Vec::new()],
            _ => secrets.into_iter().map(|secret| vec![secret]).collect(),
        };
        let mut first: Option<Vec<u8>> = None;
        let protected = tries.iter().any(|secrets| !secrets.is_empty());
        for secrets in tries {
            let opened = open(&device, secrets.clone()).unwrap_or_else(|e| panic!("{name} by {secrets:?}: {e}"));
            let what = format!("{name} by {secrets:?}");
            let mut head = vec![0; 1 << 20];
            opened.read_at(&mut head, 0).unwrap();
            match (&first, entry["sha256"].as_str()) {
                // All of it once: what another secret opens is the same.
                (Some(first), _) => assert!(head == *first, "{what}"),
                (None, Some(wanted)) => assert_eq!(sha256(opened.as_ref()).unwrap(), wanted, "{what}"),
                (None, None) => {}
            }
            first = Some(head);
            for range in entry["ranges"].as_array().into_iter().flatten() {
                let (offset, len) = (range["offset"].as_u64().unwrap(), range["len"].as_u64().unwrap());
                let part = Slice::new(Arc::clone(&opened), offset..offset + len).unwrap();
                assert_eq!(sha256(&part).unwrap(), range["sha256"], "{what}: {len} bytes at {offset}");
            }
            let kind = detect(opened.as_ref()).unwrap().expect("a filesystem").kind;
            assert!(matches!(kind, FsKind::Ntfs | FsKind::Fat16 | FsKind::Fat32), "{what}: {kind}");
            checked += 1;
        }
        // Hashing takes seconds: that a wrong passphrase is refused is tried with a few.
        if protected && checked < 10 {
            let locked = open(&device, vec![b"another".to_vec()]).err().unwrap_or_else(|| panic!("{name} is open"));
            assert_eq!(locked.kind(), ErrorKind::Locked, "{name}: {locked}");
            assert!(locked.to_string().contains("--unlock"), "{name}: {locked}");
        }
    }
    assert!(checked > 20, "only {checked}");
    println!("{} volumes, opened in {checked} ways", images.len());
}

#[test]
fn broken_metadata_is_refused_or_read() {
    let Some((folder, images)) = images() else { return };
    // The one that needs no secret: no time is spent on hashing.
    let Some(entry) = images.iter().find(|entry| entry["image"] == "suspended.img.zst") else { return };
    let whole = image(&folder, entry);
    let places: Vec<usize> = whole.windows(8).enumerate().filter(|(_, w)| w == b"-FVE-FS-").map(|(at, _)| at).collect();
    assert!(places.len() >= 3, "{places:?}");
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut bytes = whole.clone();
        for _ in 0..=random.index(4) {
            let change = random.next() as u8;
            let within = random.index(1500);
            for place in &places {
                bytes[(place & !511) + within] ^= change;
            }
        }
        // The checksum of each copy is made right where it can be.
        for place in places.iter().filter(|place| **place % 512 == 0) {
            let len = usize::from(u16::from_le_bytes([bytes[place + 8], bytes[place + 9]])) << 4;
            if let Some(all) = bytes.get(*place..place + len) {
                let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, all) as u32;
                if let Some(field) = bytes.get_mut(place + len + 4..place + len + 8) {
                    field.copy_from_slice(&sum.to_le_bytes());
                }
            }
        }
        if let Ok(opened) = open(&memory(bytes), Vec::new()) {
            let mut buf = vec![0; 1 << 20];
            for at in [0, opened.size() / 2, opened.size().saturating_sub(1000)] {
                let _ = opened.read_at(&mut buf, at);
            }
        }
    }
}
