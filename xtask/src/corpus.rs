//! The real volumes in `tests/data/bacula`: one folder a case, volumes compressed with zstd, manifests beside them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cmd;

/// The folder of all cases.
pub fn folder() -> PathBuf {
    cmd::root().join("tests/data/bacula")
}

/// The names of all cases, sorted.
pub fn names() -> Result<Vec<String>> {
    let folder = folder();
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.path().join("case.json").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A case, by its `case.json`.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// The release that wrote it.
    pub bacula_release: String,
    /// What restoring must give, one for each job of the chain.
    pub restore_points: Vec<RestorePoint>,
    #[serde(rename = "case")]
    name: String,
}

/// A point in time and its manifest.
#[derive(Debug, Deserialize)]
pub struct RestorePoint {
    /// JobIds to apply in order, the last ends the point; none where the job was stopped half-way.
    #[serde(default)]
    pub chain: Vec<u64>,
    /// `Full`, `Differential`, `Incremental`.
    #[serde(default)]
    pub level: String,
    #[serde(default)]
    manifest: String,
}

/// One file as it must be restored.
#[derive(Debug, Deserialize)]
struct Entry {
    path: Option<String>,
    sha256: Option<String>,
}

impl Case {
    /// Reads the description of a case.
    pub fn open(name: &str) -> Result<Self> {
        let file = folder().join(name).join("case.json");
        let text = fs::read(&file).with_context(|| file.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| file.display().to_string())
    }

    /// Unpacks the volumes into `target`; the files written.
    pub fn unpack_volumes(&self, target: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(target)?;
        let mut unpacked = Vec::new();
        let folder = folder().join(&self.name).join("volumes");
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let packed = entry?.path();
            let file = target.join(packed.file_stem().unwrap_or_default());
            zstd::stream::copy_decode(File::open(&packed)?, File::create(&file)?)
                .with_context(|| packed.display().to_string())?;
            unpacked.push(file);
        }
        unpacked.sort();
        Ok(unpacked)
    }

    /// The SHA-256 of every regular file at a restore point, by absolute path; names that are not UTF-8 left out.
    pub fn digests(&self, point: &RestorePoint) -> Result<BTreeMap<String, String>> {
        let file = folder().join(&self.name).join(&point.manifest);
        let entries: Vec<Entry> = serde_json::from_reader(io::BufReader::new(File::open(&file)?))
            .with_context(|| file.display().to_string())?;
        Ok(entries.into_iter().filter_map(|entry| entry.path.zip(entry.sha256)).collect())
    }
}
