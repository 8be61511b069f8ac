//! What plugins leave in a job besides files: streams 26, 28 and 34 (format reference, section 7). For
//! listings; no file's content depends on them.

use blockdev::{Error, Result};

use crate::{codec, stream::Compression};

/// Restore objects above this length, decompressed, are not decoded: they are configuration, not data.
const MAX_OBJECT: usize = 16 * 1024 * 1024;

/// Stream 26: a plugin's part of the job starts or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginName {
    /// What follows comes from the plugin, up to the end mark.
    Start {
        /// The data is in the plugin's portable form.
        portable: bool,
        /// The plugin command line of the FileSet, `bpipe:...`.
        command: Vec<u8>,
    },
    /// The plugin's part is over.
    End,
}

impl PluginName {
    /// Read the payload of stream 26.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is neither a start nor an end mark.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let mut fields = Fields { rest: payload, what: "plugin name" };
        fields.number()?;
        if fields.number()? == 0 {
            return Ok(Self::End);
        }
        Ok(Self::Start { portable: fields.number()? != 0, command: fields.string().to_vec() })
    }
}

/// Stream 28: an object that a plugin wants back before a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreObject {
    /// File type of the object (25, 27, 28 or 30).
    pub file_type: u32,
    /// Its number among the plugin's objects.
    pub index: u32,
    /// Length as it should be once decompressed.
    pub full_len: u64,
    /// The plugin.
    pub plugin: Vec<u8>,
    /// Name of the object.
    pub name: Vec<u8>,
    /// How the stored bytes are compressed: 0 not, 1 zlib.
    compression: u64,
    stored: Vec<u8>,
}

impl RestoreObject {
    /// Read the payload of stream 28.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is cut or a number in it is none.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let mut fields = Fields { rest: payload, what: "restore object" };
        fields.number()?;
        let (file_type, index) = (fields.small()?, fields.small()?);
        let (stored_len, full_len, compression) = (fields.number()?, fields.number()?, fields.number()?);
        let (plugin, name) = (fields.string(), fields.string());
        let stored = usize::try_from(stored_len).ok().and_then(|len| fields.rest.get(..len));
        let Some(stored) = stored else {
            return Err(Error::damaged(format!(
                "restore object of {stored_len} bytes is cut after {}",
                fields.rest.len()
            )));
        };
        Ok(Self {
            file_type,
            index,
            full_len,
            plugin: plugin.to_vec(),
            name: name.to_vec(),
            compression,
            stored: stored.to_vec(),
        })
    }

    /// The object itself.
    ///
    /// # Errors
    ///
    /// `Damaged` when it does not decompress to the length it should have, `Unsupported` for a compression
    /// that is not known, `Limit` above 16 MiB.
    pub fn content(&self) -> Result<Vec<u8>> {
        let kind = match self.compression {
            0 => Compression::None,
            1 => Compression::Zlib,
            other => return Err(Error::unsupported(format!("restore object with compression {other}"))),
        };
        let mut content = Vec::new();
        codec::decode(kind, &self.stored, &mut content, MAX_OBJECT)
            .map_err(|error| error.context(format_args!("restore object {}", self.name.escape_ascii())))?;
        if content.len() as u64 != self.full_len {
            return Err(Error::damaged(format!(
                "restore object {} has {} bytes, {} were stored",
                self.name.escape_ascii(),
                content.len(),
                self.full_len
            )));
        }
        Ok(content)
    }
}

/// Stream 34: what a plugin tells the catalog about a thing it saved, such as a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the catalog's columns")]
pub struct PluginObject {
    pub path: Vec<u8>,
    pub plugin: Vec<u8>,
    pub category: Vec<u8>,
    pub object_type: Vec<u8>,
    pub name: Vec<u8>,
    pub source: Vec<u8>,
    pub uuid: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// The status letter.
    pub status: u8,
    pub count: u64,
}

impl PluginObject {
    /// Read the payload of stream 34.
    ///
    /// # Errors
    ///
    /// `Damaged` when fields are missing or a number is none.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let mut fields = Fields { rest: payload, what: "plugin object" };
        let mut text = || Ok::<_, Error>(fields.word()?.iter().map(|&b| if b == 1 { b' ' } else { b }).collect());
        Ok(Self {
            path: text()?,
            plugin: text()?,
            category: text()?,
            object_type: text()?,
            name: text()?,
            source: text()?,
            uuid: text()?,
            size: fields.number()?,
            status: fields.word()?.first().copied().unwrap_or_default(),
            count: fields.number()?,
        })
    }
}

/// Blank-separated words, then strings that end with a NUL.
struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    /// Up to the next blank, NUL or the end.
    fn word(&mut self) -> Result<&'a [u8]> {
        if self.rest.is_empty() {
            return Err(Error::damaged(format!("{} is cut", self.what)));
        }
        Ok(self.until(|byte| byte == b' ' || byte == 0))
    }

    fn string(&mut self) -> &'a [u8] {
        self.until(|byte| byte == 0)
    }

    fn until(&mut self, is_end: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|&byte| is_end(byte)).unwrap_or(self.rest.len());
        let (field, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        field
    }

    fn number(&mut self) -> Result<u64> {
        let word = self.word()?;
        str::from_utf8(word).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            let shown = word.get(..32).unwrap_or(word).escape_ascii();
            Error::damaged(format!("{}: \"{shown}\" is no number", self.what))
        })
    }

    fn small(&mut self) -> Result<u32> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| Error::damaged(format!("{}: {number} is too large", self.what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_names() {
        let start = PluginName::Start { portable: true, command: b"bpipe:/a b:x:y".to_vec() };
        assert_eq!(PluginName::parse(b"7 1 1 bpipe:/a b:x:y\0").unwrap(), start);
        assert_eq!(PluginName::parse(b"7 0").unwrap(), PluginName::End);
        for bad in [&b""[..], b"7", b"x 1 1 p\0", b"7 1"] {
            assert!(PluginName::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn restore_objects() {
        let object = RestoreObject::parse(b"3 27 1 5 5 0 plug:in\0RestoreOptions\0hello\0").unwrap();
        assert_eq!((object.file_type, object.index), (27, 1));
        assert_eq!((&object.plugin[..], &object.name[..]), (&b"plug:in"[..], &b"RestoreOptions"[..]));
        assert_eq!(object.content().unwrap(), b"hello");
        assert!(RestoreObject::parse(b"3 27 1 9 9 0 p\0n\0hello\0").is_err());
        let wrong = RestoreObject::parse(b"3 27 1 5 6 0 p\0n\0hello\0").unwrap();
        assert!(wrong.content().is_err());
    }

    #[test]
    fn plugin_objects() {
        let object =
            PluginObject::parse(b"/@vm/a\x01b/ plug Virtual\x01Machine VM my\x01vm host uuid-1 42 T 3\0").unwrap();
        assert_eq!((&object.path[..], &object.category[..]), (&b"/@vm/a b/"[..], &b"Virtual Machine"[..]));
        assert_eq!((object.size, object.status, object.count), (42, b'T', 3));
        assert!(PluginObject::parse(b"a b c").is_err());
    }
}
