//! Machines that crashed after `fsync`: what was made durable since the last commit is there, as after the kernel's own
//! replay of the log.

use std::fs;

use crate::{
    common,
    kernel::{Machine, assert_same, script},
};

/// What is committed.
const COMMITTED: &str = r#"
mkdir -p d/sub d/other d/gone; for i in $(seq 1 60); do echo "$i" > d/f$i; done
head -c 1000000 /dev/urandom > d/big; head -c 1000000 /dev/urandom > d/cut; echo small > d/grows
head -c 600000 /dev/urandom > d/mapped; echo x > d/attributes; setfattr -n user.old -v 1 d/attributes
setfattr -n user.kept -v 1 d/attributes; ln d/f1 d/f1-link; ln d/f2 d/other/f2-link; mkdir d/gone/deep; echo 1 > d/gone/deep/file
ln -s target d/link; btrfs -q subvolume create subvolume; echo 1 > subvolume/file; cp --reflink=always d/big d/clone
echo 1 > d/replaced; echo 2 > d/replacing; mkdir d/moved; echo 1 > d/moved/inside
"#;

/// What is made durable by `fsync` only. Each line is one story.
const FSYNCED: &str = r#"
import os, sys
def sync(path):
    fd = os.open(path, os.O_RDONLY); os.fsync(fd); os.close(fd)
def put(path, data, at=None):
    with open(path, 'r+b' if at is not None else 'wb') as f:
        f.seek(at or 0); f.write(data); f.flush(); os.fsync(f.fileno())
put('d/new', os.urandom(300000)); put('d/new-small', b'inline')
put('d/big', os.urandom(100000), 50000); put('d/big', os.urandom(10), 999995); put('d/big', os.urandom(70000), 2000000)
os.truncate('d/cut', 123456); sync('d/cut')
put('d/grows', b'y' * 50000, 100)
fd = os.open('d/mapped', os.O_RDWR); os.posix_fallocate(fd, 600000, 500000); os.fsync(fd); os.close(fd)
os.system('fallocate -p -o 100000 -l 200000 d/mapped'); sync('d/mapped')
os.removexattr('d/attributes', 'user.old'); os.setxattr('d/attributes', 'user.new', b'n' * 500); sync('d/attributes')
os.chmod('d/f10', 0o4711); os.chown('d/f10', 77, 78); sync('d/f10')
os.link('d/f11', 'd/sub/f11-link'); os.link('d/f11', 'd/f11-too'); sync('d/f11')
os.rename('d/f12', 'd/sub/f12-moved'); sync('d/sub/f12-moved')
os.rename('d/replacing', 'd/replaced'); sync('d/replaced')
for n in range(20, 30): os.unlink(f'd/f{n}')
open('d/not-synced', 'w').write('lost or empty')
os.mkdir('d/made'); put('d/made/inside', b'1'); os.symlink('to', 'd/made/link'); os.mkfifo('d/made/fifo')
sync('d/made'); sync('d')
os.unlink('d/f2'); sync('d/other/f2-link')
os.utime('d/f13', (1, 2)); sync('d/f13')
put('subvolume/file', b'changed'); put('subvolume/new', os.urandom(40000))
for n in range(300): os.link('d/f14', f'd/other/quite-a-long-name-of-a-link-{n}')
sync('d/f14')
put('d/clone', os.urandom(4096), 8192)
os.unlink('d/gone/deep/file'); os.rmdir('d/gone/deep'); os.rmdir('d/gone'); sync('d')
"#;

fn crash(options: &[&str], mount: &str) {
    let Some(mut machine) = Machine::new(1, 256, options, mount) else { return };
    script(&machine.root(), COMMITTED);
    script(&machine.root(), "sync -f .");
    script(&machine.root(), &format!("python3 - <<'E'\n{FSYNCED}\nE"));
    // The device as it is now is what a crash leaves.
    let crashed = fs::read(machine.path(0)).unwrap();
    machine.unmount();
    fs::write(machine.path(0), &crashed).unwrap();
    let fs = common::filesystem(&[common::in_memory(crashed)]);
    assert!(fs.info().notes.iter().any(|note| note.contains("was replayed")), "{:?}", fs.info().notes);
    // This mount replays.
    assert!(machine.mount("noatime"));
    let count = assert_same(fs.as_ref(), &machine.root());
    assert!(count > 350, "{count}");
}

#[test]
fn after_fsync() {
    crash(&[], "noatime,commit=300");
}

#[test]
fn after_fsync_with_holes_as_items_and_compression() {
    crash(
        &["-O", "^no-holes", "-n", "4096", "--csum", "sha256"],
        "noatime,commit=300,compress-force=zstd,flushoncommit",
    );
}
