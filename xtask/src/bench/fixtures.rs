//! The benchmark volumes: made once under a cache folder and described by a small file beside them.
//!
//! ```text
//! <dir>/data/big/{disk.img,small/}   what stock Bacula backed up, for comparison with plain reads
//! <dir>/data/text/{big.log,logs/}
//! <dir>/lab/                         the stock Bacula, its daemons stopped, and its volumes
//! <dir>/<fixture>.json               written last: the fixture is complete
//! <dir>/<fixture>.sqlite             its catalog
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::lab::Lab;
use super::{data, guests, recover, synthetic};

/// A volume to measure and all that belongs to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fixture {
    /// The name: also that of the job.
    pub name: String,
    /// The volume file.
    pub volume: PathBuf,
    /// Its catalog, SQLite.
    pub catalog: PathBuf,
    /// Absolute path of the one big file, as it is in the volume.
    pub big_file: String,
    /// The original of the big file; none if the volume is synthetic.
    pub raw: Option<PathBuf>,
    /// Bytes of the big file.
    pub big_file_bytes: u64,
    /// Bytes of the volume.
    pub volume_bytes: u64,
}

/// What can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 4 GiB by stock Bacula: a disk image and 40,000 small files, with this signature.
    Big,
    /// 1 GiB of text by stock Bacula, compressed with GZIP6.
    Gzip,
    /// The same with LZO.
    Lzo,
    /// Disks of guests with every kind of filesystem, by stock Bacula.
    Guests,
    /// A machine that can be started: its disk in a Full and Incrementals, by stock Bacula.
    Boot,
    /// One 64 GiB file, its volume written sparsely by [`synthetic`].
    Sparse64,
    /// One million tiny files, by [`synthetic`].
    Million,
}

/// The place of all fixtures.
pub struct Fixtures {
    folder: PathBuf,
    signature: String,
}

impl Fixtures {
    /// Fixtures under `folder`; those by stock Bacula carry digests of kind `signature` (`none`: no digest).
    pub fn new(folder: &Path, signature: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        Ok(Self { folder: folder.canonicalize()?, signature: signature.to_owned() })
    }

    /// The stock Bacula that wrote them.
    pub fn lab(&self) -> Lab {
        Lab::new(&self.folder.join("lab"))
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A scratch folder for what is made while measuring.
    pub fn scratch(&self) -> PathBuf {
        self.folder.join("scratch")
    }

    /// The fixture, made now if it is not there yet.
    pub fn get(&self, kind: Kind) -> Result<Fixture> {
        let name = match kind {
            Kind::Big if self.signature.eq_ignore_ascii_case("MD5") => "big".to_owned(),
            Kind::Big => format!("big-{}", self.signature.to_lowercase()),
            Kind::Gzip => "gzip".to_owned(),
            Kind::Lzo => "lzo".to_owned(),
            Kind::Guests => "guests".to_owned(),
            Kind::Boot => "boot".to_owned(),
            Kind::Sparse64 => "sparse64".to_owned(),
            Kind::Million => "million".to_owned(),
        };
        let description = self.folder.join(format!("{name}.json"));
        if let Ok(text) = fs::read(&description) {
            return serde_json::from_slice(&text).with_context(|| format!("{}: delete it", description.display()));
        }
        let fixture = match kind {
            Kind::Big => {
                let source = self.source("big", data::disk_and_small_files)?;
                self.by_bacula(&name, &source, "disk.img", &["--signature", &self.signature])?
            }
            Kind::Gzip => {
                let source = self.source("text", data::compressible)?;
                self.by_bacula(&name, &source, "big.log", &["--compression", "GZIP6"])?
            }
            Kind::Lzo => {
                let source = self.source("text", data::compressible)?;
                self.by_bacula(&name, &source, "big.log", &["--compression", "LZO"])?
            }
            Kind::Guests => {
                let text = self.source("text", data::compressible)?;
                let source = self.source("guests", |folder| guests::make(folder, &text))?;
                self.by_bacula(&name, &source, "big-ext4.raw", &["--signature", "none", "--sparse"])?
            }
            Kind::Boot => self.chain(&name)?,
            Kind::Sparse64 => synthetic::one_big_file(&self.folder, &name)?,
            Kind::Million => synthetic::many_files(&self.folder, &name, 1_000_000)?,
        };
        fs::write(&description, serde_json::to_vec_pretty(&fixture)?)?;
        Ok(fixture)
    }

    /// The folder of source data `name`, made by `make` if it is not there yet.
    fn source(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let folder = self.folder.join("data").join(name);
        if !folder.exists() {
            eprintln!("making {}", folder.display());
            let unfinished = self.folder.join("data").join(format!("{name}.unfinished"));
            let _ = fs::remove_dir_all(&unfinished);
            make(&unfinished)?;
            fs::rename(&unfinished, &folder)?;
        }
        Ok(folder)
    }

    /// A chain of jobs, whose source is made between them.
    fn chain(&self, name: &str) -> Result<Fixture> {
        let (lab, folder) = (self.lab(), self.folder.join("data").join(name));
        fs::create_dir_all(&folder)?;
        lab.up()?;
        let made = (|| {
            lab.forget_volumes(name)?;
            let last = recover::make(&lab, name, &folder)?;
            let catalog = self.folder.join(format!("{name}.sqlite"));
            lab.dump_catalog(&catalog)?;
            recover::describe(name, &only_volume(&lab, name)?, &catalog, &folder, &last)
        })();
        lab.stop()?;
        made
    }

    fn by_bacula(&self, name: &str, source: &Path, big: &str, options: &[&str]) -> Result<Fixture> {
        let lab = self.lab();
        lab.up()?;
        let made = (|| {
            // An interrupted run left half a volume: Bacula would append to it.
            lab.forget_volumes(name)?;
            lab.define(name, source, options)?;
            lab.full(name)?;
            let catalog = self.folder.join(format!("{name}.sqlite"));
            lab.dump_catalog(&catalog)?;
            let volume = only_volume(&lab, name)?;
            let raw = source.join(big);
            Ok(Fixture {
                name: name.to_owned(),
                volume_bytes: fs::metadata(&volume)?.len(),
                volume,
                catalog,
                big_file: raw.to_string_lossy().into_owned(),
                big_file_bytes: fs::metadata(&raw)?.len(),
                raw: Some(raw),
            })
        })();
        lab.stop()?;
        made
    }
}

/// The volume of job `name`.
fn only_volume(lab: &Lab, name: &str) -> Result<PathBuf> {
    let mut volumes = fs::read_dir(lab.device(name))?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    ensure!(volumes.len() == 1, "{}: one volume expected, not {}", lab.device(name).display(), volumes.len());
    volumes.pop().context("a volume")
}
