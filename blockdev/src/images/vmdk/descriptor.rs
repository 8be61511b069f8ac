//! The descriptor: a short text that says what a disk is made of and what it was made on.
//!
//! ```text
//! # Disk DescriptorFile
//! version=1
//! encoding="UTF-8"
//! CID=7d6f2b55
//! parentCID=ffffffff
//! createType="twoGbMaxExtentSparse"
//!
//! RW 4192256 SPARSE "web01-s001.vmdk"
//! RW 2097152 FLAT "web01-f002.vmdk" 0
//! ```
//!
//! It is a file of its own or embedded in a sparse extent. (VMware, *Virtual Disk Format 5.0*, "The Descriptor File".)

use encoding_rs::{Encoding, UTF_8};

use super::grains::SECTORS_MAX;
use crate::{Error, ErrorKind, Result};

/// Bytes that a descriptor has at most; those of VMware have some hundred.
pub(super) const SIZE_MAX: u64 = 1 << 20;

/// The first line that is not empty.
const SIGNATURE: &[u8] = b"# Disk DescriptorFile";

/// There is no parent.
const NO_PARENT: u32 = u32::MAX;

/// Whether what begins with `head` and has `size` bytes is a descriptor. What begins like one and is longer is a disk
/// whose guest wrote that, to be shown the disks of others.
pub(in super::super) fn is_descriptor(head: &[u8], size: u64) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    size <= SIZE_MAX && head.get(..SIGNATURE.len()).is_some_and(|start| start.eq_ignore_ascii_case(SIGNATURE))
}

/// What a descriptor says.
#[derive(Debug, Default)]
pub(super) struct Descriptor {
    /// The kind of disk, in VMware's words.
    pub(super) create_type: Option<String>,
    /// Stands for the content.
    pub(super) cid: Option<u32>,
    /// What the disk is made of, in the order of the disk.
    pub(super) extents: Vec<Extent>,
    /// The file that tells changed blocks.
    pub(super) change_track: Option<String>,
    parent_cid: Option<u32>,
    parent_hint: Option<String>,
}

/// A line of a descriptor that tells an extent.
#[derive(Debug)]
pub(super) struct Extent {
    /// Sectors of the disk.
    pub(super) sectors: u64,
    /// What they are.
    pub(super) kind: Kind,
    /// They may be read.
    pub(super) accessible: bool,
}

/// What an extent is.
#[derive(Debug)]
pub(super) enum Kind {
    /// Zeros.
    Zero,
    /// The bytes of a file from this sector on.
    Flat {
        /// The file.
        name: String,
        /// The first sector of it.
        first: u64,
    },
    /// A sparse extent, of the kind that its own first bytes tell.
    Sparse {
        /// The file.
        name: String,
    },
}

impl Kind {
    /// The file that holds it.
    pub(super) fn file(&self) -> Option<&str> {
        match self {
            Self::Zero => None,
            Self::Flat { name, .. } | Self::Sparse { name } => Some(name),
        }
    }
}

impl Descriptor {
    /// The descriptor in `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.split(|b| *b == 0).next().unwrap_or_default();
        let (text, _) = encoding(bytes).decode_with_bom_removal(bytes);
        let mut descriptor = Self::default();
        for line in text.lines().map(str::trim) {
            if line.starts_with('#') {
                continue;
            }
            if let Some(extent) = Extent::parse(line)? {
                descriptor.extents.push(extent);
            } else if let Some((key, value)) = line.split_once('=') {
                descriptor.set(key.trim(), value.trim().trim_matches('"'))?;
            }
        }
        Ok(descriptor)
    }

    /// Take in `key=value`. The first of several counts.
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let cid = || {
            u32::from_str_radix(value, 16)
                .map_err(|_| Error::damaged(format!("the VMDK's descriptor has {key}={value}: that is no number")))
        };
        let text = || Some(value.to_owned()).filter(|v| !v.is_empty());
        match key.to_ascii_lowercase().as_str() {
            "cid" if self.cid.is_none() => self.cid = Some(cid()?),
            "parentcid" if self.parent_cid.is_none() => self.parent_cid = Some(cid()?),
            "createtype" if self.create_type.is_none() => self.create_type = text(),
            "parentfilenamehint" if self.parent_hint.is_none() => self.parent_hint = text(),
            "changetrackpath" if self.change_track.is_none() => self.change_track = text(),
            "encryptionkeys" | "encryption.keysafe" | "encryption.data" => return Err(encrypted()),
            "ddb.iofilters" if value.contains("vmcrypt") => return Err(encrypted()),
            _ => {}
        }
        Ok(())
    }

    /// The name and the CID of the parent.
    pub(super) fn parent(&self) -> Result<Option<(&str, u32)>> {
        let cid = self.parent_cid.filter(|cid| *cid != NO_PARENT);
        match (self.parent_hint.as_deref(), cid) {
            (None, None) => Ok(None),
            (Some(hint), Some(cid)) => Ok(Some((hint, cid))),
            (Some(hint), None) => Err(Error::damaged(format!(
                "the VMDK's descriptor names a parent, {hint}, and not its CID: it is damaged"
            ))),
            (None, Some(cid)) => Err(Error::new(
                ErrorKind::Missing,
                format!("the VMDK was made on the disk with CID {cid:08x}, whose name its descriptor does not tell"),
            )),
        }
    }
}

impl Extent {
    /// The extent that `line` tells; `None` if it tells something else.
    fn parse(line: &str) -> Result<Option<Self>> {
        let (access, rest) = word(line);
        let accessible = match access {
            "RW" | "RDONLY" => true,
            "NOACCESS" => false,
            _ => return Ok(None),
        };
        let damaged = |what| Error::damaged(format!("the VMDK's descriptor has a line {line:?}: {what}"));
        let (sectors, rest) = word(rest);
        let sectors = sectors.parse().ok().filter(|n| *n <= SECTORS_MAX).ok_or_else(|| damaged("no such size"))?;
        let (kind, rest) = word(rest);
        let quoted = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let named = || quoted.filter(|(name, _)| !name.is_empty()).ok_or_else(|| damaged("it names no file"));
        let kind = match kind {
            "ZERO" => Kind::Zero,
            "FLAT" | "VMFS" => {
                let (name, rest) = named()?;
                if is_device(name) {
                    return Err(device(line));
                }
                let first = match word(rest).0 {
                    "" => Some(0),
                    first => first.parse().ok().filter(|n| *n <= SECTORS_MAX),
                };
                Kind::Flat { name: name.to_owned(), first: first.ok_or_else(|| damaged("no such offset"))? }
            }
            "SPARSE" | "VMFSSPARSE" | "SESPARSE" => Kind::Sparse { name: named()?.0.to_owned() },
            "VMFSRDM" | "VMFSRAW" => return Err(device(line)),
            _ => return Err(Error::unsupported(format!("a VMDK with extents of the kind {kind}"))),
        };
        Ok(Some(Self { sectors, kind, accessible }))
    }
}

/// The first word of `text` and what comes after it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()))
}

/// Whether `name` is that of a device as Unix and Windows name them.
fn is_device(name: &str) -> bool {
    name.starts_with("/dev/") || name.starts_with(r"\\.\")
}

fn device(line: &str) -> Error {
    Error::unsupported(format!(
        "the VMDK stands for a device of its host ({line}): the data is not in it; back up the device itself"
    ))
}

fn encrypted() -> Error {
    Error::new(
        ErrorKind::Locked,
        "the VMDK is encrypted by VMware and its key is not in the backup: take it off on its host, or back up in the guest",
    )
}

/// The encoding of the names in `bytes`.
fn encoding(bytes: &[u8]) -> &'static Encoding {
    let value = bytes.split(|b| *b == b'\n').find_map(|line| {
        let (key, value) = line.split_at_checked(line.iter().position(|b| *b == b'=')?)?;
        key.trim_ascii().eq_ignore_ascii_case(b"encoding").then(|| value.get(1..).unwrap_or_default())
    });
    let label = value.map(<[u8]>::trim_ascii);
    let label = label.map(|l| l.strip_prefix(b"\"").unwrap_or(l)).map(|l| l.strip_suffix(b"\"").unwrap_or(l));
    label.and_then(Encoding::for_label).unwrap_or(UTF_8)
}
