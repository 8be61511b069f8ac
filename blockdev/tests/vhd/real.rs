//! Images of real products: Virtual PC, Hyper-V, diskpart. They are found through REVENANT_TESTDATA.

use std::path::Path;

use blockdev::{ReadAt, images::Image};
use sha2::{Digest, Sha256};

use crate::common::{open, real_image};

/// Every sample of the formats, with the parent that it needs and what it is.
const IMAGES: [(&str, Option<&str>, &str); 10] = [
    ("vhd/ntfs-parent.vhd.zst", None, "fixed"),
    ("vhd/ntfs-differential.vhd.zst", Some("vhd/ntfs-parent.vhd.zst"), "differencing"),
    ("vhd/virtualpc-dynamic.vhd.bz2", None, "dynamic"),
    ("vhdx/ntfs-parent.vhdx.zst", None, "fixed"),
    ("vhdx/ntfs-differential.vhdx.zst", Some("vhdx/ntfs-parent.vhdx.zst"), "differencing"),
    ("vhdx/iotest-dynamic-1G.vhdx.bz2", None, "dynamic"),
    ("vhdx/iotest-dirtylog-10G-4M.vhdx.bz2", None, "dynamic"),
    ("disk/btrfs.vhdx.gz", None, "dynamic"),
    ("disk/lvm2.vhdx.gz", None, "dynamic"),
    ("disk/xfs.vhdx.gz", None, "dynamic"),
];

fn opened(name: &str, parent: Option<&str>, folder: &Path) -> Option<Image> {
    let path = real_image(name, folder)?;
    if let Some(parent) = parent {
        real_image(parent, folder)?;
    }
    Some(open(&path).unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// The size and SHA-256 that the list of the samples has for `name`.
fn listed(name: &str) -> (u64, String) {
    let testdata = std::env::var_os("REVENANT_TESTDATA").unwrap();
    let list = std::fs::read_to_string(Path::new(&testdata).join("images/manifests/INDEX.tsv")).unwrap();
    let line = list.lines().find(|line| line.starts_with(name)).unwrap();
    let fields: Vec<&str> = line.split('\t').collect();
    (fields[3].parse().unwrap(), fields[4].to_owned())
}

#[test]
fn real_images_have_the_content_that_others_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = vec![0; 4 << 20];
    for (name, parent, variant) in IMAGES {
        let Some(image) = opened(name, parent, folder.path()) else { return };
        assert_eq!(image.members[0].info.variant, variant, "{name}");
        // The sums are QEMU's, which has replayed the log in the file.
        let replayed = image.members[0].info.notes.iter().any(|note| note.contains("replayed"));
        assert_eq!(replayed, name.contains("dirtylog"), "{name}");
        let (size, sha256) = listed(name);
        assert_eq!(image.disk.size(), size, "{name}");
        if sha256 == "-" {
            continue;
        }
        let (mut at, mut hash) = (0, Sha256::new());
        while at < size {
            let n = image.disk.read_at(&mut buffer, at).unwrap();
            hash.update(&buffer[..n]);
            at += n as u64;
        }
        let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, sha256, "{name}");
    }
}

#[test]
fn the_parents_of_real_images_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for (format, id) in
        [("vhd", "e7ea9200-8493-954e-a816-9572339be931"), ("vhdx", "7584f8fb-36d3-4091-afb5-b1afe587bfa8")]
    {
        let name = format!("{format}/ntfs-differential.{format}.zst");
        let parent = format!("{format}/ntfs-parent.{format}.zst");
        let Some(image) = opened(&name, Some(&parent), folder.path()) else { return };
        let parent = image.members[0].info.parent.as_ref().unwrap();
        // What libvhdi tells of them.
        assert_eq!(parent.identity.as_deref(), Some(id));
        assert_eq!(parent.names[0], format!(".\\ntfs-parent.{format}"));
        assert_eq!(parent.names[1], format!("C:\\Projects\\dfvfs\\test_data\\ntfs-parent.{format}"));
    }
}
