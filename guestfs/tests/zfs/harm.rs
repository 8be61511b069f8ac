//! Harmed devices: what can be mended is, what cannot is an error, and nothing is wrong.

use std::sync::Arc;

use blockdev::{BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, Result, partitions::FsKind};

use crate::{common::*, is_snapshot, members, unpacked};

/// Labels: any of the four will do. When the last uberblock leads to nothing, an earlier one does.
#[test]
fn labels_and_uberblocks() {
    const LABEL: u64 = 256 << 10;
    let Some(image) = foreign("zfs/zfs-pool-v1.dat.bz2") else { return };
    let size = image.len() as u64;
    let labels = [0, LABEL, size - 2 * LABEL, size - LABEL];
    let zeroed = |places: &[u64], len: u64| {
        let mut image = image.clone();
        for place in places {
            image[*place as usize..(*place + len) as usize].fill(0);
        }
        in_memory(image)
    };
    for intact in 0..4 {
        let rest: Vec<_> = (0..4).filter(|n| *n != intact).map(|n| labels[n]).collect();
        let fs = filesystem(&[zeroed(&rest, LABEL)]);
        assert_eq!(fs.info().notes, [""; 0]);
        assert_eq!(entries(fs.as_ref(), fs.root()).unwrap().len(), 302);
    }
    assert!(filesystems(&[zeroed(&labels, LABEL)]).is_empty());

    // In each ring the slot of the highest transaction group (big-endian, in slots of 1 KiB).
    let word = |at: u64| u64::from_be_bytes(image[at as usize..][..8].try_into().unwrap());
    let last =
        |label: u64| (0..128).map(|n| label + (128 << 10) + (n << 10)).max_by_key(|slot| word(slot + 16)).unwrap();
    let slots = labels.map(last);
    // Three of the four harmed: nothing happens. All four: they were never written.
    for harmed in [&slots[..3], &slots] {
        let fs = filesystem(&[zeroed(harmed, 1024)]);
        assert_eq!(fs.info().notes, [""; 0]);
        assert_eq!(entries(fs.as_ref(), fs.root()).unwrap().len(), 302);
    }

    // What it points to harmed in all copies: the pointer is at 40 of the uberblock, an address has 16 bytes.
    let copies = [0, 1, 2].map(|n| (4 << 20) + (word(slots[0] + 40 + 16 * n + 8) << 9));
    let fs = filesystem(&[zeroed(&copies, 512)]);
    assert!(fs.info().notes[0].contains("is damaged: shown is an earlier one"), "{:?}", fs.info().notes);
    assert_eq!(entries(fs.as_ref(), fs.root()).unwrap().len(), 302);
}

/// Bits of metadata flip, and what is delivered is true or an error: everything has a checksum.
#[test]
fn harmed_metadata() {
    for name in ["zold", "zmir"] {
        let Some(folder) = unpacked(&format!("openzfs-2.1-{name}.tar.zst")) else { return };
        let device = device(&folder.path().join(format!("{name}.0.raw")));
        flip_metadata(&device, &|d| guestfs::open(FsKind::Zfs, &[d]), flip_runs(), usize::MAX / 2, Expect::TrueOrError);
    }
}

/// The same on one device of a group: the others have what it takes to mend it.
#[test]
fn harmed_member() {
    let of = |name: &str| foreign(&format!("zfs/zfs-pool-{name}.dat.bz2")).map(in_memory);
    let (Some(harmed), Some(second), Some(third)) = (of("v1raidz1"), of("v1raidz2"), of("v1raidz3")) else { return };
    let open = |harmed| guestfs::open(FsKind::Zfs, &[harmed, Arc::clone(&second), Arc::clone(&third)]);
    flip_metadata(&harmed, &open, flip_runs(), usize::MAX / 2, Expect::TrueOrError);
}

/// A device all of whose blocks are harmed, where the pool can do without it: nobody says which it is.
#[test]
fn silently_harmed_devices() {
    for (name, harmed) in [("zfs-mirror", &[0][..]), ("zfs-raidz1", &[1]), ("zfs-raidz2", &[0, 2])] {
        let Some(image) = lab(&format!("vol/{name}.0.raw")) else { return };
        let folder = image.parent().unwrap();
        let mut devices = members(folder, name);
        for number in harmed {
            devices[*number] = Arc::new(Inverted(Arc::clone(&devices[*number])));
        }
        let manifest = std::fs::read_to_string(folder.join(format!("{name}.manifest.tsv"))).unwrap();
        assert_manifest(filesystem(&devices).as_ref(), &manifest, is_snapshot);
    }
}

/// A device that gives every bit between its labels inverted.
struct Inverted(Arc<dyn BlockDevice>);

impl ReadAt for Inverted {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = self.0.read_at(buf, offset)?;
        let inner = 4 << 20..self.size() - (512 << 10);
        for (byte, at) in buf[..n].iter_mut().zip(offset..) {
            if inner.contains(&at) {
                *byte = !*byte;
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

impl BlockDevice for Inverted {
    fn block_sizes(&self) -> BlockSizes {
        self.0.block_sizes()
    }
}
