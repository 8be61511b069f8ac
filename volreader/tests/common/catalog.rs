//! What the tests of all catalog engines share: the catalogs of the corpus, and what must be in them.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use base64ct::{Base64, Encoding};
use serde_json::Value;
use volreader::catalog::{Catalog, MediaRange, OwnedCatalogFile};

/// The folders of all corpus cases at hand, those of the repository first.
pub fn cases() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/bacula");
    let shared = std::env::var_os("REVENANT_TESTDATA").map(|root| Path::new(&root).join("bacula"));
    let mut found = BTreeMap::new();
    for root in [Some(own), shared].into_iter().flatten() {
        let entries = fs::read_dir(&root).into_iter().flatten().flatten();
        for dir in entries.map(|e| e.path()).filter(|d| d.join("case.json").exists()) {
            found.entry(dir.file_name().unwrap().to_owned()).or_insert(dir);
        }
    }
    found.into_values().collect()
}

/// Decompress `name` of the case into `to`; `false` when the case has none.
pub fn unpack(case: &Path, name: &str, to: &Path) -> bool {
    let Ok(file) = fs::File::open(case.join(name)) else { return false };
    fs::write(to, zstd::decode_all(file).unwrap()).unwrap();
    true
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

/// All rows of a job, by path and name.
pub fn rows(catalog: &dyn Catalog, job_id: u32) -> Vec<OwnedCatalogFile> {
    let mut rows = Vec::new();
    catalog
        .for_each_file(job_id, &mut |row| {
            rows.push(row.into());
            Ok(())
        })
        .unwrap();
    rows
}

/// Whether the catalog says what `case.json` and the manifests say; the number of files that were compared.
pub fn check(catalog: &dyn Catalog, case: &Path) -> usize {
    let facts = json(&case.join("case.json"));
    let jobs = catalog.jobs().unwrap();
    let expected = facts["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), expected.len(), "{}", case.display());
    for (job, expected) in jobs.iter().zip(expected) {
        assert_eq!(u64::from(job.job_id), number(&expected["JobId"]));
        assert_eq!(job.name, expected["Name"].as_str().unwrap());
        assert!(job.unique_name.starts_with(&format!("{}.20", job.name)), "{job:?}");
        assert_eq!([job.level], expected["Level"].as_str().unwrap().as_bytes());
        assert_eq!([job.status], expected["JobStatus"].as_str().unwrap().as_bytes());
        assert_eq!(u64::from(job.session_id), number(&expected["VolSessionId"]));
        assert_eq!(u64::from(job.session_time), number(&expected["VolSessionTime"]));
        assert_eq!(job.files, number(&expected["JobFiles"]));
        assert_eq!(job.bytes, number(&expected["JobBytes"]));
        assert_eq!(job.kind, b'B');
        assert!(job.client.starts_with("lab-fd"), "{job:?}");
        assert!(!job.fileset.is_empty() && !job.pool.is_empty(), "{job:?}");
        let year = job.start_time.as_deref().and_then(|t| t.get(..2));
        assert_eq!((year, job.sched_time.as_ref().map(String::len)), (Some("20"), Some(19)), "{job:?}");
    }

    let all = catalog.all_job_media().unwrap();
    let mut expected: HashMap<u32, Vec<MediaRange>> = HashMap::new();
    for row in facts["jobmedia"].as_array().unwrap() {
        let range = MediaRange {
            volume: row["Volume"].as_str().unwrap().to_owned(),
            media_type: all.values().flatten().next().map_or_else(String::new, |r| r.media_type.clone()),
            first_index: number(&row["FirstIndex"]) as u32,
            last_index: number(&row["LastIndex"]) as u32,
            start: number(&row["StartFile"]) << 32 | number(&row["StartBlock"]),
            end: number(&row["EndFile"]) << 32 | number(&row["EndBlock"]),
        };
        if range.last_index > 0 && range.start <= range.end {
            expected.entry(number(&row["JobId"]) as u32).or_default().push(range);
        }
    }
    assert_eq!(all, expected, "{}", case.display());
    for job in &jobs {
        assert_eq!(catalog.job_media(job.job_id).unwrap(), all.get(&job.job_id).cloned().unwrap_or_default());
    }

    let points = facts["restore_points"].as_array().unwrap();
    let is_full = |p: &&Value| p["chain"].as_array().is_some_and(|chain| chain.len() == 1);
    points.iter().filter(is_full).map(|p| check_files(catalog, case, p)).sum()
}

/// Whether a Full's rows are its manifest.
fn check_files(catalog: &dyn Catalog, case: &Path, point: &Value) -> usize {
    let job_id = point["chain"][0].as_u64().unwrap() as u32;
    let rows = rows(catalog, job_id);
    if rows.is_empty() {
        // The job did not end: the Director had not yet stored its attributes.
        assert_eq!(point["complete"], false, "{} has no rows", case.display());
        return 0;
    }
    let mut by_path: HashMap<Vec<u8>, &OwnedCatalogFile> = HashMap::new();
    for row in &rows {
        assert!(row.path.ends_with(b"/"), "{row:?}");
        let full = [&row.path[..], &row.name].concat();
        by_path.insert(full.strip_suffix(b"/").unwrap_or(&full).to_vec(), row);
        // Looked up by its name, a row is itself.
        assert_eq!(catalog.find_file(job_id, &row.path, &row.name).unwrap().as_ref(), Some(row));
    }
    let mut compared = 0;
    for entry in json(&case.join(point["manifest"].as_str().unwrap())).as_array().unwrap() {
        if entry["type"] == "socket" {
            continue;
        }
        let path = match entry["path"].as_str() {
            Some(path) => path.as_bytes().to_vec(),
            None => Base64::decode_vec(entry["path_b64"].as_str().unwrap()).unwrap(),
        };
        let Some(row) = by_path.get(&path) else {
            assert_eq!(point["complete"], false, "{}: {} is missing", case.display(), String::from_utf8_lossy(&path));
            continue;
        };
        let stat = volreader::attributes::Stat::parse(&row.lstat).unwrap();
        // A device that was read has a content and no mode in its manifest.
        if let Some(mode) = entry["mode"].as_str() {
            assert_eq!(format!("{:06o}", stat.mode), mode, "{entry}");
        }
        if entry["type"] == "file" {
            assert_eq!(Some(stat.size as u64), entry["size"].as_u64(), "{entry}");
        }
        compared += 1;
    }
    compared
}
