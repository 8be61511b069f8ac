//! VMDKs of which header and table bytes were changed: an answer within seconds, in little memory, and no panic.

mod common;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use blockdev::{ReadAt, images};
use common::{Folder, Random, mutate, real_image, run, touch, write_sparse};
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK_ALLOC: PeakAlloc = PeakAlloc;

const MUTATIONS: u64 = 400;
/// For one image. Reading 64 MiB of a compressed one takes most of it.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes beyond the image itself.
const MEMORY_MAX: usize = 64 << 20;

/// A disk: the file that is opened, and those beside it.
struct Victim {
    name: &'static str,
    files: Vec<(String, Vec<u8>)>,
}

fn victims(folder: &Path) -> Vec<Victim> {
    let mut random = Random(20);
    let raw = folder.join("disk.raw");
    write_sparse(&raw, 40 << 20, &mut random);
    let mut victims = Vec::new();
    for kind in ["monolithicSparse", "streamOptimized", "twoGbMaxExtentSparse", "monolithicFlat"] {
        let beside = folder.join(kind);
        std::fs::create_dir(&beside).unwrap();
        let image = beside.join("disk.vmdk");
        let options = format!("subformat={kind}");
        let paths = [raw.to_str().unwrap(), image.to_str().unwrap()];
        run(
            "qemu-img",
            ["convert", "-t", "unsafe", "-f", "raw", "-O", "vmdk", "-o", &options].into_iter().chain(paths),
        );
        let files = std::fs::read_dir(beside).unwrap().map(Result::unwrap);
        let mut files: Vec<_> =
            files.map(|f| (f.file_name().into_string().unwrap(), std::fs::read(f.path()).unwrap())).collect();
        files.sort_by_key(|(name, _)| name != "disk.vmdk");
        victims.push(Victim { name: kind, files });
    }
    for (name, packed) in [
        ("COWD", "vmdk/ext2.cowd.zst"),
        ("qemu's", "vmdk/ext2.vmdk.zst"),
        ("version 3", "vmdk/iotest-version3.vmdk.bz2"),
        ("afl9", "vmdk/afl9.vmdk.bz2"),
    ] {
        if let Some(path) = real_image(packed, folder) {
            victims.push(Victim { name, files: vec![("disk.vmdk".to_owned(), std::fs::read(path).unwrap())] });
        }
    }
    victims
}

/// One test, so that nobody else allocates meanwhile.
#[test]
fn hundreds_of_mutations() {
    let folder = tempfile::tempdir().unwrap();
    for victim in victims(folder.path()) {
        let mut random = Random(21);
        let mut opened = 0;
        for number in 0..MUTATIONS {
            let mut files = victim.files.clone();
            let target = random.below(files.len() as u64) as usize;
            mutate(&mut files[target].1, &mut random);
            let main: Arc<dyn ReadAt> = Arc::new(files[0].1.clone());
            let beside = files.into_iter().map(|(name, bytes)| (name, Arc::new(bytes) as Arc<dyn ReadAt>));
            let neighbours = Folder(beside.collect());
            let (start, before) = (Instant::now(), PEAK_ALLOC.current_usage());
            PEAK_ALLOC.reset_peak_usage();
            if let Ok(image) = images::open("disk.vmdk", main, None, &neighbours) {
                opened += 1;
                touch(&image);
            }
            let (took, used) = (start.elapsed(), PEAK_ALLOC.peak_usage().saturating_sub(before));
            assert!(took < TIME_MAX, "{} {number}: {took:?}", victim.name);
            assert!(used < MEMORY_MAX, "{} {number}: {used} bytes", victim.name);
        }
        println!("{}: {opened} of {MUTATIONS} opened", victim.name);
        assert!(opened > 0 || victim.name == "afl9", "{}: no mutation got past opening", victim.name);
    }
}
