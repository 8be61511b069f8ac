//! Machines that crashed after `fsync`: what was made durable since the last commit is there, as after the kernel's own
//! replay of the log.

use std::{fs, time::SystemTime};

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

/// Files and directories that are made, changed, renamed, linked, unlinked and made durable at random.
const RANDOM: &str = r#"
import os, random, stat, sys
r = random.Random(int(sys.argv[1])); dirs = ['.']
def name(): return f'n{r.randrange(40)}' + 'x' * r.choice((0, 5, 200))
def path(): return os.path.join(r.choice(dirs), name())
def files(): return [os.path.join(d, f) for d, _, fs in os.walk('.') for f in fs]
def sync(p):
    if stat.S_ISLNK(os.lstat(p).st_mode): return
    fd = os.open(p, os.O_RDONLY); os.fsync(fd); os.close(fd)
def op():
    global dirs
    k, some = r.randrange(13), files()
    f = r.choice(some) if some else None
    if k == 0 and len(dirs) < 8:
        p = path(); os.mkdir(p); dirs.append(p); return p
    if k in (1, 2) or f is None:
        p = path(); open(p, 'wb').write(r.randbytes(r.choice((0, 10, 1000, 5000, 200000)))); return p
    if k == 3: os.link(f, path())
    if k in (4, 5):
        p = path(); os.rename(f, p); return p
    if k == 6:
        os.unlink(f); return os.path.dirname(f)
    if os.path.islink(f): return os.path.dirname(f)
    if k == 7: os.truncate(f, r.randrange(300000))
    if k in (8, 9):
        with open(f, 'r+b') as o: o.seek(r.randrange(200000)); o.write(r.randbytes(r.randrange(1, 50000)))
    if k == 10: os.setxattr(f, 'user.' + name()[:20], r.randbytes(r.randrange(300)))
    if k == 11:
        for x in os.listxattr(f)[:1]: os.removexattr(f, x)
    if k == 12 and len(dirs) > 2:
        d = r.choice(dirs[1:]); p = path()
        os.rename(d, p); dirs = [x for x, _, _ in os.walk('.')]; return p
    return f
def step():
    try: return op()
    except OSError: return None
for _ in range(150): step()
os.sync()
for _ in range(60):
    p = step()
    if p and r.random() < .5 and os.path.lexists(p): sync(p)
sync(r.choice([f for f in files() if not os.path.islink(f)]))
"#;

fn python(machine: &Machine, program: &str, argument: u64) {
    script(&machine.root(), &format!("python3 - {argument} <<'E'\n{program}\nE"));
}

/// Compares what a crash now leaves with what the kernel makes of it; the number of files, and whether there was a log.
fn crash(mut machine: Machine) -> (usize, bool) {
    // The device as it is now is what a crash leaves.
    let crashed = fs::read(machine.path(0)).unwrap();
    machine.unmount();
    fs::write(machine.path(0), &crashed).unwrap();
    let fs = common::filesystem(&[common::in_memory(crashed)]);
    let notes = &fs.info().notes;
    assert!(!notes.iter().any(|note| note.contains("cannot")), "{notes:?}");
    // This mount replays.
    let now = SystemTime::now();
    assert!(machine.mount("noatime"));
    (assert_same(fs.as_ref(), &machine.root(), Some(now)), notes.iter().any(|note| note.contains("was replayed")))
}

fn story(options: &[&str], mount: &str) {
    // The kernel may commit by itself just before the crash (any `sync` on the host is enough), and leave no log: then
    // another run has to show one.
    let is_replayed = (0..10).any(|_| {
        let Some(machine) = Machine::new(1, 256, options, mount) else { return true };
        script(&machine.root(), COMMITTED);
        script(&machine.root(), "sync -f .");
        python(&machine, FSYNCED, 0);
        let (count, is_replayed) = crash(machine);
        assert!(count > 350, "{count}");
        is_replayed
    });
    assert!(is_replayed, "no crash has left a log");
}

#[test]
fn after_fsync() {
    story(&[], "noatime,commit=300");
}

#[test]
fn after_fsync_with_holes_as_items_and_compression() {
    let mount = "noatime,commit=300,compress-force=zstd,flushoncommit";
    story(&["-O", "^no-holes", "-n", "4096", "--csum", "sha256"], mount);
}

/// Crashes at random: a few every day, as many as `REVENANT_CRASHES` says for a long look.
#[test]
fn at_random() {
    let runs = std::env::var("REVENANT_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let mut replayed = 0;
    // The kernel may commit by itself just before the crash, and leave no log: then another run has to show one.
    for seed in 0..runs + 20 {
        if seed >= runs && replayed > 0 {
            break;
        }
        let Some(machine) = Machine::new(1, 128, &[], "noatime,commit=300") else { return };
        println!("seed {seed}");
        python(&machine, RANDOM, seed);
        replayed += u64::from(crash(machine).1);
    }
    println!("{runs} runs: {replayed} with a log");
    assert!(replayed > 0);
}
