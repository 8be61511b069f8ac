//! Before a job: the machine at one moment, as files.

use std::{fs, io, path::Path, sync::Arc, thread, time::Duration};

use blockdev::{Error, ErrorKind, Result};
use hv_drivers::driver::{Consistency, DiskWish, Inspected, LiveDisk, State, Wish};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Backups, Begin, Machine, split};
use crate::{
    backup::{
        chain::{self, Plan},
        file_daemon::FileDaemon,
        hypervisors,
        record::{Level, Member, Phase, Point, Run as RunRecord, Small, Text, now},
        restore_text, room,
        run::Run,
    },
    output,
};

impl Backups {
    pub(super) fn begin(&self, begin: &Begin, file_daemon: Option<FileDaemon>, step: &dyn Fn(&str)) -> Result<Value> {
        let Some(mounted) = self.mounted.get() else {
            return Err(Error::invalid(
                "the tree is not mounted, so no File daemon can read it: start `revenant serve --mount FOLDER`",
            ));
        };
        let (hypervisor, name) = split(&begin.machine)?;
        let driver = hypervisors::one(&self.sources, hypervisor)?;
        let inspected = hypervisors::inventory(driver.as_ref())?.inspect(name)?;
        let machine = self.machine(&begin.machine)?;
        let busy = || {
            let other = machine.chain.read().run.as_ref().map(|run| run.point.job.clone());
            let other = other.unwrap_or_else(|| "another job".to_owned());
            Error::new(
                ErrorKind::Locked,
                format!(
                    "{name} is being backed up by {other} already; if that one is dead: \
                     revenant backup end {} --job {other} --status Canceled",
                    begin.machine
                ),
            )
        };
        let _changing = machine.changing.try_lock().ok_or_else(busy)?;
        let said = Mutex::new(Vec::new());
        let line = |text: String| {
            step(&format!("{name}: {text}"));
            said.lock().push(text);
        };
        let other = machine.live.read().clone();
        if let Some(other) = other {
            let why = other.doomed().ok_or_else(busy)?;
            line(format!("{} was not ended: {why}: its point is taken back", other.point.job));
            self.give_up(&machine, &other, &why)?;
        }
        self.settle(&machine)?;
        let scratch = hypervisors::tracking(driver.as_ref())?.scratch(&self.store.make_folder(&machine.chain.read())?);
        if let Some(why) = room::shortage(&scratch) {
            return Err(Error::new(ErrorKind::NoSpace, format!("{name}: {why}")));
        }
        tell_machine(&inspected, &line);

        let unknown = begin.include.iter().find(|wanted| !inspected.disks.iter().any(|disk| disk.name == **wanted));
        if let Some(unknown) = unknown {
            let known: Vec<_> = inspected.disks.iter().map(|disk| disk.name.as_str()).collect();
            return Err(Error::not_found(format!("{name} has no disk {unknown}, only {}", known.join(", "))));
        }
        let why_not = |disk: &LiveDisk| match disk {
            disk if begin.exclude.contains(&disk.name) => Some("excluded"),
            disk if !begin.include.is_empty() && !begin.include.contains(&disk.name) => Some("not included"),
            _ => None,
        };
        let disks: Vec<_> = inspected.disks.iter().filter(|disk| why_not(disk).is_none()).cloned().collect();
        for (disk, why) in inspected.disks.iter().filter_map(|disk| why_not(disk).map(|why| (disk, why))) {
            line(format!("NOT in this backup: disk {} ({why})", disk.name));
        }
        for (what, why) in &inspected.left_out {
            line(format!("NOT in this backup: {what} ({why})"));
        }
        let machine_had = machine.chain.read().points.last().map_or_else(Vec::new, |point| point.disks.clone());
        missing(&machine_had, &inspected).into_iter().for_each(&line);
        if disks.is_empty() {
            return Err(Error::invalid(format!("{name} has no disk that can be backed up")));
        }
        let parent = begin.parent.as_deref().filter(|parent| !parent.is_empty());
        let plan = chain::plan(&machine.chain.read(), &disks, begin.level, parent, &begin.job, now());
        plan.notes.iter().for_each(|note| line(note.clone()));
        after(plan.time)?;

        let point = Point {
            number: plan.number,
            mark: format!("{}-{}", self.store.installation()?, plan.number),
            job: begin.job.clone(),
            level: plan.level,
            parent: plan.parent,
            begun: now(),
            ended: 0,
            time: plan.time,
            disks: Vec::new(),
            texts: Vec::new(),
            digests: Small { name: String::new(), bytes: 0 },
        };
        // Before anything is made at the hypervisor.
        machine.change(&self.store, |chain| {
            chain.last = plan.number;
            chain.last_job = begin.job.clone();
            chain.run = Some(RunRecord { point: point.clone(), phase: Phase::Open });
        })?;
        let begun = self.cut(&machine, &plan, point, &inspected, begin, &line);
        let run = match begun {
            Ok(run) => run,
            Err(e) => {
                if let Err(left) = self.roll_back(&machine) {
                    line(format!("what was begun is taken back later: {left}"));
                }
                return Err(e);
            }
        };
        let changed = run.changed();
        line(match (plan.level, changed) {
            (Level::Full, _) => format!("Full, {} to be read", output::size(run.bytes())),
            (level, Some(changed)) => {
                format!("{} on {}, changed {}", level.name(), parent.unwrap_or_default(), output::size(changed))
            }
            (level, None) => format!("{} with whole disks, {} to be read", level.name(), output::size(run.bytes())),
        });
        let unsaid = if begin.is_silent { std::mem::take(&mut *said.lock()) } else { Vec::new() };
        let run = Arc::new(run.begun_by(file_daemon, unsaid, scratch));
        *machine.live.write() = Some(Arc::clone(&run));
        Ok(json!({
            "machine": begin.machine,
            "folder": mounted.join("backup").join(hypervisor).join(name),
            "level": plan.level,
            "bytes": run.bytes(),
            "changed": changed,
        }))
    }

    /// Makes the point in time, and what the job is to read of it.
    fn cut(
        &self,
        machine: &Machine,
        plan: &Plan,
        point: Point,
        inspected: &Inspected,
        begin: &Begin,
        line: &dyn Fn(String),
    ) -> Result<Run> {
        let (hypervisor, name) = split(&begin.machine)?;
        let driver = hypervisors::one(&self.sources, hypervisor)?;
        let folder = self.store.make_folder(&machine.chain.read())?;
        let wished: Vec<DiskWish> = plan
            .disks
            .iter()
            .map(|planned| DiskWish { name: planned.disk.name.clone(), since: planned.since.clone() })
            .collect();
        // This program, also when its file has been replaced by a newer one.
        let guard = begin.quiesce.then_some(Path::new("/proc/self/exe"));
        let wish = Wish { machine: name, mark: &point.mark, disks: &wished, scratch: &folder, quiesce: guard };
        let cut = hypervisors::tracking(driver.as_ref())?.begin(&wish)?;
        match &cut.consistency {
            Consistency::Files(count) => {
                line(format!("{count} filesystems frozen for {} ms", cut.frozen.as_millis()));
            }
            Consistency::Crash(why) => line(format!("CRASH CONSISTENT, as after a power loss: {why}")),
        }
        let texts = |point: &Point| {
            let mut described = inspected.machine.clone();
            described.disks.retain(|disk| point.disks.iter().any(|m| disk.name.as_deref() == Some(m.disk.as_str())));
            for (disk, member) in described.disks.iter_mut().zip(&point.disks) {
                disk.file = Some(member.file.clone());
                disk.size = Some(member.size);
            }
            let native = inspected
                .native
                .iter()
                .map(|(name, text)| Text { name: name.clone(), text: String::from_utf8_lossy(text).into_owned() });
            let restore = restore_text::text(name, hypervisor, point.level, &point.job, &point.disks);
            [Text { name: hv_drivers::machine::FILE_NAME.to_owned(), text: described.write() }]
                .into_iter()
                .chain(native)
                .chain([Text { name: "RESTORE.txt".to_owned(), text: restore }])
                .collect()
        };
        let run = Run::new(plan, cut.disks, point, &folder, &texts, line)?;
        machine.change(&self.store, |chain| {
            chain.run = Some(RunRecord { point: run.point.clone(), phase: Phase::Open });
        })?;
        Ok(run)
    }
}

/// Waits until it is later than `time`: the job starts in another second than that in which its parent was delivered.
///
/// # Errors
///
/// When that would take long: then the clock was set back, and Bacula would take the wrong files.
fn after(time: i64) -> Result<()> {
    /// Seconds.
    const LIMIT: i64 = 5;
    while now() <= time {
        if time - now() > LIMIT {
            return Err(Error::invalid(format!(
                "the clock was set back by {} s since the last backup: wait so long, or run a Full",
                time - now()
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What the admin should know of disks that are not there any more: `had` are those of the backup before.
fn missing(had: &[Member], inspected: &Inspected) -> Vec<String> {
    let is_there = |name: &str| {
        inspected.disks.iter().any(|disk| disk.name == name) || inspected.left_out.iter().any(|(what, _)| what == name)
    };
    let gone = had.iter().filter(|member| !is_there(&member.disk));
    let gone = gone.map(|member| {
        format!("NOT in this backup: disk {}, which the last one had: the machine has it no more", member.disk)
    });
    // What its hypervisor holds open is read all the same.
    let is_removed =
        |place: &str| place.starts_with('/') && fs::metadata(place).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    let removed = inspected.disks.iter().filter(|disk| is_removed(&disk.place)).map(|disk| {
        format!(
            "WARNING: the image of disk {} is not there any more ({}): once the machine ends, this backup is all there is \
             of it",
            disk.name, disk.place
        )
    });
    gone.chain(removed).collect()
}

fn tell_machine(inspected: &Inspected, line: &dyn Fn(String)) {
    let source = inspected.machine.source.as_ref();
    let hypervisor = source.and_then(|s| s.hypervisor.as_deref()).unwrap_or("hypervisor");
    let version = source.and_then(|s| s.version.as_deref()).unwrap_or_default();
    let state = match &inspected.state {
        State::Running => "running".to_owned(),
        State::Paused(why) => format!("paused ({why})"),
        State::Off => "off".to_owned(),
    };
    let bytes = inspected.disks.iter().map(|disk| disk.size).sum();
    let guest = inspected.machine.guest_os.as_deref().map(|os| format!(", {os}")).unwrap_or_default();
    line(format!("{hypervisor} {version}, {state}, {} disks of {}{guest}", inspected.disks.len(), output::size(bytes)));
}
