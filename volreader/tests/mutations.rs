//! Whole volumes, broken: opening, listing and reading everything in them ends, soon, in bounded memory, and
//! what is delivered is what was stored.
//!
//! Two kinds of harm. *Damage* leaves the checksums as they were: then every byte that is delivered must be the one
//! that the unharmed volume delivers at its place, and every file that can be read must match its stored digest.
//! *Malice* makes the checksums right again, so that the parsers behind them are reached: then
//! only time and memory are judged. The randomness is seeded: a failure names its seed and comes back.

mod common;

#[path = "../../tests/src/random.rs"]
mod random;

use std::{
    collections::{HashMap, HashSet},
    fs,
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use common::case;
use peak_alloc::PeakAlloc;
use random::Random;
use volreader::{
    archive::{Archive, Job, Options, point::Point},
    block::{Format, Header, Session, checksum},
    digest::Hasher,
    file::{Content, StoredFile},
    index::entry::{Entry, EntryKind, Flags},
};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The peak is one for the whole process: one volume at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What opening and reading one volume of a few megabytes may take, unoptimised and on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest record and the largest block are of 20 MB each, the cache is of 4 MiB.
const MEMORY_MAX: usize = 300 << 20;
const CACHE_BYTES: u64 = 4 << 20;
/// Files of the corpus are shorter; a length beyond it is a lie, and only the ends are read.
const READ_MAX: u64 = 64 << 20;
/// Bytes read at once: what is behind a damaged part is tried again at the next multiple.
const CHUNK: usize = 64 << 10;
/// Entries of all jobs that are opened.
const FILES_MAX: usize = 3000;

/// Extremes that length and number fields are set to.
const EXTREMES: [u32; 14] =
    [0, 1, 11, 12, 23, 24, 25, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, 20_000_000, 20_000_001, 64_512];

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn set_word(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// The blocks of an unbroken volume.
fn blocks(volume: &[u8]) -> Vec<Range<usize>> {
    let mut at = 0;
    let mut found = Vec::new();
    while at + 24 <= volume.len() {
        let end = at + word(volume, at + 4) as usize;
        found.push(at..end);
        at = end;
    }
    found
}

/// The record headers of an unbroken block.
fn records(volume: &[u8], block: &Range<usize>) -> Vec<usize> {
    let mut at = block.start + if &volume[block.start + 12..block.start + 16] == b"BB03" { 32 } else { 24 };
    let mut found = Vec::new();
    while at + 12 <= block.end {
        found.push(at);
        at = at.saturating_add(12 + word(volume, at + 8) as usize);
    }
    found
}

/// Break `volume` in one to three ways.
fn harm(volume: &[u8], malice: bool, random: &mut Random) -> Vec<u8> {
    let blocks = blocks(volume);
    let mut bytes = volume.to_vec();
    // What changes lengths comes last: the places are those of the unbroken volume.
    let mut order: Option<Vec<Range<usize>>> = None;
    let mut cut = None;
    for _ in 0..=random.index(3) {
        let block = blocks[random.index(blocks.len())].clone();
        let headers = records(volume, &block);
        let header = *headers.get(random.index(headers.len())).unwrap_or(&block.start);
        match random.index(9) {
            0 => {
                let at = random.index(bytes.len());
                bytes[at] ^= 1 << random.index(8);
            }
            1 => bytes[header + random.index(12)] ^= 1 << random.index(8),
            2 => bytes[block.start + random.index(24)] ^= 1 << random.index(8),
            3 => set_word(&mut bytes, header + 4 * random.index(3), random.pick(&EXTREMES)),
            4 => set_word(&mut bytes, block.start + random.pick(&[4, 8, 16, 20]), random.pick(&EXTREMES)),
            5 => {
                // The text or offset at the start of a payload.
                let at = header + 12 + random.index(40);
                if at < block.end {
                    bytes[at] = random.pick(&[0, b' ', b'/', 0x7f, 0x80, 0xff, b'9']);
                }
            }
            6 => {
                let end = block.end.min(block.start + 1 + random.index(block.len()));
                bytes[block.start + random.index(end - block.start)..end].fill(0);
            }
            7 => cut = Some(random.index(bytes.len())),
            _ => {
                let order = order.get_or_insert_with(|| blocks.clone());
                let (a, b) = (random.index(order.len()), random.index(order.len()));
                match random.index(3) {
                    0 => order.swap(a, b),
                    1 => order.insert(a, order[b].clone()),
                    _ => drop(order.remove(a)),
                }
            }
        }
    }
    if malice {
        blocks.iter().for_each(|block| repair(&mut bytes[block.clone()]));
    }
    if let Some(order) = order {
        bytes = order.into_iter().flat_map(|block| bytes[block].to_vec()).collect();
    }
    bytes.truncate(cut.unwrap_or(bytes.len()));
    bytes
}

/// Make the checksum of a block right, by the rules of the format reference, section 2.
fn repair(block: &mut [u8]) {
    let Some(header) = Header::parse(block) else { return };
    let Some(block) = block.get_mut(..header.len as usize) else { return };
    match header.format {
        Format::Bb02 => {
            let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &block[4..]);
            set_word(block, 0, sum as u32);
        }
        Format::Bb03 => {
            block[24..32].fill(0);
            let sum = xxhash_rust::xxh3::xxh3_64(block);
            block[24..32].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// The files of the unharmed volumes, by session and file index: their bytes, and what else belongs to them.
type Truth = HashMap<(Session, u32), (Vec<u8>, String)>;

/// What came of a volume.
#[derive(Debug, Default)]
struct Seen {
    files: usize,
    matching: usize,
    failed: usize,
    wrong: Vec<String>,
    /// What was read, where that is kept.
    kept: Truth,
}

/// Whether some block of `volume` has no checksum (any more): then nothing guards its content.
fn is_unguarded(volume: &[u8]) -> bool {
    let mut magics = memchr::memmem::find_iter(volume, b"BB0").filter_map(|at| at.checked_sub(12));
    magics.any(|at| {
        let block = &volume[at..];
        Header::parse(block).is_some_and(|h| {
            let bytes = block.get(..h.len as usize).unwrap_or_default();
            checksum::verify(&h, &[bytes]) == checksum::Verdict::Absent
        })
    })
}

/// Open the volumes in `folder` with the keys in `keys` and read everything; compare it with `truth`, or keep it where there is none.
fn visit(folder: &Path, keys: &Path, truth: Option<&Truth>) -> Seen {
    let mut seen = Seen::default();
    let options = Options {
        volumes: vec![folder.to_owned()],
        keys: ["fd.pem", "master.pem"].map(|name| keys.join(name)).into_iter().filter(|key| key.exists()).collect(),
        volume_keys: Some(keys.join("volumes")).filter(|folder| folder.exists()),
        cache_bytes: Some(CACHE_BYTES),
        ..Options::default()
    };
    let archive = Archive::open(options).unwrap();
    let Ok(jobs) = archive.jobs() else { return seen };
    for job in &jobs {
        for entry in entries(job) {
            read_file(&archive, job, &entry, truth, &mut seen);
        }
        if let Some(point) = Point::of(job, &jobs) {
            list_point(&point);
        }
    }
    seen
}

/// All entries of a job's table, and whether its parts agree.
fn entries(job: &Job) -> Vec<Entry> {
    let Ok(table) = job.table() else { return Vec::new() };
    let (mut dirs, mut found) = (vec![table.root()], Vec::new());
    let mut visited = HashSet::new();
    while let Some(dir) = dirs.pop() {
        // A folder that was stored twice has two entries.
        if !visited.insert(dir) {
            continue;
        }
        table
            .list(dir, 0, &mut |_, entry| {
                dirs.extend(entry.dir);
                found.push(entry);
                ControlFlow::Continue(())
            })
            .expect("a table that was just made");
    }
    assert!(found.len() <= table.entries() as usize, "an entry is listed twice");
    found
}

fn list_point(point: &Point) {
    let mut dirs: Vec<_> = point.root().into_iter().collect();
    let mut count = 0;
    while let Some(dir) = dirs.pop() {
        for entry in point.list(&dir).unwrap() {
            dirs.extend(entry.dir);
            count += 1;
        }
    }
    assert!(count < 1_000_000);
}

fn read_file(archive: &Archive, job: &Job, entry: &Entry, truth: Option<&Truth>, seen: &mut Seen) {
    let Some(pos) = entry.pos.filter(|_| seen.files < FILES_MAX && entry.kind != EntryKind::Deleted) else { return };
    seen.files += 1;
    let file = StoredFile { data: Arc::clone(job.data()), pos, file_index: entry.file_index };
    let hint = u64::try_from(entry.stat.size).ok().filter(|n| *n > 0);
    let _ = file.link();
    let opened = file.open(hint, archive.keys());
    let metadata = file.metadata(opened.as_ref().ok(), hint);
    let key = (job.session, entry.file_index);
    let stored = truth.and_then(|t| t.get(&key));
    let described = format!("{:?}", metadata.as_ref().ok());
    if let Some((_, stored)) = stored.filter(|(_, s)| metadata.is_ok() && *s != described) {
        let name = entry.name.escape_ascii();
        seen.wrong.push(format!("{name} (file {}): {described}, stored was {stored}", entry.file_index));
    }
    let Ok(content) = opened else {
        seen.failed += 1;
        return;
    };
    let digest = metadata.ok().and_then(|m| m.digest);
    let mut hasher = digest.as_ref().map(|(algorithm, _)| Hasher::new(*algorithm));
    let name = || format!("{} (file {}), {:?}", entry.name.escape_ascii(), entry.file_index, content.kind);
    let mut kept = Vec::new();
    let mut differs = None;
    let whole = read_content(&content, &mut |at, bytes, is_stored| {
        if let Some(hasher) = hasher.as_mut().filter(|_| is_stored) {
            hasher.update(bytes);
        }
        if truth.is_none() {
            kept.extend_from_slice(bytes);
        }
        let expected = stored.map(|(s, _)| s.get(at as usize..).and_then(|s| s.get(..bytes.len())));
        if expected.is_some_and(|e| e != Some(bytes)) {
            differs.get_or_insert(at..at + bytes.len() as u64);
        }
    });
    if let Some(range) = differs {
        seen.wrong.push(format!("{}: bytes {range:?} are others than were stored", name()));
    }
    if !whole {
        seen.failed += 1;
        return;
    }
    let size = content.bytes.size();
    if let Some(stored) = stored.map(|(bytes, _)| bytes).filter(|s| s.len() as u64 != size) {
        seen.wrong.push(format!("{}: {size} bytes where {} were stored", name(), stored.len()));
    }
    if truth.is_none() {
        seen.kept.insert(key, (kept, described));
    }
    // A hard link has the digest of the file it is a link of.
    let Some((_, digest)) = digest.filter(|_| !entry.flags.has(Flags::HARD_LINK)) else { return };
    if hasher.map(Hasher::finish) == Some(digest) {
        seen.matching += 1;
    } else {
        seen.wrong.push(format!("{}: {size} bytes do not match the digest", name()));
    }
}

/// Hand all bytes that can be read to `take`: where they are, what they are, and whether they count in a digest
/// (which covers what was stored, not the holes). False when some cannot be read.
fn read_content(content: &Content, take: &mut dyn FnMut(u64, &[u8], bool)) -> bool {
    let size = content.bytes.size();
    let mut buf = vec![0; CHUNK];
    if size > READ_MAX {
        for at in [0, size - 1000] {
            if let Ok(n) = content.bytes.read_at(&mut buf, at) {
                take(at, &buf[..n], true);
            }
        }
        let _ = content.bytes.extent_at(size / 2);
        return false;
    }
    let sparse = content.kind.is_some_and(|k| k.sparse);
    let (mut at, mut whole) = (0, true);
    while at < size {
        let (end, is_stored) = match content.bytes.extent_at(at) {
            Ok(extent) => {
                let extent = extent.expect("an extent for every byte within the size");
                let range = extent.range;
                assert!(range.start == at && range.end > at && range.end <= size, "{range:?} of {size}");
                (range.end, extent.kind == blockdev::ExtentKind::Data || !sparse)
            }
            Err(_) => {
                whole = false;
                ((at + 1).next_multiple_of(CHUNK as u64).min(size), true)
            }
        };
        while at < end {
            let stop = (at + 1).next_multiple_of(CHUNK as u64).min(end);
            let buf = &mut buf[..(stop - at) as usize];
            match content.bytes.read_at(buf, at) {
                Ok(n) => {
                    assert_eq!(n, buf.len(), "a short read within the size");
                    take(at, buf, is_stored);
                }
                Err(_) => whole = false,
            }
            at = stop;
        }
    }
    whole
}

/// Visit the volumes `files` with a limit of time and memory.
fn judge(files: &[(PathBuf, Vec<u8>)], keys: &Path, truth: Option<&Arc<Truth>>, what: &str) -> Seen {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let (told, ended) = mpsc::channel();
    let (path, keys) = (folder.path().to_owned(), keys.to_owned());
    let truth = truth.cloned();
    let worker = thread::spawn(move || told.send(visit(&path, &keys, truth.as_deref())));
    let seen = match ended.recv_timeout(PATIENCE) {
        Ok(seen) => seen,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: no end within {PATIENCE:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{what}: {:?}", worker.join().err().map(|_| "panicked")),
    };
    let used = MEMORY.peak_usage().saturating_sub(before);
    assert!(used < MEMORY_MAX, "{what}: {used} bytes at the same time");
    seen
}

/// `rounds` harmed variants of a case's volumes, half of them with right checksums.
fn torture(name: &str, rounds: u64) {
    let Some(case) = case(name) else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut volumes: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(case.join("volumes"))
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let bytes = zstd::decode_all(fs::File::open(&path).unwrap()).unwrap();
            (Path::new(path.file_stem().unwrap()).to_owned(), bytes)
        })
        .collect();
    volumes.sort();
    let keys = case.join("keys");
    let whole = judge(&volumes, &keys, None, name);
    let Seen { matching, failed, wrong, kept, .. } = whole;
    assert!(matching > 0 && failed == 0 && wrong.is_empty(), "{name} unharmed: {failed} failed, {wrong:#?}");
    let truth = Arc::new(kept);
    // MUTATION_SEED does one again, MUTATION_ROUNDS goes further than the ordinary run.
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let first = number("MUTATION_SEED");
    let seeds = first.map_or(0..number("MUTATION_ROUNDS").unwrap_or(rounds), |seed| seed..seed + 1);
    let (mut failed, mut matching) = (0, 0);
    for seed in seeds {
        let mut random = Random(seed);
        let malice = seed % 2 == 1;
        let mut harmed = volumes.clone();
        let which = random.index(harmed.len());
        harmed[which].1 = harm(&volumes[which].1, malice, &mut random);
        let what = format!("{name}, seed {seed}");
        if let (Some(_), Some(keep)) = (first, std::env::var_os("MUTATION_KEEP")) {
            fs::write(keep, &harmed[which].1).unwrap();
        }
        let seen = judge(&harmed, &keys, Some(&truth), &what);
        if !malice && !is_unguarded(&harmed[which].1) {
            assert!(seen.wrong.is_empty(), "{what}: delivered what was not stored: {:#?}", seen.wrong);
        }
        (failed, matching) = (failed + seen.failed, matching + seen.matching);
    }
    if first.is_none() {
        assert!(failed > 0 && matching > 0, "{name}: {failed} files failed, {matching} did not: nothing was tried");
    }
}

#[test]
fn plain() {
    torture("sha256", 200);
}

#[test]
fn sparse() {
    torture("sparse", 150);
    torture("sparse-lzo", 150);
}

#[test]
fn gzip() {
    torture("gzip9-sha256", 100);
    torture("r15-gzip", 200);
}

#[test]
fn encrypted_files() {
    torture("pki-gzip", 100);
    torture("pki-lzo", 100);
}

#[test]
fn encrypted_volume() {
    torture("r15-volume-encryption-256", 100);
}

#[test]
fn xattrs_and_acls() {
    torture("xattr-acl", 100);
}

#[test]
fn lzo() {
    torture("r15-lzo-xxhash64", 200);
}

#[test]
fn chain() {
    torture("chain-accurate", 60);
    torture("r15-chain", 60);
}

#[test]
fn interleaved() {
    torture("interleaved", 20);
}

#[test]
fn three_volumes() {
    torture("span3", 40);
}

#[test]
fn small_blocks() {
    torture("block-1k", 100);
}

/// What a sparse file gives at a place does not depend on what was read of it before, whole or damaged.
#[test]
fn sparse_in_any_order() {
    let Some(case) = case("sparse") else { return };
    let volume = fs::read_dir(case.join("volumes")).unwrap().next().unwrap().unwrap().path();
    let whole = zstd::decode_all(fs::File::open(&volume).unwrap()).unwrap();
    let blocks = blocks(&whole);
    let (mut good, mut bad) = (0, 0);
    for seed in 0..20 {
        let mut random = Random(seed);
        let mut bytes = whole.clone();
        for _ in 0..seed % 4 {
            // Not the volume's label.
            let block = &blocks[1 + random.index(blocks.len() - 1)];
            bytes[block.start + 24 + random.index(block.len() - 24)] ^= 1;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("job-0001"), bytes).unwrap();
        let volumes = vec![folder.path().to_owned()];
        let archive = Archive::open(Options { volumes, ..Options::default() }).unwrap();
        for job in &archive.jobs().unwrap() {
            for entry in entries(job) {
                let Some(pos) = entry.pos.filter(|_| entry.stat.size > 0) else { continue };
                let file = StoredFile { data: Arc::clone(job.data()), pos, file_index: entry.file_index };
                let open = || file.open(u64::try_from(entry.stat.size).ok(), archive.keys());
                let Some(often) = open().ok().filter(|content| content.kind.is_some_and(|k| k.sparse)) else {
                    continue;
                };
                for _ in 0..40 {
                    let at = random.below(often.bytes.size());
                    let read = |content: &Content| {
                        let mut buf = vec![0xaa; 1 + CHUNK * (at % 4) as usize];
                        content.bytes.read_at(&mut buf, at).map(|n| buf[..n].to_vec()).map_err(|e| e.kind())
                    };
                    let (first, again) = (read(&open().unwrap()), read(&often));
                    assert!(first == again, "seed {seed}, {} at {at}", entry.name.escape_ascii());
                    *if first.is_ok() { &mut good } else { &mut bad } += 1;
                }
            }
        }
    }
    assert!(good > 100 && bad > 10, "{good} reads succeeded, {bad} did not");
}
