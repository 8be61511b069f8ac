//! Disks in a backup as a datastore that is written: by NFS with the clients of libnfs, QEMU's driver and the kernel's, by
//! SMB with Samba's. The volume is the same afterwards.

#[path = "../../exporters/tests/common/changes.rs"]
mod changes;
#[path = "../../exporters/tests/common/rpc.rs"]
mod rpc;

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use rpc::Client;
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use tests::{
    case, guest, installed, is_root,
    program::{Revenant, Run, run_within},
    served::Served,
    temp,
};

const LIMIT: Duration = Duration::from_secs(400);

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lab's machine, and a folder for what is written.
struct Machine {
    volume: tempfile::TempDir,
    before: Vec<u8>,
    revenant: Revenant,
    /// The last restore point in the tree.
    point: String,
    /// The digest of its disk0.
    disk0: String,
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let volume = case::machine_volume();
        let before = fs::read(volume.path().join("web01-0001")).expect("the volume");
        let revenant = Revenant::new(volume.path());
        let points = revenant.run(["points", "--json"]).json();
        let point = points.as_array().and_then(|p| p.last()).expect("a point");
        let point = point["tree_path"].as_str().expect("a path").to_owned();
        let lines = fs::read_to_string(case::machine_data("points.tsv")).expect("points.tsv");
        let last = lines.lines().rfind(|line| line.split_whitespace().nth(1) == Some("disk0")).expect("disk0");
        let disk0 = last.split_whitespace().nth(3).expect("a digest").to_owned();
        Self { volume, before, revenant, point, disk0, folder: temp() }
    }

    fn overlay(&self) -> PathBuf {
        self.folder.path().join("datastore")
    }

    fn serve(&self, door: &str, more: &[&str]) -> Served {
        let overlay = self.overlay();
        let args = ["export", door, &self.point, "--overlay", overlay.to_str().expect("text"), "--json"];
        Served::start(self.revenant.command([&args[..], more].concat()).env("REVENANT_SMB_PASSWORD", "secret"))
    }

    fn nfs(&self, port: u64, format: &str) -> Served {
        self.serve("nfs", &["--listen", &format!("127.0.0.1:{port}"), "--format", format])
    }

    /// The volume is as it was.
    fn check(&self) {
        assert!(fs::read(self.volume.path().join("web01-0001")).expect("the volume") == self.before);
    }
}

/// What libnfs calls a path of the server.
fn url(port: u64, path: &str) -> OsString {
    format!("nfs://127.0.0.1/datastore/{path}?version=3&nfsport={port}&mountport={port}").into()
}

fn tool(program: &str, args: &[&OsStr]) -> Run {
    run_within(Command::new(program).args(args), LIMIT)
}

/// Files are put beside the disks, got, and listed; a disk is read as it was backed up.
#[test]
fn libnfs_tools() {
    if !installed("a datastore with libnfs", &["nfs-ls", "nfs-cp", "nfs-cat"]) {
        return;
    }
    let machine = Machine::new();
    let served = machine.nfs(0, "vmdk");
    let port = served.port();
    let here = temp();
    let own: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let source = here.path().join("own");
    fs::write(&source, &own).expect("a file");
    let _ = tool("nfs-cp", &[source.as_ref(), &url(port, "own.iso")]).good();
    assert!(tool("nfs-cat", &[&url(port, "own.iso")]).good().stdout == own);
    let listed = tool("nfs-ls", &[&url(port, "")]).good().text();
    for name in ["disk0.vmdk", "disk0-flat.vmdk", "disk1.vmdk", "disk1-flat.vmdk", "own.iso"] {
        assert!(listed.lines().any(|line| line.ends_with(name)), "{name}: {listed}");
    }
    let copy = here.path().join("copy");
    let _ = tool("nfs-cp", &[&url(port, "disk0-flat.vmdk"), copy.as_ref()]).good();
    assert_eq!(sha256(&fs::read(&copy).expect("the copy")), machine.disk0);
    // It creates files that are not there only, and the disk is.
    let refused = tool("nfs-cp", &[source.as_ref(), &url(port, "disk0-flat.vmdk")]);
    assert!(refused.code() != Some(0) && refused.stderr.contains("EXIST"), "{refused:?}");
    let read = tool("nfs-cat", &[&url(port, "disk0-flat.vmdk")]).good().stdout;
    assert_eq!(sha256(&read), machine.disk0);
    machine.check();
}

/// A server that is killed while a client writes: what a COMMIT has acknowledged is there, byte for byte, and every byte
/// is one that was there or was written. Names that were acknowledged are there, too.
#[test]
fn killed_while_it_is_written() {
    let machine = Machine::new();
    let mut port = 0;
    let mut random = tests::random::Random(7);
    const PIECE: usize = 3000;
    const PIECES: u64 = 200;
    // For each piece of the disk: the number that is durable, and numbers that may be there instead.
    let mut durable = vec![None::<u8>; PIECES as usize];
    let mut names = 0;
    let mut commits = 0;
    for round in 0..20_u8 {
        let mut served = machine.nfs(port, "raw");
        port = served.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port as u16));
        let mut client = Client::new(address);
        let root = client.mount("/").expect("the root");
        let disk = client.lookup(&root, b"disk0.raw").expect("the disk");
        for name in 0..names {
            let found = client.lookup(&root, format!("lock-{name}").as_bytes());
            assert!(found.is_ok(), "round {round}: lock-{name} was acknowledged");
        }
        for (piece, value) in (0_u64..).zip(&durable) {
            let Some(value) = value else { continue };
            let (read, _) = client.read(&disk, piece * PIECE as u64, PIECE as u32).expect("a piece");
            assert!(read.iter().all(|byte| byte == value), "round {round}, piece {piece}: {value} was durable");
        }
        client.create(&root, format!("lock-{names}").as_bytes()).expect("a name");
        names += 1;
        let mut pending = Vec::new();
        for step in 0..40 {
            let piece = random.below(PIECES);
            let value = round.wrapping_mul(40).wrapping_add(step).max(1);
            let how = u32::from(random.below(4) == 0) * 2;
            client.write(&disk, piece * PIECE as u64, &[value; PIECE], how).expect("a write");
            pending.push((piece, value));
            if how == 0 {
                // Until it is durable the piece is either.
                durable[piece as usize] = None;
            }
            if random.below(8) == 0 {
                client.commit(&disk).expect("a commit");
                commits += 1;
                pending.drain(..).for_each(|(piece, value)| durable[piece as usize] = Some(value));
            } else if how == 2 {
                durable[piece as usize] = Some(value);
            }
        }
        assert!(!served.end(Signal::KILL).success());
    }
    assert!(commits > 20, "{commits} commits");
    machine.check();
}

/// QEMU writes to each kind of disk through its own driver; what is there then is what its tools find sound.
#[test]
fn qemu_driver() {
    if !is_root() || !installed("a datastore with QEMU", &["qemu-system-x86_64", "qemu-img", "unshare", "ip", "nfs-cp"])
    {
        eprintln!("SKIPPED: a datastore with QEMU needs a network namespace");
        return;
    }
    let program = tests::program::path();
    // QEMU asks for ports at 111, and takes the file's folder as the export.
    let script = r#"
        ip link set lo up || exit 77
        "$0" export nfs "$POINT" --overlay "$OUT/$FORMAT" --format "$FORMAT" --listen 127.0.0.1:2049 --portmap -q \
            --volumes "$1" --cache "$2" >"$OUT/told" 2>"$OUT/said" &
        server=$!
        for n in $(seq 300); do [ -s "$OUT/told" ] && break; sleep 0.1; done
        printf '%s\n' 'qemu-io d "write -P 7 1M 192k"' 'qemu-io d "write -P 8 40M 1M"' 'qemu-io d "flush"' \
            'qemu-io d "read -P 7 1M 192k"' 'qemu-io d "read -P 8 40M 1M"' quit |
            timeout 120 qemu-system-x86_64 -M none -nodefaults -display none -monitor stdio \
            -drive "if=none,id=d,format=$DRIVER,file=nfs://127.0.0.1/datastore/$FILE" >"$OUT/qemu" 2>&1
        result=$?
        rm -f "$OUT"/copy*
        for file in $FILES; do nfs-cp "nfs://127.0.0.1/datastore/$file?version=3" "$OUT/$file" >/dev/null || result=99; done
        kill $server; wait $server || exit 78
        cat "$OUT/qemu"
        exit $result
    "#;
    let machine = Machine::new();
    // Format, what QEMU is told to use, and what its tools are told to judge.
    for (format, driver, file, judged, files) in [
        ("raw", "raw", "disk0.raw", "disk0.raw", "disk0.raw"),
        ("qcow2", "qcow2", "disk0.qcow2", "disk0.qcow2", "disk0.qcow2"),
        ("vhdx", "vhdx", "disk0.vhdx", "disk0.vhdx", "disk0.vhdx"),
        // QEMU looks for an extent by NFS in a folder of the descriptor's name.
        ("vmdk", "raw", "disk0-flat.vmdk", "disk0.vmdk", "disk0.vmdk disk0-flat.vmdk"),
    ] {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", script]).arg(program).arg(machine.volume.path());
        command.arg(machine.revenant.cache.path()).env("REVENANT_CONFIG", "/dev/null").env("POINT", &machine.point);
        command.env("OUT", machine.folder.path()).env("FORMAT", format).env("DRIVER", driver).env("FILE", file);
        command.env("FILES", files);
        let run = run_within(&mut command, LIMIT);
        if run.code() == Some(77) || run.stderr.contains("unshare failed") {
            eprintln!("SKIPPED: a datastore with QEMU: no network namespace: {}", run.stderr);
            return;
        }
        let said = run.text();
        if said.contains("Unknown protocol 'nfs'") || said.contains("failed to open module") {
            eprintln!("SKIPPED: a datastore with QEMU: it has no driver for NFS");
            return;
        }
        assert_eq!(run.code(), Some(0), "{format}: {said}{}", run.stderr);
        assert_eq!(said.matches("wrote ").count(), 2, "{format}: {said}");
        assert!(
            said.matches("read ").count() >= 2 && !said.contains("Pattern verification failed"),
            "{format}: {said}"
        );
        let copy = machine.folder.path().join(judged);
        let image = |args: &[&str]| {
            let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
            tool("qemu-img", &[&args[..], &[copy.as_ref()]].concat())
        };
        if driver == "qcow2" || driver == "vhdx" {
            let _ = image(&["check", "-f", format]).good();
        }
        let raw = machine.folder.path().join("converted.raw");
        let args = ["convert", "-f", format, "-O", "raw"].map(OsStr::new);
        let _ = tool("qemu-img", &[&args[..], &[copy.as_ref(), raw.as_ref()]].concat()).good();
        let bytes = fs::read(&raw).expect("the disk");
        assert!(bytes[1 << 20..(1 << 20) + (192 << 10)].iter().all(|&b| b == 7), "{format}");
        assert!(bytes[40 << 20..41 << 20].iter().all(|&b| b == 8), "{format}");
        // The rest is what was backed up.
        let mut bytes = bytes;
        let original = machine.revenant.run(["cat", &format!("{}/disks/disk0.raw", machine.point)]).good().stdout;
        for range in [1 << 20..(1 << 20) + (192 << 10), 40 << 20..41 << 20] {
            bytes[range.clone()].copy_from_slice(&original[range]);
        }
        assert_eq!(sha256(&bytes[..original.len()]), machine.disk0, "{format}");
        let overlay = machine.folder.path().join(format).join("disks/disk0.qcow2");
        let _ = tool("qemu-img", &["check".as_ref(), "-f".as_ref(), "qcow2".as_ref(), overlay.as_ref()]).good();
    }
    machine.check();
}

/// The kernel's client: files, names, durability, a filesystem on the disk through a loop; and a restart of the server in
/// the middle, after which an open file that was renamed goes on.
#[test]
fn kernel_client() {
    let Some(guest_folder) = guest::folder("a datastore with the kernel's client") else { return };
    let machine = Machine::new();
    let mut served = machine.nfs(0, "vmdk");
    let port = served.port();
    let control = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let at = control.local_addr().expect("its address").port();
    let script = format!(
        r#"nfs_up / /mnt vers=3,proto=tcp,mountproto=tcp,rw,port={port},mountport={port} || exit 9
        cd /mnt || exit 8
        mkdir vm && echo config >vm/vm.vmx && mv vm/vm.vmx vm/renamed.vmx && cat vm/renamed.vmx
        ln vm/renamed.vmx vm/linked && stat -c %h vm/linked
        ln -s renamed.vmx vm/link && cat vm/link
        (set -C; echo mine >lock) && ! (set -C; echo yours >lock) 2>/dev/null && cat lock
        dd if=/dev/urandom of=big bs=64k count=64 conv=fsync 2>/dev/null
        before=$(sha256sum <big)
        exec 3<>open; echo begun >&3; mv open vm/moved
        mv disk0-flat.vmdk vm/disk0-flat.vmdk
        modprobe loop; modprobe ext4
        losetup /dev/loop0 vm/disk0-flat.vmdk && mkfs.ext4 -q -F -b 1024 -L ours /dev/loop0 || exit 7
        mkdir -p /fs && mount /dev/loop0 /fs && cp big /fs/big && sync || exit 6
        dd if=/dev/urandom of=late bs=64k count=32 2>/dev/null
        late=$(sha256sum <late)
        echo middle | nc $HOST {at} >/dev/null
        echo continued >&3; exec 3>&-
        cat vm/moved
        echo 3 >/proc/sys/vm/drop_caches
        [ "$(sha256sum <late)" = "$late" ] && [ "$(sha256sum </fs/big)" = "$before" ] && echo same
        cp /fs/big /fs/again && umount /fs && fsck.ext4 -fn /dev/loop0 >/tmp/fsck 2>&1 && echo clean || cat /tmp/fsck
        losetup -d /dev/loop0
        rm big vm/linked vm/link && ls -A . vm | sort | tr '\n' ' '; echo
        rm -r vm; [ -e vm ] || echo removed
        cd /; umount /mnt && echo unmounted"#
    );
    let running = thread::spawn(move || guest::run(guest_folder, &script));
    let (mut told, _) = control.accept().expect("the guest");
    let mut word = [0; 6];
    told.read_exact(&mut word).expect("a word");
    // Not a polite end: what was not durable is lost, and the client sends it again.
    let _ = served.end(Signal::KILL);
    let again = machine.nfs(port, "vmdk");
    told.write_all(b"go on\n").expect("an answer");
    drop(told);
    let text = running.join().expect("the guest").good().text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..5], ["config", "2", "config", "mine", "begun"], "{text}");
    assert_eq!(lines[5..8], ["continued", "same", "clean"], "{text}");
    assert!(
        lines[8].contains("disk0-flat.vmdk") && lines[8].contains("moved") && !lines[8].contains("linked"),
        "{text}"
    );
    assert!(lines.contains(&"removed") && lines.contains(&"unmounted"), "{text}");
    drop(again);
    machine.check();
    // The client removed the disk with its folder; what it wrote is still there.
    let overlay = machine.overlay().join("disks/disk0.qcow2");
    assert!(overlay.metadata().expect("the overlay").len() > 1 << 20);
}

/// A share that is written: files are put, got, renamed and deleted, also the disk; what was put is there after a restart.
#[test]
fn samba() {
    let test = "a datastore by SMB";
    if !is_root() || !Path::new("/dev/fuse").exists() || !installed(test, &["smbd", "smbpasswd", "smbclient"]) {
        eprintln!("SKIPPED: {test}: needs root, /dev/fuse and Samba");
        return;
    }
    let machine = Machine::new();
    let serve = || machine.serve("smb", &["--share", "vm", "--user", "daemon", "--listen", "127.0.0.1:0"]);
    let client = |served: &Served, commands: &str| {
        let mut client = Command::new("smbclient");
        client.args(["-p", &served.port().to_string(), "//127.0.0.1/vm", "-U", "daemon%secret", "-c", commands]);
        let run = run_within(&mut client, LIMIT);
        assert!(!run.text().contains("NT_STATUS"), "{commands}: {}", run.text());
        run.good().text()
    };
    let here = temp();
    let (own, got) = (here.path().join("own"), here.path().join("got"));
    let bytes: Vec<u8> = (0..500_000_u32).flat_map(|n| n.to_be_bytes()).collect();
    fs::write(&own, &bytes).expect("a file");
    let mut served = serve();
    let listed = client(&served, "ls");
    assert!(listed.contains("disk0.vhdx") && listed.contains("disk1.vhdx"), "{listed}");
    let commands =
        format!("put {0} own; mkdir dir; rename own dir/moved; get dir/moved {1}", own.display(), got.display());
    client(&served, &commands);
    assert!(fs::read(&got).expect("what was got") == bytes);
    client(&served, &format!("get disk0.vhdx {}", got.display()));
    let raw = here.path().join("raw");
    if installed("judging a VHDX got by SMB", &["qemu-img"]) {
        let args = ["convert", "-f", "vhdx", "-O", "raw"].map(OsStr::new);
        let _ = tool("qemu-img", &[&args[..], &[got.as_ref(), raw.as_ref()]].concat()).good();
        assert_eq!(sha256(&fs::read(&raw).expect("the disk")), machine.disk0);
    }
    // Over the disk's own file, and away with the other one.
    client(&served, &format!("put {} disk0.vhdx; del disk1.vhdx", own.display()));
    assert!(served.end(Signal::TERM).success(), "{}", served.said());
    let served = serve();
    let listed = client(&served, "ls; cd dir; ls");
    assert!(!listed.contains("disk1.vhdx") && listed.contains("moved"), "{listed}");
    client(&served, &format!("get disk0.vhdx {0}; del dir/moved; rmdir dir", got.display()));
    assert!(fs::read(&got).expect("what was got") == bytes);
    machine.check();
}
