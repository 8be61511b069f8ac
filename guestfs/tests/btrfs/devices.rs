//! Devices that are missing, or full of rubbish.

use std::{path::PathBuf, sync::Arc};

use blockdev::{BlockDevice, BlockSizes, ErrorKind, Extent, MappedRun, ReadAt, Result};

use crate::{
    common::{self, assert_manifest, guest_images, walk},
    kernel::{Machine, assert_same, script},
    nothing,
};

/// The devices of a lab image of several, and its manifest.
fn lab(name: &str) -> Option<(Vec<Arc<dyn BlockDevice>>, String)> {
    let volumes: PathBuf = guest_images()?.join("vol");
    let paths = (0..).map(|n| volumes.join(format!("{name}.{n}.raw"))).take_while(|path| path.exists());
    let devices: Vec<_> = paths.map(|path| common::device(&path)).collect();
    if devices.is_empty() {
        println!("SKIPPED: {name} could not be made on this machine");
        return None;
    }
    let manifest = std::fs::read_to_string(volumes.join(format!("{name}.manifest.tsv"))).unwrap();
    Some((devices, manifest))
}

/// A device whose bytes, but for its superblocks, are all wrong.
struct Rubbish(Arc<dyn BlockDevice>);

impl ReadAt for Rubbish {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = self.0.read_at(buf, offset)?;
        for (at, byte) in (offset..).zip(buf.iter_mut()) {
            if at >= 1 << 20 && !(64 << 20..(64 << 20) + 4096).contains(&at) {
                *byte ^= 0x5a;
            }
        }
        Ok(n)
    }
    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.0.extent_at(offset)
    }
    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Rubbish {
    fn block_sizes(&self) -> BlockSizes {
        self.0.block_sizes()
    }
}

/// Opens `devices` without those in `gone`, or with rubbish in their place, and expects everything to be right.
fn assert_whole_without(devices: &[Arc<dyn BlockDevice>], gone: &[usize], manifest: &str) {
    let left = devices.iter().enumerate().filter(|(n, _)| !gone.contains(n)).map(|(_, d)| Arc::clone(d));
    let fs = common::filesystem(&left.collect::<Vec<_>>());
    for n in gone {
        let name = format!("device {} ", n + 1);
        assert!(fs.info().notes.iter().any(|s| s.contains(&name) && s.contains("is missing")), "{:?}", fs.info().notes);
    }
    assert_manifest(fs.as_ref(), manifest, nothing);

    let rubbish = devices.iter().enumerate().map(|(n, device)| {
        let device = Arc::clone(device);
        if gone.contains(&n) { Arc::new(Rubbish(device)) as Arc<dyn BlockDevice> } else { device }
    });
    let fs = common::filesystem(&rubbish.collect::<Vec<_>>());
    assert!(fs.info().notes.is_empty(), "{:?}", fs.info().notes);
    assert_manifest(fs.as_ref(), manifest, nothing);
}

#[test]
fn mirrors() {
    let Some((devices, manifest)) = lab("btrfs-raid1") else { return };
    assert_whole_without(&devices, &[0], &manifest);
    assert_whole_without(&devices, &[1], &manifest);
    let Some((devices, manifest)) = lab("btrfs-raid10") else { return };
    assert_whole_without(&devices, &[2], &manifest);
}

#[test]
fn one_parity() {
    let Some((devices, manifest)) = lab("btrfs-raid5") else { return };
    for gone in [0, 2] {
        assert_whole_without(&devices, &[gone], &manifest);
    }
}

#[test]
fn two_parities() {
    let Some((devices, manifest)) = lab("btrfs-raid6") else { return };
    for gone in [[0, 1], [1, 3]] {
        assert_whole_without(&devices, &gone, &manifest);
    }
}

/// Where there is no other copy, an error says that a device is missing, and all that is delivered is right.
#[test]
fn too_few() {
    for name in ["btrfs-raid0", "btrfs-raid5", "btrfs-raid6"] {
        let Some((devices, manifest)) = lab(name) else { return };
        let kinds = match common::filesystems(&devices[..1]).remove(0) {
            Err(e) => vec![e.kind()],
            Ok(fs) => {
                let found = walk(fs.as_ref(), usize::MAX, u64::MAX);
                for (path, (kind, size, digest)) in found.lines {
                    assert!(manifest.contains(&format!("{kind}\t{size}\t{digest}\t{path}\n")), "{path}");
                }
                found.errors.iter().map(|(_, e)| e.kind()).collect()
            }
        };
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == ErrorKind::Missing), "{name}: {kinds:?}");
    }
}

/// Data once, metadata on both devices: all that does not lie on the missing one is there.
#[test]
fn data_on_one_of_two() {
    let options = ["-d", "single", "-m", "raid1"];
    let Some(mut machine) = Machine::new(2, 160, &options, "noatime") else { return };
    script(
        &machine.root(),
        "for i in $(seq 1 9); do head -c 20000000 /dev/urandom > big$i || true; sync; echo $i > small$i; done",
    );
    machine.unmount();
    let whole = walk(common::filesystem(&machine.devices()).as_ref(), usize::MAX, u64::MAX);
    assert!(whole.errors.is_empty(), "{:?}", whole.errors);
    let mut lost = Vec::new();
    for device in machine.devices() {
        let fs = common::filesystem(&[device]);
        assert!(fs.info().notes.iter().any(|note| note.contains("MiB cannot be read")), "{:?}", fs.info().notes);
        let found = walk(fs.as_ref(), usize::MAX, u64::MAX);
        assert!(found.lines.iter().all(|(path, line)| whole.lines.get(path) == Some(line)));
        assert_eq!(found.lines.len() + found.errors.len(), whole.lines.len());
        assert!(found.errors.iter().all(|(_, e)| e.kind() == ErrorKind::Missing), "{:?}", found.errors);
        assert!(found.lines.keys().filter(|path| path.starts_with("small")).count() == 9);
        lost.extend(found.errors.into_iter().map(|(path, _)| path));
    }
    assert!(!lost.is_empty());
}

/// Three and four copies, and one device of each kind of data: all of it without all devices but one.
#[test]
fn many_copies() {
    for (count, profile) in [(3, "raid1c3"), (4, "raid1c4")] {
        let Some(mut machine) = Machine::new(count, 160, &["-d", profile, "-m", profile], "noatime") else { return };
        script(&machine.root(), "mkdir d; for i in $(seq 1 50); do head -c $((i*3000)) /dev/urandom > d/$i; done");
        machine.unmount();
        assert!(machine.mount("ro,noatime"));
        let devices = machine.devices();
        for device in &devices {
            let fs = common::filesystem(&[Arc::clone(device)]);
            assert_eq!(fs.info().notes.len(), count - 1, "{:?}", fs.info().notes);
            assert_eq!(assert_same(fs.as_ref(), &machine.root(), None), 51);
        }
    }
}
