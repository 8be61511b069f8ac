//! Running machines backed up by a stock Bacula, and restored without this program.

use std::{fs, process::Command, time::Duration};

use tests::{
    backup_scene::{MIB, Point, a_second_later, compare, fails, newest, scene, status, succeeds},
    gate::{Gate, log_of},
    live_vm::LiveVm,
    program::{self, Revenant, run_within},
    temp,
};

#[test]
fn failed_jobs_lose_nothing() {
    let folder = temp();
    let Some((lab, mut vm, mut gate)) = scene(folder.path()) else { return };
    let define = |gate: &Gate, before: &[&str]| gate.define(&lab, "web", &[], before);
    define(&gate, &[]);
    let (full, _) = succeeds(&lab, &gate, &vm, "Full");

    // The machine's disks cannot be read any more: stock Bacula alone would be content.
    vm.write(0, 20 * MIB, 65536, 0x21);
    define(&gate, &[&vm.ask_command(r#"{"execute":"nbd-server-stop"}"#)]);
    let log = fails(&lab, "web", "Incremental");
    assert!(log.contains("this backup is NOT usable"), "{log}");
    define(&gate, &[]);
    let (after_error, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("changed 64.0 KiB"), "{log}");

    // The daemon is killed while the job runs: its job fails, and the next one has everything.
    vm.write(1, 30 * MIB, 65536, 0x31);
    define(&gate, &[&gate.kill_command()]);
    let _ = fails(&lab, "web", "Incremental");
    gate.restart();
    assert_eq!(vm.ask(r#"{"execute":"query-block-jobs"}"#).trim(), "[]");
    vm.write(1, 31 * MIB, 65536, 0x32);
    define(&gate, &[]);
    let (after_kill, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("changed 128.0 KiB"), "{log}");

    // The machine ends in good order and starts again: what it tracks is stored.
    vm.write(0, 21 * MIB, 65536, 0x41);
    vm.stop();
    vm.boot();
    let (after_boot, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("changed 64.0 KiB"), "{log}");

    // It loses its power: what it tracked is lost, and its disks are taken whole.
    vm.kill();
    vm.boot();
    vm.write(0, 22 * MIB, 65536, 0x51);
    let (after_loss, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("disk vd0 is taken whole") && log.contains("power loss"), "{log}");
    assert!(after_loss.files.iter().all(|file| file.ends_with("-full.qcow2")), "{:?}", after_loss.files);
    let (last, log) = succeeds(&lab, &gate, &vm, "Incremental");
    assert!(log.contains("changed 0 B"), "{log}");
    for point in [&full, &after_error, &after_kill, &after_boot, &after_loss, &last] {
        compare(&lab, &gate, "web", point);
    }
}

#[test]
fn what_a_job_does_not_read_fails_it() {
    let folder = temp();
    let Some((lab, vm, gate)) = scene(folder.path()) else { return };
    // Somebody excludes what is large.
    gate.define(&lab, "web", &["--exclude", &format!("{}/vd1*", gate.folder().display())], &[]);
    let log = fails(&lab, "web", "Full");
    assert!(log.contains("vd1.0001-full.qcow2 never opened"), "{log}");
    // A File daemon that was killed: nobody says that its job has ended.
    let begin = |job: &str| gate.run(&["begin", "qemu/web01", "--level", "full", "--job", job]);
    assert_eq!(begin("dead.1").code(), Some(0));
    let refused = begin("other.2");
    assert_eq!(refused.code(), Some(2));
    assert!(refused.stderr.contains("is being backed up by dead.1 already"), "{}", refused.stderr);
    let end = |job: &str, status: &str| gate.run(&["end", "qemu/web01", "--job", job, "--status", status]);
    assert_eq!(end("other.2", "OK").code(), Some(2));
    assert_eq!(end("dead.1", "OK").code(), Some(2), "nothing was read");
    assert_eq!(begin("dead.3").code(), Some(0));
    assert_eq!(end("dead.3", "Canceled").code(), Some(0));
    assert_eq!(end("dead.3", "OK").code(), Some(2), "it was given up");

    // Some disks only.
    let only = |disk: &str| gate.run(&["begin", "qemu/web01", "--level", "full", "--job", "only.1", "--include", disk]);
    let run = only("vd1").good();
    assert!(run.text().contains("NOT in this backup: disk vd0 (not included)"), "{}", run.text());
    assert_eq!(gate.files().iter().filter(|name| name.ends_with(".qcow2")).count(), 1);
    let _ = gate.run(&["end", "qemu/web01", "--job", "only.1", "--status", "Canceled"]).good();
    let run = only("vd7");
    assert!(run.code() == Some(2) && run.stderr.contains("web01 has no disk vd7, only vd0, vd1"), "{}", run.stderr);
    assert!(gate.files().is_empty(), "{:?}", gate.files());
    // One that goes well after all that, straight out of the volume.
    gate.define(&lab, "good", &[], &[]);
    let job = lab.backup_any("good", "Full");
    assert_eq!(status(&lab, job), "T", "{}", log_of(&lab, job));
    let revenant = Revenant::new(&lab.volumes("good"));
    let points = revenant.run(["points", "--json"]).json();
    assert_eq!((&points[0]["machine"], points.as_array().map(Vec::len)), (&"web01".into(), Some(1)), "{points}");
    let out = temp();
    for (number, disk) in vm.disks.iter().enumerate() {
        let path = format!("{}/disks/vd{number}.raw", points[0]["tree_path"].as_str().expect("a path"));
        let raw = out.path().join(format!("{number}.raw"));
        let _ = revenant.run(["convert", &path, raw.to_str().expect("text")]).good();
        assert!(fs::read(&raw).expect("the disk") == *disk, "disk {number} out of the volume");
    }
    // Nothing of us is left in the machine.
    let nodes = vm.ask(r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#);
    assert!(!nodes.contains("rvt-"), "{nodes}");
    assert_eq!(nodes.matches("revenant-").count(), 2, "one bitmap for each disk: {nodes}");
}

#[test]
fn a_chain_by_stock_bacula() {
    let folder = temp();
    let Some((lab, mut vm, gate)) = scene(folder.path()) else { return };
    // While the job reads, the guest goes on writing: what is backed up is what was there before.
    let meanwhile = [vm.write_command(0, MIB, 65536, 0xee), vm.write_command(1, 5 * MIB, 4096, 0xef)];
    gate.define(&lab, "web", &["--accurate"], &[&meanwhile[0], &meanwhile[1]]);
    let mut points: Vec<Point> = Vec::new();
    let mut take = |vm: &mut LiveVm, level: &str| {
        let disks = vm.disks.clone();
        let job = lab.backup("web", level);
        let log = log_of(&lab, job);
        assert_eq!(status(&lab, job), "T", "{log}");
        vm.disks[0][MIB..MIB + 65536].fill(0xee);
        vm.disks[1][5 * MIB..5 * MIB + 4096].fill(0xef);
        let number = u32::try_from(points.len()).expect("few") + 1;
        points.push(Point { job, after: a_second_later(), disks, files: newest(&gate, number) });
        log
    };
    let log = take(&mut vm, "Full");
    assert!(log.contains("web01: qemu ") && log.contains("2 disks"), "{log}");
    assert!(log.contains("delivered 2 of 2 disks"), "{log}");
    assert!(log.contains("CRASH CONSISTENT"), "{log}");
    vm.write(0, 10 * MIB, 8192, 0x21);
    let log = take(&mut vm, "Incremental");
    assert!(log.contains("changed") && log.contains("change tracking proven on"), "{log}");
    vm.write(0, 10 * MIB + 4096, 65536, 0x31);
    vm.write(1, 63 * MIB, MIB, 0);
    take(&mut vm, "Incremental");
    take(&mut vm, "Incremental");
    vm.write(1, 0, 512, 0x41);
    let log = take(&mut vm, "Differential");
    assert!(log.contains("Differential on"), "{log}");
    vm.write(0, 63 * MIB, 512, 0x51);
    take(&mut vm, "Incremental");
    let files: Vec<_> = points.iter().map(|p| p.files.join(" ")).collect();
    assert_eq!(
        files,
        [
            "vd0.0001-full.qcow2 vd1.0001-full.qcow2",
            "vd0.0002-inc.qcow2 vd1.0002-inc.qcow2",
            "vd0.0003-inc.qcow2 vd1.0003-inc.qcow2",
            "vd0.0004-inc.qcow2 vd1.0004-inc.qcow2",
            "vd0.0005-diff.qcow2 vd1.0005-diff.qcow2",
            "vd0.0006-inc.qcow2 vd1.0006-inc.qcow2",
        ]
    );
    points.iter().for_each(|point| compare(&lab, &gate, "web", point));
    // Each job has read what is its own and nothing else.
    let own = lab.run(&["sql", &format!("SELECT JobFiles FROM Job WHERE JobId={}", points[3].job)]);
    assert_eq!(own.trim(), "7", "two disks, machine.json, command line, RESTORE.txt, digests, the folder");
    // The bitmaps of what is not needed any more are gone, and nothing else of ours is left in QEMU.
    let left = vm.ask(r#"{"execute":"query-block-exports"}"#);
    assert_eq!(left.trim(), "[]");
}

/// What the documentation says is what the program prints, and a stock Bacula runs it.
#[test]
fn as_documented() {
    let folder = temp();
    let Some((lab, vm, gate)) = scene(folder.path()) else { return };
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/backup.md");
    let page = fs::read_to_string(page).expect("the page");
    let shown = page.split("```bacula\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the jobs");
    let printed = |client: &str, more: &[&str]| {
        let words = ["bacula-config", "--client", client, "--job-defs", "VMs", "--tag", "gold"];
        let mut command = program::bare(words);
        command
            .env_remove("REVENANT_CONFIG")
            .args(more)
            .arg("--config")
            .arg(gate.config())
            .arg("--cache")
            .arg(folder.path().join("cache"));
        let run = run_within(&mut command, Duration::from_secs(60)).good();
        run.text()
    };
    assert_eq!(printed("vmgate-fd", &["--mount", "/run/revenant/tree"]), shown);

    let program = format!("{} --config {}", program::path().display(), gate.config().display());
    let mount = gate.mount();
    let jobs = printed("lab-fd", &["--mount", mount.to_str().expect("text"), "--program", &program]);
    let defs = "JobDefs { Name = VMs; Type = Backup; Storage = other-sd; Pool = other-pool; Messages = Standard }\n";
    fs::write(lab.0.join("etc/jobs/vm-web01.dir"), format!("{defs}{jobs}")).expect("the jobs");
    fs::write(lab.0.join("etc/jobs/vm-web01.sd"), "").expect("no device");
    lab.run(&["define", "other", "--path", "/nonexistent"]);
    for level in ["Full", "Incremental"] {
        let job = lab.backup_any("vm-web01", level);
        assert_eq!(status(&lab, job), "T", "{}", log_of(&lab, job));
    }
    assert_eq!(gate.files().iter().filter(|name| name.ends_with(".qcow2")).count(), 4);
    let doctor = gate.bare(&["doctor", "--json"]).json();
    let finding = |what: &str| {
        let all = doctor["findings"].as_array().expect("findings");
        all.iter().find(|f| f["what"] == what).unwrap_or_else(|| panic!("{what}: {doctor}")).clone()
    };
    assert_eq!(finding("daemon")["ok"], true, "{doctor}");
    assert_eq!(finding("tree")["ok"], true, "{doctor}");
    assert!(finding("qemu/web01")["text"].as_str().expect("text").contains("2 disks of 128.0 MiB"), "{doctor}");
    // A hypervisor that does not answer is found.
    vm.stop();
    let doctor = gate.bare(&["doctor", "--json"]);
    assert_eq!(doctor.code(), Some(1), "{}", doctor.text());
}

/// The log tells which files of the guest have made a backup large; and what is read is right while the guest writes.
#[test]
fn files_that_have_changed() {
    if !tests::installed("files_that_have_changed", &["mke2fs", "qemu-img"]) {
        return;
    }
    let folder = temp();
    let (files, raw) = (folder.path().join("files"), folder.path().join("raw"));
    fs::create_dir_all(files.join("var/lib")).expect("a folder");
    fs::write(files.join("var/lib/shop.ibd"), vec![0x5a; 4 * MIB]).expect("a file");
    fs::write(files.join("var/quiet.log"), vec![0x77; MIB]).expect("a file");
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&files).arg(&raw).arg("64M");
    assert!(make.status().expect("mke2fs").success());
    let content = fs::read(&raw).expect("the filesystem");
    let image = folder.path().join("disk0.qcow2");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&image);
    assert!(convert.status().expect("qemu-img").success());
    let Some(mut vm) = LiveVm::start(folder.path(), 1, 64 * MIB) else { return };
    vm.disks[0].copy_from_slice(&content);
    let gate = Gate::new(&vm);
    let begin = |level: &str, job: &str, parent: &str| {
        gate.run(&["begin", "qemu/web01", "--level", level, "--job", job, "--parent", parent]).good().text()
    };
    let end = |job: &str| gate.run(&["end", "qemu/web01", "--job", job, "--status", "OK"]).good().text();
    let read = || {
        for name in gate.files() {
            // Members of earlier jobs are not here, and say so.
            let _ = fs::read(gate.folder().join(name));
        }
    };
    begin("Full", "one.1", "");
    read();
    end("one.1");
    // In the middle of the file, where it lies in one piece.
    let at = content.windows(MIB).position(|w| w.iter().all(|b| *b == 0x5a)).expect("the file").next_multiple_of(65536);
    vm.write(0, at, 2 * 65536, 0x33);
    let log = begin("Incremental", "two.2", "one.1");
    assert!(log.contains("changed 128.0 KiB"), "{log}");
    assert!(fs::read(gate.folder().join("vd0.0001-full.qcow2")).is_err(), "it is in an earlier job");
    vm.write(0, at, 65536, 0x44);
    read();
    let log = end("two.2");
    assert!(log.contains("top changes: vd0/whole/var/lib/shop.ibd 128.0 KiB"), "{log}");
    assert!(!log.contains("quiet"), "{log}");
}
