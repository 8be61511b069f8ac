//! Native configurations of descriptions that other tools would write, read back in each hypervisor's own language as far as
//! that can be done without the hypervisor.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
};

use hv_drivers::{
    machine::Machine,
    native::{self, Kind},
};

/// A Linux machine of vSphere, with UEFI and several controllers.
const LINUX: &str = r#"{
  "name": "web 01 (prod)", "uuid": "421f0a3c-1111-2222-3333-444455556666", "firmware": "efi", "sockets": 2, "cores": 2,
  "memory_mib": 8190, "guest_os": "debian12-64",
  "controllers": [{ "id": "scsi0", "kind": "pvscsi" }, { "id": "nvme0", "kind": "nvme" }],
  "disks": [{ "name": "disk0", "controller": "scsi0", "unit": 0 }, { "name": "disk1", "controller": "nvme0", "boot": 1 }],
  "nics": [{ "mac": "00:50:56:aa:bb:01", "model": "vmxnet3", "network": "VM Network" }, { "mac": "00:50:56:3f:00:01" }],
  "source": "vsphere"
}"#;

/// A Windows machine of Hyper-V, generation 1.
const WINDOWS: &str = r#"{
  "name": "DC1", "firmware": "bios", "cpus": 4, "memory": 4294967296, "guest_os": "windows2019srv-64",
  "disks": [{ "name": "disk0", "bus": "ide" }, { "name": "disk1", "bus": "hyperv" }],
  "nics": [{ "mac": "00155D010203", "model": "synthetic", "network": "vSwitch" }]
}"#;

/// What somebody would write who wants more than a description.
const HOSTILE: &str = r#"{
  "name": "x'; $(touch /tmp/pwned) `id` \" | <a&b> \u2019; Remove-VM * #", "firmware": "secure-boot",
  "disks": [{ "serial": "a,b=c'\"<" }], "nics": [{ "network": "n'\n$(id)\"<!--" }], "guest_os": "l26\"; x = \"y"
}"#;

const ALL: [Kind; 4] = [Kind::Proxmox, Kind::Vmx, Kind::HyperV, Kind::Libvirt];

fn config(kind: Kind, description: &str) -> String {
    let machine = Machine::read(description.as_bytes()).expect("a description");
    let files: Vec<String> = (0..machine.disks.len()).map(|n| format!("disk{n}.{}", kind.disk_extension())).collect();
    let config = native::write(kind, &machine, &files).expect("a configuration");
    assert!(native::write(kind, &machine, &[]).is_err());
    config.text
}

/// A VMX file as VMware reads it: `key = "value"`, with codes for what has a meaning.
fn vmx(text: &str) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for line in text.lines() {
        let (key, value) = line.split_once(" = ").expect("a key and a value");
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).expect("quotes");
        assert!(!value.contains('"'), "{line}");
        let mut parts = value.split('|');
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            plain.push(char::from(u8::from_str_radix(&part[..2], 16).expect("a code")));
            plain.push_str(&part[2..]);
        }
        assert!(keys.insert(key.to_owned(), plain).is_none(), "{key} twice");
    }
    keys
}

#[test]
fn vmx_is_read_back() {
    let linux = vmx(&config(Kind::Vmx, LINUX));
    for (key, wanted) in [
        ("displayName", "web 01 (prod)"),
        ("firmware", "efi"),
        ("guestOS", "debian12-64"),
        ("numvcpus", "4"),
        ("cpuid.coresPerSocket", "2"),
        ("memSize", "8192"),
        ("uuid.bios", "42 1f 0a 3c 11 11 22 22-33 33 44 44 55 55 66 66"),
        ("scsi0.virtualDev", "pvscsi"),
        ("scsi0:0.fileName", "disk0.vmdk"),
        ("nvme0:0.fileName", "disk1.vmdk"),
        ("ethernet0.networkName", "VM Network"),
        ("ethernet0.checkMACAddress", "FALSE"),
        ("ethernet1.address", "00:50:56:3f:00:01"),
        ("ethernet0.startConnected", "FALSE"),
    ] {
        assert_eq!(linux.get(key).map(String::as_str), Some(wanted), "{key}");
    }
    assert!(!linux.contains_key("ethernet1.checkMACAddress"));
    let windows = vmx(&config(Kind::Vmx, WINDOWS));
    assert_eq!(windows["scsi0.virtualDev"], "lsisas1068");
    assert_eq!((&*windows["ide0:0.fileName"], &*windows["ethernet0.virtualDev"]), ("disk0.vmdk", "e1000e"));
    let hostile = vmx(&config(Kind::Vmx, HOSTILE));
    assert!(hostile["displayName"].starts_with("x'; $(touch /tmp/pwned) `id` \" | <a&b>"));
    assert_eq!(hostile["uefi.secureBoot.enabled"], "TRUE");
    assert!(!hostile.contains_key("x"));
}

/// Runs a script of Proxmox with commands that only print their arguments.
fn run_proxmox(text: &str) -> Vec<Vec<String>> {
    let stub = "qm() { for a in \"$@\"; do printf '%s\\037' \"$a\"; done; echo; }; pvesh() { echo 101; }\n";
    let mut shell = Command::new("sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    let script = format!("{stub}{text}");
    shell.stdin.take().expect("its input").write_all(script.as_bytes()).expect("writing");
    let out = shell.wait_with_output().expect("an end");
    assert!(out.status.success(), "{text}");
    let out = String::from_utf8(out.stdout).expect("text");
    out.lines().map(|line| line.trim_end_matches('\u{1f}').split('\u{1f}').map(str::to_owned).collect()).collect()
}

#[test]
fn proxmox_is_a_script_that_runs() {
    let linux = run_proxmox(&config(Kind::Proxmox, LINUX));
    let create = &linux[0];
    let option = |name: &str| create.iter().position(|a| a == name).map(|at| create[at + 1].as_str());
    assert_eq!((create[0].as_str(), create[1].as_str()), ("create", "101"));
    assert_eq!((option("--name"), option("--bios")), (Some("web-01--prod"), Some("ovmf")));
    assert_eq!((option("--sockets"), option("--cores"), option("--memory")), (Some("2"), Some("2"), Some("8190")));
    assert_eq!(option("--scsihw"), Some("pvscsi"));
    let sets: Vec<String> = linux[1..].iter().map(|line| line[2..].join(" ")).collect();
    assert_eq!(sets[0], "--efidisk0 local-lvm:1,efitype=4m,pre-enrolled-keys=0");
    assert_eq!(sets[1], "--scsi0 local-lvm:0,import-from=disk0.qcow2,discard=on");
    assert!(sets.contains(&"--net0 vmxnet3=00:50:56:AA:BB:01,bridge=vmbr0,link_down=1".to_owned()), "{sets:?}");
    assert_eq!(sets.last().map(String::as_str), Some("--boot order=scsi1;scsi0"), "the second is booted first");
    let hostile = run_proxmox(&config(Kind::Proxmox, HOSTILE));
    assert!(hostile.iter().all(|line| matches!(line[0].as_str(), "create" | "set")), "{hostile:?}");
    assert!(!std::path::Path::new("/tmp/pwned").exists());
}

#[test]
fn libvirt_is_well_formed() {
    for description in [LINUX, WINDOWS, HOSTILE] {
        let text = config(Kind::Libvirt, description);
        let mut reader = quick_xml::Reader::from_str(&text);
        let (mut depth, mut disks) = (0, 0);
        loop {
            match reader.read_event().unwrap_or_else(|e| panic!("{e}: {text}")) {
                quick_xml::events::Event::Start(start) => {
                    depth += 1;
                    disks += usize::from(start.name().as_ref() == b"disk");
                }
                quick_xml::events::Event::End(_) => depth -= 1,
                quick_xml::events::Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(depth, 0);
        assert_eq!(disks, Machine::read(description.as_bytes()).expect("a description").disks.len());
    }
    let linux = config(Kind::Libvirt, LINUX);
    assert!(linux.contains("<model type='vmxnet3'/>") && linux.contains("model='vmpvscsi'"), "{linux}");
    assert!(config(Kind::Libvirt, HOSTILE).contains("&lt;a&amp;b&gt;"));
}

/// Quotes in PowerShell end a string only when there is an odd number of them in a row.
#[test]
fn hyperv_quotes_and_generations() {
    let linux = config(Kind::HyperV, LINUX);
    assert!(linux.contains("-Generation 2") && linux.contains("-EnableSecureBoot Off"), "{linux}");
    assert!(
        linux.contains("-ControllerNumber 0 -ControllerLocation 0 -Path (Join-Path $Disks 'disk1.vhdx')"),
        "{linux}"
    );
    let windows = config(Kind::HyperV, WINDOWS);
    assert!(windows.contains("-Generation 1") && windows.contains("-ControllerType IDE"), "{windows}");
    assert!(windows.contains("-StaticMacAddress 00155D010203"), "{windows}");
    let hostile = config(Kind::HyperV, HOSTILE);
    let name = hostile.lines().find(|l| l.contains("$Name =")).expect("the name");
    assert!(
        name.contains("'x''; $(touch") && name.contains("\u{2019}\u{2019}; Remove-VM") && name.ends_with("#',"),
        "{name}"
    );
    assert!(hostile.lines().all(|l| !l.trim_start().starts_with("Remove-VM")));
}

#[test]
fn names_of_kinds() {
    for kind in ALL {
        assert_eq!(kind.name().parse::<Kind>().expect("its own name"), kind);
    }
    assert!("ovf2".parse::<Kind>().is_err());
}
