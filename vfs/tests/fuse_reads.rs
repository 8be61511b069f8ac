//! The mounted tree under load: concurrent, slow and failing readers, large directories, and unmounting while busy.

mod support;

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::fs::SeekFrom as Whence;
use support::{
    Mem,
    content::{Content, noise},
    sample,
};
use vfs::fuse::{Mount, MountOptions, Unmounted, mount};

struct Mounted {
    mount: Option<Mount>,
    at: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

fn mounted(model: Arc<Mem>, change: impl FnOnce(&mut MountOptions)) -> Mounted {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = dir.path().join("mnt");
    fs::create_dir(&at).expect("create");
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = log.clone();
    let mut options = MountOptions::default();
    options.log = Arc::new(move |line: &str| lines.lock().push(line.to_owned()));
    // Whether the system allows it is no matter here, and the notice about it would be in the way.
    options.allow_other = Some(rustix::process::geteuid().is_root());
    change(&mut options);
    let mount = mount(support::node(model), &at, &options).expect("mount");
    Mounted { mount: Some(mount), at, log, _dir: dir }
}

fn one_file(content: Content) -> Arc<Mem> {
    Arc::new(Mem::dir([(b"file".to_vec(), Arc::new(Mem::file(content).ino(7)))]).ino(1))
}

#[test]
fn many_readers_at_once() {
    if !support::can_mount("many_readers_at_once") {
        return;
    }
    let bytes = Arc::new(noise(8 << 20, 4));
    let m = mounted(one_file(Content::bytes(bytes.to_vec())), |_| {});
    thread::scope(|scope| {
        for reader in 0..16_u64 {
            let (bytes, path) = (bytes.clone(), m.at.join("file"));
            scope.spawn(move || {
                let file = File::open(path).expect("open");
                let mut buf = vec![0; 300_000];
                for step in 0..40_u64 {
                    let offset = (reader * 7_919_333 + step * 1_299_709) % (bytes.len() as u64 + 1000);
                    let n = file.read_at(&mut buf, offset).expect("read");
                    let expected = bytes.get(offset as usize..).unwrap_or_default();
                    assert_eq!(buf[..n], expected[..expected.len().min(n)]);
                    assert!(n > 0 || expected.is_empty());
                }
            });
        }
    });
    assert!(m.log.lock().is_empty());
}

#[test]
fn direct_reads_and_their_ends() {
    if !support::can_mount("direct_reads_and_their_ends") {
        return;
    }
    let bytes = noise((3 << 20) + 123, 4);
    let m = mounted(one_file(Content::bytes(bytes.clone())), |_| {});
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(m.at.join("file")).expect("open");
    let mut read = Vec::new();
    file.read_to_end(&mut read).expect("read");
    assert!(read == bytes);
}

#[test]
fn holes_are_found() {
    if !support::can_mount("holes_are_found") {
        return;
    }
    let runs = vec![(1 << 20, noise(65_536, 1)), (8 << 20, noise(4096, 2))];
    let m = mounted(one_file(Content::sparse(16 << 20, runs)), |_| {});
    let file = File::open(m.at.join("file")).expect("open");
    let seek = |from| rustix::fs::seek(&file, from).ok();
    assert_eq!(seek(Whence::Data(0)), Some(1 << 20));
    assert_eq!(seek(Whence::Hole(0)), Some(0));
    assert_eq!(seek(Whence::Hole(1 << 20)), Some((1 << 20) + 65_536));
    assert_eq!(seek(Whence::Data((1 << 20) + 65_536)), Some(8 << 20));
    assert_eq!(seek(Whence::Data((8 << 20) + 4096)), None);
    assert_eq!(seek(Whence::Hole((8 << 20) + 5000)), Some((8 << 20) + 5000));
    assert_eq!(seek(Whence::Data(16 << 20)), None);
}

#[test]
fn only_damaged_bytes_fail() {
    if !support::can_mount("only_damaged_bytes_fail") {
        return;
    }
    let bytes = noise(4 << 20, 4);
    let bad = 2_000_000..2_010_000_u64;
    let m = mounted(one_file(Content::bytes(bytes.clone()).failing(bad.clone())), |_| {});
    let mut file = File::open(m.at.join("file")).expect("open");
    let mut failed = Vec::new();
    let mut page = vec![0; 4096];
    for (n, expected) in bytes.chunks(4096).enumerate() {
        let offset = n as u64 * 4096;
        match file.read_at(&mut page, offset) {
            Ok(len) => assert!(page[..len] == *expected, "wrong bytes at {offset}"),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
                failed.push(offset);
            }
        }
    }
    let expected: Vec<u64> =
        (0..).map(|n| n * 4096).skip_while(|o| o + 4096 <= bad.start).take_while(|o| *o < bad.end).collect();
    assert_eq!(failed, expected);
    // A damaged file is no shorter for it.
    assert_eq!(file.seek(SeekFrom::End(0)).expect("seek"), bytes.len() as u64);
    let log = m.log.lock();
    assert_eq!(*log, ["Vol-1: block at 2000000 is damaged"], "each failure is told once");
}

#[test]
fn a_slow_volume_blocks_only_its_readers() {
    if !support::can_mount("a_slow_volume_blocks_only_its_readers") {
        return;
    }
    let slow = Arc::new(Content::bytes(noise(1 << 20, 1)).gated());
    let mut mem = Mem::file(Content::bytes(noise(1 << 20, 1))).ino(8);
    mem.body = support::Body::File(slow.clone());
    let quick = Arc::new(Mem::file(Content::bytes("quick")).ino(9));
    let root = Mem::dir([(b"slow".to_vec(), Arc::new(mem)), (b"quick".to_vec(), quick)]).ino(1);
    let m = mounted(Arc::new(root), |options| options.threads = Some(2));
    thread::scope(|scope| {
        // More than there are threads, by far, each for bytes of its own.
        let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
        let readers: Vec<_> = (0..20_u64)
            .map(|n| {
                let path = m.at.join("slow");
                scope.spawn(move || {
                    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).expect("open");
                    file.read_at(&mut vec![0; 4096], n * 4096).expect("read")
                })
            })
            .collect();
        while slow.reads.load(std::sync::atomic::Ordering::Relaxed) < 20 {
            thread::sleep(Duration::from_millis(1));
        }
        let start = Instant::now();
        assert_eq!(fs::read(m.at.join("quick")).expect("read"), b"quick");
        assert_eq!(fs::read_dir(&m.at).expect("list").count(), 2);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        slow.open_gate();
        for reader in readers {
            assert_eq!(reader.join().expect("no panic"), 4096);
        }
    });
}

#[test]
fn a_hundred_thousand_entries() {
    if !support::can_mount("a_hundred_thousand_entries") {
        return;
    }
    // Programs ask for attributes file by file, and each question is a round trip: not in a tree without any.
    let m = mounted(sample::many(100_000), |options| options.xattrs = false);
    let time = |program: &str, args: &[&str]| {
        let start = Instant::now();
        let output = Command::new(program).current_dir(m.at.join("many")).args(args).output().expect("installed");
        assert!(output.status.success());
        let lines = output.stdout.iter().filter(|b| **b == b'\n').count();
        eprintln!("{program} {args:?}: {:?}", start.elapsed());
        (lines, start.elapsed())
    };
    let (lines, took) = time("ls", &["-f"]);
    assert_eq!(lines, 100_002);
    // Generous: the build is not optimized and the machine may be busy.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(time("ls", &["-l"]).0, 100_001);
    assert_eq!(time("find", &["."]).0, 100_001);
    assert_eq!(time("find", &[".", "-size", "+1"]).0, 0);
}

#[test]
fn an_idle_mount_goes_at_once() {
    if !support::can_mount("an_idle_mount_goes_at_once") {
        return;
    }
    let mut m = mounted(sample::tree(), |_| {});
    let mount = m.mount.take().expect("mounted");
    let unmounter = mount.unmounter();
    let waiting = thread::spawn(move || mount.wait());
    assert_eq!(unmounter.unmount().expect("unmount"), Unmounted::Clean);
    waiting.join().expect("no panic").expect("a clean end");
    assert_eq!(fs::read_dir(&m.at).expect("list").count(), 0);
    assert_eq!(unmounter.unmount().expect("harmless"), Unmounted::Clean);
    assert!(m.log.lock().is_empty());
}

#[test]
fn unmounted_by_somebody_else() {
    if !support::can_mount("unmounted_by_somebody_else") {
        return;
    }
    let mut m = mounted(sample::tree(), |_| {});
    let status = Command::new("fusermount3").arg("-u").arg(&m.at).status().expect("installed");
    assert!(status.success());
    m.mount.take().expect("mounted").wait().expect("a clean end");
}

#[test]
fn a_busy_mount_leaves_and_serves_on() {
    if !support::can_mount("a_busy_mount_leaves_and_serves_on") {
        return;
    }
    let bytes = noise(1 << 20, 5);
    let mut m = mounted(one_file(Content::bytes(bytes.clone())), |o| o.detach_grace = Duration::from_secs(60));
    let open = File::open(m.at.join("file")).expect("open");
    let mount = m.mount.take().expect("mounted");
    let unmounter = mount.unmounter();
    let waiting = thread::spawn(move || mount.wait());
    assert_eq!(unmounter.unmount().expect("unmount"), Unmounted::Detached);
    assert_eq!(fs::read_dir(&m.at).expect("list").count(), 0, "nobody new gets in");
    let mut read = vec![0; 1 << 20];
    open.read_exact_at(&mut read, 0).expect("what is open is served");
    assert!(read == bytes);
    assert!(m.log.lock().iter().any(|l| l.contains("is in use")));
    assert!(!waiting.is_finished());
    drop(open);
    waiting.join().expect("no panic").expect("a clean end");
}

#[test]
fn a_busy_mount_ends_when_asked_again() {
    if !support::can_mount("a_busy_mount_ends_when_asked_again") {
        return;
    }
    let model = one_file(Content::bytes(noise(1 << 20, 5)).gated());
    let content = model.entries()[0].1.content().expect("a file").clone();
    let mut m = mounted(model, |_| {});
    let path = m.at.join("file");
    let mut reader =
        Command::new("cat").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("installed");
    thread::sleep(Duration::from_millis(300));
    let mount = m.mount.take().expect("mounted");
    let unmounter = mount.unmounter();
    let waiting = thread::spawn(move || mount.wait());
    assert_eq!(unmounter.unmount().expect("unmount"), Unmounted::Detached);
    unmounter.unmount().expect("again");
    waiting.join().expect("no panic").expect("an end");
    assert!(m.log.lock().iter().any(|l| l.contains("ended while it was in use")));
    // Without fusectl only the end of this process would free the reader.
    let freed = fs::read_dir("/sys/fs/fuse/connections").is_ok_and(|mut d| d.next().is_some());
    if !freed {
        content.open_gate();
    }
    assert!(reader.wait().expect("cat").success() != freed);
}

/// Not a test: `cargo test --release -p vfs --test fuse_reads -- --ignored --nocapture bench`.
#[test]
#[ignore = "a measurement"]
fn bench_sequential_reads_against_bindfs() {
    if !support::can_mount("bench") || !support::is_root("bench") {
        return;
    }
    let bytes = noise(1 << 30, 4);
    let raw = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    fs::write(raw.path().join("file"), &bytes).expect("write");
    let bound = tempfile::tempdir().expect("a folder");
    let status = Command::new("bindfs").arg(raw.path()).arg(bound.path()).status().expect("bindfs");
    assert!(status.success());
    let m = mounted(one_file(Content::bytes(bytes)), |_| {});
    for flags in [&[][..], &["iflag=direct"][..]] {
        let rate = |path: PathBuf| {
            let mut best = f64::MAX;
            for _ in 0..5 {
                let _root = fs::write("/proc/sys/vm/drop_caches", "1");
                let start = Instant::now();
                let status = Command::new("dd")
                    .arg(format!("if={}", path.display()))
                    .args(["of=/dev/null", "bs=1M", "status=none"])
                    .args(flags)
                    .status();
                assert!(status.expect("dd").success());
                best = best.min(start.elapsed().as_secs_f64());
            }
            1024.0 / best
        };
        let (ours, theirs) = (rate(m.at.join("file")), rate(bound.path().join("file")));
        eprintln!("dd bs=1M {flags:?}: {ours:.0} MiB/s, bindfs {theirs:.0} MiB/s, {:.2} x", ours / theirs);
    }
    let status = Command::new("fusermount3").arg("-u").arg(bound.path()).status().expect("fusermount3");
    assert!(status.success());
}
