//! The guest's files by path, as the guest itself would find them: symbolic links lead from its own root.

use std::{ops::ControlFlow, sync::Arc};

use blockdev::{Error, ReadAt, Result};
use vfs::node::{Dir, Node};

/// Links that are followed for one path.
const LINKS_MAX: u32 = 40;

/// The files under a root.
pub struct Files {
    root: Arc<dyn Dir>,
}

impl Files {
    pub fn new(root: Arc<dyn Dir>) -> Self {
        Self { root }
    }

    /// The node at an absolute path, links followed; `None` where there is none.
    pub fn find(&self, path: &str) -> Result<Option<(String, Node)>> {
        let mut waiting: Vec<String> = components(path);
        waiting.reverse();
        let mut links = 0;
        let mut way: Vec<(String, Arc<dyn Dir>)> = Vec::new();
        while let Some(name) = waiting.pop() {
            if name == ".." {
                way.pop();
                continue;
            }
            let dir = way.last().map_or(&self.root, |(_, dir)| dir);
            match dir.lookup(name.as_bytes())? {
                None => return Ok(None),
                Some(Node::Dir(dir)) => way.push((name, dir)),
                Some(Node::Symlink(link)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Error::damaged(format!("{path}: links lead to links without end")));
                    }
                    let target = String::from_utf8_lossy(&link.target()?).into_owned();
                    if target.starts_with('/') {
                        way.clear();
                    }
                    waiting.extend(components(&target).into_iter().rev());
                }
                Some(other) if waiting.is_empty() => {
                    let folder = joined(&way);
                    return Ok(Some((format!("{folder}/{name}"), other)));
                }
                Some(_) => return Ok(None),
            }
        }
        let path = joined(&way);
        let last = way.pop().map_or_else(|| Arc::clone(&self.root), |(_, dir)| dir);
        Ok(Some((path, Node::Dir(last))))
    }

    /// A file's place and content; `None` where there is none, or it is longer than `max`.
    pub fn open(&self, path: &str, max: u64) -> Result<Option<(String, Arc<dyn ReadAt>)>> {
        match self.find(path)? {
            Some((path, Node::File(file))) => {
                let content = file.open()?;
                Ok((content.size() <= max).then_some((path, content)))
            }
            _ => Ok(None),
        }
    }

    /// The same, read.
    pub fn read(&self, path: &str, max: u64) -> Result<Option<(String, Vec<u8>)>> {
        let Some((path, content)) = self.open(path, max)? else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(content.size()).unwrap_or(0)];
        let n = content.read_at(&mut bytes, 0)?;
        bytes.truncate(n);
        Ok(Some((path, bytes)))
    }

    /// The names in a folder; none where it is not there.
    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        let Some((_, Node::Dir(dir))) = self.find(path)? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        dir.list(0, &mut |entry| {
            names.extend(String::from_utf8(entry.name));
            if names.len() < 100_000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        names.sort();
        Ok(names)
    }
}

fn components(path: &str) -> Vec<String> {
    path.split('/').filter(|name| !matches!(*name, "" | ".")).map(str::to_owned).collect()
}

fn joined(way: &[(String, Arc<dyn Dir>)]) -> String {
    way.iter().fold(String::new(), |path, (name, _)| format!("{path}/{name}"))
}
