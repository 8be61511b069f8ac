//! How LVM2 marks a physical volume and where it keeps the group's metadata: a label in one of the first four sectors, a
//! header that names metadata areas, and in each area a ring in which the newest text lies.

use crc_fast::{CrcAlgorithm, Digest};

use crate::fields::{le32, le64, read, slice};
use crate::{Error, ReadAt, Result};

const SECTOR: u64 = 512;
/// The header of a metadata area; the ring lies behind it.
const AREA_HEADER: u64 = 512;
const AREA_MAGIC: &[u8] = b"\x20LVM2\x20x[5A%r0N*>";
/// Areas of one physical volume: LVM2 makes up to two.
const AREAS_MAX: usize = 8;
/// A text longer than this is hostile: LVM2's areas are of one MiB unless told otherwise.
const TEXT_MAX: u64 = 4 << 20;
/// The flag of a location that LVM2 is told not to use.
const IGNORED: u32 = 1;

/// A label with the header it points to.
pub struct Label {
    /// The identifier of the physical volume, with hyphens.
    pub pv_id: String,
    /// Where its metadata areas are: offset and length in bytes.
    areas: Vec<(u64, u64)>,
}

/// LVM2's checksum: CRC-32 with a start value of its own, and not inverted at the end.
fn crc(bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32IsoHdlc, 0xf597_a6cf);
    digest.update(bytes);
    !(digest.finalize() as u32)
}

/// The label of `device`, or `None` when it is no physical volume.
pub fn label(device: &(impl ReadAt + ?Sized)) -> Result<Option<Label>> {
    let head = read(device, 0, 4 * SECTOR as usize)?;
    let is_label = |(number, sector): &(u64, &[u8])| {
        sector.starts_with(b"LABELONE")
            && slice(sector, 24, 8) == b"LVM2 001"
            && le64(sector, 8) == *number
            && le32(sector, 16) == crc(slice(sector, 20, SECTOR as usize))
    };
    let Some((_, sector)) = (0..).zip(head.chunks_exact(SECTOR as usize)).find(is_label) else { return Ok(None) };
    let header = slice(sector, le32(sector, 20) as usize, SECTOR as usize);
    if header.len() < 40 || !slice(header, 0, 32).iter().all(u8::is_ascii_graphic) {
        return Ok(None);
    }
    // Two lists, each ended by zeros: data areas, then metadata areas.
    let mut pairs = header.get(40..).unwrap_or_default().chunks_exact(16).map(|p| (le64(p, 0), le64(p, 8)));
    let _data = pairs.by_ref().take_while(|(offset, _)| *offset != 0).count();
    let areas = pairs.take_while(|(offset, _)| *offset != 0).take(AREAS_MAX).collect();
    Ok(Some(Label { pv_id: hyphened(&String::from_utf8_lossy(slice(header, 0, 32))), areas }))
}

/// An identifier as LVM2 shows it: 6-4-4-4-4-4-6.
fn hyphened(id: &str) -> String {
    let hyphens = |i: usize| (6..=26).contains(&i) && (i - 6).is_multiple_of(4);
    let mut shown = String::with_capacity(38);
    for (i, c) in id.chars().enumerate() {
        if hyphens(i) {
            shown.push('-');
        }
        shown.push(c);
    }
    shown
}

/// The newest text of each metadata area of `device`, or why there is none. A group whose volumes lie on many disks may
/// keep its metadata on a few of them.
pub fn texts(device: &(impl ReadAt + ?Sized), label: &Label) -> Vec<Result<Vec<u8>>> {
    label.areas.iter().filter_map(|(offset, size)| text(device, *offset, *size).transpose()).collect()
}

fn text(device: &(impl ReadAt + ?Sized), area: u64, size: u64) -> Result<Option<Vec<u8>>> {
    let damaged = |what: &str| Error::damaged(format!("the LVM2 metadata area at byte {area} has {what}"));
    let header = read(device, area, AREA_HEADER as usize)?;
    if slice(&header, 4, 16) != AREA_MAGIC || le32(&header, 0) != crc(slice(&header, 4, AREA_HEADER as usize)) {
        return Err(damaged("a header that fails its checksum"));
    }
    let (offset, length) = (le64(&header, 40), le64(&header, 48));
    let (sum, flags) = (le32(&header, 56), le32(&header, 60));
    if offset == 0 || flags & IGNORED != 0 {
        return Ok(None);
    }
    let ring = size.saturating_sub(AREA_HEADER);
    if offset < AREA_HEADER || offset >= size || length > ring.min(TEXT_MAX) {
        return Err(damaged("a text that cannot be where it is said to be"));
    }
    // What does not fit at the end of the ring goes on at its beginning.
    let first = length.min(size - offset);
    let mut text = read(device, area.saturating_add(offset), first as usize)?;
    text.extend(read(device, area.saturating_add(AREA_HEADER), (length - first) as usize)?);
    if text.len() as u64 != length || crc(&text) != sum {
        return Err(damaged("a text that fails its checksum"));
    }
    Ok(Some(text))
}
