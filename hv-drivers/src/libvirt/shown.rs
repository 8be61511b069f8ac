//! What libvirt shows of a domain, as far as it is looked at.

use std::path::PathBuf;

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};

use crate::{Error, Result};

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
    for _ in 0..EVENTS_MAX {
        match reader.read_event().map_err(|e| unreadable(&e))? {
            Event::Start(element) => path.push(name(&element)),
            Event::End(_) => drop(path.pop()),
            Event::Text(text) => {
                let text = String::from_utf8_lossy(&text).trim().to_owned();
                on(&path.iter().map(String::as_str).collect::<Vec<_>>(), &text);
            }
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
    fn who_runs_qemu() {
        let host = |models: &str| format!("<capabilities><host>{models}</host></capabilities>");
        let dac = "<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+109</baselabel></secmodel>";
        let none = "<secmodel><model>none</model><doi>0</doi></secmodel>";
        assert_eq!(user(&host(&format!("{none}{dac}"))).expect("a user"), Some((64055, 109)));
        assert_eq!(user(&host(none)).expect("none"), None);
        assert_eq!(user(&host(&dac.replace("64055", "x"))).expect("none"), None);
    }
}
