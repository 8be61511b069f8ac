//! `revenant jobs`: the jobs, as a table or for programs.

use std::{io::Write, sync::Arc};

use blockdev::Result;
use serde_json::{Value, json};
use vfs::providers::points;
use volreader::archive::{
    Archive, Job,
    job::{level_name, status_name},
};

use super::open;
use crate::{
    cli::Cli,
    output::{self, size},
};

pub fn run(cli: &Cli) -> Result<u8> {
    let opened = open(cli)?;
    let jobs = opened.archive.jobs()?;
    let mut out = output::stdout();
    if cli.sources.json {
        let values = jobs.iter().map(|j| value(&opened.archive, j)).collect::<Result<Vec<_>>>()?;
        output::written(writeln!(out, "{:#}", Value::Array(values)).and_then(|()| out.flush()))?;
        return Ok(0);
    }
    let rows: Vec<_> = jobs.iter().map(|j| row(j)).collect();
    let head = ["JOB", "NAME", "CLIENT", "LEVEL", "STATUS", "START", "FILES", "BYTES", "VOLUMES"];
    output::written(output::table(&mut out, &head, &[0, 6, 7], &rows).and_then(|()| out.flush()))?;
    for job in &jobs {
        for missing in &job.missing {
            output::note(&format!("job {}: missing: {missing}", job.facts.job_id));
        }
    }
    opened.tell_problems();
    Ok(0)
}

fn row(job: &Job) -> Vec<String> {
    let f = &job.facts;
    let status = match f.status {
        Some(b'T') => "OK".to_owned(),
        Some(_) => status_name(f.status).to_owned(),
        None => "no end label".to_owned(),
    };
    vec![
        f.job_id.to_string(),
        f.name.clone(),
        f.client.clone(),
        level_name(f.level).to_owned(),
        status,
        f.start_time.clone(),
        f.files.to_string(),
        size(f.bytes),
        job.volumes.join(", "),
    ]
}

fn value(archive: &Archive, job: &Arc<Job>) -> Result<Value> {
    let f = &job.facts;
    let letter = |b: u8| char::from(b).to_string();
    let streams: Vec<_> = job
        .streams()
        .map(|(id, total)| json!({ "stream": id.number(), "name": id.to_string(), "records": total.records, "bytes": total.bytes }))
        .collect();
    let objects: Vec<_> = f
        .objects
        .iter()
        .map(|(file_index, stream)| {
            let id = volreader::stream::StreamId::from_header(i32::from(*stream));
            json!({ "file_index": file_index, "stream": stream, "name": id.to_string() })
        })
        .collect();
    Ok(json!({
        "job_id": f.job_id,
        "job": f.unique_name,
        "name": f.name,
        "client": f.client,
        "fileset": f.fileset,
        "pool": f.pool,
        "type": letter(f.kind),
        "level": level_name(f.level),
        "level_code": letter(f.level),
        "status": f.status.map(letter),
        "status_text": status_name(f.status),
        "start_time": f.start_time,
        "files": f.files,
        "bytes": f.bytes,
        "volumes": job.volumes,
        "missing": job.missing,
        "session_id": job.session.id,
        "session_time": job.session.time,
        "streams": streams,
        "objects": objects,
        "tree_path": format!("jobs/{}", f.folder()),
        "point_path": points::point_path(archive, job)?,
    }))
}
