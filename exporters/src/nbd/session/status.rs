//! `BLOCK_STATUS`.

use std::io;

use blockdev::{ExtentKind, Result};
use zerocopy::IntoBytes;

use super::{
    super::{
        negotiation::Source,
        protocol::{Descriptor, ExtendedDescriptor, STATE_CHANGED, chunk, flag, state},
    },
    Format,
    execute::{Executor, Refusal},
    request::Request,
};

/// Descriptors of a chunk, at most: a reply may tell less than was asked for.
const DESCRIPTORS: usize = 16 << 10;
/// Questions to the device for a chunk, at most.
const LOOKUPS: usize = 64 << 10;
/// What lengths are multiples of at least, "where possible".
const GRAIN: u64 = 512;

/// A run of bytes of one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    end: u64,
    status: u32,
}

impl Executor<'_> {
    /// Tell about a range, in each context that was chosen.
    pub(super) fn block_status(&mut self, request: &Request) -> io::Result<()> {
        let last = self.session.contexts.len();
        for (number, context) in (1..).zip(self.session.contexts) {
            let runs = match self.runs(request, &context.source) {
                Ok(runs) => runs,
                Err(error) => return self.fail(request, &Refusal::from(error)),
            };
            let (kind, payload) = match self.out.format() {
                Format::Extended => (chunk::BLOCK_STATUS_EXT, extended(context.id, request.offset, &runs)),
                _ => (chunk::BLOCK_STATUS, structured(context.id, request.offset, &runs)),
            };
            self.out.whole_chunk(request, kind, number == last, &payload)?;
        }
        Ok(())
    }

    /// The runs from a request's offset on; at least one, and none past its end.
    fn runs(&mut self, request: &Request, source: &Source) -> Result<Vec<Run>> {
        let end = request.offset.saturating_add(request.length);
        let most = if request.has(flag::REQ_ONE) { 1 } else { DESCRIPTORS };
        let mut runs: Vec<Run> = Vec::new();
        let mut at = request.offset;
        for _ in 0..LOOKUPS {
            if at >= end {
                break;
            }
            let run = self.run_at(source, at, end)?;
            let full = runs.len() == most;
            match runs.last_mut() {
                Some(last) if last.status == run.status => last.end = run.end,
                _ if full => break,
                _ => runs.push(run),
            }
            at = run.end;
        }
        Ok(runs)
    }

    /// The run at `at`, up to `end`. Its own end is a multiple of the block size unless that is `end`: what is stored or
    /// changed in a part of a grain counts for all of it.
    fn run_at(&mut self, source: &Source, at: u64, end: u64) -> Result<Run> {
        let (found, status) = self.lookup(source, at)?;
        // A source that does not go on would keep us here for ever.
        let found = found.clamp(at + 1, end.max(at + 1)).min(end);
        let grain = GRAIN.max(self.device().block_sizes().logical.into());
        let safe = safe(source);
        let rounded = if status == safe { found.next_multiple_of(grain) } else { found / grain * grain };
        if found == end || rounded >= end {
            return Ok(Run { end, status });
        }
        if rounded > at {
            return Ok(Run { end: rounded, status });
        }
        // Less than a grain, and next to something else.
        Ok(Run { end: (at / grain + 1).saturating_mul(grain).min(end), status: safe })
    }

    /// The end of what the source says about `at`, and its status.
    fn lookup(&mut self, source: &Source, at: u64) -> Result<(u64, u32)> {
        match source {
            Source::Allocation => Ok(match self.extent_end(at)? {
                (end, ExtentKind::Hole) => (end, state::HOLE | state::ZERO),
                (end, ExtentKind::Data) => (end, 0),
            }),
            Source::Changed(blocks) => {
                let run = blocks.run_at(at)?;
                Ok((at.saturating_add(run.len), if run.changed { STATE_CHANGED } else { 0 }))
            }
        }
    }
}

/// The status that promises nothing.
const fn safe(source: &Source) -> u32 {
    match source {
        Source::Allocation => 0,
        Source::Changed(_) => STATE_CHANGED,
    }
}

fn structured(id: u32, offset: u64, runs: &[Run]) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    let mut start = offset;
    for run in runs {
        // The range of a compact request, and so each part of it, fits into 32 bits.
        let length = u32::try_from(run.end - start).unwrap_or(u32::MAX);
        payload.extend_from_slice(Descriptor { length: length.into(), status: run.status.into() }.as_bytes());
        start = run.end;
    }
    payload
}

fn extended(id: u32, offset: u64, runs: &[Run]) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.extend_from_slice(&u32::try_from(runs.len()).unwrap_or(u32::MAX).to_be_bytes());
    let mut start = offset;
    for run in runs {
        let descriptor = ExtendedDescriptor { length: (run.end - start).into(), status: u64::from(run.status).into() };
        payload.extend_from_slice(descriptor.as_bytes());
        start = run.end;
    }
    payload
}
