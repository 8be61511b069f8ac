//! The command line of a machine.
//!
//! Nothing that QEMU adds by itself (`-nodefaults`, `-no-user-config`), all disks as block nodes, a sandbox around a
//! process that a hostile guest may take over, and nothing of the guest's that decides about this host: it has no share,
//! no host device, and a network with nothing in it unless the operator says otherwise.

use std::path::Path;

use super::{
    firmware::Flash,
    plan::{Plan, PlannedDisk},
    source,
};
use crate::{
    Error, Result,
    driver::DiskSource,
    machine::{Bus, Chipset, Family, Mac, NicModel},
    settings::{Display, Forward, Network, Spec},
};

/// The longest path of a Unix socket, in bytes (`sun_path` without its NUL).
const SOCKET_MAX: usize = 107;
/// What a machine has at most here, whatever its description says.
const CPUS_MAX: u32 = 255;

/// What the arguments are made of.
pub struct Parts<'a> {
    /// What is started.
    pub spec: &'a Spec,
    /// Its hardware.
    pub plan: &'a Plan,
    /// The machine's folder.
    pub folder: &'a Path,
    /// Its firmware, where that is UEFI.
    pub flash: Option<&'a Flash>,
    /// Whether KVM runs it.
    pub kvm: bool,
    /// Whether QEMU can lock itself up.
    pub sandbox: bool,
}

/// The name of disk `number`'s node when the machine is started.
pub fn node(number: usize) -> String {
    format!("disk{number}")
}

/// The name of disk `number`'s device.
pub fn device(number: usize) -> String {
    format!("dev-disk{number}")
}

/// A value in a list of options, which ends at a comma that is not doubled.
fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}

struct Line(Vec<String>);

impl Line {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }
}

impl Parts<'_> {
    /// The command line without the program.
    ///
    /// # Errors
    ///
    /// When a path cannot be told to QEMU, or there are not as many places as disks.
    pub fn arguments(&self) -> Result<Vec<String>> {
        let machine = &self.spec.machine;
        if self.spec.disks.len() != machine.disks.len() {
            let (places, disks) = (self.spec.disks.len(), machine.disks.len());
            return Err(Error::invalid(format!(
                "{} has {disks} disks, and {places} places of disks are given",
                machine.name
            )));
        }
        let mut line = Line(Vec::new());
        line.0.extend(["-no-user-config".to_owned(), "-nodefaults".to_owned()]);
        line.add("-name", format!("guest={}", escaped(&machine.name)));
        if let Some(uuid) = &machine.uuid {
            line.add("-uuid", uuid);
        }
        self.board(&mut line);
        self.firmware(&mut line)?;
        self.monitors(&mut line)?;
        self.disks(&mut line)?;
        self.network(&mut line);
        self.screen(&mut line)?;
        // It is let go when it can be watched.
        line.0.push("-S".into());
        line.add("-action", "reboot=reset,shutdown=poweroff,panic=none");
        if self.sandbox {
            // The bridge helper is a program of its own, and gains rights.
            let mode = if matches!(self.spec.settings.network, Network::Bridge(_)) { "allow" } else { "deny" };
            line.add(
                "-sandbox",
                format!("on,obsolete=deny,elevateprivileges={mode},spawn={mode},resourcecontrol=deny"),
            );
        }
        Ok(line.0)
    }

    fn board(&self, line: &mut Line) {
        let (machine, settings) = (&self.spec.machine, &self.spec.settings);
        let board = match self.plan.chipset {
            Chipset::Q35 => "q35",
            Chipset::I440fx => "pc",
        };
        let accelerator = if self.kvm { "kvm" } else { "tcg" };
        let smm = if self.flash.is_some_and(|f| f.needs_smm) { ",smm=on" } else { "" };
        line.add("-machine", format!("{board},accel={accelerator},vmport=off{smm}"));
        if self.flash.is_some_and(|f| f.needs_smm) {
            line.add("-global", "driver=cfi.pflash01,property=secure,value=on");
        }
        let is_windows = machine.family() == Family::Windows;
        let cpu = match (self.kvm, is_windows) {
            (false, _) => "max",
            (true, false) => "host",
            (true, true) => "host,hv-relaxed=on,hv-vapic=on,hv-spinlocks=0x1fff,hv-vpindex=on,hv-time=on",
        };
        line.add("-cpu", cpu);
        let told = machine.cpus;
        let count = settings.cpus.unwrap_or_else(|| told.count()).clamp(1, CPUS_MAX);
        line.add(
            "-smp",
            if count == told.count() {
                format!("cpus={count},sockets={},cores={},threads={}", told.sockets, told.cores, told.threads)
            } else {
                format!("cpus={count},sockets=1,cores={count},threads=1")
            },
        );
        line.add("-m", format!("size={}M", settings.memory_mib.unwrap_or(machine.memory_mib).max(1)));
        line.add("-rtc", if is_windows { "base=localtime" } else { "base=utc" });
        line.add("-boot", "strict=on,menu=off");
        line.add("-device", "virtio-serial-pci,id=serial0");
        if !is_windows {
            line.add("-device", "virtio-rng-pci");
            line.add("-device", "pvpanic");
        }
    }

    fn firmware(&self, line: &mut Line) -> Result<()> {
        let Some(flash) = self.flash else { return Ok(()) };
        let code = escaped(source::path(&flash.code)?);
        line.add("-drive", format!("if=pflash,unit=0,format={},readonly=on,file={code}", flash.code_format));
        if let Some((_, format)) = &flash.variables {
            let own = self.folder.join(super::firmware::VARIABLES);
            line.add("-drive", format!("if=pflash,unit=1,format={format},file={}", escaped(source::path(&own)?)));
        }
        Ok(())
    }

    /// The path of a socket in the folder.
    fn socket(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        if path.as_os_str().len() > SOCKET_MAX {
            return Err(Error::invalid(format!(
                "{} is too long for a socket: a machine's folder may have at most {} bytes in its path",
                path.display(),
                SOCKET_MAX - 16
            )));
        }
        source::path(&path).map(escaped)
    }

    fn monitors(&self, line: &mut Line) -> Result<()> {
        for name in ["qmp", "events"] {
            line.add(
                "-chardev",
                format!("socket,id={name},path={},server=on,wait=off", self.socket(&format!("{name}.sock"))?),
            );
            line.add("-mon", format!("chardev={name},mode=control"));
        }
        let log = self.folder.join(super::console::LOG);
        let log = escaped(source::path(&log)?);
        let console = self.socket("console.sock")?;
        line.add("-chardev", format!("socket,id=console,path={console},server=on,wait=off,logfile={log},logappend=on"));
        line.add("-serial", "chardev:console");
        line.add("-chardev", format!("socket,id=agent,path={},server=on,wait=off", self.socket("agent.sock")?));
        line.add("-device", "virtserialport,bus=serial0.0,chardev=agent,name=org.qemu.guest_agent.0");
        let pid = self.folder.join(super::process::PID_FILE);
        line.add("-pidfile", source::path(&pid)?);
        Ok(())
    }

    fn disks(&self, line: &mut Line) -> Result<()> {
        let settings = &self.spec.settings;
        let mut controllers = std::collections::BTreeSet::new();
        for disk in &self.plan.disks {
            if let Some(kind) = controller(disk.bus)
                && controllers.insert((kind, disk.controller))
            {
                line.add("-device", format!("{kind},id={kind}-{}", disk.controller));
            }
        }
        for (number, (disk, place)) in self.plan.disks.iter().zip(&self.spec.disks).enumerate() {
            if let DiskSource::Iscsi { chap: Some((_, file)), .. } = place {
                let (id, file) = (source::secret(&node(number)), escaped(source::path(file)?));
                line.add("-object", format!("secret,id={id},format=raw,file={file}"));
            }
            for node in source::nodes(place, &node(number), settings.reconnect, settings.throwaway)? {
                line.add("-blockdev", node.to_string());
            }
            line.add("-device", disk_device(number, disk));
        }
        Ok(())
    }

    fn network(&self, line: &mut Line) {
        let backend = match &self.spec.settings.network {
            Network::None => return,
            Network::Isolated(forwards) => format!("user,restrict=on{}", forwarded(forwards)),
            Network::Nat(forwards) => format!("user{}", forwarded(forwards)),
            Network::Bridge(name) => format!("bridge,br={}", escaped(name)),
        };
        let needs_one = backend.contains("hostfwd");
        let mut nics = self.plan.nics.clone();
        if nics.is_empty() && needs_one {
            let windows = self.spec.machine.family() == Family::Windows;
            let model = if windows { NicModel::E1000e } else { NicModel::Virtio };
            nics.push(super::plan::PlannedNic { model, mac: Mac::random() });
        }
        for (number, nic) in nics.iter().enumerate() {
            // Ports lead to the first card.
            let backend = match backend.split_once(",hostfwd") {
                Some((bare, _)) if number > 0 => bare,
                _ => &backend,
            };
            line.add("-netdev", format!("{backend},id=net{number}"));
            let model = match nic.model {
                NicModel::Virtio | NicModel::Netvsc => "virtio-net-pci",
                NicModel::Vmxnet3 => "vmxnet3",
                NicModel::E1000e => "e1000e",
                NicModel::E1000 => "e1000",
                NicModel::Rtl8139 => "rtl8139",
                NicModel::Pcnet => "pcnet",
            };
            // No ROM: nothing is booted from the network.
            line.add("-device", format!("{model},netdev=net{number},mac={},romfile=", nic.mac));
        }
    }

    fn screen(&self, line: &mut Line) -> Result<()> {
        line.add("-device", "VGA");
        line.add("-display", "none");
        match self.spec.settings.display {
            Display::None => {}
            Display::VncSocket => line.add("-vnc", format!("unix:{}", self.socket("vnc.sock")?)),
            Display::VncPort(port) => {
                let number = port.checked_sub(5900).ok_or_else(|| {
                    Error::invalid(format!("VNC cannot be at port {port}: its ports are 5900 and above"))
                })?;
                line.add("-vnc", format!("127.0.0.1:{number}"));
            }
        }
        Ok(())
    }
}

fn forwarded(forwards: &[Forward]) -> String {
    forwards.iter().map(|f| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", f.host, f.guest)).collect()
}

/// The device that disks on `bus` share.
const fn controller(bus: Bus) -> Option<&'static str> {
    match bus {
        Bus::VirtioScsi => Some("virtio-scsi-pci"),
        Bus::Pvscsi => Some("pvscsi"),
        Bus::LsiSas => Some("mptsas1068"),
        Bus::Lsi53c895a => Some("lsi53c895a"),
        Bus::MegaSas => Some("megasas"),
        Bus::Sata => Some("ich9-ahci"),
        _ => None,
    }
}

fn disk_device(number: usize, disk: &PlannedDisk) -> String {
    let (unit, controller_number) = (disk.unit, disk.controller);
    let at = match (disk.bus, controller(disk.bus)) {
        (Bus::VirtioBlk, _) => "virtio-blk-pci".to_owned(),
        (Bus::Nvme, _) => "nvme".to_owned(),
        (Bus::Ide, _) => format!("ide-hd,bus=ide.{},unit={}", unit / 2, unit % 2),
        (Bus::Sata, Some(kind)) => format!("ide-hd,bus={kind}-{controller_number}.{unit}"),
        (_, Some(kind)) => format!("scsi-hd,bus={kind}-{controller_number}.0,scsi-id={unit}"),
        (_, None) => "virtio-blk-pci".to_owned(),
    };
    // The guest stands still until its request can be done; NVMe has no such policy, there the guest gets the error.
    let policy = if disk.bus == Bus::Nvme { "" } else { ",werror=stop,rerror=stop" };
    let serial = match (&disk.serial, disk.bus) {
        (Some(serial), _) => format!(",serial={serial}"),
        (None, Bus::Nvme) => format!(",serial=disk{number}"),
        (None, _) => String::new(),
    };
    format!("{at},id={},drive={},bootindex={}{serial}{policy}", device(number), node(number), disk.boot)
}
