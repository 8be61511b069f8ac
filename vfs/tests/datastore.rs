//! A datastore: its folder on the host, made, opened again, copied, broken off; and mounted.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::Command,
    sync::Arc,
};

use blockdev::{
    BlockDevice, BlockSizes, ErrorKind, Extent, MappedRun, ReadAt, Result,
    containers::Kind,
    overlay::{self, Overlay},
};
use vfs::{
    fuse::{MountOptions, mount},
    node::{Create, Node, OpenFile, SetAttributes, WritableDir},
    providers::datastore::{Datastore, Device, DiskSource, Settings},
};

const LEN: usize = 300_000;

struct Base;

impl ReadAt for Base {
    fn size(&self) -> u64 {
        LEN as u64
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        vec![0x55; LEN].read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        vec![0; LEN].extent_at(offset)
    }
    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Base {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

fn open(folder: &Path, names: &[&str], kind: Kind) -> Result<Datastore> {
    let disk = |name: &&str| DiskSource {
        name: (*name).to_owned(),
        identity: name.as_bytes().to_vec(),
        device: Device::Backup(Arc::new(Base)),
    };
    let disks: Vec<_> = names.iter().map(disk).collect();
    Datastore::open(folder, &disks, &Settings::new(kind))
}

fn file(store: &Datastore, name: &str) -> OpenFile {
    let Node::Dir(root) = store.root() else { panic!("a directory") };
    match root.lookup(name.as_bytes()).unwrap() {
        Some(Node::File(file)) => file.writable().unwrap().expect("it can be written"),
        _ => panic!("no file {name}"),
    }
}

fn in_root<T>(store: &Datastore, act: impl FnOnce(&dyn WritableDir) -> Result<T>) -> Result<T> {
    let Node::Dir(root) = store.root() else { panic!("a directory") };
    act(root.writable().expect("it can be written"))
}

fn refused(opened: Result<Datastore>, kind: ErrorKind, word: &str) {
    let error = opened.err().expect("refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(word), "{error}");
}

#[test]
fn a_folder_is_for_its_disks_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/store");
    let store = open(&path, &["disk0", "data"], Kind::VmdkFlat).unwrap();
    refused(open(&path, &["disk0", "data"], Kind::VmdkFlat), ErrorKind::Locked, "in use");
    drop(store);
    refused(open(&path, &["disk0"], Kind::VmdkFlat), ErrorKind::Invalid, "disk0, data");
    refused(open(&path, &["disk0", "data"], Kind::Qcow2), ErrorKind::Invalid, "qcow2");
    refused(open(folder.path(), &["disk0"], Kind::Raw), ErrorKind::Invalid, "empty folder");
    for name in ["", ".", "..", "a/b", ".hidden"] {
        refused(open(&folder.path().join("x"), &[name], Kind::Raw), ErrorKind::Invalid, "name");
    }
    refused(open(&folder.path().join("x"), &["a", "a"], Kind::Raw), ErrorKind::Invalid, "two disks");
    refused(open(&folder.path().join("x"), &["a"], Kind::VmdkStream), ErrorKind::Invalid, "streamOptimized");
    fs::write(path.join("datastore.json"), "{").unwrap();
    refused(open(&path, &["disk0", "data"], Kind::VmdkFlat), ErrorKind::Damaged, "datastore.json");
}

/// Making is begun again when it was broken off; before that nobody was served.
#[test]
fn made_again_when_it_was_broken_off() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), &["disk0"], Kind::Raw).unwrap());
    let record = folder.path().join("datastore.json");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("\"complete\": true", "\"complete\": false")).unwrap();
    fs::remove_file(folder.path().join("disks/disk0.place")).unwrap();
    let store = open(folder.path(), &["disk0"], Kind::Raw).unwrap();
    assert_eq!(file(&store, "disk0.raw").attributes().unwrap().size, LEN as u64);
    assert!(fs::read_to_string(&record).unwrap().contains("\"complete\": true"));
}

/// A copy that keeps hard links is as good; one that does not is refused instead of showing empty disks.
#[test]
fn copies() {
    let folder = tempfile::tempdir().unwrap();
    let (first, good, bad) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
    let store = open(&first, &["disk0"], Kind::Raw).unwrap();
    file(&store, "disk0.raw").write_at(b"written", 1000).unwrap();
    let set = SetAttributes::default();
    in_root(&store, |root| {
        let sub = root.make_dir(b"sub", &set)?;
        root.rename(b"disk0.raw", sub.attributes.ino, b"moved")?;
        root.create(b"own", &Create::New(set))
    })
    .unwrap();
    drop(store);
    for (to, how) in [(&good, "-a"), (&bad, "-r")] {
        assert!(Command::new("cp").arg(how).arg(&first).arg(to).status().unwrap().success());
    }
    let store = open(&good, &["disk0"], Kind::Raw).unwrap();
    let Node::Dir(root) = store.root() else { panic!("a directory") };
    let Some(Node::File(disk)) = root.walk(&[b"sub", b"moved"]).unwrap() else { panic!("the disk") };
    let mut read = [0; 9];
    disk.open().unwrap().read_at(&mut read, 999).unwrap();
    assert_eq!(&read, b"\x55written\x55");
    drop((store, root, disk));
    refused(open(&bad, &["disk0"], Kind::Raw), ErrorKind::Damaged, "hard links");
}

/// What clients removed can still be written by who has it open; nobody else finds it. Disks that are written elsewhere
/// are shown as what they are.
#[test]
fn removed_files_and_shared_disks() {
    let folder = tempfile::tempdir().unwrap();
    let options = overlay::Options::new("shared");
    let shared = Arc::new(Overlay::create(&folder.path().join("shared.qcow2"), Arc::new(Base), &options).unwrap());
    let source = |name: &str| DiskSource {
        name: name.to_owned(),
        identity: b"shared".to_vec(),
        device: Device::Writable(Arc::clone(&shared) as Arc<dyn blockdev::WriteAt>),
    };
    let path = folder.path().join("store");
    refused(Datastore::open(&path, &[source("a")], &Settings::new(Kind::VhdxDynamic)), ErrorKind::Invalid, "vhdx");
    let store = Datastore::open(&path, &[source("disk0")], &Settings::new(Kind::VmdkFlat)).unwrap();
    let disk = file(&store, "disk0-flat.vmdk");
    blockdev::WriteAt::write_at(shared.as_ref(), b"from elsewhere", 7).unwrap();
    let mut read = [0; 14];
    disk.read_at(&mut read, 7).unwrap();
    assert_eq!(&read, b"from elsewhere");
    in_root(&store, |root| root.create(b"own", &Create::New(SetAttributes::default())).map(drop)).unwrap();
    let own = file(&store, "own");
    in_root(&store, |root| root.remove_file(b"own").and(root.remove_file(b"disk0-flat.vmdk"))).unwrap();
    for open in [&own, &disk] {
        let update = open.write_at(b"late", 0).unwrap();
        assert_eq!(update.after.nlink, 0);
        open.sync().unwrap();
    }
    assert!(!store.disks()[0].visible);
    let mut read = [0; 4];
    ReadAt::read_at(shared.as_ref(), &mut read, 0).unwrap();
    assert_eq!(&read, b"late");
    // What it took comes back when nobody has it open any more.
    let descriptor = file(&store, "disk0.vmdk").attributes().unwrap().size;
    assert_eq!(store.files_used(), descriptor + 4);
    drop(own);
    assert_eq!(store.files_used(), descriptor);
}

/// A container of a fixed layout over a disk that is written elsewhere, too: the disk's bytes are the same on both sides, what
/// is around them is the file's own, and both are there when it is opened again.
#[test]
fn a_fixed_container_around_a_shared_disk() {
    for (kind, at) in [(Kind::VhdxFixed, 4 << 20), (Kind::VhdFixed, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let under = folder.path().join("shared.qcow2");
        let options = overlay::Options::new("shared");
        let mut shared = Arc::new(Overlay::create(&under, Arc::new(Base), &options).unwrap());
        let open = |shared: &Arc<Overlay>| {
            let device = Device::Writable(Arc::clone(shared) as Arc<dyn blockdev::WriteAt>);
            let source = DiskSource { name: "disk0".to_owned(), identity: b"shared".to_vec(), device };
            Datastore::open(&folder.path().join("store"), &[source], &Settings::new(kind)).unwrap()
        };
        let name = format!("disk0.{}", kind.extension());
        let store = open(&shared);
        let image = file(&store, &name);
        let size = image.attributes().unwrap().size;
        let before = {
            let mut bytes = vec![0; size as usize];
            assert_eq!(image.read_at(&mut bytes, 0).unwrap(), bytes.len());
            bytes
        };
        assert!(before[at..at + LEN].iter().all(|&b| b == 0x55), "{kind}");
        // Over both ends of the disk.
        let end = at + LEN;
        if at > 0 {
            image.write_at(&[0xaa; 2000], at as u64 - 1000).unwrap();
        }
        image.write_at(&[0xbb; 600], end as u64 - 300).unwrap();
        blockdev::WriteAt::write_at(shared.as_ref(), b"from elsewhere", 5000).unwrap();
        let too_far = image.write_at(&[0], size).unwrap_err();
        assert_eq!(too_far.kind(), ErrorKind::Invalid, "{too_far}");
        image.sync().unwrap();
        let mut disk = vec![0; LEN];
        shared.read_at(&mut disk, 0).unwrap();
        let mut wanted = vec![0x55; LEN];
        wanted[..if at > 0 { 1000 } else { 0 }].fill(0xaa);
        wanted[LEN - 300..].fill(0xbb);
        wanted[5000..5014].copy_from_slice(b"from elsewhere");
        assert!(disk == wanted, "{kind}");
        drop((image, store));
        Arc::try_unwrap(shared).ok().expect("nobody else has it").close().unwrap();
        shared = Arc::new(Overlay::open(&under, Arc::new(Base), &options).unwrap());
        let store = open(&shared);
        let mut after = before;
        after[at..end].copy_from_slice(&wanted);
        after[at.saturating_sub(1000)..at].fill(0xaa);
        after[end..end + 300].fill(0xbb);
        let mut bytes = vec![0; size as usize];
        file(&store, &name).read_at(&mut bytes, 0).unwrap();
        assert!(bytes == after, "{kind}");
    }
}

/// What programs do with files, through the kernel; and again after the mount and the datastore were opened anew.
#[test]
fn mounted_and_written() {
    if OpenOptions::new().read(true).write(true).open("/dev/fuse").is_err() {
        eprintln!("SKIPPED: a mounted datastore: /dev/fuse cannot be used here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("mnt");
    fs::create_dir(&at).unwrap();
    let mut options = MountOptions::default();
    options.allow_other = Some(rustix::process::geteuid().is_root());
    let store = open(&folder.path().join("store"), &["disk0"], Kind::Raw).unwrap();
    let mounted = mount(store.root(), &at, &options).unwrap();

    let disk = OpenOptions::new().read(true).write(true).open(at.join("disk0.raw")).unwrap();
    disk.write_all_at(b"through the kernel", 4090).unwrap();
    let too_far = disk.write_all_at(b"xx", LEN as u64 - 1).unwrap_err();
    assert_eq!(too_far.raw_os_error(), Some(27), "EFBIG: {too_far}");
    disk.sync_all().unwrap();
    fs::create_dir(at.join("vm")).unwrap();
    let mut own = File::create_new(at.join("vm/lock")).unwrap();
    let again = File::create_new(at.join("vm/lock")).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    own.write_all(b"line one\n").unwrap();
    fs::rename(at.join("vm/lock"), at.join("moved")).unwrap();
    own.write_all(b"line two\n").unwrap();
    own.sync_all().unwrap();
    assert_eq!(fs::read(at.join("moved")).unwrap(), b"line one\nline two\n");
    fs::hard_link(at.join("moved"), at.join("vm/linked")).unwrap();
    assert_eq!(fs::metadata(at.join("moved")).unwrap().nlink(), 2);
    std::os::unix::fs::symlink("../moved", at.join("vm/link")).unwrap();
    assert_eq!(fs::read(at.join("vm/link")).unwrap().len(), 18);
    let not_empty = fs::remove_dir(at.join("vm")).unwrap_err();
    assert_eq!(not_empty.kind(), io::ErrorKind::DirectoryNotEmpty);
    own.set_len(4).unwrap();
    assert_eq!(fs::read(at.join("vm/linked")).unwrap(), b"line");
    fs::remove_file(at.join("moved")).unwrap();
    fs::remove_file(at.join("vm/linked")).unwrap();
    own.write_all_at(b"gone", 0).unwrap();
    let mut read = Vec::new();
    own.seek(SeekFrom::Start(0)).unwrap();
    own.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"gone", "who has it open goes on with it");
    assert_eq!(own.metadata().unwrap().len(), 4);
    fs::rename(at.join("disk0.raw"), at.join("vm/disk")).unwrap();
    disk.write_all_at(b"T", 4090).unwrap();
    let room = rustix::fs::statvfs(&at).unwrap();
    assert!(room.f_bavail > 0 && room.f_favail > 0);
    drop((own, disk, mounted));
    drop(store);

    let store = open(&folder.path().join("store"), &["disk0"], Kind::Raw).unwrap();
    let mounted = mount(store.root(), &at, &options).unwrap();
    let bytes = fs::read(at.join("vm/disk")).unwrap();
    assert_eq!(&bytes[4089..4110], b"\x55Through the kernel\x55\x55");
    assert_eq!(bytes.len(), LEN);
    let mut names: Vec<_> = fs::read_dir(at.join("vm")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["disk", "link"]);
    assert!(fs::read_dir(&at).unwrap().count() == 1);
    fs::remove_file(at.join("vm/disk")).unwrap();
    assert!(!store.disks()[0].visible);
    drop(mounted);
}
