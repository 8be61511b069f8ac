//! `revenant points`: machines and their restore points, as a table or for programs.

use std::io::Write;

use blockdev::{Error, ReadAt, Result};
use serde_json::{Value, json};
use vfs::providers::machines::{MachineDisk, MachinePoint};

use super::open;
use crate::{
    cli::Cli,
    output::{self, size},
};

pub fn run(cli: &Cli, machine: Option<&str>) -> Result<u8> {
    let opened = open(cli)?;
    let machines = opened.tree.machines.as_ref().map(|m| m.all()).transpose()?.unwrap_or_default();
    if let Some(unknown) = machine.filter(|m| !machines.contains_key(*m)) {
        let known: Vec<_> = machines.keys().map(String::as_str).collect();
        return Err(Error::not_found(format!("there is no machine {unknown}; there are: {}", known.join(", "))));
    }
    let chosen = machines.iter().filter(|(name, _)| machine.is_none_or(|m| m == *name));
    let points = chosen.flat_map(|(name, points)| points.iter().map(move |p| (name.as_str(), p)));
    let mut out = output::stdout();
    if cli.sources.json {
        let values: Vec<_> = points.map(|(name, point)| value(name, point)).collect();
        output::written(writeln!(out, "{:#}", Value::Array(values)).and_then(|()| out.flush()))?;
    } else {
        let rows: Vec<_> = points.map(|(name, point)| row(name, point)).collect();
        let head = ["MACHINE", "TIME", "JOB", "CLIENT", "DISKS"];
        output::written(output::table(&mut out, &head, &[2], &rows).and_then(|()| out.flush()))?;
    }
    opened.tell_problems();
    Ok(0)
}

fn row(machine: &str, point: &MachinePoint) -> Vec<String> {
    let disk = |disk: &MachineDisk| match disk.subject.image.get() {
        Ok(image) => format!("{} ({})", disk.name, size(image.disk.size())),
        Err(_) => format!("{} (cannot be opened)", disk.name),
    };
    let disks: Vec<_> = point.disks.iter().map(disk).collect();
    vec![
        machine.to_owned(),
        point.time.trim_start_matches('@').replace('T', " "),
        point.job_id.to_string(),
        point.client.clone(),
        disks.join(", "),
    ]
}

fn value(machine: &str, point: &MachinePoint) -> Value {
    let tree_path = format!("machines/{machine}/{}", point.time);
    let disk = |disk: &MachineDisk| {
        let mut value = json!({
            "name": disk.name,
            "file": disk.file,
            "tree_path": format!("{tree_path}/disks/{}.raw", disk.name),
        });
        match disk.subject.image.get() {
            Ok(image) => {
                value["virtual_size"] = image.disk.size().into();
                value["format"] = image.members.first().map(|m| m.info.format.name()).into();
                value["chain"] = image.members.iter().map(|m| m.name.as_str()).collect();
            }
            Err(e) => value["error"] = e.to_string().into(),
        }
        value
    };
    json!({
        "machine": machine,
        "time": point.time.trim_start_matches('@').replace('T', " "),
        "job_id": point.job_id,
        "client": point.client,
        "tree_path": tree_path,
        "files_path": point.folder,
        "disks": point.disks.iter().map(disk).collect::<Vec<_>>(),
    })
}
