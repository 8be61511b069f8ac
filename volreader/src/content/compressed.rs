//! Compressed records: each is one piece.

use std::sync::Arc;

use blockdev::{Error, Result};

use super::pieces::{MAX_PIECE, PieceCache, PieceSource, Place};
use crate::{
    codec,
    index::entry::RecordPos,
    record::MAX_RECORD_LEN,
    session::{
        SessionData,
        cursor::{Cursor, Record},
    },
    stream::{DataKind, StreamKind},
};

/// Blocks that are looked at for a way behind damage.
const MAX_RECOVERY: u32 = 100_000;

/// The compressed data records of one file.
#[derive(Debug)]
pub struct CompressedRecords {
    data: Arc<SessionData>,
    file_index: i32,
    stream: i32,
    kind: DataKind,
}

impl CompressedRecords {
    /// The records that start with `first`; `None` when its stream is not one of compressed data.
    #[must_use]
    pub fn new(data: Arc<SessionData>, first: &Record) -> Option<Self> {
        let StreamKind::Data(kind) = first.id().kind() else { return None };
        Some(Self { data, file_index: first.file_index, stream: first.stream, kind })
    }

    /// A record's place as a number.
    #[must_use]
    pub const fn place(pos: RecordPos) -> Place {
        (pos.block as u64) << 32 | pos.offset as u64
    }

    /// The inverse of [`place`](Self::place).
    #[must_use]
    pub const fn pos(place: Place) -> RecordPos {
        RecordPos { block: (place >> 32) as u32, offset: place as u32 }
    }

    fn record(&self, place: Place) -> Result<Option<Record>> {
        let mut cursor = Cursor::new(&self.data, Self::pos(place));
        // Something follows the data of every file that is whole, if only the end of the job.
        let record = cursor.peek()?.ok_or_else(|| self.data.ends("inside this file"))?;
        if record.file_index == self.file_index && record.stream == self.stream {
            return Ok(Some(record));
        }
        // A damaged header would end the data, too.
        self.data.vouch(cursor.pos().block)?;
        Ok(None)
    }

    fn must(&self, place: Place) -> Result<Record> {
        self.record(place)?.ok_or_else(|| Error::damaged("a compressed record is not where it was"))
    }
}

impl PieceSource for CompressedRecords {
    fn look(&self, from: Place) -> Result<Option<(Place, Option<u64>)>> {
        let Some(record) = self.record(from)? else { return Ok(None) };
        let offset = if self.kind.sparse {
            let bytes = Cursor::peek_payload::<8>(&self.data, &record)?;
            let bytes = bytes.ok_or_else(|| Error::damaged("a sparse record is too short for its offset"))?;
            Some(u64::from_be_bytes(bytes))
        } else {
            None
        };
        Ok(Some((Self::place(record.pos), offset)))
    }

    fn behind(&self, place: Place) -> Result<Place> {
        let record = self.must(place)?;
        let mut cursor = Cursor::new(&self.data, record.pos);
        cursor.skip(&record)?;
        Ok(Self::place(cursor.pos()))
    }

    fn recover(&self, place: Place) -> Result<Option<Place>> {
        let mut number = Self::pos(place).block;
        for _ in 0..MAX_RECOVERY {
            let Some(next) = number.checked_add(1).and_then(|n| self.data.from_number(n)) else { return Ok(None) };
            number = next;
            let Ok(Some(resumed)) = Cursor::after_continuation(&self.data, number) else { continue };
            match Cursor::new(&self.data, resumed).peek() {
                Ok(Some(r)) if r.file_index == self.file_index && r.stream == self.stream => {
                    // Whatever the volume says, the way leads on: a loop would have no end.
                    return Ok(Some(Self::place(r.pos)).filter(|found| *found > place));
                }
                Ok(_) => return Ok(None),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    fn offset(&self, place: Place) -> Result<Option<u64>> {
        let bytes = Cursor::verified_prefix::<8>(&self.data, &self.must(place)?)?;
        Ok(bytes.filter(|_| self.kind.sparse).map(u64::from_be_bytes))
    }

    fn decode(&self, place: Place, out: &mut Vec<u8>) -> Result<()> {
        let record = self.must(place)?;
        let payload = Cursor::payload(&self.data, &record, MAX_RECORD_LEN)?;
        let body = payload.get(self.kind.offset_len()..);
        let body = body.ok_or_else(|| Error::damaged("a sparse record is too short for its offset"))?;
        codec::decode(self.kind.compression, body, out, MAX_PIECE)
    }

    fn is_sparse(&self) -> bool {
        self.kind.sparse
    }

    fn cache(&self) -> Option<&PieceCache> {
        Some(self.data.store().pieces())
    }
}
