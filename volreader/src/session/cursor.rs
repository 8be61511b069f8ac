//! Walking along the records of a session from any record header on.

use blockdev::{Error, Result};

use super::SessionData;
use crate::{index::entry::RecordPos, record, stream::StreamId};

/// A record: its header and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Number of the file in the job; negative: a label.
    pub file_index: i32,
    /// Its stream as in the header.
    pub stream: i32,
    /// Payload bytes.
    pub len: u32,
    /// Where its header stands.
    pub pos: RecordPos,
}

impl Record {
    /// Its stream.
    #[must_use]
    pub const fn id(&self) -> StreamId {
        StreamId::from_header(self.stream)
    }
}

/// A place between two records.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    data: &'a SessionData,
    pos: RecordPos,
}

impl<'a> Cursor<'a> {
    /// At the record header at `pos`.
    #[must_use]
    pub const fn new(data: &'a SessionData, pos: RecordPos) -> Self {
        Self { data, pos }
    }

    /// The place of the first record that begins in block `number` or behind the record that goes on in it;
    /// `None` behind the session's last block.
    ///
    /// # Errors
    ///
    /// When the block is missing or cannot be read.
    pub fn after_continuation(data: &'a SessionData, number: u32) -> Result<Option<RecordPos>> {
        let Some(place) = data.place(number)? else { return Ok(None) };
        let mut bytes = [0; crate::block::MAX_HEADER_LEN];
        let n = data.peek(number, 0, &mut bytes)?;
        let offset = data.check_header(&bytes[..n], number, &place)?.header_len();
        let pos = RecordPos { block: number, offset };
        let mut bytes = [0; record::HEADER_LEN as usize];
        let n = data.peek(number, offset, &mut bytes)?;
        let Some(header) = record::Header::parse(&bytes[..n]).filter(record::Header::is_plausible) else {
            return Err(data.damaged_at(&place, "no record header stands where one must"));
        };
        if !header.is_continuation() {
            return Ok(Some(pos));
        }
        let mut cursor = Cursor::new(data, pos);
        let record::Header { file_index, stream, len } = header;
        cursor.skip(&Record { file_index, stream, len, pos })?;
        Ok(Some(cursor.pos()))
    }

    /// The record here, without passing it; `None` at the end of the session.
    ///
    /// # Errors
    ///
    /// When the volume cannot be read or no record header stands here.
    pub fn peek(&mut self) -> Result<Option<Record>> {
        loop {
            let mut bytes = [0; record::HEADER_LEN as usize];
            let n = self.data.peek(self.pos.block, self.pos.offset, &mut bytes)?;
            if let Some(header) = record::Header::parse(&bytes[..n]) {
                if !header.is_plausible() || header.is_continuation() {
                    return Err(self.lost());
                }
                let record::Header { file_index, stream, len } = header;
                return Ok(Some(Record { file_index, stream, len, pos: self.pos }));
            }
            // Fewer bytes than a header are left: it opens the next block.
            if self.next_block()?.is_none() {
                return Ok(None);
            }
        }
    }

    /// Pass `record`, which stands here.
    ///
    /// # Errors
    ///
    /// When the volume cannot be read.
    pub fn skip(&mut self, record: &Record) -> Result<()> {
        self.payload_parts(record, record.len, &mut |_, _, _| Ok(()))
    }

    /// The payload of `record`, verified, up to `limit` bytes.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is longer than `limit` or its blocks do not verify.
    pub fn payload(data: &SessionData, record: &Record, limit: u32) -> Result<Vec<u8>> {
        if record.len > limit {
            return Err(Error::damaged(format!("a record of {} bytes where at most {limit} make sense", record.len)));
        }
        // A header at the end of a block may have all of its payload in the next one.
        data.vouch(record.pos.block)?;
        let mut payload = Vec::with_capacity(record.len as usize);
        Cursor::new(data, record.pos).payload_parts(record, record.len, &mut |block, offset, len| {
            let block = data.block(block)?.ok_or_else(|| data.ends("inside a record"))?;
            let part = block.bytes.get(offset as usize..(offset + len) as usize);
            payload.extend_from_slice(part.ok_or_else(|| Error::damaged("a record goes over the end of its block"))?);
            Ok(())
        })?;
        Ok(payload)
    }

    /// The first bytes of `record`'s payload, unverified: for offsets that only show the way.
    ///
    /// # Errors
    ///
    /// When the volume cannot be read.
    pub fn peek_payload<const N: usize>(data: &SessionData, record: &Record) -> Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        let mut done = 0;
        let mut cursor = Cursor::new(data, record.pos);
        cursor.payload_parts(record, N as u32, &mut |block, offset, len| {
            let n = data.peek(block, offset, &mut bytes[done..done + len as usize])?;
            done += n;
            Ok(())
        })?;
        Ok((done == N).then_some(bytes))
    }

    /// The same, out of blocks that have been verified, and so has the record's header.
    ///
    /// # Errors
    ///
    /// When the volume cannot be read or its blocks do not verify.
    pub fn verified_prefix<const N: usize>(data: &SessionData, record: &Record) -> Result<Option<[u8; N]>> {
        data.vouch(record.pos.block)?;
        Cursor::new(data, record.pos).payload_parts(record, N as u32, &mut |block, _, _| data.vouch(block))?;
        Self::peek_payload(data, record)
    }

    /// Call `part(block, offset, len)` for each run of the payload's first `limit` bytes and stand behind the last;
    /// behind the record if that is all of them.
    fn payload_parts(
        &mut self,
        record: &Record,
        limit: u32,
        part: &mut dyn FnMut(u32, u32, u32) -> Result<()>,
    ) -> Result<()> {
        let mut offset = self.pos.offset + record::HEADER_LEN;
        let mut left = record.len.min(limit);
        let behind = record.len - left;
        loop {
            let len = self.block_len()?;
            let here = left.min(len.saturating_sub(offset));
            if here > 0 {
                part(self.pos.block, offset, here)?;
            }
            left -= here;
            self.pos.offset = offset + here;
            if left == 0 {
                return Ok(());
            }
            let stream = -record.stream.saturating_abs();
            let expected = record::Header { file_index: record.file_index, stream, len: left + behind };
            match self.next_block()? {
                Some(header) if header == Some(expected) => {}
                Some(_) => return Err(self.lost()),
                None => return Err(self.data.ends("inside a record")),
            }
            offset = self.pos.offset + record::HEADER_LEN;
        }
    }

    fn block_len(&self) -> Result<u32> {
        let place = self.data.place(self.pos.block)?;
        place.map(|p| p.len).ok_or_else(|| self.data.ends("inside a record"))
    }

    /// To the first record header of the next block, which is returned if it is there; `None` behind the last block.
    fn next_block(&mut self) -> Result<Option<Option<record::Header>>> {
        let Some(next) = self.pos.block.checked_add(1) else { return Ok(None) };
        let Some(place) = self.data.place(next)? else { return Ok(None) };
        // All blocks of a session are of one format but where a 15.0 daemon went on in an older volume.
        let mut bytes = [0; crate::block::MAX_HEADER_LEN + record::HEADER_LEN as usize];
        let n = self.data.peek(next, 0, &mut bytes)?;
        let offset = self.data.check_header(&bytes[..n], next, &place)?.header_len();
        self.pos = RecordPos { block: next, offset };
        Ok(Some(bytes[..n].get(offset as usize..).and_then(record::Header::parse)))
    }

    fn lost(&self) -> Error {
        match self.data.place(self.pos.block) {
            Ok(Some(place)) => self.data.damaged_at(&place, "no record header stands where one must"),
            _ => Error::damaged("no record header stands where one must"),
        }
    }

    /// Where it stands.
    #[must_use]
    pub const fn pos(&self) -> RecordPos {
        self.pos
    }
}
