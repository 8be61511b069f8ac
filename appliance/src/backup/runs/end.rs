//! After a job: whether everything was delivered, and is what it should be.

use std::{path::Path, sync::Arc};

use blockdev::{Error, Result};
use serde_json::{Value, json};
use vfs::changed::Found;

use super::{Backups, End, Machine, split};
use crate::{
    backup::{
        chain,
        digests::Digests,
        proof::Past,
        record::{Chain, Member, Phase, now},
        run::Run,
    },
    output,
};

/// Files of the guest that the log names.
const TOP: usize = 5;

impl Backups {
    /// Ends a job's machine, or all of them; the first error is told when all have been ended.
    pub(super) fn end(&self, end: &End, step: &dyn Fn(&str)) -> Result<Value> {
        if let Some(machine) = &end.machine {
            return self.end_machine(machine, end, step);
        }
        let of_job = |machine: &Arc<Machine>| {
            let chain = machine.chain.read();
            (chain.last_job == end.job).then(|| chain.key())
        };
        let machines: Vec<String> = self.machines.lock().values().filter_map(of_job).collect();
        if machines.is_empty() && is_ok(end) {
            return Err(Error::not_found(format!("the job {} has no machine: it is NOT usable", end.job)));
        }
        let ended: Vec<Result<Value>> = machines.iter().map(|machine| self.end_machine(machine, end, step)).collect();
        ended.into_iter().collect::<Result<Vec<Value>>>().map(Value::Array)
    }

    fn end_machine(&self, name: &str, end: &End, step: &dyn Fn(&str)) -> Result<Value> {
        let machine = self.machine(name)?;
        let (_, name) = split(name)?;
        let line = |text: String| step(&format!("{name}: {text}"));
        let _changing = machine.changing.lock();
        let is_ok = is_ok(end);
        let begun = machine.chain.read().run.as_ref().map(|run| run.point.job.clone());
        let live = machine.live.read().clone();
        let given_up = machine.given_up.lock().clone().filter(|(job, _)| *job == end.job).map(|(_, why)| why);
        match (live, begun) {
            (Some(run), _) if run.point.job == end.job => {
                run.unsaid().iter().cloned().for_each(&line);
                if !is_ok {
                    line(format!(
                        "the job ended as {:?}: its point is taken back, nothing that changed is lost",
                        end.status
                    ));
                    self.abandon(&machine)?;
                    return Ok(Value::Null);
                }
                self.finish(&machine, &run, &line)
            }
            (_, Some(job)) if job != end.job => {
                Err(Error::invalid(format!("{name} is being backed up by {job}, not by {}", end.job)))
            }
            _ if !is_ok => {
                line(
                    given_up.map_or_else(
                        || "nothing of the job is left".to_owned(),
                        |why| format!("it was given up: {why}"),
                    ),
                );
                self.settle(&machine)?;
                Ok(Value::Null)
            }
            _ => {
                self.settle(&machine)?;
                let why = given_up.unwrap_or_else(|| "it was not begun, or the daemon has ended since".to_owned());
                Err(Error::invalid(format!("{name}: there is no backup {}: {why}: this backup is NOT usable", end.job)))
            }
        }
    }

    /// Keeps a job that has delivered everything, and takes back one that has not.
    fn finish(&self, machine: &Machine, run: &Arc<Run>, line: &dyn Fn(String)) -> Result<Value> {
        let name = machine.chain.read().machine.clone();
        let unusable = |why: String| {
            line(format!("{why}: this backup is NOT usable"));
            Error::damaged(format!("{name}: {why}"))
        };
        let missing = run.not_delivered();
        if !missing.is_empty() {
            let error = missing.into_iter().map(&unusable).next_back();
            self.abandon(machine)?;
            return Err(error.unwrap_or_else(|| Error::damaged("nothing was delivered")));
        }
        let proven = run.complete_digests().and_then(|()| {
            let chain = machine.chain.read().clone();
            let folder = self.store.folder(&chain);
            run.prove(&|disk, point| past(&chain, &folder, disk, point))
        });
        let proven = match proven {
            Ok(proven) => proven,
            Err(e) => {
                self.abandon(machine)?;
                return Err(unusable(e.to_string()));
            }
        };
        let mut wrong = Vec::new();
        for proof in &proven {
            let Some((why, is_whole)) = &proof.wrong else { continue };
            wrong.push((proof.disk.clone(), why.clone(), *is_whole));
        }
        if let Some((disk, why, _)) = wrong.iter().find(|(_, _, is_whole)| !is_whole) {
            let reason = format!("a delta of it was wrong ({why})");
            let distrusted: Vec<_> = wrong.iter().map(|(disk, ..)| (disk.clone(), reason.clone())).collect();
            machine.change(&self.store, |chain| chain.distrusted.extend(distrusted))?;
            self.abandon(machine)?;
            return Err(unusable(format!("disk {disk}: {why}; the next job takes it whole")));
        }
        for (disk, why, _) in &wrong {
            line(format!(
                "WARNING: disk {disk}: {why}. This backup has all of it; do not trust earlier ones of this disk"
            ));
        }
        let top = if run.changed().is_some_and(|bytes| bytes > 0) { run.top_changes(TOP) } else { Found::default() };
        self.keep(machine, run, !wrong.is_empty())?;
        let clusters: u64 = proven.iter().filter(|proof| proof.wrong.is_none()).map(|proof| proof.clusters).sum();
        line(format!(
            "delivered {} of {} disks, {}, 0 read errors; change tracking proven on {clusters} clusters",
            run.point.disks.len(),
            run.point.disks.len(),
            output::size(run.bytes()),
        ));
        if !top.files.is_empty() {
            line(shown(&top));
        }
        Ok(json!({
            "machine": name,
            "top_changes": top.files.iter().map(|(path, bytes)| json!({
                "path": String::from_utf8_lossy(path), "bytes": bytes,
            })).collect::<Vec<_>>(),
            "delivered": run.bytes(),
            "proven_clusters": clusters,
            "files": run.point.disks.iter().map(|member| member.file.clone()).collect::<Vec<_>>(),
        }))
    }

    /// Keeps a job that was proven. With `alone` no later one is based on an earlier.
    fn keep(&self, machine: &Machine, run: &Run, alone: bool) -> Result<()> {
        machine.change(&self.store, |chain| {
            if let Some(run) = &mut chain.run {
                run.phase = Phase::Keeping;
                run.point.ended = now();
            }
            if alone {
                chain.points.clear();
            }
            for member in run.point.disks.iter().filter(|member| member.backing.is_none()) {
                chain.distrusted.remove(&member.disk);
            }
        })?;
        *machine.live.write() = None;
        // It is kept from here on, whatever happens: `settle` goes on with it.
        if let Err(e) = self.settle(machine) {
            output::note(&format!("{}: {e}", machine.chain.read().key()));
        }
        Ok(())
    }

    /// Takes the running job back.
    pub(super) fn abandon(&self, machine: &Machine) -> Result<()> {
        *machine.live.write() = None;
        self.roll_back(machine)
    }

    pub(super) fn roll_back(&self, machine: &Machine) -> Result<()> {
        machine.change(&self.store, |chain| {
            if let Some(run) = &mut chain.run {
                run.phase = Phase::RollingBack;
            }
        })?;
        self.settle(machine)
    }
}

/// For people: `top changes: /var/lib/mysql/shop.ibd 910.0 MiB, /var/log/app.log 120.0 MiB`.
fn shown(top: &Found) -> String {
    // A guest can call its files what it wants; Bacula's log is text.
    let name = |path: &[u8]| String::from_utf8_lossy(path).replace(char::is_control, "?");
    let files: Vec<_> =
        top.files.iter().map(|(path, bytes)| format!("{} {}", name(path), output::size(*bytes))).collect();
    let more = if top.complete { "" } else { " (of those that there was time to look at)" };
    format!("top changes: {}{more}", files.join(", "))
}

/// Whether Bacula is content with the job.
fn is_ok(end: &End) -> bool {
    end.status.starts_with("OK") || end.status == "T" || end.status == "W"
}

/// What `disk` was at `point`; `None` where that is not known any more.
fn past(chain: &Chain, folder: &Path, disk: &str, point: u64) -> Result<Option<Past>> {
    let Ok(ancestors) = chain::ancestors(&chain.points, point) else { return Ok(None) };
    let mut layers = Vec::new();
    for point in ancestors.iter().rev() {
        let Some(member) = point.disks.iter().find(|member| member.disk == disk) else { return Ok(None) };
        let digests = match Digests::open(&folder.join(&point.digests.name)) {
            Ok(digests) => digests,
            // It proves nothing any more; that is no fault of the job's.
            Err(_) => return Ok(None),
        };
        let Some(own) = digests.disk(disk) else { return Ok(None) };
        layers.push(Arc::clone(own));
        if is_whole(member) {
            return Ok(Some(Past::new(layers)));
        }
    }
    Ok(None)
}

const fn is_whole(member: &Member) -> bool {
    member.backing.is_none()
}
