//! A Windows file's main data and alternate data streams out of its BackupRead stream.

use std::sync::Arc;

use blockdev::{Error, ErrorKind, Extent, ExtentKind, MappedRun, ReadAt, Result};

use crate::codec::win32::{Demuxer, Found, Payload};

/// Payloads of one file: alternate streams and sparse blocks.
const MAX_PAYLOADS: usize = 1 << 20;
/// What is read to find headers; payloads are stepped over.
const HEADER_CHUNK: usize = 4096;

/// A stretch of a stream's data: offset in the file, place in the BackupRead stream, length.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    offset: u64,
    position: u64,
    len: u64,
}

/// One stream's data as a file.
struct Part {
    stream: Arc<dyn ReadAt>,
    stretches: Vec<Stretch>,
    size: u64,
}

/// The main data in `stream`.
///
/// # Errors
///
/// When the stream cannot be read or is none of BackupRead's.
pub fn main_data(stream: Arc<dyn ReadAt>) -> Result<Arc<dyn ReadAt>> {
    let main = payloads(stream.as_ref())?.into_iter().filter(|f| f.payload == Payload::Main);
    part(stream, main)
}

/// An alternate data stream: its name and its bytes.
pub type Alternate = (Vec<u8>, Arc<dyn ReadAt>);

/// The alternate data streams in `stream`, by name.
///
/// # Errors
///
/// As [`main_data`].
pub fn alternate_data(stream: &Arc<dyn ReadAt>) -> Result<Vec<Alternate>> {
    let mut named: Vec<(Vec<u8>, Vec<Found>)> = Vec::new();
    for found in payloads(stream.as_ref())?.into_iter().filter(|f| f.payload == Payload::Alternate) {
        // A sparse block goes on with the stream before it.
        match named.iter_mut().find(|(name, _)| found.name.is_empty() || *name == found.name) {
            Some((_, parts)) => parts.push(found),
            None => named.push((found.name.clone(), vec![found])),
        }
    }
    named.into_iter().map(|(name, parts)| Ok((name, part(Arc::clone(stream), parts.into_iter())?))).collect()
}

/// Find the payloads in `stream`, reading headers only.
fn payloads(stream: &dyn ReadAt) -> Result<Vec<Found>> {
    let mut demuxer = Demuxer::new();
    let mut found = Vec::new();
    let mut buf = vec![0; HEADER_CHUNK];
    let end = stream.size();
    while demuxer.position() < end {
        let skip = demuxer.skippable().min(end - demuxer.position());
        demuxer.skip(skip)?;
        let n = stream.read_at(&mut buf, demuxer.position())?;
        if n == 0 {
            break;
        }
        demuxer.feed(&buf[..n], |f| found.push(f))?;
        if found.len() > MAX_PAYLOADS {
            return Err(Error::new(ErrorKind::Limit, "the file's BackupRead data has too many parts"));
        }
    }
    Ok(found)
}

/// The file that `parts` of `stream` are.
fn part(stream: Arc<dyn ReadAt>, parts: impl Iterator<Item = Found>) -> Result<Arc<dyn ReadAt>> {
    let (end, mut size, mut stretches) = (stream.size(), 0, Vec::new());
    for f in parts {
        let stop = f.offset.checked_add(f.len);
        size = size.max(stop.ok_or_else(|| Error::damaged("a BackupRead offset is beyond all limits"))?);
        stretches.push(Stretch {
            offset: f.offset,
            position: f.position,
            len: f.len.min(end.saturating_sub(f.position)),
        });
    }
    stretches.retain(|s| s.len > 0);
    stretches.sort_unstable_by_key(|s| s.offset);
    Ok(Arc::new(Part { stream, stretches, size }))
}

impl Part {
    /// The stretch at `offset`, or where the next one starts.
    fn at(&self, offset: u64) -> (Option<&Stretch>, u64) {
        let i = self.stretches.partition_point(|s| s.offset <= offset);
        let here = i.checked_sub(1).and_then(|i| self.stretches.get(i)).filter(|s| offset < s.offset + s.len);
        (here, self.stretches.get(i).map_or(self.size, |s| s.offset))
    }
}

impl ReadAt for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = (buf.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let (here, next) = self.at(at);
            let stop = here.map_or(next, |s| (s.offset + s.len).min(next.max(at + 1))).min(offset + wanted as u64);
            let part = &mut buf[done..(stop - offset) as usize];
            match here {
                Some(s) => {
                    if self.stream.read_at(part, s.position + (at - s.offset))? < part.len() {
                        return Err(Error::damaged("the BackupRead data ends too early"));
                    }
                }
                None => part.fill(0),
            }
            done = (stop - offset) as usize;
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let (here, next) = self.at(offset);
        let (end, kind) = match here {
            Some(s) => (s.offset + s.len, ExtentKind::Data),
            None => (next, ExtentKind::Hole),
        };
        Ok(Some(Extent { range: offset..end.min(self.size), kind }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}
