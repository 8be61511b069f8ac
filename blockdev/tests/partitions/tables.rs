//! Partition tables, as `sfdisk`, `sgdisk`, `parted` and `fdisk` write them, compared with what `sfdisk` reads.

use std::{fs, path::Path};

use blockdev::{
    BlockSizes,
    partitions::{Scheme, Survey},
};
use serde_json::Value;

use super::support::{file, memory, named, run, sparse, survey_of, tool};

const MIB: u64 = 1 << 20;

/// Compares with `sfdisk --json`; extended partitions hold volumes and are none.
fn compare(path: &Path, survey: &Survey) {
    let path = path.to_str().unwrap();
    let told: Value = serde_json::from_str(&run(&tool("sfdisk").unwrap(), &["--json", path], "")).unwrap();
    let told = &told["partitiontable"];
    let disk = &survey.disks[0];
    assert_eq!(disk.scheme.name(), told["label"].as_str().unwrap().replace("dos", "mbr"));
    assert_eq!(disk.id.as_deref().unwrap(), told["id"].as_str().unwrap().trim_start_matches("0x"));
    let unit = told["sectorsize"].as_u64().unwrap();
    let mut wanted: Vec<_> = told["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|p| {
            let code = p["type"].as_str().unwrap();
            let text = |key: &str| p[key].as_str().map(str::to_owned);
            let number = p["node"].as_str().unwrap().strip_prefix(path).unwrap();
            let code = if code.len() == 1 { format!("0{code}") } else { code.to_owned() };
            let place = (p["start"].as_u64().unwrap() * unit, p["size"].as_u64().unwrap() * unit);
            let is_extended = disk.scheme == Scheme::Mbr && matches!(&*code, "05" | "0f" | "85");
            (!is_extended)
                .then(|| (format!("p{number}"), place, code, text("name"), text("uuid"), p["bootable"] == true))
        })
        .collect();
    let mut found: Vec<_> = survey
        .volumes
        .iter()
        .map(|v| {
            // `sfdisk` tells no UUIDs of MBR partitions.
            let uuid = v.uuid.clone().filter(|_| disk.scheme == Scheme::Gpt);
            (v.name.clone(), (v.start.unwrap(), v.size), v.kind.clone().unwrap().code, v.label.clone(), uuid, v.active)
        })
        .collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn mbr_with_logical_partitions() {
    let Some(sfdisk) = tool("sfdisk") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mbr.img");
    sparse(&path, 100 * MIB);
    let script = "label: dos\nlabel-id: 0xdeadbeef\nstart=2048,size=10M,type=c,bootable\nsize=5M,type=82\n\
                  size=70M,type=5\nsize=1M,type=7\nsize=8M,type=83\nsize=8M,type=8e\nsize=3M,type=fd\nsize=2M,type=83\n";
    run(&sfdisk, &[path.to_str().unwrap()], script);
    let survey = survey_of(file(&path, BlockSizes::CLASSIC));
    compare(&path, &survey);
    assert_eq!(survey.volumes.len(), 7);
    assert!(survey.disks[0].notes.is_empty(), "{:?}", survey.disks[0].notes);
    assert_eq!(named(&survey, "p6").kind.as_ref().unwrap().name, "Linux LVM");
    // The name by which Linux knows the partition (PARTUUID).
    assert_eq!(named(&survey, "p5").uuid.as_deref(), Some("deadbeef-05"));
    // Deleting from the middle leaves a chain with other links.
    run(&sfdisk, &["--delete", path.to_str().unwrap(), "6"], "");
    compare(&path, &survey_of(file(&path, BlockSizes::CLASSIC)));
    run(&sfdisk, &["--delete", path.to_str().unwrap(), "5"], "");
    compare(&path, &survey_of(file(&path, BlockSizes::CLASSIC)));
}

#[test]
fn mbr_by_parted() {
    let (Some(parted), Some(_)) = (tool("parted"), tool("sfdisk")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("parted.img");
    sparse(&path, 64 * MIB);
    let script = "mklabel msdos mkpart primary ext4 1MiB 9MiB mkpart extended 9MiB 60MiB mkpart logical ntfs 10MiB 20MiB \
                  mkpart logical fat32 21MiB 33MiB set 1 boot on";
    let arguments: Vec<_> = ["-s", path.to_str().unwrap()].into_iter().chain(script.split_whitespace()).collect();
    run(&parted, &arguments, "");
    compare(&path, &survey_of(file(&path, BlockSizes::CLASSIC)));
}

#[test]
fn gpt_with_names_and_its_backup() {
    let (Some(sgdisk), Some(_)) = (tool("sgdisk"), tool("sfdisk")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gpt.img");
    sparse(&path, 64 * MIB);
    let name = path.to_str().unwrap();
    let script = "-n 1:0:+4M -t 1:ef00 -c 1:EFI -n 2:0:+1M -t 2:ef02 -A 2:set:2 -n 9:0:+8M -t 9:8e00 -c 9:L\u{e4}nge\u{1f600} -n 4:0:0 -t 4:0700";
    let arguments: Vec<_> = script.split(' ').chain([name]).collect();
    run(&sgdisk, &arguments, "");
    let survey = survey_of(file(&path, BlockSizes::CLASSIC));
    // `sfdisk` calls the attribute by another name.
    let mut plain = survey_of(file(&path, BlockSizes::CLASSIC));
    plain.volumes.iter_mut().for_each(|v| v.active = false);
    compare(&path, &plain);
    assert!(named(&survey, "p2").active);
    assert_eq!(named(&survey, "p9").label.as_deref(), Some("L\u{e4}nge\u{1f600}"));
    assert_eq!(named(&survey, "p1").kind.as_ref().unwrap().name, "EFI system");
    assert!(survey.disks[0].notes.is_empty());

    let image = fs::read(&path).unwrap();
    let places = |survey: &Survey| survey.volumes.iter().map(|v| (v.name.clone(), v.start, v.size)).collect::<Vec<_>>();
    // A byte of the first header, of its entries, and all of it: the backup serves, and that is told.
    for (from, len) in [(512 + 40, 1), (1024 + 33, 1), (512, 512)] {
        let mut broken = image.clone();
        broken[from..from + len].iter_mut().for_each(|b| *b ^= 0x55);
        let found = survey_of(memory(broken.clone()));
        assert_eq!(places(&found), places(&survey));
        assert!(found.disks[0].notes.iter().any(|n| n.contains("backup")), "{:?}", found.disks[0].notes);
        // With the backup gone too, nothing is made up.
        let end = broken.len() - 512;
        broken[end + 20] ^= 1;
        let found = survey_of(memory(broken));
        assert!(found.volumes.is_empty() && !found.disks[0].notes.is_empty());
    }
    // Without the MBR the first header is enough.
    let mut wiped = image.clone();
    wiped[..512].fill(0);
    let found = survey_of(memory(wiped));
    assert_eq!(places(&found), places(&survey));
    assert_eq!(found.disks[0].notes.len(), 1);

    // A disk cut short: the partition that lies behind its end is left out, the one across it is cut.
    let end = named(&survey, "p4").start.unwrap() as usize + 4096;
    let found = survey_of(memory(image[..end].to_vec()));
    assert_eq!(named(&found, "p4").size, 4096);
    assert_eq!(named(&found, "p4").notes.len(), 1);
    let found = survey_of(memory(image[..end - 4096].to_vec()));
    assert!(found.volumes.iter().all(|v| v.name != "p4") && found.disks[0].notes.len() == 1);
}

#[test]
fn hybrid_mbr() {
    let (Some(sgdisk), Some(_)) = (tool("sgdisk"), tool("sfdisk")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hybrid.img");
    sparse(&path, 32 * MIB);
    let name = path.to_str().unwrap();
    run(&sgdisk, &["-n", "1:0:+4M", "-n", "2:0:+4M", "-h", "1:2", name], "");
    let survey = survey_of(file(&path, BlockSizes::CLASSIC));
    assert_eq!((survey.disks[0].scheme, survey.volumes.len()), (Scheme::Gpt, 2));
    assert!(survey.disks[0].notes[0].contains("hybrid"), "{:?}", survey.disks[0].notes);
}

#[test]
fn sectors_of_4096_bytes() {
    let Some(fdisk) = tool("fdisk") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("4k.img");
    let name = path.to_str().unwrap();
    sparse(&path, 64 * MIB);
    run(&fdisk, &["-b", "4096", name], "g\nn\n1\n256\n+8M\nn\n2\n\n+16M\nw\n");
    for (sizes, notes) in [(BlockSizes::NATIVE_4K, 0), (BlockSizes::CLASSIC, 1)] {
        let survey = survey_of(file(&path, sizes));
        let found: Vec<_> = survey.volumes.iter().map(|v| (&*v.name, v.start.unwrap(), v.size)).collect();
        assert_eq!(found, [("p1", MIB, 8 * MIB), ("p2", 9 * MIB, 16 * MIB)]);
        assert_eq!((survey.disks[0].sector_size, survey.disks[0].notes.len()), (4096, notes));
    }
    // An MBR counts in the disk's sectors.
    sparse(&path, 64 * MIB);
    run(&fdisk, &["-b", "4096", name], "o\nn\np\n1\n256\n+8M\nw\n");
    let survey = survey_of(file(&path, BlockSizes::NATIVE_4K));
    assert_eq!((named(&survey, "p1").start, named(&survey, "p1").size), (Some(MIB), 8 * MIB));
    // And one for 512 on a disk of 4096.
    sparse(&path, 64 * MIB);
    run(&fdisk, &["-b", "512", name], "g\nn\n1\n2048\n+8M\nw\n");
    let survey = survey_of(file(&path, BlockSizes::NATIVE_4K));
    assert_eq!((named(&survey, "p1").start, survey.disks[0].sector_size), (Some(MIB), 512));
}

/// An extended boot record that names itself as the next: the chain ends, and what was found stays.
#[test]
fn a_chain_that_loops_ends() {
    let Some(sfdisk) = tool("sfdisk") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("loop.img");
    sparse(&path, 32 * MIB);
    run(
        &sfdisk,
        &[path.to_str().unwrap()],
        "label: dos\nsize=2M\nsize=1M\nsize=1M\nsize=20M,type=5\nsize=2M\nsize=2M\nsize=2M\n",
    );
    let mut image = fs::read(&path).unwrap();
    let survey = survey_of(memory(image.clone()));
    assert_eq!(survey.volumes.len(), 6);
    // The second record lies in front of p6; its link is the second entry.
    let second = named(&survey, "p6").start.unwrap() as usize - MIB as usize;
    assert_eq!(&image[second + 510..second + 512], [0x55, 0xaa]);
    let extended = 5 * MIB as usize;
    let link = ((second - extended) / 512) as u32;
    image[second + 462 + 8..second + 462 + 12].copy_from_slice(&link.to_le_bytes());
    let found = survey_of(memory(image));
    assert_eq!(found.volumes.len(), 5);
    assert!(found.disks[0].notes[0].contains("loop"), "{:?}", found.disks[0].notes);
}

#[test]
fn overlaps_are_told() {
    let Some(sfdisk) = tool("sfdisk") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlap.img");
    sparse(&path, 32 * MIB);
    run(&sfdisk, &[path.to_str().unwrap()], "label: dos\nstart=2048,size=8M\nsize=4M\nsize=4M\n");
    let mut image = fs::read(&path).unwrap();
    // The first is made so long that it reaches into the third.
    image[446 + 12..446 + 16].copy_from_slice(&(26_624_u32).to_le_bytes());
    let found = survey_of(memory(image));
    assert_eq!(found.volumes.iter().map(|v| v.notes.len()).collect::<Vec<_>>(), [2, 1, 1], "{found:#?}");
}

/// A Windows dynamic disk is told to be one: what its table shows may be parts of volumes.
#[test]
fn windows_dynamic_disks_are_named() {
    let Some(sfdisk) = tool("sfdisk") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ldm.img");
    let metadata = "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3";
    for script in ["label: dos\ntype=42\n".to_owned(), format!("label: gpt\nsize=1M,type={metadata}\n")] {
        sparse(&path, 16 * MIB);
        run(&sfdisk, &[path.to_str().unwrap()], &script);
        let survey = survey_of(file(&path, BlockSizes::CLASSIC));
        assert!(survey.disks[0].notes.iter().any(|n| n.contains("Windows dynamic disk")), "{survey:#?}");
        assert!(named(&survey, "p1").kind.as_ref().unwrap().name.contains("Windows dynamic disk"));
    }
}
