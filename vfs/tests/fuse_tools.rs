//! The mounted tree against its model: as the system calls see it, and as stock programs copy it.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use support::{
    Mem,
    compare::{ALL, Wanted, differences, xattrs},
    sample,
};
use vfs::{
    door::Totals,
    fuse::{Mount, MountOptions, mount},
};

struct Mounted {
    _mount: Mount,
    at: PathBuf,
    model: Arc<Mem>,
    dir: tempfile::TempDir,
}

fn mounted(model: Arc<Mem>) -> Mounted {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = dir.path().join("mnt");
    fs::create_dir(&at).expect("create");
    let mut options = MountOptions::default();
    options.totals = Arc::new(|| Totals { bytes: 10_000_000, files: 42 });
    options.log = Arc::new(|line| eprintln!("mount: {line}"));
    let mount = mount(support::node(model.clone()), &at, &options).expect("mount");
    Mounted { _mount: mount, at, model, dir }
}

fn run(program: &str, args: &[&str], paths: &[&Path]) -> String {
    let output = Command::new(program).args(args).args(paths).output().expect("the program is installed");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn assert_same(model: &Mem, real: &Path, wanted: Wanted) {
    let found = differences(model, real, wanted);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn system_calls_see_the_model() {
    if !support::can_mount("system_calls_see_the_model") {
        return;
    }
    let m = mounted(sample::tree());
    assert_same(&m.model, &m.at, Wanted { numbers: true, ..ALL });
    // Once more: now out of the kernel's cache.
    assert_same(&m.model, &m.at, Wanted { numbers: true, ..ALL });
    let error = fs::write(m.at.join("new"), "x").expect_err("read-only");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    assert!(fs::symlink_metadata(m.at.join("absent")).is_err());
    let stat = rustix::fs::statvfs(&m.at).expect("statfs");
    assert_eq!((stat.f_blocks * stat.f_frsize, stat.f_files, stat.f_namemax), (10_002_432, 42, 255));
}

#[test]
fn find_lists_everything() {
    if !support::can_mount("find_lists_everything") {
        return;
    }
    let m = mounted(sample::tree());
    fn count(mem: &Mem) -> usize {
        1 + mem.entries().iter().map(|(_, m)| count(m)).sum::<usize>()
    }
    let listed = Command::new("find").arg(&m.at).arg("-print0").output().expect("find");
    assert!(listed.status.success());
    assert_eq!(listed.stdout.iter().filter(|b| **b == 0).count(), count(&m.model));
}

#[test]
fn rsync_copies_everything() {
    if !support::can_mount("rsync") || !support::is_root("rsync") {
        return;
    }
    let m = mounted(sample::tree());
    let to = m.dir.path().join("rsync");
    run("rsync", &["-aHAXS"], &[&m.at.join(""), &to]);
    assert_same(&m.model, &to, ALL);
    // A second run finds nothing to do.
    let again = run("rsync", &["-aHAXSi"], &[&m.at.join(""), &to]);
    assert_eq!(again, "");
}

#[test]
fn tar_copies_everything() {
    if !support::can_mount("tar") || !support::is_root("tar") {
        return;
    }
    let m = mounted(sample::tree());
    let (archive, to) = (m.dir.path().join("a.tar"), m.dir.path().join("tar"));
    fs::create_dir(&to).expect("create");
    let flags = ["--format=posix", "--sparse", "--xattrs", "--acls", "--numeric-owner", "--warning=no-file-ignored"];
    let create = Command::new("tar").args(flags).arg("-cf").arg(&archive).arg("-C").arg(&m.at).arg(".").output();
    let create = create.expect("tar");
    assert!(create.status.success(), "{}", String::from_utf8_lossy(&create.stderr));
    let extract = Command::new("tar").args(flags).arg("-xpf").arg(&archive).arg("-C").arg(&to).output();
    let extract = extract.expect("tar");
    assert!(extract.status.success(), "{}", String::from_utf8_lossy(&extract.stderr));
    // tar leaves out sockets.
    let entries = m.model.entries().iter().filter(|(name, _)| name != b"socket").cloned().collect::<Vec<_>>();
    let model = Mem { body: support::Body::Dir(entries), ..(*m.model).clone() };
    assert_same(&model, &to, ALL);
}

#[test]
fn cp_copies_everything() {
    if !support::can_mount("cp") || !support::is_root("cp") {
        return;
    }
    let m = mounted(sample::tree());
    let to = m.dir.path().join("cp");
    run("cp", &["-a", "--sparse=always", "-T"], &[&m.at, &to]);
    assert_same(&m.model, &to, ALL);
}

#[test]
fn getfattr_and_getfacl_show_what_is_stored() {
    if !support::can_mount("getfattr") || !support::is_root("getfattr") {
        return;
    }
    let m = mounted(sample::tree());
    let shown = run("getfacl", &["-cpn"], &[&m.at.join("acl")]);
    for line in ["user::rw-", "user:1234:r--", "group::r--", "mask::rw-", "other::---"] {
        assert!(shown.lines().any(|l| l.trim_end() == line), "{line} in {shown}");
    }
    let shown = run("getfacl", &["-cpn"], &[&m.at.join("inner")]);
    assert!(shown.contains("default:user:1234:r-x"), "{shown}");
    let shown = run("getfattr", &["-d", "-m", "user", "--absolute-names"], &[&m.at.join("inner")]);
    assert!(shown.contains("user.note=\"a directory\""), "{shown}");
    assert_eq!(xattrs(&m.at.join("plain.txt")).len(), 0);
}

#[test]
fn others_may_do_what_mode_and_acl_say() {
    if !support::can_mount("permissions") || !support::is_root("permissions") {
        return;
    }
    let m = mounted(sample::tree());
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(m.dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let reads = |uid: u32, name: &str| {
        use std::os::unix::process::CommandExt;
        Command::new("cat").arg(m.at.join(name)).uid(uid).gid(uid).output().expect("cat").status.success()
    };
    assert!(reads(1000, "plain.txt"), "the owner reads");
    assert!(!reads(1234, "plain.txt"), "others do not");
    assert!(reads(1234, "acl"), "the ACL lets this one");
    assert!(!reads(1235, "acl"), "and not that one");
}
