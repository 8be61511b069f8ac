//! The descriptor of a package: which of its files are disks, and what machine they belong to.

use std::fmt::Write;

use quick_xml::{
    Reader,
    escape::escape,
    events::{BytesStart, Event},
};

use crate::{Error, ErrorKind, Result};

/// Elements that are looked at.
const EVENTS_MAX: usize = 1 << 20;

/// A machine's hardware, as far as a descriptor carries it between hypervisors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardware {
    /// Name of the machine.
    pub name: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Whether it boots by UEFI.
    pub uefi: bool,
}

/// A disk that a descriptor names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagedDisk {
    /// The file that has it.
    pub file: String,
    /// Size in bytes, where the descriptor says it.
    pub capacity: Option<u64>,
}

/// The text for `hardware` with `disks`: file name, its size and the disk's size.
pub fn write(hardware: &Hardware, disks: &[(String, u64, u64)]) -> String {
    const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2";
    let name = escape(&hardware.name);
    let (mut files, mut entries, mut items) = (String::new(), String::new(), String::new());
    let mut item = |fields: &[(&str, String)]| {
        items.push_str("      <Item>\n");
        for (field, value) in fields {
            let _always = writeln!(items, "        <rasd:{field}>{value}</rasd:{field}>");
        }
        items.push_str("      </Item>\n");
    };
    let text = |text: &str| text.to_owned();
    let (cpus, memory) = (hardware.cpus.max(1), hardware.memory_mib.max(1));
    // The fields of an item are in the order of the alphabet.
    item(&[
        ("AllocationUnits", text("hertz * 10^6")),
        ("ElementName", format!("{cpus} virtual CPU(s)")),
        ("InstanceID", text("1")),
        ("ResourceType", text("3")),
        ("VirtualQuantity", cpus.to_string()),
    ]);
    item(&[
        ("AllocationUnits", text("byte * 2^20")),
        ("ElementName", format!("{memory} MB of memory")),
        ("InstanceID", text("2")),
        ("ResourceType", text("4")),
        ("VirtualQuantity", memory.to_string()),
    ]);
    item(&[
        ("Address", text("0")),
        ("ElementName", text("SCSI controller 0")),
        ("InstanceID", text("3")),
        ("ResourceSubType", text("lsilogic")),
        ("ResourceType", text("6")),
    ]);
    for (number, (file, file_size, capacity)) in disks.iter().enumerate() {
        let file = escape(file);
        let _always =
            writeln!(files, "    <File ovf:href=\"{file}\" ovf:id=\"file{number}\" ovf:size=\"{file_size}\"/>");
        let _always = writeln!(
            entries,
            "    <Disk ovf:capacity=\"{capacity}\" ovf:capacityAllocationUnits=\"byte\" ovf:diskId=\"vmdisk{number}\" \
             ovf:fileRef=\"file{number}\" \
             ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/>"
        );
        // Unit 7 is the controller itself.
        let unit = if number < 7 { number } else { number + 1 };
        item(&[
            ("AddressOnParent", unit.to_string()),
            ("ElementName", format!("Hard disk {number}")),
            ("HostResource", format!("ovf:/disk/vmdisk{number}")),
            ("InstanceID", (10 + number).to_string()),
            ("Parent", text("3")),
            ("ResourceType", text("17")),
        ]);
    }
    item(&[
        ("AddressOnParent", text("7")),
        ("AutomaticAllocation", text("true")),
        ("Connection", text("VM Network")),
        ("ElementName", text("Network adapter 0")),
        ("InstanceID", text("5")),
        ("ResourceSubType", text("E1000")),
        ("ResourceType", text("10")),
    ]);
    let firmware = if hardware.uefi {
        "      <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>\n"
    } else {
        ""
    };
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="{CIM}/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vssd="{CIM}/CIM_VirtualSystemSettingData">
  <References>
{files}  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
{entries}  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
    <Network ovf:name="VM Network">
      <Description>The network of the machine</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A virtual machine</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="1">
      <Info>The guest operating system</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{items}{firmware}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    )
}

/// The disks that the descriptor `text` names, in its order.
///
/// # Errors
///
/// `Damaged` when it is no descriptor; `Unsupported` when a disk is compressed or in pieces.
pub fn disks(text: &[u8]) -> Result<Vec<PackagedDisk>> {
    let damaged = |why: &str| Error::damaged(format!("the OVF descriptor {why}"));
    let mut reader = Reader::from_reader(text);
    let mut files: Vec<(String, String)> = Vec::new();
    let mut entries: Vec<(String, Option<u64>)> = Vec::new();
    for _ in 0..EVENTS_MAX {
        let event = reader.read_event().map_err(|e| damaged(&format!("is no XML: {e}")))?;
        match event {
            Event::Eof => return joined(&files, entries),
            Event::Start(element) | Event::Empty(element) => match element.local_name().as_ref() {
                b"File" => {
                    let attribute = |name: &str| attribute(&element, name);
                    let (Some(id), Some(href)) = (attribute("id"), attribute("href")) else { continue };
                    let plain =
                        |name: &str| attribute(name).is_none_or(|v| matches!(v.as_str(), "" | "identity" | "0"));
                    if !plain("compression") || attribute("chunkSize").is_some() {
                        return Err(Error::unsupported(format!(
                            "{href} of the OVF package is compressed or in pieces: unpack the package first"
                        )));
                    }
                    files.push((id, href));
                }
                b"Disk" => {
                    let Some(file) = attribute(&element, "fileRef") else { continue };
                    let capacity = attribute(&element, "capacity").and_then(|c| c.parse::<u64>().ok());
                    let units = attribute(&element, "capacityAllocationUnits");
                    let factor = units.as_deref().map_or(Some(1), unit);
                    entries.push((file, capacity.zip(factor).and_then(|(c, f)| c.checked_mul(f))));
                }
                _ => {}
            },
            _ => {}
        }
    }
    Err(Error::new(ErrorKind::Limit, "the OVF descriptor has more elements than one can have"))
}

fn joined(files: &[(String, String)], entries: Vec<(String, Option<u64>)>) -> Result<Vec<PackagedDisk>> {
    let disk = |(file, capacity): (String, Option<u64>)| {
        let (_, href) = files.iter().find(|(id, _)| *id == file)?;
        Some(PackagedDisk { file: href.clone(), capacity })
    };
    let disks: Vec<_> = entries.into_iter().filter_map(disk).collect();
    if disks.is_empty() {
        return Err(Error::damaged("the OVF descriptor names no disks"));
    }
    Ok(disks)
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let found =
        element.attributes().with_checks(false).flatten().find(|a| a.key.local_name().as_ref() == name.as_bytes());
    found.and_then(|a| a.unescape_value().ok().map(std::borrow::Cow::into_owned))
}

/// `byte * 2^30` and its like as bytes.
fn unit(text: &str) -> Option<u64> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    match text.strip_prefix("byte") {
        Some("") => Some(1),
        Some(rest) => {
            let (base, power) = rest.strip_prefix('*')?.split_once('^')?;
            base.parse::<u64>().ok()?.checked_pow(power.parse().ok()?)
        }
        None => match text.as_str() {
            "KiloBytes" => Some(1 << 10),
            "MegaBytes" => Some(1 << 20),
            "GigaBytes" => Some(1 << 30),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let hardware = Hardware { name: "a <web> & \"co\"".into(), cpus: 2, memory_mib: 1024, uefi: true };
        let text = write(&hardware, &[("w-disk0.vmdk".into(), 4096, 1 << 30), ("w&1.vmdk".into(), 1, 512)]);
        let expected = [("w-disk0.vmdk", 1 << 30), ("w&1.vmdk", 512)];
        let found = disks(text.as_bytes()).expect("a descriptor");
        let found: Vec<_> = found.iter().map(|d| (d.file.as_str(), d.capacity.unwrap_or(0))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn units_of_other_writers() {
        assert_eq!(unit("byte * 2^30"), Some(1 << 30));
        assert_eq!(unit("byte*2^20"), Some(1 << 20));
        assert_eq!(unit("byte"), Some(1));
        assert_eq!(unit("byte * 2^70"), None);
        assert_eq!(unit("furlong"), None);
        assert!(disks(b"<Envelope/>").is_err());
        assert!(disks(b"\xff<<<").is_err());
    }
}
