//! What cannot be read, and hostile images.

use std::time::{Duration, Instant};

use blockdev::images::{self, qcow2};
use peak_alloc::PeakAlloc;

use super::*;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

#[test]
fn encrypted_images_are_refused_by_the_name_of_their_encryption() {
    let lab = Lab::new(40);
    let secret = "--object secret,id=s,data=12345";
    lab.img(&format!(
        "create -q {secret} -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks.qcow2 1M"
    ));
    lab.refused("luks.qcow2", ErrorKind::Unsupported, &["LUKS", "qemu-img convert"]);
    lab.img(&format!("create -q {secret} -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s aes.qcow2 1M"));
    lab.refused("aes.qcow2", ErrorKind::Unsupported, &["AES"]);
}

#[test]
fn unknown_features_are_refused_by_the_name_that_the_image_gives_them() {
    let lab = Lab::new(41);
    lab.img("create -q -f qcow2 disk.qcow2 1M");
    lab.patch("disk.qcow2", 72, &(1_u64 << 63 | 1 << 5).to_be_bytes());
    lab.refused("disk.qcow2", ErrorKind::Unsupported, &["bit 5, bit 63"]);
    // The table of names has "dirty bit" for bit 0 as its first entry.
    let bytes = fs::read(lab.path("disk.qcow2")).unwrap();
    let at = bytes.windows(4).position(|w| w == 0x6803_f857_u32.to_be_bytes()).unwrap() as u64;
    lab.patch("disk.qcow2", at + 9, &[5]);
    lab.refused("disk.qcow2", ErrorKind::Unsupported, &["dirty bit (bit 5), bit 63"]);
}

#[test]
fn impossible_headers_are_refused() {
    let lab = Lab::new(42);
    lab.img("create -q -f qcow2 -b base -F raw -u disk.qcow2 1G");
    let path = lab.path("disk.qcow2");
    let extension = be64(&path, 8) as usize;
    assert!(extension > 0);
    for (at, bytes, kind, word) in [
        (4, &4_u32.to_be_bytes()[..], ErrorKind::Unsupported, "version 4"),
        (20, &8_u32.to_be_bytes(), ErrorKind::Unsupported, "clusters of 2^8"),
        (20, &22_u32.to_be_bytes(), ErrorKind::Unsupported, "clusters of 2^22"),
        (24, &u64::MAX.to_be_bytes(), ErrorKind::Damaged, "impossible"),
        (24, &(1_u64 << 62).to_be_bytes(), ErrorKind::Damaged, "too small"),
        (32, &3_u32.to_be_bytes(), ErrorKind::Unsupported, "unknown method"),
        (36, &1_u32.to_be_bytes(), ErrorKind::Damaged, "L1 table of 1 entries"),
        (40, &1_u64.to_be_bytes(), ErrorKind::Damaged, "no cluster boundary"),
        (8, &u64::MAX.to_be_bytes(), ErrorKind::Damaged, "first cluster"),
        (16, &2000_u32.to_be_bytes(), ErrorKind::Damaged, "2000 bytes long"),
        (72, &8_u64.to_be_bytes(), ErrorKind::Damaged, "contradicts"),
        (104, &[1], ErrorKind::Damaged, "contradicts"),
        (100, &103_u32.to_be_bytes(), ErrorKind::Damaged, "103 bytes long"),
        (100, &(1_u32 << 20).to_be_bytes(), ErrorKind::Damaged, "1048576 bytes long"),
        (116, &u32::MAX.to_be_bytes(), ErrorKind::Damaged, "longer than the header"),
    ] {
        fs::copy(&path, lab.path("bad.qcow2")).unwrap();
        lab.patch("bad.qcow2", at, bytes);
        lab.refused("bad.qcow2", kind, &[word]);
    }
}

#[test]
fn images_that_were_not_closed_properly_are_read_with_a_note() {
    let mut lab = Lab::new(43);
    lab.img("create -q -f qcow2 -o lazy_refcounts=on disk.qcow2 8M");
    lab.io_and_crash("disk.qcow2", "write -P 5 1M 3M");
    assert_eq!(be64(&lab.path("disk.qcow2"), 72), 1, "QEMU did not mark it");
    let image = lab.check("disk.qcow2");
    assert!(image.members[0].info.notes[0].contains("not closed properly"));
    lab.patch("disk.qcow2", 72, &2_u64.to_be_bytes());
    let image = common::open(&lab.path("disk.qcow2")).unwrap();
    assert!(image.members[0].info.notes[0].contains("corrupt"));
}

/// Each bit of an entry that says something impossible spoils its cluster, and no other.
#[test]
fn impossible_entries_are_damage_and_spoil_no_others() {
    for (options, entry_size, bad) in [
        ("compat=1.1", 8, &[1 << 56, 1 << 61, 1 << 9, 1 << 1][..]),
        ("compat=0.10", 8, &[1, 1 << 9]),
        ("extended_l2=on", 16, &[1, 1 << 9]),
        ("data_file=x.data", 8, &[1 << 62, 1 << 16]),
    ] {
        let lab = Lab::new(44);
        lab.img(&format!("create -q -f qcow2 -o {options} disk.qcow2 1M"));
        lab.io("disk.qcow2", &["write -P 3 0 1M".to_owned()]);
        let path = lab.path("disk.qcow2");
        let l1 = be64(&path, 40);
        let l2 = be64(&path, l1 as usize) & 0x00ff_ffff_ffff_fe00;
        let entry_at = l2 + 4 * entry_size;
        let entry = be64(&path, entry_at as usize);
        for bits in bad {
            lab.patch("disk.qcow2", entry_at, &(entry ^ bits).to_be_bytes());
            let image = common::open(&path).unwrap();
            let mut bytes = vec![0; 256 << 10];
            image.disk.read_at(&mut bytes, 0).unwrap();
            assert!(bytes == vec![3; 256 << 10], "{options} {bits:#x}");
            let error = image.disk.read_at(&mut bytes, (256 << 10) + 5).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{options} {bits:#x}");
            assert!(error.to_string().contains("the L2 entry for byte 262149 of the disk"), "{error}");
            image.disk.read_at(&mut bytes, 320 << 10).unwrap();
        }
        if options == "extended_l2=on" {
            // A subcluster that is here and zeros, and one that is here without a cluster.
            lab.patch("disk.qcow2", entry_at, &entry.to_be_bytes());
            lab.patch("disk.qcow2", entry_at + 8, &[0, 0, 0, 1]);
            let read = |at| common::open(&path).unwrap().disk.read_at(&mut [0; 512], at).map_err(|e| e.kind());
            assert_eq!(read(256 << 10), Err(ErrorKind::Damaged));
            lab.patch("disk.qcow2", entry_at, &[0; 12]);
            assert_eq!(read(256 << 10), Err(ErrorKind::Damaged));
        }
        lab.patch("disk.qcow2", l1, &[0x40]);
        let error = common::open(&path).unwrap().disk.read_at(&mut [0; 512], 0).unwrap_err();
        assert!(error.to_string().contains("the L1 entry"), "{error}");
    }
}

#[test]
fn a_file_that_was_cut_off_is_damaged_from_there_on() {
    let lab = Lab::new(45);
    for pack in ["", "-c"] {
        lab.img("create -q -f raw disk.raw 8M");
        let mut random = Random(45);
        fs::write(lab.path("disk.raw"), random.bytes(8 << 20)).unwrap();
        lab.img(&format!("convert {pack} -f raw -O qcow2 disk.raw disk.qcow2"));
        let file = OpenOptions::new().write(true).open(lab.path("disk.qcow2")).unwrap();
        file.set_len(4 << 20).unwrap();
        let image = common::open(&lab.path("disk.qcow2")).unwrap();
        let mut bytes = vec![0; 1 << 20];
        assert!(image.disk.read_at(&mut bytes, 1 << 20).is_ok());
        assert_eq!(image.disk.read_at(&mut bytes, 6 << 20).unwrap_err().kind(), ErrorKind::Damaged);
    }
}

/// A header that claims the largest tables there are costs nothing.
#[test]
fn absurd_sizes_cost_nothing() {
    let lab = Lab::new(46);
    lab.img("create -q -f qcow2 disk.qcow2 1M");
    lab.patch("disk.qcow2", 20, &21_u32.to_be_bytes());
    lab.patch("disk.qcow2", 24, &(i64::MAX as u64).to_be_bytes());
    lab.patch("disk.qcow2", 36, &u32::MAX.to_be_bytes());
    lab.patch("disk.qcow2", 40, &0_u64.to_be_bytes());
    let started = Instant::now();
    let image = common::open(&lab.path("disk.qcow2")).unwrap();
    common::touch(&image);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn mutated_images_neither_panic_nor_hang_nor_eat_memory() {
    let mut lab = Lab::new(47);
    lab.img("create -q -f qcow2 plain.qcow2 20M");
    lab.img("create -q -f qcow2 -o extended_l2=on,cluster_size=16k,compression_type=zstd extended.qcow2 20M");
    lab.img("create -q -f qcow2 -o cluster_size=512 small.qcow2 20M");
    let mut images = Vec::new();
    for name in ["plain.qcow2", "extended.qcow2", "small.qcow2"] {
        lab.img(&format!("bitmap --add -g 64k {name} changes"));
        lab.scribble(name, 20 << 20, 30, true);
        lab.img(&format!("snapshot -c one {name}"));
        lab.scribble(name, 20 << 20, 10, true);
        images.push(fs::read(lab.path(name)).unwrap());
    }
    for real in ["ntfs/windows_volume.qcow2.zst", "qcow2/fat32.qcow2.zst"] {
        images.extend(common::real_image(real, lab.folder.path()).map(|path| fs::read(path).unwrap()));
    }
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let (mut opened, mut longest) = (0, Duration::ZERO);
    for round in 0..400 {
        let mut bytes = images[round % images.len()].clone();
        common::mutate(&mut bytes, &mut lab.random);
        let started = Instant::now();
        let file: Arc<dyn ReadAt> = Arc::new(bytes);
        if let Ok(image) = images::open("mutated", Arc::clone(&file), None, &images::gate::Alone) {
            common::touch(&image);
            opened += 1;
        }
        for range in qcow2::dirty_ranges(Arc::clone(&file), "changes").into_iter().flatten().take(1000) {
            let _ = range;
        }
        if let Ok(snapshot) = qcow2::open_snapshot(file, &images::gate::Alone, "1") {
            let _ = snapshot.layer.run_at(0, 1 << 30);
        }
        longest = longest.max(started.elapsed());
    }
    let peak = MEMORY.peak_usage() - before;
    println!("{opened} of 400 could be opened; the longest took {longest:?}, {} MiB at most", peak >> 20);
    assert!(opened > 100 && longest < Duration::from_secs(10));
    // The image itself, and a buffer of the reader's.
    assert!(peak < 160 << 20, "{peak} bytes");
}
