//! Arrays and volume groups that Linux made: every byte of every volume, whole and with disks missing.

use std::{collections::BTreeMap, fs, path::Path, process::Command, sync::Arc};

use blockdev::{
    BlockDevice, BlockSizes, ErrorKind,
    partitions::{self, FsKind, Scheme},
};

use super::support::{disks, file, kept, named, sha256};

/// A line of the manifest: size and checksum of a volume, as the kernel that made it read it.
struct Wanted {
    name: String,
    size: u64,
    sha256: String,
}

/// The volumes of each case.
fn manifest() -> BTreeMap<String, Vec<Wanted>> {
    let text = fs::read_to_string(kept().join("manifest.txt")).unwrap();
    let mut cases: BTreeMap<String, Vec<Wanted>> = BTreeMap::new();
    for line in text.lines() {
        let [case, name, size, sha256] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let wanted = Wanted { name: name.to_owned(), size: size.parse().unwrap(), sha256: sha256.to_owned() };
        cases.entry(case.to_owned()).or_default().push(wanted);
    }
    cases
}

/// The name that a manifest's volume has here: md arrays are called after their name, or their number.
fn name_here(case: &str, name: &str) -> String {
    match case {
        _ if !case.starts_with("md-") => name.to_owned(),
        _ if case.ends_with("-090") => "md9".to_owned(),
        _ => format!("md{name}"),
    }
}

#[test]
fn every_volume_reads_as_the_kernel_read_it() {
    for (case, volumes) in manifest() {
        let survey = partitions::survey(&disks(&case));
        assert!(survey.notes.is_empty(), "{case}: {:?}", survey.notes);
        for wanted in volumes {
            let volume = named(&survey, &name_here(&case, &wanted.name));
            let device = volume.device.as_ref().unwrap_or_else(|| panic!("{case}: {volume:#?}"));
            assert_eq!((volume.size, device.size()), (wanted.size, wanted.size), "{case} {}", wanted.name);
            assert_eq!(sha256(device.as_ref()).unwrap(), wanted.sha256, "{case}: {volume:#?}");
        }
    }
}

/// Reads at odd places agree with one long read, and extents with what is read.
#[test]
fn reads_of_any_piece_and_extents_agree() {
    for case in ["lvm", "md-raid5-ls", "md-raid10-n2", "md-raid0-zones"] {
        for volume in partitions::survey(&disks(case)).volumes.iter().filter(|v| v.start.is_none()) {
            let Some(device) = volume.device.as_ref() else { continue };
            let mut all = vec![0; usize::try_from(device.size()).unwrap()];
            assert_eq!(device.read_at(&mut all, 0).unwrap(), all.len());
            for at in (0..all.len()).step_by(37_777) {
                let mut piece = vec![1; 9_000];
                let n = device.read_at(&mut piece, at as u64).unwrap();
                assert_eq!(piece[..n], all[at..(at + 9_000).min(all.len())], "{case} {} {at}", volume.name);
            }
            let mut at = 0;
            while let Some(extent) = device.extent_at(at).unwrap() {
                assert_eq!(extent.range.start, at);
                let bytes = &all[at as usize..extent.range.end as usize];
                if extent.kind == blockdev::ExtentKind::Hole {
                    assert!(bytes.iter().all(|b| *b == 0), "{case} {} {at}", volume.name);
                }
                at = extent.range.end;
            }
            assert_eq!(at, device.size());
        }
    }
}

/// With one disk away, what has redundancy reads the same; what has none says which disk it lacks, or is left out.
#[test]
fn one_disk_is_missing() {
    let mut computed = 0;
    for (case, volumes) in manifest() {
        let all = disks(&case);
        for away in 0..all.len() {
            let mut left = all.clone();
            left.remove(away);
            let survey = partitions::survey(&left);
            // The large thin volumes add nothing here but time.
            for wanted in volumes.iter().filter(|w| w.size < 10 << 20) {
                let name = name_here(&case, &wanted.name);
                // A group whose metadata is gone with its only disk cannot be told.
                let Some(volume) = survey.volumes.iter().find(|v| v.name == name) else {
                    panic!("{case} without {away}: no {name}");
                };
                let read = volume.device.as_ref().map(|d| sha256(d.as_ref()));
                let has_redundancy = ["raid1", "raid4", "raid5", "raid6", "raid-1", "mirror", "on-md"]
                    .iter()
                    .any(|kind| wanted.name.contains(kind));
                match read {
                    Some(Ok(sum)) => {
                        assert_eq!(sum, wanted.sha256, "{case} without {away}: {volume:#?}");
                        computed += usize::from(wanted.name.contains("raid5"));
                    }
                    Some(Err(e)) => {
                        assert!(!has_redundancy, "{case} without {away}: {e}: {volume:#?}");
                        assert_eq!(e.kind(), ErrorKind::Missing, "{e}");
                        assert!(volume.notes.iter().any(|n| n.contains("missing")), "{volume:#?}");
                    }
                    None => {
                        assert!(!has_redundancy, "{case} without {away}: {volume:#?}");
                        assert!(volume.notes.iter().any(|n| n.contains("missing")), "{volume:#?}");
                    }
                }
            }
            if case.starts_with("lvm") && case != "lvm-on-md" {
                assert!(survey.notes.iter().any(|n| n.contains("lacks its physical volume")), "{:?}", survey.notes);
            }
        }
    }
    assert!(computed > 10, "raid5 was computed from parity {computed} times");
}

/// Two members away of a raid5: nothing is made up.
#[test]
fn too_many_disks_are_missing() {
    let left: Vec<_> = disks("md-raid5-ls").into_iter().skip(2).collect();
    let survey = partitions::survey(&left);
    let volume = survey.volumes.iter().find(|v| v.scheme == Scheme::Md).unwrap();
    assert!(volume.device.is_none() && volume.notes[0].contains("members"), "{volume:#?}");
}

/// A member that missed writes is not believed: here its event count is set back, with the checksum put right.
#[test]
fn a_stale_member_is_left_out() {
    let mut all = disks("md-raid1");
    let (name, first) = all[0].clone();
    let mut bytes = vec![0; first.size() as usize];
    first.read_at(&mut bytes, 0).unwrap();
    // The whole of its data is something else, as after writes that it missed.
    let at = ((bytes.len() / 512 - 16) & !7) * 512;
    bytes[..at].fill(b'x');
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let events = word(&bytes, at + 200);
    bytes[at + 200..at + 204].copy_from_slice(&(events - 5).to_le_bytes());
    let sum = word(&bytes, at + 216);
    bytes[at + 216..at + 220].copy_from_slice(&(sum - 5).to_le_bytes());
    all[0] = (name, super::support::memory(bytes));
    let survey = partitions::survey(&all);
    let volume = named(&survey, "mdmd-raid1");
    assert!(volume.notes.iter().any(|n| n.contains("out of date")), "{volume:#?}");
    let wanted = &manifest()["md-raid1"][0];
    assert_eq!(sha256(volume.device.as_ref().unwrap().as_ref()).unwrap(), wanted.sha256);
}

/// What the group has beside its volumes is not shown, and what cannot be right is not read.
#[test]
fn pools_are_hidden_and_a_write_back_cache_is_refused() {
    let survey = partitions::survey(&disks("lvm"));
    let names: Vec<_> = survey.volumes.iter().map(|v| v.name.as_str()).collect();
    for hidden in ["vgdata-pool", "vgdata-cpool", "vgdata-pool_tdata", "vgdata-raid5_rimage_0", "vgdata-snapshot0"] {
        assert!(!names.contains(&hidden), "{names:?}");
    }
    let members = survey.volumes.iter().filter(|v| v.content.as_ref().is_some_and(|c| c.kind == FsKind::LvmMember));
    assert_eq!(members.count(), 5);
    let survey = partitions::survey(&disks("lvm-raid"));
    let back = named(&survey, "vgr-back");
    assert!(back.device.is_none() && back.notes[0].contains("cache"), "{back:#?}");
}

/// The same disk twice, as after a restore beside the original: one is left out, and that is told.
#[test]
fn a_copy_of_a_disk_is_left_out() {
    let mut all = disks("lvm");
    all.push(("copy".into(), Arc::clone(&all[0].1)));
    let survey = partitions::survey(&all);
    assert!(survey.notes.iter().any(|n| n.contains("copy whole is a copy of")), "{:?}", survey.notes);
    let wanted = &manifest()["lvm"][0];
    let linear = named(&survey, &wanted.name);
    assert_eq!(sha256(linear.device.as_ref().unwrap().as_ref()).unwrap(), wanted.sha256);
}

/// A disk of another product: LVM2 in a partition, three filesystems in volumes of several pieces.
#[test]
fn a_real_disk_with_lvm2() {
    let Ok(folder) = std::env::var("REVENANT_TESTDATA") else {
        println!("skipped: REVENANT_TESTDATA is not set");
        return;
    };
    let packed = Path::new(&folder).join("images/disk/lvm2.vhdx.gz");
    let dir = tempfile::tempdir().unwrap();
    let (image, raw) = (dir.path().join("lvm2.vhdx"), dir.path().join("lvm2.raw"));
    let script = format!(
        "zcat '{}' > '{}' && qemu-img convert -O raw '{}' '{}'",
        packed.display(),
        image.display(),
        image.display(),
        raw.display()
    );
    if !Command::new("sh").args(["-c", &script]).status().unwrap().success() {
        println!("skipped: the image cannot be unpacked: qemu-img is needed");
        return;
    }
    let disk: Arc<dyn BlockDevice> = file(&raw, BlockSizes::CLASSIC);
    let survey = partitions::survey(&[("lvm2".to_owned(), disk)]);
    let found: Vec<_> = survey
        .volumes
        .iter()
        .map(|v| (v.name.as_str(), v.size / 512, v.content.as_ref().unwrap().kind, v.notes.len()))
        .collect();
    let extent = 8192;
    let group = survey.volumes[1].name.split('-').next().unwrap();
    let volume = |name: &str| format!("{group}-{name}");
    assert_eq!(
        found,
        [
            ("p1", 20_969_439, FsKind::LvmMember, 0),
            (volume("fat").as_str(), 178 * extent, FsKind::Fat32, 0),
            (volume("ntfs").as_str(), 281 * extent, FsKind::Ntfs, 0),
            (volume("vol01").as_str(), 306 * extent, FsKind::Ext3, 0),
        ]
    );
    assert!(survey.notes.is_empty());
    // `blkid -p -O 2097152` on the disk, where the first piece of the volume lies.
    let content = named(&survey, &volume("vol01")).content.clone().unwrap();
    assert_eq!(content.uuid.as_deref(), Some("a23ce9ef-f531-4862-b73e-e7e1abfd61e5"));
    // The three pieces that `vgcfgbackup` names, read from the disk one after the other.
    let fat = named(&survey, &volume("fat"));
    let wanted = "083fc4d321825352cf3da03b5ced1d17e1631e00de45510988e02c2f3d9a65ea";
    assert_eq!(sha256(fat.device.as_ref().unwrap().as_ref()).unwrap(), wanted);
}
