//! Extended attributes, ACLs and plugin records as stock Bacula wrote them, compared with what the original
//! files had; ACLs also handed to the kernel at hand.

mod common;

use std::{collections::BTreeMap, path::Path, process::Command};

use base64ct::{Base64, Encoding};
use common::{case, files, manifest, records};
use rustix::fs::XattrFlags;
use volreader::{
    acl::{self, Names},
    plugin::{PluginName, RestoreObject},
    stream::{AclScope, StreamId, StreamKind},
    xattr,
};

/// The users and groups that the machine of the corpus had.
struct CorpusNames;

impl Names for CorpusNames {
    fn user(&self, name: &[u8]) -> Option<u32> {
        (name == b"cloudsdk").then_some(1000)
    }

    fn group(&self, name: &[u8]) -> Option<u32> {
        (name == b"tty").then_some(5)
    }
}

fn acl_name(scope: AclScope) -> &'static str {
    match scope {
        AclScope::Access => "system.posix_acl_access",
        AclScope::Default => "system.posix_acl_default",
    }
}

/// All attributes of all files, ACLs in the kernel's form included, are exactly those of the originals.
#[test]
fn xattrs_and_acls_are_the_originals() {
    for name in ["xattr-acl", "r15-xattr-acl"] {
        let Some(case) = case(name) else { continue };
        let manifest = manifest(&case, 0);
        let (mut attributes, mut acls) = (0, 0);
        for file in files(&case, None) {
            let mut actual = BTreeMap::new();
            for record in &file.records {
                match StreamId::from_header(record.stream).kind() {
                    StreamKind::Xattr(_) => {
                        let parsed = xattr::parse(&record.payload).unwrap();
                        attributes += parsed.len();
                        actual
                            .extend(parsed.into_iter().map(|(name, value)| (String::from_utf8(name).unwrap(), value)));
                    }
                    StreamKind::Acl(acl) => {
                        acls += 1;
                        let value = acl::parse(&record.payload, &CorpusNames).unwrap().to_kernel();
                        actual.insert(acl_name(acl.scope).to_owned(), value);
                    }
                    _ => {}
                }
            }
            let path = file.name.escape_ascii().to_string();
            let expected: BTreeMap<String, Vec<u8>> = manifest[&file.name]["xattrs"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.clone(), Base64::decode_vec(value.as_str().unwrap()).unwrap()))
                .collect();
            assert_eq!(actual, expected, "{path}");
        }
        assert!(attributes > 20 && acls >= 5, "{name}: {attributes} attributes, {acls} ACLs");
    }
}

/// What getfacl prints of `path`, numbers for names, without comments.
fn getfacl(path: &Path, scope: AclScope) -> Option<Vec<String>> {
    let option = if scope == AclScope::Default { "--default" } else { "--access" };
    let output =
        Command::new("getfacl").args(["--omit-header", "--numeric", "--absolute-names", option]).arg(path).output();
    Some(entries(&output.ok()?.stdout))
}

fn entries(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(|line| line.split('#').next().unwrap().trim().trim_start_matches("default:"));
    lines.map(|line| line.trim_matches('\0').to_owned()).filter(|line| !line.is_empty()).collect()
}

/// The kernel takes the value, and getfacl prints it as the text it came from.
#[test]
fn the_kernel_takes_the_acls() {
    let Some(case) = case("xattr-acl") else { return };
    let folder = tempfile::tempdir().unwrap();
    for record in records(&case, None) {
        let StreamKind::Acl(acl) = StreamId::from_header(record.stream).kind() else { continue };
        let value = acl::parse(&record.payload, &CorpusNames).unwrap().to_kernel();
        match rustix::fs::setxattr(folder.path(), acl_name(acl.scope), &value, XattrFlags::empty()) {
            Err(rustix::io::Errno::NOTSUP) => return eprintln!("skipped: no ACLs in {}", folder.path().display()),
            result => result.unwrap(),
        }
        let Some(printed) = getfacl(folder.path(), acl.scope) else { return eprintln!("skipped: no getfacl") };
        let text = String::from_utf8(record.payload.clone()).unwrap();
        let text = text.replace(":cloudsdk:", ":1000:").replace(":tty:", ":5:");
        assert_eq!(printed, entries(text.as_bytes()));
    }
}

#[test]
fn plugin_records_of_bpipe() {
    let Some(case) = case("bpipe") else { return };
    let marks: Vec<_> = records(&case, None)
        .iter()
        .filter(|record| record.stream == 26)
        .map(|record| PluginName::parse(&record.payload).unwrap())
        .collect();
    let command = b"bpipe:/BPIPE/stream.bin:cat /srv/pipe-in:dd of=/srv/pipe-out status=none".to_vec();
    assert_eq!(marks, [PluginName::Start { portable: true, command }, PluginName::End]);
}

#[test]
fn restore_object_of_bpipe() {
    let Some(case) = case("r15-cancelled") else { return };
    let records = records(&case, None);
    let record = records.iter().find(|record| record.stream == 28).unwrap();
    let object = RestoreObject::parse(&record.payload).unwrap();
    assert_eq!((object.file_type, &object.name[..]), (27, &b"RestoreOptions"[..]));
    assert!(object.plugin.starts_with(b"bpipe:/BPIPE/slow.bin:"));
    let content = object.content().unwrap();
    assert!(content.starts_with(b"# Plugin configuration file\n") && content.len() == 98);
}
