//! `revenant extract`: files and folders restored with all attributes.

use std::{ffi::OsString, path::Path};

use blockdev::Result;
use serde_json::json;
use vfs::extract::{Options, Source, Verify};

use super::{base_name, cancel_flag, open};
use crate::{
    cli::Cli,
    output::{self, size},
    progress::Work,
};

pub fn run(
    cli: &Cli,
    paths: &[OsString],
    target: &Path,
    keep_existing: bool,
    no_digests: bool,
    workers: Option<usize>,
) -> Result<u8> {
    let opened = open(cli)?;
    let sources = paths.iter().map(|p| Ok(Source { node: opened.resolve(p)?, name: base_name(p) }));
    let sources = sources.collect::<Result<Vec<_>>>()?;
    let mut options = Options::default();
    options.verify = if no_digests { Verify::None } else { Verify::Digest };
    (options.keep_existing, options.workers) = (keep_existing, workers);
    let work = Work::new("restoring", cli.sources.quiet || cli.sources.json, cancel_flag()?);
    let summary = vfs::extract::extract(&sources, target, &options, &work)?;
    work.finish();
    if cli.sources.json {
        let failures: Vec<_> = summary
            .failures
            .iter()
            .map(|f| {
                let ranges: Vec<_> = f.ranges.iter().map(|r| json!([r.start, r.end])).collect();
                json!({ "path": String::from_utf8_lossy(&f.path), "ranges": ranges, "reason": f.reason })
            })
            .collect();
        println!(
            "{:#}",
            json!({
                "files": summary.files, "partly": summary.partly, "folders": summary.dirs, "bytes": summary.bytes,
                "kept": summary.kept, "failed": summary.failed, "failures": failures, "warnings": summary.warnings,
                "stopped": summary.stopped,
            })
        );
    } else {
        for failure in &summary.failures {
            output::note(&failure.to_string());
        }
        for warning in &summary.warnings {
            output::note(&format!("warning: {warning}"));
        }
        if let Some(why) = &summary.stopped {
            output::note(&format!("stopped: {why}"));
        }
        println!(
            "{} files and {} folders restored to {}, {}; {} failed, {} warnings",
            summary.files,
            summary.dirs,
            target.display(),
            size(summary.bytes),
            summary.failed,
            summary.warned
        );
    }
    // Files of which not even the name is left cannot be in the summary.
    let incomplete = opened.tell_missing(paths);
    Ok(if incomplete { summary.exit_code().max(1) } else { summary.exit_code() })
}
