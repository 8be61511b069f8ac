//! Restoring to a real filesystem, compared with the model: everything that belongs to a file, and everything that a
//! hostile tree or a hostile target could try.

mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use md5::Digest as _;
use support::{
    Body, Mem,
    compare::{ALL, Wanted, differences},
    content::{Content, noise},
    sample,
};
use vfs::{
    extract::{
        Options, Progress, Source, Summary, Verify,
        archive::{self, Format},
        extract,
    },
    node::{Kind, StoredDigest},
};
use volreader::digest::Algorithm;

const CONTENTS: Wanted = Wanted { root: false, ..ALL };

fn source(mem: &Arc<Mem>) -> Source {
    Source { node: support::node(mem.clone()), name: b"name".to_vec() }
}

fn run(mem: &Arc<Mem>, to: &Path, change: impl FnOnce(&mut Options)) -> Summary {
    let mut options = Options::default();
    change(&mut options);
    extract(&[source(mem)], to, &options, &()).expect("the target can be used")
}

fn assert_same(model: &Mem, real: &Path) {
    let found = differences(model, real, CONTENTS);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn dir(entries: Vec<(&[u8], Mem)>) -> Arc<Mem> {
    let mut ino = 10_000;
    Arc::new(Mem::dir(entries.into_iter().map(|(name, mem)| {
        ino += 1;
        let mem = if mem.attributes.ino == 0 { mem.ino(ino) } else { mem };
        (name.to_vec(), Arc::new(mem))
    })))
}

fn with_digest(content: Content, algorithm: Algorithm) -> Mem {
    let bytes = content.stored_bytes();
    let value = match algorithm {
        Algorithm::Md5 => md5::Md5::digest(&bytes).to_vec(),
        Algorithm::Sha1 => sha1::Sha1::digest(&bytes).to_vec(),
        Algorithm::Sha256 => sha2::Sha256::digest(&bytes).to_vec(),
        _ => sha2::Sha512::digest(&bytes).to_vec(),
    };
    let mut mem = Mem::file(content);
    mem.digest = Some(StoredDigest { algorithm, value });
    mem
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Names in `dir` that look unfinished.
fn unfinished(dir: &Path) -> usize {
    let listed = Command::new("find").arg(dir).args(["-name", "*.part"]).output().expect("find");
    listed.stdout.iter().filter(|b| **b == b'\n').count()
}

#[test]
fn everything_is_restored() {
    if !support::is_root("everything_is_restored") {
        return;
    }
    for workers in [1, 4] {
        let (model, to) = (sample::tree(), temporary());
        let summary = run(&model, to.path(), |o| o.workers = Some(workers));
        assert_eq!((&summary.failures, &summary.warnings), (&vec![], &vec![]));
        assert_eq!((summary.files, summary.dirs, summary.exit_code()), (25, 3, 0));
        assert_same(&model, to.path());
        // Over itself: everything is replaced and nothing has changed.
        assert_eq!(run(&model, to.path(), |_| {}).exit_code(), 0);
        assert_same(&model, to.path());
        assert_eq!(unfinished(to.path()), 0);
    }
}

#[test]
fn a_user_restores_what_a_user_may() {
    if !support::is_root("a_user_restores_what_a_user_may") {
        return;
    }
    // A user of its own, by way of a shell: this process stays root for the other tests.
    let to = temporary();
    fs::set_permissions(to.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let exe = std::env::current_exe().expect("known");
    let copy = to.path().join("test-program");
    fs::copy(exe, &copy).expect("copy");
    let output = Command::new("setpriv")
        .args(["--reuid=12345", "--regid=12345", "--clear-groups"])
        .arg(&copy)
        .args(["--ignored", "--exact", "as_a_user", "--nocapture"])
        .env("EXTRACT_TO", to.path().join("out"))
        .current_dir(to.path())
        .output()
        .expect("setpriv");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The part of the test above that is no root.
#[test]
#[ignore = "run by a_user_restores_what_a_user_may"]
fn as_a_user() {
    let Some(to) = std::env::var_os("EXTRACT_TO") else { return };
    let (model, to) = (sample::tree(), Path::new(&to));
    let summary = run(&model, to, |_| {});
    let failed: Vec<_> = summary.failures.iter().map(|f| f.path.clone()).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed.contains(&b"null".to_vec()) && failed.contains(&b"disk".to_vec()));
    assert_eq!(summary.exit_code(), 1);
    assert!(summary.warnings.iter().any(|w| w.contains("owners are not restored")));
    assert!(summary.warnings.iter().any(|w| w.starts_with("setuid: set-id bits")));
    assert_eq!(fs::metadata(to.join("setuid")).expect("there").mode() & 0o7777, 0o755);
    let wanted = Wanted { owners: false, devices: false, ..CONTENTS };
    let found = differences(&model, to, wanted);
    assert!(found.iter().all(|f| f.contains("setuid") && f.contains("mode")), "{}", found.join("\n"));
}

#[test]
fn sources_are_files_and_contents_of_folders() {
    let to = temporary();
    let file = Arc::new(Mem::file(Content::bytes("single")).ino(5));
    let folder = dir(vec![(b"inside", Mem::file(Content::bytes("in a folder")))]);
    let sources = [source(&file), source(&folder)];
    let target = to.path().join("made/on/the/way");
    let summary = extract(&sources, &target, &Options::default(), &()).expect("made");
    assert_eq!(summary.exit_code(), 0);
    assert_eq!(fs::read(target.join("name")).expect("there"), b"single");
    assert_eq!(fs::read(target.join("inside")).expect("there"), b"in a folder");
    for name in [&b".."[..], b"a/b", b"", b".", b"nul\0"] {
        let bad = Source { name: name.to_vec(), ..source(&file) };
        assert!(extract(&[bad], &target, &Options::default(), &()).is_err(), "{}", name.escape_ascii());
    }
}

#[test]
fn hostile_names_stay_inside() {
    let to = temporary();
    let target = to.path().join("target");
    let names: [&[u8]; 8] = [b"..", b".", b"", b"../outside", b"/etc/outside", b"a/b", b"nul\0byte", &[b'x'; 256]];
    let mut entries: Vec<_> = names.iter().map(|n| (*n, Mem::file(Content::bytes("hostile")))).collect();
    entries.push((b"good", Mem::file(Content::bytes("good"))));
    let summary = run(&dir(entries), &target, |_| {});
    assert_eq!((summary.files, summary.failed, summary.exit_code()), (1, names.len() as u64, 1));
    let there: Vec<_> = fs::read_dir(&target).expect("there").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(there, ["good"]);
    assert_eq!(fs::read_dir(to.path()).expect("there").count(), 1);
}

#[test]
fn links_are_never_followed() {
    let to = temporary();
    let (target, outside) = (to.path().join("target"), to.path().join("outside"));
    fs::create_dir(&target).expect("create");
    fs::create_dir(&outside).expect("create");
    fs::write(outside.join("victim"), "untouched").expect("write");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o711)).expect("chmod");
    // Links in the target, where files and a directory are to be.
    symlink(&outside, target.join("folder")).expect("link");
    symlink(outside.join("victim"), target.join("file")).expect("link");
    symlink(outside.join("created"), target.join("dangling")).expect("link");
    fs::hard_link(outside.join("victim"), target.join("hard")).expect("link");
    let inner = Mem::dir([(b"victim".to_vec(), Arc::new(Mem::file(Content::bytes("restored")).ino(50)))]).ino(51);
    // And one in the tree, made before a directory of the same name.
    let mut model = (*dir(vec![
        (b"folder", inner.clone()),
        (b"file", Mem::file(Content::bytes("restored"))),
        (b"dangling", Mem::file(Content::bytes("restored"))),
        (b"hard", Mem::file(Content::bytes("restored"))),
        (b"trap", Mem::symlink(outside.as_os_str().as_encoded_bytes())),
    ]))
    .clone();
    let Body::Dir(entries) = &mut model.body else { unreachable!() };
    entries.push((b"trap".to_vec(), Arc::new(inner)));
    let summary = run(&Arc::new(model), &target, |o| o.workers = Some(1));
    for name in ["folder/victim", "file", "dangling", "hard"] {
        assert_eq!(fs::read(target.join(name)).expect("there"), b"restored", "{name}");
        assert!(!fs::symlink_metadata(target.join(name)).expect("there").is_symlink());
    }
    assert_eq!(fs::read(outside.join("victim")).expect("there"), b"untouched");
    assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
    assert_eq!(fs::metadata(&outside).expect("there").mode() & 0o7777, 0o711);
    assert!(summary.failed <= 1);
}

#[test]
fn what_is_there_is_kept_if_asked() {
    let to = temporary();
    fs::write(to.path().join("a"), "mine").expect("write");
    fs::create_dir(to.path().join("d")).expect("create");
    let model = dir(vec![
        (b"a", Mem::file(Content::bytes("theirs"))),
        (b"b", Mem::file(Content::bytes("theirs"))),
        (b"d", Mem::file(Content::bytes("theirs"))),
    ]);
    let summary = run(&model, to.path(), |o| o.keep_existing = true);
    assert_eq!((summary.kept, summary.files, summary.failed), (2, 1, 0));
    assert_eq!(fs::read(to.path().join("a")).expect("there"), b"mine");
    // A directory gets what it lacks, and stays as it is otherwise.
    let inner = Mem::dir([(b"inside".to_vec(), Arc::new(Mem::file(Content::bytes("x")).ino(6)))]).ino(5).mode(0o700);
    let before = fs::metadata(to.path().join("d")).expect("there").mode();
    let summary = run(&dir(vec![(b"d", inner)]), to.path(), |o| o.keep_existing = true);
    assert_eq!((summary.files, summary.dirs, summary.failed), (1, 0, 0));
    assert_eq!(fs::metadata(to.path().join("d")).expect("there").mode(), before);
    // A directory is not replaced by a file in any case.
    let summary = run(&model, to.path(), |_| {});
    assert_eq!((summary.files, summary.failed, summary.exit_code()), (2, 1, 1));
    assert!(summary.failures[0].to_string().starts_with("d: a directory is in its place"));
    assert_eq!(fs::read(to.path().join("a")).expect("there"), b"theirs");
    assert_eq!(unfinished(to.path()), 0);
}

#[test]
fn digests_are_verified() {
    let to = temporary();
    let sparse = || Content::sparse(9 << 20, vec![(1 << 20, noise(6 << 20, 3)), ((8 << 20) + 5, noise(100, 4))]);
    let mut wrong = with_digest(Content::bytes(noise(5 << 20, 5)), Algorithm::Sha1);
    let mut small = with_digest(Content::bytes("small"), Algorithm::Md5);
    for mem in [&mut wrong, &mut small] {
        mem.digest.as_mut().expect("given").value[3] ^= 1;
    }
    let model = dir(vec![
        (b"md5", with_digest(Content::bytes(noise(100_000, 1)), Algorithm::Md5)),
        (b"sha1", with_digest(sparse(), Algorithm::Sha1)),
        (b"sha256", with_digest(Content::bytes(""), Algorithm::Sha256)),
        (b"sha512", with_digest(Content::bytes(noise(4 << 20, 2)), Algorithm::Sha512)),
        (b"wrong", wrong),
        (b"small", small),
    ]);
    let summary = run(&model, to.path(), |_| {});
    let mut failed: Vec<_> = summary.failures.iter().map(ToString::to_string).collect();
    failed.sort();
    assert_eq!(
        failed,
        [
            "small: its content does not match its stored digest (Md5)",
            "wrong: its content does not match its stored digest (Sha1)"
        ]
    );
    assert_eq!((summary.files, summary.partly, summary.exit_code()), (4, 2, 1));
    let found = differences(&model, to.path(), Wanted { owners: false, ..CONTENTS });
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert_eq!(run(&model, to.path(), |o| o.verify = Verify::None).exit_code(), 0);
}

#[test]
fn the_readable_rest_is_restored() {
    for (verify, workers) in [(Verify::Digest, 1), (Verify::None, 4)] {
        let to = temporary();
        let size = 70 << 20;
        let bad = [2_000_001..2_010_000_u64, 20_000_000..26_000_000, size - 1..size];
        let content = bad.iter().cloned().fold(Content::bytes(noise(size as usize, 8)), Content::failing);
        let model =
            dir(vec![(b"damaged", with_digest(content, Algorithm::Md5)), (b"fine", Mem::file(Content::bytes("f")))]);
        let summary = run(&model, to.path(), |o| (o.verify, o.workers) = (verify, Some(workers)));
        assert_eq!((summary.files, summary.partly, summary.failed, summary.exit_code()), (1, 1, 1, 1));
        let failure = &summary.failures[0];
        assert_eq!((failure.path.as_slice(), failure.ranges.as_slice()), (&b"damaged"[..], &bad[..]));
        assert!(failure.reason.contains("Vol-1: block at "), "{failure}");
        assert_eq!(
            failure.to_string().split(": ").nth(1),
            Some("bytes 2000001-2009999, 20000000-25999999, 73400319-73400319")
        );
        let expected = model.entries()[0].1.content().expect("a file").expanded();
        assert!(fs::read(to.path().join("damaged")).expect("there") == expected);
    }
}

#[test]
fn a_lost_volume_does_not_take_for_ever() {
    let to = temporary();
    let size = 1_u64 << 30;
    let content = Content::bytes(vec![1; size as usize]).failing(0..size);
    let model = dir(vec![(b"lost", Mem::file(content))]);
    let summary = run(&model, to.path(), |_| {});
    assert_eq!(summary.failures[0].ranges, vec![0..size; 1]);
    let reads = model.entries()[0].1.content().expect("a file").reads.load(Ordering::Relaxed);
    assert!(reads < 100_000, "{reads} reads");
}

#[test]
fn large_files_are_shared_between_workers() {
    let to = temporary();
    let runs = vec![(3, noise(70 << 20, 1)), (100 << 20, noise(50 << 20, 2))];
    let model = dir(vec![(b"large", Mem::file(Content::sparse(200 << 20, runs)))]);
    let summary = run(&model, to.path(), |o| (o.verify, o.workers) = (Verify::None, Some(4)));
    assert_eq!((summary.exit_code(), summary.bytes), (0, 200 << 20));
    let found = differences(&model, to.path(), Wanted { owners: false, ..CONTENTS });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn paths_of_any_depth() {
    const DEPTH: usize = 3000;
    let to = temporary();
    let linked = Arc::new(Mem::file(Content::bytes("deep")).ino(7).nlink(2));
    let mut mem = Mem::dir([(b"file".to_vec(), linked.clone())]).ino(10).mtime(1_000_000_000, 0);
    for n in 0..DEPTH {
        mem = Mem::dir([(b"d".to_vec(), Arc::new(mem))]).ino(20 + n as u64).mtime(1_000_000_000 + n as i64, 0);
    }
    let model = Arc::new(Mem::dir([(b"d".to_vec(), Arc::new(mem)), (b"top".to_vec(), linked)]).ino(1));
    let summary = run(&model, to.path(), |_| {});
    assert_eq!((&summary.failures, summary.dirs, summary.files), (&vec![], DEPTH as u64 + 1, 2));
    // `find` goes down by descriptors as well.
    let script = r#"cd "$0" && find . -name file -links 2 | wc -c && find . -depth -type d -newermt @1000001999 ! -newermt @1000002001 | wc -l"#;
    let output = Command::new("sh").arg("-c").arg(script).arg(to.path()).output().expect("sh");
    let shown = String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(shown, [(2 * DEPTH + 9).to_string(), "2".to_owned()], "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::metadata(to.path().join("d")).expect("there").mtime(), 1_000_000_000 + DEPTH as i64 - 1);
    let removed = Command::new("rm").arg("-rf").arg(to.path().join("d")).status().expect("rm");
    assert!(removed.success());
}

#[test]
fn a_full_disk_stops_cleanly() {
    if !support::is_root("a_full_disk_stops_cleanly") {
        return;
    }
    let to = temporary();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(to.path()).status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!("a_full_disk_stops_cleanly: skipped, nothing can be mounted here");
        return;
    }
    let files: Vec<_> = (0..40_u64).map(|n| format!("f{n:02}")).collect();
    let model = dir(files.iter().map(|f| (f.as_bytes(), Mem::file(Content::bytes(noise(1 << 20, 1))))).collect());
    let summary = run(&model, to.path(), |_| {});
    let whole = fs::read_dir(to.path()).expect("there").map(|e| e.expect("entry").metadata().expect("there").len());
    let whole: Vec<_> = whole.collect();
    let unfinished = unfinished(to.path());
    let unmounted = Command::new("umount").arg(to.path()).status().expect("umount");
    assert!(unmounted.success());
    assert!(whole.iter().all(|len| *len == 1 << 20) && whole.len() as u64 == summary.files, "{whole:?}");
    assert_eq!((unfinished, summary.failed, summary.exit_code()), (0, 0, 1));
    let stopped = summary.stopped.expect("it stopped");
    assert!(stopped.starts_with("the target is full: "), "{stopped}");
}

#[test]
fn refused_attributes_are_warnings() {
    let to = temporary();
    let model = dir(vec![(b"odd", Mem::file(Content::bytes("x")).xattr("nonsense.name", b"v").xattr("", b"v"))]);
    let summary = run(&model, to.path(), |_| {});
    assert_eq!((summary.files, summary.failed, summary.exit_code()), (1, 0, 0));
    assert!(summary.warnings.iter().any(|w| w.starts_with("odd: attribute nonsense.name not restored: ")));
    assert!(summary.warnings.iter().any(|w| w.contains("without a proper name")));
}

#[derive(Default)]
struct Watch {
    found: [AtomicU64; 2],
    done: [AtomicU64; 2],
    all: AtomicBool,
    cancel_after: Option<u64>,
}

impl Progress for Watch {
    fn found(&self, files: u64, bytes: u64) {
        self.found[0].fetch_add(files, Ordering::Relaxed);
        self.found[1].fetch_add(bytes, Ordering::Relaxed);
    }

    fn all_found(&self) {
        self.all.store(true, Ordering::Relaxed);
    }

    fn done(&self, files: u64, bytes: u64) {
        self.done[0].fetch_add(files, Ordering::Relaxed);
        self.done[1].fetch_add(bytes, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.cancel_after.is_some_and(|n| self.done[1].load(Ordering::Relaxed) >= n)
    }
}

#[test]
fn progress_adds_up_and_can_cancel() {
    let to = temporary();
    let model = dir(vec![
        (b"a", Mem::file(Content::bytes(noise(5_000_000, 1)))),
        (b"b", Mem::file(Content::sparse(7_000_000, vec![(9, b"x".to_vec())]))),
        (b"c", Mem::symlink(b"a")),
    ]);
    let watch = Watch::default();
    extract(&[source(&model)], to.path(), &Options::default(), &watch).expect("can be used");
    let [files, bytes] =
        [0, 1].map(|n| (watch.found[n].load(Ordering::Relaxed), watch.done[n].load(Ordering::Relaxed)));
    assert_eq!((files, bytes, watch.all.load(Ordering::Relaxed)), ((3, 3), (12_000_000, 12_000_000), true));

    let to = temporary();
    let model = dir(vec![(b"large", Mem::file(Content::bytes(noise(50 << 20, 1))))]);
    let watch = Watch { cancel_after: Some(1 << 20), ..Watch::default() };
    let summary = extract(&[source(&model)], to.path(), &Options::default(), &watch).expect("can be used");
    assert_eq!((summary.stopped.as_deref(), summary.failed, summary.exit_code()), (Some("cancelled"), 0, 2));
    assert_eq!(fs::read_dir(to.path()).expect("there").count(), 0);
}

#[test]
fn hard_links_share_one_file_whoever_comes_first() {
    let to = temporary();
    let linked = Arc::new(Mem::file(Content::bytes(noise(20 << 20, 1))).ino(7).nlink(50));
    let fifo = Arc::new(Mem::special(Kind::Fifo, (0, 0)).ino(8).nlink(2));
    let mut entries: Vec<_> = (0..50).map(|n| (format!("{n}").into_bytes(), linked.clone())).collect();
    entries.extend([(b"fifo1".to_vec(), fifo.clone()), (b"fifo2".to_vec(), fifo)]);
    let model = Arc::new(Mem::dir(entries).ino(1));
    let summary = run(&model, to.path(), |o| o.workers = Some(8));
    assert_eq!((summary.files, summary.failed), (52, 0));
    assert_eq!(fs::metadata(to.path().join("17")).expect("there").nlink(), 50);
    assert_eq!(fs::metadata(to.path().join("fifo1")).expect("there").nlink(), 2);
    // A file that cannot be written fails all its names, and says so.
    fs::create_dir(to.path().join("d")).expect("create");
    let model = dir(vec![
        (b"d", Mem::file(Content::bytes("x")).ino(9).nlink(2)),
        (b"e", Mem::file(Content::bytes("x")).ino(9).nlink(2)),
    ]);
    let summary = run(&model, to.path(), |o| o.workers = Some(1));
    assert_eq!((summary.failed, summary.exit_code()), (2, 2));
}

/// Not a test: `cargo test --release -p vfs --test extract -- --ignored --nocapture bench`.
#[test]
#[ignore = "a measurement"]
fn bench_large_and_small_files() {
    let large = |digest: bool| {
        let content = Content::bytes(noise(1 << 30, 1));
        let mem = if digest { with_digest(content, Algorithm::Md5) } else { Mem::file(content) };
        dir(vec![(b"large", mem)])
    };
    let small: Vec<_> = (0..20_000_u64).map(|n| format!("{n}")).collect();
    let small = dir(small
        .iter()
        .map(|n| (n.as_bytes(), with_digest(Content::bytes(noise(4000, 1)), Algorithm::Md5)))
        .collect());
    for (what, model) in [("1 GiB, MD5", large(true)), ("1 GiB", large(false)), ("20,000 of 4,000 bytes, MD5", small)] {
        for workers in [1, 2] {
            let to = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
            let start = std::time::Instant::now();
            let summary = run(&model, to.path(), |o| o.workers = Some(workers));
            assert_eq!(summary.exit_code(), 0);
            eprintln!("{what}, {workers} workers: {:.2} s", start.elapsed().as_secs_f64());
        }
    }
}

/// A file that stays sparse: zeros are passed over.
struct Sparse {
    file: fs::File,
    at: u64,
}

impl std::io::Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, self.at)?;
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.at)
    }
}

/// More members, a longer member and farther places than the fields of plain zip have room for, as Python reads them.
#[test]
fn zip_archives_of_any_size() {
    const MEMBERS: u64 = 66_000;
    const LONG: u64 = (4 << 30) + 12_345;
    if Command::new("python3").arg("--version").output().is_err() {
        println!("SKIPPED: python3 is not installed");
        return;
    }
    let folder = temporary();
    let path = folder.path().join("large.zip");
    let long = Mem::file(Content::sparse(LONG, vec![(LONG - 4, b"last".to_vec())])).ino(1);
    let small = (0..MEMBERS).map(|number| {
        let content = if number == MEMBERS - 1 { b"the end".to_vec() } else { Vec::new() };
        (format!("member-{number:05}").into_bytes(), Arc::new(Mem::file(Content::bytes(content)).ino(number + 2)))
    });
    let tree = Arc::new(Mem::dir(std::iter::once((b"a long one".to_vec(), Arc::new(long))).chain(small)));
    let mut out = Sparse { file: fs::File::create(&path).expect("an archive"), at: 0 };
    let summary = archive::write(&[source(&tree)], &mut out, Format::ZipStored, &Options::default(), &());
    assert!(summary.expect("written").failures.is_empty());
    std::io::Write::flush(&mut out).expect("its size");
    let script = "
import sys, zipfile
z = zipfile.ZipFile(sys.argv[1])
all = z.infolist()
long = z.getinfo('a long one')
last = max(all, key=lambda i: i.header_offset)
with z.open(long) as f:
    n = 0
    while part := f.read(1 << 22): n, end = n + len(part), part[-4:]
print(len(all), long.file_size, n, end.decode(), last.header_offset > 4 << 30, z.read(last).decode())
";
    let told = Command::new("python3").args(["-c", script]).arg(&path).output().expect("python3");
    let (found, error) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert_eq!(found.trim(), format!("{} {LONG} {LONG} last True the end", MEMBERS + 1), "{error}");
}
