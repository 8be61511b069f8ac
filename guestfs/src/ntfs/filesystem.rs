//! A volume with NTFS as a [`FileSystem`].

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::{BlockDevice, Error, ReadAt, Result, images::layer::Layer, partitions::FsKind};

use super::{
    boot,
    collation::UpCase,
    directory::{self, Directory, Named},
    file::File,
    index::{Index, Nodes},
    kept::Kept,
    mft::Mft,
    names::flag,
    record::{Reference, kind},
    security::{DESCRIPTOR_MAX, Secure},
    stat::Stat,
    state::{self, Volume},
    usage,
    value::{Body, Value},
    wof::{self, Wof},
};
use crate::{
    DirEntry, FileId, FileSystem, Info, Kind, Metadata, Stream, Usage, Xattr, inline::Inline, names,
    windows::reparse::Content,
};

/// Numbers of file records that are always the same.
mod number {
    pub const VOLUME: u64 = 3;
    pub const ROOT: u64 = 5;
    pub const LOG: u64 = 2;
    pub const SECURE: u64 = 9;
    pub const UPCASE: u64 = 10;
    /// Users' files have this number and above, NTFS' own those below.
    pub const USERS: u64 = 16;
}

/// Memory for nodes of directories and for their roots, in bytes.
const NODES_MAX: u64 = 16 << 20;
const INDEXES_MAX: u64 = 4 << 20;

/// A volume.
pub struct Ntfs {
    mft: Arc<Mft>,
    info: Info,
    root: Reference,
    upcase: UpCase,
    secure: Option<Secure>,
    indexes: Kept<u64, Index>,
    nodes: Nodes,
    usage: OnceLock<Usage>,
}

impl Ntfs {
    /// That on `device`.
    pub fn open(device: &Arc<dyn BlockDevice>) -> Result<Self> {
        let mut notes = Vec::new();
        let mft = boot::first(device.as_ref()).and_then(|geometry| Mft::open(device, geometry)).or_else(|e| {
            notes.push("The boot sector is damaged: its copy at the end of the volume is used.".to_owned());
            boot::copies(device.as_ref()).find_map(|geometry| Mft::open(device, geometry).ok()).ok_or(e)
        })?;
        let mft = Arc::new(mft);
        let geometry = mft.clusters.geometry;
        if geometry.clusters << geometry.cluster_shift > device.size() {
            notes.push("The volume ends before its filesystem does: files at its end cannot be read.".to_owned());
        }
        let file = |number| File::open(&mft, Reference(number));
        let root = file(number::ROOT)?;
        if !root.record().is_directory() {
            return Err(root.told(Error::damaged("the root is not a directory")));
        }
        // Without the rest, files can be read all the same.
        let mut noted = |what: &str, error: Error| notes.push(format!("{what}: {error}."));
        let volume = file(number::VOLUME).and_then(|file| Volume::of(&file)).unwrap_or_else(|e| {
            noted("Label and state of the volume are not known", e);
            Volume::default()
        });
        let upcase = file(number::UPCASE).and_then(|file| UpCase::of(&file)).unwrap_or_else(|e| {
            noted("The order of names is guessed, some may not be found", e);
            UpCase::of_unicode()
        });
        let secure = file(number::SECURE).and_then(|file| Secure::of(&file)).unwrap_or_else(|e| {
            noted("Security descriptors cannot be read", e);
            None
        });
        let log_is_dirty = file(number::LOG).and_then(|file| state::log_is_dirty(&file)).unwrap_or_else(|e| {
            noted("The state of the log is not known", e);
            false
        });
        let info = Info {
            kind: FsKind::Ntfs,
            label: volume.label,
            uuid: Some(format!("{:016X}", geometry.serial)),
            block_size: geometry.cluster() as u32,
            notes: Vec::new(),
        };
        let mut ntfs = Self {
            root: root.record().reference(),
            info,
            mft,
            upcase,
            secure,
            indexes: Kept::new(INDEXES_MAX),
            nodes: Nodes::new(NODES_MAX),
            usage: OnceLock::new(),
        };
        let is_hibernated = ntfs.is_hibernated();
        notes.extend(state::notes(volume.is_dirty, log_is_dirty, is_hibernated));
        notes.extend(ntfs.mft.notes());
        ntfs.info.notes = notes;
        Ok(ntfs)
    }

    /// Whether the root has the memory of a Windows that sleeps. What cannot be read will say so when it is asked for.
    fn is_hibernated(&self) -> bool {
        let found = self.lookup(FileId::of(self.root.0), b"hiberfil.sys").ok().flatten();
        found.is_some_and(|file| self.file(file).and_then(|file| state::is_hibernated(&file)).unwrap_or(false))
    }

    fn file(&self, id: FileId) -> Result<File> {
        File::open(&self.mft, Reference(id.number))
    }

    fn index(&self, dir: FileId) -> Result<Arc<Index>> {
        self.indexes.get(&dir.number, || {
            let file = self.file(dir)?;
            if Stat::of(&file)?.kind() != Kind::Dir {
                return Err(file.told(Error::invalid("it is not a directory")));
            }
            directory::index(&file)
        })
    }

    fn directory<'a>(&'a self, index: &'a Index) -> Directory<'a> {
        Directory::new(index, &self.nodes, &self.upcase)
    }

    /// The type of a listed file. A name says it, but for those that stand for something else.
    fn kind_of(&self, named: &Named<'_>) -> Kind {
        let flags = named.name.flags();
        let stands_for_other = flags & (flag::REPARSE_POINT | flag::SYSTEM) != 0;
        let kind = if flags & flag::NAME_OF_DIRECTORY != 0 { Kind::Dir } else { Kind::File };
        if !stands_for_other {
            return kind;
        }
        // A file that cannot be read is listed all the same.
        let stat = File::open(&self.mft, named.file).and_then(|file| Stat::of(&file));
        stat.map_or(kind, |stat| stat.kind())
    }

    /// The content of `file`, of which `stat` is known.
    fn layer(&self, file: &File, stat: &Stat) -> Result<Arc<dyn Layer>> {
        if stat.kind() != Kind::File {
            return Err(Error::invalid("it is not a regular file"));
        }
        let data = file.value(kind::DATA, &[])?;
        let elsewhere =
            |place: &str| Err(Error::unsupported(format!("its content is not on this volume, but {place}")));
        match stat.content() {
            Content::Elsewhere(place) => return elsewhere(place),
            Content::Cloud if stat.is_offline() || data.as_ref().is_some_and(has_holes) => {
                return elsewhere("in the cloud: fetch it with the guest");
            }
            Content::Packed(method) => {
                let size = data.map_or(0, |data| data.size());
                let packed = file.value(kind::DATA, wof::STREAM)?;
                let packed = packed.ok_or_else(|| Error::damaged("it has no stream WofCompressedData"))?;
                return Ok(Arc::new(Wof::new(file.record().number(), packed.reader(&self.mft)?, size, method)?));
            }
            Content::Cloud | Content::Here => {}
        }
        match data {
            Some(data) => data.layer(&self.mft),
            None => Ok(Arc::new(Inline::new(Vec::new(), 0))),
        }
    }

    /// The security descriptor of `file`, of which `stat` is known.
    fn descriptor(&self, file: &File, stat: &Stat) -> Result<Option<Vec<u8>>> {
        if let (Some(secure), id @ 1..) = (&self.secure, stat.security()) {
            return Ok(secure.descriptor(id)?.0.clone());
        }
        let own = file.value(kind::SECURITY_DESCRIPTOR, &[])?;
        own.map(|value| value.bytes(&self.mft, DESCRIPTOR_MAX)).transpose()
    }
}

/// Whether clusters are missing that the content would need.
fn has_holes(data: &Value) -> bool {
    match &data.body {
        Body::Here(_) => false,
        Body::There(stored) => data.allocated() < stored.initialized,
    }
}

impl FileSystem for Ntfs {
    fn info(&self) -> &Info {
        &self.info
    }

    fn usage(&self) -> Result<Usage> {
        match self.usage.get() {
            Some(usage) => Ok(*usage),
            None => {
                let usage = usage::count(&self.mft)?;
                Ok(*self.usage.get_or_init(|| usage))
            }
        }
    }

    fn root(&self) -> FileId {
        FileId::of(self.root.0)
    }

    fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Option<FileId>> {
        let index = self.index(dir)?;
        let found = self.directory(&index).lookup(name)?;
        Ok(found.filter(|file| !self.is_own(dir, *file)).map(|file| FileId::of(file.0)))
    }

    fn list(&self, dir: FileId, cookie: u64, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        let index = self.index(dir)?;
        self.directory(&index).list(cookie, |named| {
            if self.is_own(dir, named.file) {
                return ControlFlow::Continue(());
            }
            let kind = self.kind_of(&named);
            sink(DirEntry { name: named.name.name(), id: FileId::of(named.file.0), kind, cookie: named.cookie })
        })
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        let file = self.file(file)?;
        Stat::of(&file)?.metadata(&file)
    }

    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>> {
        let file = self.file(file)?;
        self.layer(&file, &Stat::of(&file)?).map_err(|e| file.told(e))
    }

    fn link_target(&self, link: FileId) -> Result<Vec<u8>> {
        let file = self.file(link)?;
        Stat::of(&file)?.target().map_err(|e| file.told(e))
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<Xattr>> {
        let file = self.file(file)?;
        let mut stat = Stat::of(&file)?;
        let mut xattrs = std::mem::take(&mut stat.attributes);
        let mut push = |name: &str, value| xattrs.push(Xattr { name: name.into(), value });
        if let Some(descriptor) = self.descriptor(&file, &stat).map_err(|e| file.told(e))? {
            push("system.ntfs_acl", descriptor);
        }
        push("system.ntfs_attrib", stat.shown_flags().to_le_bytes().to_vec());
        let is_wof = stat.is_wof();
        if let Some(reparse) = stat.reparse.filter(|_| !is_wof) {
            push("system.ntfs_reparse_data", reparse.into_bytes());
        }
        Ok(xattrs)
    }

    fn streams(&self, file: FileId) -> Result<Vec<Stream>> {
        let file = self.file(file)?;
        let is_wof = Stat::of(&file)?.is_wof();
        let mut streams = Vec::new();
        file.for_each(kind::DATA, |data| {
            let name = data.name();
            let is_hidden = is_wof && name == wof::STREAM;
            if !name.is_empty() && !is_hidden {
                let [_, size, _] = if data.is_resident() { [0, data.value().len() as u64, 0] } else { data.sizes() };
                streams.push(Stream { name: names::from_utf16le(name), size });
            }
            Ok(())
        })?;
        Ok(streams)
    }

    fn stream(&self, file: FileId, name: &[u8]) -> Result<Arc<dyn Layer>> {
        let file = self.file(file)?;
        let units = names::to_utf16le(name).filter(|units| !units.is_empty());
        let value = units.map_or(Ok(None), |units| file.value(kind::DATA, &units))?;
        let shown = String::from_utf8_lossy(name).escape_debug().to_string();
        let value = value.ok_or_else(|| file.told(Error::not_found(format!("there is no stream '{shown}'"))))?;
        value.layer(&self.mft).map_err(|e| file.told(e.context(format!("stream '{shown}'"))))
    }
}

impl Ntfs {
    /// Whether `file`, in the directory `dir`, is one of NTFS itself.
    fn is_own(&self, dir: FileId, file: Reference) -> bool {
        dir.number == self.root.0 && file.number() < number::USERS
    }
}
