//! A volume as a filesystem.

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use blockdev::{
    BlockDevice, Error, Result,
    fields::{le16, utf16},
    images::layer::Layer,
    partitions::FsKind,
};
use quick_cache::sync::Cache;

use super::{
    anchor::{Checkpoint, root},
    attribute::{Attribute, attributes},
    boot::Boot,
    container::{Containers, by_number, first_good},
    entry::{Basics, Body, Entry, apart, attribute, row},
    node::{Row, Span},
    page::{Addressing, Pages, Reference},
    reparse,
    stream::Stream,
    tree::{Root, Tree},
};
use crate::{
    DirEntry, FileId, FileSystem, Info, Kind, Metadata, Stream as StreamInfo, Usage, Xattr,
    index::{Named, Names, Sink},
};

/// Objects with fixed numbers.
mod object {
    /// What is known of the volume.
    pub const VOLUME: u64 = 0x500;
    /// The root directory.
    pub const ROOT: u64 = 0x600;
    /// The row with the label, in the object of the volume.
    pub const LABEL: u64 = 0x510;
}

/// Objects whose place is kept.
const OBJECTS_KEPT: usize = 4096;

/// A ReFS volume.
pub struct Refs {
    info: Info,
    pages: Arc<Pages>,
    objects: Vec<Reference>,
    /// Where the trees of objects are that were found.
    kept: Cache<u64, Reference>,
    /// The roots of the containers once more: `pages` has those that it needs itself.
    containers: Option<Containers>,
    names: Names,
    usage: OnceLock<Usage>,
}

impl Refs {
    /// The one on `device`.
    ///
    /// # Errors
    ///
    /// When boot sector, superblocks or checkpoints are damaged, or the version is not known.
    pub fn open(device: Arc<dyn BlockDevice>) -> Result<Self> {
        let boot = Boot::read(device.as_ref())?;
        let checkpoint = Checkpoint::read(device.as_ref(), &boot)?;
        let (major, minor) = boot.version;
        let mut notes = vec![
            "ReFS is experimental: its format is not published, and no whole real volume could be tested".to_owned(),
            format!("the volume has version {major}.{minor}"),
        ];
        if device.size() < boot.size {
            notes.push(format!("the volume has {} bytes, its filesystem {}: it was cut off", device.size(), boot.size));
        }
        let mut pages = Pages::new(device, boot, checkpoint.signature, checkpoint.has_sums);
        let containers = || Containers::new(checkpoint.roots(root::CONTAINERS), boot.per_container);
        let containers = (!boot.is_first()).then(|| {
            pages.set_containers(containers());
            containers()
        });
        if containers.as_ref().is_some_and(|containers| containers.has_compression(&pages)) {
            notes.push("the volume compresses: files that it has compressed cannot be read".to_owned());
        }
        let mut refs = Self {
            info: Info {
                kind: FsKind::Refs,
                label: None,
                uuid: Some(format!("{:016X}", boot.serial)),
                block_size: boot.cluster,
                notes,
            },
            pages: Arc::new(pages),
            objects: checkpoint.roots(root::OBJECTS),
            kept: Cache::new(OBJECTS_KEPT),
            containers,
            names: Names::new(),
            usage: OnceLock::new(),
        };
        // A volume without a root directory cannot be read; one without a label can.
        refs.object(object::ROOT)?.node()?;
        refs.info.label = refs.label().unwrap_or(None);
        Ok(refs)
    }

    fn label(&self) -> Result<Option<String>> {
        let row = self.object(object::VOLUME)?.find(&|key| by_number(key, 0, object::LABEL))?;
        Ok(row.and_then(|row| utf16(row.value.get())))
    }

    /// The tree of object `number`.
    fn object(&self, number: u64) -> Result<Tree<'_>> {
        let pages = self.pages.as_ref();
        let tree = |root| Tree { pages, root: Root::Page(root), addressing: Addressing::Virtual };
        let reference = self.kept.get_or_insert_with(&number, || {
            let trees = self.objects.iter().copied().map(tree);
            let row = first_good(trees, |tree| tree.find(&|key| by_number(key, 8, number)))?;
            let row =
                row.ok_or_else(|| Error::not_found(format!("there is no object {number:#x} in the ReFS volume")))?;
            let reference = row.value.get().get(if pages.boot().is_first() { 0.. } else { 0x20.. });
            let reference = reference.and_then(|bytes| Reference::parse(bytes, pages.boot()));
            reference.ok_or_else(|| Error::damaged(format!("object {number:#x} has no place")))
        })?;
        Ok(tree(reference))
    }

    /// The row of a directory about itself.
    fn own(&self, dir: u64) -> Result<Row> {
        let own = self.object(dir)?.find(&|key| le16(key, 0).cmp(&row::OWN))?;
        own.ok_or_else(|| Error::damaged(format!("object {dir:#x} says nothing about itself: it is no directory")))
    }

    /// The entry of the file `file`, which is not a directory.
    fn entry(&self, file: FileId) -> Result<Entry> {
        let row = self.object(file.tree)?.at(file.number)?;
        let entry = Entry::parse(&row)?.filter(|entry| !matches!(entry.body, Body::Object(_)));
        entry.ok_or_else(|| Error::not_found(format!("there is no file {:#x} in object {:#x}", file.number, file.tree)))
    }

    /// The tree of attributes of `entry`, which is in the directory `dir`; `None` where nothing is kept of it.
    fn body(&self, entry: &Entry, dir: u64) -> Result<Option<Span>> {
        let (home, number, size) = match &entry.body {
            Body::Here(value) => return Ok(Some(value.clone())),
            Body::Object(number) => return Ok(Some(self.own(*number)?.value)),
            Body::Apart { home, number, size } => (*home, *number, *size),
        };
        // Numbers are given by each directory, so the one that the file was made in counts, and then the length.
        for owner in [Some(home), Some(dir).filter(|dir| *dir != home)].into_iter().flatten() {
            let Ok(tree) = self.object(owner) else { continue };
            let compare = |key: &[u8]| le16(key, 0).cmp(&row::APART).then(by_number(key, 8, number));
            let row = tree.find(&compare)?;
            if let Some(row) = row.filter(|row| apart(row, &self.pages).is_some_and(|found| found == (number, size))) {
                return Ok(Some(row.value));
            }
        }
        if size == 0 { Ok(None) } else { Err(Error::damaged(format!("object {home:#x} has no file {number}"))) }
    }

    /// Times and attributes of `file`, and the tree of the latter; none where nothing is kept of it.
    fn file(&self, file: FileId) -> Result<(Basics, Option<Span>)> {
        if file.tree == 0 {
            let own = self.own(file.number)?.value;
            return Ok((Basics::at(own.get(), 0x28)?, Some(own)));
        }
        let entry = self.entry(file)?;
        Ok((entry.basics, self.body(&entry, file.tree)?))
    }

    fn attributes(&self, file: FileId) -> Result<Vec<Attribute>> {
        self.attributes_in(self.file(file)?.1.as_ref())
    }

    fn attributes_in(&self, body: Option<&Span>) -> Result<Vec<Attribute>> {
        body.map_or(Ok(Vec::new()), |body| attributes(&self.pages, body))
    }

    /// The entries of the directory `dir` from the place `from` on.
    fn entries(&self, dir: FileId, from: u64, sink: &mut Sink<'_>) -> Result<()> {
        if dir.tree != 0 {
            return Err(Error::invalid(format!("file {:#x} of object {:#x} is not a directory", dir.number, dir.tree)));
        }
        self.object(dir.number)?.visit(from, &mut |place, row| {
            let Some(entry) = Entry::parse(&row)? else { return Ok(ControlFlow::Continue(())) };
            let file = entry.id(dir.number, place);
            let mut kind = entry.kind();
            if entry.basics.attributes & attribute::REPARSE != 0 {
                // What cannot be told here is said where the file itself is asked for.
                kind = self.attributes(file).ok().and_then(|found| reparse_kind(&found)).unwrap_or(kind);
            }
            Ok(sink(Named { name: entry.name, file, kind, first: place, next: place + 1 }))
        })
    }
}

impl FileSystem for Refs {
    fn info(&self) -> &Info {
        &self.info
    }

    fn usage(&self) -> Result<Usage> {
        if let Some(usage) = self.usage.get() {
            return Ok(*usage);
        }
        let containers = self.containers.as_ref();
        let containers =
            containers.ok_or_else(|| Error::unsupported("how full a volume of ReFS 1 is, is not known"))?;
        let (total, free) = containers.usage(&self.pages)?;
        let bytes = |clusters: u64| clusters.saturating_mul(self.info.block_size.into());
        Ok(*self.usage.get_or_init(|| Usage { total: bytes(total), free: bytes(free), ..Usage::default() }))
    }

    fn root(&self) -> FileId {
        FileId::of(object::ROOT)
    }

    fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Option<FileId>> {
        self.names.lookup(dir, name, &|from, sink| self.entries(dir, from, sink))
    }

    fn list(&self, dir: FileId, cookie: u64, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        self.entries(dir, cookie, &mut |named| sink(named.into()))
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        let (basics, body) = self.file(file)?;
        let attributes = self.attributes_in(body.as_ref())?;
        let kind = if file.tree == 0 { Kind::Dir } else { Kind::File };
        let kind = reparse_kind(&attributes).unwrap_or(kind);
        let (size, allocated) = match kind {
            Kind::File => {
                let stream = Stream::of(&attributes)?;
                (stream.size(), stream.allocated())
            }
            Kind::Symlink => (target(&attributes)?.len() as u64, 0),
            _ => (0, 0),
        };
        let [created, modified, changed, accessed] = basics.times;
        let is_read_only = basics.attributes & attribute::READ_ONLY != 0;
        let own = Metadata::without_owner(kind, is_read_only);
        Ok(Metadata { size, allocated, accessed, modified, changed, created: Some(created), ..own })
    }

    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>> {
        if file.tree == 0 {
            return Err(Error::invalid(format!("object {:#x} is a directory", file.number)));
        }
        let (basics, body) = self.file(file)?;
        if basics.attributes & attribute::ENCRYPTED != 0 {
            return Err(Error::unsupported("the file was encrypted by its guest (EFS)"));
        }
        let attributes = self.attributes_in(body.as_ref())?;
        let Some(reparse) = reparse::of(&attributes) else { return Stream::of(&attributes)?.layer(&self.pages) };
        Err(match reparse.kind() {
            Some(kind) => Error::invalid(format!("it is no regular file: {kind:?}")),
            None => Error::unsupported(format!(
                "the content is not in the file: it has a reparse point with the tag {:#x}",
                reparse.tag()
            )),
        })
    }

    fn link_target(&self, link: FileId) -> Result<Vec<u8>> {
        target(&self.attributes(link)?)
    }

    fn xattrs(&self, _: FileId) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn streams(&self, file: FileId) -> Result<Vec<StreamInfo>> {
        let attributes = self.attributes(file)?;
        Ok(Stream::named(&attributes).map(|(found, size)| StreamInfo { name: found.name.clone(), size }).collect())
    }

    fn stream(&self, file: FileId, name: &[u8]) -> Result<Arc<dyn Layer>> {
        Stream::of_name(&self.attributes(file)?, name)?.layer(&self.pages)
    }
}

/// The type of a file that has a reparse point.
fn reparse_kind(attributes: &[Attribute]) -> Option<Kind> {
    reparse::of(attributes).and_then(|reparse| reparse.kind())
}

/// What the symbolic link with these attributes points to.
fn target(attributes: &[Attribute]) -> Result<Vec<u8>> {
    reparse::of(attributes).ok_or_else(|| Error::invalid("it is no symbolic link"))?.target()
}
