//! zip (PKWARE's APPNOTE 6.3.10), written without going back: length and checksum of a file follow its content.
//!
//! Names are in UTF-8 where they are text. Mode, owner and times are in the fields that Info-ZIP made for Unix. Zip64 is used
//! where a number needs it, and only there.

use std::io::Write;

use blockdev::{Error, Result};
use crc_fast::{CrcAlgorithm, Digest};
use flate2::{Compress, Compression, FlushCompress, Status};

use super::{Archive, Can, Member, Refusal, plan::Plan};
use crate::node::{Attributes, Kind, Time};

/// Numbers that a field of 4 bytes has no room for are this there, and in the Zip64 field as they are.
const FULL: u32 = u32::MAX;

/// Compressed content is at most so much longer than the content: a 5-byte header for each 16 KiB, generously.
const GROWTH: u64 = 1 << 10;

/// Bytes of compressed content that are written at once.
const OUT: usize = 64 << 10;

/// The content is followed by its lengths and checksum.
const HAS_DESCRIPTOR: u16 = 1 << 3;
/// The name is in UTF-8.
const IS_UTF8: u16 = 1 << 11;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Seconds from 1601 to 1970.
const FILETIME_EPOCH: i64 = 11_644_473_600;

pub(super) struct Zip<'z> {
    out: &'z mut dyn Write,
    deflates: bool,
    /// Bytes written so far.
    at: u64,
    /// The directory at the end, and how many members it has.
    directory: Vec<u8>,
    members: u64,
    file: Option<File>,
}

/// A member being written.
struct File {
    header: Header,
    crc: Digest,
    size: u64,
    /// The first byte of its content.
    start: u64,
    deflate: Option<(Compress, Vec<u8>)>,
}

/// What local header and directory have in common.
struct Header {
    name: Vec<u8>,
    flags: u16,
    method: u16,
    /// The lengths have 8 bytes in the local header and behind the content.
    is_64: bool,
    /// Where the local header is.
    offset: u64,
    mode: u32,
    owner: (u32, u32),
    mtime: Time,
    atime: Time,
}

impl Header {
    fn new(offset: u64, name: Vec<u8>, a: &Attributes, flags: u16, method: u16) -> Self {
        let kind = match a.kind {
            Kind::Dir => 0o040_000,
            Kind::Symlink => 0o120_000,
            _ => 0o100_000,
        };
        Self {
            flags: flags | if std::str::from_utf8(&name).is_ok() { IS_UTF8 } else { 0 },
            name,
            method,
            is_64: false,
            offset,
            mode: kind | a.permissions & 0o7777,
            owner: (a.uid, a.gid),
            mtime: a.mtime,
            atime: a.atime,
        }
    }

    /// Version, flags, method and time, as both headers have them.
    fn common(&self, is_64: bool) -> Vec<u8> {
        let version: u16 = if is_64 { 45 } else { 20 };
        let (date, time) = dos(self.mtime);
        [version, self.flags, self.method, time, date].iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    /// Times and owner; the directory has no room for the time of access.
    fn extra(&self, is_local: bool) -> Vec<u8> {
        let mut extra = Vec::new();
        match (i32::try_from(self.mtime.seconds), i32::try_from(self.atime.seconds)) {
            (Ok(mtime), Ok(atime)) => {
                let times = if is_local { vec![mtime, atime] } else { vec![mtime] };
                let times = times.iter().flat_map(|time| time.to_le_bytes());
                field(&mut extra, 0x5455, &[0b11].into_iter().chain(times).collect::<Vec<u8>>());
            }
            // Info-ZIP's field ends in 2038; Windows' begins in 1601.
            _ => {
                let mut times = [0, 0, 0, 0, 1, 0, 24, 0].to_vec();
                for time in [self.mtime, self.atime, self.mtime] {
                    times.extend(filetime(time).to_le_bytes());
                }
                field(&mut extra, 0x000a, &times);
            }
        }
        let (uid, gid) = (self.owner.0.to_le_bytes(), self.owner.1.to_le_bytes());
        field(&mut extra, 0x7875, &[&[1, 4], &uid[..], &[4], &gid].concat());
        extra
    }

    /// The header before the content: without lengths and checksum where they follow.
    fn local(&self, crc: u32, size: u32) -> Vec<u8> {
        let size = if self.is_64 { FULL } else { size };
        let mut extra = self.extra(true);
        if self.is_64 {
            field(&mut extra, 1, &[0; 16]);
        }
        let mut header = b"PK\x03\x04".to_vec();
        header.extend(self.common(self.is_64));
        for number in [crc, size, size] {
            header.extend(number.to_le_bytes());
        }
        header.extend(self.lengths(&extra));
        header.extend(&self.name);
        header.extend(extra);
        header
    }

    /// The line of the directory.
    fn line(&self, crc: u32, packed: u64, size: u64) -> Vec<u8> {
        let mut large = Vec::new();
        let mut small = |number: u64| match u32::try_from(number) {
            Ok(number) if number < FULL => number,
            _ => {
                large.extend(number.to_le_bytes());
                FULL
            }
        };
        // In the order of the Zip64 field.
        let (size, packed, offset) = (small(size), small(packed), small(self.offset));
        let is_64 = !large.is_empty();
        let mut extra = self.extra(false);
        if is_64 {
            field(&mut extra, 1, &large);
        }
        // Made on Unix.
        let mut line = b"PK\x01\x02\x2d\x03".to_vec();
        line.extend(self.common(is_64));
        for number in [crc, packed, size] {
            line.extend(number.to_le_bytes());
        }
        line.extend(self.lengths(&extra));
        // No comment, disk 0, no internal attributes.
        line.extend([0; 6]);
        let is_dir = u32::from(self.mode & 0o170_000 == 0o040_000) << 4;
        line.extend((self.mode << 16 | is_dir).to_le_bytes());
        line.extend(offset.to_le_bytes());
        line.extend(&self.name);
        line.extend(extra);
        line
    }

    fn lengths(&self, extra: &[u8]) -> [u8; 4] {
        // Names that are too long were refused; the extra fields have at most some 80 bytes.
        let [a, b] = (self.name.len() as u16).to_le_bytes();
        let [c, d] = (extra.len() as u16).to_le_bytes();
        [a, b, c, d]
    }
}

fn field(extra: &mut Vec<u8>, tag: u16, bytes: &[u8]) {
    extra.extend(tag.to_le_bytes());
    extra.extend((bytes.len() as u16).to_le_bytes());
    extra.extend_from_slice(bytes);
}

/// Hundreds of nanoseconds since 1601.
fn filetime(time: Time) -> u64 {
    let seconds = time.seconds.saturating_add(FILETIME_EPOCH).max(0).cast_unsigned();
    seconds.saturating_mul(10_000_000).saturating_add(u64::from(time.nanos / 100))
}

/// Date and time of MS-DOS, which has years from 1980 to 2107 and even seconds; it is in UTC here.
fn dos(time: Time) -> (u16, u16) {
    const FIRST: i64 = 315_532_800;
    const LAST: i64 = 4_354_819_198;
    let seconds = time.seconds.clamp(FIRST, LAST);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days into year, month and day, counted in eras of 400 years from the first of March of the year 0.
    let day = days + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (year + era * 400 + i64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    let date = (year - 1980) << 9 | month << 5 | day;
    let time = ((second / 3600) << 11) | (((second / 60) % 60) << 5) | ((second % 60) / 2);
    (date as u16, time as u16)
}

impl<'z> Zip<'z> {
    pub fn new(out: &'z mut dyn Write, deflates: bool) -> Self {
        Self { out, deflates, at: 0, directory: Vec::new(), members: 0, file: None }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|e| Error::io("cannot write the archive", e))
    }

    /// A member whose short content is known.
    fn known(&mut self, name: Vec<u8>, attributes: &Attributes, content: &[u8]) -> Result<()> {
        let header = Header::new(self.at, name, attributes, 0, STORED);
        let mut crc = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
        crc.update(content);
        let (crc, size) = (crc.finalize() as u32, content.len() as u32);
        self.put(&header.local(crc, size))?;
        self.put(content)?;
        self.list(&header.line(crc, size.into(), size.into()));
        Ok(())
    }

    fn list(&mut self, line: &[u8]) {
        self.directory.extend_from_slice(line);
        self.members += 1;
    }

    /// Compresses `bytes`, or with none of them what is left, and writes what comes out.
    fn deflate(&mut self, file: &mut File, mut bytes: &[u8], flush: FlushCompress) -> Result<()> {
        let Some((deflate, buffer)) = &mut file.deflate else { return self.put(bytes) };
        loop {
            let before = deflate.total_in();
            let status = deflate.compress_vec(bytes, buffer, flush);
            let status = status.map_err(|e| Error::io("cannot compress", e.into()))?;
            let taken = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
            bytes = bytes.get(taken..).unwrap_or_default();
            let is_full = buffer.len() == buffer.capacity();
            let is_done = if flush == FlushCompress::Finish { status == Status::StreamEnd } else { bytes.is_empty() };
            if is_full || is_done && flush == FlushCompress::Finish {
                self.put(buffer)?;
                buffer.clear();
            }
            if is_done {
                return Ok(());
            }
        }
    }
}

impl Archive for Zip<'_> {
    fn can(&self) -> Can {
        Can { links: false, holes: false, xattrs: false }
    }

    fn refuses(&self, member: &Member<'_>) -> Option<Refusal> {
        if member.path.len() >= usize::from(u16::MAX) {
            return Some(Refusal::Member("its path is too long for zip: tar takes it"));
        }
        match member.attributes.kind {
            Kind::Dir | Kind::File | Kind::Symlink => None,
            _ => Some(Refusal::Kind("zip has no devices, fifos and sockets")),
        }
    }

    fn dir(&mut self, member: &Member<'_>) -> Result<()> {
        self.known([member.path, b"/"].concat(), member.attributes, b"")
    }

    fn symlink(&mut self, member: &Member<'_>, target: &[u8]) -> Result<()> {
        self.known(member.path.to_vec(), member.attributes, target)
    }

    fn special(&mut self, _: &Member<'_>) -> Result<()> {
        Err(Error::unsupported("zip has no special files"))
    }

    fn hard_link(&mut self, _: &Member<'_>, _: &[u8]) -> Result<()> {
        Err(Error::unsupported("zip has no hard links"))
    }

    fn begin(&mut self, member: &Member<'_>, plan: &Plan) -> Result<()> {
        let method = if self.deflates && plan.size > 0 { DEFLATED } else { STORED };
        let mut header = Header::new(self.at, member.path.to_vec(), member.attributes, HAS_DESCRIPTOR, method);
        let longest = plan.size.saturating_add(plan.size / 1024).saturating_add(GROWTH);
        header.is_64 = longest >= u64::from(FULL);
        self.put(&header.local(0, 0))?;
        let deflate =
            (method == DEFLATED).then(|| (Compress::new(Compression::fast(), false), Vec::with_capacity(OUT)));
        let crc = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
        self.file = Some(File { header, crc, size: 0, start: self.at, deflate });
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Err(Error::invalid("content of no file")) };
        file.crc.update(bytes);
        file.size += bytes.len() as u64;
        self.deflate(&mut file, bytes, FlushCompress::None)?;
        self.file = Some(file);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Err(Error::invalid("the end of no file")) };
        self.deflate(&mut file, b"", FlushCompress::Finish)?;
        let (crc, packed) = (file.crc.finalize() as u32, self.at - file.start);
        let mut descriptor = b"PK\x07\x08".to_vec();
        descriptor.extend(crc.to_le_bytes());
        for length in [packed, file.size] {
            let bytes = length.to_le_bytes();
            descriptor.extend(if file.header.is_64 { &bytes[..] } else { &bytes[..4] });
        }
        self.put(&descriptor)?;
        self.list(&file.header.line(crc, packed, file.size));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let start = self.at;
        let directory = std::mem::take(&mut self.directory);
        self.put(&directory)?;
        let len = directory.len() as u64;
        let small = |number: u64| u32::try_from(number).unwrap_or(FULL);
        let members = u16::try_from(self.members).unwrap_or(u16::MAX);
        if small(start) == FULL || small(len) == FULL || members == u16::MAX {
            let mut end = b"PK\x06\x06".to_vec();
            end.extend(44_u64.to_le_bytes());
            end.extend([45, 3, 45, 0]);
            end.extend([0; 8]);
            for number in [self.members, self.members, len, start] {
                end.extend(number.to_le_bytes());
            }
            // Where this end begins.
            end.extend(b"PK\x06\x07\0\0\0\0");
            end.extend(self.at.to_le_bytes());
            end.extend(1_u32.to_le_bytes());
            self.put(&end)?;
        }
        let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
        end.extend([members.to_le_bytes(), members.to_le_bytes()].concat());
        end.extend([small(len).to_le_bytes(), small(start).to_le_bytes()].concat());
        end.extend([0; 2]);
        self.put(&end)?;
        self.out.flush().map_err(|e| Error::io("cannot write the archive", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let dos = |seconds| {
            let (date, time) = dos(Time { seconds, nanos: 0 });
            (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2)
        };
        assert_eq!(dos(951_782_399), (2000, 2, 28, 23, 59, 58));
        assert_eq!(dos(951_782_400), (2000, 2, 29, 0, 0, 0));
        assert_eq!(dos(1_795_305_599), (2026, 11, 21, 23, 59, 58));
        assert_eq!(dos(-5), (1980, 1, 1, 0, 0, 0));
        assert_eq!(dos(i64::MAX), (2107, 12, 31, 23, 59, 58));
    }
}
