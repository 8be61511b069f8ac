//! A filesystem in memory, made path by path.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use blockdev::{
    Error, ReadAt, Result,
    images::layer::{Layer, Place, Run},
    partitions::FsKind,
};
use guestfs::{DirEntry, FileId, FileSystem, Info, Kind, Metadata, Time, Usage, Xattr};

#[derive(Clone)]
enum Node {
    Dir(BTreeMap<Vec<u8>, u64>),
    File(Vec<u8>),
    Link(Vec<u8>),
}

/// The filesystem; file number 256 is its topmost directory.
#[derive(Clone)]
pub struct Memory {
    nodes: BTreeMap<u64, Node>,
    info: Info,
    default_root: u64,
}

const ROOT: u64 = 256;

impl Default for Memory {
    fn default() -> Self {
        let info = Info { kind: FsKind::Btrfs, label: None, uuid: None, block_size: 4096, notes: Vec::new() };
        Self { nodes: BTreeMap::from([(ROOT, Node::Dir(BTreeMap::new()))]), info, default_root: ROOT }
    }
}

impl Memory {
    pub fn uuid(mut self, uuid: &str) -> Self {
        self.info.uuid = Some(uuid.to_owned());
        self
    }

    pub fn label(mut self, label: &str) -> Self {
        self.info.label = Some(label.to_owned());
        self
    }

    /// With a regular file; the directories on its way are made.
    pub fn file(self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.put(path, &Node::File(content.into()))
    }

    /// With a symbolic link.
    pub fn link(self, path: &str, target: &str) -> Self {
        self.put(path, &Node::Link(target.into()))
    }

    /// With all of `other` in the folder `path`.
    pub fn tree(mut self, path: &str, other: &Self) -> Self {
        let mut todo = vec![(path.to_owned(), ROOT)];
        while let Some((path, number)) = todo.pop() {
            match other.nodes[&number].clone() {
                Node::Dir(names) => {
                    todo.extend(names.iter().map(|(n, id)| (format!("{path}/{}", String::from_utf8_lossy(n)), *id)));
                }
                node => self = self.put(&path, &node),
            }
        }
        self
    }

    /// Whose default subvolume is the folder `path`.
    pub fn default_root(mut self, path: &str) -> Self {
        let mut at = self.root();
        for name in path.split('/') {
            at = self.lookup(at, name.as_bytes()).unwrap().unwrap();
        }
        self.default_root = at.number;
        self
    }

    fn put(mut self, path: &str, node: &Node) -> Self {
        let (mut at, names) = (ROOT, path.split('/').collect::<Vec<_>>());
        for (n, name) in names.iter().enumerate() {
            let next = ROOT + self.nodes.len() as u64;
            let is_last = n + 1 == names.len();
            let Some(Node::Dir(entries)) = self.nodes.get_mut(&at) else { panic!("{path} leads through a file") };
            at = *entries.entry(name.as_bytes().to_vec()).or_insert(next);
            if is_last {
                self.nodes.insert(at, node.clone());
            } else {
                self.nodes.entry(at).or_insert(Node::Dir(BTreeMap::new()));
            }
        }
        self
    }

    fn node(&self, id: FileId) -> Result<&Node> {
        let found = self.nodes.get(&id.number).filter(|_| id.tree == 0);
        found.ok_or_else(|| Error::damaged(format!("there is no file {id:?}")))
    }

    fn dir(&self, id: FileId) -> Result<&BTreeMap<Vec<u8>, u64>> {
        match self.node(id)? {
            Node::Dir(entries) => Ok(entries),
            _ => Err(Error::invalid("not a directory")),
        }
    }
}

impl FileSystem for Memory {
    fn info(&self) -> &Info {
        &self.info
    }

    fn usage(&self) -> Result<Usage> {
        Ok(Usage::default())
    }

    fn root(&self) -> FileId {
        FileId::of(ROOT)
    }

    fn default_root(&self) -> FileId {
        FileId::of(self.default_root)
    }

    fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Option<FileId>> {
        Ok(self.dir(dir)?.get(name).copied().map(FileId::of))
    }

    fn list(&self, dir: FileId, cookie: u64, sink: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        for ((name, number), cookie) in self.dir(dir)?.iter().zip(1..).skip(cookie as usize) {
            let id = FileId::of(*number);
            let entry = DirEntry { name: name.clone(), id, kind: self.metadata(id)?.kind, cookie };
            if sink(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn metadata(&self, file: FileId) -> Result<Metadata> {
        let (kind, size) = match self.node(file)? {
            Node::Dir(_) => (Kind::Dir, 0),
            Node::File(content) => (Kind::File, content.len() as u64),
            Node::Link(target) => (Kind::Symlink, target.len() as u64),
        };
        Ok(Metadata {
            kind,
            permissions: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            size,
            allocated: size,
            accessed: Time::default(),
            modified: Time::default(),
            changed: Time::default(),
            created: None,
        })
    }

    fn content(&self, file: FileId) -> Result<Arc<dyn Layer>> {
        match self.node(file)? {
            Node::File(content) => Ok(Arc::new(Content([Arc::new(content.clone())]))),
            _ => Err(Error::invalid("not a file")),
        }
    }

    fn link_target(&self, link: FileId) -> Result<Vec<u8>> {
        match self.node(link)? {
            Node::Link(target) => Ok(target.clone()),
            _ => Err(Error::invalid("not a link")),
        }
    }

    fn xattrs(&self, _: FileId) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

struct Content([Arc<dyn ReadAt>; 1]);

impl Layer for Content {
    fn size(&self) -> u64 {
        self.0[0].size()
    }

    fn run_at(&self, offset: u64, _: u64) -> Result<Run> {
        Ok(Run { len: self.size() - offset, place: Place::Stored { file: 0, offset } })
    }

    fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.0
    }
}
