//! What a scan knows of one session while its blocks go by.

use std::collections::BTreeMap;

use crate::{
    attributes::{self, FileType, Stat},
    index::{
        builder::{Added, Builder, NewEntry},
        entry::{EntryKind, Flags, RecordPos},
    },
    label::SessionLabel,
    record,
    session::map::BlockMap,
    stream::{DataKind, StreamId, StreamKind},
};

/// The stock File daemon reads (and compresses) files in pieces of this length.
pub const STOCK_PIECE: u64 = 65_536;
/// A longer attributes record is damage: paths end at a few kilobytes.
const MAX_COLLECTED: u32 = 256 << 10;
/// Streams and objects noted per job, so that a hostile volume cannot fill the memory.
const MAX_NOTES: usize = 1000;

/// The part of a job that has been seen so far.
#[derive(Debug, Default)]
pub struct JobScan {
    /// The label at its start.
    pub start: Option<SessionLabel>,
    /// The label at its end.
    pub end: Option<SessionLabel>,
    /// Where its blocks are.
    pub map: BlockMap,
    /// Its files.
    pub files: Builder,
    /// How much of which stream.
    pub streams: BTreeMap<StreamKey, StreamTotal>,
    /// Bytes as Bacula's catalog counts them: content, keys of encrypted content, ACLs and extended attributes.
    pub data_bytes: u64,
    /// Files as Bacula counts them: attributes records but markers of deleted ones.
    pub file_count: u32,
    /// Restore objects and plugin records, by their file index and stream.
    pub objects: Vec<(u32, StreamId)>,
    /// Files whose attributes were in damaged or missing blocks: first and last index.
    pub lost: Vec<(u32, u32)>,
    last_index: u32,
    broke: bool,
    next_block: Option<u32>,
    pending: Option<Pending>,
    current: Option<Current>,
}

/// Number of a stream, in the order of the table in the format's documentation.
pub type StreamKey = u16;

/// Records and payload bytes of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamTotal {
    /// Records.
    pub records: u64,
    /// Payload bytes as stored.
    pub bytes: u64,
}

#[derive(Debug)]
struct Pending {
    file_index: i32,
    stream: i32,
    remaining: u32,
    start: RecordPos,
    collected: Option<Vec<u8>>,
}

/// The file whose records are going by.
#[derive(Debug)]
struct Current {
    file_index: u32,
    added: Option<Added>,
    file_type: FileType,
    flags: Flags,
    stat: Stat,
    data: Option<Data>,
    /// Records may be missing.
    broken: bool,
}

#[derive(Debug)]
struct Data {
    kind: DataKind,
    records: u64,
    /// Content bytes where they can be known without decoding.
    len: Option<u64>,
}

/// How the walk goes on behind a record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// With the next header.
    Next,
    /// The header contradicts what came before: the block needs a closer look.
    Suspect,
}

impl JobScan {
    /// A block of the session begins. Returns false when blocks are missing before it.
    pub fn begin_block(&mut self, number: u32) -> bool {
        let follows = self.next_block.is_none_or(|n| n == number);
        if !follows {
            self.break_off();
        }
        self.next_block = number.checked_add(1);
        follows
    }

    /// Something of the current file is lost.
    pub fn break_off(&mut self) {
        self.broke = true;
        self.pending = None;
        if let Some(current) = &mut self.current {
            current.broken = true;
        }
    }

    /// The blocks up to (not including) `number` were passed over in a leap.
    pub fn leapt_to(&mut self, number: u32) {
        self.next_block = number.checked_add(1);
    }

    /// A record header with the payload bytes that are at hand in its block.
    ///
    /// `peek(n)` gives up to `n` bytes of the payload part that is in this block; `part` is its length.
    pub fn record(
        &mut self,
        header: &record::Header,
        pos: RecordPos,
        part: u32,
        first_in_block: bool,
        peek: &mut dyn FnMut(u32) -> Vec<u8>,
    ) -> Step {
        let mut step = Step::Next;
        if header.is_continuation() {
            let expected = self.pending.as_ref().is_some_and(|p| {
                p.file_index == header.file_index && p.stream == -header.stream && p.remaining == header.len
            });
            if !expected {
                self.break_off();
                // In the first block after a gap this is the rest of something whose start is lost.
                return if first_in_block { Step::Next } else { Step::Suspect };
            }
        } else {
            if self.pending.is_some() {
                self.break_off();
                step = Step::Suspect;
            }
            self.begin_record(header, pos, part, peek);
        }
        let Some(pending) = &mut self.pending else { return step };
        if let Some(bytes) = &mut pending.collected {
            bytes.extend(peek(part));
        }
        pending.remaining = pending.remaining.saturating_sub(part);
        if pending.remaining == 0
            && let Some(pending) = self.pending.take()
        {
            self.complete(pending);
        }
        step
    }

    fn begin_record(
        &mut self,
        header: &record::Header,
        pos: RecordPos,
        part: u32,
        peek: &mut dyn FnMut(u32) -> Vec<u8>,
    ) {
        let id = StreamId::from_header(header.stream);
        let file_index = header.file_index.unsigned_abs();
        let kind = id.kind();
        if self.streams.len() < MAX_NOTES || self.streams.contains_key(&id.number()) {
            let total = self.streams.entry(id.number()).or_default();
            total.records += 1;
            total.bytes += u64::from(header.len);
        }
        let mut collected = None;
        match kind {
            StreamKind::Attributes | StreamKind::AttributesUpdate if header.len <= MAX_COLLECTED => {
                collected = Some(Vec::with_capacity(header.len as usize));
            }
            StreamKind::Data(data) => {
                let offset_len = data.offset_len() as u32;
                let offset = (offset_len == 8 && part >= 8)
                    .then(|| peek(8).first_chunk().map(|b| u64::from_be_bytes(*b)))
                    .flatten();
                self.data_bytes = self.data_bytes.saturating_add(header.len.into());
                self.data_record(file_index, data, header.len, offset);
            }
            // JobBytes of the catalog has these, too; it has neither digests nor attributes.
            StreamKind::SessionData | StreamKind::Acl(_) | StreamKind::Xattr(_) => {
                self.data_bytes = self.data_bytes.saturating_add(header.len.into());
            }
            StreamKind::RestoreObject | StreamKind::PluginName | StreamKind::PluginObject
                if self.objects.len() < MAX_NOTES =>
            {
                self.objects.push((file_index, id));
            }
            _ => {}
        }
        self.pending = Some(Pending {
            file_index: header.file_index,
            stream: header.stream,
            remaining: header.len,
            start: pos,
            collected,
        });
    }

    fn data_record(&mut self, file_index: u32, kind: DataKind, len: u32, offset: Option<u64>) {
        let Some(current) = self.current.as_mut().filter(|c| c.file_index == file_index) else { return };
        if kind.resource_fork {
            return;
        }
        let data = current.data.get_or_insert(Data { kind, records: 0, len: Some(0) });
        data.records += 1;
        let content = u64::from(len).saturating_sub(kind.offset_len() as u64);
        data.len = match (kind.is_verbatim(), kind.sparse) {
            (true, false) => data.len.and_then(|n| n.checked_add(content)),
            (true, true) => offset.and_then(|o| o.checked_add(content)),
            (false, _) => None,
        };
    }

    /// `n` further records of the current file's data, of `len` bytes each, were passed over in a leap.
    pub fn leapt_over(&mut self, stream: i32, n: u64, len: u32) {
        let bytes = n * u64::from(len);
        let total = self.streams.entry(StreamId::from_header(stream).number()).or_default();
        total.records += n;
        total.bytes += bytes;
        self.data_bytes += bytes;
        if let (StreamKind::Data(kind), Some(current)) = (StreamId::from_header(stream).kind(), self.current.as_mut()) {
            let data = current.data.get_or_insert(Data { kind, records: 0, len: Some(0) });
            data.records += n;
            data.len = data.len.and_then(|l| l.checked_add(bytes));
        }
    }

    /// For a leap: what is left of the current file's data from the record on that begins now, as its `stat`
    /// has it. `None` when the stream is not plain data of the current file; `Some(None)` when it is and the
    /// length is not known.
    #[must_use]
    pub fn leap_hint(&self, header: &record::Header) -> Option<Option<u64>> {
        let StreamKind::Data(kind) = StreamId::from_header(header.stream).kind() else { return None };
        let current = self.current.as_ref().filter(|c| i64::from(c.file_index) == i64::from(header.file_index))?;
        if !kind.is_verbatim() || kind.offset_len() != 0 || self.pending.is_some() {
            return None;
        }
        let done = current.data.as_ref().map_or(Some(0), |d| d.len)?;
        Some(u64::try_from(current.stat.size).ok().and_then(|size| size.checked_sub(done)).filter(|left| *left > 0))
    }

    fn complete(&mut self, pending: Pending) {
        let Some(payload) = pending.collected else { return };
        let Some(record) = attributes::Record::parse(&payload) else { return };
        // The record's own number is the truth for streams; a disagreeing text is a sign of damage.
        if i64::from(record.file_index) != i64::from(pending.file_index) {
            return;
        }
        self.finish_file();
        if std::mem::take(&mut self.broke)
            && record.file_index > self.last_index.saturating_add(1)
            && self.lost.len() < MAX_NOTES
        {
            self.lost.push((self.last_index + 1, record.file_index - 1));
        }
        self.last_index = self.last_index.max(record.file_index);
        let is_dir_path = record.path.ends_with(b"/");
        let Some(kind) = EntryKind::of(record.file_type, record.stat.mode, is_dir_path) else { return };
        self.file_count += u32::from(kind != EntryKind::Deleted);
        let update = StreamId::from_header(pending.stream).kind() == StreamKind::AttributesUpdate;
        let flags = Flags::default()
            .with_if(update, Flags::UPDATE)
            .with_if(record.file_type == FileType::HardLink && record.stat.link_index > 0, Flags::HARD_LINK)
            .with_if(record.file_type == FileType::Base, Flags::BASE);
        let added = self.files.add(NewEntry {
            path: record.path,
            kind,
            flags,
            file_index: record.file_index,
            pos: Some(pending.start),
            stat: &record.stat,
        });
        self.current = Some(Current {
            file_index: record.file_index,
            added,
            file_type: record.file_type,
            flags,
            stat: record.stat,
            data: None,
            broken: false,
        });
    }

    /// The session's blocks end without an end label: the last file may not be whole.
    pub fn cut_off(&mut self) {
        self.break_off();
        if let Some(current) = &mut self.current
            && current.data.is_none()
            && current.stat.size > 0
        {
            // Not one record of its data was written.
            self.current = None;
            return;
        }
        self.finish_file();
    }

    /// The current file has no more records: note what its content's length is.
    pub fn finish_file(&mut self) {
        let Some(current) = self.current.take() else { return };
        let Some(added) = current.added else { return };
        if [Flags::HARD_LINK, Flags::BASE, Flags::UPDATE].into_iter().any(|f| current.flags.has(f)) {
            return;
        }
        let mut stat = current.stat;
        let stat_len = u64::try_from(stat.size).ok();
        let exact = match &current.data {
            _ if current.broken => None,
            None => match current.file_type {
                FileType::Regular | FileType::RawDevice | FileType::ReadFifo => Some(0),
                _ => return,
            },
            Some(d) if d.kind.win32 => None,
            Some(Data { len: Some(len), .. }) => Some(*len),
            // Compressed and encrypted pieces hold what the daemon read at once; when their number fits the
            // length in `stat`, that is believed. Every piece is checked against it when it is read.
            Some(d) if !d.kind.sparse && !d.kind.encrypted => stat_len.filter(|n| n.div_ceil(STOCK_PIECE) == d.records),
            Some(d) if current.file_type == FileType::Regular && d.kind.sparse => stat_len.filter(|n| *n > 0),
            Some(_) if current.file_type == FileType::Regular => stat_len.filter(|n| *n > 0),
            Some(_) => None,
        };
        if let Some(len) = exact.and_then(|n| i64::try_from(n).ok()) {
            stat.size = len;
            self.files.amend(added, &stat, Flags::SIZE_EXACT);
        }
    }
}
