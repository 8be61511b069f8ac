//! Against a stock Bacula that runs beside the test: what it writes is read while it goes on writing, a chain is
//! what its own `restore` makes of it, and its File daemon can back up a mounted tree.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;
use tests::{
    lab::Lab,
    mounted::{Mounted, wait},
    program::Revenant,
    temp,
};

fn same(a: &Path, b: &Path) {
    let out = Command::new("diff").arg("-r").arg("--no-dereference").args([a, b]).output().expect("diff");
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").expect("an absolute path"))
}

fn job(jobs: &[Value], id: u64) -> &Value {
    jobs.iter().find(|j| j["job_id"] == id).unwrap_or_else(|| panic!("job {id} is not listed: {jobs:?}"))
}

fn text<'a>(job: &'a Value, key: &str) -> &'a str {
    job[key].as_str().unwrap_or_else(|| panic!("{key}: {job}"))
}

#[test]
fn a_stock_bacula_and_this_program_agree() {
    let Some(lab) = Lab::up() else { return };
    let source = lab.0.join("src");
    fs::create_dir_all(source.join("sub")).expect("a folder");
    fs::write(source.join("big"), (0..3_000_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect::<Vec<_>>())
        .expect("writing");
    fs::write(source.join("sub/one"), "one").expect("writing");
    symlink("one", source.join("sub/link")).expect("a link");
    lab.run(&["define", "l", "--path", source.to_str().expect("text"), "--accurate", "--signature", "SHA256"]);
    let full = lab.backup("l", "Full");

    // The tree is mounted, and goes on being right while the next job is appended to the volume.
    let revenant = Revenant::new(&lab.volumes("l"));
    let Some(mounted) = Mounted::of(revenant.command([] as [&str; 0])) else { return };
    let path = text(job(&revenant.jobs(), full), "tree_path").to_owned();
    same(&source, &below(&mounted.path().join(&path), &source));
    let before = temp();
    let status = Command::new("cp").arg("-a").arg(&source).arg(before.path().join("src")).status().expect("cp");
    assert!(status.success());
    thread::sleep(Duration::from_millis(1200));
    fs::remove_file(source.join("sub/one")).expect("removing");
    fs::write(source.join("sub/two"), "two").expect("writing");
    fs::write(source.join("new"), vec![7; 100_000]).expect("writing");
    let incremental = lab.backup("l", "Incremental");
    same(&before.path().join("src"), &below(&mounted.path().join(&path), &source));
    let added = format!("/{incremental}-");
    wait("the new job in the mounted tree", || {
        let list = fs::read_dir(mounted.path().join("jobs")).expect("jobs");
        list.flatten().any(|e| format!("/{}", e.file_name().to_string_lossy()).starts_with(&added))
    });

    // The chain is what the stock restore makes of it.
    let point = text(job(&revenant.jobs(), incremental), "point_path").to_owned();
    let (ours, stock) = (temp(), lab.0.join("stock"));
    let _ = revenant.extract([point.as_str()], ours.path()).good();
    lab.run(&["restore", "l", stock.to_str().expect("text")]);
    same(&below(&stock, &source), &below(ours.path(), &source));
    same(&source, &below(ours.path(), &source));
    same(&source, &below(&mounted.path().join(&point), &source));

    // The stock File daemon reads the mounted tree like any other.
    let tree = mounted.path().join(&point);
    lab.run(&["define", "m", "--path", tree.to_str().expect("text")]);
    let again = lab.backup("m", "Full");
    assert_eq!(lab.run(&["status", &again.to_string()]).trim(), "T");
    let second = Revenant::new(&lab.volumes("m"));
    let out = temp();
    let _ = second.extract([text(job(&second.jobs(), again), "tree_path")], out.path()).good();
    same(&source, &below(&below(out.path(), &tree), &source));
}
