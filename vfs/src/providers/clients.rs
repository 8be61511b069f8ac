//! `clients/<client>/<fileset>/@<time>/...`: restore points, merged as a Bacula restore would write them.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use blockdev::Result;
use volreader::archive::point::Point;

use super::{
    folder::{Child, Folder},
    ino,
    points::PointSet,
};
use crate::node::{Attributes, Dir, Entry, Inode, Kind, Node, Xattr};

/// The folder `clients`. Needs all jobs: waits until indexing is done.
pub struct Clients(Arc<PointSet>);

impl Clients {
    pub(super) const fn new(points: Arc<PointSet>) -> Self {
        Self(points)
    }

    fn client(&self, name: &str, filesets: &BTreeMap<String, BTreeMap<String, Point>>) -> Node {
        let since = self.0.shared().since();
        let children = filesets.iter().map(|(fileset, points)| {
            let points = points.iter().map(|(time, point)| {
                let root = self.0.root([name, fileset, time], point);
                let ino = ino(&[b"point", name.as_bytes(), fileset.as_bytes(), time.as_bytes()]);
                Child::new(time.as_str(), Kind::Dir, ino, Node::Dir(root))
            });
            let ino = ino(&[b"folder", name.as_bytes(), fileset.as_bytes()]);
            Child::folder(fileset.as_str(), Folder::of(ino, since, points.collect()))
        });
        Node::Dir(Arc::new(Folder::of(ino(&[b"folder", name.as_bytes()]), since, children.collect())))
    }
}

impl Inode for Clients {
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::of_folder(ino(&[b"clients"]), self.0.shared().since()))
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }
}

impl Dir for Clients {
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let (_, points) = self.0.all()?;
        let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
        Ok(points.get(name).map(|filesets| self.client(name, filesets)))
    }

    fn list(&self, cookie: u64, sink: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<()> {
        for (name, cookie) in self.0.all()?.1.keys().zip(1..).skip(cookie as usize) {
            let ino = ino(&[b"folder", name.as_bytes()]);
            if sink(Entry { name: name.clone().into_bytes(), kind: Kind::Dir, ino, cookie }).is_break() {
                break;
            }
        }
        Ok(())
    }
}
