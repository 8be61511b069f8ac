//! Registry hives that Windows and libhivex wrote, against what libhivex reads in them.
#![allow(missing_docs)]

mod common;

use std::{
    collections::HashMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use blockdev::{BlockDevice, Result};
use common::{Random, flip_runs, in_memory};
use guestfs::os::registry::{Hive, Key};

/// More than any tree of real keys is deep.
const DEPTH_MAX: usize = 512;

fn shipped(name: &str) -> Vec<u8> {
    unpacked(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registry").join(name))
}

fn unpacked(path: &Path) -> Vec<u8> {
    let packed = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    zstd::decode_all(packed.as_slice()).unwrap()
}

/// All keys and values of a hive, as the `.tsv` files have them, at most `max` lines; and how much could not be read.
fn dump(hive: &Hive, max: usize) -> (Vec<String>, usize) {
    let (mut lines, mut errors) = (Vec::new(), 0);
    match hive.root() {
        Ok(root) => below(&root, "", 0, max, &mut lines, &mut errors),
        Err(_) => errors += 1,
    }
    lines.sort();
    (lines, errors)
}

fn below(key: &Key<'_>, path: &str, depth: usize, max: usize, lines: &mut Vec<String>, errors: &mut usize) {
    let go_on =
        |lines: &Vec<String>| if lines.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    let mut told = |result: Result<()>| *errors += usize::from(result.is_err());
    let mut unread = 0;
    told(key.values(&mut |value| {
        match value {
            Ok(value) => {
                let data: String = value.data.iter().map(|b| format!("{b:02x}")).collect();
                lines.push(format!("{path}\t{}\t{}\t{data}", value.name, value.kind));
            }
            Err(_) => unread += 1,
        }
        go_on(lines)
    }));
    let mut keys = Vec::new();
    told(key.subkeys(&mut |key| {
        match key {
            Ok(key) => keys.push(key),
            Err(_) => unread += 1,
        }
        if keys.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }));
    *errors += unread;
    for key in keys {
        let path = format!("{path}\\{}", key.name());
        lines.push(path.clone());
        if depth < DEPTH_MAX && go_on(lines).is_continue() {
            below(&key, &path, depth + 1, max, lines, errors);
        }
    }
}

fn assert_same(found: (Vec<String>, usize), expected: &[u8]) {
    let (found, errors) = found;
    let expected = std::str::from_utf8(expected).unwrap();
    let mut expected: Vec<_> = expected.lines().map(str::to_owned).collect();
    expected.sort();
    assert_eq!(errors, 0);
    assert!(!expected.is_empty());
    if found != expected {
        let odd = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        panic!("{} lines, {} expected; the first other one: {odd:?}", found.len(), expected.len());
    }
}

#[test]
fn hives_are_read_as_libhivex_reads_them() {
    for name in ["BCD", "SOFTWARE", "SYSTEM"] {
        let hive = Hive::open(in_memory(shipped(&format!("{name}.zst"))), &[]).unwrap();
        assert_same(dump(&hive, usize::MAX), &shipped(&format!("{name}.tsv.zst")));
    }
}

#[test]
fn keys_and_values_are_found_in_any_case() {
    let hive = Hive::open(in_memory(shipped("SOFTWARE.zst")), &[]).unwrap();
    assert_eq!(hive.notes(), [""; 0]);
    let value = |path: &str, name: &str| hive.value(path, name).unwrap();
    let version = r"microsoft\WINDOWS nt\CurrentVersion";
    assert_eq!(value(version, "productname").unwrap().text().unwrap(), "Windows Server 2022 Standard");
    assert_eq!(value(version, "UBR").unwrap().number(), Some(0x841));
    assert_eq!(value(version, "UBR").unwrap().text(), None);
    assert_eq!(value(version, "").unwrap().data, [0, 1, 2]);
    assert_eq!(value("umlaute ÄÖÜ 日本", "WERT ß").unwrap().number(), Some(7));
    assert_eq!(value(r"Classes\Key0399", "n").unwrap().number(), Some(399));
    assert_eq!(value(version, "nothing"), None);
    assert_eq!(value(r"Microsoft\Nothing", "x"), None);
}

/// Hives of real systems, which are too large to be here.
fn real() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("REVENANT_TESTDATA").map(|folder| Path::new(&folder).join("registry")) else {
        println!("SKIPPED: REVENANT_TESTDATA names no folder with hives");
        return Vec::new();
    };
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("SKIPPED: there is no {}", folder.display());
        return Vec::new();
    };
    files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_none()).collect()
}

#[test]
fn hives_of_real_systems_are_read_as_libhivex_reads_them() {
    for path in real() {
        println!("{}", path.display());
        let beside = |end: &str| PathBuf::from(format!("{}{end}", path.display()));
        let hive = Hive::open(common::device(&path), &[]).unwrap();
        let stored = dump(&hive, usize::MAX);
        let logs: Vec<_> = [".LOG1", ".LOG2"].map(beside).into_iter().filter(|log| log.exists()).collect();
        if !logs.is_empty() {
            // Under its logs the hive is whole, and another one.
            let logs: Vec<_> = logs.iter().map(|log| common::device(log)).collect();
            let hive = Hive::open(common::device(&path), &logs).unwrap();
            assert!(hive.notes().iter().any(|note| note.contains("in its logs only")), "{:?}", hive.notes());
            let replayed = dump(&hive, usize::MAX);
            assert_eq!(replayed.1, 0);
            assert_ne!(replayed.0, stored.0);
        }
        assert_same(stored, &unpacked(&beside(".tsv.zst")));
    }
}

/// The hash of an entry of a log, written anew from the description of Marvin32.
fn marvin32(bytes: &[u8]) -> u64 {
    let (mut lo, mut hi) = (0x7a4e_55c5_u32, 0x82ef_4d88_u32);
    let mut words: Vec<u32> = bytes.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
    words.extend([0x80, 0]);
    for word in words {
        lo = lo.wrapping_add(word);
        hi ^= lo;
        lo = lo.rotate_left(20).wrapping_add(hi);
        hi = hi.rotate_left(9) ^ lo;
        lo = lo.rotate_left(27).wrapping_add(hi);
        hi = hi.rotate_left(19);
    }
    u64::from(hi) << 32 | u64::from(lo)
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Sets the numbers and the kind of a base block, and its checksum.
fn number(block: &mut [u8], primary: u32, secondary: u32, kind: u32) {
    for (at, value) in [(4, primary), (8, secondary), (28, kind)] {
        put32(block, at, value);
    }
    let sum = block[..508].chunks(4).fold(0, |sum, w| sum ^ u32::from_le_bytes(w.try_into().unwrap()));
    put32(block, 508, sum);
}

/// A log with one entry a page: each has its number, the place of the page, and the page.
fn log(hive: &[u8], entries: &[(u32, usize, Vec<u8>)]) -> Vec<u8> {
    let mut log = hive[..512].to_vec();
    number(&mut log, entries[0].0, entries[0].0, 6);
    for (sequence, at, page) in entries {
        let mut entry = vec![0; (48 + page.len()).next_multiple_of(512)];
        entry[..4].copy_from_slice(b"HvLE");
        let len = entry.len() as u32;
        let place = (at - 4096) as u32;
        for (field, value) in
            [(4, len), (12, *sequence), (16, hive.len() as u32 - 4096), (20, 1), (40, place), (44, page.len() as u32)]
        {
            put32(&mut entry, field, value);
        }
        entry[48..48 + page.len()].copy_from_slice(page);
        let sum = marvin32(&entry[40..]);
        entry[24..32].copy_from_slice(&sum.to_le_bytes());
        let sum = marvin32(&entry[..32]);
        entry[32..40].copy_from_slice(&sum.to_le_bytes());
        log.extend(entry);
    }
    log
}

/// The hive SYSTEM, not closed, and the place of its first page in which "OLDNAME" can be changed.
fn open_hive() -> (Vec<u8>, usize) {
    let mut hive = shipped("SYSTEM.zst");
    number(&mut hive[..512], 8, 7, 0);
    let text: Vec<u8> = "OLDNAME".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let at = hive.windows(text.len()).position(|w| w == text).unwrap();
    (hive, at)
}

/// The 512 bytes around `at` with `name` at `at`.
fn page(hive: &[u8], at: usize, name: &str) -> (usize, Vec<u8>) {
    let start = at / 512 * 512;
    let mut page = hive[start..start + 1024].to_vec();
    for (place, byte) in (at - start..).zip(name.encode_utf16().flat_map(u16::to_le_bytes)) {
        page[place] = byte;
    }
    (start, page)
}

fn old_name(hive: &[u8], logs: &[Vec<u8>]) -> (String, Vec<String>) {
    let logs: Vec<Arc<dyn BlockDevice>> = logs.iter().map(|log| in_memory(log.clone())).collect();
    let hive = Hive::open(in_memory(hive.to_vec()), &logs).unwrap();
    let value = hive.value(r"ControlSet001\Control\ComputerName\ComputerName", "ComputerName").unwrap().unwrap();
    (value.text().unwrap(), hive.notes().to_vec())
}

#[test]
fn entries_of_both_logs_are_applied_in_their_order() {
    let (hive, at) = open_hive();
    let entry = |sequence, name| {
        let (start, page) = page(&hive, at, name);
        (sequence, start, page)
    };
    let stale = log(&hive, &[entry(6, "STALE66")]);
    let first = log(&hive, &[entry(7, "NAME-07"), entry(8, "NAME-08")]);
    let second = log(&hive, &[entry(9, "NAME-09"), entry(11, "NAME-11")]);
    let name = |logs: &[Vec<u8>]| old_name(&hive, logs).0;
    assert_eq!(name(&[]), "OLDNAME");
    assert_eq!(name(std::slice::from_ref(&stale)), "OLDNAME");
    assert_eq!(name(&[first.clone(), stale]), "NAME-08");
    // 10 is missing, so 11 does not belong to what is here.
    assert_eq!(name(&[second.clone(), first.clone()]), "NAME-09");
    // An entry that was not written to its end ends its log.
    let mut torn = first.clone();
    *torn.last_mut().unwrap() ^= 1;
    assert_eq!(name(&[torn, second]), "NAME-07");
    // A hive that was closed needs no log.
    let mut closed = hive.clone();
    number(&mut closed[..512], 8, 8, 0);
    assert_eq!(old_name(&closed, &[first]), ("OLDNAME".into(), Vec::new()));
    assert!(old_name(&hive, &[]).1[0].contains("no log completes it"));
}

#[test]
fn old_logs_are_applied() {
    let (hive, at) = open_hive();
    let (start, page) = page(&hive, at, "NAME-01");
    let mut log = hive[..512].to_vec();
    number(&mut log, 8, 8, 1);
    log.extend(b"DIRT");
    let sectors = (hive.len() - 4096) / 512;
    let mut bits = vec![0_u8; sectors.div_ceil(8)];
    for sector in [(start - 4096) / 512, (start - 4096) / 512 + 1] {
        bits[sector / 8] |= 1 << (sector % 8);
    }
    log.extend(bits);
    log.resize(log.len().next_multiple_of(512), 0);
    log.extend(&page);
    assert_eq!(old_name(&hive, &[log.clone()]).0, "NAME-01");
    // One that is cut off is not believed.
    log.truncate(log.len() - 512);
    let (name, notes) = old_name(&hive, &[log]);
    assert_eq!(name, "OLDNAME");
    assert!(notes[0].contains("ends before its last page"), "{notes:?}");
}

/// Damage costs at most what it hits: no panic, no endless walk.
#[test]
fn harmed_hives_are_harmless() {
    const LINES_MAX: usize = 20_000;
    let (dirty, at) = open_hive();
    let (start, page) = page(&dirty, at, "NAME-07");
    let log = log(&dirty, &[(7, start, page)]);
    let hives = [(shipped("BCD.zst"), None), (shipped("SOFTWARE.zst"), None), (dirty, Some(log))];
    let mut random = Random(0x7265_6766);
    let mut seen = HashMap::new();
    for run in 0..flip_runs() * 4 {
        let (hive, log) = &hives[random.below(hives.len() as u64) as usize];
        let mut harmed = hive.clone();
        let mut harm = |bytes: &mut Vec<u8>, times| {
            for _ in 0..times {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
        };
        harm(&mut harmed, 1 + run % 64);
        let logs: Vec<_> = log
            .iter()
            .map(|log| {
                let mut log = log.clone();
                harm(&mut log, run % 8);
                in_memory(log)
            })
            .collect();
        let started = Instant::now();
        let outcome = Hive::open(in_memory(harmed), &logs).map(|hive| dump(&hive, LINES_MAX).1 > 0);
        assert!(started.elapsed() < Duration::from_secs(10), "run {run}");
        *seen.entry(outcome.map_err(|e| e.kind())).or_insert(0) += 1;
    }
    println!("{seen:?}");
}
