//! The tree by NFS, with the clients of libnfs.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sha2::{Digest, Sha256};
use tests::{
    case::{self, Case},
    installed,
    program::{Revenant, Run, run_within},
    served::Served,
    temp,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A server of a tree, or of `path` in it.
fn serve(revenant: &Revenant, path: &str, more: &[&str]) -> Served {
    let mut args = vec!["export", "nfs", path, "--listen", "127.0.0.1:0", "--json"];
    args.extend(more);
    Served::start(&mut revenant.command(args.into_iter().filter(|a| !a.is_empty())))
}

/// What libnfs calls a path of the server.
fn url(served: &Served, path: &[u8]) -> OsString {
    let port = served.port();
    let mut url = OsString::from("nfs://127.0.0.1/");
    url.push(OsStr::from_bytes(path));
    url.push(format!("?version=3&nfsport={port}&mountport={port}"));
    url
}

fn tool(program: &str, args: &[&OsStr]) -> Run {
    run_within(Command::new(program).args(args), LIMIT)
}

fn job_path(revenant: &Revenant, key: &str) -> String {
    revenant.jobs().remove(0)[key].as_str().expect("a path").to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every file of a case byte for byte, and every name and size in a listing.
#[test]
fn what_was_backed_up_is_read() {
    if !installed("NFS with libnfs", &["nfs-ls", "nfs-cat"]) {
        return;
    }
    for name in ["plain-nosig", "special", "sparse", "span3"] {
        let Some(case) = case::optional(name) else { continue };
        let volumes = case.unpack();
        let revenant = Revenant::of(&case, volumes.path());
        let served = serve(&revenant, "", &[]);
        let root = job_path(&revenant, "tree_path");
        check_files(&case, &served, &root);
        if name != "special" {
            check_listing(&case, &served, &root);
        }
    }
}

fn check_files(case: &Case, served: &Served, root: &str) {
    let mut read = 0;
    for entry in case.first_manifest() {
        let (Some(wanted), "file") = (entry.facts["sha256"].as_str(), entry.text("type")) else { continue };
        // In an address a question mark begins the options, and libnfs knows no way to write one otherwise. It mounts the
        // folder of the file, whose path may have 1024 bytes (RFC 1813, appendix I).
        if entry.path.contains(&b'?') || entry.path.len() > 900 {
            continue;
        }
        let path = [root.as_bytes(), &entry.path].concat();
        let got = tool("nfs-cat", &[&url(served, &path)]).good();
        assert_eq!(sha256(&got.stdout), wanted, "{}: {}", case.name, entry.path.escape_ascii());
        read += 1;
    }
    assert!(read >= 3, "{}: {read} files", case.name);
}

fn check_listing(case: &Case, served: &Served, root: &str) {
    let listed = tool("nfs-ls", &["-R".as_ref(), &url(served, root.as_bytes())]).good().text();
    // Mode, links, owner, group, size, path.
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let size: u64 = fields.nth(4)?.parse().ok()?;
        Some((format!("/{}", fields.collect::<Vec<_>>().join(" ")), size))
    };
    let listed: BTreeMap<_, _> = listed.lines().filter_map(line).collect();
    for entry in case.first_manifest().iter().filter(|e| e.text("type") == "file") {
        let path = String::from_utf8(entry.path.clone()).expect("plain names");
        assert_eq!(listed.get(&path), entry.facts["size"].as_u64().as_ref(), "{}: {path}", case.name);
    }
}

/// A disk is copied at once, a folder is an export of its own, and nothing is written.
#[test]
fn disks_and_folders() {
    if !installed("NFS with libnfs", &["nfs-ls", "nfs-cp"]) {
        return;
    }
    let volume = case::machine_volume();
    let before = fs::read(volume.path().join("web01-0001")).expect("the volume");
    let revenant = Revenant::new(volume.path());
    let points = revenant.run(["points", "--json"]).json();
    let point = points.as_array().and_then(|p| p.last()).expect("a point");
    let served = serve(&revenant, point["tree_path"].as_str().expect("a path"), &["--allow", "127.0.0.1"]);
    let folder = temp();
    let copy = folder.path().join("disk0.raw");
    let lines = fs::read_to_string(case::machine_data("points.tsv")).expect("points.tsv");
    let last = lines.lines().rfind(|line| line.split_whitespace().nth(1) == Some("disk0")).expect("disk0");
    let _ = tool("nfs-cp", &[&url(&served, b"disks/disk0.raw"), copy.as_ref()]).good();
    assert_eq!(Some(&*sha256(&fs::read(&copy).expect("the copy"))), last.split_whitespace().nth(3));
    // Another face of it is a whole image file.
    let image = folder.path().join("disk0.qcow2");
    let _ = tool("nfs-cp", &[&url(&served, b"disks/disk0.qcow2"), image.as_ref()]).good();
    if installed("judging an image read by NFS", &["qemu-img"]) {
        let args = ["compare", "-f", "qcow2", "-F", "raw"].map(OsStr::new);
        let _ = tool("qemu-img", &[&args[..], &[image.as_ref(), copy.as_ref()]].concat()).good();
    }
    let refused = tool("nfs-cp", &[copy.as_ref(), &url(&served, b"disks/new.raw")]);
    assert!(refused.code() != Some(0) && refused.stderr.contains("ROFS"), "{refused:?}");
    let refused = tool("nfs-ls", &[&url(&served, b"disks/../../..")]);
    assert_ne!(refused.code(), Some(0), "nothing is above the export");
    assert!(fs::read(volume.path().join("web01-0001")).expect("the volume") == before);
}

/// Who may not connect is told so by nothing but the end; wrong words are told; the end is quick and clean.
#[test]
fn access_and_end() {
    let case = case::shipped("plain-nosig");
    let volumes = case.unpack();
    let revenant = Revenant::of(&case, volumes.path());
    for (args, told) in [
        (&["--listen", "0.0.0.0:0"][..], "--allow"),
        (&["--listen", "127.0.0.1:0", "--allow", "10.0.0.0/99"], "10.0.0.0/99"),
        (&["--listen", "nowhere.invalid:1"], "nowhere.invalid:1"),
        (&["jobs/nothing", "--listen", "127.0.0.1:0"], "jobs/nothing"),
    ] {
        let run = revenant.run([&["export", "nfs"], args].concat());
        assert_eq!(run.code(), Some(2), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(told) && run.stderr.lines().count() == 1, "{args:?}: {}", run.stderr);
    }
    let mut served = serve(&revenant, "", &["--allow", "192.0.2.1"]);
    if installed("an NFS client that is refused", &["nfs-ls"]) {
        let refused = run_within(Command::new("timeout").arg("5").arg("nfs-ls").arg(url(&served, b"")), LIMIT);
        assert_ne!(refused.code(), Some(0));
        assert!(served.said().contains("not among those that are allowed"), "{}", served.said());
    }
    let _connected = std::net::TcpStream::connect(("127.0.0.1", served.port() as u16)).expect("a connection");
    let start = Instant::now();
    assert!(served.end(Signal::TERM).success(), "{}", served.said());
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// Ports of their own for mounting and for asking after ports, which libnfs then does.
#[test]
fn own_port_mapper() {
    if !tests::is_root() || !installed("NFS with a port mapper", &["nfs-ls", "unshare", "ip"]) {
        eprintln!("SKIPPED: NFS with a port mapper needs a network namespace of its own");
        return;
    }
    let case = case::shipped("plain-nosig");
    let volumes = case.unpack();
    let revenant = Revenant::of(&case, volumes.path());
    let program = tests::program::path();
    let script = r#"
        ip link set lo up || exit 77
        "$0" export nfs --listen 127.0.0.1:20049 --mount-port 20048 --portmap -q --volumes "$1" --cache "$2" >"$2/told" &
        server=$!
        for n in $(seq 200); do [ -s "$2/told" ] && break; sleep 0.1; done
        nfs-ls 'nfs://127.0.0.1/?version=3'; result=$?
        kill $server; wait $server || exit 78
        exit $result
    "#;
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", script]).arg(program).arg(volumes.path()).arg(revenant.cache.path());
    command.env("REVENANT_CONFIG", Path::new("/dev/null"));
    let run = run_within(&mut command, LIMIT);
    if run.code() == Some(77) || run.stderr.contains("unshare failed") {
        eprintln!("SKIPPED: NFS with a port mapper: no network namespace: {}", run.stderr);
        return;
    }
    let run = run.good();
    assert!(run.text().contains("jobs") && run.text().contains("clients"), "{}", run.text());
}
