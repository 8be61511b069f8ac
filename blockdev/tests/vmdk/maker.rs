//! Makes the extents that `qemu-img` reads and does not write: COWD, SESparse, streamOptimized in one go.

use libdeflater::{CompressionLvl, Compressor};

/// What a grain of an extent is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grain {
    Absent,
    Zero,
    /// SESparse only.
    Unmapped,
    Data,
}

/// A file that is filled at offsets.
#[derive(Default)]
pub struct Filled(pub Vec<u8>);

impl Filled {
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        if self.0.len() < at + bytes.len() {
            self.0.resize(at + bytes.len(), 0);
        }
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put32(&mut self, at: usize, values: &[u32]) {
        self.put(at, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    }

    fn put64(&mut self, at: usize, values: &[u64]) {
        self.put(at, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    }
}

/// A descriptor of `lines` (extents, parent).
pub fn descriptor(cid: u32, parent: u32, kind: &str, lines: &str) -> Vec<u8> {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent:08x}\ncreateType=\"{kind}\"\n{lines}\n\n\
         # The Disk Data Base\n#DDB\nddb.adapterType = \"lsilogic\"\n"
    )
    .into_bytes()
}

/// A COWD extent with the `grains` of `content`, each of `grain` bytes, in the order `order` in the file.
pub fn cowd(content: &[u8], grain: usize, grains: &[Grain], order: &[usize]) -> Vec<u8> {
    const PER_TABLE: usize = 4096;
    let tables = grains.len().div_ceil(PER_TABLE);
    let mut file = Filled::default();
    let sectors = (content.len() / 512) as u32;
    file.put(0, b"COWD");
    file.put32(4, &[1, 3, sectors, (grain / 512) as u32, 4, tables as u32]);
    let mut end = 2048 + (tables * 4).next_multiple_of(512);
    let mut place = vec![None; tables];
    for &number in order.iter().filter(|n| grains[**n] == Grain::Data) {
        let (table, index) = (number / PER_TABLE, number % PER_TABLE);
        let at = *place[table].get_or_insert_with(|| {
            let at = end;
            file.put32(2048 + table * 4, &[(at / 512) as u32]);
            file.put(at, &[0; PER_TABLE * 4]);
            end += PER_TABLE * 4;
            at
        });
        file.put32(at + index * 4, &[(end / 512) as u32]);
        file.put(end, &padded(content, number * grain, grain));
        end += grain;
    }
    file.0
}

/// An SESparse extent with the `grains` of `content`; `numbers` gives each grain that is data its number in the file.
pub fn sesparse(content: &[u8], grains: &[Grain], mut numbers: impl FnMut(usize) -> u64) -> Vec<u8> {
    const GRAIN: usize = 4096;
    const PER_TABLE: usize = 4096;
    const DIRECTORY: usize = 64;
    const TABLES: usize = 128;
    let tables = grains.len().div_ceil(PER_TABLE);
    let first_grain = TABLES + tables * 64 + 64;
    let mut file = Filled::default();
    file.put64(0, &[0xcafe_babe, 0x2_0000_0001, (content.len() / 512) as u64, 8, 64]);
    file.put64(80, &[1, 1]);
    file.put64(128, &[DIRECTORY as u64, 64, TABLES as u64, (tables * 64) as u64]);
    file.put64(192, &[first_grain as u64, 8 * grains.len() as u64]);
    file.put64(512, &[0xcafe_cafe]);
    file.put(first_grain * 512, &[]);
    for table in 0..tables {
        let entries = &grains[table * PER_TABLE..grains.len().min((table + 1) * PER_TABLE)];
        if entries.iter().all(|g| *g == Grain::Absent) {
            continue;
        }
        // Tables lie in the opposite order.
        let place = tables - 1 - table;
        file.put64(DIRECTORY * 512 + table * 8, &[0x1000_0000 << 32 | place as u64]);
        for (index, grain) in entries.iter().enumerate() {
            let entry = match grain {
                Grain::Absent => 0,
                Grain::Unmapped => 1 << 60,
                Grain::Zero => 2 << 60,
                Grain::Data => {
                    let number = numbers(table * PER_TABLE + index);
                    let at = first_grain * 512 + number as usize * GRAIN;
                    file.put(at, &padded(content, (table * PER_TABLE + index) * GRAIN, GRAIN));
                    3 << 60 | (number & 0xfff) << 48 | number >> 12
                }
            };
            file.put64((TABLES + place * 64) * 512 + index * 8, &[entry]);
        }
    }
    file.0
}

/// A streamOptimized extent as exports write it, and where its parts begin: each grain, and each marker.
pub fn stream(content: &[u8], grains: &[Grain], embedded: &[u8]) -> (Vec<u8>, Vec<usize>) {
    const GRAIN: usize = 65536;
    const PER_TABLE: usize = 512;
    let capacity = (content.len() / 512) as u64;
    let header = |directory: u64| {
        let mut header = Filled::default();
        header.put(0, b"KDMV");
        header.put32(4, &[3, 0x3_0001]);
        header.put64(12, &[capacity, 128, 1, 20]);
        header.put32(44, &[PER_TABLE as u32]);
        header.put64(48, &[0, directory, 128]);
        header.put(72, b"\0\n \r\n\x01\0");
        header.put(511, &[0]);
        header.0
    };
    let marker = |number: u64, kind: u32| {
        let mut marker = Filled::default();
        marker.put64(0, &[number]);
        marker.put32(8, &[0, kind]);
        marker.put(511, &[0]);
        marker.0
    };
    let mut file = header(u64::MAX);
    file.extend_from_slice(embedded);
    file.resize(128 * 512, 0);
    let (mut parts, mut directory) = (Vec::new(), Vec::new());
    let mut compressor = Compressor::new(CompressionLvl::fastest());
    for (number, table) in grains.chunks(PER_TABLE).enumerate() {
        let mut entries = Filled(vec![0; PER_TABLE * 4]);
        for (index, _) in table.iter().enumerate().filter(|(_, g)| **g == Grain::Data) {
            let first = (number * PER_TABLE + index) * GRAIN;
            let mut packed = vec![0; 2 * GRAIN];
            let len = compressor.zlib_compress(&padded(content, first, GRAIN), &mut packed).unwrap();
            entries.put32(index * 4, &[(file.len() / 512) as u32]);
            parts.push(file.len());
            file.extend_from_slice(&(first as u64 / 512).to_le_bytes());
            file.extend_from_slice(&(len as u32).to_le_bytes());
            file.extend_from_slice(&packed[..len]);
            file.resize(file.len().next_multiple_of(512), 0);
        }
        if table.iter().all(|g| *g != Grain::Data) {
            directory.push(0);
            continue;
        }
        parts.push(file.len());
        file.extend(marker(4, 1));
        directory.push((file.len() / 512) as u32);
        file.extend(entries.0);
    }
    parts.push(file.len());
    file.extend(marker((directory.len() * 4).div_ceil(512) as u64, 2));
    let at = file.len() as u64 / 512;
    file.extend(directory.iter().flat_map(|e| e.to_le_bytes()));
    file.resize(file.len().next_multiple_of(512), 0);
    parts.push(file.len());
    file.extend(marker(1, 3));
    file.extend(header(at));
    parts.push(file.len());
    file.extend(marker(0, 0));
    (file, parts)
}

fn padded(content: &[u8], at: usize, len: usize) -> Vec<u8> {
    let mut bytes = content[at..content.len().min(at + len)].to_vec();
    bytes.resize(len, 0);
    bytes
}
