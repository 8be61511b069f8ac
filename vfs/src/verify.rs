//! Reading everything and comparing it with its checksums and digests, without writing anything.

use std::{
    ops::{ControlFlow, Range},
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use blockdev::{Error, ExtentKind, ReadAt, Result};
use volreader::digest::Hasher;

use crate::{
    extract::Progress,
    node::{File, Node},
};

/// What is read at once.
const CHUNK: usize = 1 << 20;
/// Damage is told to this precision: a page, as a reader of a mounted file meets it.
const PAGE: u64 = 4096;
/// Failures that are kept in words; the rest is counted.
const KEPT: usize = 1000;

/// Something that is not as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where, from the path that was named.
    pub path: Vec<u8>,
    /// The bytes that cannot be read; `None` when the whole thing fails.
    pub range: Option<Range<u64>>,
    /// Why.
    pub reason: String,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Digests that were compared.
    pub digests: u64,
    /// Files that failed.
    pub failed: u64,
    /// Failures, the first 1000.
    pub failures: Vec<Failure>,
}

/// Read `sources` (name and node) and all below them.
#[must_use]
pub fn verify(sources: &[(Vec<u8>, Node)], progress: &dyn Progress) -> Report {
    let report = Mutex::new(Report::default());
    let workers = thread::available_parallelism().map_or(2, std::num::NonZero::get).min(16);
    let (send, receive) = mpsc::sync_channel::<(Vec<u8>, Node)>(256);
    let receive = Mutex::new(receive);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut buf = vec![0; CHUNK];
                loop {
                    let next = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((path, node)) = next else { break };
                    if !progress.cancelled() {
                        check(&path, &node, &mut buf, progress, &report);
                    }
                }
            });
        }
        walk(sources, &send, progress, &report);
        drop(send);
    });
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn fail(report: &Mutex<Report>, path: &[u8], failures: Vec<(Option<Range<u64>>, String)>) {
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    report.failed += 1;
    for (range, reason) in failures {
        if report.failures.len() < KEPT {
            report.failures.push(Failure { path: path.to_vec(), range, reason });
        }
    }
}

fn walk(
    sources: &[(Vec<u8>, Node)],
    send: &mpsc::SyncSender<(Vec<u8>, Node)>,
    progress: &dyn Progress,
    report: &Mutex<Report>,
) {
    let mut stack: Vec<(Vec<u8>, Node)> = sources.to_vec();
    while let Some((path, node)) = stack.pop() {
        let Node::Dir(dir) = node else {
            let size = node.inode().attributes().map_or(0, |a| a.size);
            progress.found(1, size);
            if send.send((path, node)).is_err() {
                return;
            }
            continue;
        };
        let mut names = Vec::new();
        let listed = dir.list(0, &mut |entry| {
            names.push(entry.name);
            if progress.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(e) = listed {
            fail(report, &path, vec![(None, e.to_string())]);
        }
        for name in names {
            let child = [&path[..], b"/", &name].concat();
            match dir.lookup(&name) {
                // Files go to the workers at once: a folder of a million is not kept.
                Ok(Some(node @ Node::Dir(_))) => stack.push((child, node)),
                Ok(Some(node)) => {
                    progress.found(1, node.inode().attributes().map_or(0, |a| a.size));
                    if send.send((child, node)).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(e) => fail(report, &child, vec![(None, e.to_string())]),
            }
        }
    }
    progress.all_found();
}

fn check(path: &[u8], node: &Node, buf: &mut [u8], progress: &dyn Progress, report: &Mutex<Report>) {
    let outcome = match node {
        Node::File(file) => check_file(file.as_ref(), buf, progress),
        Node::Symlink(link) => link.target().map(|_| Checked::default()),
        Node::Dir(_) | Node::Special(_) => node.inode().xattrs().map(|_| Checked::default()),
    };
    match outcome {
        Ok(checked) => {
            {
                let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                report.files += 1;
                report.bytes += checked.bytes;
                report.digests += u64::from(checked.compared);
            }
            if !checked.failures.is_empty() {
                fail(report, path, checked.failures);
            }
        }
        Err(e) => {
            report.lock().unwrap_or_else(PoisonError::into_inner).files += 1;
            fail(report, path, vec![(None, e.to_string())]);
        }
    }
}

#[derive(Default)]
struct Checked {
    bytes: u64,
    compared: bool,
    failures: Vec<(Option<Range<u64>>, String)>,
}

fn check_file(file: &dyn File, buf: &mut [u8], progress: &dyn Progress) -> Result<Checked> {
    let content = file.open()?;
    file.xattrs()?;
    let digest = file.digest()?;
    let mut hasher = digest.as_ref().map(|d| Hasher::new(d.algorithm));
    let mut checked = Checked { bytes: content.size(), ..Checked::default() };
    let mut at = 0;
    while at < content.size() && !progress.cancelled() {
        let extent = match content.extent_at(at) {
            Ok(Some(extent)) => extent,
            Ok(None) => break,
            Err(e) => {
                checked.failures.push((Some(at..content.size()), e.to_string()));
                break;
            }
        };
        if extent.kind == ExtentKind::Hole {
            progress.done(0, extent.range.end - at);
            at = extent.range.end;
            continue;
        }
        let n = (extent.range.end - at).min(buf.len() as u64) as usize;
        match content.read_at(&mut buf[..n], at) {
            Ok(_) => hasher.iter_mut().for_each(|h| h.update(&buf[..n])),
            Err(e) => locate(content.as_ref(), at..at + n as u64, &mut buf[..], &e, &mut checked.failures),
        }
        progress.done(0, n as u64);
        at += n as u64;
    }
    if let (Some(digest), Some(hasher), true, false) =
        (digest, hasher, checked.failures.is_empty(), progress.cancelled())
    {
        checked.compared = true;
        if hasher.finish() != digest.value {
            checked.failures.push((None, format!("the content does not match its {} digest", digest.algorithm)));
        }
    }
    Ok(checked)
}

/// Find the pages of `range` that cannot be read.
fn locate(
    content: &dyn ReadAt,
    range: Range<u64>,
    buf: &mut [u8],
    e: &Error,
    failures: &mut Vec<(Option<Range<u64>>, String)>,
) {
    let mut bad: Option<(Range<u64>, String)> = None;
    let mut at = range.start;
    while at < range.end {
        let end = ((at / PAGE + 1) * PAGE).min(range.end);
        if let Err(e) = content.read_at(&mut buf[..(end - at) as usize], at) {
            match &mut bad {
                Some((r, _)) if r.end == at => r.end = end,
                _ => {
                    failures.extend(bad.take().map(|(r, why)| (Some(r), why)));
                    bad = Some((at..end, e.to_string()));
                }
            }
        }
        at = end;
    }
    failures.extend(bad.map(|(r, why)| (Some(r), why)));
    if failures.is_empty() {
        failures.push((Some(range), e.to_string()));
    }
}
