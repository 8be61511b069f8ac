//! Every restore point of every case gives what was backed up, and the jobs are what Bacula said they were.

use serde_json::Value;
use tests::{
    case::{self, Case},
    compare::{What, differences},
    parallel,
    program::Revenant,
    temp,
};

/// The cases whose jobs are all there; the others are those of `damage.rs`.
fn whole() -> Vec<Case> {
    let whole = |c: &Case| c.name != "truncated" && c.list("restore_points").iter().all(|p| p["complete"] != false);
    case::all().into_iter().filter(whole).collect()
}

fn job(jobs: &[Value], id: &Value) -> Value {
    jobs.iter().find(|j| &j["job_id"] == id).unwrap_or_else(|| panic!("no job {id}")).clone()
}

/// Extracts `paths` and compares it with a restore point.
fn extracted(case: &Case, revenant: &Revenant, point: &Value, paths: &[&str]) -> Vec<String> {
    let out = temp();
    let run = revenant.extract(paths, out.path());
    let mut faults: Vec<String> =
        differences(&case.wanted(point), out.path(), What::Restored).iter().map(ToString::to_string).collect();
    // Devices need root, and their absence is a failure that is told.
    if run.code() != Some(0) && (tests::is_root() || !faults.is_empty() || !case.name.contains("special")) {
        faults.push(format!("{:?} {}", run.status, run.stderr));
    }
    faults.into_iter().map(|f| format!("{} {} {paths:?}: {f}", case.name, point["manifest"])).collect()
}

#[test]
fn every_restore_point_gives_what_was_backed_up() {
    parallel::check(&whole(), |case| {
        let volumes = case.unpack();
        let revenant = Revenant::of(case, volumes.path());
        let jobs = revenant.jobs();
        let mut faults = Vec::new();
        for point in case.list("restore_points") {
            let chain: Vec<_> = point["chain"].as_array().expect("a chain").iter().map(|id| job(&jobs, id)).collect();
            let (last, text) = (chain.last().expect("a job"), |v: &Value| v.as_str().expect("a path").to_owned());
            // Two jobs at once are two series: the manifest is of both.
            let series: std::collections::BTreeSet<_> = chain.iter().map(|j| text(&j["name"])).collect();
            if series.len() > 1 {
                let paths: Vec<_> = chain.iter().map(|j| text(&j["tree_path"])).collect();
                faults.extend(extracted(case, &revenant, point, &paths.iter().map(|p| &p[..]).collect::<Vec<_>>()));
                let paths: Vec<_> = chain.iter().map(|j| text(&j["point_path"])).collect();
                faults.extend(extracted(case, &revenant, point, &paths.iter().map(|p| &p[..]).collect::<Vec<_>>()));
                continue;
            }
            faults.extend(extracted(case, &revenant, point, &[&text(&last["point_path"])]));
            if chain.len() == 1 {
                faults.extend(extracted(case, &revenant, point, &[&text(&last["tree_path"])]));
            }
        }
        faults
    });
}

#[test]
fn jobs_are_what_the_catalog_says() {
    parallel::check(&whole(), |case| {
        let volumes = case.unpack();
        let jobs = Revenant::of(case, volumes.path()).jobs();
        let mut faults = Vec::new();
        let mut check = |what: &str, real: &Value, wanted: &str| {
            let real = real.as_str().map_or_else(|| real.to_string(), str::to_owned);
            if real != wanted {
                faults.push(format!("{}: {what} {real}, wanted {wanted}", case.name));
            }
        };
        check("number of jobs", &jobs.len().into(), &case.list("jobs").len().to_string());
        for wanted in case.list("jobs") {
            let text = |key: &str| wanted[key].as_str().expect("text").to_owned();
            let id = text("JobId").parse::<u64>().expect("a number");
            let job = job(&jobs, &id.into());
            check("name", &job["name"], &text("Name"));
            check("level", &job["level_code"], &text("Level"));
            check("status", &job["status"], &text("JobStatus"));
            check("files", &job["files"], &text("JobFiles"));
            check("bytes", &job["bytes"], &text("JobBytes"));
            check("session", &job["session_id"], &text("VolSessionId"));
            check("session time", &job["session_time"], &text("VolSessionTime"));
            let media = case.list("jobmedia").iter().filter(|m| m["JobId"] == wanted["JobId"]);
            let mut names: Vec<_> = media.map(|m| m["Volume"].clone()).collect();
            names.dedup();
            check("volumes", &job["volumes"], &Value::Array(names).to_string());
        }
        faults
    });
}

#[test]
fn either_key_decrypts() {
    let cases: Vec<_> = whole().into_iter().filter(|c| c.keys().len() > 1).collect();
    assert!(!cases.is_empty(), "pki-gzip and pki-lzo are shipped");
    parallel::check(&cases, |case| {
        let volumes = case.unpack();
        let point = &case.list("restore_points")[0];
        case.keys()
            .iter()
            .flat_map(|key| {
                let revenant = Revenant::new(volumes.path()).with("--key", key);
                let path = revenant.jobs()[0]["point_path"].as_str().expect("a path").to_owned();
                extracted(case, &revenant, point, &[&path])
            })
            .collect()
    });
}

/// Without the key everything but the content is there, and the error says which option is missing.
#[test]
fn without_the_key_the_error_names_the_option() {
    let encrypted = |c: &Case| c.keys().len() > 1 && !c.name.contains("sign-only");
    let cases: Vec<_> = whole().into_iter().filter(encrypted).collect();
    parallel::check(&cases, |case| {
        let (volumes, out) = (case.unpack(), temp());
        let revenant = Revenant::new(volumes.path());
        let path = revenant.jobs()[0]["tree_path"].as_str().expect("a path").to_owned();
        let run = revenant.extract([&path], out.path());
        let mut faults = Vec::new();
        let mut check = |ok: bool, what: &str| {
            if !ok {
                faults.push(format!("{}: {what}: {:?} {}", case.name, run.status, run.stderr));
            }
        };
        check(run.code() == Some(1), "exit code");
        check(run.stderr.contains("--key"), "the option is not named");
        for e in case.first_manifest().iter().filter(|e| e.text("type") == "file" && e.facts["size"] != 0) {
            // As they are named under the output folder.
            let name = String::from_utf8_lossy(&e.path).trim_start_matches('/').to_owned();
            check(run.stderr.contains(&name), &format!("{name} is not named"));
        }
        // Nothing wrong was written in place of what cannot be read; all that needs no key is right.
        let differences = differences(&case.first_manifest(), out.path(), What::Restored);
        let files: Vec<_> = case.first_manifest().into_iter().filter(|e| e.text("type") == "file").collect();
        let other: Vec<_> = differences.iter().filter(|d| files.iter().all(|f| f.path != d.path)).collect();
        check(other.is_empty(), &format!("{other:?}"));
        faults
    });
}

#[test]
fn without_the_volume_key_the_error_names_the_option() {
    let cases: Vec<_> = whole().into_iter().filter(|c| c.volume_keys().is_some()).collect();
    assert!(!cases.is_empty(), "r15-volume-encryption-256 is shipped");
    parallel::check(&cases, |case| {
        let (volumes, out) = (case.unpack(), temp());
        let revenant = Revenant::new(volumes.path());
        let runs = [revenant.run(["jobs"]), revenant.extract(["jobs"], out.path())];
        let faulty = runs.iter().filter(|r| !matches!(r.code(), Some(1 | 2)) || !r.stderr.contains("--volume-keys"));
        faulty.map(|r| format!("{}: {:?} {}", case.name, r.status, r.stderr)).collect()
    });
}
