//! What the tests of all families share: images that stock tools made with manifests that their kernel or tool wrote, the
//! comparison of a whole tree with such a manifest, and the test that harms metadata.
#![allow(dead_code, reason = "each test program uses some of it")]

pub mod kernel;
#[path = "../../../tests/src/random.rs"]
mod random;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use blockdev::{
    BlockDevice, BlockSizes, Extent, MappedRun, ReadAt, Result,
    file::HostFile,
    images::{self, Disk, Units, gate::HostFolder},
    layers::AsDevice,
    partitions::{Survey, survey},
};
use guestfs::{FileId, FileSystem, Kind};
pub use random::Random;
use sha2::{Digest, Sha256};

/// Entries of one directory that are asked for at once: small, so that going on from a cookie is tested too.
const PAGE: usize = 700;

/// The folder with the images that `tests/lab/make-guest-images.sh` makes, as `REVENANT_GUEST_IMAGES` names it.
pub fn guest_images() -> Option<PathBuf> {
    let folder = std::env::var_os("REVENANT_GUEST_IMAGES").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED: REVENANT_GUEST_IMAGES names no folder with guest images (`cargo xtask test` makes one)");
    }
    folder
}

/// The image of the lab called `name` (`vol/ext4.raw`), where it could be made on this machine.
pub fn lab(name: &str) -> Option<PathBuf> {
    let path = guest_images()?.join(name);
    if !path.exists() {
        println!("SKIPPED: {} could not be made on this machine", path.display());
        return None;
    }
    Some(path)
}

/// The file `name` of the folder of foreign images that `REVENANT_TESTDATA` names, unpacked.
pub fn foreign(name: &str) -> Option<Vec<u8>> {
    let Some(folder) = std::env::var_os("REVENANT_TESTDATA") else {
        println!("SKIPPED: REVENANT_TESTDATA is not set: {name} is not at hand");
        return None;
    };
    let path = Path::new(&folder).join("images").join(name);
    let packed = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    match path.extension().and_then(|e| e.to_str()) {
        Some("zst") => Some(zstd::decode_all(packed.as_slice()).unwrap()),
        Some("bz2") => Some(by_tool("bzip2", &path)),
        Some("gz") => Some(by_tool("gzip", &path)),
        _ => Some(packed),
    }
}

fn by_tool(tool: &str, path: &Path) -> Vec<u8> {
    let output = std::process::Command::new(tool).arg("-dc").arg(path).output().unwrap();
    assert!(output.status.success(), "{tool} {}", path.display());
    output.stdout
}

/// The manifest of a foreign image: `images/manifests/<name>.tsv`.
pub fn foreign_manifest(name: &str) -> String {
    String::from_utf8(foreign(&format!("manifests/{name}.tsv")).unwrap()).unwrap()
}

/// The disk in the foreign image `name`, which has no parents.
pub fn foreign_disk(name: &str) -> Option<Arc<dyn BlockDevice>> {
    let folder = tempfile::tempdir().unwrap();
    let neighbours = HostFolder::open(folder.path()).unwrap();
    let file: Arc<dyn ReadAt> = Arc::new(foreign(name)?);
    Some(images::open(name, file, None, &neighbours).unwrap_or_else(|e| panic!("{name}: {e}")).disk)
}

/// Whether `tool` runs on this machine; says so when it does not.
pub fn has_tool(tool: &str) -> bool {
    let is_there = std::process::Command::new(tool).arg("--help").output().is_ok();
    if !is_there {
        println!("SKIPPED: {tool} is not installed");
    }
    is_there
}

/// What `tool` prints, which must succeed.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(tool);
    let output = command.args(arguments).env("TZ", "UTC").env("LC_ALL", "C.UTF-8").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{tool} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The manifest of a folder of the host, of files and directories.
pub fn manifest_of(folder: &Path) -> String {
    let (mut manifest, mut todo) = (String::new(), vec![folder.to_owned()]);
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let shown = path.strip_prefix(folder).unwrap().display();
            if path.is_dir() {
                manifest += &format!("d\t0\t-\t{shown}\n");
                todo.push(path);
            } else {
                let content = HostFile::open(&path).unwrap();
                manifest += &format!("f\t{}\t{}\t{shown}\n", content.size(), digest(&content, u64::MAX).unwrap());
            }
        }
    }
    manifest
}

/// A file of the host as a disk.
pub fn device(path: &Path) -> Arc<dyn BlockDevice> {
    Arc::new(HostFile::open(path).unwrap())
}

/// Bytes in memory as a disk.
pub fn in_memory(bytes: Vec<u8>) -> Arc<dyn BlockDevice> {
    Arc::new(AsDevice::new(bytes, BlockSizes::CLASSIC))
}

/// All filesystems on `disks`, found as the program finds them.
pub fn filesystems(disks: &[Arc<dyn BlockDevice>]) -> Vec<Result<Arc<dyn FileSystem>>> {
    let named: Vec<_> = disks.iter().enumerate().map(|(n, d)| (format!("disk{n}"), Arc::clone(d))).collect();
    let Survey { volumes, .. } = survey(&named);
    guestfs::find(&volumes).iter().map(guestfs::Found::open).collect()
}

/// The only filesystem on `disks`.
pub fn filesystem(disks: &[Arc<dyn BlockDevice>]) -> Arc<dyn FileSystem> {
    let mut all = filesystems(disks);
    assert_eq!(all.len(), 1, "filesystems found");
    all.remove(0).unwrap_or_else(|e| panic!("{e}"))
}

/// The content of `file` as a file that can be read.
pub fn open(fs: &dyn FileSystem, file: FileId) -> Result<Disk> {
    Disk::sharing(vec![fs.content(file)?], BlockSizes::CLASSIC, Arc::new(Units::default()))
}

/// All entries of a directory, asked for in pages.
pub fn entries(fs: &dyn FileSystem, dir: FileId) -> Result<Vec<guestfs::DirEntry>> {
    let (mut all, mut cookie) = (Vec::new(), 0);
    loop {
        let before = all.len();
        fs.list(dir, cookie, &mut |entry| {
            assert!(entry.cookie != 0 && entry.cookie < 1 << 62, "cookie {} of {entry:?}", entry.cookie);
            all.push(entry);
            if all.len() - before == PAGE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        match all.last() {
            Some(last) if all.len() - before == PAGE => cookie = last.cookie,
            _ => return Ok(all),
        }
    }
}

/// The file at `path`, which has slashes between the names.
pub fn find(fs: &dyn FileSystem, path: &str) -> Option<FileId> {
    path.split('/').try_fold(fs.root(), |dir, name| fs.lookup(dir, name.as_bytes()).unwrap())
}

/// Looks up every name of the tree, and in each directory some that are not there.
pub fn assert_lookups(fs: &dyn FileSystem) {
    let mut todo = vec![fs.root()];
    while let Some(dir) = todo.pop() {
        for entry in entries(fs, dir).unwrap() {
            assert_eq!(fs.lookup(dir, &entry.name).unwrap(), Some(entry.id), "{entry:?}");
            if entry.kind == Kind::Dir {
                todo.push(entry.id);
            }
        }
        for name in ["", ".", "..", "not there", "UPPER.txt"] {
            assert_eq!(fs.lookup(dir, name.as_bytes()).unwrap(), None);
        }
    }
}

/// Asks for everything of `files` that were not given: an error, or some file.
pub fn ask_for(fs: &dyn FileSystem, files: impl IntoIterator<Item = FileId>) {
    for file in files {
        let _ = (fs.metadata(file), fs.lookup(file, b"x"), fs.content(file).map(|layer| layer.run_at(0, 1)));
        let _ = (fs.xattrs(file), fs.streams(file), fs.link_target(file), entries(fs, file));
        let _ = fs.list(file, file.number >> 2, &mut |_| ControlFlow::Break(()));
    }
}

/// A line of a manifest: type, size, and digest of the content or target of the link.
pub type Line = (char, u64, String);

/// What harmed data may do to a walk, and how long it may take.
pub struct Walk {
    /// By path.
    pub lines: BTreeMap<String, Line>,
    /// Errors met, with the path.
    pub errors: Vec<(String, blockdev::Error)>,
}

/// Walks the whole tree of `fs` and reads all content: at most `entries_max` entries, and of each file at most
/// `content_max` bytes where it is larger.
pub fn walk(fs: &dyn FileSystem, entries_max: usize, content_max: u64) -> Walk {
    let mut walk = Walk { lines: BTreeMap::new(), errors: Vec::new() };
    let mut todo = vec![(fs.root(), String::new(), 0)];
    while let Some((dir, place, depth)) = todo.pop() {
        let listed = entries(fs, dir);
        let listed = listed.unwrap_or_else(|e| {
            walk.errors.push((place.clone(), e));
            Vec::new()
        });
        for entry in listed {
            if walk.lines.len() >= entries_max {
                return walk;
            }
            let path = format!("{place}{}", escaped(&entry.name));
            match line(fs, entry.id, content_max) {
                Ok(line) => {
                    if line.0 == 'd' && depth < 100 && entry.kind == Kind::Dir {
                        todo.push((entry.id, format!("{path}/"), depth + 1));
                    }
                    walk.lines.insert(path, line);
                }
                Err(e) => walk.errors.push((path, e)),
            }
        }
    }
    walk
}

fn line(fs: &dyn FileSystem, id: FileId, content_max: u64) -> Result<Line> {
    let metadata = fs.metadata(id)?;
    let _ = fs.xattrs(id)?;
    Ok(match metadata.kind {
        Kind::Dir => ('d', 0, "-".to_owned()),
        Kind::Symlink => ('l', 0, escaped(&fs.link_target(id)?)),
        Kind::File => {
            let content = open(fs, id)?;
            assert_eq!(content.size(), metadata.size, "size of content and metadata");
            ('f', metadata.size, digest(&content, content_max)?)
        }
        other => ('?', 0, format!("{other:?}")),
    })
}

/// SHA-256 of a content, or of its first bytes.
pub fn digest(content: &dyn ReadAt, max: u64) -> Result<String> {
    let mut digest = Sha256::new();
    let (mut buf, mut at) = (vec![0; 1 << 20], 0);
    let end = content.size().min(max);
    while at < end {
        let part = buf.len().min((end - at) as usize);
        let n = content.read_at(&mut buf[..part], at)?;
        assert_eq!(n, part, "a read within the size is not short");
        digest.update(&buf[..n]);
        at += n as u64;
    }
    Ok(digest.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// A name as the manifests write it.
fn escaped(name: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(name).chars() {
        if c >= ' ' && c != '\\' { text.push(c) } else { text += &format!("\\x{:02x}", c as u32) }
    }
    text
}

/// Compares the whole tree of `fs` with `manifest`: every line must be there, and nothing else but what `extra` accepts
/// (paths that the manifest's maker leaves out). A line of type `e` is a file that the maker could not read either.
pub fn assert_manifest(fs: &dyn FileSystem, manifest: &str, extra: impl Fn(&str) -> bool) {
    assert_walked(walk(fs, usize::MAX, u64::MAX), manifest, extra);
}

/// The same for a tree that was walked: what was met as an error, or not at all, is wrong.
pub fn assert_walked(found: Walk, manifest: &str, extra: impl Fn(&str) -> bool) {
    let mut errors: BTreeMap<String, String> = found.errors.iter().map(|(p, e)| (p.clone(), e.to_string())).collect();
    let mut wrong = Vec::new();
    let mut rest = found.lines;
    let mut expected = 0;
    for row in manifest.lines().filter(|row| !row.is_empty()) {
        let fields: Vec<&str> = row.splitn(4, '\t').collect();
        let [kind, size, digest, path] = fields[..] else { panic!("a manifest's line {row:?}") };
        expected += 1;
        if kind == "e" {
            if errors.remove(path).is_none() {
                wrong.push(format!("{path}: no error"));
            }
            continue;
        }
        let line = (kind.chars().next().unwrap(), size.parse().unwrap(), digest.to_owned());
        match rest.remove(path) {
            Some(found) if found == line => {}
            Some(found) => wrong.push(format!("{path}: {found:?} and not {line:?}")),
            None => wrong.push(format!("{path}: not found")),
        }
    }
    wrong.extend(errors.iter().map(|(path, e)| format!("{path}: {e}")));
    // Manifests list files, folders and links only.
    let surplus = rest.iter().filter(|(path, line)| line.0 != '?' && !extra(path));
    wrong.extend(surplus.map(|(path, _)| format!("{path}: not in the manifest")));
    let some: Vec<_> = wrong.iter().take(20).collect();
    assert!(wrong.is_empty(), "{} of {expected} wrong: {some:#?}", wrong.len());
    assert!(expected > 0, "an empty manifest");
}

/// The image `name` of the lab (`ext4`), on one or more devices, against its manifest.
pub fn assert_lab(name: &str, extra: impl Fn(&str) -> bool) {
    let Some(folder) = guest_images() else { return };
    let volumes = folder.join("vol");
    let one = volumes.join(format!("{name}.raw"));
    let several = (0..).map(|n| volumes.join(format!("{name}.{n}.raw"))).take_while(|p| p.exists());
    let paths: Vec<_> = if one.exists() { vec![one] } else { several.collect() };
    // One whose making was broken off has no manifest.
    if paths.is_empty() || !volumes.join(format!("{name}.manifest.tsv")).exists() {
        return println!("SKIPPED: {name} could not be made on this machine");
    }
    let devices: Vec<_> = paths.iter().map(|p| device(p)).collect();
    let manifest = std::fs::read_to_string(volumes.join(format!("{name}.manifest.tsv"))).unwrap();
    assert_manifest(filesystem(&devices).as_ref(), &manifest, extra);
}

/// A device that remembers which of its bytes are read while it is told to, and gives some of them harmed.
pub struct Harmed {
    device: Arc<dyn BlockDevice>,
    read: Mutex<Option<BTreeMap<u64, u64>>>,
    flips: BTreeMap<u64, u8>,
}

impl ReadAt for Harmed {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = self.device.read_at(buf, offset)?;
        if let Some(read) = &mut *self.read.lock().unwrap() {
            let end = read.entry(offset).or_default();
            *end = (*end).max(offset + n as u64);
        }
        for (at, mask) in self.flips.range(offset..offset + n as u64) {
            buf[(at - offset) as usize] ^= mask;
        }
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        self.device.extent_at(offset)
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Harmed {
    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }
}

/// Runs of [`flip_metadata`] in one test: few for every day, as many as `REVENANT_FLIPS` says for a long look.
pub fn flip_runs() -> u64 {
    std::env::var("REVENANT_FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(40)
}

/// What must be true of a harmed filesystem.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No panic, no hang, bounded memory.
    Harmless,
    /// Besides: whatever is delivered is what the unharmed one delivers, since checksums guard all metadata.
    TrueOrError,
}

/// Opens the filesystem `runs` times over `device` with one to eight random bits flipped in what it reads as metadata,
/// and walks it. Of each file the first 64 KiB are read, of the tree at most `entries_max` entries.
pub fn flip_metadata(
    device: &Arc<dyn BlockDevice>,
    open: &dyn Fn(Arc<dyn BlockDevice>) -> Result<Arc<dyn FileSystem>>,
    runs: u64,
    entries_max: usize,
    expect: Expect,
) {
    const CONTENT: u64 = 64 << 10;
    let harmed = |flips, read| Arc::new(Harmed { device: Arc::clone(device), read: Mutex::new(read), flips });
    // Which bytes are metadata: all that a walk without content reads.
    let recorder = harmed(BTreeMap::new(), Some(BTreeMap::new()));
    let fs = open(Arc::clone(&recorder) as Arc<dyn BlockDevice>).unwrap();
    let mut todo = vec![fs.root()];
    let mut seen = 0;
    while let Some(dir) = todo.pop() {
        for entry in entries(fs.as_ref(), dir).unwrap() {
            seen += 1;
            if seen > entries_max {
                break;
            }
            let _ = fs.metadata(entry.id).unwrap();
            let _ = fs.xattrs(entry.id).unwrap();
            match entry.kind {
                Kind::Dir => todo.push(entry.id),
                Kind::File => {
                    // Reads what says where the content is.
                    let layer = fs.content(entry.id).unwrap();
                    let mut at = 0;
                    while at < layer.size() {
                        at += layer.run_at(at, layer.size() - at).unwrap().len;
                    }
                }
                _ => {}
            }
        }
    }
    let metadata: Vec<_> = recorder.read.lock().unwrap().take().unwrap().into_iter().collect();
    let started = Instant::now();
    let truth = walk(fs.as_ref(), usize::MAX, CONTENT);
    let usual = started.elapsed();
    assert!(truth.errors.is_empty(), "unharmed: {:?}", truth.errors.first());

    let mut random = Random(0x7265_7665_6e61_6e74);
    // Harm may bring other entries to the front of the walk.
    let harmed_max = entries_max.saturating_mul(2);
    let (mut refused, mut with_errors) = (0, 0);
    for run in 0..runs {
        let mut flips = BTreeMap::new();
        for _ in 0..1 + random.below(8) {
            let (start, end) = metadata[random.below(metadata.len() as u64) as usize];
            flips.insert(start + random.below(end - start), 1_u8 << random.below(8));
        }
        let shown = format!("run {run}, flips {flips:x?}");
        let started = Instant::now();
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            open(harmed(flips, None)).map(|fs| walk(fs.as_ref(), harmed_max, CONTENT))
        }));
        let took = started.elapsed();
        assert!(took < usual * 50 + Duration::from_secs(10), "{shown}: took {took:?}");
        match opened.unwrap_or_else(|_| panic!("{shown}: panicked")) {
            Err(_) => refused += 1,
            Ok(found) => {
                with_errors += u64::from(!found.errors.is_empty());
                if expect == Expect::TrueOrError {
                    for (path, line) in &found.lines {
                        assert_eq!(truth.lines.get(path), Some(line), "{shown}: {path}");
                    }
                    let missing = truth.lines.keys().find(|path| !found.lines.contains_key(*path));
                    let is_whole = found.errors.is_empty() && found.lines.len() < harmed_max;
                    if let (Some(path), true) = (missing, is_whole) {
                        panic!("{shown}: {path} is missing without an error");
                    }
                }
            }
        }
    }
    println!("{runs} runs: {refused} refused, {with_errors} with errors");
}
