//! `revenant diff`: what differs between two restore points, folders or disks.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    ops::ControlFlow,
};

use blockdev::{Error, ReadAt, Result};
use serde_json::{Value, json};
use vfs::{
    diff::{self, Change, Difference, Summary, changed_blocks},
    node::{Dir, Kind, Node},
};

use super::{
    ls,
    source::{DiskSource, Disks, is_host_path},
};
use crate::{
    cli::{Cli, DiffOptions},
    output::{self, size, written},
};

pub fn run(cli: &Cli, paths: &[OsString], options: &DiffOptions) -> Result<u8> {
    let [before, after] = paths else { return Err(Error::invalid("diff compares two")) };
    let disks = Disks::new(cli);
    if options.blocks || is_host_path(before) || is_host_path(after) {
        return blocks(cli, &disks, before, after, options);
    }
    let tree = disks.tree()?;
    match (tree.resolve(before)?, tree.resolve(after)?) {
        (Node::Dir(old), Node::Dir(new)) => {
            let shared = shared(&disks, before, after)?;
            let how = diff::Options { content: options.content, shared };
            let outcome = trees(cli, &*files(old)?, &*files(new)?, how);
            tree.tell_missing(paths);
            outcome
        }
        (Node::File(_), Node::File(_)) => blocks(cli, &disks, before, after, options),
        _ => Err(Error::invalid("one of them is a folder and the other is none: name two points, folders or disks")),
    }
}

/// Of a point of a machine its guest's files are compared.
fn files(folder: std::sync::Arc<dyn Dir>) -> Result<std::sync::Arc<dyn Dir>> {
    match (folder.lookup(b"disks")?, folder.lookup(b"files")?) {
        (Some(Node::Dir(_)), Some(Node::Dir(files))) => Ok(files),
        _ => Ok(folder),
    }
}

/// Whether the disks on which two folders of guests lie are states of one another.
fn shared(disks: &Disks<'_>, before: &OsStr, after: &OsStr) -> Result<bool> {
    let of = |path: &OsStr| {
        let path = path.to_string_lossy();
        let mut parts = path.split('/').filter(|p| !p.is_empty());
        let point = match parts.next() {
            Some("machines") => format!("machines/{}/{}", parts.next()?, parts.next()?),
            Some("images") => format!("images/{}", parts.next()?),
            _ => return None,
        };
        disks.several(OsStr::new(&point), None).ok()
    };
    let (Some(old), Some(new)) = (of(before), of(after)) else { return Ok(false) };
    for a in &old {
        for b in &new {
            if diff::share_origins(a.image.disk.as_ref(), b.image.disk.as_ref())? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn trees(cli: &Cli, before: &dyn Dir, after: &dyn Dir, options: diff::Options) -> Result<u8> {
    let mut lines = Lines::new(cli);
    let mut outcome = Ok(());
    let compared = diff::trees(before, after, options, &mut |difference| {
        outcome = lines.difference(&difference);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    written(outcome)?;
    let failures = compared.failures.len();
    for (path, e) in &compared.failures {
        output::note(&format!("{}: {e}", path.escape_ascii()));
    }
    written(lines.summary(&compared))?;
    Ok(match (failures, compared.added + compared.removed + compared.changed) {
        (0, 0) => 0,
        (0, _) => 1,
        _ => 2,
    })
}

/// Compares the disks that both have, by their names.
fn blocks(cli: &Cli, disks: &Disks<'_>, before: &OsStr, after: &OsStr, options: &DiffOptions) -> Result<u8> {
    let (old, new) = (disks.several(before, None)?, disks.several(after, None)?);
    let name = |disk: &DiskSource| disk.label.rsplit('/').next().unwrap_or_default().to_owned();
    let mut lines = Lines::new(cli);
    let mut differ = false;
    let mut tell = |value: Value, text: &str| {
        differ = true;
        written(lines.line(&value, text))
    };
    let pair = |disk: &DiskSource| {
        // Two single disks are compared whatever their names are.
        let only = old.len() == 1 && new.len() == 1;
        new.iter().find(|n| only || name(n) == name(disk))
    };
    let mut totals = Vec::new();
    for disk in &old {
        let Some(other) = pair(disk) else {
            tell(json!({ "disk": name(disk), "change": "removed" }), &format!("- {}", name(disk)))?;
            continue;
        };
        let mut outcome = Ok(());
        let (a, b) = (disk.image.disk.as_ref(), other.image.disk.as_ref());
        let changed = changed_blocks(a, b, options.granularity, &mut |range| {
            let (start, length) = (range.start, range.end - range.start);
            let value = json!({ "disk": name(disk), "change": "changed", "start": start, "length": length });
            outcome = tell(value, &format!("~ {} {start}+{length}", name(disk)));
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
        totals.push((name(disk), a.size(), b.size(), changed));
    }
    for disk in new.iter().filter(|n| !old.iter().any(|o| pair(o).is_some_and(|p| std::ptr::eq(p, *n)))) {
        tell(json!({ "disk": name(disk), "change": "added" }), &format!("+ {}", name(disk)))?;
    }
    let value: Vec<_> = totals
        .iter()
        .map(|(disk, before, after, c)| {
            json!({ "disk": disk, "size_before": before, "size_after": after, "changed": c.bytes, "read": c.bytes_read })
        })
        .collect();
    let text: Vec<_> = totals
        .iter()
        .map(|(disk, _, all, c)| {
            format!("{disk}: {} of {} differ; {} read", size(c.bytes), size(*all), size(c.bytes_read))
        })
        .collect();
    written(lines.end(&json!({ "disks": value }), &text.join("\n")))?;
    Ok(u8::from(differ))
}

/// Differences as they are found: lines for people, or one object for programs, written piece by piece.
struct Lines {
    out: Box<dyn Write>,
    json: bool,
    any: bool,
}

impl Lines {
    fn new(cli: &Cli) -> Self {
        Self { out: Box::new(output::stdout()), json: cli.sources.json, any: false }
    }

    fn line(&mut self, value: &Value, text: &str) -> io::Result<()> {
        if !self.json {
            return writeln!(self.out, "{text}");
        }
        let before = if self.any { ",\n" } else { "{ \"differences\": [\n" };
        self.any = true;
        write!(self.out, "{before}  {value}")
    }

    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        let Difference { path, kind, change } = difference;
        let shown = String::from_utf8_lossy(&output::name(path)).into_owned();
        let slash = if *kind == Kind::Dir { "/" } else { "" };
        let of = |bytes: u64| if *kind == Kind::File { size(bytes) } else { "-".to_owned() };
        let (change, before, after, what, text) = match change {
            Change::Added(n) => ("added", None, Some(n), &[][..], format!("+ {:>10}  {shown}{slash}", of(*n))),
            Change::Removed(n) => ("removed", Some(n), None, &[][..], format!("- {:>10}  {shown}{slash}", of(*n))),
            Change::Changed { before, after, what } => {
                let sizes = if before == after { String::new() } else { format!(", was {}", of(*before)) };
                let text = format!("~ {:>10}  {shown}{slash} ({}{sizes})", of(*after), what.join(", "));
                ("changed", Some(before), Some(after), what.as_slice(), text)
            }
        };
        let mut value = ls::path_value(path);
        let facts = json!({
            "change": change,
            "type": ls::kind_name(*kind).0,
            "size_before": before,
            "size_after": after,
            "what": what,
        });
        if let (Value::Object(value), Value::Object(facts)) = (&mut value, facts) {
            value.extend(facts);
        }
        self.line(&value, &text)
    }

    fn summary(&mut self, s: &Summary) -> io::Result<()> {
        let value = json!({
            "added": s.added,
            "removed": s.removed,
            "changed": s.changed,
            "entries": s.entries,
            "content_read": s.bytes_read,
            "failures": s.failures.iter().map(|(path, e)| {
                json!({ "path": String::from_utf8_lossy(path), "error": e.to_string() })
            }).collect::<Vec<_>>(),
        });
        let text = format!(
            "{} added, {} removed, {} changed; {} entries compared, {} of content read",
            s.added,
            s.removed,
            s.changed,
            s.entries,
            size(s.bytes_read)
        );
        self.end(&value, &text)
    }

    fn end(&mut self, value: &Value, text: &str) -> io::Result<()> {
        if !self.json {
            writeln!(self.out, "{text}")?;
            return self.out.flush();
        }
        let before = if self.any { "\n],\n" } else { "{ \"differences\": [],\n" };
        writeln!(self.out, "{before}\"summary\": {value} }}")?;
        self.out.flush()
    }
}
