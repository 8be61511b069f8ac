//! What encrypted volumes are opened with, and the keys that were found by it.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::Read,
    path::Path,
    sync::{Mutex, PoisonError},
};

use zeroize::Zeroizing;

use crate::{Error, Result};

/// A secret that is longer is none: cryptsetup's own bound for key files.
const SECRET_MAX: u64 = 8 << 20;
/// Volumes whose keys are kept.
const KNOWN_MAX: usize = 256;

/// A key, wiped when it is dropped.
pub type Key = Zeroizing<Vec<u8>>;

/// Stands for the header of a volume, and for no other.
pub type HeaderId = [u8; 32];

/// Passphrases, key files, recovery passwords and startup keys: files with one each.
///
/// Deriving a key from a passphrase takes seconds by design, and the same volume is met in each restore point of its
/// machine: the keys that were found are remembered.
#[derive(Default)]
pub struct Secrets {
    all: Vec<Key>,
    /// By header; `None` where no secret opens it.
    known: Mutex<HashMap<HeaderId, Option<Key>>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.all.len())
    }
}

impl Secrets {
    /// `secrets`, each as the content of its file.
    #[must_use]
    pub fn new(secrets: Vec<Vec<u8>>) -> Self {
        Self { all: secrets.into_iter().map(Zeroizing::new).collect(), known: Mutex::default() }
    }

    /// The content of each of `files`.
    ///
    /// # Errors
    ///
    /// When one cannot be read, is empty, or is too large to be a secret.
    pub fn from_files(files: &[impl AsRef<Path>]) -> Result<Self> {
        let all = files.iter().map(|f| read(f.as_ref())).collect::<Result<_>>()?;
        Ok(Self { all, known: Mutex::default() })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// What may open a volume: of each file its text without the end of its last line, as a passphrase is typed, and then
    /// all of it, as a key file is used.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &[u8]> {
        self.all.iter().flat_map(|secret| {
            let line = secret.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            line.into_iter().chain([&secret[..]]).filter(|candidate| !candidate.is_empty())
        })
    }

    /// The key of the volume with the header `id`, which `find` looks for when that was not done before. `None`: no
    /// secret opens it.
    ///
    /// # Errors
    ///
    /// Those of `find`; they are not remembered.
    pub(super) fn key_of(&self, id: HeaderId, find: impl FnOnce() -> Result<Option<Key>>) -> Result<Option<Key>> {
        // Whoever comes first looks; the others wait rather than do the same at the cost of a gigabyte each.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = known.get(&id) {
            return Ok(key.clone());
        }
        let key = find()?;
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(id, key.clone());
        Ok(key)
    }
}

fn read(path: &Path) -> Result<Key> {
    let name = path.display();
    let failed = |e| Error::io(format!("cannot read the secret {name}"), e);
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SECRET_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 {
        0 => Err(Error::invalid(format!("the secret {name} is empty"))),
        1..=SECRET_MAX => Ok(bytes),
        _ => Err(Error::invalid(format!("{name} is too large for a secret: 8 MiB are the most"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_a_line_and_a_key_file_all_its_bytes() {
        let secrets = Secrets::new(vec![b"pass\n".to_vec(), b"dos\r\n".to_vec(), b"key".to_vec(), b"\n".to_vec()]);
        let found: Vec<_> = secrets.candidates().collect();
        assert_eq!(found, [&b"pass"[..], b"pass\n", b"dos", b"dos\r\n", b"key", b"\n"]);
        assert_eq!(format!("{secrets:?}"), "4 secrets");
    }

    #[test]
    fn a_key_is_looked_for_once() {
        let secrets = Secrets::default();
        let key = || Ok(Some(Zeroizing::new(vec![1])));
        assert!(secrets.key_of([0; 32], || Err(Error::damaged("broken"))).is_err());
        assert_eq!(secrets.key_of([0; 32], key).expect("found").as_deref(), Some(&vec![1]));
        let again = secrets.key_of([0; 32], || panic!("looked for again"));
        assert_eq!(again.expect("known").as_deref(), Some(&vec![1]));
    }
}
