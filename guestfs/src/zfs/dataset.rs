//! Datasets and snapshots that were opened: trees of files, volumes, and what cannot be read.

use std::sync::OnceLock;

use blockdev::{Error, ErrorKind, Result};

use super::{
    block_pointer::BlockPointer,
    content::Content,
    dsl::Mos,
    objset::{Kind, Objset},
    zap::Zap,
    zpl::Files,
};

/// Objects of a volume: its content and its properties.
const CONTENT: u64 = 1;
const PROPERTIES: u64 = 2;

/// A dataset or a snapshot.
pub struct Dataset {
    /// Whether it is a dataset itself, and not a snapshot of one.
    pub is_head: bool,
    /// Its directory.
    pub directory: u64,
    /// Names of its snapshots; 0 for none.
    pub snapshots: u64,
    /// Names of the directories of datasets below; 0 for none.
    pub children: u64,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Whether it is a volume, as far as that can be told.
    pub is_volume: bool,
    /// Its intent log, where it has one.
    pub log: Option<BlockPointer>,
    /// What is in it.
    pub state: State,
    /// Its name, once it was needed for a message.
    pub name: OnceLock<String>,
}

/// What is in a dataset.
pub enum State {
    /// Files.
    Files(Files),
    /// A volume.
    Volume(Volume),
    /// Something that cannot be read, and why.
    Unreadable(ErrorKind, String),
}

/// A volume.
pub struct Volume {
    objset: Objset,
    /// Bytes.
    pub size: u64,
}

impl Dataset {
    /// Dataset `number`. What is in it may be unreadable; it is shown then, and says why.
    ///
    /// # Errors
    ///
    /// When there is none, or what the pool says of it cannot be read.
    pub fn open(mos: &Mos, number: u64) -> Result<Self> {
        let found = mos.dataset(number)?;
        let directory = mos.directory(found.directory)?;
        let is_head = directory.head == number;
        let opened = Objset::open(mos.pool(), &found.pointer);
        let is_volume = opened.as_ref().is_ok_and(|objset| objset.kind == Kind::Volume);
        let log = opened.as_ref().ok().map(|objset| objset.log).filter(|log| is_head && !log.is_hole());
        let state = if found.pointer.is_encrypted() {
            Err(Error::new(ErrorKind::Locked, "the guest encrypted it: it can be read in the guest only"))
        } else {
            opened.and_then(State::of)
        };
        let state = state.unwrap_or_else(|e| State::Unreadable(e.kind(), e.to_string()));
        Ok(Self {
            is_head,
            directory: found.directory,
            snapshots: found.snapshots,
            children: if is_head { directory.children } else { 0 },
            created: found.created,
            is_volume,
            log,
            state,
            name: OnceLock::new(),
        })
    }

    /// Its files.
    ///
    /// # Errors
    ///
    /// When it has none, or cannot be read.
    pub fn files(&self) -> Result<&Files> {
        match &self.state {
            State::Files(files) => Ok(files),
            State::Volume(_) => Err(Error::invalid("a volume has no files")),
            State::Unreadable(kind, why) => Err(Error::new(*kind, why.clone())),
        }
    }
}

impl State {
    fn of(objset: Objset) -> Result<Self> {
        match objset.kind {
            Kind::Files => Files::open(objset).map(Self::Files),
            Kind::Volume => Volume::open(objset).map(Self::Volume),
            Kind::Meta => Err(Error::damaged("a dataset is the pool's metadata")),
            Kind::Other(kind) => Err(Error::unsupported(format!("it is a dataset of type {kind}"))),
        }
    }
}

impl Volume {
    fn open(objset: Objset) -> Result<Self> {
        let dnode = objset.object(PROPERTIES)?;
        let size = Zap::open(&objset.pool, &dnode)?.number("size")?;
        let size = size.filter(|size| i64::try_from(*size).is_ok());
        let size = size.ok_or_else(|| Error::damaged("a volume has no size"))?;
        Ok(Self { objset, size })
    }

    /// Its content.
    ///
    /// # Errors
    ///
    /// When it cannot be found.
    pub fn content(&self) -> Result<Content> {
        Ok(Content::new(&self.objset.pool, self.objset.object(CONTENT)?, self.size))
    }

    /// Bytes that are allocated for it.
    pub fn allocated(&self) -> u64 {
        self.objset.object(CONTENT).map_or(0, |dnode| dnode.used())
    }
}
