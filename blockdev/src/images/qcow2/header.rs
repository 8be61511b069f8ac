//! The header, its feature bits and its extensions ("Header", "Header extensions").

use super::{backing, map::Geometry, name, unpack::Compression};
use crate::{
    Error, Result,
    images::{Parent, tables::Tables},
};

/// Bytes of the header of version 2, and the least of version 3.
const LENGTH_V2: u32 = 72;
const LENGTH_V3: u32 = 104;

/// Longest name of a backing file that the specification allows, and of an external data file that is taken.
const NAME_MAX: u64 = 1023;

/// Clusters are 512 bytes to 2 MiB, which is QEMU's bound too.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// With extended L2 entries they are at least 16 KiB.
const CLUSTER_BITS_EXTENDED_MIN: u32 = 14;

/// Incompatible features: who does not know one must not read.
mod incompatible {
    pub(super) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const DATA_FILE: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Autoclear features: who does not know one clears it when it writes.
mod autoclear {
    pub(super) const BITMAPS: u64 = 1;
    pub(super) const RAW_DATA_FILE: u64 = 1 << 1;
}

/// Types of header extensions.
mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(super) const BITMAPS: u32 = 0x2385_2875;
    pub(super) const DATA_FILE: u32 = 0x4441_5441;
}

/// A table of the file: where it is and how many entries it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Byte offset in the file.
    pub(super) offset: u64,
    /// Number of entries.
    pub(super) entries: u32,
}

/// What the bitmaps extension says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bitmaps {
    /// How many there are, and where their directory is.
    pub(super) directory: Table,
    /// Bytes of the directory.
    pub(super) directory_size: u64,
    /// The writer knew bitmaps and kept them right.
    pub(super) consistent: bool,
}

/// A header with all that it leads to, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) geometry: Geometry,
    /// Bytes of the disk, at most `i64::MAX`.
    pub(super) size: u64,
    pub(super) l1: Table,
    pub(super) snapshots: Table,
    pub(super) bitmaps: Option<Bitmaps>,
    pub(super) backing: Option<Parent>,
    /// Name of the external data file.
    pub(super) data_file: Option<String>,
    raw_data_file: bool,
    /// What an operator should know.
    pub(super) notes: Vec<String>,
}

/// Header extensions that mean something here.
#[derive(Default)]
struct Extensions {
    backing_format: Option<Vec<u8>>,
    data_file: Option<Vec<u8>>,
    bitmaps: Option<Bitmaps>,
    /// Where the table of feature names is, and its bytes.
    feature_names: Option<(u64, u64)>,
}

impl Header {
    /// The header of the image in `tables`.
    pub(super) fn read(tables: &Tables) -> Result<Self> {
        let fixed: [u8; LENGTH_V2 as usize] = tables.bytes(0)?;
        if !fixed.starts_with(b"QFI\xfb") {
            return Err(Error::damaged("no qcow2 image: the magic at its start is missing"));
        }
        let version = be32(&fixed, 4);
        if !(2..=3).contains(&version) {
            return Err(Error::unsupported(format!("version {version} of qcow2 cannot be read, only 2 and 3")));
        }
        let cluster_bits = be32(&fixed, 20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Error::unsupported(format!(
                "clusters of 2^{cluster_bits} bytes (byte 20 of the header): only 512 bytes to 2 MiB are possible"
            )));
        }
        let cluster_size = 1_u64 << cluster_bits;
        refuse_encryption(be32(&fixed, 32))?;

        let features = if version >= 3 { tables.be64(72)? } else { 0 };
        let autoclear = if version >= 3 { tables.be64(88)? } else { 0 };
        let length = if version >= 3 { tables.be32(100)? } else { LENGTH_V2 };
        if version >= 3 && (length < LENGTH_V3 || u64::from(length) > cluster_size || !length.is_multiple_of(8)) {
            return Err(Error::damaged(format!("the header cannot be {length} bytes long (byte 100)")));
        }

        let (name_offset, name_length) = (be64(&fixed, 8), u64::from(be32(&fixed, 16)));
        let area_end = if name_offset == 0 { cluster_size } else { name_offset.min(cluster_size) };
        let extensions = Extensions::read(tables, u64::from(length), area_end, autoclear)?;
        let unknown = features & !incompatible::KNOWN;
        if unknown != 0 {
            let named = extensions.names_of(tables, unknown);
            return Err(Error::unsupported(format!("the image uses features that are not known here: {named}")));
        }

        let extended = features & incompatible::EXTENDED_L2 != 0;
        if extended && cluster_bits < CLUSTER_BITS_EXTENDED_MIN {
            return Err(Error::damaged(format!("extended L2 entries need larger clusters than {cluster_size} bytes")));
        }
        let geometry = Geometry {
            version,
            cluster_bits,
            extended,
            compression: compression(tables, features, length)?,
            external: features & incompatible::DATA_FILE != 0,
        };
        let size = be64(&fixed, 24);
        if i64::try_from(size).is_err() {
            return Err(Error::damaged(format!("a disk of {size} bytes (byte 24 of the header) is impossible")));
        }
        let l1 = Table { offset: be64(&fixed, 40), entries: be32(&fixed, 36) };
        geometry.check_aligned(l1.offset, "the L1 table")?;
        if size.div_ceil(geometry.bytes_per_table()) > u64::from(l1.entries) {
            return Err(Error::damaged(format!("an L1 table of {} entries is too small for {size} bytes", l1.entries)));
        }
        Ok(Self {
            geometry,
            size,
            l1,
            snapshots: Table { offset: be64(&fixed, 64), entries: be32(&fixed, 60) },
            bitmaps: extensions.bitmaps,
            backing: backing_file(
                tables,
                name_offset,
                name_length,
                cluster_size,
                extensions.backing_format.as_deref(),
            )?,
            data_file: data_file(geometry.external, extensions.data_file)?,
            raw_data_file: autoclear & autoclear::RAW_DATA_FILE != 0,
            notes: notes(features),
        })
    }

    /// Which kind of qcow2 it is.
    pub(super) fn variant(&self) -> String {
        let mut variant = format!("v{}", self.geometry.version);
        for (is, what) in [
            (self.geometry.compression == Compression::Zstd, ", zstd"),
            (self.geometry.extended, ", extended L2"),
            (self.geometry.external, ", external data file"),
            (self.geometry.external && self.raw_data_file, " (raw)"),
        ] {
            if is {
                variant.push_str(what);
            }
        }
        variant
    }
}

impl Extensions {
    /// The extensions between `at` and `end`.
    fn read(tables: &Tables, mut at: u64, end: u64, autoclear: u64) -> Result<Self> {
        let mut found = Self::default();
        // Images of old versions may end with their header.
        let end = end.min(tables.file().size());
        while at.saturating_add(8) <= end {
            let (kind, length) = (tables.be32(at)?, u64::from(tables.be32(at + 4)?));
            let data = at + 8;
            if kind == extension::END {
                break;
            }
            if length > end - data {
                return Err(Error::damaged(format!("a header extension at byte {at} is longer than the header")));
            }
            match kind {
                extension::BACKING_FORMAT => found.backing_format = Some(short_name(tables, data, length)?),
                extension::DATA_FILE => found.data_file = Some(short_name(tables, data, length)?),
                extension::FEATURE_NAMES => found.feature_names = Some((data, length)),
                extension::BITMAPS => found.bitmaps = Some(bitmaps(tables, data, length, autoclear)?),
                _ => {}
            }
            at = data + length.next_multiple_of(8);
        }
        Ok(found)
    }

    /// What the image calls the incompatible features `bits`.
    fn names_of(&self, tables: &Tables, bits: u64) -> String {
        /// Bytes of an entry: type, bit, name.
        const ENTRY: u64 = 48;
        /// There are 192 feature bits; a longer table repeats itself.
        const ENTRIES_MAX: u64 = 192;
        let (at, length) = self.feature_names.unwrap_or_default();
        let entries = (0..(length / ENTRY).min(ENTRIES_MAX)).filter_map(|i| tables.bytes(at + i * ENTRY).ok());
        let mut named = [const { None }; 64];
        for entry in entries {
            let entry: [u8; ENTRY as usize] = entry;
            let [kind, bit, name @ ..] = &entry;
            if let (0, Some(slot)) = (kind, named.get_mut(usize::from(*bit))) {
                let name = name.split(|b| *b == 0).next().unwrap_or_default();
                *slot = Some(name.escape_ascii().to_string());
            }
        }
        let unknown = named.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
        let unknown = unknown.map(|(bit, name)| match name {
            Some(name) => format!("{name} (bit {bit})"),
            None => format!("bit {bit}"),
        });
        unknown.collect::<Vec<_>>().join(", ")
    }
}

fn refuse_encryption(method: u32) -> Result<()> {
    let method = match method {
        0 => return Ok(()),
        1 => "AES (the old kind of qcow2)".to_owned(),
        2 => "LUKS".to_owned(),
        other => format!("an unknown method ({other})"),
    };
    Err(Error::unsupported(format!(
        "the image is encrypted with {method}, which is not supported: decrypt it with qemu-img convert and its key"
    )))
}

fn compression(tables: &Tables, features: u64, length: u32) -> Result<Compression> {
    // The byte is part of the header only where it is long enough.
    let kind = if length > LENGTH_V3 { tables.bytes::<1>(u64::from(LENGTH_V3))? } else { [0] };
    match (features & incompatible::COMPRESSION != 0, kind) {
        (false, [0]) => Ok(Compression::Zlib),
        (true, [1]) => Ok(Compression::Zstd),
        (true, [kind]) if kind > 1 => Err(Error::unsupported(format!("compression of type {kind} cannot be read"))),
        (_, [kind]) => Err(Error::damaged(format!("compression type {kind} contradicts the feature bits"))),
    }
}

fn backing_file(
    tables: &Tables,
    at: u64,
    len: u64,
    cluster_size: u64,
    format: Option<&[u8]>,
) -> Result<Option<Parent>> {
    if at == 0 || len == 0 {
        return Ok(None);
    }
    if len > NAME_MAX || at.checked_add(len).is_none_or(|end| end > cluster_size) {
        return Err(Error::damaged(format!(
            "the name of its backing file lies at byte {at} and is {len} bytes long: it has to be in the first cluster"
        )));
    }
    let format = format.filter(|f| !f.is_empty()).map(String::from_utf8_lossy);
    backing::parent(&name(tables, at, len)?, format.as_deref()).map(Some)
}

fn data_file(external: bool, name: Option<Vec<u8>>) -> Result<Option<String>> {
    match (external, name) {
        (false, _) => Ok(None),
        (true, Some(name)) => backing::file_name(&name, "data").map(Some),
        (true, None) => Err(Error::unsupported(
            "the data of the disk is in another file, and the image does not say in which: \
             name it with qemu-img amend -o data_file=FILE",
        )),
    }
}

fn bitmaps(tables: &Tables, at: u64, len: u64, autoclear: u64) -> Result<Bitmaps> {
    if len != 24 {
        return Err(Error::damaged(format!("the bitmaps extension at byte {at} is {len} bytes long instead of 24")));
    }
    Ok(Bitmaps {
        directory: Table { offset: tables.be64(at + 16)?, entries: tables.be32(at)? },
        directory_size: tables.be64(at + 8)?,
        consistent: autoclear & autoclear::BITMAPS != 0,
    })
}

fn notes(features: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if features & incompatible::DIRTY != 0 {
        notes.push(
            "was not closed properly: its reference counts may be wrong, which does not matter to reading".into(),
        );
    }
    if features & incompatible::CORRUPT != 0 {
        notes.push("is marked as corrupt by what wrote it: have qemu-img check look at it".into());
    }
    notes
}

fn short_name(tables: &Tables, at: u64, len: u64) -> Result<Vec<u8>> {
    if len > NAME_MAX {
        return Err(Error::damaged(format!("the name in a header extension at byte {at} is {len} bytes long")));
    }
    name(tables, at, len)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_be_bytes(*b))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_be_bytes(*b))
}
