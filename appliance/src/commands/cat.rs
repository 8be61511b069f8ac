//! `revenant cat`: bytes of a file of the tree.

use std::{ffi::OsStr, io::Write};

use blockdev::{Error, Result};
use vfs::node::Node;

use super::open;
use crate::{cli::Cli, output::written};

/// What is read and written at once.
const CHUNK: u64 = 1 << 20;

pub fn run(cli: &Cli, path: &OsStr, offset: u64, length: Option<u64>) -> Result<u8> {
    let opened = open(cli)?;
    let Node::File(file) = opened.resolve(path)? else {
        return Err(Error::invalid(format!("{} is no file; `revenant ls` lists folders", path.to_string_lossy())));
    };
    let content = file.open()?;
    let end = length.map_or(content.size(), |l| offset.saturating_add(l)).min(content.size());
    let mut out = std::io::stdout().lock();
    let mut buf = vec![0; CHUNK.min(end.saturating_sub(offset)) as usize];
    let mut at = offset;
    while at < end {
        let n = CHUNK.min(end - at) as usize;
        let n = content.read_at(&mut buf[..n], at).map_err(|e| e.context(path.to_string_lossy()))?;
        written(out.write_all(&buf[..n]))?;
        at += n as u64;
    }
    written(out.flush())?;
    Ok(0)
}
