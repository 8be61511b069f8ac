//! The tree that the doors are tried with.

use std::sync::Arc;

use vfs::node::Kind;

use super::{
    Mem,
    content::{Content, noise},
};

/// An ACL in the kernel's form: entries of tag, permissions and id.
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

const NOBODY: u32 = u32::MAX;

/// `rw-` for the owner, `r--` for user 1234, `r--` for the group, mask `rw-`, others nothing.
pub fn access_acl() -> Vec<u8> {
    acl(&[(1, 6, NOBODY), (2, 4, 1234), (4, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY)])
}

pub fn default_acl() -> Vec<u8> {
    acl(&[(1, 7, NOBODY), (2, 5, 1234), (4, 5, NOBODY), (0x10, 5, NOBODY), (0x20, 0, NOBODY)])
}

/// Names, types, times, owners, holes, links, attributes: one of everything.
pub fn tree() -> Arc<Mem> {
    let mut next = 99;
    let mut ino = || {
        next += 1;
        next
    };
    let mut entries: Vec<(Vec<u8>, Arc<Mem>)> = Vec::new();
    let mut add = |name: &[u8], mem: Mem| entries.push((name.to_vec(), Arc::new(mem)));

    add(b"plain.txt", Mem::file(Content::bytes("hello\n")).ino(ino()).owner(1000, 100).mode(0o640));
    add(b"empty", Mem::file(Content::bytes("")).ino(ino()));
    add(b"setuid", Mem::file(Content::bytes("#!/bin/sh\n")).ino(ino()).owner(1000, 1000).mode(0o6755));
    add(b"big.bin", Mem::file(Content::bytes(noise(5 << 20, 7))).ino(ino()));
    let runs = vec![(1 << 20, noise(70_000, 1)), (8 << 20, noise(4096, 2)), (16 << 20, b"end".to_vec())];
    add(b"sparse.img", Mem::file(Content::sparse(20 << 20, runs)).ino(ino()));
    add(b"hole", Mem::file(Content::sparse(3 << 20, vec![])).ino(ino()));
    add(b"before-1970", Mem::file(Content::bytes("old")).ino(ino()).mtime(-86_401, 500_000_000));
    add(b"after-2038", Mem::file(Content::bytes("new")).ino(ino()).mtime(3_000_000_000, 999_999_999));
    add(b"\xff\xfe latin \xe9", Mem::file(Content::bytes("bytes")).ino(ino()));
    add(b"new\nline", Mem::file(Content::bytes("newline")).ino(ino()));
    add(&[b'n'; 255], Mem::file(Content::bytes("long")).ino(ino()));
    add(b" -rf *", Mem::file(Content::bytes("shell")).ino(ino()));
    add(
        b"xattrs",
        Mem::file(Content::bytes("x")).ino(ino()).xattr("user.empty", b"").xattr("user.bin", &noise(300, 3)),
    );
    add(b"acl", Mem::file(Content::bytes("a")).ino(ino()).mode(0o660).xattr("system.posix_acl_access", &access_acl()));
    add(b"link", Mem::symlink(b"plain.txt").ino(ino()).owner(1000, 100).mtime(1_500_000_000, 1));
    add(b"dangling", Mem::symlink(&[b'd'; 4000]).ino(ino()));
    add(b"escape", Mem::symlink(b"/etc").ino(ino()));
    add(b"fifo", Mem::special(Kind::Fifo, (0, 0)).ino(ino()).mode(0o622));
    add(b"socket", Mem::special(Kind::Socket, (0, 0)).ino(ino()));
    add(b"null", Mem::special(Kind::CharDevice, (1, 3)).ino(ino()).mode(0o666));
    add(b"disk", Mem::special(Kind::BlockDevice, (259, 70_000)).ino(ino()).owner(0, 6).mode(0o660));

    let linked = Arc::new(Mem::file(Content::bytes(noise(10_000, 9))).ino(ino()).nlink(3).mode(0o600));
    let inner = Mem::dir([
        (b"hard2".to_vec(), linked.clone()),
        (
            b"deep".to_vec(),
            Arc::new(Mem::dir([(b"hard3".to_vec(), linked.clone())]).ino(ino()).mtime(1_400_000_000, 5)),
        ),
    ]);
    let inner = inner
        .ino(ino())
        .owner(1000, 100)
        .mode(0o1750)
        .mtime(1_234_567_890, 987_654_321)
        .xattr("system.posix_acl_default", &default_acl())
        .xattr("user.note", b"a directory");
    entries.push((b"hard1".to_vec(), linked));
    entries.push((b"inner".to_vec(), Arc::new(inner)));
    let readonly = Mem::dir([(b"inside".to_vec(), Arc::new(Mem::file(Content::bytes("r")).ino(ino()).mode(0o444)))]);
    entries.push((b"readonly".to_vec(), Arc::new(readonly.ino(ino()).mode(0o555))));
    Arc::new(Mem::dir(entries).ino(1).mtime(1_111_111_111, 11))
}

/// A directory of `count` small files.
pub fn many(count: u64) -> Arc<Mem> {
    let files = (0..count).map(|n| {
        (format!("file-{n:06}").into_bytes(), Arc::new(Mem::file(Content::bytes(n.to_string())).ino(n + 1000)))
    });
    let many = Arc::new(Mem::dir(files).ino(2));
    Arc::new(Mem::dir([(b"many".to_vec(), many)]).ino(1))
}
