//! `revenant extract`: files and folders restored with all attributes, into a folder or as an archive.

use std::{
    ffi::OsString,
    fs::File,
    io::{BufWriter, IsTerminal},
    os::fd::AsFd,
    path::Path,
};

use blockdev::{Error, Result};
use serde_json::{Value, json};
use vfs::extract::{Options, Source, Summary, Verify, archive};

use super::{base_name, cancel_flag, open};
use crate::{
    cli::{ArchiveFormat, Cli},
    output::{self, size},
    progress::Work,
};

/// Bytes that are collected before they are written to standard output: headers and small files in one write.
const BUFFER: usize = 256 << 10;

/// How to restore.
pub struct How {
    pub format: Option<ArchiveFormat>,
    pub keep_existing: bool,
    pub no_digests: bool,
    pub workers: Option<usize>,
}

pub fn run(cli: &Cli, paths: &[OsString], target: &Path, how: &How) -> Result<u8> {
    let is_archive = target == Path::new("-");
    if !is_archive && how.format.is_some() {
        return Err(Error::invalid("--format is for archives: give -o - to write one to standard output"));
    }
    if is_archive && (how.keep_existing || how.workers.is_some()) {
        return Err(Error::invalid(
            "--keep-existing and --workers are for folders: -o - writes an archive in one pass",
        ));
    }
    if is_archive && std::io::stdout().is_terminal() {
        return Err(Error::invalid(
            "an archive is nothing for a terminal: redirect standard output into a file or a pipe",
        ));
    }
    let opened = open(cli)?;
    let sources = paths.iter().map(|p| Ok(Source { node: opened.resolve(p)?, name: base_name(p) }));
    let sources = sources.collect::<Result<Vec<_>>>()?;
    let mut options = Options::default();
    options.verify = if how.no_digests { Verify::None } else { Verify::Digest };
    (options.keep_existing, options.workers) = (how.keep_existing, how.workers);
    let work = Work::new("restoring", cli.sources.quiet || cli.sources.json, cancel_flag()?);
    let summary = if is_archive {
        let format = match how.format {
            None | Some(ArchiveFormat::Tar) => archive::Format::Tar,
            Some(ArchiveFormat::Zip) => archive::Format::Zip,
            Some(ArchiveFormat::ZipStored) => archive::Format::ZipStored,
        };
        // Not the standard library's own handle: it would look for line feeds in the archive.
        let out = std::io::stdout().as_fd().try_clone_to_owned();
        let out = out.map_err(|e| Error::io("cannot write to standard output", e))?;
        archive::write(&sources, &mut BufWriter::with_capacity(BUFFER, File::from(out)), format, &options, &work)?
    } else {
        vfs::extract::extract(&sources, target, &options, &work)?
    };
    work.finish();
    if cli.sources.json {
        // Standard output may be the archive.
        let told = format!("{:#}", as_json(&summary));
        if is_archive { eprintln!("{told}") } else { println!("{told}") }
    } else {
        tell(&summary, (!is_archive).then_some(target));
    }
    // Files of which not even the name is left cannot be in the summary.
    let incomplete = opened.tell_missing(paths);
    Ok(if incomplete { summary.exit_code().max(1) } else { summary.exit_code() })
}

fn as_json(summary: &Summary) -> Value {
    let failures: Vec<_> = summary
        .failures
        .iter()
        .map(|f| {
            let ranges: Vec<_> = f.ranges.iter().map(|r| json!([r.start, r.end])).collect();
            json!({ "path": String::from_utf8_lossy(&f.path), "ranges": ranges, "reason": f.reason })
        })
        .collect();
    json!({
        "files": summary.files, "partly": summary.partly, "folders": summary.dirs, "bytes": summary.bytes,
        "kept": summary.kept, "failed": summary.failed, "failures": failures, "warnings": summary.warnings,
        "stopped": summary.stopped,
    })
}

/// Tells people what was restored to `target`, or into an archive on standard output.
fn tell(summary: &Summary, target: Option<&Path>) {
    for failure in &summary.failures {
        output::note(&failure.to_string());
    }
    for warning in &summary.warnings {
        output::note(&format!("warning: {warning}"));
    }
    if let Some(why) = &summary.stopped {
        output::note(&format!("stopped: {why}"));
    }
    let counts = format!("{} files and {} folders", summary.files, summary.dirs);
    let rest = format!("{}; {} failed, {} warnings", size(summary.bytes), summary.failed, summary.warned);
    match target {
        Some(target) => println!("{counts} restored to {}, {rest}", target.display()),
        None => output::note(&format!("{counts} in the archive, {rest}")),
    }
}
