//! An open volume: its label, its medium, and the bytes of its blocks, decrypted where need be.

use std::path::Path;

use blockdev::{Error, ErrorKind, Result};

use crate::{
    block::{self, MAX_HEADER_LEN},
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
        let mut first = [0; 1024];
        let n = medium.read_at(&mut first, medium.start())?;
        let not_a_volume =
            || Error::unsupported(format!("{} is not a Bacula volume: no block header at its start", path.display()));
        let header = block::Header::parse(&first[..n]).ok_or_else(not_a_volume)?;
        let body = first.get(header.header_len() as usize..(header.len as usize).min(n)).ok_or_else(not_a_volume)?;
        let record = record::Header::parse(body).ok_or_else(not_a_volume)?;
        if !matches!(Type::of(record.file_index), Some(Type::Volume | Type::PreLabel)) {
            return Err(Error::damaged(format!("{}: the first record is not a volume label", path.display())));
        }
        let payload = body.get(record::HEADER_LEN as usize..).unwrap_or_default();
        let payload = &payload[..payload.len().min(record.len as usize)];
        let label = VolumeLabel::parse(payload).map_err(at)?;
        Ok(Self { medium, label, label_block: header, key: None })
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

    /// Address of the first block behind the label.
    #[must_use]
    pub fn first_block(&self) -> Address {
        // A cloud volume's label is alone in part 1; `next` passes on to the next part.
        self.medium.start() + u64::from(self.label_block.len)
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
