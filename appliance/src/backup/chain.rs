//! Which files a job has, their names and their times.
//!
//! Bacula decides by a file's times alone whether a job takes it: its File daemon takes what has changed at or after the
//! start of the job that this one is based on (`findlib/find_one.c`). That start is written down when the scripts before the
//! job have ended (`dird/backup.c`), so after the point was made. A file's times never change, because accurate mode
//! compares them. So the files of a point have a time at which its parent's job had started and its own had not: the moment
//! in which its parent's was delivered.
//!
//! ```text
//! parent's point   parent's job starts   delivered      this point   this job starts   delivered     next job starts
//!        *-----------------|-----------------*               *-------------|--------------*                  |----
//!                                            ^ times of this point's files
//! ```
//!
//! This job takes them, since that is after its parent's start; all later ones pass them over, since it is before this
//! job's start.

use blockdev::{Error, Result};
use hv_drivers::driver::LiveDisk;

use super::record::{Chain, Level, Member, Point};

/// Seconds in a week.
const WEEK: i64 = 7 * 86_400;

/// What a job is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub level: Level,
    pub number: u64,
    /// The point that it is based on.
    pub parent: Option<u64>,
    /// The times of its files.
    pub time: i64,
    pub disks: Vec<PlannedDisk>,
    /// What the admin should know.
    pub notes: Vec<String>,
}

/// A disk of it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedDisk {
    pub disk: LiveDisk,
    /// The file it is on top of, and the marks since it; or why it is taken whole.
    pub base: std::result::Result<String, String>,
    /// The marks from the one that changes are wanted since to the newest.
    pub since: Vec<String>,
    /// The point that `since` begins with.
    pub known: Option<u64>,
}

impl PlannedDisk {
    /// The name of its file, once it is known whether it is a delta.
    pub fn file(&self, number: u64, level: Level, is_delta: bool) -> String {
        let level = if is_delta { level } else { Level::Full };
        format!("{}.{number:04}-{}.qcow2", self.disk.name, level.short())
    }
}

/// What the job `job` of `level`, based on the job `parent`, is to have of `disks`.
///
/// # Errors
///
/// When the chain cannot be gone on with.
pub fn plan(chain: &Chain, disks: &[LiveDisk], level: Level, parent: Option<&str>, job: &str, now: i64) -> Plan {
    let mut notes = Vec::new();
    let based_on = match (level, parent) {
        (Level::Full, _) | (_, None) => None,
        (_, Some(name)) => {
            let found = chain.points.iter().find(|point| point.job == name);
            if found.is_none() {
                notes.push(format!("its parent {name} is not known here: every disk is taken whole"));
            }
            found
        }
    };
    let newest = chain.points.last();
    let marks_from = |number: u64| -> Vec<String> {
        chain.points.iter().filter(|p| p.number >= number).map(|p| p.mark.clone()).collect()
    };
    let planned = |disk: &LiveDisk| {
        let base = base(chain, based_on, disk);
        // What a whole disk has changed since the newest point is proven, too.
        let known = match &base {
            Ok(_) => based_on,
            Err(_) => newest.filter(|point| member(point, disk).is_some()),
        };
        let since = known.map_or_else(Vec::new, |point| marks_from(point.number));
        PlannedDisk { disk: disk.clone(), base, since, known: known.map(|point| point.number) }
    };
    let time = match based_on {
        Some(point) => point.ended,
        // A Full takes everything.
        None => named_time(job).filter(|time| *time <= now).map_or(now - WEEK, |time| time - 1),
    };
    Plan {
        level: if based_on.is_some() { level } else { Level::Full },
        number: chain.last + 1,
        parent: based_on.map(|point| point.number),
        time,
        disks: disks.iter().map(planned).collect(),
        notes,
    }
}

fn member<'a>(point: &'a Point, disk: &LiveDisk) -> Option<&'a Member> {
    point.disks.iter().find(|member| member.disk == disk.name)
}

/// The file that a delta of `disk` is on top of, or why there can be none.
fn base(chain: &Chain, parent: Option<&Point>, disk: &LiveDisk) -> std::result::Result<String, String> {
    let Some(parent) = parent else { return Err(String::new()) };
    if let Some(why) = chain.distrusted.get(&disk.name) {
        return Err(why.clone());
    }
    match member(parent, disk) {
        None => Err("it is new".to_owned()),
        Some(member) if member.size > disk.size => Err("it has become smaller".to_owned()),
        Some(member) if member.place != disk.place => {
            Err(format!("its image is another: {} instead of {}", disk.place, member.place))
        }
        Some(member) => Ok(member.file.clone()),
    }
}

/// The points that `number` is built on, oldest first, and itself.
///
/// # Errors
///
/// When one is not there.
pub fn ancestors(points: &[Point], number: u64) -> Result<Vec<&Point>> {
    let mut found = Vec::new();
    let mut next = Some(number);
    while let Some(number) = next {
        let point = points.iter().find(|point| point.number == number);
        let point = point.ok_or_else(|| Error::damaged(format!("point {number} of the chain is not written down")))?;
        // A parent is always older: this ends.
        next = point.parent.filter(|parent| *parent < number);
        found.push(point);
    }
    found.reverse();
    Ok(found)
}

/// The points that are still needed once `point` is kept: the chain that Bacula goes on with, and all after its Full.
pub fn still_needed(points: &[Point], point: &Point) -> Vec<u64> {
    // Nobody has based a job on a new Full yet: until then the chain before it may be wanted.
    let Some(parent) = point.parent else { return points.iter().map(|p| p.number).collect() };
    let full = ancestors(points, parent).ok().and_then(|all| all.first().map(|p| p.number)).unwrap_or(0);
    points.iter().map(|p| p.number).filter(|number| *number >= full).collect()
}

/// When Bacula made the job of that name: `vm-web01.2026-11-20_01.05.00_12`, in local time.
fn named_time(job: &str) -> Option<i64> {
    let mut parts = job.rsplit('.');
    let seconds: i8 = parts.next()?.split('_').next()?.parse().ok()?;
    let minutes: i8 = parts.next()?.parse().ok()?;
    let (date, hours) = parts.next()?.split_once('_')?;
    let mut date = date.split('-');
    let year: i16 = date.next()?.parse().ok()?;
    let (month, day): (i8, i8) = (date.next()?.parse().ok()?, date.next()?.parse().ok()?);
    let at = jiff::civil::DateTime::new(year, month, day, hours.parse().ok()?, minutes, seconds, 0).ok()?;
    Some(at.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::record::Small;

    fn disk(name: &str) -> LiveDisk {
        LiveDisk { name: name.to_owned(), size: 1 << 30, place: format!("/vm/{name}.qcow2") }
    }

    /// A chain with points of these levels and parents, each delivered at 1000 times its number.
    fn chain(points: &[(Level, Option<u64>)]) -> Chain {
        let mut chain = Chain::new("qemu", "web01");
        for (number, (level, parent)) in (1..).zip(points) {
            let member = Member {
                disk: "vd0".to_owned(),
                file: format!("vd0.{number:04}-{}.qcow2", level.short()),
                bytes: 1,
                backing: None,
                size: 1 << 30,
                place: "/vm/vd0.qcow2".to_owned(),
            };
            chain.points.push(Point {
                number,
                mark: format!("m-{number}"),
                job: format!("job{number}"),
                level: *level,
                parent: *parent,
                begun: 0,
                ended: 1000 * i64::try_from(number).expect("small"),
                time: 0,
                disks: vec![member],
                texts: Vec::new(),
                digests: Small { name: String::new(), bytes: 0 },
            });
            chain.last = number;
        }
        chain
    }

    #[test]
    fn what_bacula_asks_for() {
        let chain = chain(&[(Level::Full, None), (Level::Incremental, Some(1)), (Level::Incremental, Some(2))]);
        let own = plan(&chain, &[disk("vd0")], Level::Incremental, Some("job3"), "j", 9000);
        assert_eq!((own.number, own.parent, own.time), (4, Some(3), 3000));
        assert_eq!(own.disks[0].base, Ok("vd0.0003-inc.qcow2".to_owned()));
        assert_eq!(own.disks[0].since, ["m-3"]);
        assert_eq!(own.disks[0].file(4, own.level, true), "vd0.0004-inc.qcow2");

        // A Differential is on top of the Full, and has what all after it have.
        let own = plan(&chain, &[disk("vd0")], Level::Differential, Some("job1"), "j", 9000);
        assert_eq!((own.parent, own.time), (Some(1), 1000));
        assert_eq!(own.disks[0].since, ["m-1", "m-2", "m-3"]);
        assert_eq!(own.disks[0].file(4, own.level, true), "vd0.0004-diff.qcow2");

        // A job that Bacula failed afterwards: the next is on top of the last good one.
        let own = plan(&chain, &[disk("vd0")], Level::Incremental, Some("job2"), "j", 9000);
        assert_eq!((own.parent, own.disks[0].since.len()), (Some(2), 2));

        let own = plan(&chain, &[disk("vd0")], Level::Full, None, "j", 9_000_000);
        assert_eq!((own.parent, own.time, own.level), (None, 9_000_000 - WEEK, Level::Full));
        // For the proof.
        assert_eq!(own.disks[0].since, ["m-3"]);
        assert_eq!(own.disks[0].file(4, own.level, false), "vd0.0004-full.qcow2");
    }

    #[test]
    fn disks_that_are_taken_whole() {
        let mut chain = chain(&[(Level::Full, None)]);
        let why = |chain: &Chain, disk: LiveDisk, parent: &str| {
            let plan = plan(chain, &[disk], Level::Incremental, Some(parent), "j", 9000);
            plan.disks[0].base.clone().expect_err("a whole disk")
        };
        assert_eq!(why(&chain, disk("vd1"), "job1"), "it is new");
        assert_eq!(why(&chain, LiveDisk { size: 5, ..disk("vd0") }, "job1"), "it has become smaller");
        assert!(why(&chain, LiveDisk { place: "/x".to_owned(), ..disk("vd0") }, "job1").contains("another"));
        assert_eq!(why(&chain, disk("vd0"), "job9"), "");
        let unknown = plan(&chain, &[disk("vd0")], Level::Incremental, Some("job9"), "j", 9000);
        assert!(unknown.notes[0].contains("job9 is not known") && unknown.parent.is_none());
        chain.distrusted.insert("vd0".to_owned(), "a delta was wrong".to_owned());
        assert_eq!(why(&chain, disk("vd0"), "job1"), "a delta was wrong");
    }

    #[test]
    fn what_is_kept() {
        let chain = chain(&[
            (Level::Full, None),
            (Level::Incremental, Some(1)),
            (Level::Full, None),
            (Level::Incremental, Some(3)),
        ]);
        let numbers = |points: Vec<&Point>| points.iter().map(|p| p.number).collect::<Vec<_>>();
        assert_eq!(numbers(ancestors(&chain.points, 4).expect("all there")), [3, 4]);
        assert_eq!(still_needed(&chain.points[..3], &chain.points[2]), [1, 2, 3]);
        assert_eq!(still_needed(&chain.points, &chain.points[3]), [3, 4]);
        assert!(ancestors(&chain.points[1..], 2).is_err());
    }

    #[test]
    fn times_in_names() {
        let time = named_time("vm.web01.2026-11-20_01.05.09_12").expect("a time");
        let zoned = jiff::Timestamp::from_second(time).expect("a time").to_zoned(jiff::tz::TimeZone::system());
        assert_eq!(zoned.strftime("%F %T").to_string(), "2026-11-20 01:05:09");
        assert_eq!(named_time("nonsense"), None);
        assert_eq!(named_time("a.2026-13-20_01.05.09_12"), None);
    }
}
