//! Which restore point is meant: `MACHINE`, `MACHINE@TIME`, or a path of the tree.

use std::sync::Arc;

use blockdev::{Error, Result};
use vfs::providers::machines::MachinePoint;

use crate::commands::Opened;

/// A restore point by its name and its place in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub machine: String,
    pub path: String,
}

impl Target {
    /// What `text` means: the newest point of a machine where no time is given, otherwise the one whose time begins so.
    ///
    /// # Errors
    ///
    /// When there is no such machine or point, or there are several.
    pub fn find(opened: &Opened, text: &str) -> Result<Self> {
        let text = text.trim_end_matches('/');
        if let Some(rest) = ["machines/", "images/"].iter().find_map(|top| text.strip_prefix(top)) {
            let machine = rest.split('/').next().unwrap_or_default().to_owned();
            if text.starts_with("images/") || rest.contains('/') {
                return Ok(Self { machine: file_name(&machine), path: text.to_owned() });
            }
            return Self::find(opened, &machine);
        }
        let (machine, time) = text.split_once('@').map_or((text, None), |(machine, time)| (machine, Some(time)));
        let machines = opened.tree.machines.as_ref().map(|m| m.all()).transpose()?.unwrap_or_default();
        let Some(points) = machines.get(machine) else {
            let known: Vec<_> = machines.keys().map(String::as_str).collect();
            return Err(Error::not_found(match known.is_empty() {
                true => "there are no machines in these volumes; `revenant jobs` lists what there is".to_owned(),
                false => format!("there is no machine {machine}; there are: {}", known.join(", ")),
            }));
        };
        let point = choose(machine, points, time)?;
        Ok(Self { machine: machine.to_owned(), path: format!("machines/{machine}/{}", point.time) })
    }
}

/// An image is called as its file without extension.
fn file_name(name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    volreader::archive::job::component(stem)
}

fn choose<'a>(machine: &str, points: &'a [Arc<MachinePoint>], time: Option<&str>) -> Result<&'a Arc<MachinePoint>> {
    let newest = points.iter().max_by(|a, b| a.time.cmp(&b.time));
    let Some(time) = time.filter(|t| !t.is_empty() && *t != "latest") else {
        return newest.ok_or_else(|| Error::not_found(format!("machine {machine} has no restore point")));
    };
    let wanted = time.replace(' ', "T");
    let own = |point: &Arc<MachinePoint>| point.time.trim_start_matches('@').to_owned();
    if let Some(exact) = points.iter().find(|p| own(p) == wanted) {
        return Ok(exact);
    }
    let mut begin: Vec<_> = points.iter().filter(|p| own(p).starts_with(&wanted)).collect();
    match (begin.pop(), begin.is_empty()) {
        (Some(only), true) => Ok(only),
        (last, _) => {
            let all: Vec<_> =
                if last.is_some() { begin.into_iter().chain(last).collect() } else { points.iter().collect() };
            let all: Vec<_> = all.into_iter().map(own).collect();
            let which = if last.is_some() { "is the beginning of several times" } else { "is the time of no point" };
            Err(Error::not_found(format!("{time} {which} of machine {machine}; there are: {}", all.join(", "))))
        }
    }
}
