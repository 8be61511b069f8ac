//! Encrypted files: the key ring, the session key of stream 22, and CBC over a file's data (format
//! reference, section 9).
//!
//! A job's data is encrypted with one session key. Stream 22 repeats that key in front of every file, wrapped
//! with RSA for each certificate of the File daemon. [`KeyRing`] holds the private keys an administrator gives
//! and unwraps it, once a job. The data streams of a file, put together, are one CBC stream; any part of it can
//! be decrypted from the 16 bytes of ciphertext before it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt, fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use aes::{
    Aes128Dec, Aes192Dec, Aes256Dec,
    cipher::{Array, BlockCipherDecrypt, BlockModeDecrypt, BlockSizeUser, InnerIvInit, KeyInit, typenum::U16},
};
use blockdev::{Error, ErrorKind, Result};
use der::{
    AnyRef, Decode, Reader, SecretDocument, SliceReader, Tag, Tagged,
    asn1::{ObjectIdentifier, OctetStringRef},
    referenced::OwnedToRef,
};
use rsa::{
    BoxedUint, RsaPrivateKey, RsaPublicKey,
    hazmat::rsa_decrypt_and_check,
    pkcs1::{DecodeRsaPrivateKey, EncodeRsaPublicKey},
    pkcs8::DecodePrivateKey,
    rand_core::TryCryptoRng,
    traits::PublicKeyParts,
};
use sha1::{Digest, Sha1};
use x509_cert::certificate::{CertificateInner, Raw};
use zeroize::Zeroizing;

use super::Hex;

/// Bytes of a cipher block, for all ciphers supported.
pub const CIPHER_BLOCK: usize = 16;

/// Session keys kept: one a job, so this many jobs can be read at once without unwrapping again.
const CACHED_KEYS: usize = 64;

/// Longest session data record looked at; a recipient takes about 300 bytes.
const MAX_SESSION_DATA: usize = 64 * 1024;

const SUBJECT_KEY_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
const AES_128_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.2");
const AES_192_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.22");
const AES_256_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42");
const BLOWFISH_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3029.1.2");

/// RSA keys by the key identifiers that Bacula stores.
#[derive(Default)]
pub struct KeyRing {
    private: Vec<PrivateKey>,
    public: Vec<PublicKey>,
    cache: Mutex<VecDeque<(Vec<u8>, Arc<SessionKey>)>>,
}

/// The key wipes itself when dropped.
struct PrivateKey {
    key: RsaPrivateKey,
    /// Identifier it has without a certificate: SHA-1 of the public key, as RFC 5280 proposes it.
    id: Vec<u8>,
}

struct PublicKey {
    key: RsaPublicKey,
    /// From the certificate, or as above.
    id: Vec<u8>,
}

impl KeyRing {
    /// A ring without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A ring of all keys and certificates in `files`, each in the form of the File daemon's *PKI Keypair*:
    /// PEM, any number of certificates and RSA private keys (PKCS #8 or PKCS #1).
    ///
    /// # Errors
    ///
    /// When a file cannot be read or has no key that can be used.
    pub fn from_pem_files<P: AsRef<Path>>(files: &[P]) -> Result<Self> {
        let mut ring = Self::new();
        for file in files {
            let file = file.as_ref();
            let pem = fs::read(file)
                .map(Zeroizing::new)
                .map_err(|error| Error::io(format!("cannot read key file {}", file.display()), error))?;
            ring.add_pem(&pem).map_err(|error| error.context(format_args!("key file {}", file.display())))?;
        }
        Ok(ring)
    }

    /// Add all keys and certificates of one PEM text.
    ///
    /// # Errors
    ///
    /// `Locked` when a private key is protected by a password, `Unsupported` for other keys than RSA, `Invalid`
    /// when there is no key or one cannot be read.
    pub fn add_pem(&mut self, pem: &[u8]) -> Result<()> {
        const BEGIN: &[u8] = b"-----BEGIN ";
        let starts = (0..pem.len()).filter(|&at| pem.get(at..).is_some_and(|rest| rest.starts_with(BEGIN)));
        let mut found = false;
        for section in starts.filter_map(|at| pem.get(at..)) {
            found |= self.add_section(section)?;
        }
        if found { Ok(()) } else { Err(Error::invalid("has neither a certificate nor a private key in PEM form")) }
    }

    /// Add the PEM section at the front of `text`; whether it was one for us.
    fn add_section(&mut self, text: &[u8]) -> Result<bool> {
        let title = text.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
        let title = title.strip_prefix(b"-----BEGIN ").and_then(|rest| rest.strip_suffix(b"-----"));
        let Some(title @ (b"CERTIFICATE" | b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"ENCRYPTED PRIVATE KEY")) = title
        else {
            return Ok(false);
        };
        let unreadable = |what: &dyn fmt::Display| {
            Error::invalid(format!("the section {} cannot be read: {what}", title.escape_ascii()))
        };
        let end = [b"-----END ", title, b"-----"].concat();
        let len = text.windows(end.len()).position(|window| window == end).map(|at| at.saturating_add(end.len()));
        let section = len.and_then(|len| text.get(..len)).ok_or_else(|| unreadable(&"it has no end"))?;
        let section = str::from_utf8(section).map_err(|error| unreadable(&error))?;
        if title == b"ENCRYPTED PRIVATE KEY" || section.contains("ENCRYPTED\n") || section.contains("ENCRYPTED\r") {
            let remedy = "the private key has a password; write one without by: openssl pkey -in FILE -out NEW";
            return Err(Error::new(ErrorKind::Locked, remedy));
        }
        let (_, der) = SecretDocument::from_pem(section).map_err(|error| unreadable(&error))?;
        let der = der.as_bytes();
        match title {
            b"CERTIFICATE" => self.public.push(read_certificate(der)?),
            b"PRIVATE KEY" => {
                self.add_private(RsaPrivateKey::from_pkcs8_der(der).map_err(|error| unreadable(&error))?)?;
            }
            _ => self.add_private(RsaPrivateKey::from_pkcs1_der(der).map_err(|error| unreadable(&error))?)?,
        }
        Ok(true)
    }

    fn add_private(&mut self, key: RsaPrivateKey) -> Result<()> {
        let id = key_id(key.as_public_key())?;
        self.private.push(PrivateKey { key, id });
        Ok(())
    }

    /// The session key of a record of stream 22, unwrapped by one of the ring's private keys.
    ///
    /// # Errors
    ///
    /// `Locked` when no private key fits (the message names those that would), `Unsupported` for a cipher other
    /// than AES-CBC, `Damaged` when the record makes no sense.
    pub fn session_key(&self, record: &[u8]) -> Result<Arc<SessionKey>> {
        // A panic elsewhere cannot leave the list half changed.
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = cached.iter().find(|(bytes, _)| bytes == record) {
            return Ok(key.clone());
        }
        drop(cached);
        let key = Arc::new(self.unwrap(&SessionData::parse(record)?)?);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_KEYS {
            cache.pop_front();
        }
        cache.push_back((record.to_vec(), key.clone()));
        Ok(key)
    }

    fn unwrap(&self, data: &SessionData<'_>) -> Result<SessionKey> {
        for recipient in &data.recipients {
            if let Some(private) = self.private_by_id(recipient.key_id) {
                let key = unwrap_key(private, recipient.wrapped).ok_or_else(|| {
                    Error::damaged(format!("the session key wrapped for key {} is damaged", Hex(recipient.key_id)))
                })?;
                return SessionKey::new(data, &key);
            }
        }
        // A certificate may have an identifier of its own making: a private key that came without one can
        // still be the right one, and only trying tells. The padding and the key length show a wrong one.
        let candidates = self.private.iter().filter(|private| !self.has_certificate(private));
        for private in candidates {
            for recipient in &data.recipients {
                if let Some(key) = unwrap_key(&private.key, recipient.wrapped)
                    && let Ok(key) = SessionKey::new(data, &key)
                {
                    return Ok(key);
                }
            }
        }
        let ids: Vec<_> = data.recipients.iter().map(|recipient| Hex(recipient.key_id).to_string()).collect();
        let message = format!("encrypted for the keys {}; give one of their PEM files with --key", ids.join(", "));
        Err(Error::new(ErrorKind::Locked, message))
    }

    fn private_by_id(&self, id: &[u8]) -> Option<&RsaPrivateKey> {
        let certified = self
            .public
            .iter()
            .filter(|public| public.id == id)
            .find_map(|public| self.private.iter().find(|private| *private.key.as_public_key() == public.key));
        certified.or_else(|| self.private.iter().find(|private| private.id == id)).map(|private| &private.key)
    }

    fn has_certificate(&self, private: &PrivateKey) -> bool {
        self.public.iter().any(|public| public.key == *private.key.as_public_key())
    }

    /// The public key called `id`, from a certificate or a private key.
    pub(super) fn public_key(&self, id: &[u8]) -> Option<&RsaPublicKey> {
        let certified = self.public.iter().find(|public| public.id == id).map(|public| &public.key);
        certified.or_else(|| self.private_by_id(id).map(RsaPrivateKey::as_public_key))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} private keys, {} certificates)", self.private.len(), self.public.len())
    }
}

fn read_certificate(der: &[u8]) -> Result<PublicKey> {
    let unreadable = |error: &dyn fmt::Display| Error::invalid(format!("a certificate cannot be read: {error}"));
    let certificate = CertificateInner::<Raw>::from_der(der).map_err(|error| unreadable(&error))?;
    let certificate = certificate.tbs_certificate();
    let info = certificate.subject_public_key_info();
    let key = RsaPublicKey::try_from(info.owned_to_ref()).map_err(|error| {
        Error::unsupported(format!("the certificate's key is no RSA key that can be used: {error}"))
    })?;
    let mut extensions = certificate.extensions().into_iter().flatten();
    let id = match extensions.find(|extension| extension.extn_id == SUBJECT_KEY_IDENTIFIER) {
        Some(extension) => <&OctetStringRef>::from_der(extension.extn_value.as_bytes())
            .map_err(|error| unreadable(&error))?
            .as_bytes()
            .to_vec(),
        None => key_id(&key)?,
    };
    Ok(PublicKey { key, id })
}

fn key_id(key: &RsaPublicKey) -> Result<Vec<u8>> {
    let der = key.to_pkcs1_der().map_err(|error| Error::invalid(format!("a public key cannot be used: {error}")))?;
    Ok(Sha1::digest(der.as_bytes()).to_vec())
}

/// Undo the key wrap: RSA with the padding of PKCS #1 v1.5. `None` when the padding is wrong.
///
/// The `rsa` crate's timing is open to measurement (the *Marvin* attack, RUSTSEC-2023-0071): whoever can send
/// it many chosen ciphertexts and time the answers learns plaintexts. Here the ciphertexts come from a backup
/// at rest, one a job, and nobody is answered. For the same reason a wrong padding is told right away: the
/// crate's own decryption would return made-up bytes instead, and a wrong key would go unnoticed.
fn unwrap_key(key: &RsaPrivateKey, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    type NoRandomness = dyn TryCryptoRng<Error = Infallible>;
    let ciphertext = BoxedUint::from_be_slice(wrapped, key.n_bits_precision()).ok()?;
    let message = Zeroizing::new(rsa_decrypt_and_check(key, None::<&mut NoRandomness>, &ciphertext).ok()?);
    let bytes = Zeroizing::new(message.to_be_bytes().into_vec());
    // 0, 2, at least eight bytes that are not 0, 0, key.
    let padded = bytes.get(bytes.len().checked_sub(key.size())?..)?.strip_prefix(&[0, 2])?;
    let padding = padded.iter().position(|&byte| byte == 0).filter(|&len| len >= 8)?;
    Some(Zeroizing::new(padded.get(padding.checked_add(1)?..)?.to_vec()))
}

/// Stream 22 as it is.
struct SessionData<'a> {
    cipher: CipherName,
    iv: [u8; CIPHER_BLOCK],
    recipients: Vec<Recipient<'a>>,
}

struct Recipient<'a> {
    key_id: &'a [u8],
    wrapped: &'a [u8],
}

impl<'a> SessionData<'a> {
    fn parse(record: &'a [u8]) -> Result<Self> {
        if record.len() > MAX_SESSION_DATA {
            return Err(Error::damaged(format!("encryption session data of {} bytes", record.len())));
        }
        let (cipher, iv, recipients) =
            Self::read(record).map_err(|error| Error::damaged(format!("encryption session data: {error}")))?;
        let cipher = CipherName::from_oid(cipher)?;
        let Ok(iv) = iv.try_into() else {
            return Err(Error::damaged(format!("encryption session data with an IV of {} bytes", iv.len())));
        };
        Ok(Self { cipher, iv, recipients })
    }

    fn read(record: &'a [u8]) -> der::Result<(ObjectIdentifier, &'a [u8], Vec<Recipient<'a>>)> {
        let mut record = SliceReader::new(record)?;
        let fields = record.sequence(|fields| {
            read_version(fields)?;
            let cipher = fields.decode()?;
            let iv = fields.decode::<&OctetStringRef>()?.as_bytes();
            let recipients = read_set(fields, |recipient| {
                read_version(recipient)?;
                let key_id = recipient.decode::<&OctetStringRef>()?.as_bytes();
                // The only key wrap there is.
                recipient.decode::<ObjectIdentifier>()?;
                Ok(Recipient { key_id, wrapped: recipient.decode::<&OctetStringRef>()?.as_bytes() })
            })?;
            Ok::<_, der::Error>((cipher, iv, recipients))
        })?;
        record.finish()?;
        Ok(fields)
    }
}

/// `INTEGER 0`: the only version there is of any structure.
pub(super) fn read_version<'a>(reader: &mut SliceReader<'a>) -> der::Result<()> {
    match reader.decode::<u8>()? {
        0 => Ok(()),
        _ => Err(Tag::Integer.value_error().into()),
    }
}

/// `SET OF SEQUENCE`, each element read by `element`. OpenSSL does not insist on DER's order, nor do we.
pub(super) fn read_set<'a, T>(
    reader: &mut SliceReader<'a>,
    mut element: impl FnMut(&mut SliceReader<'a>) -> der::Result<T>,
) -> der::Result<Vec<T>> {
    let set: AnyRef<'a> = reader.decode()?;
    set.tag().assert_eq(Tag::Set)?;
    let mut elements = SliceReader::new(set.value())?;
    let mut read = Vec::new();
    while !elements.is_finished() {
        read.push(elements.sequence(&mut element)?);
    }
    Ok(read)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CipherName {
    Aes128,
    Aes192,
    Aes256,
}

impl CipherName {
    fn from_oid(oid: ObjectIdentifier) -> Result<Self> {
        match oid {
            AES_128_CBC => Ok(Self::Aes128),
            AES_192_CBC => Ok(Self::Aes192),
            AES_256_CBC => Ok(Self::Aes256),
            BLOWFISH_CBC => Err(Error::unsupported("data encrypted with Blowfish; restore it with Bacula once")),
            other => Err(Error::unsupported(format!("data encrypted with an unknown cipher, {other}"))),
        }
    }
}

/// The key and initialisation vector of a job's encrypted data.
pub struct SessionKey {
    cipher: Cipher,
    iv: [u8; CIPHER_BLOCK],
}

/// Expanded keys; they wipe themselves.
enum Cipher {
    Aes128(Aes128Dec),
    Aes192(Aes192Dec),
    Aes256(Aes256Dec),
}

impl SessionKey {
    fn new(data: &SessionData<'_>, key: &[u8]) -> Result<Self> {
        let cipher = match data.cipher {
            CipherName::Aes128 => Aes128Dec::new_from_slice(key).map(Cipher::Aes128),
            CipherName::Aes192 => Aes192Dec::new_from_slice(key).map(Cipher::Aes192),
            CipherName::Aes256 => Aes256Dec::new_from_slice(key).map(Cipher::Aes256),
        };
        match cipher {
            Ok(cipher) => Ok(Self { cipher, iv: data.iv }),
            Err(_) => {
                Err(Error::damaged(format!("a session key of {} bytes does not fit {:?}", key.len(), data.cipher)))
            }
        }
    }

    /// What stands for the ciphertext block before the first one of a file.
    #[must_use]
    pub const fn iv(&self) -> &[u8; CIPHER_BLOCK] {
        &self.iv
    }

    /// Decrypt whole blocks in place, from anywhere in a file's CBC stream: `previous` is the ciphertext block
    /// in front of them, [`Self::iv`] at the start.
    ///
    /// # Errors
    ///
    /// `Damaged` when the length is no multiple of 16.
    pub fn decrypt(&self, previous: &[u8; CIPHER_BLOCK], bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len();
        let (blocks, rest) = Array::slice_as_chunks_mut(bytes);
        if !rest.is_empty() {
            return Err(Error::damaged(format!("{len} bytes of encrypted data are no multiple of {CIPHER_BLOCK}")));
        }
        match &self.cipher {
            Cipher::Aes128(cipher) => decrypt_cbc(cipher, previous, blocks),
            Cipher::Aes192(cipher) => decrypt_cbc(cipher, previous, blocks),
            Cipher::Aes256(cipher) => decrypt_cbc(cipher, previous, blocks),
        }
        Ok(())
    }
}

fn decrypt_cbc<C>(cipher: &C, previous: &[u8; CIPHER_BLOCK], blocks: &mut [aes::Block])
where
    C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
{
    cbc::Decryptor::inner_iv_init(cipher, &Array(*previous)).decrypt_blocks(blocks);
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.cipher {
            Cipher::Aes128(_) => "SessionKey(AES-128-CBC)",
            Cipher::Aes192(_) => "SessionKey(AES-192-CBC)",
            Cipher::Aes256(_) => "SessionKey(AES-256-CBC)",
        })
    }
}

/// Bytes of PKCS #7 padding, 1 to 16, at the end of a file's last decrypted block.
///
/// # Errors
///
/// `Damaged` when there is no such padding: the data is damaged, cut, or the key is wrong.
pub fn padding_len(plaintext: &[u8]) -> Result<usize> {
    let last = plaintext.last().copied().unwrap_or_default();
    let len = usize::from(last);
    let padding = plaintext.len().checked_sub(len).and_then(|start| plaintext.get(start..));
    match padding {
        Some(padding) if (1..=CIPHER_BLOCK).contains(&len) && padding.iter().all(|&byte| byte == last) => Ok(len),
        _ => Err(Error::damaged("the end of encrypted data makes no sense: damaged or cut")),
    }
}

#[cfg(test)]
#[path = "pki_tests.rs"]
mod tests;
