//! The NFS server over a datastore: everything that changes something, call by call.

#[path = "common/changes.rs"]
mod changes;
#[path = "common/rpc.rs"]
mod rpc;

use std::{net::SocketAddr, path::Path, sync::Arc};

use blockdev::{BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, Result, containers::Kind};
use changes::{Told, named, nothing_set, set, told, with};
use exporters::nfs::{Address, Config, Export, ExportOptions, Listener, Server, Sockets, Squash};
use rpc::{Client, NFS, Results, Words};
use vfs::providers::datastore::{Datastore, Device, DiskSource, Settings};

const LEN: usize = 3 << 20;

/// A disk in memory.
struct Base(Vec<u8>);

impl ReadAt for Base {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.0.extent_at(offset)
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

fn content() -> Vec<u8> {
    (0..LEN).map(|i| (i / 512 % 253) as u8).collect()
}

/// A datastore, and a server of it. Dropped together they are as after an orderly end.
struct Store {
    _server: Server,
    datastore: Datastore,
    address: SocketAddr,
}

fn open_as(folder: &Path, settings: &Settings) -> Result<Datastore> {
    let device = Device::Backup(Arc::new(Base(content())));
    let disk = DiskSource { name: "disk0".into(), identity: b"the disk".to_vec(), device };
    Datastore::open(folder, &[disk], settings)
}

fn serve_with(folder: &Path, settings: &Settings, options: ExportOptions) -> Store {
    let datastore = open_as(folder, settings).unwrap();
    let export = Export::new(datastore.root(), ExportOptions { writable: true, ..options }).unwrap();
    let sockets = Sockets { nfs: Listener::tcp("127.0.0.1:0").unwrap(), ..Sockets::default() };
    let server = Server::start(Config::default(), export, sockets).unwrap();
    let Address::Tcp(address) = server.addresses()[0] else { unreachable!() };
    Store { _server: server, datastore, address }
}

fn serve(folder: &Path) -> Store {
    serve_with(folder, &Settings::new(Kind::VmdkVmfs), ExportOptions::default())
}

fn connected(store: &Store) -> (Client, Vec<u8>) {
    let mut client = Client::new(store.address);
    let root = client.mount("/").unwrap();
    (client, root)
}

/// A change is told with what was before, and that is what the change before it left.
fn check_chain(steps: &[Told]) {
    for pair in steps.windows(2) {
        assert_eq!(pair[0].after.unwrap().0, pair[1].before.unwrap(), "{steps:?}");
    }
}

/// Names: made in three ways, linked, moved, removed; each directory tells what it was before.
#[test]
fn names() {
    let folder = tempfile::tempdir().unwrap();
    let store = serve(folder.path());
    let (mut client, root) = connected(&store);
    let (file, first) = client.make(8, &with(named(&root, b"vm.vmx").u32(1), &set(Some(0o600), None)));
    let file = file.unwrap();
    let (again, second) = client.make(8, &with(named(&root, b"vm.vmx").u32(1), &nothing_set()));
    assert_eq!(again, Err(17), "guarded");
    assert_eq!(second.before, None, "nothing was changed");
    let (again, third) = client.make(8, &with(named(&root, b"vm.vmx").u32(0), &nothing_set()));
    assert_eq!(again, Ok(file.clone()), "unchecked");
    let lock = client.create_exclusive(&root, b".lck-1", 0x1234_5678_9abc_def0).unwrap();
    assert_eq!(client.create_exclusive(&root, b".lck-1", 0x1234_5678_9abc_def0), Ok(lock), "asked again");
    assert_eq!(client.create_exclusive(&root, b".lck-1", 0x1234_5678_0000_0000), Err(17), "somebody else");
    assert_eq!(client.create_exclusive(&root, b"disk0-flat.vmdk", 1), Err(17));
    let (dir, fourth) = client.make(9, &with(named(&root, b"logs"), &nothing_set()));
    let dir = dir.unwrap();
    check_chain(&[first, third]);
    assert!(fourth.before.is_some() && fourth.after.is_some());
    let (link, _) =
        client.make(10, &with(with(named(&root, b"link"), &nothing_set()), &Words::default().bytes(b"/etc")));
    let link = link.unwrap();
    assert_eq!(Results(&client.nfs(5, &Words::default().bytes(&link))).u32(), 0);
    assert_eq!(client.create(&link, b"x"), Err(20), "a link is followed by clients only");
    assert_eq!(client.lookup(&link, b"passwd"), Err(20));
    let (fifo, _) = client.make(11, &with(named(&root, b"fifo").u32(7), &nothing_set()));
    assert_eq!(fifo, Err(10004));

    for (name, status) in [
        (&b"."[..], 17),
        (b"..", 17),
        (b"a/b", 22),
        (b"../../outside", 22),
        (b"", 22),
        (b"nul\0", 22),
        (&[b'x'; 256], 63),
    ] {
        assert_eq!(client.create(&root, name), Err(status), "{}", name.escape_ascii());
        assert_eq!(client.make(9, &with(named(&root, name), &nothing_set())).0, Err(status));
        assert_ne!(client.remove(12, &root, name).0, 0);
        assert_ne!(client.rename((&root, b"vm.vmx"), (&root, name)), 0);
    }
    let linked = client.nfs(15, &with(Words::default().bytes(&file), &named(&dir, b"second")));
    assert_eq!(Results(&linked).u32(), 0);
    assert_eq!(client.lookup(&dir, b"second"), Ok(file.clone()), "one file has one handle, wherever it is found");
    assert_eq!(client.remove(13, &root, b"logs").0, 66, "not empty");
    assert_eq!(client.remove(12, &root, b"logs").0, 21);
    assert_eq!(client.remove(13, &root, b"vm.vmx").0, 20);
    assert_eq!(client.remove(12, &root, b"nothing").0, 2);
    assert_eq!(client.rename((&root, b"logs"), (&root, b"vm.vmx")), 17, "a directory for a file");
    assert_eq!(client.rename((&root, b"logs"), (&dir, b"self")), 22, "into itself");
    assert_eq!(client.rename((&root, b"vm.vmx"), (&dir, b"second")), 0, "two names of one file stay");
    assert_eq!(client.remove(12, &dir, b"second").0, 0);
    assert!(client.getattr(&file).is_ok(), "it has another name");
    assert_eq!(client.rename((&root, b"vm.vmx"), (&dir, b"moved")), 0);
    assert!(client.write(&file, 0, b"still the same file", 2).is_ok());
    let up = client.lookup(&dir, b"..").unwrap();
    assert_eq!(up, root);
    assert_eq!(client.remove(12, &dir, b"moved").0, 0);
    assert_eq!(client.getattr(&file), Err(70));
    assert_eq!(client.write(&file, 0, b"x", 2).unwrap_err(), 70);
    assert_eq!(client.read(&file, 0, 1), Err(70));
    assert_eq!(client.remove(13, &root, b"logs").0, 0);
    assert_eq!(client.create(&dir, b"x"), Err(70));
}

/// The disk: written, made durable, moved and removed; over restarts the handle is good, and the backup is as it was.
#[test]
fn a_disk_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let store = serve(folder.path());
    let (mut client, root) = connected(&store);
    let descriptor = client.lookup(&root, b"disk0.vmdk").unwrap();
    let (text, _) = client.read(&descriptor, 0, 4096).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("createType=\"vmfs\"") && text.contains("disk0-flat.vmdk"), "{text}");
    let disk = client.lookup(&root, b"disk0-flat.vmdk").unwrap();
    assert_eq!(client.read(&disk, 1 << 20, 1 << 20).unwrap().0, content()[1 << 20..2 << 20]);
    let steps = [
        client.write(&disk, 4096, &[7; 10_000], 0).unwrap(),
        client.write(&disk, 1 << 20, &vec![9; 1 << 20], 1).unwrap(),
        client.write(&disk, LEN as u64 - 3, b"end", 2).unwrap(),
    ];
    assert_eq!(steps.each_ref().map(|(_, how, _)| *how), [0, 2, 2]);
    check_chain(&steps.each_ref().map(|(told, ..)| told.clone()));
    let verifier = client.commit(&disk).unwrap();
    assert!(steps.iter().all(|(.., v)| *v == verifier));
    assert_eq!(client.write(&disk, LEN as u64 - 2, b"end", 0).unwrap_err(), 27, "a disk does not grow");
    assert_eq!(client.write(&disk, u64::MAX - 1, b"end", 0).unwrap_err(), 27);
    assert_eq!(client.setattr(&disk, &set(None, Some(1 << 40)), None).0, 27);
    let dir = client.make(9, &with(named(&root, b"vm"), &nothing_set())).0.unwrap();
    assert_eq!(client.rename((&root, b"disk0-flat.vmdk"), (&dir, b"moved.vmdk")), 0);
    assert_eq!(client.write(&disk, 0, b"after the move", 2).unwrap().1, 2);
    let mut wanted = content();
    wanted[4096..14_096].fill(7);
    wanted[1 << 20..2 << 20].fill(9);
    wanted[LEN - 3..].copy_from_slice(b"end");
    wanted[..14].copy_from_slice(b"after the move");
    let own = client.create(&dir, b"nvram").unwrap();
    client.write(&own, 100, b"state", 2).unwrap();
    let status = &store.datastore.disks()[0];
    assert!(status.written > 1 << 20 && status.read >= 1 << 20 && status.visible, "{status:?}");
    drop(store);

    let store = serve(folder.path());
    let (mut client, root) = connected(&store);
    assert_ne!(client.commit(&disk).unwrap(), verifier, "what was not durable may be lost");
    let read: Vec<u8> = (0..3).flat_map(|n| client.read(&disk, n << 20, 1 << 20).unwrap().0).collect();
    assert!(read == wanted);
    assert_eq!(client.lookup(&dir, b"moved.vmdk"), Ok(disk.clone()));
    assert_eq!(client.lookup(&root, b"disk0-flat.vmdk"), Err(2));
    assert_eq!(client.read(&own, 0, 1000).unwrap().0, [&[0; 100][..], b"state"].concat());
    // What is cut off is gone, also when it is made longer again.
    assert_eq!(client.setattr(&disk, &set(None, Some(5000)), None).0, 0);
    assert_eq!(client.read(&disk, 4096, 10_000).unwrap(), (vec![7; 904], true));
    assert_eq!(client.setattr(&disk, &set(None, Some(LEN as u64)), None).0, 0);
    wanted[5000..].fill(0);
    assert_eq!(client.remove(12, &dir, b"moved.vmdk").0, 0);
    assert_eq!(client.getattr(&disk), Err(70));
    assert!(!store.datastore.disks()[0].visible);
    drop(store);

    let store = serve(folder.path());
    let (mut client, _) = connected(&store);
    assert_eq!(client.getattr(&disk), Err(70), "removed is removed");
    assert!(folder.path().join("disks/disk0.qcow2").exists(), "what was written is kept");
    drop(store);
    let other = Settings::new(Kind::Raw);
    let refused = open_as(folder.path(), &other).err().unwrap().to_string();
    assert!(refused.contains("vmdk") && refused.contains("raw"), "{refused}");
}

/// A container is a file that can grow.
#[test]
fn a_container_grows() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(Kind::Qcow2);
    let store = serve_with(folder.path(), &settings, ExportOptions::default());
    let (mut client, root) = connected(&store);
    let disk = client.lookup(&root, b"disk0.qcow2").unwrap();
    let (head, _) = client.read(&disk, 0, 4).unwrap();
    assert_eq!(head, b"QFI\xfb");
    let (told, ..) = client.write(&disk, 10 << 20, &[5; 100_000], 0).unwrap();
    assert_eq!(told.after.unwrap().0.0, (10 << 20) + 100_000);
    assert_eq!(client.read(&disk, 9 << 20, 10).unwrap().0, [0; 10]);
    client.commit(&disk).unwrap();
    drop(store);
    let store = serve_with(folder.path(), &settings, ExportOptions::default());
    let (mut client, _) = connected(&store);
    assert_eq!(client.read(&disk, (10 << 20) + 99_990, 100).unwrap(), (vec![5; 10], true));
}

/// A call that is sent again is answered as before, on whatever connection, and not done again; a guard is kept.
#[test]
fn asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = serve(folder.path());
    let (mut client, root) = connected(&store);
    let mut other = Client::new(store.address);
    client.create(&root, b"a").unwrap();
    let dir = client.make(9, &with(named(&root, b"d"), &nothing_set())).0.unwrap();
    for (procedure, arguments) in [
        (8, with(named(&root, b"new").u32(1), &nothing_set())),
        (9, with(named(&root, b"newdir"), &nothing_set())),
        (14, with(named(&root, b"a"), &named(&dir, b"b"))),
        (12, named(&dir, b"b")),
        (13, named(&root, b"d")),
    ] {
        let message = client.message(NFS, 3, procedure, &arguments);
        client.send(&message);
        let first = client.receive().unwrap();
        assert_eq!(Results(&first[24..]).u32(), 0, "procedure {procedure}");
        client.send(&message);
        assert_eq!(client.receive().unwrap(), first, "procedure {procedure}");
        other.send(&message);
        assert_eq!(other.receive().unwrap(), first, "procedure {procedure}");
        // A new call is a new call.
        assert_ne!(Results(&client.nfs(procedure, &arguments)).u32(), 0, "procedure {procedure}");
    }
    let file = client.create(&root, b"guarded").unwrap();
    let (status, changed) = client.setattr(&file, &set(Some(0o600), None), None);
    assert_eq!(status, 0);
    let ctime = changed.after.unwrap().0.2;
    assert_eq!(client.setattr(&file, &set(None, Some(7)), Some(ctime ^ 1)).0, 10002);
    assert_eq!(client.setattr(&file, &set(None, Some(7)), Some(ctime)).0, 0);
    assert_eq!(client.read(&file, 0, 100).unwrap().0, [0; 7]);
}

/// Users: the mode of a directory decides, what is made is its maker's, root may be somebody else.
#[test]
fn users() {
    let folder = tempfile::tempdir().unwrap();
    let store = serve(folder.path());
    let (mut root, top) = connected(&store);
    let mut user = Client::new(store.address);
    user.user = (1000, 100);
    assert_eq!(user.create(&top, b"x"), Err(13));
    assert_eq!(user.remove(12, &top, b"disk0.vmdk").0, 13);
    let disk = root.lookup(&top, b"disk0-flat.vmdk").unwrap();
    assert_eq!(user.write(&disk, 0, b"x", 0).unwrap_err(), 13);
    let access = |client: &mut Client, handle: &[u8]| {
        let reply = client.nfs(4, &Words::default().bytes(handle).u32(0x3f));
        let mut reply = Results(&reply);
        assert_eq!(reply.u32(), 0);
        reply.attributes().unwrap();
        reply.u32()
    };
    assert_eq!(access(&mut root, &top), 0x1f);
    assert_eq!(access(&mut root, &disk), 0x0d);
    assert_eq!(access(&mut user, &disk), 0);
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: files of other users need root");
        return;
    }
    let open = root.make(9, &with(named(&top, b"open"), &set(Some(0o1777), None))).0.unwrap();
    let own = user.create(&open, b"own").unwrap();
    user.write(&own, 0, b"mine", 2).unwrap();
    let exclusive = user.create_exclusive(&open, b"exclusive", 7).unwrap();
    assert_eq!(user.setattr(&exclusive, &set(Some(0o6755), None), None).0, 0, "it is the user's");
    assert_eq!(user.setattr(&own, &Words::default().u32(0).u32(1).u32(0).u32(0).u32(0).u32(0).u32(0), None).0, 1);
    let mut third = Client::new(store.address);
    third.user = (1001, 100);
    assert_eq!(third.remove(12, &open, b"own").0, 1, "the sticky bit");
    assert_eq!(third.setattr(&own, &set(Some(0o777), None), None).0, 1);
    assert_eq!(third.write(&own, 0, b"x", 0).unwrap_err(), 13);
    drop(store);

    let options = ExportOptions { squash: Squash::Root(1000, 100), ..ExportOptions::default() };
    let store = serve_with(folder.path(), &Settings::new(Kind::VmdkVmfs), options);
    let (mut squashed, top) = connected(&store);
    assert_eq!(squashed.create(&top, b"x"), Err(13));
    assert!(squashed.write(&own, 0, b"mine", 2).is_ok(), "root is the user");
    let options = ExportOptions { ignore_permissions: true, ..ExportOptions::default() };
    drop(store);
    let store = serve_with(folder.path(), &Settings::new(Kind::VmdkVmfs), options);
    let mut user = Client::new(store.address);
    user.user = (1000, 100);
    assert!(user.create(&top, b"x").is_ok());
}

/// A bound that is reached is told as no space, and what is there stays.
#[test]
fn quotas() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(Kind::Raw);
    settings.files_quota = Some(100_000);
    settings.overlay_quota = Some(1 << 20);
    let store = serve_with(folder.path(), &settings, ExportOptions::default());
    let (mut client, root) = connected(&store);
    let file = client.create(&root, b"swap").unwrap();
    assert_eq!(client.setattr(&file, &set(None, Some(100_001)), None).0, 28);
    assert_eq!(client.setattr(&file, &set(None, Some(90_000)), None).0, 0);
    assert_eq!(client.write(&file, 99_990, &[1; 20], 2).unwrap_err(), 28);
    assert!(client.write(&file, 80_000, &[1; 20_000], 2).is_ok());
    let other = client.create(&root, b"other").unwrap();
    assert_eq!(client.write(&other, 0, b"x", 2).unwrap_err(), 28);
    let space = |client: &mut Client| {
        let reply = client.nfs(18, &Words::default().bytes(&root));
        let mut reply = Results(&reply);
        assert_eq!(reply.u32(), 0);
        reply.attributes().unwrap();
        (reply.u64(), reply.u64(), reply.u64())
    };
    assert_eq!(space(&mut client), (100_000, 0, 0));
    assert_eq!(client.remove(12, &root, b"swap").0, 0);
    assert_eq!(space(&mut client).1, 100_000);
    assert!(client.write(&other, 0, b"x", 2).is_ok());
    let disk = client.lookup(&root, b"disk0.raw").unwrap();
    let mut written = 0;
    let refused = loop {
        match client.write(&disk, written, &vec![3; 64 << 10], 2) {
            Ok(_) => written += 64 << 10,
            Err(status) => break status,
        }
    };
    assert_eq!(refused, 28);
    assert!(written > 0 && written < LEN as u64);
    let (read, _) = client.read(&disk, 0, written as u32).unwrap();
    assert!(read.iter().all(|&byte| byte == 3), "what was acknowledged is there");
    assert_eq!(client.read(&disk, 2 << 20, 512).unwrap().0, content()[2 << 20..(2 << 20) + 512]);
}

/// Arguments that make no sense are told so, whatever is asked for; then everything still works.
#[test]
fn arguments_that_make_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let store = serve(folder.path());
    let (mut client, root) = connected(&store);
    let disk = client.lookup(&root, b"disk0-flat.vmdk").unwrap();
    for procedure in [2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 21] {
        for arguments in [
            Words::default(),
            Words::default().bytes(&root),
            Words::default().u32(u32::MAX),
            Words::default().bytes(&[1; 65]),
            Words::default().bytes(&disk).u32(9),
        ] {
            client.call_for(4, [NFS, 3, procedure], &arguments);
        }
    }
    // A count that is more than came, a way of writing and of creating that there is not.
    let write = |count: u32, how: u32| Words::default().bytes(&disk).u64(0).u32(count).u32(how).bytes(b"four");
    client.call_for(4, [NFS, 3, 7], &write(5, 0));
    client.call_for(4, [NFS, 3, 7], &write(4, 3));
    client.call_for(4, [NFS, 3, 8], &with(named(&root, b"x").u32(3), &nothing_set()));
    client.call_for(4, [NFS, 3, 2], &with(Words::default().bytes(&root), &set(None, None)).u32(2));
    // More than may be written at once: not all of it was kept.
    let long = vec![1; (1 << 20) + (16 << 10)];
    client.call_for(4, [NFS, 3, 7], &Words::default().bytes(&disk).u64(0).u32(long.len() as u32).u32(2).bytes(&long));
    // A few of many: the same bytes as before.
    let reply = client.nfs(7, &write(3, 2));
    let mut reply = Results(&reply);
    assert_eq!(reply.u32(), 0);
    told(&mut reply);
    assert_eq!(reply.u32(), 3);
    assert_eq!(client.read(&disk, 0, 4).unwrap().0, [&b"fou"[..], &content()[3..4]].concat());
    for handle in [&root[..], &client.lookup(&root, b"disk0.vmdk").unwrap()] {
        assert_ne!(client.setattr(handle, &set(None, Some(u64::MAX)), None).0, 0);
    }
    assert_eq!(client.commit(&root), Err(21));
    assert_eq!(client.write(&root, 0, b"x", 0).unwrap_err(), 21);
    assert_eq!(client.create(&disk, b"x"), Err(20));
}
