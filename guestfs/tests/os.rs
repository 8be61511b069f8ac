//! Who a guest is: systems made of a few files, on volumes as surveys find them, and on disks that stock tools made.
#![allow(missing_docs)]

mod common;
mod memory;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use blockdev::{
    BlockDevice,
    partitions::{Content, Disk, FsKind, PartitionKind, Scheme, Volume, survey},
};
use guestfs::{
    FileSystem,
    os::{Family, Firmware, System, identify},
    resolve::View,
};
use memory::Memory;

fn disk(name: &str, id: &str) -> Disk {
    let (name, id) = (name.to_owned(), Some(id.to_owned()));
    Disk { name, scheme: Scheme::Gpt, id, sector_size: 512, notes: Vec::new() }
}

/// A partition of disk `disk` at byte `start`.
fn partition(disk: &str, name: &str, start: u64, uuid: &str) -> Volume {
    Volume { start: Some(start), disks: vec![disk.to_owned()], uuid: Some(uuid.to_owned()), ..assembled(name) }
}

/// A logical volume or an array.
fn assembled(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        disks: Vec::new(),
        scheme: Scheme::Gpt,
        start: None,
        size: 1 << 30,
        kind: None,
        active: false,
        label: None,
        uuid: None,
        content: Some(Content { kind: FsKind::Ext4, label: None, uuid: None }),
        device: None,
        encryption: None,
        notes: Vec::new(),
    }
}

fn system(disks: &[Disk], volumes: &[(Volume, Memory)]) -> Option<System> {
    let volumes: Vec<(&Volume, Arc<dyn FileSystem>)> =
        volumes.iter().map(|(volume, fs)| (volume, Arc::new(fs.clone()) as Arc<dyn FileSystem>)).collect();
    identify(disks, &volumes)
}

/// Path, volume and subdirectory of the mounts.
fn mounts(system: &System) -> Vec<(String, usize, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    system.mounts.iter().map(|m| (text(&m.path), m.volume, text(&m.subdirectory))).collect()
}

fn expected(mounts: &[(&str, usize, &str)]) -> Vec<(String, usize, String)> {
    mounts.iter().map(|(path, volume, subdirectory)| ((*path).into(), *volume, (*subdirectory).into())).collect()
}

fn elf(machine: u8) -> Vec<u8> {
    let mut program = b"\x7fELF\x02\x01".to_vec();
    program.resize(18, 0);
    program.extend([machine, 0]);
    program.resize(64, 0);
    program
}

const DEBIAN: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
    VERSION=\"12 (bookworm)\"\nID=debian\n";

fn debian() -> Memory {
    Memory::default()
        .link("etc/os-release", "../usr/lib/os-release")
        .file("usr/lib/os-release", DEBIAN)
        .link("bin", "usr/bin")
        .link("lib", "/usr/lib")
        .link("usr/bin/sh", "dash")
        .file("usr/bin/dash", elf(62))
        .file("etc/hostname", "# made by hand\n\nweb01\n")
        .file("usr/lib/modules/6.1.0-9-amd64/modules.dep", "")
        .file("usr/lib/modules/6.1.0-13-amd64/modules.dep", "")
}

#[test]
fn linux_on_partitions_and_logical_volumes() {
    let fstab = "\
        /dev/mapper/vg--0-root--lv / ext4 errors=remount-ro 0 1\n\
        UUID=aaaa-BBBB /boot/efi vfat umask=0077 0 1\n\
        PARTUUID=0f0f-01 /boot ext4 defaults 0 2\n\
        /dev/vg-0/home /home xfs defaults 0 0\n\
        LABEL=da\\040ta /srv/data ext4 defaults 0 0\n\
        PARTLABEL=logs /var/log ext4 defaults 0 0\n\
        /dev/disk/by-uuid/1111-2222 /by/uuid ext4 defaults 0 0\n\
        /dev/disk/by-label/x\\x20y /by/label ext4 defaults 0 0\n\
        /dev/sdb2 /by/number auto nofail 0 0\n\
        /dev/nvme1n1p2 /by/number2 auto nofail 0 0\n\
        /dev/md/backup /by/array auto nofail 0 0\n\
        /dev/md127 /by/array2 auto nofail 0 0\n\
        /dev/sdz9 /missing auto nofail 0 0\n\
        /dev/mapper/luks-1 /secret auto nofail 0 0\n\
        UUID= /empty auto nofail 0 0\n\
        UUID=1111-2222 none swap sw 0 0\n\
        /home /export none bind 0 0\n\
        server:/x /nfs nfs defaults 0 0\n\
        tmpfs /tmp tmpfs defaults 0 0\n";
    let empty = Memory::default;
    let efi = PartitionKind::gpt("C12A7328-F81F-11D2-BA4B-00A0C93EC93B".into());
    let volumes = [
        (
            Volume { kind: Some(efi), ..partition("disk0", "p1", 1 << 20, "x") },
            empty().uuid("AAAA-BBBB").file("EFI/debian/shimx64.efi", ""),
        ),
        (
            partition("disk0", "p2", 2 << 20, "0F0F-01"),
            empty().file("vmlinuz-6.1.0-21-amd64", "").file("vmlinuz-6.1.0-9-amd64", ""),
        ),
        (assembled("vg-0-root-lv"), debian().file("etc/fstab", fstab)),
        (assembled("vg-0-home"), empty().file("me/file", "")),
        (partition("disk1", "p1", 1 << 20, "y"), empty().label("da ta")),
        (Volume { label: Some("logs".into()), ..partition("disk1", "p2", 2 << 20, "z") }, empty().uuid("1111-2222")),
        (Volume { label: Some("web01:backup".into()), ..assembled("md127") }, empty().label("x y")),
    ];
    let system = system(&[disk("disk0", "A"), disk("disk1", "B")], &volumes).unwrap();
    assert_eq!((system.family, system.name.as_str()), (Family::Linux, "Debian GNU/Linux"));
    assert_eq!(system.version.as_deref(), Some("12 (bookworm)"));
    assert_eq!(system.architecture.as_deref(), Some("x86_64"));
    assert_eq!(system.hostname.as_deref(), Some("web01"));
    assert_eq!(system.firmware, Some(Firmware::Uefi));
    // Those of /boot, which is another volume, among them.
    assert_eq!(system.kernels, ["6.1.0-9-amd64", "6.1.0-13-amd64", "6.1.0-21-amd64"]);
    assert_eq!(
        mounts(&system),
        expected(&[
            ("/", 2, ""),
            ("/boot", 1, ""),
            ("/boot/efi", 0, ""),
            ("/by/array", 6, ""),
            ("/by/array2", 6, ""),
            ("/by/label", 6, ""),
            ("/by/number", 5, ""),
            ("/by/number2", 5, ""),
            ("/by/uuid", 5, ""),
            ("/home", 3, ""),
            ("/srv/data", 4, ""),
            ("/var/log", 5, ""),
        ])
    );
    assert_eq!(system.notes, [""; 0]);
}

/// The files of `system` below `folder`.
fn within(folder: &str, system: &Memory) -> Memory {
    Memory::default().tree(folder, system)
}

#[test]
fn linux_in_subvolumes() {
    let one = |fs: Memory| system(&[disk("disk0", "A")], &[(partition("disk0", "p1", 1 << 20, "x"), fs)]);
    let of = |root: &str, fstab: &str, fs: fn(Memory) -> Memory| {
        let fs = fs(within(root, &debian().file("etc/fstab", fstab)).uuid("U1"));
        let system = one(fs).unwrap_or_else(|| panic!("a system in {root}"));
        assert_eq!(system.hostname.as_deref(), Some("web01"), "{root}");
        mounts(&system)
    };
    // Ubuntu.
    let ubuntu = of("@", "UUID=U1 / btrfs subvol=@ 0 0\nUUID=U1 /home btrfs defaults,subvol=/@home 0 0\n", |fs| {
        fs.file("@home/me/f", "")
    });
    assert_eq!(ubuntu, expected(&[("/", 0, "@"), ("/home", 0, "@home")]));
    // Fedora.
    let fedora =
        of("root", "UUID=U1 / btrfs subvol=root,compress=zstd:1 0 0\nUUID=U1 /home btrfs subvol=home 0 0\n", |fs| {
            fs.file("home/me/f", "")
        });
    assert_eq!(fedora, expected(&[("/", 0, "root"), ("/home", 0, "home")]));
    // openSUSE: the root is the default subvolume, one of several snapshots.
    let suse =
        of("@/.snapshots/12/snapshot", "UUID=U1 / btrfs defaults 0 0\nUUID=U1 /var btrfs subvol=/@/var 0 0\n", |fs| {
            let older = debian().file("etc/hostname", "older");
            fs.tree("@/.snapshots/2/snapshot", &older).file("@/var/log/x", "").default_root("@/.snapshots/12/snapshot")
        });
    assert_eq!(suse, expected(&[("/", 0, "@/.snapshots/12/snapshot"), ("/var", 0, "@/var")]));
    // Debian's installer, and subvolumes by number.
    let debian = of("@rootfs", "UUID=U1 / btrfs subvol=@rootfs 0 0\nUUID=U1 /top btrfs subvolid=5 0 0\n", |fs| fs);
    assert_eq!(debian, expected(&[("/", 0, "@rootfs"), ("/top", 0, "")]));
    let missing =
        one(debian_with("UUID=U1 /home btrfs subvol=@nothing 0 0\nUUID=U1 /x btrfs subvolid=zzz 0 0\n")).unwrap();
    assert_eq!(mounts(&missing), expected(&[("/", 0, "")]));
    assert_eq!(missing.notes.len(), 2, "{:?}", missing.notes);
    // Ubuntu on ZFS, and Fedora's immutable ones.
    assert_eq!(of("ROOT/ubuntu_abc123", "", |fs| fs), expected(&[("/", 0, "ROOT/ubuntu_abc123")]));
    let deploy = "ostree/deploy/fedora-coreos/deploy/0123.0";
    assert_eq!(of(deploy, "", |fs| fs), expected(&[("/", 0, deploy)]));
}

fn debian_with(fstab: &str) -> Memory {
    debian().file("etc/fstab", fstab).uuid("U1")
}

#[test]
fn older_and_other_systems() {
    let of = |fs: Memory| system(&[], &[(assembled("md0"), fs)]);
    let centos = Memory::default()
        .file("etc/redhat-release", "CentOS release 6.10 (Final)\n")
        .file("etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=\"db.example.org\"\n")
        .file("bin/sh", elf(3));
    let centos = of(centos).unwrap();
    assert_eq!((centos.name.as_str(), centos.version.as_deref()), ("CentOS", Some("6.10 (Final)")));
    assert_eq!(centos.hostname.as_deref(), Some("db.example.org"));
    assert_eq!(centos.architecture.as_deref(), Some("i686"));
    let freebsd = Memory::default()
        .file("bin/freebsd-version", "#!/bin/sh\nUSERLAND_VERSION=\"14.1-RELEASE\"\n")
        .file("etc/rc.conf", "sshd_enable=\"YES\"\nhostname=\"bsd\"\n");
    let freebsd = of(freebsd).unwrap();
    assert_eq!((freebsd.family, freebsd.version.as_deref()), (Family::FreeBsd, Some("14.1-RELEASE")));
    assert_eq!(freebsd.hostname.as_deref(), Some("bsd"));
    let other = of(Memory::default().file("etc/passwd", "").file("bin/sh", elf(40))).unwrap();
    assert_eq!((other.family, other.architecture.as_deref()), (Family::Other, Some("arm")));
    assert_eq!(of(Memory::default().file("photos/1.jpg", "")), None);
    assert_eq!(identify(&[], &[]), None);
}

fn hive(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registry").join(format!("{name}.zst"));
    zstd::decode_all(fs::read(&path).unwrap().as_slice()).unwrap()
}

#[test]
fn windows_by_its_registry() {
    let windows = Memory::default()
        .file("WINDOWS/system32/Config/System", hive("SYSTEM"))
        .file("WINDOWS/system32/Config/SOFTWARE", hive("SOFTWARE"));
    let volumes = [
        (partition("disk0", "p1", 1 << 20, "12345678-1234-5678-9ABC-DEF012345678"), windows),
        (partition("disk1", "p1", 1 << 20, "aabbccdd-01"), Memory::default()),
        (partition("disk1", "p2", 2 << 20, "aabbccdd-02"), Memory::default()),
    ];
    let found = system(&[disk("disk0", "GUID"), disk("disk1", "aabbccdd")], &volumes).unwrap();
    assert_eq!((found.family, found.name.as_str()), (Family::Windows, "Windows Server 2022 Standard"));
    assert_eq!(found.version.as_deref(), Some("10.0.20348.2113 (21H2)"));
    assert_eq!(found.architecture.as_deref(), Some("x86_64"));
    assert_eq!(found.hostname.as_deref(), Some("fileserver-with-a-long-name"));
    assert_eq!(found.firmware, Some(Firmware::Uefi));
    assert_eq!(mounts(&found), expected(&[("C:", 0, ""), ("D:", 1, "")]));
    assert_eq!(found.notes, [""; 0]);

    // Without what MountedDevices says it still runs from a drive; and hives that are none are told.
    let broken = Memory::default()
        .file("Windows/System32/config/SYSTEM", "regf")
        .file("Windows/System32/config/SOFTWARE", hive("SOFTWARE"));
    let found = system(&[], &[(partition("disk0", "p1", 1 << 20, "x"), broken)]).unwrap();
    assert_eq!(mounts(&found), expected(&[("C:", 0, "")]));
    assert_eq!(found.name, "Windows Server 2022 Standard");
    assert!(found.notes.iter().any(|note| note.contains("SYSTEM")), "{:?}", found.notes);
}

#[test]
fn another_system_is_told() {
    let volumes = [
        (assembled("vg-old"), Memory::default().file("etc/passwd", "").file("bin/sh", "")),
        (assembled("vg-root"), debian()),
        (assembled("vg-next"), debian()),
    ];
    let found = system(&[], &volumes).unwrap();
    assert_eq!(mounts(&found), expected(&[("/", 1, "")]));
    assert_eq!(found.notes, ["another system is on volume vg-next: Debian GNU/Linux 12 (bookworm)"]);
}

#[test]
fn links_stay_in_the_guest() {
    let fs = Memory::default()
        .file("etc/passwd", "guest")
        .link("up", "../../../../etc/passwd")
        .link("absolute", "/etc/passwd")
        .link("folder", "etc")
        .link("loop", "loop")
        .link("a", "b")
        .link("b", "a")
        .link("dangling", "/nothing/here")
        .link("through", "etc/passwd/x");
    let fs = (0..50).fold(fs, |fs, n| fs.link(&format!("l{n}"), &format!("l{}", n + 1))).file("l50", "end");
    let fs: Arc<dyn FileSystem> = Arc::new(fs);
    let view = View::new(Arc::clone(&fs), fs.root());
    let read = |path: &str| view.read(path.as_bytes(), 100);
    for path in ["etc/passwd", "/up", "absolute", "folder/passwd", "folder/./../etc//passwd", "../.././folder/passwd"] {
        assert_eq!(read(path).unwrap().unwrap(), b"guest", "{path}");
    }
    for path in ["dangling", "through", "nothing", "etc/passwd/..", "folder"] {
        assert_eq!(read(path).unwrap(), None, "{path}");
    }
    assert_eq!(read("l11").unwrap().unwrap(), b"end");
    for path in ["loop", "a", "l0", "l9"] {
        assert_eq!(read(path).unwrap_err().kind(), blockdev::ErrorKind::Limit, "{path}");
    }
    assert_eq!(read("l10").unwrap().unwrap(), b"end");
    assert_eq!(view.read(b"etc/passwd", 3).unwrap().unwrap(), b"gue");
    // A mount hides what is below it, and links lead into it.
    let other: Arc<dyn FileSystem> = Arc::new(Memory::default().file("passwd", "mounted").link("out", "../up"));
    let mut view = view.clone();
    view.mount(b"/etc/", Arc::clone(&other), other.root());
    assert_eq!(view.read(b"absolute", 100).unwrap().unwrap(), b"mounted");
    assert_eq!(view.read(b"etc/out", 100).unwrap().unwrap(), b"mounted");
    assert_eq!(view.names(b"folder", 10).unwrap(), [b"out".to_vec(), b"passwd".to_vec()]);
    let insensitive = View::new(Arc::clone(&fs), fs.root()).ignoring_case();
    assert_eq!(insensitive.read(b"ETC/PassWD", 100).unwrap().unwrap(), b"guest");
    assert_eq!(view.read(b"ETC/passwd", 100).unwrap(), None);
}

/// Runs a shell script in `folder`; false, and a line that says so, when it fails because something is not installed or not
/// allowed here.
fn made(what: &str, folder: &Path, script: &str) -> bool {
    let run = Command::new("bash").args(["-euc", script]).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    if !run.status.success() {
        println!("SKIPPED: {what} cannot be made here: {}", String::from_utf8_lossy(&run.stderr).trim());
    }
    run.status.success()
}

/// The system on the disks `names` in `folder`.
fn on_disks(folder: &Path, names: &[&str]) -> Option<System> {
    let device = |name: &&str| ((*name).to_owned(), common::device(&folder.join(name)));
    let disks: Vec<(String, Arc<dyn BlockDevice>)> = names.iter().map(device).collect();
    let survey = survey(&disks);
    let found = guestfs::find(&survey.volumes);
    let opened: Vec<_> = found.iter().map(|f| (&survey.volumes[f.volumes[0]], f.open().unwrap())).collect();
    identify(&survey.disks, &opened)
}

/// A Linux in the folder `tree`; its `fstab` follows.
const TREE: &str = "mkdir -p tree/{etc,usr/lib/modules/6.1.0-9-amd64,usr/bin,boot,home}; ln -s usr/bin tree/bin; \
    ln -s usr/lib tree/lib; ln -s ../usr/lib/os-release tree/etc/os-release; ln -s /usr/bin/dash tree/usr/bin/sh; \
    printf 'NAME=Real\\nVERSION=1\\n' > tree/usr/lib/os-release; echo real > tree/etc/hostname; \
    printf '\\x7fELF\\x02\\x01\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\x02\\0\\xb7\\0' > tree/usr/bin/dash; ";

fn assert_real(system: &System) {
    assert_eq!((system.name.as_str(), system.version.as_deref()), ("Real", Some("1")));
    assert_eq!((system.hostname.as_deref(), system.architecture.as_deref()), (Some("real"), Some("aarch64")));
    assert!(system.kernels.contains(&"6.1.0-9-amd64".to_owned()), "{:?}", system.kernels);
}

#[test]
fn linux_on_a_disk_with_ext4() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "{TREE} printf 'UUID=11111111-2222-3333-4444-555555555555 / ext4 d 0 1\\nPARTUUID=aaaaaaaa-2222-3333-4444-555555555555 \
         /boot ext4 d 0 2\\n/dev/sdb1 /home ext4 d 0 0\\n' > tree/etc/fstab; \
         mkdir boot home; touch boot/vmlinuz-6.1.0-10-amd64 home/file; \
         mke2fs -q -t ext4 -U 11111111-2222-3333-4444-555555555555 -d tree p2 16M; mke2fs -q -t ext4 -d boot p1 8M; \
         mke2fs -q -t ext3 -d home h1 8M; truncate -s 32M a; truncate -s 16M b; \
         printf 'label: gpt\\nstart=2048,size=16384,uuid=AAAAAAAA-2222-3333-4444-555555555555\\nstart=18432,size=32768\\n' \
         | sfdisk -q a; printf 'label: dos\\nstart=2048,size=16384\\n' | sfdisk -q b; \
         dd if=p1 of=a bs=512 seek=2048 conv=notrunc status=none; dd if=p2 of=a bs=512 seek=18432 conv=notrunc status=none; \
         dd if=h1 of=b bs=512 seek=2048 conv=notrunc status=none"
    );
    if !made("a disk with ext4", folder.path(), &script) {
        return;
    }
    let system = on_disks(folder.path(), &["a", "b"]).unwrap();
    assert_real(&system);
    assert_eq!(system.kernels, ["6.1.0-9-amd64", "6.1.0-10-amd64"]);
    assert_eq!(mounts(&system), expected(&[("/", 1, ""), ("/boot", 0, ""), ("/home", 2, "")]));
    assert_eq!(system.notes, [""; 0]);
}

#[test]
fn linux_in_subvolumes_of_btrfs() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "{TREE} truncate -s 128M a; mkfs.btrfs -q -U 11111111-2222-3333-4444-555555555555 a; mkdir mnt; \
         mount -o loop a mnt; trap 'umount mnt' EXIT; cd mnt; for s in @ @home; do btrfs -q subvolume create $s; done; \
         id=$(btrfs subvolume list . | awk '$NF == \"@home\" {{ print $2 }}'); \
         printf \"UUID=11111111-2222-3333-4444-555555555555 / btrfs subvol=@ 0 0\\nUUID=11111111-2222-3333-4444-555555555555 \
         /home btrfs subvolid=$id 0 0\\n\" > ../tree/etc/fstab; cp -a ../tree/. @/; cd .."
    );
    if !made("a btrfs with subvolumes", folder.path(), &script) {
        return;
    }
    let system = on_disks(folder.path(), &["a"]).unwrap();
    assert_real(&system);
    let [root, home] = system.mounts.as_slice() else { panic!("{:?}", system.mounts) };
    assert_eq!((root.path.as_slice(), root.subdirectory.as_slice()), (&b"/"[..], &b"@"[..]));
    assert_eq!(home.path, b"/home");
    assert!(home.directory.tree > 0 && home.directory.tree != root.directory.tree, "{:?}", system.mounts);
    assert_eq!(system.notes, [""; 0]);
}

#[test]
fn windows_on_a_disk_with_ntfs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("SYSTEM"), hive("SYSTEM")).unwrap();
    fs::write(folder.path().join("SOFTWARE"), hive("SOFTWARE")).unwrap();
    let script = "truncate -s 24M p1; mkntfs -q -F p1 >/dev/null; mkdir mnt; ntfs-3g p1 mnt; trap 'umount mnt' EXIT; \
        mkdir -p mnt/Windows/System32/config; cp SYSTEM SOFTWARE mnt/Windows/System32/config; umount mnt; trap - EXIT; \
        truncate -s 32M a; printf 'label: dos\\nlabel-id: 0xaabbccdd\\nstart=2048,size=49152,type=7,bootable\\n' | sfdisk -q a; \
        dd if=p1 of=a bs=1M seek=1 conv=notrunc status=none";
    if !made("a disk with NTFS", folder.path(), script) {
        return;
    }
    let system = on_disks(folder.path(), &["a"]).unwrap();
    assert_eq!(system.name, "Windows Server 2022 Standard");
    assert_eq!(system.hostname.as_deref(), Some("fileserver-with-a-long-name"));
    // By the signature of the disk and the place of the partition.
    assert_eq!(mounts(&system), expected(&[("D:", 0, "")]));
}
