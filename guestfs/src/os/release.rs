//! The name and version of a Unix, by the files that distributions have for that.

use super::{Family, shown};

/// Where `os-release(5)` is.
pub const OS_RELEASE: [&str; 3] = ["etc/os-release", "usr/lib/os-release", "etc/initrd-release"];

/// Files of systems older than `os-release`, and how they are read.
pub const OLDER: [(&str, Format); 9] = [
    ("etc/lsb-release", Format::Lsb),
    ("etc/redhat-release", Format::Sentence),
    ("etc/SuSE-release", Format::Sentence),
    ("etc/gentoo-release", Format::Sentence),
    ("etc/alpine-release", Format::Version("Alpine Linux")),
    ("etc/slackware-version", Format::Sentence),
    ("etc/arch-release", Format::Version("Arch Linux")),
    ("etc/debian_version", Format::Version("Debian GNU/Linux")),
    ("bin/freebsd-version", Format::FreeBsd),
];

/// How such a file says it.
#[derive(Debug, Clone, Copy)]
pub enum Format {
    /// `NAME=value` lines.
    Lsb,
    /// `Name release 6.10 (Final)`.
    Sentence,
    /// A version of the system called so.
    Version(&'static str),
    /// A shell script with the version in a variable.
    FreeBsd,
}

/// What a system calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub family: Family,
    pub name: String,
    pub version: Option<String>,
}

impl Release {
    const fn linux(name: String, version: Option<String>) -> Self {
        Self { family: Family::Linux, name, version }
    }

    /// What `text`, an `os-release`, says.
    pub fn of_os_release(text: &[u8]) -> Option<Self> {
        let get = |key| variable(text, key);
        let name = get("NAME").or_else(|| get("PRETTY_NAME")).or_else(|| get("ID"))?;
        let version = get("VERSION").or_else(|| get("VERSION_ID")).or_else(|| get("BUILD_ID"));
        let is_freebsd = get("ID").is_some_and(|id| id == "freebsd");
        Some(Self { family: if is_freebsd { Family::FreeBsd } else { Family::Linux }, name, version })
    }

    /// What `text`, a file of the kind `format`, says.
    pub fn of_older(text: &[u8], format: Format) -> Option<Self> {
        let first = || text.split(|b| *b == b'\n').find_map(shown);
        match format {
            Format::Lsb => {
                let number = variable(text, "DISTRIB_RELEASE");
                let codename = variable(text, "DISTRIB_CODENAME").map(|name| format!(" ({name})"));
                let version = number.map(|number| number + codename.as_deref().unwrap_or_default());
                Some(Self::linux(variable(text, "DISTRIB_ID")?, version))
            }
            Format::Sentence => {
                let line = first()?;
                // The version is behind the word for it, or begins with the first digit.
                let split = line.split_once(" release ").or_else(|| {
                    let digit = line.find(|c: char| c.is_ascii_digit())?;
                    Some((line.get(..digit)?, line.get(digit..)?))
                });
                let (name, version) =
                    split.map_or((line.as_str(), None), |(name, version)| (name, Some(version.trim())));
                Some(Self::linux(name.trim().to_owned(), version.map(str::to_owned)))
            }
            Format::Version(name) => Some(Self::linux(name.to_owned(), first())),
            Format::FreeBsd => {
                let version = variable(text, "USERLAND_VERSION");
                Some(Self { family: Family::FreeBsd, name: "FreeBSD".to_owned(), version })
            }
        }
    }
}

/// The value of the variable `key`, in a file of assignments as a shell reads them; the last one counts.
pub fn variable(text: &[u8], key: &str) -> Option<String> {
    let value = |line: &[u8]| {
        let value = line.trim_ascii().strip_prefix(key.as_bytes())?.strip_prefix(b"=")?;
        shown(&unquoted(value))
    };
    text.split(|b| *b == b'\n').filter_map(value).next_back()
}

/// A shell's word without its quotes and backslashes.
fn unquoted(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let (mut quote, mut bytes) = (None, word.iter());
    while let Some(&byte) = bytes.next() {
        match (quote, byte) {
            (None, b' ' | b'\t' | b'#') => break,
            (None, b'\'' | b'"') => quote = Some(byte),
            (Some(open), _) if byte == open => quote = None,
            (None | Some(b'"'), b'\\') => plain.extend(bytes.next()),
            _ => plain.push(byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(release: Option<Release>) -> (String, Option<String>) {
        let release = release.unwrap();
        (release.name, release.version)
    }

    #[test]
    fn os_release_is_read_as_a_shell_does() {
        let debian = b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
            VERSION=\"12 (bookworm)\"\nID=debian\n";
        assert_eq!(both(Release::of_os_release(debian)), ("Debian GNU/Linux".into(), Some("12 (bookworm)".into())));
        let odd = b"NAME='Mo\"e'\\ x # no\nVERSION_ID=\"a\\$b\"\nVERSION=\n";
        assert_eq!(both(Release::of_os_release(odd)), ("Mo\"e x".into(), Some("a$b".into())));
        assert_eq!(Release::of_os_release(b"NAME=FreeBSD\nID=freebsd\n").unwrap().family, Family::FreeBsd);
        assert_eq!(Release::of_os_release(b"\xff=\nVERSION=3\n"), None);
        assert_eq!(variable(b"NAME=\x1b[31mred", "NAME").unwrap(), "\u{fffd}[31mred");
    }

    #[test]
    fn older_files_are_read() {
        let of = |text: &[u8], format| both(Release::of_older(text, format));
        let version = |text: &str| Some(text.to_owned());
        assert_eq!(of(b"CentOS release 6.10 (Final)\n", Format::Sentence), ("CentOS".into(), version("6.10 (Final)")));
        assert_eq!(of(b"Slackware 15.0\n", Format::Sentence), ("Slackware".into(), version("15.0")));
        assert_eq!(
            of(b"DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=14.04\nDISTRIB_CODENAME=trusty\n", Format::Lsb),
            ("Ubuntu".into(), version("14.04 (trusty)"))
        );
        assert_eq!(of(b"", Format::Version("Arch Linux")), ("Arch Linux".into(), None));
        let script = b"#!/bin/sh\nset -e\nUSERLAND_VERSION=\"14.1-RELEASE-p3\"\n";
        assert_eq!(of(script, Format::FreeBsd), ("FreeBSD".into(), version("14.1-RELEASE-p3")));
    }
}
