//! Volumes of ReFS for tests: pages that Windows wrote, and whole volumes built by hand after the published findings.
//!
//! What is built by hand is no proof of the format: reader and builder have the same sources.
#![allow(dead_code, reason = "the fuzz target's image is made by these too")]

use std::{collections::BTreeMap, path::Path};

use blockdev::{BlockDevice, BlockSizes, Extent, ExtentKind, MappedRun, ReadAt, Result};

/// A disk of which only some ranges are not zeros.
pub struct Sparse {
    size: u64,
    parts: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    fn new(size: u64) -> Self {
        Self { size, parts: BTreeMap::new() }
    }

    fn put(&mut self, at: u64, bytes: Vec<u8>) {
        let next = self.parts.range(at..).next().is_none_or(|(next, _)| *next >= at + bytes.len() as u64);
        let before = self.parts.range(..at).next_back().is_none_or(|(start, part)| start + part.len() as u64 <= at);
        assert!(next && before, "something is at {at:#x} already");
        self.parts.insert(at, bytes);
    }

    /// Harms a byte that was put.
    pub fn flip(&mut self, at: u64) {
        let (start, part) = self.parts.range_mut(..=at).next_back().unwrap();
        part[(at - start) as usize] ^= 0x20;
    }

    /// Makes zeros of what was put at `at`.
    pub fn wipe(&mut self, at: u64) {
        self.parts.get_mut(&at).unwrap().fill(0);
    }

    /// Writes another version in both boot sectors.
    pub fn set_version(&mut self, major: u8, minor: u8) {
        for at in [0, self.size - 512] {
            let sector = self.parts.get_mut(&at).unwrap();
            sector[0x28..0x2a].copy_from_slice(&[major, minor]);
            boot_checksum(sector);
        }
    }
}

impl ReadAt for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let n = (buf.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        buf[..n].fill(0);
        let end = offset + n as u64;
        let first = self.parts.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        for (start, part) in self.parts.range(first..end) {
            let (from, to) = (offset.max(*start), end.min(start + part.len() as u64));
            if from < to {
                let part = &part[(from - start) as usize..(to - start) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
        }
        Ok(n)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.size).then_some(Extent { range: offset..self.size, kind: ExtentKind::Data }))
    }

    fn map(&self, _: u64, _: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for Sparse {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

/// Which structures a volume has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Version 1.2.
    First,
    /// Version 3.4: containers, attributes as in version 1, no checksums.
    Old,
    /// Version 3.14.
    New,
}

impl Flavour {
    /// Bytes that block numbers count.
    pub const fn unit(self) -> u32 {
        if matches!(self, Self::First) { 0x4000 } else { 0x1000 }
    }

    const fn cluster(self) -> u32 {
        if matches!(self, Self::First) { 0x1_0000 } else { 0x1000 }
    }
}

/// The blocks of the checkpoints; the second one is the newer.
pub const CHECKPOINTS: [u64; 2] = [40, 44];

/// What the four words of the GUID of built volumes make.
const GUID: [u8; 16] = *b"0123456789abcdef";

const PAGE: usize = 16 << 10;

/// Bytes of a built volume, and clusters of its containers.
pub const SIZE: u64 = 8 << 20;
const CONTAINER: u64 = 0x100;

/// The file `name` of the fragments of real volumes.
fn fragment(name: &str) -> Option<Vec<u8>> {
    let Some(folder) = std::env::var_os("REVENANT_TESTDATA") else {
        println!("SKIPPED: REVENANT_TESTDATA is not set: the fragments of ReFS are not at hand");
        return None;
    };
    Some(std::fs::read(Path::new(&folder).join("images/refs").join(name)).unwrap())
}

/// The first 128 KiB of a real volume.
pub fn head() -> Option<Sparse> {
    let mut volume = Sparse::new(125_698_048 * 512);
    volume.put(0, fragment("refs_boot_superblock.bin")?);
    Some(volume)
}

/// Pages of another real volume, at their places, with superblock and checkpoint made by hand.
pub fn fragments() -> Option<Sparse> {
    let mut volume = Sparse::new(125_698_048 * 512);
    volume.put(0, fragment("refs_boot_superblock.bin")?[..512].to_vec());
    let [containers, objects, root] =
        ["refs_v314_container_tree_page.bin", "refs_v314_object_table_0x600.bin", "refs_v314_dir_0x600_root.bin"]
            .map(|name| fragment(name).unwrap());
    let signature = u32::from_le_bytes(root[0x0c..0x10].try_into().unwrap());
    let mut guid = [0; 16];
    set(&mut guid, 0, signature.into(), 4);
    volume.put(30 << 12, superblock(Flavour::New, 30, guid));
    let roots = [(0, 0x1_0804, &objects), (5, 0x1_0804, &objects), (7, 0x4000, &containers), (8, 0x4000, &containers)];
    let references = roots.map(|(place, number, page)| (place, reference(Flavour::New, number, Some(page))));
    volume.put(CHECKPOINTS[1] << 12, checkpoint(Flavour::New, CHECKPOINTS[1], signature, 7, &references));
    // Container 2 begins at cluster 0: virtual numbers in it are physical ones plus 0x10000.
    volume.put(0x4000 << 12, containers);
    volume.put(0x0804 << 12, objects);
    volume.put(0x3a00 << 12, root);
    Some(volume)
}

/// A CRC bit by bit, reflected, from all ones to all ones.
fn crc(polynomial: u64, bits: u32, bytes: &[u8]) -> u64 {
    let ones = u64::MAX >> (64 - bits);
    let folded = bytes.iter().fold(ones, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ polynomial } else { crc >> 1 })
    });
    folded ^ ones
}

fn boot_checksum(sector: &mut [u8]) {
    let counted = sector[..512].iter().enumerate().filter(|(at, _)| *at > 2 && !matches!(at, 0x16 | 0x17));
    let sum = counted.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
    sector[0x16..0x18].copy_from_slice(&sum.to_le_bytes());
}

/// A reference to the page with this first block; `page` is that, where its checksum counts.
fn reference(flavour: Flavour, number: u64, page: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    if flavour != Flavour::First {
        (1..4).for_each(|n| bytes.extend((number + n).to_le_bytes()));
    }
    bytes.extend([0, 0, 2, 8, 8, 0, 0, 0]);
    bytes.extend(page.map_or(0, |page| crc(0x9a6c_9329_ac4b_c9b5, 64, page)).to_le_bytes());
    bytes
}

fn set(bytes: &mut [u8], at: usize, value: u64, len: usize) {
    bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// The header of a page.
fn header(flavour: Flavour, kind: &[u8; 4], number: u64, signature: u32, table: u64) -> Vec<u8> {
    if flavour == Flavour::First {
        let mut bytes = vec![0; 48];
        set(&mut bytes, 0, number, 8);
        set(&mut bytes, 24, table, 8);
        return bytes;
    }
    let mut bytes = vec![0; 80];
    bytes[..4].copy_from_slice(kind);
    set(&mut bytes, 4, 2, 4);
    set(&mut bytes, 0x0c, signature.into(), 4);
    set(&mut bytes, 0x20, number, 8);
    set(&mut bytes, 0x48, table, 8);
    bytes
}

/// A superblock or checkpoint with its checksum of itself in the reference at `at`.
fn with_own_checksum(flavour: Flavour, mut page: Vec<u8>, at: usize) -> Vec<u8> {
    if flavour != Flavour::First {
        let unit = flavour.unit() as usize;
        page[at..at + 0x30].fill(0);
        let sum = crc(0x82f6_3b78, 32, &page[..unit]);
        set(&mut page, at + 0x22, 0x0801, 2);
        set(&mut page, at + 0x24, 4, 4);
        set(&mut page, at + 0x28, sum, 4);
    }
    page
}

/// A superblock that names both checkpoints.
fn superblock(flavour: Flavour, number: u64, guid: [u8; 16]) -> Vec<u8> {
    let words = guid.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let mut block = header(flavour, b"SUPB", number, words.fold(0, |sum, word| sum ^ word), 0);
    let base = block.len();
    block.resize(flavour.unit() as usize, 0);
    block[base..base + 16].copy_from_slice(&guid);
    for (at, value) in [(0x18, 1), (0x20, 0xc0), (0x24, 2), (0x28, 0xd0), (0x2c, 0x30)] {
        set(&mut block, base + at, value, 4);
    }
    set(&mut block, 0xc0, CHECKPOINTS[0], 8);
    set(&mut block, 0xc8, CHECKPOINTS[1], 8);
    with_own_checksum(flavour, block, 0xd0)
}

/// A checkpoint with these roots.
fn checkpoint(flavour: Flavour, number: u64, signature: u32, clock: u64, roots: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut page = header(flavour, b"CHKP", number, signature, 0);
    let base = page.len();
    page.resize(PAGE, 0);
    set(&mut page, base + 4, if flavour == Flavour::First { 1 } else { 3 }, 2);
    set(&mut page, base + 8, 0x100, 4);
    set(&mut page, base + 12, 0x30, 4);
    set(&mut page, base + 16, clock, 8);
    let (count, list) = match flavour {
        Flavour::First => (base + 0x28, base + 0x2c),
        Flavour::Old => (base + 0x40, base + 0x44),
        Flavour::New => {
            set(&mut page, base + 0x28, 0x682, 4);
            set(&mut page, base + 0x44, 0x140, 4);
            (base + 0x40, 0x140)
        }
    };
    set(&mut page, count, 13, 4);
    for (n, (place, reference)) in roots.iter().enumerate() {
        let at = 0x200 + n * 0x40;
        set(&mut page, list + place * 4, at as u64, 4);
        page[at..at + reference.len()].copy_from_slice(reference);
    }
    with_own_checksum(flavour, page, 0x100)
}

/// A key, a value, and whether the row was deleted.
type RowBytes = (Vec<u8>, Vec<u8>, bool);

/// A node: the offset of its header, `own` data, the header, rows, and the array of their offsets.
fn node(level: u8, own: &[u8], rows: &[RowBytes]) -> Vec<u8> {
    let mut node = vec![0; 0x28];
    node.extend(own);
    let start = node.len();
    set(&mut node, 0, start as u64, 4);
    node.resize(start + 32, 0);
    let mut offsets = Vec::new();
    for (key, value, is_deleted) in rows {
        let row = node.len();
        offsets.push(row - start);
        node.resize(row + 16, 0);
        node.extend(key);
        node.resize(node.len().next_multiple_of(8), 0);
        let value_at = node.len() - row;
        node.extend(value);
        node.resize(node.len().next_multiple_of(8), 0);
        let len = node.len() - row;
        set(&mut node, row, len as u64, 4);
        set(&mut node, row + 4, 16, 2);
        set(&mut node, row + 6, key.len() as u64, 2);
        set(&mut node, row + 8, if *is_deleted { 4 } else { 0 }, 2);
        set(&mut node, row + 10, value_at as u64, 2);
        set(&mut node, row + 12, value.len() as u64, 2);
    }
    let array = node.len() - start;
    offsets.iter().for_each(|offset| node.extend((*offset as u32 | 0xffff_0000).to_le_bytes()));
    set(&mut node, start, 32, 4);
    set(&mut node, start + 4, array as u64, 4);
    node[start + 12] = level;
    node[start + 13] = if level > 0 { 3 } else { 2 };
    set(&mut node, start + 16, array as u64, 4);
    set(&mut node, start + 20, rows.len() as u64, 4);
    node
}

/// A node of extents as version 3 has it: 24 bytes each.
fn extent_node(own: &[u8], extents: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut node = vec![0; 0x28];
    node.extend(own);
    let start = node.len();
    set(&mut node, 0, start as u64, 4);
    node.resize(start + 0x28, 0);
    for (at, len, block) in extents {
        node.extend(block.to_le_bytes());
        node.extend(0x18_0040_u32.to_le_bytes());
        node.extend(at.to_le_bytes());
        node.extend((*len as u32).to_le_bytes());
    }
    set(&mut node, start, 0x28, 4);
    set(&mut node, start + 4, 0x28 + extents.len() as u64 * 24, 4);
    set(&mut node, start + 12, 0x0e00, 4);
    set(&mut node, start + 20, extents.len() as u64, 4);
    node
}

/// A volume under construction.
struct Builder {
    flavour: Flavour,
    volume: Sparse,
    signature: u32,
    /// The next free physical block.
    free: u64,
    objects: BTreeMap<u64, Vec<u8>>,
}

impl Builder {
    /// The number by which the block at `physical` is known: the last container has the number 2.
    fn number(&self, physical: u64) -> u64 {
        let (container, within) = (physical / CONTAINER, physical % CONTAINER);
        match self.flavour {
            Flavour::First => physical,
            _ => (Self::container_count() + 1 - container) * CONTAINER * 2 + within,
        }
    }

    fn container_count() -> u64 {
        SIZE / u64::from(Flavour::New.unit()) / CONTAINER
    }

    /// A page of metadata; a reference to it.
    fn page(&mut self, node: &[u8], table: u64, is_physical: bool) -> Vec<u8> {
        let physical = self.free;
        self.free += (PAGE / self.flavour.unit() as usize) as u64;
        let number = if is_physical { physical } else { self.number(physical) };
        let mut page = header(self.flavour, b"MSB+", number, self.signature, table);
        page.extend(node);
        assert!(page.len() <= PAGE, "a node of {} bytes", node.len());
        page.resize(PAGE, 0);
        let sum = (self.flavour == Flavour::New).then(|| page.clone());
        self.volume.put(physical * u64::from(self.flavour.unit()), page);
        reference(self.flavour, number, sum.as_deref())
    }

    /// A tree of these rows, of which at most `per_page` are in one page; a reference to it.
    fn tree(&mut self, rows: &[RowBytes], table: u64, per_page: usize, is_physical: bool) -> Vec<u8> {
        let (mut level, mut rows) = (0, rows.to_vec());
        while rows.len() > per_page {
            let mut above = Vec::new();
            for chunk in rows.chunks(per_page) {
                let reference = self.page(&node(level, &[], chunk), table, is_physical);
                above.push((chunk.last().unwrap().0.clone(), reference, false));
            }
            // The last key of an inner node may be empty.
            above.last_mut().unwrap().0.clear();
            (level, rows) = (level + 1, above);
        }
        self.page(&node(level, &[], &rows), table, is_physical)
    }

    /// `blocks` blocks of content; the number of the first one.
    fn content(&mut self, byte: u8, blocks: u64) -> u64 {
        let (unit, physical) = (u64::from(self.flavour.unit()), self.free);
        self.free += blocks;
        self.volume.put(physical * unit, vec![byte; (blocks * unit) as usize]);
        self.number(physical)
    }

    /// The key of an attribute.
    fn attribute_key(&self, kind: u16, version: Option<u64>, name: &str) -> Vec<u8> {
        let mut key = vec![0; 8];
        if self.flavour == Flavour::New {
            key.extend(if version.is_some() || kind == 0xb0 { 0x8000_0002_u32 } else { 0x8000_0001 }.to_le_bytes());
            key.extend(kind.to_le_bytes());
            key.extend([0, 0]);
            key.extend(version.map_or(Vec::new(), |v| v.to_le_bytes().to_vec()));
        } else {
            key.extend(u32::from(kind).to_le_bytes());
        }
        key.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        key
    }

    /// An attribute with its content in it.
    fn resident(&self, kind: u16, name: &str, content: &[u8]) -> RowBytes {
        let mut value = vec![0; 0x3c];
        if self.flavour == Flavour::First {
            set(&mut value, 4, 0x3c, 4);
            set(&mut value, 8, content.len() as u64, 4);
        } else {
            set(&mut value, 4, 0x30 + content.len() as u64, 4);
            set(&mut value, 8, 0x0c, 4);
            set(&mut value, 12, 0x30, 4);
            for at in [0x18, 0x20, 0x28, 0x30] {
                set(&mut value, at, content.len() as u64, 8);
            }
        }
        value.extend(content);
        (self.attribute_key(kind, None, name), value, false)
    }

    /// The content in extents: place in the file, length, first block.
    fn extents(&self, size: u64, valid: u64, extents: &[(u64, u64, u64)]) -> RowBytes {
        let at = if self.flavour == Flavour::New { 8 } else { 12 };
        let mut own = vec![0; 0x60];
        let allocated = extents.iter().map(|(_, len, _)| len).sum::<u64>() * u64::from(self.flavour.unit());
        set(&mut own, at, allocated, 8);
        set(&mut own, at + 8, size, 8);
        set(&mut own, at + 16, valid, 8);
        let value = if self.flavour == Flavour::First {
            let rows = extents.iter().map(|(at, len, block)| {
                let value = [*at, *len, *block, 0].map(u64::to_le_bytes).concat();
                (value[..16].to_vec(), value, false)
            });
            node(0, &own, &rows.collect::<Vec<_>>())
        } else {
            extent_node(&own, extents)
        };
        (self.attribute_key(0x80, (self.flavour == Flavour::New).then_some(0x1000), ""), value, false)
    }

    /// What is known of a file, with its attributes.
    fn body(&self, attributes: u32, size: u64, rows: &[RowBytes]) -> Vec<u8> {
        let mut own = vec![0; 0x80];
        // The last 100 ns before 1970; 2020-09-13 and 700 ns.
        for (at, time) in [(0, 116_444_735_999_999_999), (8, 132_444_736_000_000_007), (16, 1), (24, 2)] {
            set(&mut own, at, time, 8);
        }
        set(&mut own, 32, attributes.into(), 4);
        set(&mut own, if self.flavour == Flavour::First { 0x40 } else { 0x30 }, size, 8);
        node(0, &own, rows)
    }

    fn file_key(kind: u16, name: &str) -> Vec<u8> {
        [0x30_u16, kind].into_iter().chain(name.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    }

    /// A file whose attributes are in its row.
    fn file(&self, name: &str, attributes: u32, rows: &[RowBytes]) -> RowBytes {
        (Self::file_key(1, name), self.body(attributes, 0, rows), false)
    }

    /// A file or directory that is elsewhere.
    fn elsewhere(&self, name: &str, low: u64, high: u64, size: u64, attributes: u32) -> RowBytes {
        let mut value = vec![0; if self.flavour == Flavour::New { 84 } else { 72 }];
        set(&mut value, 0, low, 8);
        set(&mut value, 8, high, 8);
        set(&mut value, 0x38, size, 8);
        set(&mut value, 0x40, attributes.into(), 4);
        (Self::file_key(2, name), value, false)
    }

    fn directory(&self, name: &str, number: u64) -> RowBytes {
        let (low, high) = if self.flavour == Flavour::First { (number, 0) } else { (2, number) };
        self.elsewhere(name, low, high, 0, 0x1000_0010)
    }

    /// The row of a file that is kept apart from its name.
    fn apart(&self, number: u64, home: u64, size: u64, rows: &[RowBytes]) -> RowBytes {
        let mut key = vec![0x40, 0, 0, 0x80, 0, 0, 0, 0];
        key.extend(number.to_le_bytes());
        key.extend(home.to_le_bytes());
        (key, self.body(0x20, size, rows), false)
    }

    /// The object `number`: a directory with these rows.
    fn object(&mut self, number: u64, files: Vec<RowBytes>) {
        let own = (vec![0x10, 0, 0, 0], self.body(0x10, 0, &[]), false);
        let rows: Vec<_> = std::iter::once(own).chain(files).collect();
        let reference = self.tree(&rows, number, 12, false);
        self.objects.insert(number, reference);
    }
}

/// A volume built by hand.
pub fn built(flavour: Flavour) -> Sparse {
    let signature = GUID.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let signature = signature.fold(0, |sum, word| sum ^ word);
    let mut b = Builder { flavour, volume: Sparse::new(SIZE), signature, free: 64, objects: BTreeMap::new() };

    let (first, middle, last) = (b.content(b'a', 1), b.content(b'b', 2), b.content(b'c', 1));
    let unit = u64::from(flavour.unit());
    let big = b.extents(6 * unit + 1005, 6 * unit + 5, &[(6, 1, last), (0, 1, first), (1, 2, middle)]);
    let stream = (flavour == Flavour::New).then(|| b.resident(0xb0, "note", b"a remark."));
    let small: Vec<_> = std::iter::once(b.resident(0x80, "", b"in the row of the file")).chain(stream).collect();
    let mut root = vec![
        b.file("big.bin", 0x21, &[big]),
        b.file("empty", 0x20, &[b.resident(0x80, "", b"")]),
        b.directory("folder", 0x701),
        b.directory("many", 0x703),
        b.file("small.txt", 0x20, &small),
        (Builder::file_key(1, "was deleted"), b.body(0x20, 0, &[]), true),
    ];
    let mut folder = vec![b.directory("deeper", 0x702)];
    if flavour != Flavour::First {
        let linked = b.content(b'l', 1);
        let data = b.extents(unit, unit, &[(0, 1, linked)]);
        root.insert(3, b.elsewhere("linked", 9, 0x600, unit, 0x20));
        root.insert(3, link(&b));
        root.push(b.apart(9, 0x600, unit, &[data]));
        // Another file with the same number in this directory, of another length.
        folder.push(b.elsewhere("linked", 9, 0x600, unit, 0x20));
        folder.push(b.apart(9, 0x701, 1, &[]));
    }
    b.object(0x600, root);
    b.object(0x701, folder);
    let deep = b.file("x", 0x20, &[b.resident(0x80, "", b"far below")]);
    b.object(0x702, vec![deep]);
    let many =
        (0..300).map(|n| b.file(&format!("entry {n:04}"), 0x20, &[b.resident(0x80, "", n.to_string().as_bytes())]));
    let many = many.collect();
    b.object(0x703, many);
    let label = "built by hand".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let label = b.tree(&[(0x510_u64.to_le_bytes().to_vec(), label, false)], 0x500, 12, false);
    b.objects.insert(0x500, label);

    let objects: Vec<RowBytes> = b
        .objects
        .clone()
        .into_iter()
        .map(|(number, reference)| {
            let mut value = if flavour == Flavour::First { reference } else { [vec![0; 0x20], reference].concat() };
            value.resize(value.len().max(48), 0);
            ([0, number].map(u64::to_le_bytes).concat(), value, false)
        })
        .collect();
    let objects = [b.tree(&objects, 2, 3, false), b.tree(&objects, 4, 3, false)];
    let mut roots = vec![(0, objects[0].clone()), (5, objects[1].clone())];
    if flavour != Flavour::First {
        let rows = (2..Builder::container_count() + 2).map(|number| {
            let mut value = vec![0; 160];
            set(&mut value, 0, number, 8);
            set(&mut value, 0x18, CONTAINER, 4);
            set(&mut value, 0x20, 0x10, 8);
            set(&mut value, 144, (Builder::container_count() + 1 - number) * CONTAINER, 8);
            (value[..16].to_vec(), value, false)
        });
        let rows: Vec<_> = rows.collect();
        roots.push((7, b.tree(&rows, 0x0b, 3, true)));
        roots.push((8, b.tree(&rows, 0x0c, 3, true)));
    }
    let Builder { mut volume, signature, .. } = b;
    for (number, clock) in CHECKPOINTS.into_iter().zip([6, 7]) {
        volume.put(number * unit, checkpoint(flavour, number, signature, clock, &roots));
    }
    for number in [30, SIZE / unit - 2, SIZE / unit - 3] {
        volume.put(number * unit, superblock(flavour, number, GUID));
    }
    for at in [0, SIZE - 512] {
        let mut sector = vec![0; 512];
        sector[3..7].copy_from_slice(b"ReFS");
        sector[16..20].copy_from_slice(b"FSRS");
        set(&mut sector, 0x14, 0x200, 2);
        set(&mut sector, 0x18, SIZE / 512, 8);
        set(&mut sector, 0x20, 512, 4);
        set(&mut sector, 0x24, u64::from(flavour.cluster()) / 512, 4);
        let version = match flavour {
            Flavour::First => [1, 2],
            Flavour::Old => [3, 4],
            Flavour::New => [3, 14],
        };
        sector[0x28..0x2a].copy_from_slice(&version);
        set(&mut sector, 0x40, if flavour == Flavour::First { 0 } else { CONTAINER * unit }, 8);
        boot_checksum(&mut sector);
        volume.put(at, sector);
    }
    volume
}

/// A symbolic link.
fn link(b: &Builder) -> RowBytes {
    let path: Vec<u8> = "folder\\deeper\\x".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut data = vec![0; 12];
    set(&mut data, 2, path.len() as u64, 2);
    set(&mut data, 8, 1, 4);
    data.extend(&path);
    let mut value = vec![0; 0x14];
    set(&mut value, 4, data.len() as u64 + 8, 4);
    set(&mut value, 8, 0x0c, 4);
    set(&mut value, 12, 0xa000_000c, 4);
    set(&mut value, 16, data.len() as u64, 2);
    value.extend(data);
    let reparse = (b.attribute_key(0xc0, None, ""), value, false);
    b.file("link", 0x420, &[b.resident(0x80, "", b""), reparse])
}
