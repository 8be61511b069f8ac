//! `revenant cat`: bytes of a file of the tree.

use std::{ffi::OsStr, io::Write};

use blockdev::{Error, Result};
use vfs::node::Node;
use volreader::content::ahead;

use super::open;
use crate::{cli::Cli, output::written};

pub fn run(cli: &Cli, path: &OsStr, offset: u64, length: Option<u64>) -> Result<u8> {
    let opened = open(cli)?;
    let Node::File(file) = opened.resolve(path)? else {
        return Err(Error::invalid(format!("{} is no file; `revenant ls` lists folders", path.to_string_lossy())));
    };
    let content = file.open()?;
    let end = length.map_or(content.size(), |l| offset.saturating_add(l)).min(content.size());
    let mut out = std::io::stdout().lock();
    if offset < end {
        let read = ahead::read(content.as_ref(), offset..end, &mut |_, bytes| written(out.write_all(bytes)));
        read.map_err(|e| e.context(path.to_string_lossy()))?;
    }
    written(out.flush())?;
    Ok(0)
}
