//! A backup file: its streams found, its content opened, its attributes read.
//!
//! A file's records follow each other in its session: attributes, session key, data, then ACLs, extended
//! attributes and digests ([`crate::stream`]). Only the place of the attributes record is kept in the index; the
//! rest is found from there. The data is never walked where arithmetic leads around it.

use std::sync::Arc;

use blockdev::{Error, ErrorKind, ReadAt, Result};

use crate::{
    attributes::{self, FileType},
    content::{
        compressed::CompressedRecords,
        encrypted::Frames,
        pieces::{PieceSource, Pieces, Place},
        raw::RawStream,
        sparse::Sparse,
        verbatim::Plain,
        windows,
    },
    crypto::pki::KeyRing,
    digest,
    index::entry::RecordPos,
    layout::segments::Segments,
    session::{
        SessionData,
        cursor::{Cursor, Record},
    },
    stream::{AclScope, Compression, DataKind, Platform, StreamKind},
};

/// Attributes, ACLs, extended attributes: longer records than this are damage.
const MAX_METADATA: u32 = 4 << 20;
/// Records of one file that are no data; real files have a dozen.
const MAX_RECORDS: usize = 10_000;

/// A file in a job, by the place of its attributes record.
#[derive(Debug, Clone)]
pub struct StoredFile {
    /// The job's data.
    pub data: Arc<SessionData>,
    /// Its attributes record.
    pub pos: RecordPos,
    /// Its number in the job.
    pub file_index: u32,
}

/// What belongs to a file besides its data.
#[derive(Debug, Default)]
pub struct Metadata {
    /// Extended attributes: Linux names and values.
    pub xattrs: Vec<crate::xattr::Xattr>,
    /// ACL texts by what they apply to.
    pub acls: Vec<(AclScope, Vec<u8>)>,
    /// The digest of the data.
    pub digest: Option<(digest::Algorithm, Vec<u8>)>,
    /// The signed digest, as stored.
    pub signature: Option<Vec<u8>>,
}

/// Opened content.
#[derive(Clone)]
pub struct Content {
    /// The bytes.
    pub bytes: Arc<dyn ReadAt>,
    /// The whole BackupRead stream, for files of Windows clients; `bytes` are its main data.
    pub backup_read: Option<Arc<dyn ReadAt>>,
    /// How they are stored; `None` for a file without data.
    pub kind: Option<DataKind>,
    /// Behind the last data record.
    end: RecordPos,
}

impl StoredFile {
    fn cursor(&self) -> Cursor<'_> {
        Cursor::new(&self.data, self.pos)
    }

    fn belongs(&self, record: &Record) -> bool {
        i64::from(record.file_index) == i64::from(self.file_index)
    }

    /// Records from `cursor` on that are this file's, until `stop` says so or the file ends.
    fn walk(&self, cursor: &mut Cursor<'_>, stop: &mut dyn FnMut(&Record) -> Result<bool>) -> Result<Option<Record>> {
        for _ in 0..MAX_RECORDS {
            let Some(record) = cursor.peek()?.filter(|r| self.belongs(r)) else { return Ok(None) };
            if stop(&record)? {
                return Ok(Some(record));
            }
            cursor.skip(&record)?;
        }
        Err(Error::damaged("a file has too many records"))
    }

    fn payload(&self, record: &Record) -> Result<Vec<u8>> {
        Cursor::payload(&self.data, record, MAX_METADATA)
    }

    /// Read and check the attributes record.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is not where the index says.
    pub fn attributes_payload(&self) -> Result<Vec<u8>> {
        self.payload(&self.attributes_record()?)
    }

    /// The attributes record, which must stand where the index says: otherwise the file is another one.
    fn attributes_record(&self) -> Result<Record> {
        let record = self.cursor().peek()?.filter(|r| self.belongs(r));
        let is_attributes = |r: &Record| matches!(r.id().kind(), StreamKind::Attributes | StreamKind::AttributesUpdate);
        record.filter(is_attributes).ok_or_else(|| Error::damaged("the attributes are not where the index says"))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    ///
    /// As [`attributes_payload`](Self::attributes_payload).
    pub fn link(&self) -> Result<Vec<u8>> {
        let payload = self.attributes_payload()?;
        let record =
            attributes::Record::parse(&payload).ok_or_else(|| Error::damaged("the attributes cannot be read"))?;
        Ok(record.link.to_vec())
    }

    /// Open the content. `size`: the file's length as its attributes have it, if they are to be believed.
    ///
    /// # Errors
    ///
    /// When the data cannot be found, is deduplicated, or is encrypted and no key fits.
    pub fn open(&self, size: Option<u64>, keys: &KeyRing) -> Result<Content> {
        self.attributes_record()?;
        let mut session_key = None;
        let mut cursor = self.cursor();
        // What stands in front of data may be data with a damaged header, but for what always does.
        let mut suspects = Vec::new();
        let first = self.walk(&mut cursor, &mut |record| {
            match record.id().kind() {
                StreamKind::Data(kind) if !kind.resource_fork => return Ok(true),
                StreamKind::Attributes | StreamKind::AttributesUpdate => {}
                StreamKind::SessionData => session_key = Some(self.payload(record)?),
                _ if suspects.last() == Some(&record.pos.block) => {}
                _ => suspects.push(record.pos.block),
            }
            Ok(false)
        })?;
        if first.is_none() {
            suspects.extend([self.pos.block, cursor.pos().block]);
        }
        suspects.iter().try_for_each(|number| self.data.vouch(*number))?;
        let Some(first) = first else {
            if cursor.peek()?.is_none() && self.verified_size().is_some() {
                return Err(self.data.ends("in front of this file's data"));
            }
            return Ok(Content { bytes: Arc::new(Vec::new()), backup_read: None, kind: None, end: cursor.pos() });
        };
        let StreamKind::Data(kind) = first.id().kind() else { return Err(Error::damaged("the data is gone")) };
        if first.id().is_dedup() {
            return Err(Error::unsupported(
                "the data is in Bacula Enterprise's deduplication engine, not in the volume",
            ));
        }
        let (bytes, end) = self.content(&first, kind, size, session_key.as_deref(), keys)?;
        if !kind.win32 || first.id().is_portable() {
            return Ok(Content { bytes, backup_read: None, kind: Some(kind), end });
        }
        let main = windows::main_data(Arc::clone(&bytes))?;
        Ok(Content { bytes: main, backup_read: Some(bytes), kind: Some(kind), end })
    }

    /// The content that starts with `first`, and where it ends.
    fn content(
        &self,
        first: &Record,
        kind: DataKind,
        size: Option<u64>,
        session_key: Option<&[u8]>,
        keys: &KeyRing,
    ) -> Result<(Arc<dyn ReadAt>, RecordPos)> {
        let key = u64::from(self.file_index) | u64::from(self.data.number()) << 32;
        // BackupRead's framing makes the stored length another one than the file's.
        let hint = if kind.sparse { self.verified_size() } else { size.filter(|_| !kind.win32) };
        if kind.compression != Compression::None && !kind.encrypted {
            let source = CompressedRecords::new(Arc::clone(&self.data), first);
            let source = source.ok_or_else(|| Error::damaged("the data is gone"))?;
            let end = self.walk_data(first)?;
            let place = CompressedRecords::place(first.pos);
            return Ok((Arc::new(Pieces::open(source, place, hint, key)?), end));
        }
        let skip = kind.offset_len() as u32;
        let raw_hint = if kind.is_verbatim() && skip == 0 { hint } else { None };
        let segments = Segments::discover(&self.data, first, raw_hint)?;
        let end = segments.end;
        let raw = RawStream { data: Arc::clone(&self.data), segments, skip };
        if kind.encrypted {
            let record =
                session_key.ok_or_else(|| Error::damaged("the data is encrypted and its session key is not there"))?;
            let frames = Frames::new(Plain::new(raw, None), keys.session_key(record)?, kind.compression)?;
            return Ok((Arc::new(Pieces::open(frames, 0, hint, key)?), end));
        }
        Ok(if kind.sparse { (Arc::new(Sparse::new(raw, hint)?), end) } else { (Arc::new(Plain::new(raw, hint)), end) })
    }

    /// The length of a regular file by its attributes, if they can be verified: where its records do not tell.
    fn verified_size(&self) -> Option<u64> {
        let payload = self.attributes_payload().ok()?;
        let record = attributes::Record::parse(&payload)?;
        let size = u64::try_from(record.stat.size).ok().filter(|n| *n > 0);
        size.filter(|_| record.file_type == FileType::Regular)
    }

    /// Behind the data records that start with `first`, by walking along their headers.
    fn walk_data(&self, first: &Record) -> Result<RecordPos> {
        let source = CompressedRecords::new(Arc::clone(&self.data), first);
        let source = source.ok_or_else(|| Error::damaged("the data is gone"))?;
        let mut at: Place = CompressedRecords::place(first.pos);
        loop {
            let step = source.look(at).and_then(|found| found.map(|(place, _)| source.behind(place)).transpose());
            match step {
                Ok(Some(next)) => at = next,
                Ok(None) => return Ok(CompressedRecords::pos(at)),
                Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Missing) => match source.recover(at)? {
                    Some(next) => at = next,
                    // Nothing of the job is behind: standing still here would be walking here again.
                    None => {
                        let end = self.data.with_map(crate::session::map::BlockMap::end);
                        return Ok(RecordPos { block: u32::try_from(end).unwrap_or(u32::MAX), offset: 0 });
                    }
                },
                Err(e) => return Err(e),
            }
        }
    }

    /// Everything that is not data. `content` leads around the data if it was opened.
    ///
    /// # Errors
    ///
    /// When the records cannot be read.
    pub fn metadata(&self, content: Option<&Content>, size: Option<u64>) -> Result<Metadata> {
        let mut metadata = Metadata::default();
        let mut cursor = self.cursor();
        if let Some(content) = content {
            cursor = Cursor::new(&self.data, content.end);
        }
        while let Some(data) = self.walk(&mut cursor, &mut |record| self.note(record, &mut metadata))? {
            let StreamKind::Data(kind) = data.id().kind() else { break };
            let end = if kind.compression == Compression::None || kind.encrypted {
                let hint = size.filter(|_| kind.is_verbatim() && kind.offset_len() == 0);
                Segments::discover(&self.data, &data, hint)?.end
            } else {
                self.walk_data(&data)?
            };
            cursor = Cursor::new(&self.data, end);
        }
        // A damaged header would end the file, too, and behind a whole one something follows.
        if cursor.peek()?.is_none() {
            return Err(self.data.ends("inside this file"));
        }
        self.data.vouch(cursor.pos().block)?;
        Ok(metadata)
    }

    /// Take what `record` says of the file; true for data, which has to be led around.
    fn note(&self, record: &Record, metadata: &mut Metadata) -> Result<bool> {
        match record.id().kind() {
            StreamKind::Data(_) => return Ok(true),
            StreamKind::Digest(algorithm) => metadata.digest = Some((algorithm, self.payload(record)?)),
            StreamKind::SignedDigest => metadata.signature = Some(self.payload(record)?),
            StreamKind::Xattr(Platform::Linux) => metadata.xattrs.extend(crate::xattr::parse(&self.payload(record)?)?),
            StreamKind::Acl(acl) if acl.platform == Platform::Linux => {
                metadata.acls.push((acl.scope, self.payload(record)?));
            }
            StreamKind::Attributes | StreamKind::AttributesUpdate => {}
            // What is passed over may be one of these with a damaged header.
            _ => self.data.vouch(record.pos.block)?,
        }
        Ok(false)
    }
}
