//! The NBD server with clients that others wrote: libnbd, QEMU, nbdkit.

mod common;

use std::{
    net::{Ipv4Addr, TcpListener},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use common::{EverySecondMegabyte, Ram, Served, checkered, installed, nbdsh, read_only, run, writable};
use exporters::nbd::{Config, Disk, Export, Exports, Limits, Listener, Server, uri};

/// libnbd's and QEMU's tools copy a disk with holes, byte for byte, and see its holes.
#[test]
fn tools_read_everything() {
    let served = Served::new(vec![read_only("disk", Ram::new(checkered()))]);
    let (uri, raw) = (served.uri("disk"), served.folder.path().join("expected"));
    let (raw, copy) = (raw.to_str().unwrap(), served.folder.path().join("copy"));
    std::fs::write(raw, checkered()).unwrap();
    let copied = || std::fs::read(&copy).unwrap() == checkered();
    let copy_name = copy.to_str().unwrap();
    if installed("nbdcopy") {
        run("nbdcopy", &[&uri, copy_name]);
        assert!(copied());
        run("nbdcopy", &["--synchronous", "--no-extents", &uri, copy_name]);
        assert!(copied());
        let map = run("nbdinfo", &["--map", "--totals", &uri]);
        assert!(map.contains("4194816") && map.contains("4194304"), "{map}");
    }
    if installed("qemu-img") {
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, raw]);
        let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
        assert_eq!(map.matches("\"zero\": true").count(), 4, "{map}");
        run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, copy_name]);
        assert!(copied());
        let changed = run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0 1M 1M", "-c", "read 8388000 1000", &uri]);
        assert!(!changed.contains("failed"), "{changed}");
    }
    if installed("nbdkit") && installed("nbdcopy") {
        let script = format!("nbdcopy \"$uri\" {copy_name}");
        run("nbdkit", &["-U", "-", "nbd", &format!("uri={uri}"), "--run", &script]);
        assert!(copied());
    }
}

/// A file of the host is sent straight from it, with simple replies and structured ones; when it turns out to be
/// shorter than it was, what is missing is an error and the connection goes on.
#[test]
fn files_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, checkered()).unwrap();
    let disk = blockdev::file::HostFile::open(&path).unwrap();
    let served = Served::new(vec![Export::new("", Disk::ReadOnly(Arc::new(disk)))]);
    let script = format!(
        r#"
expected = open("{0}", "rb").read()
h.set_strict_mode(0)
h.connect_uri(uri)
places = [(0, len(expected)), (1, 1 << 20), (100, 65536), ((2 << 20) - 7, 3 << 20)]
def all_well(places):
    for at, n in places:
        assert h.pread(n, at) == expected[at:at + n], (at, n)
all_well(places)
open("{0}", "r+b").truncate((6 << 20) + 12345)
fails(errno.EIO, h.pread, 1 << 20, 6 << 20)
fails(errno.EIO, h.pread, len(expected), 0)
fails(errno.EIO, h.pread, 512, 8 << 20)
all_well([(0, 5 << 20), (6 << 20, 12345)])
h.shutdown()
"#,
        path.display()
    );
    nbdsh(&served.uri(""), &script);
}

/// Exports have names and descriptions; the only one is the default one, one of several is not.
#[test]
fn exports_are_listed() {
    let mut first = read_only("first", Ram::new(checkered()));
    first.description = "the first disk".into();
    let served = Served::new(vec![first.clone(), read_only("sécond", Ram::new(vec![1; 512]))]);
    nbdsh(
        &served.uri(""),
        r#"
h.set_opt_mode(True)
h.connect_uri(uri)
found = []
assert h.opt_list(lambda *export: found.append(export)) == 2
assert found == [("first", "the first disk"), ("sécond", "")], found
fails(errno.ENOENT, h.opt_go)
h.set_export_name("first")
h.set_full_info(True)
h.opt_info()
assert h.get_canonical_export_name() == "first"
assert h.get_export_description() == "the first disk"
assert h.get_size() == 8 * 1024 * 1024 + 512
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 * 1024 * 1024
h.set_export_name("nothing")
fails(errno.ENOENT, h.opt_go)
h.set_export_name("sécond")
h.opt_go()
assert h.pread(512, 0) == b"\1" * 512
h.shutdown()
"#,
    );
    let served = Served::new(vec![first]);
    nbdsh(&served.uri(""), "h.connect_uri(uri)\nassert h.get_size() == 8 * 1024 * 1024 + 512\nh.shutdown()\n");
}

/// Each way to frame a reply delivers the same bytes: simple, structured with holes, structured and not fragmented.
#[test]
fn replies_of_each_form() {
    let served = Served::new(vec![read_only("", Ram::new(checkered()))]);
    std::fs::write(served.folder.path().join("expected"), checkered()).unwrap();
    let expected = served.folder.path().join("expected");
    let script = format!(
        r#"
expected = open("{}", "rb").read()
places = [(0, 1), (1, 4095), (0, 3 << 20), ((1 << 20) - 5, 20000), (1 << 20, 1 << 20), (8 << 20, 512), (0, len(expected))]
h.set_request_structured_replies(False)
h.connect_uri(uri)
assert not h.get_structured_replies_negotiated() and not h.can_df()
for at, n in places:
    assert h.pread(n, at) == expected[at:at + n], (at, n)
h.shutdown()
h = nbd.NBD()
h.connect_uri(uri)
assert h.get_structured_replies_negotiated() and h.can_df()
for at, n in places:
    assert h.pread(n, at) == expected[at:at + n], (at, n)
    whole = []
    h.pread_structured(n, at, lambda buf, *rest: whole.append(bytes(buf)), nbd.CMD_FLAG_DF)
    assert whole == [expected[at:at + n]], (at, n)
chunks = []
h.pread_structured(2 << 20, 512 << 10, lambda buf, at, status, err: chunks.append((at, len(buf), status)))
assert (1 << 20, 1 << 20, nbd.READ_HOLE) in chunks, chunks
chunks = []
h.pread_structured(2 << 20, 512 << 10, lambda buf, at, status, err: chunks.append((at, len(buf), status)), nbd.CMD_FLAG_DF)
assert chunks == [(512 << 10, 2 << 20, nbd.READ_DATA)], chunks
h.shutdown()
"#,
        expected.display()
    );
    nbdsh(&served.uri(""), &script);
}

/// Errors have the numbers of the specification, and the connection goes on after each.
#[test]
fn errors_do_not_end_the_connection() {
    let disk = Ram { bad: Some(1 << 20..(1 << 20) + 1), ..Ram::new(vec![7; 4 << 20]) };
    let limits = Limits { request: 1 << 20, ..Limits::default() };
    let served = Served::with(Config { limits, ..Config::default() }, vec![read_only("", disk)]);
    let script = r#"
h.set_strict_mode(0)
h.connect_uri(uri)
def alive():
    assert h.pread(512, 0) == b"\7" * 512
alive()
fails(errno.EIO, h.pread, 512, 1 << 20); alive()
fails(errno.EIO, h.pread, 1 << 20, 600 << 10); alive()
fails(errno.EINVAL, h.pread, 512, 4 << 20); alive()
fails(errno.EINVAL, h.pread, 512, (1 << 63) - 512); alive()
fails(errno.EOVERFLOW, h.pread, 2 << 20, 0); alive()
fails(errno.EPERM, h.pwrite, b"x" * 512, 0); alive()
fails(errno.EPERM, h.pwrite, b"x" * (2 << 20), 0); alive()
fails(errno.EPERM, h.zero, 512, 0); alive()
fails(errno.EPERM, h.trim, 512, 0); alive()
fails(errno.EINVAL, h.block_status, 512, 0, lambda *a: 0); alive()
fails(errno.EINVAL, h.cache, 512, 4 << 20); alive()
h.cache(1 << 20, 0); h.flush(); alive()
h.shutdown()
h = nbd.NBD()
h.set_strict_mode(0)
h.set_request_structured_replies(False)
h.connect_uri(uri)
fails(errno.EIO, h.pread, 512, 1 << 20); alive()
fails(errno.EINVAL, h.pread, 2 << 20, 0); alive()
h.shutdown()
"#;
    nbdsh(&served.uri(""), script);
}

/// Writes, zeros, trims and flushes reach the disk; a flush on one connection covers the other.
#[test]
fn writing() {
    let disk = Arc::new(Ram::new(vec![3; 4 << 20]));
    let served = Served::new(vec![writable("", &disk)]);
    let script = r#"
h.connect_uri(uri)
g = nbd.NBD()
g.connect_uri(uri)
assert h.can_multi_conn() and h.can_fua() and h.can_flush() and h.can_trim() and h.can_zero() and h.can_fast_zero()
assert not h.is_read_only()
h.pwrite(b"a" * 1000, 500)
assert g.pread(1002, 499) == b"\3" + b"a" * 1000 + b"\3"
g.flush()
h.pwrite(b"b" * (3 << 20), 1 << 20, nbd.CMD_FLAG_FUA)
h.zero(4096, 1 << 20)
h.zero(4096, (1 << 20) + 4096, nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, (1 << 20) + 8192, nbd.CMD_FLAG_FAST_ZERO)
fails(errno.ENOTSUP, h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
h.trim(4096, (2 << 20), nbd.CMD_FLAG_FUA)
assert h.pread(3 * 4096 + 1, 1 << 20) == b"\0" * 3 * 4096 + b"b"
h.set_strict_mode(0)
fails(errno.ENOSPC, h.pwrite, b"x" * 512, 4 << 20)
fails(errno.ENOSPC, h.zero, 8192, (4 << 20) - 4096)
fails(errno.EINVAL, h.trim, 8192, (4 << 20) - 4096)
h.shutdown(); g.shutdown()
"#;
    nbdsh(&served.uri(""), script);
    if installed("qemu-io") {
        let commands = ["-c", "write -P 9 0 64k", "-c", "write -z 64k 64k", "-c", "discard 128k 64k", "-c", "flush"];
        let before = disk.flushes.load(Ordering::SeqCst);
        run("qemu-io", &[&["-f", "raw"], &commands[..], &[served.uri("").as_str()]].concat());
        assert!(disk.bytes.read()[..64 << 10].iter().all(|&byte| byte == 9));
        assert!(disk.bytes.read()[64 << 10..192 << 10].iter().all(|&byte| byte == 0));
        assert!(disk.flushes.load(Ordering::SeqCst) > before);
    }
}

/// The end of a server makes writes durable.
#[test]
fn shutdown_flushes() {
    let disk = Arc::new(Ram::new(vec![3; 4096]));
    let mut served = Served::new(vec![writable("", &disk)]);
    served.server.take().unwrap().shutdown(Duration::from_secs(5)).unwrap();
    assert_eq!(disk.flushes.load(Ordering::SeqCst), 1);
    assert!(!served.socket.exists());
}

/// Block status tells holes, and changed blocks under the names of QEMU's bitmaps and under our own.
#[test]
fn metadata_contexts() {
    let mut export = read_only("", Ram::new(checkered()));
    export.changed = vec![("since-full".into(), Arc::new(EverySecondMegabyte))];
    let served = Served::new(vec![export]);
    let script = r#"
h.set_opt_mode(True)
h.connect_uri(uri)
def listed(*queries):
    h.clear_meta_contexts()
    for query in queries: h.add_meta_context(query)
    found = []
    h.opt_list_meta_context(found.append)
    return found
everything = ["base:allocation", "qemu:dirty-bitmap:since-full", "x-revenant:changed"]
assert listed() == everything
assert listed("base:") == everything[:1]
assert listed("qemu:") == listed("qemu:dirty-bitmap:") == everything[1:2]
assert listed("qemu:dirty-bitmap:other", "foo:bar") == []
h.clear_meta_contexts()
for name in everything + ["x-foo:bar"]: h.add_meta_context(name)
h.opt_go()
assert h.can_meta_context(everything[1]) and not h.can_meta_context("x-foo:bar")
got = {}
h.block_status(4 << 20, 512 << 10, lambda name, at, entries, err: got.__setitem__(name, list(entries)))
M = 1 << 20
assert got[everything[0]] == [M // 2, 0, M, 3, M, 0, M, 3, M // 2, 0], got
assert got[everything[1]] == got[everything[2]] == [M // 2, 0, M, 1, M, 0, M, 1, M // 2, 0], got
got = {}
h.block_status(4 << 20, 0, lambda name, at, entries, err: got.__setitem__(name, list(entries)), nbd.CMD_FLAG_REQ_ONE)
assert got[everything[0]] == got[everything[1]] == [M, 0], got
h.shutdown()
"#;
    nbdsh(&served.uri(""), script);
    if installed("qemu-img") {
        let options = format!(
            "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:since-full",
            served.socket.display()
        );
        let map = run("qemu-img", &["map", "--output=json", "--image-opts", &options]);
        // QEMU shows dirty blocks as not "data".
        assert_eq!(map.matches("\"data\": false").count(), 4, "{map}");
    }
}

/// QEMU 10 speaks extended headers: a disk of 8 TiB is told as one hole, and zeroed by one request.
#[test]
fn qemu_uses_extended_headers() {
    struct Huge;
    impl blockdev::ReadAt for Huge {
        fn size(&self) -> u64 {
            8 << 40
        }
        fn read_at(&self, buf: &mut [u8], _: u64) -> blockdev::Result<usize> {
            buf.fill(0);
            Ok(buf.len())
        }
        fn extent_at(&self, offset: u64) -> blockdev::Result<Option<blockdev::Extent>> {
            let kind = blockdev::ExtentKind::Hole;
            Ok((offset < 8 << 40).then_some(blockdev::Extent { range: offset..8 << 40, kind }))
        }
        fn map(&self, _: u64, _: u64) -> Option<blockdev::MappedRun<'_>> {
            None
        }
    }
    impl blockdev::BlockDevice for Huge {
        fn block_sizes(&self) -> blockdev::BlockSizes {
            blockdev::BlockSizes::NATIVE_4K
        }
    }
    let served = Served::new(vec![Export::new("", Disk::ReadOnly(Arc::new(Huge)))]);
    if installed("qemu-img") {
        let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &served.uri("")]);
        assert_eq!(map.matches("start").count(), 1, "{map}");
        run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0 7T 1M", &served.uri("")]);
    }
    nbdsh(&served.uri(""), "h.connect_uri(uri)\nassert h.get_block_size(nbd.SIZE_MINIMUM) == 4096\nh.shutdown()\n");
}

/// Sixteen slow reads at a time take about as long as one, and are answered while others are still being done.
#[test]
fn slow_reads_do_not_wait_for_each_other() {
    let disk = Ram { delay: Duration::from_millis(20), ..Ram::new(vec![5; 1 << 20]) };
    let served = Served::new(vec![read_only("", disk)]);
    let started = Instant::now();
    let script = r#"
h.connect_uri(uri)
buffers = [nbd.Buffer(4096) for _ in range(160)]
cookies = [h.aio_pread(buffer, 4096 * i) for i, buffer in enumerate(buffers)]
while h.aio_in_flight() > 0:
    h.poll(-1)
    for cookie in list(cookies):
        if h.aio_command_completed(cookie): cookies.remove(cookie)
assert all(buffer.to_bytearray() == b"\5" * 4096 for buffer in buffers)
h.shutdown()
"#;
    nbdsh(&served.uri(""), script);
    // One after the other they take 3.2 s.
    assert!(started.elapsed() < Duration::from_millis(2400), "{:?}", started.elapsed());
}

/// TCP, IPv4 and IPv6.
#[test]
fn tcp() {
    let exports = Exports::new();
    exports.insert(read_only("disk", Ram::new(vec![1; 4096]))).unwrap();
    let mut listeners = Listener::tcp("127.0.0.1:0").unwrap();
    listeners.extend(Listener::tcp("[::1]:0").unwrap_or_default());
    let server = Server::start(Config::default(), Arc::new(exports), listeners).unwrap();
    for address in server.addresses() {
        let uri = uri(address, "disk");
        nbdsh(&uri, "h.connect_uri(uri)\nassert h.pread(4096, 0) == b'\\1' * 4096\nh.shutdown()\n");
    }
}

/// A process that is handed a listening socket serves it (systemd's protocol, spoken by a shell).
#[test]
fn socket_activation() {
    let example = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/nbd_serve");
    if !example.is_file() || !installed("nbdinfo") {
        eprintln!("skipped: the example nbd_serve is not built");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::write(&disk, vec![1; 8192]).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut child = Command::new("sh")
        .args(["-c", "exec 3<&0 0<&1 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" activated \"$1\""])
        .arg(example)
        .arg(&disk)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::from(
            std::os::unix::net::UnixStream::pair()
                .map(|(ours, theirs)| {
                    // Kept open: the example ends with its standard input.
                    std::mem::forget(ours);
                    OwnedFd::from(theirs)
                })
                .unwrap(),
        ))
        .spawn()
        .unwrap();
    let size = run("nbdinfo", &["--size", &format!("nbd://127.0.0.1:{port}")]);
    assert_eq!(size.trim(), "8192");
    child.kill().unwrap();
    child.wait().unwrap();
}
