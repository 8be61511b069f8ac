//! All kinds of files with all that the kernel says of them, in several formats.

use crate::{
    common,
    kernel::{Machine, assert_same, script},
};

/// Files of all kinds, with times out of the ordinary, attributes, ACLs, links enough for both kinds of references, two
/// names of one hash, extents of all kinds, and subvolumes.
const FILES: &str = r#"
mkdir -p kinds/dir; cd kinds
echo plain > plain; chmod 4750 plain; chown 12345:54321 plain
touch -d '1912-06-23 01:02:03.123456789 UTC' before; touch -d '2199-12-31 23:59:59.987654321 UTC' after
ln -s target link; ln -s "$(printf 'x%.0s' $(seq 3000))" longlink; touch -h -d '1969-12-31 23:59:59.5 UTC' link
mkfifo fifo; mknod char c 4095 1048575; mknod block b 8 300
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
setfattr -n user.small -v value plain; setfattr -n user.empty plain; setfattr -n trusted.x -v 0x00ff plain
setfattr -n user.large -v "$(printf 'v%.0s' $(seq 3500))" plain; setfattr -h -n trusted.link -v 1 link
setfacl -m u:1000:rwx,g:1001:r-x plain; setfacl -d -m u:1000:rwx dir; mkdir dir/inherits; chmod 1777 dir
for i in $(seq 1 400); do ln plain "dir/a-rather-long-name-for-a-hard-link-number-$i"; done; ln plain hard
echo 1 > name-1371838; echo 2 > name-2000402
cd ..; mkdir extents; cd extents
head -c 300 /dev/urandom > inline; head -c 3000 /dev/zero > inlinezero
head -c 1000000 /dev/urandom > random; seq 1 400000 > text
fallocate -l 1M prealloc; printf x | dd of=prealloc bs=1 seek=500000 conv=notrunc status=none
touch keep; fallocate -l 2M -n keep; cp text punched; fallocate -p -o 100000 -l 300000 punched
truncate -s 300M sparse; printf end | dd of=sparse bs=1 seek=200000000 conv=notrunc status=none
cp --reflink=always text clone; for i in $(seq 0 40 400); do printf changed | dd of=clone bs=1 seek=$((i*5000+17)) conv=notrunc status=none; sync; done
touch nocow; chattr +C nocow; head -c 500000 /dev/urandom >> nocow
for c in zlib lzo zstd; do mkdir $c; btrfs property set $c compression $c
  cp --reflink=never text $c/text; seq 1 500 > $c/small; head -c 200000 random > $c/random; head -c 1500 /dev/zero > $c/inline
  for i in $(seq 1 9); do printf changed | dd of=$c/text bs=1 seek=$((i*110000)) conv=notrunc status=none; sync; done; done
cd ..; btrfs -q subvolume create sub; cp extents/inline sub; btrfs -q subvolume create sub/nested; echo 1 > sub/nested/file
btrfs -q subvolume snapshot -r sub snapshot; btrfs -q subvolume snapshot sub sub/within; rm sub/inline
"#;

fn compare(options: &[&str], mount: &str) {
    let Some(mut machine) = Machine::new(1, 256, options, mount) else { return };
    script(&machine.root(), FILES);
    machine.unmount();
    assert!(machine.mount("ro,noatime"));
    let fs = common::filesystem(&machine.devices());
    assert!(fs.info().notes.is_empty(), "{:?}", fs.info().notes);
    let count = assert_same(fs.as_ref(), &machine.root(), None);
    assert!(count > 440, "{count}");
    let statfs = rustix::fs::statfs(machine.root()).unwrap();
    assert_eq!(fs.usage().unwrap().total, statfs.f_blocks * statfs.f_bsize as u64);
}

#[test]
fn usual_format() {
    compare(&[], "noatime");
}

#[test]
fn large_nodes_and_blake2() {
    compare(&["-n", "65536", "--csum", "blake2", "-m", "single"], "noatime,compress-force=lzo");
}

#[test]
fn small_nodes_sha256_and_old_features() {
    compare(&["-n", "4096", "--csum", "sha256", "-O", "^no-holes"], "noatime,compress-force=zstd:1");
}

#[test]
fn mixed_groups() {
    compare(&["--mixed"], "noatime,compress-force=zlib,max_inline=2048");
}
