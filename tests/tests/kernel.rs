//! The kernel's own clients: a guest with nothing but a Linux kernel and BusyBox mounts and attaches what is served here.
//! See [`tests::guest`]; without it the tests are skipped.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::Command,
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tests::{
    case,
    compare::{What, differences},
    guest, installed,
    program::{Revenant, run_within},
    served::Served,
    temp,
};

const LIMIT: Duration = Duration::from_secs(400);
/// What a mount needs: version 3 over TCP, no lock manager, and no question after ports.
const OPTIONS: &str = "vers=3,proto=tcp,mountproto=tcp,ro";

fn nfs(revenant: &Revenant, port: u64) -> Served {
    let listen = format!("127.0.0.1:{port}");
    Served::start(&mut revenant.command(["export", "nfs", "--listen", &listen, "--json"]))
}

fn mount(port: u64) -> String {
    format!("nfs_up / /mnt {OPTIONS},port={port},mountport={port} || exit 9")
}

/// Everything that stock Bacula saved of odd things is what the kernel sees: names, times, links, devices, holes.
#[test]
fn nfs_tree() {
    let Some(guest) = guest::folder("NFS with the kernel's client") else { return };
    let case = case::shipped("special");
    let volumes = case.unpack();
    let revenant = Revenant::of(&case, volumes.path());
    let served = nfs(&revenant, 0);
    let job = revenant.jobs().remove(0);
    for key in ["tree_path", "point_path"] {
        let path = job[key].as_str().expect("a path");
        let script = format!(
            "{}; cd '/mnt/{path}' && stat -c %u:%g srv/data/src/ids >/tmp/owner
            tar cf - srv /tmp/owner 2>/tmp/err || {{ cat /tmp/err; exit 8; }}",
            mount(served.port())
        );
        let packed = guest::run(guest, &script).good();
        let folder = temp();
        fs::write(folder.path().join("packed"), &packed.stdout).expect("what the guest packed");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("a folder");
        let mut tar = Command::new("tar");
        tar.args(["-x", "-p", "--numeric-owner", "-f"]).arg(folder.path().join("packed")).arg("-C").arg(&root);
        let _ = run_within(&mut tar, LIMIT).good();
        let owner = fs::read_to_string(root.join("tmp/owner")).expect("an owner");
        fs::remove_dir_all(root.join("tmp")).expect("nothing of the backup");
        let found = differences(&case.first_manifest(), &root, What::Restored);
        // BusyBox's tar has no large numbers of owners; the protocol has no extended attributes, and counts from 1970.
        assert_eq!(owner, "4294967294:3000000000\n");
        let real = |d: &&tests::compare::Difference| {
            let owner = d.path.ends_with(b"/ids") && d.what.starts_with("owner ");
            let time = d.path.ends_with(b"/old") && d.what.starts_with("mtime 0");
            !owner && !time && !d.what.starts_with("xattr ")
        };
        let found: Vec<_> = found.iter().filter(real).collect();
        assert!(found.is_empty(), "{key}: {found:#?}");
    }
}

/// A large file, users with permissions, refusals; and a restart of the server in the middle, of which the client sees
/// nothing but a pause.
#[test]
fn nfs_over_a_restart() {
    let Some(guest) = guest::folder("NFS over a restart") else { return };
    let case = case::shipped("disk-raw");
    let volumes = case.unpack();
    let revenant = Revenant::of(&case, volumes.path());
    let mut served = nfs(&revenant, 0);
    let port = served.port();
    let job = revenant.jobs().remove(0);
    let entry = case.first_manifest().into_iter().find(|e| e.facts["size"].as_u64() > Some(1 << 20)).expect("a disk");
    let path = String::from_utf8(entry.path.clone()).expect("a plain name");
    let file = format!("/mnt/{}{path}", job["tree_path"].as_str().expect("a path"));
    // The guest says when it is in the middle, and goes on when it is told to.
    let control = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let at = control.local_addr().expect("its address").port();
    let script = format!(
        r#"{}
        exec 3<'{file}'
        dd bs=64k count=100 <&3 2>/dev/null >/tmp/head
        echo middle | nc $HOST {at}
        cat /tmp/head - <&3 | sha256sum | cut -d' ' -f1
        exec 3<&-
        touch /mnt/x 2>&1
        rm '{file}' 2>&1
        umount /mnt && echo unmounted"#,
        mount(port)
    );
    let guest = guest.to_owned();
    let running = thread::spawn(move || guest::run(&guest, &script));
    let (mut told, _) = control.accept().expect("the guest");
    let mut word = [0; 6];
    told.read_exact(&mut word).expect("a word");
    assert!(served.end(Signal::TERM).success());
    let _again = nfs(&revenant, port);
    told.write_all(b"go on\n").expect("an answer");
    drop(told);
    let run = running.join().expect("the guest").good();
    let text = run.text();
    let wanted = entry.facts["sha256"].as_str().expect("a digest");
    assert!(text.contains(wanted), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(text.contains("unmounted"), "{text}");
}

/// The kernel's NBD client reads a disk of a chain of jobs, finds its partitions and mounts what is on them; over an
/// overlay it writes, and finds that again after a restart. The backup stays as it is.
#[test]
fn nbd() {
    let Some(guest) = guest::folder("NBD with the kernel's client") else { return };
    let volume = case::machine_volume();
    let before = fs::read(volume.path().join("web01-0001")).expect("the volume");
    let revenant = Revenant::new(volume.path());
    let case::TreeDisk { path: disk, sha256: wanted } = case::last_disk(&revenant);

    let serve = |more: &[&str]| {
        let args =
            [&["export", "nbd", &disk, "--listen", "127.0.0.1:0", "--name", "disk0", "--json"][..], more].concat();
        let served = Served::start(&mut revenant.command(args));
        let port: u16 =
            served.text("uri").rsplit_once(':').and_then(|(_, p)| p.split('/').next()?.parse().ok()).expect("a port");
        (served, port)
    };
    let (served, port) = serve(&[]);
    let script = format!(
        r#"nbd_up /dev/nbd0 {port} disk0 -C 2 || exit 9
        sha256sum /dev/nbd0 | cut -d' ' -f1
        blockdev --getro /dev/nbd0
        [ -e /dev/nbd0p2 ] || partprobe /dev/nbd0 2>/dev/null || blockdev --rereadpt /dev/nbd0
        blkid -o value -s LABEL /dev/nbd0p2
        dd if=/dev/zero of=/dev/nbd0 bs=4k count=1 conv=fsync 2>/dev/null && echo written
        nbd-client -d /dev/nbd0 >/dev/null && echo detached"#
    );
    let text = guest::run(guest, &script).good().text();
    assert_eq!(text.lines().collect::<Vec<_>>(), [&*wanted, "1", "root", "detached"]);
    drop(served);

    let folder = temp();
    let overlay = folder.path().join("disk0.qcow2");
    let overlay = ["--overlay", overlay.to_str().expect("text")];
    let (mut served, port) = serve(&overlay);
    let attach = |port: u16| {
        format!(
            "nbd_up /dev/nbd0 {port} disk0 -C 2 || exit 9; modprobe ext4; [ -e /dev/nbd0p2 ] || blockdev --rereadpt /dev/nbd0"
        )
    };
    // The lab's jobs wrote over the filesystem as if it were empty space; a new one is what a guest needs.
    let script = format!(
        r#"{}
        mkfs.ext4 -q -F -b 1024 -L ours /dev/nbd0p2 && mount -t ext4 /dev/nbd0p2 /mnt || exit 8
        dd if=/dev/urandom of=/mnt/data bs=64k count=100 2>/dev/null && sync
        sha256sum </mnt/data
        rm -f /mnt/none; umount /mnt && fstrim /mnt 2>/dev/null
        blockdev --flushbufs /dev/nbd0; nbd-client -d /dev/nbd0 >/dev/null && echo detached"#,
        attach(port)
    );
    let text = guest::run(guest, &script).good().text();
    let (digest, rest) = text.split_once('\n').expect("lines");
    assert!(digest.len() > 64 && rest.contains("detached"), "{text}");
    assert!(served.end(Signal::TERM).success(), "{}", served.said());
    if installed("judging the overlay", &["qemu-img"]) {
        let _ = run_within(Command::new("qemu-img").args(["check", "-q", "-f", "qcow2", overlay[1]]), LIMIT).good();
    }
    let (_served, port) = serve(&overlay);
    let script = format!(
        "{}; fsck.ext4 -fn /dev/nbd0p2 >/tmp/fsck 2>&1 || {{ cat /tmp/fsck; exit 7; }}
        mount -t ext4 -o ro /dev/nbd0p2 /mnt && sha256sum </mnt/data",
        attach(port)
    );
    let text = guest::run(guest, &script).good().text();
    assert_eq!(text.lines().next(), Some(digest));
    assert!(fs::read(volume.path().join("web01-0001")).expect("the volume") == before, "the backup is as it was");
}

/// The kernel's iSCSI initiator reads a disk of a chain of jobs, over a restart of the server in the middle of it, and
/// cannot write.
#[test]
fn iscsi_over_a_restart() {
    let Some(guest) = guest::folder("iSCSI over a restart") else { return };
    let volume = case::machine_volume();
    let revenant = Revenant::new(volume.path());
    let disk = case::last_disk(&revenant);
    let serve = |port: u64| {
        let listen = format!("127.0.0.1:{port}");
        Served::start(&mut revenant.command(["export", "iscsi", &disk.path, "--listen", &listen, "--json"]))
    };
    let mut served = serve(0);
    let (port, target) = (served.port(), served.text("target").to_owned());
    // The guest says when it is in the middle, and goes on when it is told to.
    let control = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let at = control.local_addr().expect("its address").port();
    let script = format!(
        r#"D=$(iscsi_up {target} {port}) || {{ echo "$D"; exit 9; }}
        exec 3<$D
        dd bs=64k count=100 <&3 2>/dev/null >/tmp/head
        echo middle | nc $HOST {at} >/dev/null
        cat /tmp/head - <&3 | sha256sum | cut -d' ' -f1
        exec 3<&-
        blockdev --getro $D
        dd if=/dev/zero of=$D bs=4k count=1 conv=fsync 2>/dev/null && echo written
        iscsi_down {target} && echo detached"#
    );
    let guest = guest.to_owned();
    let running = thread::spawn(move || guest::run(&guest, &script));
    let (mut told, _) = control.accept().expect("the guest");
    let mut word = [0; 6];
    told.read_exact(&mut word).expect("a word");
    assert!(served.end(Signal::TERM).success(), "{}", served.said());
    let _again = serve(port);
    told.write_all(b"go on\n").expect("an answer");
    drop(told);
    let text = running.join().expect("the guest").good().text();
    assert_eq!(text.lines().collect::<Vec<_>>(), [&*disk.sha256, "1", "detached"]);
}

/// With mutual CHAP and digests it writes over an overlay, and finds that again after `kill -9` of the server. The backup
/// stays as it is.
#[test]
fn iscsi_writes() {
    let Some(guest) = guest::folder("writing by iSCSI") else { return };
    let volume = case::machine_volume();
    let before = fs::read(volume.path().join("web01-0001")).expect("the volume");
    let revenant = Revenant::new(volume.path());
    let disk = case::last_disk(&revenant);
    let folder = temp();
    let secret = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a secret");
        path.to_str().expect("text").to_owned()
    };
    let overlay = folder.path().join("disk0.qcow2").to_str().expect("text").to_owned();
    let serve = || {
        let (ours, theirs) = (secret("ours", "secret of guest\n"), secret("theirs", "secret of target"));
        let mut args = vec!["export", "iscsi", &disk.path, "--listen", "127.0.0.1:0", "--json"];
        args.extend(["--iqn", "iqn.2026-01.example.test:disk0", "--overlay", &overlay]);
        args.extend(["--chap-user", "guest", "--chap-secret-file", &ours]);
        args.extend(["--mutual-user", "target", "--mutual-secret-file", &theirs]);
        Served::start(&mut revenant.command(args))
    };
    let attach = |port: u64| {
        format!(
            r#"modprobe iscsi_tcp; modprobe sd_mod; modprobe crc32c_generic; modprobe ext4; mkdir -p /run/lock/iscsi
            iscsid || exit 9
            sleep 1
            node="iscsiadm -m node -T iqn.2026-01.example.test:disk0 -p $HOST:{port}"
            $node -o new >/dev/null
            $node --login >/dev/null 2>&1 && exit 6
            while read key value; do $node -o update -n "$key" -v "$value" || exit 9; done <<END
node.session.auth.authmethod CHAP
node.session.auth.username guest
node.session.auth.password secret of guest
node.session.auth.username_in target
node.session.auth.password_in secret of target
node.conn[0].iscsi.HeaderDigest CRC32C
node.conn[0].iscsi.DataDigest CRC32C
END
            $node --login >/tmp/login 2>&1 || {{ cat /tmp/login; exit 8; }}
            n=0; while [ $n -lt 100 ]; do D=$(ls -d /sys/class/iscsi_session/session*/device/target*/*:*/block/sd* 2>/dev/null)
                D=/dev/${{D##*/}}; [ -b "${{D}}2" ] && break; sleep 0.2; n=$((n+1)); done"#
        )
    };
    let mut served = serve();
    // The lab's jobs wrote over the filesystem as if it were empty space; a new one is what a guest needs.
    let script = format!(
        r#"{}
        mkfs.ext4 -q -F -L ours ${{D}}2 && mount -t ext4 ${{D}}2 /mnt || exit 7
        dd if=/dev/urandom of=/mnt/data bs=64k count=100 2>/dev/null && sync
        sha256sum </mnt/data
        umount /mnt && fstrim /mnt 2>/dev/null
        blockdev --flushbufs $D; iscsi_down iqn.2026-01.example.test:disk0 && echo detached"#,
        attach(served.port())
    );
    let text = guest::run(guest, &script).good().text();
    let (digest, rest) = text.split_once('\n').expect("lines");
    assert!(digest.len() > 64 && rest.contains("detached"), "{text}");
    served.end(Signal::KILL);
    let served = serve();
    let script = format!(
        "{}; fsck.ext4 -fn ${{D}}2 >/tmp/fsck 2>&1 || {{ cat /tmp/fsck; exit 7; }}
        mount -t ext4 -o ro ${{D}}2 /mnt && sha256sum </mnt/data",
        attach(served.port())
    );
    let text = guest::run(guest, &script).good().text();
    assert_eq!(text.lines().next(), Some(digest));
    assert!(fs::read(volume.path().join("web01-0001")).expect("the volume") == before, "the backup is as it was");
}
