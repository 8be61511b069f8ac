//! tar, in the pax interchange format, as GNU tar, bsdtar, star and Python read it.
//!
//! Attributes that POSIX does not know are in star's records (`SCHILY.xattr.`, `SCHILY.acl.`); files with holes are in GNU's
//! form 1.0, whose map of the data lies before the data.

use std::io::Write;

use blockdev::{Error, Result};

use super::{
    Archive, Can, Member, Refusal, acl,
    pax::{BLOCK, LARGE_MAX, NAME_MAX, Records, SMALL_MAX, Ustar},
    plan::Plan,
};
use crate::node::Kind;

pub(super) struct Tar<'t> {
    out: &'t mut dyn Write,
    /// Bytes of the last block of content that are there.
    partial: usize,
}

/// What a member is.
struct Body<'b> {
    kind: u8,
    size: u64,
    link: &'b [u8],
    /// Records that a body of this kind needs, and the name in the block when the path is in one of them.
    records: Records,
    name: Option<Vec<u8>>,
}

impl<'b> Body<'b> {
    fn of(kind: u8, size: u64, link: &'b [u8]) -> Self {
        Self { kind, size, link, records: Records::default(), name: None }
    }
}

impl<'t> Tar<'t> {
    pub fn new(out: &'t mut dyn Write) -> Self {
        Self { out, partial: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io("cannot write the archive", e))
    }

    /// Zeros up to the next block.
    fn pad(&mut self, len: usize) -> Result<()> {
        self.put([0; BLOCK].get(..(BLOCK - len % BLOCK) % BLOCK).unwrap_or_default())
    }

    fn header(&mut self, member: &Member<'_>, body: Body<'_>) -> Result<()> {
        let (a, mut records) = (member.attributes, body.records);
        let path = if body.kind == b'5' { [member.path, b"/"].concat() } else { member.path.to_vec() };
        if [&path, body.link].iter().any(|name| std::str::from_utf8(name).is_err()) {
            records.add(b"hdrcharset", b"BINARY");
        }
        let needs_record = |name: &[u8]| name.len() > NAME_MAX || !name.is_ascii();
        if body.name.is_none() && needs_record(&path) {
            records.add(b"path", &path);
        }
        if needs_record(body.link) {
            records.add(b"linkpath", body.link);
        }
        let numbers = [
            (&b"size"[..], body.size, LARGE_MAX),
            (b"uid", a.uid.into(), SMALL_MAX),
            (b"gid", a.gid.into(), SMALL_MAX),
            (b"SCHILY.devmajor", a.rdev.0.into(), SMALL_MAX),
            (b"SCHILY.devminor", a.rdev.1.into(), SMALL_MAX),
        ];
        for (key, value, _) in numbers.iter().filter(|(_, value, max)| value > max) {
            records.add(key, value.to_string().as_bytes());
        }
        for (key, time) in [(&b"mtime"[..], a.mtime), (b"atime", a.atime), (b"ctime", a.ctime)] {
            records.time(key, time);
        }
        for xattr in member.xattrs {
            let acl = match xattr.name.as_slice() {
                b"system.posix_acl_access" => Some(&b"SCHILY.acl.access"[..]),
                b"system.posix_acl_default" => Some(&b"SCHILY.acl.default"[..]),
                _ => None,
            };
            match acl.and_then(|key| Some((key, acl::text(&xattr.value)?))) {
                Some((key, text)) => records.add(key, text.as_bytes()),
                None => records.add(&[b"SCHILY.xattr.", escaped(&xattr.name).as_slice()].concat(), &xattr.value),
            }
        }
        let base = member.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let records_name = [b"PaxHeaders/", base].concat();
        let block = Ustar {
            name: &records_name,
            kind: b'x',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: records.0.len() as u64,
            mtime: a.mtime,
            link: b"",
            rdev: (0, 0),
        };
        self.put(&block.block())?;
        self.put(&records.0)?;
        self.pad(records.0.len())?;
        let is_device = matches!(a.kind, Kind::CharDevice | Kind::BlockDevice);
        let block = Ustar {
            name: body.name.as_deref().unwrap_or(&path),
            kind: body.kind,
            mode: a.permissions & 0o7777,
            uid: a.uid,
            gid: a.gid,
            size: body.size,
            mtime: a.mtime,
            link: body.link,
            rdev: if is_device { a.rdev } else { (0, 0) },
        };
        self.put(&block.block())
    }
}

impl Archive for Tar<'_> {
    fn can(&self) -> Can {
        Can { links: true, holes: true, xattrs: true }
    }

    fn refuses(&self, member: &Member<'_>) -> Option<Refusal> {
        (member.attributes.kind == Kind::Socket).then_some(Refusal::Kind("tar has no sockets"))
    }

    fn dir(&mut self, member: &Member<'_>) -> Result<()> {
        self.header(member, Body::of(b'5', 0, b""))
    }

    fn symlink(&mut self, member: &Member<'_>, target: &[u8]) -> Result<()> {
        self.header(member, Body::of(b'2', 0, target))
    }

    fn special(&mut self, member: &Member<'_>) -> Result<()> {
        let kind = match member.attributes.kind {
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            _ => b'6',
        };
        self.header(member, Body::of(kind, 0, b""))
    }

    fn hard_link(&mut self, member: &Member<'_>, first: &[u8]) -> Result<()> {
        self.header(member, Body::of(b'1', 0, first))
    }

    fn begin(&mut self, member: &Member<'_>, plan: &Plan) -> Result<()> {
        if !plan.is_sparse {
            return self.header(member, Body::of(b'0', plan.size, b""));
        }
        let map = map(plan);
        let mut body = Body::of(b'0', map.len() as u64 + plan.stored_len(), b"");
        body.records.add(b"GNU.sparse.major", b"1");
        body.records.add(b"GNU.sparse.minor", b"0");
        body.records.add(b"GNU.sparse.name", member.path);
        body.records.add(b"GNU.sparse.realsize", plan.size.to_string().as_bytes());
        let base = member.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        body.name = Some([b"GNUSparseFile.0/", base].concat());
        self.header(member, body)?;
        self.put(&map)
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        self.partial = (self.partial + bytes.len()) % BLOCK;
        self.put(bytes)
    }

    fn end(&mut self) -> Result<()> {
        let partial = std::mem::take(&mut self.partial);
        self.pad(partial)
    }

    fn finish(&mut self) -> Result<()> {
        self.put(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(|e| Error::io("cannot write the archive", e))
    }
}

/// The map of a sparse file: the number of its pieces, then offset and length of each; whole blocks.
fn map(plan: &Plan) -> Vec<u8> {
    let ends_in_hole = plan.stored.last().is_none_or(|last| last.end < plan.size);
    let end = ends_in_hole.then_some(plan.size..plan.size);
    let pieces = plan.stored.len() + usize::from(ends_in_hole);
    let mut map = format!("{pieces}\n").into_bytes();
    for piece in plan.stored.iter().cloned().chain(end) {
        map.extend_from_slice(format!("{}\n{}\n", piece.start, piece.end - piece.start).as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// The name of an attribute in the keyword of a record, which an equals sign ends: as GNU tar escapes it.
fn escaped(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => escaped.extend_from_slice(b"%25"),
            b'=' => escaped.extend_from_slice(b"%3D"),
            other => escaped.push(*other),
        }
    }
    escaped
}
