//! Reading a container in order against reading the disk itself: 1 MiB reads, 1 GiB, page cache warm.

use std::{fs::File, io::Write, sync::Arc, time::Instant};

use blockdev::{
    BlockDevice, ReadAt,
    containers::{self, Kind},
    file::HostFile,
};

const MIB: usize = 1 << 20;
const SIZE: usize = 1 << 30;
const ROUNDS: usize = 7;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk");
    let mut file = File::create(&path).expect("a file");
    let mut noise = 1_u64;
    for _ in 0..SIZE / MIB {
        let words = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            noise.to_le_bytes()
        });
        file.write_all(&words.flatten().take(MIB).collect::<Vec<u8>>()).expect("room for a disk");
    }
    let disk: Arc<dyn BlockDevice> = Arc::new(HostFile::open(&path).expect("the disk"));
    // A descriptor alone is no container to measure.
    let kinds = Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::VmdkFlat | Kind::VmdkVmfs));
    for kind in kinds {
        let container = containers::open(kind, "disk0.vmdk", &disk, b"bench").expect("a container");
        let (mut raw, mut ours) = (0_f64, 0_f64);
        // In turns, so that a busy moment falls on both.
        for _ in 0..ROUNDS {
            raw = raw.max(pass(disk.as_ref()));
            ours = ours.max(pass(container.as_ref()));
        }
        println!("{kind:12} {ours:6.2} GB/s, the disk {raw:6.2} GB/s: {:.2}", ours / raw);
    }
}

/// GB/s of a pass through `file`.
fn pass(file: &dyn ReadAt) -> f64 {
    let mut buf = vec![0; MIB];
    let start = Instant::now();
    let mut at = 0;
    loop {
        match file.read_at(&mut buf, at).expect("bytes") {
            0 => break,
            n => at += n as u64,
        }
    }
    at as f64 / start.elapsed().as_secs_f64() / 1e9
}
