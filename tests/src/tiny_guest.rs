//! Guests in one sector (`tests/lab/tiny-guests`): they start in a moment, and what they do to their disk is known.
//!
//! What a guest was told to be written cannot be asked of the software that wrote it. The writer says it itself, on its
//! serial port, block by block; [`Writer::assert_holds`] then compares a disk with what it said.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{installed, random::Random, temp};

/// Bytes of a block that the writer writes.
const BLOCK: u64 = 4096;
/// Where it counts its starts, in bytes.
const STARTS: u64 = 64 * 512;
/// Room for code in a sector with a partition table.
const CODE: usize = 440;

/// Assembles a guest; `None`, with a word of it, where there is no assembler.
fn assemble(name: &str) -> Option<Vec<u8>> {
    if !installed("guests in one sector", &["as", "ld"]) {
        return None;
    }
    let folder = temp();
    let at = |end: &str| folder.path().join(format!("{name}.{end}"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("lab/tiny-guests/{name}.S"));
    let run = |command: &mut Command| assert!(command.status().expect("binutils").success(), "{command:?}");
    run(Command::new("as").arg("--32").arg("-o").arg(at("o")).arg(source));
    let words = ["-m", "elf_i386", "-Ttext", "0x7c00", "-e", "_start", "--oformat", "binary", "-o"];
    run(Command::new("ld").args(words).arg(at("bin")).arg(at("o")));
    let code = fs::read(at("bin")).expect("a guest");
    assert!(code.len() <= CODE, "{name} has {} bytes", code.len());
    Some(code)
}

fn sector(code: &[u8]) -> Vec<u8> {
    let mut sector = code.to_vec();
    sector.resize(512, 0);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A guest that writes.
#[derive(Debug)]
pub struct Writer {
    /// Its boot sector.
    pub sector: Vec<u8>,
    /// Where its first block is, in bytes.
    first: u64,
}

impl Writer {
    /// One that writes `blocks` blocks of 4 KiB from byte `first` on.
    ///
    /// # Panics
    ///
    /// When it cannot be assembled, although there is an assembler.
    #[must_use]
    pub fn new(first: u64, blocks: u32) -> Option<Self> {
        let mut code = assemble("writer")?;
        let at = u32::try_from(first / 512).expect("a sector");
        code[0x160..0x164].copy_from_slice(&at.to_le_bytes());
        code[0x164..0x168].copy_from_slice(&blocks.to_le_bytes());
        Some(Self { sector: sector(&code), first })
    }

    /// Asserts that the image `after` has all that the guest was told to be written, and is for the rest as `before`, a copy
    /// made before it was started. The block that it was at when it was ended may be anything.
    ///
    /// # Panics
    ///
    /// When it is not so.
    pub fn assert_holds(&self, said: &Said, before: &Path, after: &Path) {
        let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (mut wanted, found) = (read(before), read(after));
        assert_eq!(wanted.len(), found.len(), "the size of the disk");
        let mut unknown = Vec::new();
        let place = |block: u32| usize::try_from(self.first + u64::from(block) * BLOCK).expect("a place");
        for (start, written) in &said.0 {
            for block in 0..*written {
                let stamp = (u32::from(*start) << 24 | block).to_le_bytes();
                wanted[place(block)..][..BLOCK as usize].copy_from_slice(&stamp.repeat(BLOCK as usize / 4));
                unknown.retain(|at| *at != place(block));
            }
            unknown.push(place(*written));
        }
        let starts = said.0.keys().max().copied().unwrap_or(0);
        wanted[STARTS as usize] = starts;
        for (number, (wanted, found)) in wanted.chunks(BLOCK as usize).zip(found.chunks(BLOCK as usize)).enumerate() {
            let at = number * BLOCK as usize;
            let (is, was) = (&found[..8], &wanted[..8]);
            assert!(wanted == found || unknown.contains(&at), "byte {at}: {is:x?}, wanted {was:x?}; {said:?}");
        }
    }
}

/// What a writer said: for each of its starts, how many blocks were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said(BTreeMap<u8, u32>);

impl Said {
    /// What stands in the log of its serial port; a line that is not finished counts for nothing.
    ///
    /// # Panics
    ///
    /// When it cannot be read, or is none.
    #[must_use]
    pub fn read(console: &Path) -> Self {
        let text = fs::read_to_string(console).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut said = BTreeMap::new();
        for line in whole.lines() {
            let digits = line.trim_matches(['!', '.']);
            // One that was broken off by the end of its machine is continued by the next start.
            let Some(stamp) = digits.len().checked_sub(8).and_then(|at| u32::from_str_radix(&digits[at..], 16).ok())
            else {
                continue;
            };
            // It writes in order: what is before is written, too, if there was no room for saying so.
            said.insert((stamp >> 24) as u8, (stamp & 0xff_ffff) + 1);
        }
        Self(said)
    }

    /// Its starts, and the blocks that were written since the last.
    #[must_use]
    pub fn last(&self) -> (u8, u32) {
        self.0.iter().next_back().map_or((0, 0), |(start, blocks)| (*start, *blocks))
    }
}

/// A disk of `size` bytes with a guest that reads 8 KiB at each of `places`, in their order; everywhere else, and there, it
/// has bytes that nothing compresses. Where it is.
///
/// # Panics
///
/// When it cannot be made, although there is an assembler.
#[must_use]
pub fn reader_disk(path: &Path, size: u64, places: &[u64]) -> Option<PathBuf> {
    let mut code = assemble("reader")?;
    for place in places {
        code.extend(u32::try_from(place / 512).expect("a sector").to_le_bytes());
    }
    code.extend([0; 4]);
    assert!(code.len() <= CODE, "too many places");
    let mut bytes = Random(7).bytes(usize::try_from(size).expect("a size"));
    bytes[..512].copy_from_slice(&sector(&code));
    fs::File::create(path).and_then(|f| f.write_all_at(&bytes, 0)).expect("a disk");
    Some(path.to_owned())
}
