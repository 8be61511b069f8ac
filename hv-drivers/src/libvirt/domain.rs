//! A domain's XML, for `virsh define`: of a machine that is recovered, and of one that an admin defines by hand.

use std::{fmt::Write, path::Path, time::Duration};

use quick_xml::escape::escape;

use crate::{
    Error, Result,
    driver::{DiskSource, FileFormat},
    machine::{Bus, Chipset, Cpus, Family, Firmware, Machine, NicModel},
    native::{Config, Places, bus},
};

/// Network cards that a domain gets.
const NICS_MAX: usize = 32;

/// A machine as a domain.
#[derive(Debug)]
pub struct Domain<'a> {
    /// What it is.
    pub machine: &'a Machine,
    /// Its name.
    pub name: &'a str,
    /// Whether KVM runs its processors; otherwise they are emulated.
    pub kvm: bool,
    /// Memory in MiB, whatever its description says.
    pub memory_mib: Option<u64>,
    /// Processors, whatever its description says.
    pub cpus: Option<u32>,
    /// Where its disks are, in its order.
    pub disks: &'a [DiskSource],
    /// What its cards are connected to.
    pub cards: Cards<'a>,
    /// The file that keeps what its guest says on the serial console.
    pub console_log: Option<&'a Path>,
    /// How long requests wait for a server of disks that is gone (libvirt 9.1 and later).
    pub reconnect: Duration,
}

/// What network cards are connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cards<'a> {
    /// There are none.
    None,
    /// Nothing: there are cards, and no cable is in them.
    Isolated,
    /// A network of libvirt's.
    Network(&'a str),
    /// The same, with the cable out: the admin puts it in.
    Unplugged(&'a str),
    /// A bridge of the host.
    Bridge(&'a str),
}

/// A disk's place in the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What the guest's side of it is called: `vda`.
    pub target: String,
    bus: Bus,
    /// The kind of bus, in libvirt's words.
    kind: &'static str,
    unit: u32,
    /// Which of the SCSI controllers.
    controller: usize,
    boot: usize,
}

/// The places of a machine's disks, in its order. What is other than it was is added to `notes`.
///
/// # Errors
///
/// When there are more disks than places.
pub fn places(machine: &Machine, notes: &mut Vec<String>) -> Result<Vec<Place>> {
    let there =
        [Bus::VirtioBlk, Bus::VirtioScsi, Bus::Pvscsi, Bus::LsiSas, Bus::Lsi53c895a, Bus::MegaSas, Bus::Sata, Bus::Ide];
    let order = machine.boot_order();
    let mut taken = Places::default();
    let mut controllers: Vec<Bus> = Vec::new();
    let mut places = Vec::new();
    for number in 0..machine.disks.len() {
        let bus = bus(machine, number, &there, Bus::VirtioScsi, Bus::Sata, notes);
        let (prefix, kind, most) = match bus {
            Bus::VirtioBlk => ("vd", "virtio", 16),
            Bus::Sata => ("sd", "sata", 6),
            Bus::Ide => ("hd", "ide", 4),
            _ => ("sd", "scsi", 100),
        };
        // Disks of SATA and SCSI share their names.
        let unit = taken.next(kind, most)?;
        let letter = taken.next(prefix, 702)?;
        if kind == "scsi" && !controllers.contains(&bus) {
            controllers.push(bus);
        }
        places.push(Place {
            target: format!("{prefix}{}", letters(letter)),
            bus,
            kind,
            unit,
            controller: controllers.iter().position(|c| *c == bus).unwrap_or(0),
            boot: order.iter().position(|n| *n == number).unwrap_or(number) + 1,
        });
    }
    Ok(places)
}

/// Where a disk is.
struct Source {
    kind: &'static str,
    format: &'static str,
    /// Attributes of its driver.
    policy: &'static str,
    element: String,
}

/// Lines with their depth.
struct Text(String);

impl Text {
    fn line(&mut self, depth: usize, line: &str) {
        let _always = writeln!(self.0, "{:depth$}{line}", "", depth = 2 * depth);
    }
}

impl Domain<'_> {
    /// The XML, and what is other than the machine was.
    ///
    /// # Errors
    ///
    /// When there are more disks than places for them, or a disk is where libvirt cannot have it.
    pub fn xml(&self) -> Result<Config> {
        let mut notes = Vec::new();
        let places = places(self.machine, &mut notes)?;
        let mut text = Text(String::new());
        text.line(0, if self.kvm { "<domain type='kvm'>" } else { "<domain type='qemu'>" });
        self.board(&mut text, &places);
        text.line(1, "<devices>");
        for (number, (place, source)) in places.iter().zip(self.disks).enumerate() {
            self.disk(&mut text, number, place, source)?;
        }
        let count = places.iter().filter(|p| p.kind == "scsi").map(|p| p.controller + 1).max().unwrap_or(0);
        for index in 0..count {
            let bus = places.iter().find(|p| p.kind == "scsi" && p.controller == index).map(|p| p.bus);
            let model = match bus {
                Some(Bus::Pvscsi) => "vmpvscsi",
                Some(Bus::LsiSas) => "lsisas1068",
                Some(Bus::Lsi53c895a) => "lsilogic",
                Some(Bus::MegaSas) => "lsisas1078",
                _ => "virtio-scsi",
            };
            text.line(2, &format!("<controller type='scsi' index='{index}' model='{model}'/>"));
        }
        self.cards(&mut text);
        match self.console_log.and_then(Path::to_str) {
            Some(log) => {
                text.line(2, "<serial type='pty'>");
                text.line(3, &format!("<log file='{}' append='on'/>", escape(log)));
                text.line(2, "</serial>");
            }
            None => text.line(2, "<serial type='pty'/>"),
        }
        text.line(2, "<channel type='unix'>");
        text.line(3, "<target type='virtio' name='org.qemu.guest_agent.0'/>");
        text.line(2, "</channel>");
        text.line(2, "<graphics type='vnc' listen='127.0.0.1'/>");
        text.line(2, "<video>");
        text.line(3, "<model type='vga'/>");
        text.line(2, "</video>");
        text.line(1, "</devices>");
        text.line(0, "</domain>");
        Ok(Config { text: text.0, notes })
    }

    /// All but the devices.
    fn board(&self, text: &mut Text, places: &[Place]) {
        let machine = self.machine;
        let firmware = machine.firmware.unwrap_or(Firmware::Bios);
        let is_windows = machine.family() == Family::Windows;
        let has_ide = places.iter().any(|place| place.bus == Bus::Ide);
        let usual = if firmware.is_uefi() && !has_ide { Chipset::Q35 } else { Chipset::I440fx };
        let board = match firmware {
            Firmware::SecureBoot => Chipset::Q35,
            _ => machine.chipset.unwrap_or(usual),
        };
        let cpus = match self.cpus {
            Some(count) => Cpus { sockets: 1, cores: count.max(1), threads: 1 },
            None => machine.cpus,
        };
        let Cpus { sockets, cores, threads } = cpus;
        text.line(1, &format!("<name>{}</name>", escape(self.name.replace('/', "_"))));
        if let Some(uuid) = &machine.uuid {
            text.line(1, &format!("<uuid>{}</uuid>", escape(uuid)));
        }
        text.line(1, &format!("<memory unit='MiB'>{}</memory>", self.memory_mib.unwrap_or(machine.memory_mib).max(1)));
        text.line(1, &format!("<vcpu>{}</vcpu>", cpus.count()));
        text.line(1, if firmware.is_uefi() { "<os firmware='efi'>" } else { "<os>" });
        let board = if board == Chipset::Q35 { "q35" } else { "pc" };
        text.line(2, &format!("<type arch='x86_64' machine='{board}'>hvm</type>"));
        if firmware.is_uefi() {
            let secure = if firmware == Firmware::SecureBoot { "yes" } else { "no" };
            text.line(2, "<firmware>");
            text.line(3, &format!("<feature enabled='{secure}' name='secure-boot'/>"));
            text.line(3, &format!("<feature enabled='{secure}' name='enrolled-keys'/>"));
            text.line(2, "</firmware>");
        }
        text.line(1, "</os>");
        text.line(1, "<features>");
        text.line(2, "<acpi/>");
        text.line(2, "<apic/>");
        if is_windows {
            text.line(2, "<hyperv>");
            text.line(3, "<relaxed state='on'/>");
            text.line(3, "<vapic state='on'/>");
            text.line(3, "<spinlocks state='on' retries='8191'/>");
            text.line(2, "</hyperv>");
        }
        if firmware == Firmware::SecureBoot {
            text.line(2, "<smm state='on'/>");
        }
        text.line(1, "</features>");
        text.line(1, &format!("<cpu mode='{}'>", if self.kvm { "host-model" } else { "maximum" }));
        text.line(2, &format!("<topology sockets='{sockets}' cores='{cores}' threads='{threads}'/>"));
        text.line(1, "</cpu>");
        text.line(1, &format!("<clock offset='{}'/>", if is_windows { "localtime" } else { "utc" }));
        text.line(1, "<on_poweroff>destroy</on_poweroff>");
        text.line(1, "<on_reboot>restart</on_reboot>");
        text.line(1, "<on_crash>restart</on_crash>");
    }

    fn disk(&self, text: &mut Text, number: usize, place: &Place, source: &DiskSource) -> Result<()> {
        let Place { target, kind, unit, controller, boot, .. } = place;
        let Source { kind: kind_of, format, policy, element } = self.source(source)?;
        text.line(2, &format!("<disk type='{kind_of}' device='disk'>"));
        text.line(3, &format!("<driver name='qemu' type='{format}' discard='unmap'{policy}/>"));
        text.line(3, &element);
        text.line(3, &format!("<target dev='{target}' bus='{kind}'/>"));
        if let Some(serial) = self.machine.disks.get(number).and_then(|disk| disk.serial.as_ref()) {
            let serial: String =
                serial.chars().filter(|c| c.is_ascii_alphanumeric() || "_. -".contains(*c)).take(20).collect();
            text.line(3, &format!("<serial>{serial}</serial>"));
        }
        text.line(3, &format!("<boot order='{boot}'/>"));
        if *kind == "scsi" {
            text.line(
                3,
                &format!("<address type='drive' controller='{controller}' bus='0' target='0' unit='{unit}'/>"),
            );
        }
        text.line(2, "</disk>");
        Ok(())
    }

    /// Where a disk is, as libvirt is told it.
    fn source(&self, source: &DiskSource) -> Result<Source> {
        let path = |path: &Path| {
            let text = path.to_str().map(|text| escape(text).into_owned());
            text.ok_or_else(|| Error::invalid(format!("libvirt cannot be told {}: it is no UTF-8", path.display())))
        };
        let nbd = |export: &str, host: &str| Source {
            kind: "network",
            format: FileFormat::Raw.name(),
            // A server that is gone lets the guest stand still: no request of its fails.
            policy: " error_policy='stop' rerror_policy='stop'",
            element: format!(
                "<source protocol='nbd' name='{}'>{host}<reconnect delay='{}'/></source>",
                escape(export),
                self.reconnect.as_secs()
            ),
        };
        match source {
            DiskSource::File { path: file, format } => {
                let element = format!("<source file='{}'/>", path(file)?);
                Ok(Source { kind: "file", format: format.name(), policy: "", element })
            }
            DiskSource::NbdUnix { socket, export } => {
                Ok(nbd(export, &format!("<host transport='unix' socket='{}'/>", path(socket)?)))
            }
            DiskSource::NbdTcp { host, port, export } => {
                Ok(nbd(export, &format!("<host name='{}' port='{port}'/>", escape(host))))
            }
            DiskSource::Iscsi { .. } | DiskSource::Nfs { .. } => {
                Err(Error::unsupported("a domain of libvirt gets its disks by NBD or as files here"))
            }
        }
    }

    fn cards(&self, text: &mut Text) {
        let network = |name: &str| ("network", format!("<source network='{}'/>", escape(name)));
        let ((kind, source), is_plugged) = match self.cards {
            Cards::None => return,
            Cards::Isolated => (("user", String::new()), false),
            Cards::Network(name) => (network(name), true),
            Cards::Unplugged(name) => (network(name), false),
            Cards::Bridge(name) => (("bridge", format!("<source bridge='{}'/>", escape(name))), true),
        };
        for nic in self.machine.nics.iter().take(NICS_MAX) {
            let model = match (nic.model, self.machine.family()) {
                (Some(NicModel::Netvsc) | None, Family::Windows) => "e1000e",
                (Some(NicModel::Netvsc | NicModel::Virtio) | None, _) => "virtio",
                (Some(model), _) => model.name(),
            };
            text.line(2, &format!("<interface type='{kind}'>"));
            if let Some(mac) = nic.mac {
                text.line(3, &format!("<mac address='{mac}'/>"));
            }
            if !source.is_empty() {
                text.line(3, &source);
            }
            text.line(3, &format!("<model type='{model}'/>"));
            if !is_plugged {
                text.line(3, "<link state='down'/>");
            }
            text.line(2, "</interface>");
        }
    }
}

/// The letters of a disk: `a`, … `z`, `aa`, ….
fn letters(number: u32) -> String {
    let letter = |n: u32| char::from(b'a' + u8::try_from(n % 26).unwrap_or(0));
    if number < 26 { letter(number).to_string() } else { [letter(number / 26 - 1), letter(number)].iter().collect() }
}
