#!/bin/bash
# make-zfs-pools.sh - make ZFS pools with the kernel module of OpenZFS 2.3, in a virtual machine.
#
# For every pool a folder "OUTDIR/POOL" is made: the devices ("POOL-0.raw", ...) and "tree.jsonl", a line for each file
# with what stat, listxattr, readlink and reading say in the guest. guestfs/tests/zfs/pools.rs reads them, as the folder
# that REVENANT_ZFS_POOLS names:
#
#   rz1  raidz1 of 4 with every checksum, compression and record size, volumes, clones, snapshots, an encrypted dataset,
#        datasets of versions 1 and 4, extended attributes both ways, folded and normalized names
#   rz2  raidz2 of 6, sectors of 4 KiB       rz3  raidz3 of 5 without features
#   mix  mirrors with special, dedup and log devices, gang blocks, deduplication
#   rep  a device that is being replaced      spr  a spare in use            sta  a device that was offline
#   rem  devices that were removed            exp  a raidz1 that was widened  dra  dRAID (must be refused)
#   dir  switched off with an intent log that has more than the pool
#   fz   small, a little of everything: the image of the fuzz target (fuzz/images/zfs.img.zst)
#   big  for speed: 256 MiB by compression and record size, a directory of 100,000 entries
#
# usage: [ACCEL=kvm] make-zfs-pools.sh OUTDIR [POOLS...]     (default: all but big; half an hour without KVM)
# Needs root, 3 GiB of disk, the network once; Debian packages: mmdebstrap cpio e2fsprogs xz-utils. QEMU and the guest
# come from Debian trixie into OUTDIR/.vm, where nothing of this machine is touched.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2; }
mkdir -p "$1/.vm"; OUT=$(cd "$1" && pwd) VM=$OUT/.vm; shift
POOLS=${*:-rz1 rz2 rz3 mix rep spr rem exp dra sta dir fz}

# ---------------------------------------------------------------- the guest
[ -e "$VM/root/boot" ] || mmdebstrap --mode=root --variant=minbase --components=main,contrib \
  --include=linux-image-amd64,linux-headers-amd64,build-essential,dkms,zfs-dkms,zfsutils-linux,busybox-static \
  --include=python3-minimal,attr,acl,kmod,udev,qemu-system-x86,xz-utils trixie "$VM/root" http://deb.debian.org/debian
KERNEL=$(basename "$VM"/root/lib/modules/*)
if [ ! -e "$VM/root.img" ]; then
  rm -rf "$VM/initrd" "$VM/stage"; mkdir -p "$VM"/initrd/{bin,mod,dev,proc,sys,r}
  cp "$VM/root/usr/bin/busybox" "$VM/initrd/bin/"; ln -s busybox "$VM/initrd/bin/sh"
  for m in virtio_blk virtio_pci ext4; do chroot "$VM/root" modprobe -S "$KERNEL" --show-depends $m; done |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r m; do
      n=$(basename "$m" .xz); xz -dc "$VM/root$m" > "$VM/initrd/mod/$n"; echo "$n" >> "$VM/initrd/mod/list"; done
  cat > "$VM/initrd/init" <<'E'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t devtmpfs d /dev; mount -t sysfs s /sys
for m in $(cat /mod/list); do insmod /mod/$m; done
sleep 1
for d in /sys/block/vd*; do [ "$(cat $d/serial)" = root ] && mount -t ext4 /dev/${d##*/} /r; done
exec switch_root /r /lab
E
  chmod +x "$VM/initrd/init"
  (cd "$VM/initrd" && find . | cpio -o -H newc 2>/dev/null | gzip > ../initrd.img)
  cp -a "$VM/root" "$VM/stage"; rm -rf "$VM"/stage/{usr/src,var/cache,usr/share/doc,usr/share/man,usr/lib/gcc,boot}
  cat > "$VM/stage/lab" <<'E'
#!/bin/bash
export PATH=/usr/sbin:/usr/bin PYTHONUTF8=1 LC_ALL=C.UTF-8
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for d in tmp run mnt; do mount -t tmpfs t /$d; done
/usr/lib/systemd/systemd-udevd --daemon; udevadm trigger; udevadm settle
tr -d '\0' < /dev/disk/by-id/virtio-job > /tmp/job; mkdir /tmp/out; cd /tmp
modprobe zfs && bash /tmp/job > /tmp/out/log 2>&1
tar -C /tmp/out -cf - . | xz -1 | dd of=/dev/disk/by-id/virtio-result bs=1M conv=notrunc 2>/dev/null
sync; echo o > /proc/sysrq-trigger; sleep 100
E
  chmod +x "$VM/stage/lab"
  truncate -s 1800M "$VM/root.img.new"; mke2fs -q -t ext4 -d "$VM/stage" "$VM/root.img.new"
  mv "$VM/root.img.new" "$VM/root.img"; rm -rf "$VM/stage"
fi

# ---------------------------------------------------------------- what every job begins with
cat > "$VM/prelude" <<'EOP'
set -x
D=/dev/disk/by-id/virtio- P=/sys/module/zfs/parameters
cat > fill.py <<'E'
import os, random, socket, stat, sys
root, many, opts = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
rnd = random.Random(root)
def put(path, data):
    path = os.path.join(root, path); os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as f: f.write(data)
def text(n):
    lines, size = [], 0
    while size < n:
        lines.append(b'%08d line of a log file with number %d\n' % (len(lines), rnd.randrange(10**6))); size += len(lines[-1])
    return b''.join(lines)[:n]
put('big/text.log', text(3_000_001)); put('big/random.bin', rnd.randbytes(1_500_000)); put('big/zeros.bin', bytes(1 << 20))
for n in (0, 1, 100, 111, 112, 113, 511, 512, 513, 4095, 4096, 4097, 65536, 131071, 131072, 131073, 262144, 1048577):
    put(f'sizes/s{n}', text(n)); put(f'sizes/r{n}', rnd.randbytes(n))
os.makedirs(f'{root}/sparse')
with open(f'{root}/sparse/holes', 'wb') as f:
    for at in (0, 5 << 20, 40 << 20, (1 << 30) + 12345): f.seek(at); f.write(text(70000))
    f.truncate((1 << 30) + (10 << 20))
with open(f'{root}/sparse/far', 'wb') as f:
    if 'far' in opts: f.seek(1 << 45); f.write(b'far away')
for i in range(many): put(f'many/entry-{i:06d}-{"n" * (i % 90)}', b'')
for name in ('L' * 255, 'ümläut.txt', '日本.txt', 'new\nline'): put(f'names/{name}', name.encode())
put('links/a', b'hard\n'); os.link(f'{root}/links/a', f'{root}/links/b')
for name, target in (('short', 'a'), ('l301', 'x' * 200 + '/' + 'y' * 100), ('l2001', '/' + 'z/' * 1000)):
    os.symlink(target, f'{root}/links/{name}')
os.makedirs(f'{root}/special'); os.chdir(f'{root}/special')
os.mknod('chr', stat.S_IFCHR | 0o640, os.makedev(4, 300)); os.mknod('blk', stat.S_IFBLK | 0o600, os.makedev(300, 70000))
os.mkfifo('fifo', 0o622); socket.socket(socket.AF_UNIX).bind('sock'); os.chdir('/')
put('modes/suid', b's'); os.chown(f'{root}/modes/suid', 4000000001, 65534); os.chmod(f'{root}/modes/suid', 0o6711)
put('times/old', b'o'); os.utime(f'{root}/times/old', ns=(-1234567890123456789, -86400 * 10**9 * 365 * 10 + 5))
put('times/new', b'n'); os.utime(f'{root}/times/new', ns=(5000000000 * 10**9 + 999999999, 6000000000 * 10**9 + 1))
put('xattr/f', b'x'); put('xattr/huge', b'x'); os.makedirs(f'{root}/xattr/dir')
for name, value in (('user.small', b'v'), ('user.bin', bytes(range(256))), ('user.big', rnd.randbytes(3000)),
                    ('trusted.t', b'tt'), ('security.s', b'ss'), ('user.empty', b'')):
    os.setxattr(f'{root}/xattr/f', name, value)
os.setxattr(f'{root}/xattr/huge', 'user.huge', rnd.randbytes(60000)); os.setxattr(f'{root}/xattr/dir', 'user.d', b'on a directory')
if 'acl' in opts:
    put('acl/f', b'a'); os.system(f'setfacl -m u:1234:rwx,g:77:r {root}/acl/f; setfacl -d -m u:99:rx {root}/acl')
E
cat > manifest.py <<'E'
import hashlib, json, os, stat, sys
root = sys.argv[1]
for top, dirs, files in os.walk(root):
    dirs.sort()
    for name in sorted(dirs + files):
        path = os.path.join(top, name); st = os.lstat(path)
        line = {'path': os.path.relpath(path, root), 'mode': st.st_mode, 'uid': st.st_uid, 'gid': st.st_gid, 'nlink': st.st_nlink,
                'size': st.st_size, 'mtime': st.st_mtime_ns, 'atime': st.st_atime_ns, 'ctime': st.st_ctime_ns}
        if stat.S_ISLNK(st.st_mode): line['target'] = os.readlink(path)
        if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode): line['rdev'] = [os.major(st.st_rdev), os.minor(st.st_rdev)]
        try: line['xattrs'] = {k: os.getxattr(path, k, follow_symlinks=False).hex() for k in os.listxattr(path, follow_symlinks=False)}
        except OSError: line['xattrs'] = {}
        if stat.S_ISREG(st.st_mode) and st.st_size <= 2 << 30:
            with open(path, 'rb') as f: line['sha256'] = hashlib.file_digest(f, 'sha256').hexdigest()
        print(json.dumps(line))
E
pool() { local name=$1; shift; zpool create -f -O mountpoint=/mnt/$name "$@"; }
fill() { python3 fill.py "$@"; }
done_with() { zpool sync $1; python3 manifest.py /mnt/$1 > out/tree.jsonl; zpool export $1; }
EOP

# ---------------------------------------------------------------- the pools
job() { case $1 in
rz1) cat <<'E'
pool rz1 -o ashift=9 -O xattr=sa -O acltype=posix -O compression=lz4 -O dnodesize=auto rz1 raidz1 ${D}rz1-{0,1,2,3}
cd /mnt/rz1; zfs create rz1/plain; (cd /tmp; fill /mnt/rz1/plain 4000 acl far)
for c in sha512 skein edonr blake3 fletcher2 sha256 off; do zfs create -o checksum=$c -o compression=off rz1/ck-$c
  head -c 700000 plain/big/text.log > ck-$c/text; head -c 300000 plain/big/random.bin > ck-$c/random; done
for c in zstd zstd-19 zstd-fast-10 gzip-1 gzip-9 lzjb zle lz4; do zfs create -o compression=$c rz1/co-$c
  head -c 700000 plain/big/text.log > co-$c/text; cp plain/big/random.bin plain/big/zeros.bin co-$c/; done
for r in 1M 16M 512; do zfs create -o recordsize=$r rz1/rs$r; cp plain/big/text.log rs$r/; done
for r in 1M 16M; do cat plain/big/* plain/big/* plain/big/* plain/big/* > rs$r/all; done
for o in xattr=dir copies=3 dedup=on longname=on version=4 version=1; do zfs create -o $o rz1/${o/=/-}; done
zfs create -o casesensitivity=mixed -o normalization=formD rz1/mixed
(cd /tmp; fill /mnt/rz1/xattr-dir 10 acl; fill /mnt/rz1/mixed 3000; fill /mnt/rz1/version-4 2500)
cp plain/big/text.log copies-3/; for i in 1 2 3; do cp plain/big/text.log dedup-on/t$i; done
touch longname-on/$(printf 'w%.0s' $(seq 900)); mkdir version-1/d; echo one > version-1/d/f; ln -s target version-1/l
zfs create rz1/a; zfs create rz1/a/b; zfs create -o canmount=off rz1/a/b/c; zfs create rz1/a/b/c/d; echo deep > a/b/c/d/f
zfs create -V 20M rz1/a/vol; zfs create -s -V 10G rz1/thin; udevadm settle
dd if=plain/big/text.log of=/dev/zvol/rz1/a/vol bs=64k seek=16 conv=fsync; zfs snapshot rz1/a/vol@vs
dd if=/dev/urandom of=/dev/zvol/rz1/a/vol bs=64k count=5 conv=fsync
echo hello | dd of=/dev/zvol/rz1/thin bs=1 seek=5000000000 conv=fsync; sha256sum < /dev/zvol/rz1/a/vol > /tmp/out/volume
zfs snapshot -r rz1@one; python3 /tmp/manifest.py /mnt/rz1/plain > /tmp/out/snapshot.jsonl
echo after > plain/after; rm plain/big/zeros.bin; zfs snapshot -r rz1@two; zfs clone rz1/plain@one rz1/clone; echo c > clone/c
cp --reflink=always plain/big/text.log plain/big/cloned; fallocate -p -o 131072 -l 262144 plain/big/text.log
zfs create -o encryption=aes-256-gcm -o keyformat=passphrase rz1/enc <<< passwordpassword; echo secret > enc/secret
cd /tmp; done_with rz1
E
;;
rz2) echo 'pool rz2 -o ashift=12 -O xattr=sa -O recordsize=1M rz2 raidz2 ${D}rz2-{0,1,2,3,4,5}; fill /mnt/rz2 1500; done_with rz2';;
rz3) echo 'pool rz3 -o ashift=12 -d rz3 raidz3 ${D}rz3-{0,1,2,3,4}; fill /mnt/rz3 1500; done_with rz3';;
mix) cat <<'E'
pool mix -o ashift=12 -O xattr=sa -O dnodesize=auto mix mirror ${D}mix-{0,1} mirror ${D}mix-{2,3} special mirror ${D}mix-s{0,1} \
  dedup ${D}mix-d log ${D}mix-l
zfs create -o special_small_blocks=8K mix/small; zfs create -o dedup=on mix/dd; zfs create -o recordsize=1M -o compression=off mix/gang
echo 20000 > $P/metaslab_force_ganging; echo 60 > $P/metaslab_force_ganging_pct; fill /mnt/mix/gang 800; zpool sync mix
echo 16777217 > $P/metaslab_force_ganging; fill /mnt/mix/small 800
for i in 1 2 3; do cp /mnt/mix/small/big/text.log /mnt/mix/dd/t$i; done; done_with mix
E
;;
rep) cat <<'E'
pool rep rep raidz1 ${D}rep-{0,1,2}; fill /mnt/rep 800; zpool sync rep
echo 1 > $P/zfs_scan_suspend_progress; zpool replace rep ${D}rep-1 ${D}rep-3; sleep 3; done_with rep
E
;;
spr) cat <<'E'
pool spr spr mirror ${D}spr-{0,1} spare ${D}spr-2; fill /mnt/spr 800
zpool replace -w spr ${D}spr-1 ${D}spr-2; echo late > /mnt/spr/late; done_with spr
E
;;
sta) cat <<'E'
pool sta sta mirror ${D}sta-{0,1}; fill /mnt/sta 800; zpool sync sta; zpool offline sta ${D}sta-1
cp -r /mnt/sta/big /mnt/sta/big2; rm -r /mnt/sta/sizes; echo changed > /mnt/sta/links/a; done_with sta
E
;;
rem) cat <<'E'
pool rem -O recordsize=1M rem ${D}rem-{0,1,2}; fill /mnt/rem 800; zpool sync rem; zpool remove -w rem ${D}rem-1
echo later > /mnt/rem/later; cat /mnt/rem/big/* > /mnt/rem/all; zpool sync rem; zpool remove -w rem ${D}rem-0; done_with rem
E
;;
exp) cat <<'E'
pool exp exp raidz1 ${D}exp-{0,1,2}; fill /mnt/exp 800; zpool sync exp; zpool attach -w exp raidz1-0 ${D}exp-3
zfs create exp/after; cp -r /mnt/exp/big /mnt/exp/sizes /mnt/exp/after; done_with exp
E
;;
dra) echo 'pool dra dra draid1:2d:5c:1s ${D}dra-{0,1,2,3,4}; echo draid > /mnt/dra/f; done_with dra';;
dir) cat <<'E'
pool dir dir ${D}dir-0; fill /mnt/dir 800; zfs create dir/db; echo synced > /mnt/dir/db/a; zpool sync dir
python3 manifest.py /mnt/dir > out/tree.jsonl; echo 3600 > $P/zfs_txg_timeout; sleep 6; zpool sync dir
for i in 1 2 3; do dd if=/dev/urandom of=/mnt/dir/db/late$i bs=4k count=3 conv=fsync; done
E
;;
fz) cat <<'E'
pool fz -o ashift=9 -O xattr=sa -O atime=off -O compression=lz4 -O dnodesize=auto -O acltype=posix fz ${D}fz-0; cd /mnt/fz
seq 3000 > text; echo small > small; truncate -s 10M sparse; echo end >> sparse; ln -s small link
ln -s $(printf 'y%.0s' $(seq 500)) long; ln small hard; mkfifo fifo; mknod null c 1 3; mkdir d many
setfattr -n user.a -v b small; setfattr -n user.big -v $(head -c 3000 /dev/zero | tr '\0' q) text
for i in $(seq 40); do touch many/$(printf 'name%.0s' $(seq 20))-$i; done
for o in zstd/skein/sa gzip/edonr/dir lzjb/sha512/sa zle/sha256/sa off/blake3/sa; do IFS=/ read -r c k x <<< $o
  zfs create -o compression=$c -o checksum=$k -o xattr=$x fz/$c; seq 1000 > $c/text; setfattr -n user.x -v value $c/text; done
zfs create -o version=4 fz/v4; seq 2000 > v4/text; ln -s $(printf 'z%.0s' $(seq 200)) v4/l
zfs create -V 512K fz/vol; udevadm settle; seq 500 | dd of=/dev/zvol/fz/vol conv=fsync; zfs snapshot -r fz@s; echo after > after
zfs create -o compression=off -o recordsize=4K fz/gang
echo 600 > $P/metaslab_force_ganging; echo 100 > $P/metaslab_force_ganging_pct; seq 2000 > gang/text; zpool sync fz
cd /tmp; done_with fz
E
;;
big) cat <<'E'
pool big -O xattr=sa -O atime=off big ${D}big-0; cd /mnt/big
for c in off lz4 zstd gzip; do zfs create -o compression=$c big/$c; dd if=${D}big-src of=$c/data bs=1M count=256; done
for r in 1M 16M 4K; do zfs create -o compression=off -o recordsize=$r big/r$r; dd if=${D}big-src of=r$r/data bs=16M count=4; done
mkdir lz4/many; python3 -c 'for i in range(100000): open(f"lz4/many/entry-{i:06d}", "w").close()'; cd /tmp; zpool export big
E
;;
*) echo "make-zfs-pools: no pool $1" >&2; return 2;;
esac; }
members() { case $1 in
rz1) echo {0..3};; rz2) echo {0..5};; rz3|dra) echo {0..4};; mix) echo 0 1 2 3 s0 s1 d l;; rep|exp) echo {0..3};;
spr|rem) echo 0 1 2;; sta) echo 0 1;; dir|fz) echo 0;; big) echo 0 src;; esac; }
size() { case $1 in rz1) echo 160M;; fz) echo 64M;; big) echo 2G;; *) echo 128M;; esac; }

QEMU=("$VM/root/lib64/ld-linux-x86-64.so.2" --library-path "$VM/root/usr/lib/x86_64-linux-gnu"
  "$VM/root/usr/bin/qemu-system-x86_64" -L "$VM/root/usr/share/qemu" -L "$VM/root/usr/share/seabios")
disk() { echo -drive "file=$2,if=none,id=$1,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap,snapshot=${3:-off}" \
  -device "virtio-blk-pci,drive=$1,serial=$1"; }
for pool in $POOLS; do
  [ ! -e "$OUT/$pool/tree.jsonl" ] || continue
  mkdir -p "$OUT/$pool"
  job "$pool" | cat "$VM/prelude" - > "$VM/job"; truncate -s 64K "$VM/job"
  rm -f "$VM/result"; truncate -s 256M "$VM/result"
  disks="$(disk root "$VM/root.img" on) $(disk job "$VM/job") $(disk result "$VM/result")"
  for n in $(members "$pool"); do
    image=$OUT/$pool/$pool-$n.raw; rm -f "$image"; truncate -s "$(size "$pool")" "$image"
    [ "$n" != src ] || tar -C /usr/lib -cf - . 2>/dev/null | head -c 300000000 > "$image" || true
    disks+=" $(disk "$pool-$n" "$image")"
  done
  # shellcheck disable=SC2086
  "${QEMU[@]}" -accel "${ACCEL:-tcg,thread=multi}" -cpu max -smp 2 -m 3072 -display none -serial "file:$VM/console" -no-reboot -nic none \
    -kernel "$VM/root/boot/vmlinuz-$KERNEL" -initrd "$VM/initrd.img" -append "console=ttyS0 quiet spl.spl_hostid=1" $disks < /dev/null
  xz -dc "$VM/result" 2>/dev/null | tar -C "$OUT/$pool" -xf - || true
  echo "made $OUT/$pool" >&2
done
