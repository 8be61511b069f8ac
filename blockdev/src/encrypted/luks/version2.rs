//! The header of LUKS2: 4096 bytes and a text in JSON, twice, each copy with a checksum (specification, sections 2 and 3).

use std::str::FromStr;

use argon2::Algorithm;
use base64ct::{Base64, Encoding};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    super::kdf::{Hash, Kdf},
    Header, KeyDigest,
    slot::Slot,
};
use crate::{
    BlockDevice, Error, Result,
    fields::{self, be64, slice},
};

/// Bytes of the binary header, and of its checksum.
const BINARY: usize = 4096;
const CHECKSUM: usize = 448;
const CHECKSUM_LEN: usize = 64;
/// Bytes of a copy, with its text; the first begins at byte 0, and the second where the first ends.
const COPIES: std::ops::RangeInclusive<u64> = 0x4000..=0x40_0000;

/// The header of the volume on `device`: of its two copies the newer one that is whole.
///
/// # Errors
///
/// When none is whole, or it uses what is not supported.
pub fn read(device: &dyn BlockDevice) -> Result<Header> {
    let first = copy(device, 0, b"LUKS\xba\xbe");
    // Where the second begins is known from the first; when that cannot be, it is looked for at all places it may have.
    let size = be64(&fields::read(device, 0, 16)?, 8);
    let known = [size].into_iter().filter(|size| COPIES.contains(size));
    let places = (14..=22).map(|power| 1_u64 << power).filter(|place| *place != size);
    let second = known.chain(places).find_map(|place| copy(device, place, b"SKUL\xba\xbe").ok());
    let newest = first.as_ref().ok().into_iter().chain(&second).max_by_key(|copy| copy.sequence);
    match newest {
        Some(copy) => parse(copy),
        None => Err(first.err().unwrap_or_else(|| Error::damaged("it has no LUKS2 header"))),
    }
}

/// A copy that is whole.
struct Copy {
    sequence: u64,
    text: Vec<u8>,
    id: [u8; 32],
}

fn copy(device: &dyn BlockDevice, at: u64, magic: &[u8]) -> Result<Copy> {
    let damaged = |what: &str| Error::damaged(format!("the LUKS2 header at byte {at} {what}"));
    let binary = fields::read(device, at, BINARY)?;
    let size = be64(&binary, 8);
    if slice(&binary, 0, 6) != magic || fields::be16(&binary, 6) != 2 {
        return Err(damaged("is not one"));
    }
    if !COPIES.contains(&size) || be64(&binary, 256) != at {
        return Err(damaged("contradicts its own place or size"));
    }
    let hash = Hash::named(&fields::text(slice(&binary, 72, 32)).unwrap_or_default())?;
    let all = fields::read(device, at, usize::try_from(size).unwrap_or(usize::MAX))?;
    let (head, text) = all.split_at_checked(BINARY).unwrap_or_default();
    let (before, rest) = head.split_at_checked(CHECKSUM).unwrap_or_default();
    let (stored, after) = rest.split_at_checked(CHECKSUM_LEN).unwrap_or_default();
    let sum = hash.digest(&[before, &[0; CHECKSUM_LEN], after, text]);
    if !stored.starts_with(&sum) {
        return Err(damaged("does not match its checksum"));
    }
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let text = text.get(..end).unwrap_or_default().to_vec();
    Ok(Copy { sequence: be64(&binary, 16), id: Sha256::digest(&text).into(), text })
}

fn parse(copy: &Copy) -> Result<Header> {
    let json: Value = serde_json::from_slice(&copy.text)
        .map_err(|e| Error::damaged(format!("the LUKS2 header's text is no JSON: {e}")))?;
    let root = Object { what: "the header", map: json.as_object() };
    let requirements = root.object("config").list("requirements", "mandatory");
    if !requirements.is_empty() {
        let all = requirements.join(", ");
        return Err(Error::unsupported(format!(
            "it requires {all}, which is not supported: where it is being encrypted anew, finish that with cryptsetup \
             reencrypt"
        )));
    }
    let segments: Vec<_> = root.object("segments").entries().collect();
    let [(segment_id, segment)] = segments.as_slice() else {
        return Err(Error::unsupported(format!("it has {} segments, where one is supported", segments.len())));
    };
    if segment.text("type")? != "crypt" || segment.has("integrity") {
        return Err(Error::unsupported("its data has integrity tags or is not encrypted, which is not supported"));
    }
    let (digest, digest_of) = digest(&root, segment_id)?;
    let mut slots = Vec::new();
    let mut passed_over = Vec::new();
    for (id, described) in root.object("keyslots").entries() {
        if !digest_of.iter().any(|slot| *slot == id) {
            continue;
        }
        match slot(&described) {
            // Of a higher priority first; 0 is only used when it is named.
            Ok(slot) => slots.push((described.number("priority").unwrap_or(1), slot)),
            Err(e) => passed_over.push(e.context(format_args!("key slot {id}"))),
        }
    }
    slots.sort_by_key(|(priority, _): &(u64, Slot)| std::cmp::Reverse(*priority));
    let sector = usize::try_from(segment.number("sector_size")?).unwrap_or(usize::MAX);
    Ok(Header {
        id: copy.id,
        slots: slots.into_iter().map(|(_, slot)| slot).collect(),
        passed_over,
        digest,
        cipher: segment.text("encryption")?.to_owned(),
        start: segment.number("offset")?,
        len: match segment.text("size") {
            Ok("dynamic") => None,
            _ => Some(segment.number("size")?),
        },
        sector,
        first: segment.number("iv_tweak")?,
    })
}

/// The digest of the key of the segment `id`, and the slots that it is for.
fn digest(root: &Object<'_>, id: &str) -> Result<(KeyDigest, Vec<String>)> {
    let of_segment = |d: &Object<'_>| d.strings("segments").iter().any(|segment| segment == id);
    let found = root.object("digests").entries().map(|(_, digest)| digest).find(of_segment);
    let digest = found.ok_or_else(|| Error::damaged("its key has no digest"))?;
    if digest.text("type")? != "pbkdf2" {
        return Err(Error::unsupported(format!("the digest of its key is of the kind {:?}", digest.text("type")?)));
    }
    let expected = digest.bytes("digest")?;
    Ok((KeyDigest { kdf: kdf(&digest)?, expected }, digest.strings("keyslots")))
}

fn slot(described: &Object<'_>) -> Result<Slot> {
    if described.text("type")? != "luks2" {
        return Err(Error::unsupported(format!("is of the kind {:?}", described.text("type")?)));
    }
    let (area, split) = (described.object("area"), described.object("af"));
    if area.text("type")? != "raw" || split.text("type")? != "luks1" {
        return Err(Error::unsupported("is kept in a way that is not known"));
    }
    Slot {
        kdf: kdf(&described.object("kdf"))?,
        cipher: area.text("encryption")?.to_owned(),
        cipher_key_len: area.small("key_size")?,
        offset: area.number("offset")?,
        key_len: described.small("key_size")?,
        stripes: split.small("stripes")?,
        hash: Hash::named(split.text("hash")?)?,
    }
    .checked()
}

fn kdf(described: &Object<'_>) -> Result<Kdf> {
    let salt = described.bytes("salt")?;
    let kind = match described.text("type")? {
        "pbkdf2" => {
            let (hash, iterations) = (Hash::named(described.text("hash")?)?, described.small("iterations")?);
            return Ok(Kdf::Pbkdf2 { hash, iterations, salt });
        }
        "argon2i" => Algorithm::Argon2i,
        "argon2id" => Algorithm::Argon2id,
        other => return Err(Error::unsupported(format!("its key is derived by {other:?}, which is not known"))),
    };
    let (time, memory, lanes) = (described.small("time")?, described.small("memory")?, described.small("cpus")?);
    Ok(Kdf::Argon2 { kind, time, memory, lanes, salt })
}

/// An object of the text. One that is not there has no members, and looking for one says so.
#[derive(Clone, Copy)]
struct Object<'a> {
    what: &'a str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Object<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map?.get(name)
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn object(&self, name: &'a str) -> Self {
        Self { what: name, map: self.get(name).and_then(Value::as_object) }
    }

    /// The objects in it, with their names.
    fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> {
        let entries = self.map.into_iter().flatten();
        entries.map(|(name, value)| (name.as_str(), Self { what: name, map: value.as_object() }))
    }

    fn missing(&self, name: &str) -> Error {
        Error::damaged(format!("in the LUKS2 header's text {:?} has no {name:?} that makes sense", self.what))
    }

    fn text(&self, name: &str) -> Result<&'a str> {
        self.get(name).and_then(Value::as_str).ok_or_else(|| self.missing(name))
    }

    /// A number; those of 64 bits are written as text, because JSON has none.
    fn number(&self, name: &str) -> Result<u64> {
        let value = self.get(name);
        let number = value.and_then(|v| v.as_u64().or_else(|| u64::from_str(v.as_str()?).ok()));
        number.ok_or_else(|| self.missing(name))
    }

    fn small(&self, name: &str) -> Result<u32> {
        self.number(name).and_then(|n| u32::try_from(n).map_err(|_| self.missing(name)))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        Base64::decode_vec(self.text(name)?).map_err(|_| self.missing(name))
    }

    fn strings(&self, name: &str) -> Vec<String> {
        let all = self.get(name).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(|value| Some(value.as_str()?.to_owned())).collect()
    }

    /// The strings of `list` in the object `name`.
    fn list(&self, name: &'a str, list: &str) -> Vec<String> {
        self.object(name).strings(list)
    }
}
