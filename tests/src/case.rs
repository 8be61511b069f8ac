//! The corpus: volumes written by stock Bacula, with what a restore of them must give.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use base64ct::{Base64, Encoding};
use serde_json::Value;

/// One case: a few jobs on a few volumes.
#[derive(Debug)]
pub struct Case {
    /// Its name, as its folder.
    pub name: String,
    /// Where it is.
    pub folder: PathBuf,
    /// `case.json`.
    pub facts: Value,
}

/// A file or folder as it was when it was backed up.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Absolute path, as in the volume, without a trailing slash.
    pub path: Vec<u8>,
    /// The manifest's line.
    pub facts: Value,
}

impl Entry {
    /// A text of the manifest's line; empty where there is none.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.facts[key].as_str().unwrap_or_default()
    }

    fn of(facts: Value) -> Self {
        Self { path: bytes(&facts, "path").expect("a manifest's line has a path"), facts }
    }

    /// The target of a symbolic link.
    #[must_use]
    pub fn target(&self) -> Option<Vec<u8>> {
        bytes(&self.facts, "target")
    }
}

/// Text that need not be UTF-8: under `key`, or under `key_b64`.
fn bytes(facts: &Value, key: &str) -> Option<Vec<u8>> {
    let coded = facts[format!("{key}_b64")].as_str().map(|c| Base64::decode_vec(c).expect("base64 in a manifest"));
    coded.or_else(|| facts[key].as_str().map(|t| t.as_bytes().to_vec()))
}

fn folders() -> Vec<PathBuf> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/bacula");
    let shared = std::env::var_os("REVENANT_TESTDATA").map(|root| Path::new(&root).join("bacula"));
    [Some(shipped), shared].into_iter().flatten().collect()
}

/// All cases there are, by name.
///
/// # Panics
///
/// When a corpus cannot be read, or there is none.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut found = BTreeMap::new();
    for root in folders() {
        for entry in fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display())) {
            let folder = entry.expect("a folder's entry").path();
            if folder.join("case.json").exists() {
                let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
                found.entry(name).or_insert(folder);
            }
        }
    }
    assert!(!found.is_empty(), "no corpus in {:?}", folders());
    found.into_iter().map(|(name, folder)| Case::open(name, folder)).collect()
}

/// The case `name`, of those shipped with the tests.
///
/// # Panics
///
/// When it is not there.
#[must_use]
pub fn shipped(name: &str) -> Case {
    let folder = folders().remove(0).join(name);
    assert!(folder.join("case.json").exists(), "no case {name} in {}", folder.display());
    Case::open(name.to_owned(), folder)
}

/// The case `name`, if it is there; says that something is skipped otherwise.
#[must_use]
pub fn optional(name: &str) -> Option<Case> {
    let found = folders().into_iter().map(|f| f.join(name)).find(|f| f.join("case.json").exists());
    if found.is_none() {
        eprintln!("skipped: case {name} is not here; REVENANT_TESTDATA can say where it is");
    }
    found.map(|folder| Case::open(name.to_owned(), folder))
}

/// A file beside the machine's volume.
#[must_use]
pub fn machine_data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/machines").join(name)
}

/// The volume with a machine of two disks (`tests/lab/machine-volume.sh`), in a new temporary folder.
///
/// # Panics
///
/// When it cannot be written.
#[must_use]
pub fn machine_volume() -> tempfile::TempDir {
    let folder = crate::temp();
    let packed = fs::File::open(machine_data("web01-0001.zst")).expect("the volume");
    let mut plain = fs::File::create(folder.path().join("web01-0001")).expect("a file");
    zstd::stream::copy_decode(packed, &mut plain).expect("unpacking");
    folder
}

/// A disk in the tree, and what it is.
#[derive(Debug)]
pub struct TreeDisk {
    /// Its path.
    pub path: String,
    /// The digest of all of its bytes.
    pub sha256: String,
}

/// The first disk of [`machine_volume`] at its last point.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn last_disk(revenant: &crate::program::Revenant) -> TreeDisk {
    let points = revenant.run(["points", "--json"]).json();
    let point = points.as_array().and_then(|p| p.last()).expect("a point");
    let path = format!("{}/disks/disk0.raw", point["tree_path"].as_str().expect("a path"));
    let [sha256, _] = last_digests();
    TreeDisk { path, sha256 }
}

/// The digests of both disks of [`machine_volume`] at its last point, as qemu-img read them.
///
/// # Panics
///
/// When they cannot be read.
#[must_use]
pub fn last_digests() -> [String; 2] {
    let lines = fs::read_to_string(machine_data("points.tsv")).expect("points.tsv");
    ["disk0", "disk1"].map(|disk| {
        let last = lines.lines().rfind(|line| line.split_whitespace().nth(1) == Some(disk)).expect("a disk");
        last.split_whitespace().nth(3).expect("a digest").to_owned()
    })
}

/// The shipped folder's file `path`, read as JSON.
fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Case {
    fn open(name: String, folder: PathBuf) -> Self {
        let facts = json(&folder.join("case.json"));
        Self { name, folder, facts }
    }

    /// A list of `case.json`.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn list(&self, key: &str) -> &[Value] {
        self.facts[key].as_array().unwrap_or_else(|| panic!("{}: no list {key}", self.name))
    }

    /// Writes the volumes into a new temporary folder.
    ///
    /// # Panics
    ///
    /// When that fails.
    #[must_use]
    pub fn unpack(&self) -> tempfile::TempDir {
        let folder = crate::temp();
        for volume in self.list("volumes") {
            let name = volume["name"].as_str().expect("a volume has a name");
            let packed = fs::File::open(self.folder.join(format!("volumes/{name}.zst"))).expect("a packed volume");
            let mut plain = fs::File::create(folder.path().join(name)).expect("a volume");
            zstd::stream::copy_decode(packed, &mut plain).expect("unpacking");
        }
        folder
    }

    /// The bytes of the first volume.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn first_volume(&self) -> Vec<u8> {
        let name = self.list("volumes")[0]["name"].as_str().expect("a volume has a name");
        zstd::decode_all(fs::File::open(self.folder.join(format!("volumes/{name}.zst"))).expect("a packed volume"))
            .expect("unpacking")
    }

    /// What is in manifest `name`.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn manifest(&self, name: &str) -> Vec<Entry> {
        let Value::Array(lines) = json(&self.folder.join(name)) else { panic!("{name} is no list") };
        lines.into_iter().map(Entry::of).collect()
    }

    /// The first restore point's manifest with what else is in the volume.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn first_manifest(&self) -> Vec<Entry> {
        self.wanted(&self.list("restore_points")[0])
    }

    /// What restore point `point` must give.
    ///
    /// # Panics
    ///
    /// When its manifest cannot be read.
    #[must_use]
    pub fn wanted(&self, point: &Value) -> Vec<Entry> {
        let mut entries = self.manifest(point["manifest"].as_str().expect("a point has a manifest"));
        entries.extend(point["extra"].as_array().into_iter().flatten().cloned().map(Entry::of));
        entries
    }

    /// The PEM files of the case, by name: either of them decrypts.
    ///
    /// # Panics
    ///
    /// When the folder cannot be read.
    #[must_use]
    pub fn keys(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.folder.join("keys")) else { return Vec::new() };
        let paths = entries.map(|e| e.expect("a folder's entry").path());
        let mut keys: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "pem")).collect();
        keys.sort();
        keys
    }

    /// The folder with the keys of encrypted volumes.
    #[must_use]
    pub fn volume_keys(&self) -> Option<PathBuf> {
        Some(self.folder.join("keys/volumes")).filter(|f| f.is_dir())
    }
}
