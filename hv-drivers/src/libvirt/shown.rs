//! What libvirt shows of a domain, as far as it is looked at.

use std::path::PathBuf;

use quick_xml::{
    Reader,
    escape::resolve_predefined_entity,
    events::{BytesStart, Event},
};

use crate::{
    Error, Result,
    machine::{self, Bus, Chipset, Cpus, Firmware, Mac, Machine, Nic, NicModel},
};

/// Elements that are looked at.
const EVENTS_MAX: usize = 1 << 20;

/// A disk of a running domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// What the guest's side of it is called: `vda`.
    pub target: String,
    /// Its file, where it is one.
    pub file: Option<PathBuf>,
    /// It is being copied; whether the copy is complete and kept so.
    pub mirror: Option<bool>,
}

/// The disks in a domain's XML.
///
/// # Errors
///
/// When it is no XML.
pub fn disks(xml: &str) -> Result<Vec<Disk>> {
    let mut disks = Vec::new();
    walk(xml, |path, element| match path {
        ["domain", "devices", "disk"] => disks.push(Disk::default()),
        ["domain", "devices", "disk", inner] => {
            let Some(disk) = disks.last_mut() else { return };
            match *inner {
                "target" => disk.target = attribute(element, "dev").unwrap_or_default(),
                "source" => disk.file = attribute(element, "file").map(PathBuf::from),
                "mirror" => disk.mirror = Some(attribute(element, "ready").as_deref() == Some("yes")),
                _ => {}
            }
        }
        _ => {}
    })?;
    Ok(disks)
}

/// A disk, as far as backups want to know it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackedUp {
    /// What the guest's side of it is called.
    pub target: String,
    /// Where its image is.
    pub place: String,
    /// Why it cannot be backed up.
    pub why_not: Option<String>,
}

/// The disks in a domain's XML, and why some cannot be backed up.
///
/// # Errors
///
/// When it is no XML.
pub fn backed_up(xml: &str) -> Result<Vec<BackedUp>> {
    let mut disks: Vec<BackedUp> = Vec::new();
    walk(xml, |path, element| match path {
        ["domain", "devices", "disk"] => {
            let kind = attribute(element, "device").unwrap_or_default();
            let why_not = match kind.as_str() {
                "" | "disk" => None,
                "lun" => Some("a device that is passed through".to_owned()),
                _ => Some("a removable medium".to_owned()),
            };
            disks.push(BackedUp { why_not, ..BackedUp::default() });
        }
        ["domain", "devices", "disk", inner] => {
            let Some(disk) = disks.last_mut() else { return };
            let set = |why: &mut Option<String>, text: &str| {
                why.get_or_insert_with(|| text.to_owned());
            };
            match *inner {
                "target" => disk.target = attribute(element, "dev").unwrap_or_default(),
                "source" => {
                    let keys = ["file", "dev", "name", "volume"];
                    disk.place = keys.iter().find_map(|key| attribute(element, key)).unwrap_or_default();
                }
                "driver" if attribute(element, "type").as_deref() == Some("raw") => {
                    set(&mut disk.why_not, "a raw image: libvirt tracks changes in qcow2 images only");
                }
                "readonly" => set(&mut disk.why_not, "it is read-only"),
                _ => {}
            }
        }
        _ => {}
    })?;
    Ok(disks)
}

/// The tags in a domain's XML: words of its title and its description that begin with `#`, as `#gold`.
///
/// # Errors
///
/// When it is no XML.
pub fn tags(xml: &str) -> Result<Vec<String>> {
    let is_of_tag = |c: char| c.is_alphanumeric() || "-_.:".contains(c);
    let mut tags = Vec::new();
    texts(xml, |path, text| {
        if matches!(path, ["domain", "title" | "description"]) {
            let words = text.split(|c: char| c.is_whitespace() || ",;()".contains(c));
            let found = words.filter_map(|word| word.strip_prefix('#'));
            // The end of a sentence is none of the tag's.
            let found = found.map(|tag| tag.trim_end_matches(['.', ':', '!', '?']));
            tags.extend(found.filter(|tag| !tag.is_empty() && tag.chars().all(is_of_tag)).map(str::to_owned));
        }
    })?;
    tags.sort();
    tags.dedup();
    Ok(tags)
}

/// The machine in a domain's XML.
///
/// # Errors
///
/// When it is no XML.
pub fn machine(xml: &str) -> Result<Machine> {
    let mut machine = Machine::new("machine", []);
    walk(xml, |path, element| match path {
        ["domain", "os"] if attribute(element, "firmware").as_deref() == Some("efi") => {
            machine.firmware = Some(Firmware::Uefi);
        }
        ["domain", "os", "loader"] if attribute(element, "type").as_deref() == Some("pflash") => {
            let is_secure = attribute(element, "secure").as_deref() == Some("yes");
            machine.firmware = Some(if is_secure { Firmware::SecureBoot } else { Firmware::Uefi });
        }
        ["domain", "os", "type"] => {
            let kind = attribute(element, "machine").unwrap_or_default();
            machine.chipset = if kind.contains("q35") {
                Some(Chipset::Q35)
            } else {
                kind.starts_with("pc").then_some(Chipset::I440fx)
            };
        }
        ["domain", "cpu", "topology"] => {
            let number = |key: &str| attribute(element, key).and_then(|n| n.parse().ok()).unwrap_or(1);
            machine.cpus = Cpus { sockets: number("sockets"), cores: number("cores"), threads: number("threads") };
        }
        ["domain", "devices", "disk"] => machine.disks.push(machine::Disk::default()),
        ["domain", "devices", "disk", "target"] => {
            let Some(disk) = machine.disks.last_mut() else { return };
            disk.name = attribute(element, "dev");
            disk.bus = attribute(element, "bus").and_then(|bus| Bus::of_name(&bus));
        }
        ["domain", "devices", "disk", "boot"] => {
            let Some(disk) = machine.disks.last_mut() else { return };
            disk.boot = attribute(element, "order").and_then(|n| n.parse().ok());
        }
        ["domain", "devices", "interface"] => machine.nics.push(Nic::default()),
        ["domain", "devices", "interface", inner] => {
            let Some(nic) = machine.nics.last_mut() else { return };
            match *inner {
                "mac" => nic.mac = attribute(element, "address").and_then(|mac| Mac::parse(&mac)),
                "model" => nic.model = attribute(element, "type").and_then(|model| NicModel::of_name(&model)),
                "source" => {
                    nic.network = ["network", "bridge", "dev"].iter().find_map(|key| attribute(element, key));
                }
                _ => {}
            }
        }
        _ => {}
    })?;
    let mut units = 1024;
    walk(xml, |path, element| {
        if path == ["domain", "memory"] {
            units = match attribute(element, "unit").as_deref() {
                Some("b" | "bytes") => 1,
                Some("M" | "MiB") => 1 << 20,
                Some("G" | "GiB") => 1 << 30,
                _ => 1024,
            };
        }
    })?;
    let mut processors = None;
    texts(xml, |path, text| match path {
        ["domain", "name"] => text.clone_into(&mut machine.name),
        ["domain", "uuid"] => machine.uuid = Some(text.to_owned()),
        ["domain", "memory"] => {
            let bytes = text.parse::<u64>().ok().and_then(|n| n.checked_mul(units));
            machine.memory_mib = bytes.map_or(machine.memory_mib, |bytes| (bytes >> 20).max(1));
        }
        ["domain", "vcpu"] => processors = text.parse().ok(),
        _ => {}
    })?;
    if let Some(all) = processors
        && machine.cpus.count() != all
    {
        machine.cpus = Cpus { sockets: 1, cores: all, threads: 1 };
    }
    machine.firmware = machine.firmware.or(Some(Firmware::Bios));
    Ok(machine)
}

/// The user and group as whom QEMU runs, in libvirt's capabilities; `None`: as whom libvirt itself does.
///
/// # Errors
///
/// When they are no XML.
pub fn user(xml: &str) -> Result<Option<(u32, u32)>> {
    let (mut is_dac, mut found) = (false, None);
    texts(xml, |path, text| match path {
        ["capabilities", "host", "secmodel", "model"] => is_dac = text == "dac",
        ["capabilities", "host", "secmodel", "baselabel"] if is_dac => {
            let mut numbers = text.split(':').map(|n| n.trim_start_matches('+').parse().ok());
            found = found.or(numbers.next().flatten().zip(numbers.next().flatten()));
        }
        _ => {}
    })?;
    Ok(found)
}

/// QEMU's program, in what libvirt says of domains that it can have.
pub fn emulator(xml: &str) -> Option<PathBuf> {
    let mut found = None;
    let is_xml = texts(xml, |path, text| {
        if path == ["domainCapabilities", "path"] {
            found = Some(PathBuf::from(text));
        }
    });
    is_xml.ok().and(found)
}

/// Calls `on` for each text with the path of its element.
fn texts(xml: &str, mut on: impl FnMut(&[&str], &str)) -> Result<()> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    // A text comes in pieces: between them stand references, as `&amp;`.
    let mut text = String::new();
    for _ in 0..EVENTS_MAX {
        let event = reader.read_event().map_err(|e| unreadable(&e))?;
        match &event {
            Event::Text(piece) => text.push_str(&String::from_utf8_lossy(piece)),
            Event::CData(piece) => text.push_str(&String::from_utf8_lossy(piece)),
            Event::GeneralRef(reference) => {
                let known = reference.decode().ok().and_then(|name| resolve_predefined_entity(&name));
                text.push_str(known.unwrap_or_default());
                text.extend(reference.resolve_char_ref().ok().flatten());
            }
            Event::Comment(_) => {}
            _ => {
                let whole = std::mem::take(&mut text);
                if !whole.trim().is_empty() {
                    on(&path.iter().map(String::as_str).collect::<Vec<_>>(), whole.trim());
                }
            }
        }
        match event {
            Event::Start(element) => path.push(name(&element)),
            Event::End(_) => drop(path.pop()),
            Event::Eof => return Ok(()),
            _ => {}
        }
    }
    Err(too_long())
}

/// Calls `on` for each element with its path.
fn walk(xml: &str, mut on: impl FnMut(&[&str], &BytesStart<'_>)) -> Result<()> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    for _ in 0..EVENTS_MAX {
        let event = reader.read_event().map_err(|e| unreadable(&e))?;
        let (element, has_more) = match event {
            Event::Start(element) => (element, true),
            Event::Empty(element) => (element, false),
            Event::End(_) => {
                path.pop();
                continue;
            }
            Event::Eof => return Ok(()),
            _ => continue,
        };
        path.push(name(&element));
        on(&path.iter().map(String::as_str).collect::<Vec<_>>(), &element);
        if !has_more {
            path.pop();
        }
    }
    Err(too_long())
}

fn name(element: &BytesStart<'_>) -> String {
    String::from_utf8_lossy(element.local_name().as_ref()).into_owned()
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = element.attributes().with_checks(false).flatten().find(|a| a.key.as_ref() == name.as_bytes());
    found.and_then(|a| a.unescape_value().ok().map(std::borrow::Cow::into_owned))
}

fn unreadable(e: &quick_xml::Error) -> Error {
    Error::damaged(format!("what libvirt says is no XML: {e}"))
}

fn too_long() -> Error {
    Error::damaged("what libvirt says has no end")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libvirt 9.0 says it in the middle of a copy.
    const COPYING: &str = "<domain type='qemu' id='1'>
      <devices>
        <disk type='network' device='disk'>
          <source protocol='nbd' name='disk0' tls='no' index='1'><host transport='unix' socket='/s'/></source>
          <mirror type='file' file='/vm/a.qcow2' format='qcow2' job='copy' ready='yes'>
            <format type='qcow2'/><source file='/vm/a.qcow2' index='2'/><backingStore/>
          </mirror>
          <target dev='vda' bus='virtio'/>
        </disk>
        <disk type='file' device='disk'>
          <source file='/vm/b &amp; c.raw' index='2'/><backingStore/><target dev='sda' bus='scsi'/>
        </disk>
      </devices>
    </domain>";

    #[test]
    fn disks_and_their_copies() {
        let shown = disks(COPYING).expect("disks");
        let disk = |target: &str, file: Option<&str>, mirror| Disk {
            target: target.into(),
            file: file.map(PathBuf::from),
            mirror,
        };
        assert_eq!(shown, [disk("vda", None, Some(true)), disk("sda", Some("/vm/b & c.raw"), None)]);
        let begun = disks(&COPYING.replace(" ready='yes'", "")).expect("disks");
        assert_eq!(begun[0].mirror, Some(false));
        assert!(disks("<domain").is_err());
    }

    #[test]
    fn a_machine() {
        let xml = "<domain type='kvm'><name>web01</name><uuid>4f1b2c3d-0000-1111-2222-333344445555</uuid>
          <memory unit='KiB'>2097152</memory><vcpu placement='static'>4</vcpu>
          <os firmware='efi'><type arch='x86_64' machine='pc-q35-9.0'>hvm</type></os>
          <devices>
            <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/vm/a.qcow2'/>
              <target dev='vda' bus='virtio'/><boot order='1'/></disk>
            <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
            <disk type='block' device='disk'><driver type='raw'/><source dev='/dev/vg/b'/><target dev='vdb'/></disk>
            <disk type='block' device='lun'><source dev='/dev/sdx'/><target dev='sdb' bus='scsi'/></disk>
            <interface type='bridge'><mac address='52:54:00:11:22:33'/><source bridge='br0'/><model type='virtio'/>
            </interface>
          </devices></domain>";
        let found = machine(xml).expect("a machine");
        assert_eq!((found.name.as_str(), found.memory_mib, found.cpus.count()), ("web01", 2048, 4));
        assert_eq!((found.firmware, found.chipset), (Some(Firmware::Uefi), Some(Chipset::Q35)));
        assert_eq!((found.disks[0].bus, found.disks[0].boot), (Some(Bus::VirtioBlk), Some(1)));
        assert_eq!((found.nics[0].model, found.nics[0].network.as_deref()), (Some(NicModel::Virtio), Some("br0")));
        let disks = backed_up(xml).expect("disks");
        assert_eq!((disks[0].place.as_str(), &disks[0].why_not), ("/vm/a.qcow2", &None));
        let why: Vec<_> = disks[1..].iter().map(|d| d.why_not.as_deref().unwrap_or_default()).collect();
        assert!(why[0].contains("removable") && why[1].contains("raw") && why[2].contains("passed through"), "{why:?}");
    }

    #[test]
    fn tags_of_a_domain() {
        let xml = "<domain><name>#no</name><title>Shop #gold</title>
          <description>The shop's database: #db, #tier:1.\n(#gold) c# # #a&amp;b ##x #übung</description>
          <metadata><title>#no</title></metadata></domain>";
        assert_eq!(tags(xml).expect("tags"), ["db", "gold", "tier:1", "übung"]);
        assert_eq!(machine("<domain><name>a&amp;b</name></domain>").expect("a machine").name, "a&b");
        assert_eq!(tags("<domain/>").expect("none"), Vec::<String>::new());
    }

    #[test]
    fn who_runs_qemu() {
        let host = |models: &str| format!("<capabilities><host>{models}</host></capabilities>");
        let dac = "<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+109</baselabel></secmodel>";
        let none = "<secmodel><model>none</model><doi>0</doi></secmodel>";
        assert_eq!(user(&host(&format!("{none}{dac}"))).expect("a user"), Some((64055, 109)));
        assert_eq!(user(&host(none)).expect("none"), None);
        assert_eq!(user(&host(&dac.replace("64055", "x"))).expect("none"), None);
    }
}
