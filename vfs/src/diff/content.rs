//! Whether two contents differ, and where: what has the same origin is not read.

use std::ops::{ControlFlow, Range};

use blockdev::{
    Error, ReadAt, Result,
    origin::{Origin, Source},
};

/// Bytes read at once.
const CHUNK: u64 = 1 << 20;

/// Room for a piece of either content.
#[derive(Default)]
pub struct Buffers {
    left: Vec<u8>,
    right: Vec<u8>,
}

/// What may be taken to be the same without being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Only what has the same origin.
    Nothing,
    /// Also what has an origin that is not known.
    Unknown,
    /// All.
    All,
}

/// How two ranges are to each other.
enum Known {
    /// The same.
    Same,
    /// They have to be read.
    No,
}

/// How the bytes at `at` are to each other, as far as their origin says it, and for how many bytes that is so.
fn known(a: &dyn ReadAt, b: &dyn ReadAt, at: u64, limit: u64, trust: Trust) -> Result<(u64, Known)> {
    let Origin { len: left_len, source: left } = a.origin_at(at, limit)?;
    let Origin { len: right_len, source: right } = b.origin_at(at, limit)?;
    let len = left_len.min(right_len).min(limit);
    if len == 0 {
        return Err(Error::damaged(format!("nothing is known of byte {at}")));
    }
    let same = match (left, right) {
        (Source::Unknown, _) | (_, Source::Unknown) => trust != Trust::Nothing,
        (left, right) => left == right || trust == Trust::All,
    };
    Ok((len, if same { Known::Same } else { Known::No }))
}

/// Read both at `range` and tell `different` the parts that differ, in pieces of `granularity`.
fn read_both(
    (a, b): (&dyn ReadAt, &dyn ReadAt),
    range: Range<u64>,
    granularity: usize,
    buffers: &mut Buffers,
    different: &mut dyn FnMut(Range<u64>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let mut at = range.start;
    while at < range.end {
        let n = CHUNK.min(range.end - at) as usize;
        for (source, buffer) in [(a, &mut buffers.left), (b, &mut buffers.right)] {
            buffer.resize(n, 0);
            if source.read_at(buffer, at)? < n {
                return Err(Error::damaged(format!("bytes are missing behind byte {at}")));
            }
        }
        if buffers.left != buffers.right {
            let pieces = buffers.left.chunks(granularity).zip(buffers.right.chunks(granularity));
            for (start, (left, right)) in (at..).step_by(granularity).zip(pieces) {
                if left != right && different(start..start + left.len() as u64).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        at += n as u64;
    }
    Ok(ControlFlow::Continue(()))
}

/// Whether two contents of the same size differ. What may be trusted is taken to be the same.
///
/// # Errors
///
/// When one cannot be read.
pub fn differ(a: &dyn ReadAt, b: &dyn ReadAt, trust: Trust, buffers: &mut Buffers, read: &mut u64) -> Result<bool> {
    let size = a.size();
    if size != b.size() {
        return Ok(true);
    }
    let mut at = 0;
    while at < size {
        let (len, known) = known(a, b, at, size - at, trust)?;
        if let Known::No = known {
            *read += 2 * len;
            let whole = CHUNK as usize;
            if read_both((a, b), at..at + len, whole, buffers, &mut |_| ControlFlow::Break(()))?.is_break() {
                return Ok(true);
            }
        }
        at += len;
    }
    Ok(false)
}

/// Whether two disks have stored bytes of the same origin: then one was made on the other, or both on a third.
///
/// # Errors
///
/// When one cannot tell where its bytes are.
pub fn share_origins(a: &dyn ReadAt, b: &dyn ReadAt) -> Result<bool> {
    let size = a.size().min(b.size());
    let mut at = 0;
    while at < size {
        let (left, right) = (a.origin_at(at, size - at)?, b.origin_at(at, size - at)?);
        if left.source == right.source && matches!(left.source, Source::Stored { .. }) {
            return Ok(true);
        }
        at += left.len.min(right.len).max(1);
    }
    Ok(false)
}

/// What has changed between two disks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Bytes in ranges that differ.
    pub bytes: u64,
    /// Bytes that had to be read of both to tell.
    pub bytes_read: u64,
}

/// Tell `sink` the ranges in which two disks differ, in blocks of `granularity` bytes, neighbours joined, until it breaks.
/// Behind the end of the smaller one everything differs.
///
/// # Errors
///
/// `Invalid` for a granularity of 0; when one cannot be read.
pub fn changed_blocks(
    a: &dyn ReadAt,
    b: &dyn ReadAt,
    granularity: u32,
    sink: &mut dyn FnMut(Range<u64>) -> ControlFlow<()>,
) -> Result<Changed> {
    if granularity == 0 || u64::from(granularity) > CHUNK {
        return Err(Error::invalid(format!("blocks of {granularity} bytes: 1 to {CHUNK} are possible")));
    }
    let block = u64::from(granularity);
    let (common, longest) = (a.size().min(b.size()), a.size().max(b.size()));
    let (mut changed, mut buffers) = (Changed::default(), Buffers::default());
    // The range that grows while blocks touch it.
    let mut open: Option<Range<u64>> = None;
    let mut at = 0;
    while at < common {
        let (len, known) = known(a, b, at, common - at, Trust::Nothing)?;
        let mut end = at + len;
        if let Known::No = known {
            // Whole blocks are compared, though the origin changes within one.
            let start = at - at % block;
            end = end.next_multiple_of(block).min(common);
            changed.bytes_read += 2 * (end - start);
            let mut grow = |range: Range<u64>| join(&mut open, range, &mut changed.bytes, sink);
            if read_both((a, b), start..end, granularity as usize, &mut buffers, &mut grow)?.is_break() {
                return Ok(changed);
            }
        }
        at = end;
    }
    if longest > common && join(&mut open, common..longest, &mut changed.bytes, sink).is_break() {
        return Ok(changed);
    }
    if let Some(last) = open {
        changed.bytes += last.end - last.start;
        let _told = sink(last);
    }
    Ok(changed)
}

/// Adds `range` to the one that is open, or tells that one and opens another.
fn join(
    open: &mut Option<Range<u64>>,
    range: Range<u64>,
    bytes: &mut u64,
    sink: &mut dyn FnMut(Range<u64>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match open {
        Some(last) if range.start <= last.end => {
            last.end = last.end.max(range.end);
            ControlFlow::Continue(())
        }
        _ => match open.replace(range) {
            Some(whole) => {
                *bytes += whole.end - whole.start;
                sink(whole)
            }
            None => ControlFlow::Continue(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blockdev::{layers::Concat, origin::Identified};

    use super::*;

    fn part(file: u64, fill: u8, len: usize) -> Arc<dyn ReadAt> {
        Arc::new(Identified::new(vec![fill; len], file))
    }

    #[test]
    fn only_what_may_differ_is_read() {
        let shared = 10 << 20;
        let a = Concat::new([part(1, 7, shared), part(2, 1, 100_000), part(3, 5, 5000)]).expect("parts");
        let b = Concat::new([part(1, 7, shared), part(4, 1, 100_000), part(3, 5, 5000)]).expect("parts");
        let mut read = 0;
        assert!(!differ(&a, &b, Trust::Nothing, &mut Buffers::default(), &mut read).expect("readable"));
        assert_eq!(read, 200_000, "what has the same origin is not read");
        let c = Concat::new([part(1, 7, shared), part(5, 2, 100_000), part(3, 5, 5000)]).expect("parts");
        assert!(differ(&a, &c, Trust::Unknown, &mut Buffers::default(), &mut read).expect("readable"));
        // Plain bytes have no origin: they are trusted or read.
        let (plain, other) = (vec![1; 1000], vec![2; 1000]);
        assert!(!differ(&plain, &other, Trust::Unknown, &mut Buffers::default(), &mut read).expect("readable"));
        assert!(differ(&plain, &other, Trust::Nothing, &mut Buffers::default(), &mut read).expect("readable"));
    }

    #[test]
    fn blocks_that_differ_are_joined_and_the_longer_tail_differs() {
        let a: Vec<u8> = vec![0; 1_000_000];
        let mut b = a.clone();
        for at in [0, 4095, 4096, 500_000, 999_999] {
            b[at] = 1;
        }
        b.extend([0; 10]);
        let mut ranges = Vec::new();
        let changed = changed_blocks(&a, &b, 4096, &mut |range| {
            ranges.push(range);
            ControlFlow::Continue(())
        });
        assert_eq!(ranges, [0..8192, 499_712..503_808, 999_424..1_000_010]);
        assert_eq!(changed.expect("readable"), Changed { bytes: 8192 + 4096 + 586, bytes_read: 2_000_000 });
    }
}
