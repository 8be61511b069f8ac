//! The files of a machine as the tree has them.

use std::{path::PathBuf, sync::Arc};

use blockdev::{ReadAt, Result, file::HostFile};
use vfs::{node::Time, providers::backup::LiveFile};

use super::{
    delivery::{Readers, elsewhere},
    record::Point,
};

/// A file.
pub struct Shown {
    name: String,
    bytes: u64,
    time: i64,
    content: Content,
}

enum Content {
    /// It is in an earlier job.
    Past { job: String },
    /// It is small and was kept.
    Text(Vec<u8>),
    /// So, in a file.
    Kept(PathBuf),
    /// It is what the running job has to read.
    Own { content: Arc<dyn ReadAt>, readers: Arc<Readers> },
}

impl Shown {
    /// A file of the job that is running, and those who read it.
    pub fn own(name: &str, time: i64, content: Arc<dyn ReadAt>, readers: &Arc<Readers>) -> Arc<Self> {
        let bytes = content.size();
        let content = Content::Own { content, readers: Arc::clone(readers) };
        Arc::new(Self { name: name.to_owned(), bytes, time, content })
    }

    /// The disks of a point that was backed up, and its digests, which are in `folder`.
    pub fn past(point: &Point, folder: &std::path::Path) -> Vec<Arc<Self>> {
        let time = point.time;
        let file = |name: &str, bytes: u64, content| Arc::new(Self { name: name.to_owned(), bytes, time, content });
        let disks =
            point.disks.iter().map(|disk| file(&disk.file, disk.bytes, Content::Past { job: point.job.clone() }));
        let digests = file(&point.digests.name, point.digests.bytes, Content::Kept(folder.join(&point.digests.name)));
        disks.chain([digests]).collect()
    }

    /// The small files of such a point.
    pub fn texts(point: &Point) -> Vec<Arc<Self>> {
        let file = |text: &super::record::Text| {
            let bytes = text.text.as_bytes().to_vec();
            Arc::new(Self {
                name: text.name.clone(),
                bytes: bytes.len() as u64,
                time: point.time,
                content: Content::Text(bytes),
            })
        };
        point.texts.iter().map(file).collect()
    }
}

impl LiveFile for Shown {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.bytes
    }

    fn time(&self) -> Time {
        Time { seconds: self.time, nanos: 0 }
    }

    fn open(&self) -> Result<Arc<dyn ReadAt>> {
        match &self.content {
            Content::Past { job } => Err(elsewhere(&self.name, job)),
            Content::Text(bytes) => Ok(Arc::new(bytes.clone())),
            Content::Kept(path) => Ok(Arc::new(HostFile::open(path)?)),
            Content::Own { content, readers } => Ok(readers.open(Arc::clone(content))),
        }
    }
}
