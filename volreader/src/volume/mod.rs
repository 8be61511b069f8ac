//! An open volume: its label, its medium, and the bytes of its blocks, decrypted where need be.

use std::path::Path;

use blockdev::{Error, ErrorKind, Result};

use crate::{
    block::{self, MAX_HEADER_LEN, checksum},
    crypto::volume::{BlockIdentity, VolumeKey},
    label::{Type, VolumeLabel},
    medium::{Address, Medium},
    record,
};

/// An open volume.
#[derive(Debug)]
pub struct Volume {
    medium: Medium,
    label: VolumeLabel,
    label_block: block::Header,
    key: Option<VolumeKey>,
    damaged_label: bool,
}

/// A label block is mostly of some 214 to 232 bytes, and never longer than its names allow.
const USUAL_LABEL_LEN: usize = 256;
const LABEL_LEN: usize = 4096;
/// Where the label cannot be read, a block must be found within so many bytes.
const LABEL_SEARCH: u64 = 1 << 20;

/// The label in the first bytes of a volume; `None` when there is no label record at all.
fn parse_label(first: &[u8]) -> Option<(block::Header, Result<VolumeLabel>)> {
    let header = block::Header::parse(first)?;
    let body = first.get(header.header_len() as usize..(header.len as usize).min(first.len()))?;
    let record = record::Header::parse(body)?;
    matches!(Type::of(record.file_index), Some(Type::Volume | Type::PreLabel)).then_some(())?;
    let payload = body.get(record::HEADER_LEN as usize..)?;
    Some((header, VolumeLabel::parse(&payload[..payload.len().min(record.len as usize)])))
}

impl Volume {
    /// Open the volume at `path` and read its label.
    ///
    /// # Errors
    ///
    /// When there is no readable volume label at its start.
    pub fn open(path: &Path) -> Result<Self> {
        let medium = Medium::open(path)?;
        let at = |e: Error| e.context(path.display());
        let mut first = [0; LABEL_LEN];
        let mut n = medium.read_at(&mut first[..USUAL_LABEL_LEN], medium.start())?;
        if block::Header::parse(&first[..n]).is_some_and(|h| h.len as usize > USUAL_LABEL_LEN) {
            n = medium.read_at(&mut first, medium.start())?;
        }
        let Some((header, label)) = parse_label(&first[..n]) else {
            // A damaged label does not take the jobs behind it away.
            return Self::without_label(medium);
        };
        match label {
            Ok(label) => {
                let whole = first.get(..header.len as usize).filter(|b| b.len() <= n);
                let bad = whole.is_some_and(|b| checksum::verify(&header, &[b]) == checksum::Verdict::Bad);
                Ok(Self { medium, label, label_block: header, key: None, damaged_label: bad })
            }
            Err(e) if e.kind() == ErrorKind::Damaged => Self::without_label(medium),
            Err(e) => Err(at(e)),
        }
    }

    /// A volume whose label cannot be read: it is called after its file, and what follows is looked for.
    fn without_label(medium: Medium) -> Result<Self> {
        let path = medium.path().to_owned();
        let not_a_volume =
            || Error::unsupported(format!("{} is not a Bacula volume: no block header near its start", path.display()));
        let start = medium.start();
        let end = medium.ranges()?.first().map_or(start, |r| r.end).min(start + LABEL_SEARCH);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let label = VolumeLabel {
            name,
            pool: String::new(),
            media_type: String::new(),
            host: String::new(),
            labelled_at: 0,
            written_at: 0,
            block_size: 0,
        };
        let nothing = block::Session { time: 0, id: 0 };
        let label_block = block::Header {
            format: block::Format::Bb02,
            len: 0,
            number: 0,
            session: nothing,
            checksum: None,
            encrypted: false,
            volume_encrypted: false,
        };
        let mut volume = Self { medium, label, label_block, key: None, damaged_label: true };
        let next = crate::scan::next_block(&volume, start, end)?;
        let header = volume.block_header(next)?.filter(|_| next < end).ok_or_else(not_a_volume)?;
        volume.label_block.volume_encrypted = header.volume_encrypted;
        Ok(volume)
    }

    /// Whether the label is not as it was written; where it cannot be read at all, the name is the file's.
    #[must_use]
    pub const fn has_damaged_label(&self) -> bool {
        self.damaged_label
    }

    /// The same volume with the key of its encrypted blocks.
    #[must_use]
    pub fn with_key(self, key: Option<VolumeKey>) -> Self {
        Self { key, ..self }
    }

    /// The volume's name, from its label.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.label.name
    }

    /// Its label.
    #[must_use]
    pub const fn label(&self) -> &VolumeLabel {
        &self.label
    }

    /// Its bytes.
    #[must_use]
    pub const fn medium(&self) -> &Medium {
        &self.medium
    }

    /// Whether its data blocks are encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.label_block.volume_encrypted
    }

    /// The header of the block at `address`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the medium cannot be read.
    pub fn block_header(&self, address: Address) -> Result<Option<block::Header>> {
        let mut bytes = [0; MAX_HEADER_LEN];
        let n = self.medium.read_at(&mut bytes, address)?;
        Ok(block::Header::parse(&bytes[..n]))
    }

    /// The whole block at `address`, decrypted where need be; short when the volume is cut off.
    ///
    /// # Errors
    ///
    /// When the medium cannot be read, or the block is encrypted and there is no key for the volume.
    pub fn read_block(&self, address: Address, header: &block::Header) -> Result<Vec<u8>> {
        let mut bytes = vec![0; header.len as usize];
        let n = self.medium.read_at(&mut bytes, address)?;
        bytes.truncate(n);
        if header.encrypted {
            let key = self.key.as_ref().ok_or_else(|| {
                let name = &self.label.name;
                Error::new(
                    ErrorKind::Locked,
                    format!("volume {name} is encrypted; give the folder with its key file by --volume-keys"),
                )
            })?;
            let identity = BlockIdentity {
                number: header.number,
                session_id: header.session.id,
                session_time: header.session.time,
            };
            let body = bytes.get_mut(header.header_len() as usize..).unwrap_or_default();
            if n == header.len as usize {
                key.decrypt_block(identity, body).map_err(|e| e.context(self.place(address)))?;
            } else {
                return Err(Error::damaged(format!("{}: the volume ends inside this block", self.place(address))));
            }
        }
        Ok(bytes)
    }

    /// "volume NAME at address N", for messages.
    #[must_use]
    pub fn place(&self, address: Address) -> String {
        format!("volume {} at address {address}", self.label.name)
    }
}
