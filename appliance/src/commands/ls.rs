//! `revenant ls`: any path of the tree, without mounting.

use std::{ffi::OsString, io::Write, ops::ControlFlow};

use base64ct::{Base64, Encoding};
use blockdev::{Error, Result};
use serde_json::{Value, json};
use vfs::node::{Attributes, Kind, Node};

use super::{Opened, base_name, open};
use crate::{
    cli::Cli,
    output::{self, written},
};

/// How to list.
#[derive(Clone, Copy)]
pub struct How {
    pub long: bool,
    pub recursive: bool,
}

pub fn run(cli: &Cli, paths: &[OsString], how: How) -> Result<u8> {
    let opened = open(cli)?;
    let top = [OsString::from("")];
    let paths = if paths.is_empty() { &top[..] } else { paths };
    let mut lister = Lister { how, json: cli.sources.json.then(Vec::new), out: Box::new(output::stdout()), failed: 0 };
    for path in paths {
        lister.path(&opened, path)?;
    }
    if let Some(values) = lister.json.take() {
        written(writeln!(lister.out, "{:#}", Value::Array(values)))?;
    }
    written(lister.out.flush())?;
    opened.tell_missing(paths);
    Ok(u8::from(lister.failed > 0))
}

struct Lister {
    how: How,
    json: Option<Vec<Value>>,
    out: Box<dyn Write>,
    failed: u64,
}

impl Lister {
    fn path(&mut self, opened: &Opened, path: &OsString) -> Result<()> {
        match opened.resolve(path)? {
            Node::Dir(dir) => {
                // Not recursive: folders in folders may be deeper than a stack.
                let mut below = vec![(Vec::new(), dir)];
                while let Some((prefix, dir)) = below.pop() {
                    let mut found = Vec::new();
                    let long = self.how.long || self.json.is_some();
                    let simple = !long && !self.how.recursive;
                    let mut outcome = Ok(());
                    let listed = dir.list(0, &mut |entry| {
                        let mut name = prefix.clone();
                        name.extend_from_slice(&entry.name);
                        // Attributes and folders need a look-up, which must wait until the listing is done.
                        if !simple && (long || entry.kind == Kind::Dir) {
                            found.push((entry.name, name, entry.kind));
                        } else {
                            outcome = self.line(&name);
                        }
                        if outcome.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    });
                    outcome?;
                    if let Err(e) = listed {
                        self.fail(&e);
                    }
                    let mut folders = Vec::new();
                    for (name, path, _) in found {
                        match dir.lookup(&name) {
                            Ok(Some(node)) => {
                                self.entry(&path, &node, long)?;
                                if let Node::Dir(dir) = node
                                    && self.how.recursive
                                {
                                    folders.push(([&path[..], b"/"].concat(), dir));
                                }
                            }
                            Ok(None) => {}
                            Err(e) => self.fail(&e),
                        }
                    }
                    below.extend(folders.into_iter().rev());
                }
                Ok(())
            }
            node => {
                let long = self.how.long || self.json.is_some();
                self.entry(&base_name(path), &node, long)
            }
        }
    }

    fn entry(&mut self, path: &[u8], node: &Node, long: bool) -> Result<()> {
        if !long {
            return self.line(path);
        }
        let (attributes, target) = match node.inode().attributes().and_then(|a| Ok((a, target(node)?))) {
            Ok(found) => found,
            Err(e) => {
                self.fail(&e.context(String::from_utf8_lossy(path)));
                return Ok(());
            }
        };
        match &mut self.json {
            Some(values) => {
                values.push(value(path, &attributes, target.as_deref()));
                Ok(())
            }
            None => written(long_line(&mut self.out, path, &attributes, target.as_deref())),
        }
    }

    fn line(&mut self, path: &[u8]) -> Result<()> {
        let mut line = output::name(path);
        line.push(b'\n');
        written(self.out.write_all(&line))
    }

    fn fail(&mut self, e: &Error) {
        self.failed += 1;
        output::error(e);
    }
}

fn target(node: &Node) -> Result<Option<Vec<u8>>> {
    match node {
        Node::Symlink(link) => link.target().map(Some),
        _ => Ok(None),
    }
}

/// What a path is for programs: bytes that are no text are there as base64, too.
pub fn path_value(path: &[u8]) -> Value {
    let mut v = json!({ "path": String::from_utf8_lossy(path) });
    if std::str::from_utf8(path).is_err() {
        v["path_b64"] = Base64::encode_string(path).into();
    }
    v
}

/// The name of a type of nodes, for programs and in `ls -l`.
pub const fn kind_name(kind: Kind) -> (&'static str, char) {
    match kind {
        Kind::Dir => ("dir", 'd'),
        Kind::File => ("file", '-'),
        Kind::Symlink => ("symlink", 'l'),
        Kind::Fifo => ("fifo", 'p'),
        Kind::CharDevice => ("chardev", 'c'),
        Kind::BlockDevice => ("blockdev", 'b'),
        Kind::Socket => ("socket", 's'),
    }
}

fn value(path: &[u8], a: &Attributes, target: Option<&[u8]>) -> Value {
    let facts = json!({
        "type": kind_name(a.kind).0,
        "mode": format!("{:04o}", a.permissions),
        "nlink": a.nlink,
        "uid": a.uid,
        "gid": a.gid,
        "size": a.size,
        "mtime": a.mtime.seconds,
        "atime": a.atime.seconds,
        "ctime": a.ctime.seconds,
        "inode": a.ino,
    });
    let mut v = path_value(path);
    if let (Value::Object(v), Value::Object(facts)) = (&mut v, facts) {
        v.extend(facts);
    }
    if let Some(target) = target {
        v["target"] = String::from_utf8_lossy(target).into();
        if std::str::from_utf8(target).is_err() {
            v["target_b64"] = Base64::encode_string(target).into();
        }
    }
    if matches!(a.kind, Kind::BlockDevice | Kind::CharDevice) {
        v["rdev"] = json!([a.rdev.0, a.rdev.1]);
    }
    v
}

fn long_line(out: &mut dyn Write, path: &[u8], a: &Attributes, target: Option<&[u8]>) -> std::io::Result<()> {
    let mut mode = String::from(kind_name(a.kind).1);
    for shift in [6, 3, 0] {
        let bits = a.permissions >> shift & 7;
        let special = a.permissions >> (9 + shift / 3) & 1 == 1;
        mode.push(if bits & 4 != 0 { 'r' } else { '-' });
        mode.push(if bits & 2 != 0 { 'w' } else { '-' });
        mode.push(match (shift, special, bits & 1 != 0) {
            (0, true, true) => 't',
            (0, true, false) => 'T',
            (_, true, true) => 's',
            (_, true, false) => 'S',
            (_, false, true) => 'x',
            (_, false, false) => '-',
        });
    }
    let size = match a.kind {
        Kind::BlockDevice | Kind::CharDevice => format!("{}, {}", a.rdev.0, a.rdev.1),
        _ => a.size.to_string(),
    };
    let time = volreader::archive::job::utc(a.mtime.seconds);
    write!(out, "{mode} {:>3} {:>5} {:>5} {size:>12} {time} ", a.nlink, a.uid, a.gid)?;
    out.write_all(&output::name(path))?;
    if let Some(target) = target {
        out.write_all(b" -> ")?;
        out.write_all(&output::name(target))?;
    }
    out.write_all(b"\n")
}
