//! The images of the lab: NTFS-3G made them, and their manifests.

use guestfs::{FileId, FileSystem};

use crate::common::{assert_lab, device, digest, filesystem, lab};

/// The file at `path`.
pub fn at(fs: &dyn FileSystem, path: &str) -> FileId {
    path.split('/').fold(fs.root(), |dir, name| {
        fs.lookup(dir, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{path} is not there"))
    })
}

/// What is in a layer, as a file.
pub fn reader(layer: std::sync::Arc<dyn blockdev::images::layer::Layer>) -> blockdev::images::Disk {
    blockdev::images::Disk::new(vec![layer], blockdev::BlockSizes::CLASSIC).unwrap()
}

#[test]
fn trees() {
    for name in ["ntfs", "ntfs-1k", "ntfs-64k"] {
        assert_lab(name, |_| false);
    }
}

#[test]
fn streams() {
    for name in ["ntfs", "ntfs-1k", "ntfs-64k"] {
        let Some(path) = lab(&format!("vol/{name}.raw")) else { return };
        let fs = filesystem(&[device(&path)]);
        let manifest = std::fs::read_to_string(path.with_extension("streams.tsv")).unwrap();
        assert_eq!(manifest.lines().count(), 2);
        for line in manifest.lines() {
            let (place, sum) = line.split_once('\t').unwrap();
            let (file, stream) = place.split_once(':').unwrap();
            let file = at(fs.as_ref(), file);
            let content = reader(fs.stream(file, stream.as_bytes()).unwrap());
            assert_eq!(digest(&content, u64::MAX).unwrap(), sum, "{place}");
        }
        let streams = fs.streams(at(fs.as_ref(), "ads/file.txt")).unwrap();
        let mut shown: Vec<_> = streams.iter().map(|s| (s.name.as_slice(), s.size)).collect();
        shown.sort_unstable();
        assert_eq!(shown, [(&b"Zone.Identifier"[..], 14), (b"large", 60000)]);
        let missing = fs.stream(at(fs.as_ref(), "ads/file.txt"), b"none").err().unwrap();
        assert_eq!(missing.kind(), blockdev::ErrorKind::NotFound);
    }
}

#[test]
fn what_is_known_of_the_volume() {
    let Some(path) = lab("vol/ntfs.raw") else { return };
    let fs = filesystem(&[device(&path)]);
    let info = fs.info();
    assert_eq!((info.label.as_deref(), info.block_size, info.notes.len()), (Some("NTFSVOL"), 4096, 0));
    assert_eq!(info.uuid.as_ref().map(String::len), Some(16));
    assert!(fs.lookup(fs.root(), b"$MFT").unwrap().is_none(), "NTFS' own files are hidden");
    assert!(fs.lookup(fs.root(), b"BIG").unwrap().is_none(), "names are exactly so spelled");
}
