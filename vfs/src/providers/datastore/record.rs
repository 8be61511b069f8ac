//! `datastore.json`: what a datastore's folder was made for, so that it is never taken for another's.

use std::{
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    path::Path,
};

use blockdev::{Error, Result, containers::Kind};
use serde_json::{Value, json};

const FILE: &str = "datastore.json";
const VERSION: u64 = 1;
/// Longer ones were not written here.
const LEN_MAX: u64 = 1 << 20;

/// A disk of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedDisk {
    /// What the disk is called.
    pub name: String,
    /// Bytes that its file may have.
    pub limit: u64,
}

/// What a folder was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Stands for this datastore; nobody can guess it.
    pub id: String,
    /// What the disks look like.
    pub kind: Kind,
    /// Everything was made; before, nobody was served.
    pub complete: bool,
    /// The disks.
    pub disks: Vec<RecordedDisk>,
}

impl Record {
    /// For a new datastore.
    pub fn new(kind: Kind) -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self { id: format!("{:016x}{:016x}", random(), random()), kind, complete: false, disks: Vec::new() }
    }

    /// That of `folder`, if there is one.
    ///
    /// # Errors
    ///
    /// When it cannot be read or understood.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let failed = |e| Error::io(format!("cannot read {}", path.display()), e);
        let len = match path.metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?.len(),
        };
        let bytes = if len > LEN_MAX { Vec::new() } else { fs::read(&path).map_err(failed)? };
        let record = serde_json::from_slice(&bytes).ok().and_then(|value| Self::parse(&value));
        record.map(Some).ok_or_else(|| {
            Error::damaged(format!(
                "{} was not written by this version, or was changed: name another folder",
                path.display()
            ))
        })
    }

    fn parse(value: &Value) -> Option<Self> {
        let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
        if value.get("version")?.as_u64()? != VERSION {
            return None;
        }
        let disk =
            |value: &Value| Some(RecordedDisk { name: text(value, "name")?, limit: value.get("limit")?.as_u64()? });
        Some(Self {
            id: text(value, "id")?,
            kind: text(value, "kind")?.parse().ok()?,
            complete: value.get("complete")?.as_bool()?,
            disks: value.get("disks")?.as_array()?.iter().map(disk).collect::<Option<_>>()?,
        })
    }

    /// Write it, in one piece and durably.
    ///
    /// # Errors
    ///
    /// When the host refuses.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let disks: Vec<_> = self.disks.iter().map(|d| json!({ "name": d.name, "limit": d.limit })).collect();
        let (kind, complete) = (self.kind.name(), self.complete);
        let value = json!({ "version": VERSION, "id": self.id, "kind": kind, "complete": complete, "disks": disks });
        let (path, new) = (folder.join(FILE), folder.join(".datastore.json.new"));
        let written = || {
            let mut file = File::create(&new)?;
            file.write_all(format!("{value:#}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(folder)?.sync_all()
        };
        written().map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
        let mut record = Record::new(Kind::VmdkVmfs);
        record.disks.push(RecordedDisk { name: "disk0".into(), limit: 1 << 40 });
        record.write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Some(record.clone()));
        assert_ne!(Record::new(Kind::VmdkVmfs).id, record.id);
        for bad in ["", "{}", "[1", r#"{"version":2}"#] {
            fs::write(folder.path().join(FILE), bad).unwrap();
            assert!(Record::read(folder.path()).is_err(), "{bad}");
        }
    }
}
