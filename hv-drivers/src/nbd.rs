//! A client of NBD servers behind Unix sockets: how the disks that QEMU serves are read.
//!
//! Fixed newstyle negotiation and structured replies with `base:allocation`, so that what is not stored is not sent
//! (NBD project, `doc/proto.md`), and with QEMU's `qemu:dirty-bitmap:NAME`, which tells what was changed
//! (QEMU, `docs/interop/nbd.rst`). The server is QEMU, which a hostile guest may have taken over: lengths that do not fit
//! what was asked for end the connection. Several connections are opened as threads need them.

use std::{
    io::{Read, Write},
    ops::Range,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use blockdev::{
    BlockDevice, BlockSizes, Error, ErrorKind, Extent, ExtentKind, MappedRun, ReadAt, Result,
    fields::{be16, be32, be64},
};

/// "NBDMAGIC", "IHAVEOPT", and the magic of an option's reply.
const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// NBD_OPT_GO, NBD_OPT_STRUCTURED_REPLY, NBD_OPT_SET_META_CONTEXT.
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
/// NBD_REP_ACK, NBD_REP_INFO, NBD_REP_META_CONTEXT.
const ACK: u32 = 1;
const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;
const REQUEST: u32 = 0x2560_9513;
const CHUNK: u32 = 0x668e_33ef;
/// NBD_CMD_READ, NBD_CMD_DISC, NBD_CMD_BLOCK_STATUS.
const READ: u16 = 0;
const DISCONNECT: u16 = 2;
const BLOCK_STATUS: u16 = 7;
/// The types of chunks of a structured reply.
const NONE: u16 = 0;
const OFFSET_DATA: u16 = 1;
const OFFSET_HOLE: u16 = 2;
const STATUS: u16 = 5;
/// NBD_STATE_ZERO.
const ZERO: u32 = 2;
/// The bit of an extent of a dirty bitmap that was changed.
const DIRTY: u32 = 1;

const ALLOCATION: &str = "base:allocation";
/// Bytes that a bit of a bitmap that is read here stands for at least.
const BITMAP_GRANULE_MIN: u64 = 4 << 10;
/// What is before the name of a bitmap.
const BITMAP: &str = "qemu:dirty-bitmap:";
/// What the answer to an option may have, in bytes.
const OPTION_MAX: u32 = 64 << 10;
/// What the extents of one answer may have, in bytes: QEMU sends at most a MiB of them.
const EXTENTS_MAX: u32 = 4 + (1 << 20);
/// What is asked for at once, in bytes.
const READ_MAX: usize = 4 << 20;
/// What the extents of one answer cover at most, in bytes.
const STATUS_MAX: u64 = 1 << 30;
/// How long the server may take for anything.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Connections that are kept for later.
const KEPT: usize = 16;

/// A disk that is read from an NBD server.
#[derive(Debug)]
pub struct NbdDisk {
    socket: PathBuf,
    export: String,
    size: u64,
    idle: Mutex<Vec<Connection>>,
    /// The last answer about extents: those that follow are asked for next.
    extents: Mutex<Extents>,
}

/// Extents that follow each other: where each ends, and its flags.
#[derive(Debug, Default)]
struct Extents {
    start: u64,
    ends: Vec<(u64, u32)>,
}

impl Extents {
    /// The end and the flags of the one that holds `offset`.
    fn at(&self, offset: u64) -> Option<(u64, u32)> {
        let index = self.ends.partition_point(|(end, _)| *end <= offset);
        self.ends.get(index).copied().filter(|_| offset >= self.start)
    }
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    size: u64,
    /// The number of the context in this connection, where the server has it.
    context: Option<u32>,
    cookie: u64,
}

impl NbdDisk {
    /// The export of that name behind `socket`.
    ///
    /// # Errors
    ///
    /// When there is no such server or export.
    pub fn connect(socket: &Path, export: &str) -> Result<Self> {
        let first = Connection::open(socket, export, ALLOCATION)?;
        let size = first.size;
        let idle = Mutex::new(vec![first]);
        Ok(Self { socket: socket.to_owned(), export: export.to_owned(), size, idle, extents: Mutex::default() })
    }

    /// What the dirty bitmap `name` of the export says was changed: ascending, not touching.
    ///
    /// # Errors
    ///
    /// When the server has no such bitmap, or does not answer.
    pub fn changed(&self, name: &str) -> Result<Vec<Range<u64>>> {
        let context = format!("{BITMAP}{name}");
        let mut connection = Connection::open(&self.socket, &self.export, &context)?;
        if connection.context.is_none() {
            return Err(Error::not_found(format!("the NBD export {:?} has no bitmap {name}", self.export)));
        }
        let mut changed: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while at < self.size {
            for (end, flags) in connection.status(at)? {
                match changed.last_mut() {
                    _ if flags & DIRTY == 0 => {}
                    Some(last) if last.end == at => last.end = end,
                    _ => changed.push(at..end),
                }
                at = end;
            }
            if changed.len() as u64 > self.size / BITMAP_GRANULE_MIN {
                return Err(broken("tells of more changes than a bitmap can"));
            }
        }
        Ok(changed)
    }

    /// Runs `work` on a connection that nobody else uses; one that failed is not used again.
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&self.socket, &self.export, ALLOCATION)?,
        };
        if connection.size != self.size {
            return Err(Error::damaged(format!("the NBD export {:?} has changed its size", self.export)));
        }
        let done = work(&mut connection).map_err(|e| e.context(format_args!("NBD export {:?}", self.export)))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(connection);
        }
        Ok(done)
    }
}

impl ReadAt for NbdDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = buf.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut at = offset;
        for part in buf.get_mut(..wanted).unwrap_or_default().chunks_mut(READ_MAX) {
            self.with(|connection| connection.read(part, at))?;
            at += part.len() as u64;
        }
        Ok(wanted)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.size {
            return Ok(None);
        }
        let mut known = self.extents.lock().unwrap_or_else(PoisonError::into_inner);
        if known.at(offset).is_none() {
            *known = Extents { start: offset, ends: self.with(|connection| connection.status(offset))? };
        }
        let (end, flags) = known.at(offset).ok_or_else(|| broken("does not tell an extent"))?;
        let kind = if flags & ZERO != 0 { ExtentKind::Hole } else { ExtentKind::Data };
        Ok(Some(Extent { range: offset..end, kind }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        None
    }
}

impl BlockDevice for NbdDisk {
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes::CLASSIC
    }
}

/// The peer breaks the protocol.
fn broken(what: &str) -> Error {
    Error::damaged(format!("the NBD server {what}"))
}

impl Connection {
    fn open(socket: &Path, export: &str, context: &str) -> Result<Self> {
        let failed = |e: std::io::Error| {
            let gone = matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused);
            let kind = if gone { ErrorKind::NotFound } else { ErrorKind::Io };
            Error::new(kind, format!("cannot connect to the NBD server at {}", socket.display())).with_source(e)
        };
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream
            .set_read_timeout(Some(TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(TIMEOUT)))
            .map_err(failed)?;
        let mut connection = Self { stream, size: 0, context: None, cookie: 0 };
        connection
            .negotiate(export, context)
            .map_err(|e| e.context(format_args!("NBD export {export:?} at {}", socket.display())))?;
        Ok(connection)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(|e| Error::io("cannot send to the NBD server", e))
    }

    fn receive<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.stream.read_exact(bytes).map_err(|e| Error::io("cannot receive from the NBD server", e))
    }

    fn negotiate(&mut self, export: &str, context: &str) -> Result<()> {
        let hello: [u8; 18] = self.receive()?;
        let flags = be16(&hello, 16);
        if be64(&hello, 0) != MAGIC || be64(&hello, 8) != OPTION || flags & 1 == 0 {
            return Err(broken("does not begin as servers do"));
        }
        // NBD_FLAG_C_FIXED_NEWSTYLE, and NBD_FLAG_C_NO_ZEROES where the server has it.
        self.send(&u32::from(flags & 3).to_be_bytes())?;
        if self.option(STRUCTURED_REPLY, &[], |_, _| Ok(()))? != ACK {
            return Err(Error::unsupported("the NBD server has no structured replies"));
        }
        let name = export.as_bytes();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map(u32::to_be_bytes);
        let name_length = length(name).map_err(|_| Error::invalid("the name of an NBD export is too long"))?;
        let context = context.as_bytes();
        let context_length = length(context).map_err(|_| Error::invalid("the name of a context of NBD is too long"))?;
        let query = [&name_length[..], name, &1_u32.to_be_bytes(), &context_length, context].concat();
        let mut number = None;
        self.option(SET_META_CONTEXT, &query, |kind, payload| {
            if kind == META_CONTEXT && payload.get(4..) == Some(context) {
                number = Some(be32(payload, 0));
            }
            Ok(())
        })?;
        self.context = number;
        let mut size = None;
        let ended = self.option(GO, &[&name_length[..], name, &[0, 0]].concat(), |kind, payload| {
            // NBD_INFO_EXPORT
            if kind == INFO && be16(payload, 0) == 0 && payload.len() >= 12 {
                size = Some(be64(payload, 2));
            }
            Ok(())
        })?;
        match size {
            Some(size) if ended == ACK => self.size = size,
            _ => return Err(Error::not_found("the NBD server has no such export")),
        }
        Ok(())
    }

    /// Negotiates an option; `on` is given each answer but the last, whose type is returned.
    fn option(&mut self, option: u32, payload: &[u8], mut on: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<u32> {
        /// Answers to one option.
        const ANSWERS_MAX: usize = 1000;
        let length = u32::try_from(payload.len()).map_err(|_| Error::invalid("an option of NBD is too long"))?;
        self.send(&[&OPTION.to_be_bytes()[..], &option.to_be_bytes(), &length.to_be_bytes(), payload].concat())?;
        for _ in 0..ANSWERS_MAX {
            let head: [u8; 20] = self.receive()?;
            let (kind, length) = (be32(&head, 12), be32(&head, 16));
            if be64(&head, 0) != OPTION_REPLY || be32(&head, 8) != option || length > OPTION_MAX {
                return Err(broken("does not answer an option as servers do"));
            }
            let mut payload = vec![0; length as usize];
            self.fill(&mut payload)?;
            // Errors have the highest bit set.
            if kind == ACK || kind >> 31 == 1 {
                return Ok(kind);
            }
            on(kind, &payload)?;
        }
        Err(broken("does not come to an end with an option"))
    }

    fn request(&mut self, command: u16, offset: u64, length: u32) -> Result<()> {
        self.cookie += 1;
        let head =
            [&REQUEST.to_be_bytes()[..], &0_u16.to_be_bytes(), &command.to_be_bytes(), &self.cookie.to_be_bytes()];
        self.send(&[head.concat(), offset.to_be_bytes().to_vec(), length.to_be_bytes().to_vec()].concat())
    }

    /// The head of the next chunk: its type, whether it is the last, and its length.
    fn chunk(&mut self) -> Result<(u16, bool, u32)> {
        let head: [u8; 20] = self.receive()?;
        if be32(&head, 0) != CHUNK || be64(&head, 8) != self.cookie {
            return Err(broken("answers what was not asked"));
        }
        Ok((be16(&head, 6), be16(&head, 4) & 1 == 1, be32(&head, 16)))
    }

    /// The server's error in a chunk of `length` bytes.
    fn error(&mut self, length: u32) -> Result<Error> {
        let mut payload = vec![0; length.min(OPTION_MAX) as usize];
        self.fill(&mut payload)?;
        let words = payload.get(6..6 + usize::from(be16(&payload, 4))).unwrap_or_default();
        let words = String::from_utf8_lossy(words);
        Ok(Error::new(ErrorKind::Io, format!("the NBD server reports error {}: {words}", be32(&payload, 0))))
    }

    fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        let length = u32::try_from(buf.len()).map_err(|_| Error::invalid("a read is too long"))?;
        self.request(READ, offset, length)?;
        let mut left = u64::from(length);
        loop {
            let (kind, is_last, length) = self.chunk()?;
            match kind {
                NONE if length == 0 => {}
                OFFSET_DATA | OFFSET_HOLE => {
                    let at = be64(&self.receive::<8>()?, 0);
                    let hole = if kind == OFFSET_HOLE { Some(be32(&self.receive::<4>()?, 0)) } else { None };
                    let len = hole.map_or(u64::from(length).saturating_sub(8), u64::from);
                    let start = at.checked_sub(offset).and_then(|s| usize::try_from(s).ok()).unwrap_or(usize::MAX);
                    let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
                    let part = buf.get_mut(start..end).ok_or_else(|| broken("sends bytes that were not asked for"))?;
                    match hole {
                        Some(_) => part.fill(0),
                        None => self.fill(part)?,
                    }
                    left = left.checked_sub(len).ok_or_else(|| broken("sends bytes twice"))?;
                }
                kind if kind >> 15 == 1 => return Err(self.error(length)?),
                _ => return Err(broken("sends a chunk that nobody asked for")),
            }
            if is_last {
                return if left == 0 { Ok(()) } else { Err(broken("sends fewer bytes than were asked for")) };
            }
        }
    }

    /// The extents from `offset` on, at least one: where each ends, and its flags.
    fn status(&mut self, offset: u64) -> Result<Vec<(u64, u32)>> {
        let rest = self.size.saturating_sub(offset);
        let Some(context) = self.context else { return Ok(vec![(self.size, 0)]) };
        self.request(BLOCK_STATUS, offset, u32::try_from(rest.min(STATUS_MAX)).unwrap_or(u32::MAX))?;
        let mut found = Vec::new();
        loop {
            let (kind, is_last, length) = self.chunk()?;
            match kind {
                NONE if length == 0 => {}
                STATUS if (12..=EXTENTS_MAX).contains(&length) => {
                    let mut payload = vec![0; length as usize];
                    self.fill(&mut payload)?;
                    if be32(&payload, 0) == context {
                        let mut at = offset;
                        let extents = payload.get(4..).unwrap_or_default().chunks_exact(8);
                        found.extend(extents.map_while(|extent| {
                            let start = at;
                            at = at.saturating_add(u64::from(be32(extent, 0))).min(self.size);
                            // Not to come forward would be to hang.
                            (at > start).then(|| (at, be32(extent, 4)))
                        }));
                    }
                }
                kind if kind >> 15 == 1 => return Err(self.error(length)?),
                _ => return Err(broken("sends a chunk that nobody asked for")),
            }
            if is_last {
                return if found.is_empty() { Err(broken("does not tell an extent")) } else { Ok(found) };
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A farewell; the server sees the end of the connection in any case.
        let _ = self.request(DISCONNECT, 0, 0);
    }
}
