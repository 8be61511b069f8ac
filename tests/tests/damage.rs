//! Damaged, cut-off and missing volumes: what is gone is named, everything else is right.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use tests::{
    blocks::Blocks,
    case::{self, Case, Entry},
    compare::{Difference, What, differences},
    parallel,
    program::{Revenant, Run},
    random::Random,
    temp,
};

/// No run on a small volume may take longer, however damaged it is.
const LIMIT: Duration = Duration::from_secs(20);

/// A folder with `bytes` as its only volume.
fn volume(bytes: &[u8]) -> tempfile::TempDir {
    let folder = temp();
    fs::write(folder.path().join("job-0001"), bytes).expect("writing a volume");
    folder
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits"))
        .collect()
}

fn paths(differences: &[Difference]) -> BTreeSet<Vec<u8>> {
    differences.iter().map(|d| d.path.clone()).collect()
}

/// The job's folder is the only one in `out`: what lies under it.
fn job_folder(out: &Path) -> std::path::PathBuf {
    let mut folders: Vec<_> = fs::read_dir(out).expect("the output").map(|e| e.expect("an entry").path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders.remove(0)
}

/// As the program names it: what is no text is escaped.
fn shown(path: &[u8]) -> String {
    std::str::from_utf8(path).map_or_else(|_| path.escape_ascii().to_string(), str::to_owned)
}

/// Which of `paths` the run did not name.
fn unnamed(run: &Run, paths: &BTreeSet<Vec<u8>>) -> Vec<String> {
    paths.iter().map(|p| shown(p)).filter(|p| !run.stderr.contains(&p[..])).collect()
}

/// Each patch hits one block: only the files in it may differ, and they are told with the place.
#[test]
fn a_damaged_block_harms_only_its_own_files() {
    let cases: Vec<_> = [Some(case::shipped("corrupt")), case::optional("r15-corrupt")].into_iter().flatten().collect();
    let patches: Vec<_> = cases.iter().flat_map(|c| c.list("damage").iter().map(move |d| (c, d))).collect();
    assert!(patches.len() >= 8);
    parallel::check(&patches, |(case, damage)| {
        let mut bytes = case.first_volume();
        let blocks = Blocks::of(&bytes);
        let (at, new) =
            (damage["offset"].as_u64().expect("an offset") as usize, hex(damage["new"].as_str().expect("hex")));
        let harmed = blocks.files(at, at + new.len());
        bytes[at..at + new.len()].copy_from_slice(&new);
        let (folder, out) = (volume(&bytes), temp());
        let revenant = Revenant::new(folder.path()).within(LIMIT);
        let run = revenant.extract(["jobs"], out.path());
        let verify = revenant.run(["verify", "jobs"]);
        let found = differences(&case.first_manifest(), &job_folder(out.path()), What::Restored);
        let differing = paths(&found);

        let mut faults = Vec::new();
        let mut check = |ok: bool, what: String| {
            if !ok {
                let (tag, err, verify) = (&damage["tag"], &run.stderr, &verify.stderr);
                faults.push(format!("{} {tag}: {what}\nextract: {err}verify: {verify}", case.name));
            }
        };
        let surplus: Vec<_> = differing.difference(&harmed).map(|p| shown(p)).collect();
        check(surplus.is_empty(), format!("not in the damaged block: {surplus:?}"));
        let start = blocks.blocks.iter().find(|b| b.start <= at && at < b.end).expect("a block").start;
        for (what, run) in [("extract", &run), ("verify", &verify)] {
            check(run.stderr.contains("job-0001"), format!("{what} does not name the volume"));
            check(start == 0 || run.stderr.contains(&start.to_string()), format!("{what} does not name {start}"));
            let wanted = i32::from(!harmed.is_empty());
            check(run.code() == Some(wanted), format!("{what} ends with {:?}, not {wanted}", run.status));
            // A file whose attributes are lost has no name; then it must be told that there was one.
            let left = unnamed(run, &differing);
            let told = run.stderr.contains("their names are in damaged or missing blocks");
            let gone = |p: &String| found.iter().any(|d| shown(&d.path) == *p && d.what.starts_with("No such file"));
            check(left.iter().all(|p| gone(p) && told), format!("{what} does not name {left:?}"));
        }
        check(differing.is_empty() || run.stderr.contains("bytes "), "no byte range is told".to_owned());
        faults
    });
}

/// Jobs that end too early: what is there is right, what is cut off is told.
#[test]
fn a_cut_off_job_gives_what_it_has() {
    let names = ["cancelled", "r15-cancelled", "sd-killed", "truncated"];
    let cases: Vec<_> = names.iter().filter_map(|n| case::optional(n)).collect();
    parallel::check(&cases, |case| {
        let (volumes, out) = (case.unpack(), temp());
        let revenant = Revenant::of(case, volumes.path()).within(LIMIT);
        let jobs = revenant.jobs();
        let run = revenant.extract(["jobs"], out.path());
        let found = differences(&case.first_manifest(), &job_folder(out.path()), What::Restored);
        // What was not reached is not there; what is there is right or told. The slow stream that kept the job running
        // until it was stopped is in no manifest.
        let reached = found.iter().filter(|d| !d.what.starts_with("No such file") && !d.path.starts_with(b"/BPIPE"));
        let left: Vec<_> = reached.filter(|d| !run.stderr.contains(&shown(&d.path))).map(ToString::to_string).collect();
        let mut faults = Vec::new();
        if !left.is_empty() {
            faults.push(format!("{}: wrong and not told: {left:?}\n{}", case.name, run.stderr));
        }
        if run.code() != Some(1) || !run.stderr.contains("ends inside") {
            faults.push(format!("{}: {:?}, the cut is not told: {}", case.name, run.status, run.stderr));
        }
        if jobs.len() != 1 || !jobs[0]["status"].is_null() || jobs[0]["point_path"].is_string() {
            faults.push(format!("{}: a job without its end is no restore point: {jobs:?}", case.name));
        }
        faults
    });
}

/// One volume of several is not at hand.
#[test]
fn a_missing_volume_is_named_and_the_rest_is_right() {
    let cases: Vec<_> = ["span3", "span-many"].iter().filter_map(|n| case::optional(n)).collect();
    let runs: Vec<_> = cases.iter().flat_map(|c| (0..c.list("volumes").len()).map(move |n| (c, n))).collect();
    assert!(runs.len() >= 3);
    parallel::check(&runs, |(case, n)| without_volume(case, *n));
}

fn without_volume(case: &Case, n: usize) -> Vec<String> {
    let (volumes, out) = (case.unpack(), temp());
    let names: Vec<_> = case.list("volumes").iter().map(|v| v["name"].as_str().expect("a name")).collect();
    fs::remove_file(volumes.path().join(names[n])).expect("removing a volume");
    let revenant = Revenant::of(case, volumes.path()).within(LIMIT);
    let run = revenant.extract(["jobs"], out.path());
    let verify = revenant.run(["verify", "jobs"]);
    let found = differences(&case.first_manifest(), &job_folder(out.path()), What::Restored);
    let mut faults = Vec::new();
    let mut check = |ok: bool, what: &str| {
        if !ok {
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            let (err, verify) = (&run.stderr, &verify.stderr);
            faults
                .push(format!("{} without {}: {what}: {found:?}\nextract: {err}verify: {verify}", case.name, names[n]));
        }
    };
    for run in [&run, &verify] {
        check(run.code() == Some(1), "exit code 1 is wanted");
        check(run.stderr.contains("missing") || run.stderr.contains("not at hand"), "nothing is told");
    }
    for d in &found {
        let gone = d.what.starts_with("No such file");
        check(gone || run.stderr.contains(&shown(&d.path)[1..]), "wrong and not told");
    }
    faults
}

/// Random flips of bits and bytes: no panic, no hang, and what is not told to be wrong is right.
#[test]
fn random_damage_is_never_taken_for_data() {
    const FLIPS: u64 = 50;
    let names = ["plain-nosig", "sparse", "gzip9-sha256", "r15-gzip"];
    let cases: Vec<_> = names.iter().map(|n| case::shipped(n)).collect();
    let loaded: Vec<_> = cases.iter().map(|c| (c, c.first_volume(), c.first_manifest())).collect();
    let runs: Vec<_> = loaded.iter().flat_map(|l| (0..FLIPS).map(move |seed| (l, seed))).collect();
    parallel::check(&runs, |((case, bytes, wanted), seed)| {
        flipped(bytes, wanted, *seed).into_iter().map(|f| format!("{} seed {seed}: {f}", case.name)).collect()
    });
}

fn flipped(intact: &[u8], wanted: &[Entry], seed: u64) -> Vec<String> {
    let mut random = Random(seed);
    let mut bytes = intact.to_vec();
    // A third in headers, where a wrong step is farthest from harmless.
    let starts: Vec<_> = Blocks::of(intact).blocks.iter().map(|b| b.start).collect();
    let flips = 1 + random.below(3);
    let places: Vec<_> = (0..flips)
        .map(|_| match random.below(3) {
            0 => starts[random.below(starts.len() as u64) as usize] + random.below(60) as usize,
            _ => random.below(bytes.len() as u64) as usize,
        })
        .map(|at| at.min(bytes.len() - 1))
        .collect();
    for &at in &places {
        bytes[at] ^= if random.below(2) == 0 { 1 << random.below(8) } else { 1 + random.below(255) as u8 };
    }
    let (folder, out) = (volume(&bytes), temp());
    let revenant = Revenant::new(folder.path()).within(LIMIT);
    let run = revenant.extract(["jobs"], out.path());
    let mut faults = Vec::new();
    if !matches!(run.code(), Some(0..=2)) {
        faults.push(format!("bytes {places:?}: ended with {:?}: {}", run.status, run.stderr));
    }
    let folders: Vec<_> = fs::read_dir(out.path()).into_iter().flatten().map(|e| e.expect("an entry").path()).collect();
    // More than one when a flip splits the job; each is held against the whole.
    for folder in &folders {
        for d in differences(wanted, folder, What::Restored) {
            let gone = d.what.starts_with("No such file");
            let told = if gone { !run.stderr.is_empty() } else { run.stderr.contains(&shown(&d.path)[1..]) };
            if !told {
                faults.push(format!("bytes {places:?}: {d}, and it is not told: {:?} {}", run.status, run.stderr));
            }
        }
    }
    if folders.is_empty() && run.stderr.is_empty() {
        faults.push(format!("bytes {places:?}: there is nothing, and it is not told: {:?}", run.status));
    }
    faults
}
