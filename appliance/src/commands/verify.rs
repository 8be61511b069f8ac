//! `revenant verify`: everything read and compared with its checksums and digests, nothing written.

use std::{ffi::OsString, io::Write};

use blockdev::Result;
use serde_json::json;

use super::{base_name, cancel_flag, open};
use crate::{
    cli::Cli,
    output::{self, size},
    progress::Work,
};

pub fn run(cli: &Cli, paths: &[OsString]) -> Result<u8> {
    let opened = open(cli)?;
    let sources = paths.iter().map(|p| Ok((base_name(p), opened.resolve(p)?))).collect::<Result<Vec<_>>>()?;
    let work = Work::new("verifying", cli.sources.quiet || cli.sources.json, cancel_flag()?);
    let report = vfs::verify::verify(&sources, &work);
    work.finish();
    let mut out = output::stdout();
    if cli.sources.json {
        let failures: Vec<_> = report
            .failures
            .iter()
            .map(|f| {
                let range = f.range.as_ref().map(|r| json!([r.start, r.end]));
                json!({ "path": String::from_utf8_lossy(&f.path), "range": range, "reason": f.reason })
            })
            .collect();
        let value = json!({ "files": report.files, "bytes": report.bytes, "digests": report.digests, "failed": report.failed, "failures": failures });
        output::written(writeln!(out, "{value:#}"))?;
    } else {
        for f in &report.failures {
            let range = f.range.as_ref().map(|r| format!(" bytes {}..{}", r.start, r.end)).unwrap_or_default();
            output::note(&format!("{}{range}: {}", String::from_utf8_lossy(&f.path), f.reason));
        }
        let (files, bytes, digests) = (report.files, size(report.bytes), report.digests);
        output::written(writeln!(
            out,
            "{files} files read, {bytes}, {digests} digests compared; {} failed",
            report.failed
        ))?;
    }
    output::written(out.flush())?;
    let incomplete = opened.tell_missing(paths);
    Ok(match (report.failed, report.files) {
        (0, _) => u8::from(incomplete),
        (failed, files) if failed < files => 1,
        _ => 2,
    })
}
