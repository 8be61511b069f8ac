//! Running machines of libvirt's as files, and what comes of them in stock qemu-img.

use std::{fs, path::Path, process::Command};

use tests::{
    gate::{Gate, by_qemu_img},
    installed,
    libvirt::{Libvirt, Turn, virsh},
    temp,
};

const MIB: usize = 1 << 20;

/// The guest writes: through its device, as `qemu-io` in QEMU does.
fn write(disk: &mut [u8], offset: usize, len: usize, byte: u8) {
    disk[offset..offset + len].fill(byte);
    let device = "/machine/peripheral/virtio-disk0/virtio-backend";
    let text = format!("qemu-io -d {device} \"write -P 0x{byte:02x} {offset} {len}\"");
    assert_eq!(virsh(&["qemu-monitor-command", "rvt-live", "--hmp", &text]).code(), Some(0));
}

/// Copies what is in the machine's folder to `out`, as a File daemon and a restore would.
fn copy(gate: &Gate, out: &Path) {
    for entry in fs::read_dir(gate.folder()).expect("the folder") {
        let entry = entry.expect("an entry");
        // Members of earlier jobs are there, and not here.
        if let Ok(bytes) = fs::read(entry.path()) {
            fs::write(out.join(entry.file_name()), bytes).expect("a copy");
        }
    }
}

#[test]
fn a_chain() {
    let Some(turn) = Turn::wait("a_chain") else { return };
    if !installed("a_chain", &["qemu-img"]) {
        return;
    }
    let _libvirt = Libvirt::up(turn);
    // QEMU runs as another user, who has to get at the disk.
    let folder = tempfile::Builder::new().prefix("rvt-vm.").tempdir_in("/var/tmp").expect("a folder");
    let open = |path: &Path| {
        let status = Command::new("chmod").arg("a+rwx").arg(path).status().expect("chmod");
        assert!(status.success());
    };
    open(folder.path());
    let image = folder.path().join("vda.qcow2");
    let create = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("64M").status();
    assert!(create.expect("qemu-img").success());
    open(&image);
    let xml = format!(
        "<domain type='qemu'><name>rvt-live</name><title>Shop &amp; stock #gold</title><memory unit='MiB'>32</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
         <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
         <source file='{}'/><target dev='vda' bus='virtio'/></disk>
         <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>
         </devices></domain>",
        image.display()
    );
    let file = folder.path().join("domain.xml");
    fs::write(&file, xml).expect("the domain");
    let file = file.to_str().expect("text");
    // Checkpoints are kept of domains that are defined.
    assert_eq!(virsh(&["define", file]).code(), Some(0), "{}", virsh(&["define", file]).stderr);
    let started = virsh(&["start", "rvt-live", "--paused"]);
    assert_eq!(started.code(), Some(0), "{}", started.stderr);

    let storage = folder.path().join("storage");
    let config = format!("[[libvirt]]\n[[storage]]\nname = \"first\"\npath = {storage:?}\n");
    let mut gate = Gate::with("libvirt/rvt-live", &config);
    // Chosen by the words in its title and its description.
    assert_eq!(virsh(&["desc", "rvt-live", "--new-desc", "the test's (#db)"]).code(), Some(0));
    let listed = |tag: &str| gate.run(&["list", "--tag", tag]).good().text();
    let folder_in_tree = format!("{}\n", gate.folder().display());
    assert_eq!((listed("gold"), listed("db")), (folder_in_tree.clone(), folder_in_tree));
    assert_eq!((listed("silver"), listed("Shop")), (String::new(), String::new()));
    let mut disk = vec![0; 64 * MIB];
    write(&mut disk, 3 * MIB, MIB, 0x11);
    let out = temp();
    let begin = |gate: &Gate, level: &str, job: &str, parent: &str| {
        let words = ["begin", "libvirt/rvt-live", "--level", level, "--job", job, "--parent", parent];
        gate.run(&words).good().text()
    };
    let end =
        |gate: &Gate, job: &str, status: &str| gate.run(&["end", "libvirt/rvt-live", "--job", job, "--status", status]);
    let log = begin(&gate, "Full", "j.1", "");
    assert!(log.contains("NOT in this backup: hdc") && log.contains("1 disks of 64.0 MiB"), "{log}");
    let full = disk.clone();
    write(&mut disk, 3 * MIB, 65536, 0xee);
    copy(&gate, out.path());
    let _ = end(&gate, "j.1", "OK").good();
    assert!(by_qemu_img(out.path(), "vda.0001-full.qcow2") == full, "the Full");

    // A job that failed, and a daemon that was killed: nothing is lost.
    write(&mut disk, 10 * MIB, 65536, 0x21);
    begin(&gate, "Incremental", "j.2", "j.1");
    let _ = end(&gate, "j.2", "Error").good();
    write(&mut disk, 11 * MIB, 65536, 0x22);
    begin(&gate, "Incremental", "j.3", "j.1");
    gate.kill();
    gate.start();
    write(&mut disk, 12 * MIB, 65536, 0x23);
    let log = begin(&gate, "Incremental", "j.4", "j.1");
    assert!(log.contains("changed 256.0 KiB"), "{log}");
    let incremental = disk.clone();
    write(&mut disk, 20 * MIB, 65536, 0x24);
    copy(&gate, out.path());
    let told = end(&gate, "j.4", "OK").good().text();
    assert!(told.contains("change tracking proven on 512 clusters"), "{told}");
    assert!(by_qemu_img(out.path(), "vda.0004-inc.qcow2") == incremental, "the Incremental");

    begin(&gate, "Differential", "j.5", "j.1");
    copy(&gate, out.path());
    let _ = end(&gate, "j.5", "OK").good();
    assert!(by_qemu_img(out.path(), "vda.0005-diff.qcow2") == disk, "the Differential");

    // A new chain: the checkpoints of the old one go with the first job that is based on it.
    begin(&gate, "Full", "j.6", "");
    copy(&gate, out.path());
    let _ = end(&gate, "j.6", "OK").good();
    begin(&gate, "Incremental", "j.7", "j.6");
    copy(&gate, out.path());
    let _ = end(&gate, "j.7", "OK").good();
    let left = virsh(&["checkpoint-list", "rvt-live", "--name"]).text();
    assert_eq!(left.split_whitespace().count(), 2, "{left}");
    assert!(by_qemu_img(out.path(), "vda.0007-inc.qcow2") == disk, "the last");

    // What a File daemon would write into the tree becomes a domain; one that is there is replaced if it is off.
    let restore = |to: &str| {
        let to = gate.mount().join("restore/libvirt").join(to);
        fs::create_dir_all(&to).expect("a folder");
        for name in ["0006.digests", "0007.digests", "machine.json", "vda.0007-inc.qcow2", "vda.0006-full.qcow2"] {
            fs::copy(out.path().join(name), to.join(name)).expect(name);
        }
    };
    let uuid = |domain: &str| virsh(&["domuuid", domain]).good().text();
    let was = uuid("rvt-live");
    restore("rvt-back,start");
    let told = gate.bare(&["restore", "end", "libvirt/rvt-back,start"]).good().text();
    assert!(told.contains("proven by") && told.contains("started"), "{told}");
    assert!(virsh(&["domstate", "rvt-back"]).text().contains("running") && uuid("rvt-back") != was);
    assert_eq!(virsh(&["destroy", "rvt-back"]).code(), Some(0));
    assert!(by_qemu_img(&storage.join("rvt-back"), "vda.qcow2") == disk, "the restored disk");
    restore("rvt-live,overwrite");
    let refused = gate.bare(&["restore", "end", "libvirt/rvt-live,overwrite"]);
    assert!(refused.code() == Some(2) && refused.text().contains("runs: shut it down first"), "{}", refused.text());
    assert!(!storage.join("rvt-live/vda.qcow2").exists(), "no disk is put under a machine that runs");
    assert_eq!(virsh(&["destroy", "rvt-live"]).code(), Some(0));
    restore("rvt-live,overwrite");
    let told = gate.bare(&["restore", "end", "libvirt/rvt-live,overwrite"]).good().text();
    assert!(told.contains("a machine on qemu:///system"), "{told}");
    assert_eq!(uuid("rvt-live"), was);
    let blocks = virsh(&["domblklist", "rvt-live"]).text();
    assert!(blocks.contains("storage/rvt-live/vda.qcow2"), "{blocks}");
    for domain in ["rvt-live", "rvt-back"] {
        assert_eq!(virsh(&["undefine", domain]).code(), Some(0));
    }
}
