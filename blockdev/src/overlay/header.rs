//! The header of an overlay file: a qcow2 version 3 header (docs/interop/qcow2 of QEMU) with an extension of our own,
//! which says that the file is an overlay, of which program and layout, and what its base must be.

use super::{
    layout::{CLUSTER, CLUSTER_BITS, Layout},
    medium::Medium,
};
use crate::{Error, ErrorKind, Result};

/// Offset of the byte of the incompatible features that holds the dirty bit.
const DIRTY_BYTE: u64 = 79;
/// Incompatible feature: refcounts may be wrong. Ours are then at most too high.
const DIRTY: u64 = 1;
/// Incompatible feature: L2 entries of 16 bytes.
const EXTENDED_L2: u64 = 1 << 4;
/// Length of the header without extensions.
const HEADER_LEN: u32 = 112;
/// "End of extensions".
const EXT_END: u32 = 0;
/// "Backing file format".
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Our own: "RVNT".
const EXT_OVERLAY: u32 = 0x5256_4e54;
/// Version of our extension and of the layout that it stands for.
const OVERLAY_VERSION: u32 = 1;
/// Longest name, format and identity, in bytes. QEMU allows 1023 for a name.
const TEXT_MAX: usize = 1023;

/// A file that QEMU finds the base in, for when it opens the overlay without us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name, relative to the overlay's folder or absolute.
    pub name: String,
    /// Its format in QEMU's words; `raw` for a disk that is exported as a file.
    pub format: String,
}

/// What the header says beside the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Exact size of the base in bytes. The header's own size field counts whole sectors.
    pub base_size: u64,
    /// What stands for exactly this base, as the maker of the overlay called it.
    pub base_identity: String,
    /// Where QEMU finds the base.
    pub backing: Option<Backing>,
    /// Not closed properly: some clusters at the end may be counted and not used.
    pub dirty: bool,
}

impl Header {
    /// The bytes of the header, for the file's start.
    ///
    /// # Errors
    ///
    /// `Invalid` when a name is too long.
    pub fn encode(&self, layout: &Layout) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(4096);
        out.extend(b"QFI\xfb");
        out.extend(3_u32.to_be_bytes());
        out.extend([0; 12]); // the backing file name, below
        out.extend(CLUSTER_BITS.to_be_bytes());
        out.extend(layout.size.to_be_bytes());
        out.extend(0_u32.to_be_bytes()); // no encryption
        out.extend((layout.l2_tables as u32).to_be_bytes());
        out.extend(layout.l1.to_be_bytes());
        out.extend(layout.refcount_table.to_be_bytes());
        out.extend((layout.refcount_table_clusters as u32).to_be_bytes());
        out.extend([0; 12]); // no snapshots
        out.extend((EXTENDED_L2 | if self.dirty { DIRTY } else { 0 }).to_be_bytes());
        out.extend([0; 16]); // compatible and autoclear features
        out.extend(4_u32.to_be_bytes()); // refcounts of 16 bits
        out.extend(HEADER_LEN.to_be_bytes());
        out.extend([0; 8]); // compression type zlib, padding
        if let Some(backing) = &self.backing {
            extension(&mut out, EXT_BACKING_FORMAT, checked(&backing.format, "format of the backing file")?);
        }
        let mut own = Vec::from(OVERLAY_VERSION.to_be_bytes());
        own.extend([0; 4]);
        own.extend(self.base_size.to_be_bytes());
        own.extend(checked(&self.base_identity, "identity of the base")?);
        extension(&mut out, EXT_OVERLAY, &own);
        extension(&mut out, EXT_END, &[]);
        if let Some(backing) = &self.backing {
            let name = checked(&backing.name, "name of the backing file")?;
            let place = (out.len() as u64).to_be_bytes();
            out[8..16].copy_from_slice(&place);
            out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            out.extend(name);
        }
        Ok(out)
    }

    /// Read the header of `medium` and check that it is one of ours, for a disk of `layout`.
    ///
    /// # Errors
    ///
    /// `Unsupported` when it is not an overlay or was rearranged by another program, `Damaged` when it contradicts
    /// itself.
    pub fn read(medium: &dyn Medium) -> Result<(Self, Layout)> {
        let mut bytes = vec![0; CLUSTER as usize];
        medium.read(&mut bytes, 0).map_err(|e| Error::io("cannot read the overlay's header", e))?;
        let field = Fields(&bytes);
        if field.get(0)? != *b"QFI\xfb" || field.be32(4)? != 3 {
            return Err(Error::unsupported("this is not an overlay: it is no qcow2 file of version 3"));
        }
        let mut header = Self { base_size: 0, base_identity: String::new(), backing: None, dirty: false };
        let mut format = None;
        let mut ours = false;
        let mut at = field.be32(100)? as usize;
        loop {
            let (kind, len) = (field.be32(at)?, field.be32(at.saturating_add(4))? as usize);
            let content = field.slice(at.saturating_add(8), len)?;
            match kind {
                EXT_END => break,
                EXT_BACKING_FORMAT => format = Some(text(content)),
                EXT_OVERLAY => {
                    let own = Fields(content);
                    if own.be32(0)? != OVERLAY_VERSION {
                        return Err(Error::unsupported("the overlay was made by a newer version: use that one"));
                    }
                    header.base_size = own.be64(8)?;
                    header.base_identity = text(content.get(16..).unwrap_or_default());
                    ours = true;
                }
                _ => {}
            }
            at = at.saturating_add(8).saturating_add(len.next_multiple_of(8));
        }
        if !ours {
            return Err(Error::unsupported(
                "this qcow2 file is not an overlay of this program: export it read-only under a new overlay",
            ));
        }
        let name_at = field.be64(8)?;
        if name_at != 0 {
            let name = field.slice(usize::try_from(name_at).unwrap_or(usize::MAX), field.be32(16)? as usize)?;
            header.backing = Some(Backing { name: text(name), format: format.unwrap_or_default() });
        }
        let layout = Layout::new(header.base_size)?;
        let features = field.be64(72)?;
        header.dirty = features & DIRTY != 0;
        let expected = [
            field.be32(20)? == CLUSTER_BITS,
            field.be64(24)? == layout.size,
            field.be32(32)? == 0,
            u64::from(field.be32(36)?) == layout.l2_tables,
            field.be64(40)? == layout.l1,
            field.be64(48)? == layout.refcount_table,
            u64::from(field.be32(56)?) == layout.refcount_table_clusters,
            field.be32(60)? == 0,
            features & !DIRTY == EXTENDED_L2,
            field.be32(96)? == 4,
        ];
        if expected.contains(&false) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the overlay was rearranged by another program (resized, emptied, or given a snapshot): \
                 convert it with qemu-img",
            ));
        }
        Ok((header, layout))
    }
}

/// Set or clear the dirty bit. One byte of the first sector: never half written.
///
/// # Errors
///
/// When the medium fails.
pub fn mark_dirty(medium: &dyn Medium, dirty: bool) -> Result<()> {
    let byte = (EXTENDED_L2 | if dirty { DIRTY } else { 0 }) as u8;
    medium.write(&[byte], DIRTY_BYTE).map_err(|e| Error::io("cannot write the overlay's header", e))
}

fn extension(out: &mut Vec<u8>, kind: u32, content: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend((content.len() as u32).to_be_bytes());
    out.extend(content);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn checked<'a>(text: &'a str, what: &str) -> Result<&'a [u8]> {
    if text.len() > TEXT_MAX {
        return Err(Error::invalid(format!("the {what} is longer than {TEXT_MAX} bytes")));
    }
    Ok(text.as_bytes())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Big-endian fields of bytes from outside.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&self, at: usize, len: usize) -> Result<&'a [u8]> {
        let end = at.checked_add(len);
        end.and_then(|end| self.0.get(at..end)).ok_or_else(|| {
            Error::damaged(format!("the overlay's header points to byte {at}, past its end: it is not intact"))
        })
    }

    fn get<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(at, N)?);
        Ok(out)
    }

    fn be32(&self, at: usize) -> Result<u32> {
        self.get(at).map(u32::from_be_bytes)
    }

    fn be64(&self, at: usize) -> Result<u64> {
        self.get(at).map(u64::from_be_bytes)
    }
}
