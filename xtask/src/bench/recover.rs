//! Instant Recovery: a machine started out of its backup, a Full and ten Incrementals in a volume of stock Bacula, until its
//! guest says that it is ready; beside it the same disk as a local raw file, and after a restore by bextract.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::fixtures::{Fixture, Kind};
use super::groups::{Bench, stock_volume};
use super::lab::Lab;
use super::table::Table;
use crate::cmd::{self, quoted, quoted_path};
use crate::guests;

/// What the guest of `make-guest-vm.sh` says on its console.
const READY: &str = "GUEST-READY";

/// Incrementals after the Full.
const INCREMENTALS: u32 = 10;

/// A machine as `revenant recover` starts it, but for its disk and its sockets.
const QEMU: &str = "qemu-system-x86_64 -no-user-config -nodefaults -machine pc,accel=tcg,vmport=off -cpu max -smp 2 \
    -m 1024M -rtc base=utc -device virtio-serial-pci -device virtio-rng-pci -device VGA -display none \
    -device virtio-blk-pci,drive=disk0";

/// Measures the group.
pub fn recover(bench: &Bench) -> Result<Vec<Table>> {
    ensure!(cmd::find("qemu-system-x86_64").is_some(), "qemu-system-x86 is not installed");
    let fixture = bench.fixtures.get(Kind::Boot)?;
    let raw = quoted_path(fixture.raw.as_deref().context("the guest's disk")?);
    let (state, scratch) = (bench.scratch("state"), bench.scratch("boot"));
    let clean = format!(
        "for s in {state}/sessions/*; do [ -d \"$s\" ] && {} -q recover stop ${{s##*/}} --state {state}; done
        pkill -f 'file:{scratch}/console' ; rm -rf {state} {scratch}; mkdir -p {state} {scratch}",
        quoted(&bench.revenant)
    );
    let waits = |log: &str| format!("until grep -qs {READY} {log}; do sleep 0.05; done");
    let mut ready = Table::new("Until the guest is ready (TCG, two processors)");
    let mut export = Table::new("Until the disks can be used");

    let copied = format!("{clean}; cp --sparse=always {raw} {scratch}/disk.raw; cat {scratch}/disk.raw >/dev/null");
    let console = format!("{scratch}/console");
    let boot = |disk: &str, driver: &str| {
        let disk = format!("driver={driver},node-name=disk0,file.driver=file,file.filename={disk}");
        format!("({QEMU} -blockdev {disk} -serial file:{console} >/dev/null 2>&1 &); {}", waits(&console))
    };
    bench.measure(&mut ready, "local raw file", Some(&copied), &boot(&format!("{scratch}/disk.raw"), "raw"), None);
    for door in ["nbd", "iscsi", "nfs"] {
        let line =
            bench.with_catalog(&fixture, &format!("recover boot --on qemu --memory 1024 --cpus 2 --through {door}"));
        let line =
            format!("{line} --state {state} >/dev/null 2>&1; {}", waits(&format!("{state}/machines/*/console.log")));
        bench.measure(&mut ready, &format!("revenant, by {door}"), Some(&clean), &line, None);
    }
    let top = format!("{scratch}{}", quoted(&fixture.big_file));
    let restore = format!(
        "{} {} {scratch} >/dev/null && {}",
        bench.lab().tool("bextract"),
        stock_volume(&fixture),
        boot(&top, "qcow2")
    );
    bench.measure(&mut ready, "bextract, then boot", Some(&clean), &restore, None);

    for door in ["nbd", "iscsi", "nfs"] {
        let line =
            bench.with_catalog(&fixture, &format!("recover boot --through {door} --state {state} >/dev/null 2>&1"));
        bench.measure(&mut export, &format!("by {door}"), Some(&clean), &line, None);
    }
    let large = format!("{clean}; truncate -s 200G {scratch}/large.raw; mkfs.ext4 -q -F {scratch}/large.raw");
    let line = format!(
        "{} --image {scratch}/large.raw recover images/large.raw --state {state} >/dev/null 2>&1",
        quoted(&bench.revenant)
    );
    bench.measure(&mut export, "a disk of 200 GiB, by nbd", Some(&large), &line, None);
    cmd::run_quietly(&mut cmd::command("sh", ["-c", &clean]))?;
    Ok(vec![ready, export])
}

/// Makes the chain of images and has stock Bacula save each in a job of its own; the fixture's big file is the last.
pub fn make(lab: &Lab, name: &str, folder: &Path) -> Result<String> {
    let vm = guests::folder().join("vm");
    let raw = vm.join("guest.raw");
    if !raw.exists() {
        cmd::run(cmd::command("bash", [cmd::root().join("tests/lab/make-guest-vm.sh")]).arg(&vm).arg("2G"))?;
    }
    if !raw.exists() {
        bail!("{} cannot be made here", raw.display());
    }
    let sh = |line: String| cmd::run_quietly(cmd::command("sh", ["-ec", &line]).current_dir(folder));
    sh(format!("rm -f *.qcow2; qemu-img convert -O qcow2 {} disk0.0000-full.qcow2", quoted_path(&raw)))?;
    lab.define(name, folder, &["--accurate", "--signature", "MD5"])?;
    lab.full(name)?;
    let mut last = "disk0.0000-full.qcow2".to_owned();
    for number in 1..=INCREMENTALS {
        let next = format!("disk0.{number:04}-inc.qcow2");
        // What the guest has not used yet: it starts as before.
        let write = format!("write -P {number} {}M 2M", 1800 + 4 * number);
        sh(format!(
            "sleep 1; qemu-img create -q -f qcow2 -b {last} -F qcow2 {next}; qemu-io -f qcow2 -c '{write}' {next} >/dev/null"
        ))?;
        lab.backup(name, "Incremental")?;
        last = next;
    }
    Ok(last)
}

/// The volume and all that belongs to it.
pub fn describe(name: &str, volume: &Path, catalog: &Path, folder: &Path, last: &str) -> Result<Fixture> {
    let big = folder.join(last);
    Ok(Fixture {
        name: name.to_owned(),
        volume: volume.to_owned(),
        catalog: catalog.to_owned(),
        big_file: big.to_string_lossy().into_owned(),
        big_file_bytes: std::fs::metadata(&big)?.len(),
        raw: Some(guests::folder().join("vm/guest.raw")),
        volume_bytes: std::fs::metadata(volume)?.len(),
    })
}
