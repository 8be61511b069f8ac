//! Every kind of image that QEMU makes, and real ones.

use std::path::Path;

use blockdev::images::Format;

use super::*;

/// Options of `qemu-img create`, and whether such an image can have compressed clusters.
const KINDS: &[(&str, bool)] = &[
    ("compat=0.10", true),
    ("compat=0.10,cluster_size=512", true),
    ("compat=0.10,cluster_size=2M", true),
    ("compat=1.1", true),
    ("cluster_size=512", true),
    ("cluster_size=1k", true),
    ("cluster_size=4k", true),
    ("cluster_size=32k", true),
    ("cluster_size=2M", true),
    ("refcount_bits=1", true),
    ("refcount_bits=64", true),
    ("lazy_refcounts=on", true),
    ("preallocation=metadata", true),
    ("preallocation=falloc", true),
    ("preallocation=full", true),
    ("compression_type=zstd", true),
    ("compression_type=zstd,cluster_size=512", true),
    ("compression_type=zstd,cluster_size=2M", true),
    ("extended_l2=on,cluster_size=16k", true),
    ("extended_l2=on", true),
    ("extended_l2=on,cluster_size=2M,compression_type=zstd", true),
    ("extended_l2=on,preallocation=metadata", true),
    ("data_file=KIND.data", false),
    ("data_file=KIND.data,data_file_raw=on", false),
    ("data_file=KIND.data,extended_l2=on", false),
    ("data_file=KIND.data,preallocation=metadata,cluster_size=4k", false),
];

#[test]
fn images_written_at_random_read_as_qemu_reads_them() {
    let mut lab = Lab::new(1);
    for (i, (options, compressed)) in KINDS.iter().enumerate() {
        println!("{options}");
        // No size of a disk is a multiple of all cluster sizes; they end within subclusters.
        let size = (9 << 20) + 512 * lab.random.below(5000);
        let options = options.replace("KIND", &format!("kind{i}"));
        let name = format!("kind{i}.qcow2");
        lab.img(&format!("create -q -f qcow2 -o {options} {name} {size}"));
        lab.scribble(&name, size, 60, *compressed);
        let image = lab.check(&name);

        let info = &image.members[0].info;
        assert_eq!(info.format, Format::Qcow2);
        assert_eq!(info.virtual_size, size);
        assert_eq!(info.variant.starts_with("v2"), options.contains("compat=0.10"));
        assert_eq!(info.variant.contains("zstd"), options.contains("zstd"));
        assert_eq!(info.variant.contains("extended L2"), options.contains("extended_l2"));
        assert_eq!(info.variant.contains("external data file"), options.contains("data_file"));
        assert_eq!(info.variant.contains("(raw)"), options.contains("data_file_raw"));
        assert_eq!(info.cluster_size, Some(1 << be32(&lab.path(&name), 20)));
        assert_eq!(info.notes, Vec::<String>::new());
    }
}

#[test]
fn compressed_images_read_as_qemu_reads_them() {
    let mut lab = Lab::new(2);
    // The last cluster is cut, and the last piece of the file is not padded to a sector.
    lab.raw("disk.raw", (11 << 20) + 512 * 3);
    for compression in ["zlib", "zstd"] {
        for more in ["cluster_size=512", "cluster_size=4k", "cluster_size=64k", "cluster_size=2M", "extended_l2=on"] {
            println!("{compression} {more}");
            let options = format!("compression_type={compression},{more}");
            lab.img(&format!("convert -t unsafe -c -f raw -O qcow2 -o {options} disk.raw packed.qcow2"));
            let image = lab.check("packed.qcow2");
            let raw = HostFile::open(&lab.path("disk.raw")).unwrap();
            common::assert_same(&image.disk, &raw, &mut lab.random);
        }
    }
}

#[test]
fn an_empty_disk_is_empty() {
    let lab = Lab::new(3);
    lab.img("create -q -f qcow2 empty.qcow2 0");
    let image = common::open(&lab.path("empty.qcow2")).unwrap();
    assert_eq!(image.disk.size(), 0);
    assert_eq!(image.disk.read_at(&mut [0; 512], 0).unwrap(), 0);
    assert_eq!(image.disk.extent_at(0).unwrap(), None);
}

/// What no table has is one hole, found at once, however large it is.
#[test]
fn a_large_disk_opens_and_reads_without_walking_its_tables() {
    let lab = Lab::new(4);
    lab.img("create -q -f qcow2 large.qcow2 200T");
    lab.io("large.qcow2", &["write -P 7 150T 1M".to_owned(), "write -P 9 219902325489664 65536".to_owned()]);
    let counting = Arc::new(Counting { file: lab.file("large.qcow2"), reads: 0.into() });
    let opened = blockdev::images::qcow2::open(counting.clone(), &blockdev::images::gate::Alone).unwrap();
    let reads = || counting.reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!(reads() <= 2, "{} reads to open", reads());
    let disk = Disk::new(vec![opened.layer], blockdev::BlockSizes::CLASSIC).unwrap();
    let mut byte = [0];
    for (at, is) in [(0, 0), (150 << 40, 7), ((150 << 40) - 1, 0), ((150 << 40) + (1 << 20), 0), ((200 << 40) - 1, 9)] {
        disk.read_at(&mut byte, at).unwrap();
        assert_eq!(byte, [is], "byte {at}");
    }
    assert!(reads() <= 24, "{} reads for five bytes of the disk", reads());
}

#[test]
fn a_cluster_is_unpacked_once_for_many_reads() {
    let mut lab = Lab::new(6);
    for cluster_size in ["64k", "2M"] {
        lab.raw("disk.raw", 8 << 20);
        lab.img(&format!("convert -c -f raw -O qcow2 -o cluster_size={cluster_size} disk.raw disk.qcow2"));
        let counting = Arc::new(Counting { file: lab.file("disk.qcow2"), reads: 0.into() });
        let opened = blockdev::images::qcow2::open(counting.clone(), &blockdev::images::gate::Alone).unwrap();
        let clusters = opened.info.virtual_size / opened.info.cluster_size.unwrap();
        let disk = Disk::new(vec![opened.layer], blockdev::BlockSizes::CLASSIC).unwrap();
        for at in (0..disk.size()).step_by(4096) {
            disk.read_at(&mut [0; 4096], at).unwrap();
        }
        let reads = counting.reads.load(std::sync::atomic::Ordering::Relaxed);
        assert!(reads <= clusters + 8, "{reads} reads for {clusters} clusters");
    }
}

struct Counting {
    file: Arc<HostFile>,
    reads: std::sync::atomic::AtomicU64,
}

impl ReadAt for Counting {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> blockdev::Result<usize> {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.file.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64) -> blockdev::Result<Option<blockdev::Extent>> {
        self.file.extent_at(offset)
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<blockdev::MappedRun<'_>> {
        None
    }
}

/// A fully allocated image gives long runs: few reads, and few ranges for doors that copy without looking.
#[test]
fn clusters_that_lie_together_are_one_run() {
    let lab = Lab::new(5);
    for options in ["cluster_size=64k", "cluster_size=4k", "extended_l2=on", "data_file=full.data"] {
        lab.img(&format!("create -q -f qcow2 -o preallocation=full,{options} full.qcow2 64M"));
        let opened = blockdev::images::open_one(
            &(lab.file("full.qcow2") as Arc<dyn ReadAt>),
            None,
            &blockdev::images::gate::HostFolder::open(lab.folder.path()).unwrap(),
        );
        let layer = opened.unwrap().layer;
        let (mut at, mut runs) = (0, 0);
        while at < layer.size() {
            at += layer.run_at(at, 16 << 20).unwrap().len;
            runs += 1;
        }
        // Tables lie in between: with clusters of 4 KiB one for every 2 MiB.
        assert!(runs <= if options == "cluster_size=4k" { 40 } else { 8 }, "{options}: {runs} runs");
    }
}

#[test]
fn real_images_have_their_known_content() {
    use sha2::Digest;
    for (name, sha256) in [
        ("ntfs/windows_volume.qcow2.zst", "44abe9deca9658f331a2bdba2deb53192d04f35d157a1fb3ba0597b03f0524f2"),
        ("qcow2/fat32.qcow2.zst", "82bdd01b865e871107bcde56b94fe45619c34fc81d9af665140da3971d473be8"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = common::real_image(name, folder.path()) else { return };
        let image = common::open(Path::new(&path)).unwrap();
        let digest = sha2::Sha256::digest(read_all(&image.disk));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, sha256, "{name}");
    }
}
