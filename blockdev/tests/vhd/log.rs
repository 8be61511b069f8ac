//! VHDX images that were not closed: logs written here, and replayed in memory.
//!
//! What they have to give is a copy in which every change was made, with an empty log, as QEMU reads it. QEMU's own
//! replay is asked too where it can be: it takes no heed of the tail, of the end of the ring and of
//! older sequences, and it cannot read more descriptors than one sector has.

use std::path::Path;

use blockdev::{ErrorKind, images::Image};

use crate::{
    common::{Random, assert_same, qemu_raw, run},
    edit::{content, crc, le32, le64, made, open, put, refused, seal_vhdx},
    vhdx::bat,
};

const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const SECTOR: usize = 4096;
const GUID: &[u8; 16] = b"the log's guid..";

/// One change.
enum Change {
    /// These bytes at this byte of the file.
    Data(u64, Vec<u8>),
    /// So many zeros there.
    Zeros(u64, u64),
}

/// A writer of logs.
struct Log<'a> {
    image: &'a mut Vec<u8>,
    at: usize,
    len: usize,
    /// Where the next entry goes, and its number.
    head: usize,
    sequence: u64,
    tail: usize,
}

impl<'a> Log<'a> {
    /// The log of `image`, whose first entry will be at `head`.
    fn new(image: &'a mut Vec<u8>, head: usize) -> Self {
        let (at, len) = (le64(image, HEADERS[0] + 72) as usize, le32(image, HEADERS[0] + 68) as usize);
        for header in HEADERS {
            put(image, header + 48, GUID);
        }
        seal_vhdx(image);
        Self { image, at, len, head, sequence: 0x1_0000_0005, tail: head }
    }

    /// Append an entry; where in the file it begins.
    fn push(&mut self, changes: &[Change]) -> usize {
        let tables = (64 + 32 * changes.len()).next_multiple_of(SECTOR);
        let data = changes.iter().filter(|change| matches!(change, Change::Data(..))).count();
        let mut entry = vec![0; tables + SECTOR * data];
        let (len, size) = (entry.len(), self.image.len() as u64);
        put(&mut entry, 0, b"loge");
        put(&mut entry, 8, &(len as u32).to_le_bytes());
        put(&mut entry, 12, &(self.tail as u32).to_le_bytes());
        put(&mut entry, 16, &self.sequence.to_le_bytes());
        put(&mut entry, 24, &(changes.len() as u32).to_le_bytes());
        put(&mut entry, 32, GUID);
        put(&mut entry, 48, &size.to_le_bytes());
        put(&mut entry, 56, &size.to_le_bytes());
        let mut next = tables;
        for (i, change) in changes.iter().enumerate() {
            let at = 64 + 32 * i;
            put(&mut entry, at + 24, &self.sequence.to_le_bytes());
            match change {
                Change::Data(offset, bytes) => {
                    put(&mut entry, at, b"desc");
                    put(&mut entry, at + 4, &bytes[SECTOR - 4..]);
                    put(&mut entry, at + 8, &bytes[..8]);
                    put(&mut entry, at + 16, &offset.to_le_bytes());
                    put(&mut entry, next, b"data");
                    put(&mut entry, next + 4, &((self.sequence >> 32) as u32).to_le_bytes());
                    put(&mut entry, next + 8, &bytes[8..SECTOR - 4]);
                    put(&mut entry, next + SECTOR - 4, &(self.sequence as u32).to_le_bytes());
                    next += SECTOR;
                }
                Change::Zeros(offset, len) => {
                    put(&mut entry, at, b"zero");
                    put(&mut entry, at + 8, &len.to_le_bytes());
                    put(&mut entry, at + 16, &offset.to_le_bytes());
                }
            }
        }
        crc(&mut entry);
        let begins = self.at + self.head;
        for sector in entry.chunks(SECTOR) {
            put(self.image, self.at + self.head, sector);
            self.head = (self.head + SECTOR) % self.len;
        }
        self.sequence += 1;
        begins
    }
}

/// The image with these changes made, and nothing left to replay.
fn applied<'a>(image: &[u8], changes: impl IntoIterator<Item = &'a Change>) -> Vec<u8> {
    let mut image = image.to_vec();
    for change in changes {
        match change {
            Change::Data(at, bytes) => put(&mut image, *at as usize, bytes),
            Change::Zeros(at, len) => image[*at as usize..][..*len as usize].fill(0),
        }
    }
    for header in HEADERS {
        put(&mut image, header + 48, &[0; 16]);
    }
    seal_vhdx(&mut image);
    image
}

/// What QEMU reads of `clean` is what `opened` has.
fn assert_content(clean: &[u8], opened: &Image, random: &mut Random, folder: &Path) {
    let [copy, raw] = ["copy.vhdx", "copy.raw"].map(|name| folder.join(name));
    std::fs::write(&copy, clean).unwrap();
    assert_same(&opened.disk, &qemu_raw("vhdx", &copy, &raw), random);
}

/// What QEMU reads after it has replayed the log of a copy of `image` is what `opened` has.
fn assert_qemu_agrees(image: &[u8], opened: &Image, random: &mut Random, folder: &Path) {
    let [copy, raw] = ["copy.vhdx", "copy.raw"].map(|name| folder.join(name));
    std::fs::write(&copy, image).unwrap();
    run("qemu-img", ["check".as_ref(), "-q".as_ref(), "-r".as_ref(), "all".as_ref(), copy.as_os_str()]);
    assert_same(&opened.disk, &qemu_raw("vhdx", &copy, &raw), random);
}

/// Entries with random changes of the table and of the data, over each other: where each begins and what it says. The
/// first begins `before_end` bytes before the end of the ring.
fn random_log(
    image: &mut Vec<u8>,
    entries: usize,
    before_end: usize,
    random: &mut Random,
) -> Vec<(usize, Vec<Change>)> {
    let (bat, data) = (bat(image), (5 << 20, image.len() as u64));
    let blocks: Vec<[u8; 8]> = (0..30).map(|i| image[bat + 8 * i..][..8].try_into().unwrap()).collect();
    let log_len = le32(image, HEADERS[0] + 68) as usize;
    let head = log_len - before_end;
    let mut log = Log::new(image, head);
    let mut written = Vec::new();
    for _ in 0..entries {
        let mut changes = Vec::new();
        for _ in 0..random.below(5) {
            let target = data.0 + random.below(data.1 - data.0) / SECTOR as u64 * SECTOR as u64;
            match random.below(4) {
                0 => changes.push(Change::Zeros(target, (random.below(300) * SECTOR as u64).min(data.1 - target))),
                1 => {
                    // Another order of the blocks, and some of them gone.
                    let mut table = vec![0; SECTOR];
                    for i in 0..blocks.len() {
                        let other = random.below(blocks.len() as u64 + 5) as usize;
                        put(&mut table, 8 * i, blocks.get(other).unwrap_or(&[2, 0, 0, 0, 0, 0, 0, 0]));
                    }
                    changes.push(Change::Data(bat as u64, table));
                }
                _ => changes.push(Change::Data(target, random.bytes(SECTOR))),
            }
        }
        // More than the first sector of an entry has room for.
        if head != 0 && random.below(4) == 0 {
            changes.extend((0..150).map(|_| Change::Zeros(data.0 + random.below(5000) * SECTOR as u64, SECTOR as u64)));
        }
        written.push((log.push(&changes), changes));
    }
    written
}

#[test]
fn a_log_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(21);
    for round in 0..6 {
        let options = "subformat=fixed,block_size=1M,block_state_zero=off";
        let (mut image, _) = made("vhdx", options, 30 << 20, &mut random, folder.path());
        // Every other one goes over the end of the ring.
        let before_end = if round % 2 == 0 { 1 << 20 } else { SECTOR * (1 + round) };
        let written = random_log(&mut image, 1 + round * 3, before_end, &mut random);
        let opened = open(image.clone()).unwrap();
        assert!(opened.members[0].info.notes[0].contains("replayed"), "{:?}", opened.members[0].info.notes);
        let clean = applied(&image, written.iter().flat_map(|(_, changes)| changes));
        assert_content(&clean, &opened, &mut random, folder.path());
        if round % 2 == 0 {
            assert_qemu_agrees(&image, &opened, &mut random, folder.path());
        }
    }
}

/// An entry that was not written to its end ends the log: what was before counts, if it is whole.
#[test]
fn a_torn_entry_ends_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(22);
    let options = "subformat=fixed,block_size=1M,block_state_zero=off";
    let (mut image, _) = made("vhdx", options, 30 << 20, &mut random, folder.path());
    let clean = image.clone();
    let written = random_log(&mut image, 9, 1 << 20, &mut random);
    for torn in [8, 5] {
        let mut image = image.clone();
        image[written[torn].0 + 50] ^= 1;
        let opened = open(image.clone()).unwrap();
        let clean = applied(&image, written[..torn].iter().flat_map(|(_, changes)| changes));
        assert_content(&clean, &opened, &mut random, folder.path());
    }
    // Where the first is damaged, the last names a tail that is not there.
    let mut headless = image.clone();
    headless[written[0].0 + 50] ^= 1;
    let (kind, told) = refused(headless);
    assert!(kind == ErrorKind::Damaged && told.contains("log"), "{told}");
    // A log that was begun and has no entry.
    let mut empty = clean;
    Log::new(&mut empty, 0);
    let opened = open(empty.clone()).unwrap();
    assert_eq!(opened.members[0].info.notes, ["not closed properly; its log is empty"]);
    assert_qemu_agrees(&empty, &opened, &mut random, folder.path());
}

/// Entries of older sequences are still in the ring: the newest counts, wherever it lies.
#[test]
fn the_newest_sequence_counts() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(23);
    let (mut image, raw) =
        made("vhdx", "subformat=fixed,block_size=1M,block_state_zero=off", 30 << 20, &mut random, folder.path());
    let data = image.len() as u64 - (4 << 20);
    let change = |fill: u8| [Change::Data(data, vec![fill; SECTOR])];
    let mut log = Log::new(&mut image, 10 * SECTOR);
    log.push(&change(1));
    log.push(&change(2));
    // The tail has moved on: what is before is in the file already.
    log.tail = log.head;
    log.push(&change(3));
    log.push(&[Change::Zeros(data + (1 << 20), 1 << 20)]);
    log.head = 100 * SECTOR;
    log.tail = log.head;
    log.sequence -= 3;
    log.push(&change(4));
    let opened = open(image.clone()).unwrap();
    let mut expected = raw;
    let at = expected.len() - (4 << 20);
    expected[at..at + SECTOR].fill(3);
    expected[at + (1 << 20)..at + (2 << 20)].fill(0);
    assert!(content(&*opened.disk) == expected);
}

/// The file was longer when the log was written, or has to become longer.
#[test]
fn the_log_says_how_long_the_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(24);
    let (mut image, _) =
        made("vhdx", "subformat=fixed,block_size=1M,block_state_zero=off", 30 << 20, &mut random, folder.path());
    let clean = image.clone();
    random_log(&mut image, 3, 1 << 20, &mut random);
    let mut cut = image.clone();
    cut.truncate(image.len() - 512);
    let (kind, told) = refused(cut);
    assert!(kind == ErrorKind::Damaged && told.contains("cut off"), "{told}");
    let mut image = clean;
    // A block that was promised behind the end, and not yet written: zeros.
    let end = image.len().next_multiple_of(1 << 20);
    let (bat, entry) = (bat(&image), end as u64 | 6);
    let mut table = image[bat..bat + SECTOR].to_vec();
    put(&mut table, 0, &entry.to_le_bytes());
    let mut log = Log::new(&mut image, 0);
    let begins = log.push(&[Change::Data(bat as u64, table)]);
    put(&mut image, begins + 56, &((end + (1 << 20)) as u64).to_le_bytes());
    crc(&mut image[begins..begins + 2 * SECTOR]);
    let opened = open(image).unwrap();
    assert!(content(&*opened.disk)[..1 << 20].iter().all(|b| *b == 0));
}

/// A log that claims too much costs nothing.
#[test]
fn a_hostile_log_is_refused_soon() {
    let folder = tempfile::tempdir().unwrap();
    let (mut image, _) = made("vhdx", "subformat=dynamic,block_size=1M", 3 << 20, &mut Random(25), folder.path());
    let at = image.len().next_multiple_of(1 << 20);
    for (len, kind) in [(64 << 20, ErrorKind::Damaged), (65 << 20, ErrorKind::Limit)] {
        image.resize(at + len, 0);
        for header in HEADERS {
            put(&mut image, header + 48, GUID);
            put(&mut image, header + 68, &(len as u32).to_le_bytes());
            put(&mut image, header + 72, &(at as u64).to_le_bytes());
        }
        seal_vhdx(&mut image);
        // Every sector begins an entry that has the whole log.
        for begins in (at..at + len).step_by(SECTOR) {
            put(&mut image, begins, b"loge");
            put(&mut image, begins + 8, &(len as u32).to_le_bytes());
            put(&mut image, begins + 16, &1_u64.to_le_bytes());
            put(&mut image, begins + 32, GUID);
        }
        let started = std::time::Instant::now();
        assert_eq!(refused(image.clone()).0, kind);
        assert!(started.elapsed().as_secs() < 20);
    }
}
