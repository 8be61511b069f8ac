//! `machine.json`: a machine's portable description, as stored beside its disks and as shown in the tree.
//!
//! Reading is lenient: `name`, and `disks` as file names or objects with `file` (or `path`) and `name` (or `id`).
//! Everything else in it is for those who restore the machine and is kept as it is.

use std::sync::Arc;

use blockdev::{Error, ReadAt, Result};
use serde_json::{Value, json};

use super::MachinePoint;
use crate::{
    node::{Attributes, File, Inode, Kind, Node, StoredDigest, Time, Xattr},
    providers::folder::Child,
};

/// Its name beside the disks.
pub const FILE_NAME: &[u8] = b"machine.json";

/// The longest one that is read, in bytes.
const LEN_MAX: u64 = 1 << 20;

/// What is taken from a description.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Description {
    pub name: Option<String>,
    pub disks: Vec<DescribedDisk>,
}

/// A disk in a description.
#[derive(Debug, PartialEq, Eq)]
pub struct DescribedDisk {
    pub name: Option<String>,
    pub file: String,
}

/// Read a stored description; also its text.
///
/// # Errors
///
/// When it cannot be read, is too long, or is no JSON object.
pub fn read(file: &dyn File) -> Result<(Description, Vec<u8>)> {
    let content = file.open()?;
    if content.size() > LEN_MAX {
        return Err(no_description("it is longer than a description can be"));
    }
    let mut bytes = vec![0; usize::try_from(content.size()).unwrap_or(0)];
    let n = content.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| no_description(&e.to_string()))?;
    Ok((parse(&value)?, bytes))
}

fn parse(value: &Value) -> Result<Description> {
    let object = value.as_object().ok_or_else(|| no_description("it is no object"))?;
    let text = |value: &Value, keys: &[&str]| {
        keys.iter().find_map(|k| value.get(k)?.as_str()).filter(|s| !s.is_empty()).map(str::to_owned)
    };
    let disks = object.get("disks").and_then(Value::as_array).into_iter().flatten();
    let disks = disks.filter_map(|disk| match disk {
        Value::String(file) => Some(DescribedDisk { name: None, file: file.clone() }),
        disk => {
            let name = text(disk, &["name", "id"]).map(|n| volreader::archive::job::component(&n));
            Some(DescribedDisk { name, file: text(disk, &["file", "path", "image"])? })
        }
    });
    let name = text(value, &["name", "machine"]).map(|n| volreader::archive::job::component(&n));
    Ok(Description { name, disks: disks.collect() })
}

/// The description as it is shown: the stored one, or what is known.
pub fn file(point: &MachinePoint, machine: &str, ino: u64, time: Time) -> Child {
    let bytes = point.description.clone().unwrap_or_else(|| {
        let disks: Vec<_> = point.disks.iter().map(|d| json!({ "name": d.name, "file": d.file })).collect();
        let known = json!({ "name": machine, "client": point.client, "disks": disks });
        format!("{known:#}\n").into_bytes()
    });
    Child::new(FILE_NAME, Kind::File, ino, Node::File(Arc::new(Text { bytes, ino, time })))
}

/// A file of ours that is in memory.
struct Text {
    bytes: Vec<u8>,
    ino: u64,
    time: Time,
}

impl Inode for Text {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::of_file(self.ino, 0o444, self.bytes.len() as u64, self.time))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl File for Text {
    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(self.bytes.clone()))
    }

    fn digest(&self) -> Result<Option<StoredDigest>> {
        Ok(None)
    }
}

/// A description is no disk and may be anything: what is wrong with it.
fn no_description(why: &str) -> Error {
    Error::damaged(format!("machine.json: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lenient_and_never_surprised() {
        let disk =
            |name: Option<&str>, file: &str| DescribedDisk { name: name.map(str::to_owned), file: file.to_owned() };
        let parsed = parse(&json!({ "name": "web/01", "disks": ["a.raw", { "id": "b", "path": "b.qcow2" }, 7, {}] }));
        let parsed = parsed.expect("an object");
        assert_eq!(parsed.name.as_deref(), Some("web%2F01"));
        assert_eq!(parsed.disks, [disk(None, "a.raw"), disk(Some("b"), "b.qcow2")]);
        assert!(parse(&json!([])).is_err());
        assert_eq!(parse(&json!({ "disks": 3 })).expect("an object"), Description::default());
    }
}
