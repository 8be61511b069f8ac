//! From a secret to the key of the sectors: protectors hide the master key, which hides that key.
//!
//! A passphrase or recovery password is hashed a million times with a salt; the result, a startup key, or a key in the
//! clear is what the master key is encrypted by, in AES-CCM, so that a wrong one is told.

use aes::Aes256;
use ccm::{
    Ccm, KeyInit,
    aead::{AeadInOut, inout::InOutBuf},
    consts::{U12, U16},
};
use sha2::{Digest, Sha256, block_api::compress256};
use zeroize::Zeroizing;

use super::{
    super::{Budget, Secrets, secrets::Key},
    metadata::{Item, Metadata, items, kind, list, role},
};
use crate::{
    Error, Result,
    fields::{le16, slice},
};

/// How often a passphrase is hashed.
const ROUNDS: u64 = 1 << 20;
/// The milliseconds that this takes on a slow processor.
const ROUNDS_TAKE: u64 = 2_000;
/// The head of an item that was encrypted; behind it are the purpose of the key, its flags, and the key.
const ITEM_HEAD: usize = 8;
const PURPOSE: usize = 4;

/// A key of 256 bits.
type Key256 = Zeroizing<[u8; 32]>;

/// What opens a protector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// The key is in the protector.
    Clear,
    /// The key is in the file of a startup key.
    StartupKey,
    RecoveryPassword,
    Passphrase,
    /// It takes the machine, or a card.
    Other(u16),
}

/// A protector: the master key behind one means.
#[derive(Debug, Clone, Copy)]
pub struct Protector<'a> {
    id: &'a [u8],
    means: Means,
    items: &'a [u8],
}

impl<'a> Protector<'a> {
    /// The protector that `item` is.
    pub fn of(item: Item<'a>) -> Option<Self> {
        if item.role != role::MASTER_KEY || item.kind != kind::MASTER_KEY {
            return None;
        }
        let means = match le16(item.data, 26) {
            0 => Means::Clear,
            0x0200 => Means::StartupKey,
            0x0800 => Means::RecoveryPassword,
            0x2000 => Means::Passphrase,
            other => Means::Other(other),
        };
        Some(Self { id: slice(item.data, 0, 16), means, items: item.data.get(28..)? })
    }

    /// What opens it, for people.
    pub const fn name(&self) -> &'static str {
        match self.means {
            Means::Clear => "nothing",
            Means::StartupKey => "a startup key (.BEK)",
            Means::RecoveryPassword => "the recovery password of 48 digits",
            Means::Passphrase => "a passphrase",
            Means::Other(means) if means & 0x0100 != 0 => "the machine's TPM",
            Means::Other(_) => "a smart card",
        }
    }

    fn item(&self, kind: u16) -> Option<&'a [u8]> {
        items(self.items).find(|item| item.kind == kind).map(|item| item.data)
    }

    /// The master key, when `secret` opens the protector.
    fn master_key(&self, secret: &Secret<'_>, budget: &mut Budget) -> Result<Option<Key256>> {
        let key = match (self.means, secret) {
            (Means::Clear, Secret::None) => self.item(kind::KEY).and_then(|data| key256(data.get(PURPOSE..)?)),
            (Means::StartupKey, Secret::StartupKey { id, key }) if *id == self.id => Some(key.clone()),
            (Means::RecoveryPassword, Secret::RecoveryPassword(hash))
            | (Means::Passphrase, Secret::Passphrase(hash)) => {
                budget.take(ROUNDS_TAKE)?;
                let salt = self.item(kind::STRETCH).and_then(|data| data.get(PURPOSE..)?.first_chunk());
                salt.map(|salt| stretched(hash, salt))
            }
            _ => None,
        };
        let item = key.zip(self.item(kind::CCM)).and_then(|(key, data)| decrypted(&key, data));
        Ok(item.and_then(|item| key256(item.get(ITEM_HEAD + PURPOSE..)?)))
    }
}

fn key256(bytes: &[u8]) -> Option<Key256> {
    bytes.try_into().ok().map(Zeroizing::new)
}

/// What may open protectors.
enum Secret<'a> {
    None,
    StartupKey { id: &'a [u8], key: Key256 },
    RecoveryPassword(Key256),
    Passphrase(Key256),
}

impl<'a> Secret<'a> {
    /// The content of a secret's file, as what it can be.
    fn of(secret: &'a [u8]) -> Option<Self> {
        if let Some(items_of_file) = list(secret) {
            let file = items(items_of_file).find(|i| i.role == role::STARTUP_KEY && i.kind == kind::EXTERNAL_KEY)?;
            let key = items(file.data.get(24..)?).find(|item| item.kind == kind::KEY)?;
            return Some(Self::StartupKey { id: slice(file.data, 0, 16), key: key256(key.data.get(PURPOSE..)?)? });
        }
        let text = std::str::from_utf8(secret).ok()?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if let Some(password) = recovery_password(text) {
            return Some(Self::RecoveryPassword(Zeroizing::new(Sha256::digest(*password).into())));
        }
        let units: Zeroizing<Vec<u8>> = Zeroizing::new(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
        Some(Self::Passphrase(Zeroizing::new(Sha256::digest(Sha256::digest(&*units)).into())))
    }
}

/// The number in eight groups of six digits, each of which is eleven times its value.
fn recovery_password(text: &str) -> Option<Zeroizing<[u8; 16]>> {
    let mut password = Zeroizing::new([0; 16]);
    let mut groups = text.trim().split('-');
    for value in password.as_chunks_mut::<2>().0 {
        let group = groups.next()?.trim();
        let number: u32 =
            group.parse().ok().filter(|_| group.len() == 6 && group.bytes().all(|b| b.is_ascii_digit()))?;
        *value = u16::try_from(number / 11).ok().filter(|_| number.is_multiple_of(11))?.to_le_bytes();
    }
    groups.next().is_none().then_some(password)
}

/// The key that `hash` becomes after a million rounds: each is the SHA-256 of the last one's result, `hash`, `salt` and
/// the round's number, 88 bytes that fill two blocks with the standard's padding.
fn stretched(hash: &Key256, salt: &[u8; 16]) -> Key256 {
    /// FIPS 180-4, 5.3.3.
    const FIRST: [u32; 8] =
        [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
    let mut message = Zeroizing::new([[0_u8; 64]; 2]);
    let [first, second] = &mut *message;
    first[32..].copy_from_slice(&**hash);
    second[..16].copy_from_slice(salt);
    second[24] = 0x80;
    second[62..].copy_from_slice(&(88_u16 * 8).to_be_bytes());
    for round in 0..ROUNDS {
        message[1][16..24].copy_from_slice(&round.to_le_bytes());
        let mut state = FIRST;
        compress256(&mut state, &message[..]);
        for (bytes, word) in message[0].as_chunks_mut::<4>().0.iter_mut().zip(state) {
            *bytes = word.to_be_bytes();
        }
    }
    let mut key = Key256::default();
    key.copy_from_slice(&message[0][..32]);
    key
}

/// The item that is encrypted in `data` (a nonce, a tag, and the rest) by `key`; `None` when that is not the key.
fn decrypted(key: &Key256, data: &[u8]) -> Option<Key> {
    let (nonce, rest) = data.split_first_chunk::<12>()?;
    let (tag, rest) = rest.split_first_chunk::<16>()?;
    let mut item = Key::new(rest.to_vec());
    let cipher = Ccm::<Aes256, U16, U12>::new(&(**key).into());
    let opened = cipher.decrypt_inout_detached(nonce.into(), b"", InOutBuf::from(&mut item[..]), tag.into());
    opened.ok().map(|()| item)
}

/// The key of the sectors with what it is for, when one of `secrets` opens a protector, or one is open.
///
/// # Errors
///
/// When trying takes more than `budget` has, and when the master key does not open the key of the sectors.
pub fn sector_key(metadata: &Metadata, secrets: &Secrets, budget: &mut Budget) -> Result<Option<Key>> {
    let protectors: Vec<_> = metadata.items().filter_map(Protector::of).collect();
    for secret in std::iter::once(Secret::None).chain(secrets.candidates().filter_map(Secret::of)) {
        for protector in &protectors {
            let Some(master) = protector.master_key(&secret, budget)? else { continue };
            let key = metadata.items().find(|item| item.role == role::SECTOR_KEY && item.kind == kind::CCM);
            let key = key.and_then(|item| decrypted(&master, item.data));
            let key = key.and_then(|item| Some(Key::new(item.get(ITEM_HEAD..)?.to_vec())));
            return match key {
                Some(key) => Ok(Some(key)),
                None => Err(Error::damaged("BitLocker's master key does not open the key of its sectors")),
            };
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_passwords_are_told_from_passphrases() {
        let password = recovery_password(" 042647-302313-590458-071500-554323-116567-412181-516978\n").expect("is one");
        assert_eq!(password[..2], 3877_u16.to_le_bytes());
        for other in ["", "042647", "042647-302313-590458-071500-554323-116567-412181-516979", "anaconda", "-------"] {
            assert!(recovery_password(other).is_none(), "{other}");
        }
    }
}
