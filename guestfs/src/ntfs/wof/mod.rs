//! Files that Windows compressed for good (WOF, "CompactOS"): system files mostly.
//!
//! Their content is a hole, and packed in the stream `WofCompressedData`, as a resource of a WIM archive is: a table of
//! where each chunk ends but the last, and the chunks. A chunk that did not get smaller is as it is.

mod bits;
mod huffman;
mod lzx;
mod xpress;

use std::sync::Arc;

use blockdev::{
    Error, ReadAt, Result,
    fields::{le32, le64},
    images::{
        Disk,
        layer::{Layer, Place, Run},
    },
};

/// `WofCompressedData` in UTF-16LE.
pub const STREAM: &[u8] = b"W\0o\0f\0C\0o\0m\0p\0r\0e\0s\0s\0e\0d\0D\0a\0t\0a\0";

/// A method of packing, and bytes of an unpacked chunk.
struct Method {
    unpack: fn(&[u8], &mut [u8]) -> Option<()>,
    chunk: u32,
}

/// The method that FILE_PROVIDER_EXTERNAL_INFO calls `number` ([MS-FSCC] 2.4.10.1 and wofapi.h).
fn method(number: u32) -> Option<Method> {
    Some(match number {
        0 => Method { unpack: xpress::unpack, chunk: 4 << 10 },
        1 => Method { unpack: lzx::unpack, chunk: 32 << 10 },
        2 => Method { unpack: xpress::unpack, chunk: 8 << 10 },
        3 => Method { unpack: xpress::unpack, chunk: 16 << 10 },
        _ => return None,
    })
}

/// The content of a compressed system file.
pub struct Wof {
    /// Number of the file's first record.
    file: u64,
    packed: Disk,
    size: u64,
    method: Method,
}

impl Wof {
    /// The content of `size` bytes in the stream `packed` of the file `file`, packed by the method called `number`.
    pub fn new(file: u64, packed: Disk, size: u64, number: u32) -> Result<Self> {
        let method = method(number).ok_or_else(|| {
            Error::unsupported(format!("the compression method {number} of system files is not known"))
        })?;
        Ok(Self { file, packed, size, method })
    }

    const fn chunks(&self) -> u64 {
        self.size.div_ceil(self.method.chunk as u64)
    }

    /// Bytes of an entry of the table.
    const fn entry(&self) -> u64 {
        if self.size > u32::MAX as u64 { 8 } else { 4 }
    }

    /// Where chunk `number` begins and ends behind the table, which has the ends of all but the last.
    fn place(&self, number: u64) -> Result<(u64, u64)> {
        // The end of the chunk before is its start.
        let (mut ends, size) = ([0; 16], self.entry() as usize);
        let is_first = number == 0;
        let dest = ends.get_mut(if is_first { size } else { 0 }..2 * size).unwrap_or_default();
        self.packed.read_at(dest, number.saturating_sub(1) * self.entry())?;
        let end = |at| if size == 8 { le64(&ends, at) } else { le32(&ends, at).into() };
        let is_last = number + 1 == self.chunks();
        let behind = self.packed.size().saturating_sub(self.table());
        Ok((end(0), if is_last { behind } else { end(size) }))
    }

    const fn table(&self) -> u64 {
        self.chunks().saturating_sub(1) * self.entry()
    }
}

impl Layer for Wof {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, _limit: u64) -> Result<Run> {
        let chunk = u64::from(self.method.chunk);
        let skip = (offset % chunk) as u32;
        let len = (chunk - u64::from(skip)).min(self.size.saturating_sub(offset));
        Ok(Run { len, place: Place::Packed { unit: offset / chunk, skip } })
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &[]
    }

    fn unpack(&self, unit: u64, out: &mut Vec<u8>) -> Result<()> {
        let chunk = u64::from(self.method.chunk);
        let wrong = || {
            let (file, chunks) = (self.file, self.chunks());
            Error::damaged(format!(
                "NTFS file record {file}: its compressed chunk {unit} of {chunks} cannot be unpacked"
            ))
        };
        if unit >= self.chunks() {
            return Err(wrong());
        }
        let size = chunk.min(self.size - unit * chunk);
        let (start, end) = self.place(unit)?;
        let len = end.checked_sub(start).filter(|len| (1..=size).contains(len)).ok_or_else(wrong)?;
        let mut packed = vec![0; len as usize];
        let at = self.table().checked_add(start).ok_or_else(wrong)?;
        if self.packed.read_at(&mut packed, at)? < packed.len() {
            return Err(wrong());
        }
        if len == size {
            *out = packed;
            return Ok(());
        }
        out.resize(size as usize, 0);
        (self.method.unpack)(&packed, out).ok_or_else(wrong)
    }
}
