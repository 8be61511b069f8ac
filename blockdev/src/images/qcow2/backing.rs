//! The names under which an image refers to its backing file and its external data file.
//!
//! QEMU takes anything there that it takes on its command line: a path, `json:{...}`, `nbd://host/export`. Only the
//! name of a file beside the image means anything in a backup.

use crate::{
    Error, Result,
    images::{Format, Parent},
};

/// The backing file called `name`, with the format that the image says it has.
///
/// # Errors
///
/// `Unsupported` when it is no file, or of a format that cannot be read.
pub(super) fn parent(name: &[u8], format: Option<&str>) -> Result<Parent> {
    let name = file_name(name, "backing")?;
    let format = format.map(|f| by_driver(f, &name)).transpose()?;
    Ok(Parent { names: vec![name], format, identity: None })
}

/// The name of a file, as it stands in the image; `role` is for messages.
///
/// # Errors
///
/// `Unsupported` when it is no path.
pub(super) fn file_name(name: &[u8], role: &str) -> Result<String> {
    let Ok(name) = std::str::from_utf8(name) else {
        return Err(Error::unsupported(format!("the name of its {role} file is not UTF-8: {}", name.escape_ascii())));
    };
    let no_file = |what: &str| {
        let remedy = match role {
            "backing" => "qemu-img rebase -u -b FILE -F FORMAT",
            _ => "qemu-img amend -o data_file=FILE",
        };
        Error::unsupported(format!("its {role} file is {what}, not a file: {name:?}; name one with {remedy}"))
    };
    if name.starts_with("json:") {
        return Err(no_file("a JSON description"));
    }
    match protocol(name) {
        None => Ok(name.to_owned()),
        // QEMU's own prefix for files.
        Some(("file", path)) if !path.starts_with("//") => Ok(path.to_owned()),
        Some((protocol, _)) => Err(no_file(&format!("of the protocol {protocol}"))),
    }
}

/// The protocol of a name and what is behind its colon. A letter and a colon are a drive of Windows.
fn protocol(name: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = name.split_once(':')?;
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
    (scheme.len() > 1 && scheme.chars().all(of_scheme)).then_some((scheme, rest))
}

/// The format that QEMU calls `driver`.
fn by_driver(driver: &str, backing: &str) -> Result<Format> {
    match driver {
        // Protocols, which people give as formats: the bytes as they are.
        "file" | "host_device" => Ok(Format::Raw),
        _ => driver.parse().map_err(|_| {
            Error::unsupported(format!("its backing file {backing:?} has the format {driver:?}, which cannot be read"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn only_names_of_files_are_names_of_files() {
        for (name, is) in [
            ("base.qcow2", "base.qcow2"),
            ("/var/lib/libvirt/images/base.img", "/var/lib/libvirt/images/base.img"),
            (r"C:\VMs\base.qcow2", r"C:\VMs\base.qcow2"),
            ("file:base.qcow2", "base.qcow2"),
            ("./10:30.qcow2", "./10:30.qcow2"),
            ("disk@2026-01-31T10:30.qcow2", "disk@2026-01-31T10:30.qcow2"),
        ] {
            assert_eq!(file_name(name.as_bytes(), "backing").unwrap(), is);
        }
        for name in
            ["json:{\"driver\":\"raw\"}", "nbd://host/export", "nbd:unix:/run/x", "https://h/x", "file:///etc/shadow"]
        {
            let error = file_name(name.as_bytes(), "backing").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
            assert!(error.to_string().contains("not a file"), "{error}");
        }
        assert_eq!(file_name(b"caf\xe9.img", "data").unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn the_format_of_a_backing_file_is_what_the_image_says() {
        let format = |driver| parent(b"base", driver).map(|p| p.format);
        assert_eq!(format(None).unwrap(), None);
        assert_eq!(format(Some("raw")).unwrap(), Some(Format::Raw));
        assert_eq!(format(Some("vpc")).unwrap(), Some(Format::Vhd));
        assert_eq!(format(Some("parallels")).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
