#!/usr/bin/env bash
# machine-volume.sh - how tests/data/machines was made: a machine of two disks, each a chain of qcow2 files, one a job,
# saved by stock Bacula in a Full and four Incrementals. points.tsv has, for each job and disk, the topmost file, and
# the SHA-256 and the size of the whole disk as qemu-img reads it.
#
# usage: machine-volume.sh OUTDIR       needs root, stock Bacula, qemu-utils, sfdisk, dosfstools, e2fsprogs, zstd
set -euo pipefail
[ $# = 1 ] || { sed -n '2,6p' "$0"; exit 2; }
OUT=$1
LAB="bash $(dirname "$(readlink -f "$0")")/bacula-lab.sh"
WORK=$(mktemp -d /tmp/rvm.XXXX)
export BACULA_LAB_DIR=$WORK/lab BACULA_LAB_QUIET=1
S=$WORK/src/vms/web01
mkdir -p "$S" "$OUT"
$LAB up "$BACULA_LAB_DIR"
$LAB define web01 --path $S --accurate --signature MD5 
cd $S
truncate -s 64M ../../base.raw
printf 'label: gpt\nstart=2048,size=40960,type=U,name=ESP\nstart=43008,type=L,name=root\n' | sfdisk -q ../../base.raw
mkfs.vfat -F 16 --offset 2048 -n EFI -i 12345678 ../../base.raw 20480 >/dev/null
mke2fs -q -t ext4 -L root -U 11111111-2222-3333-4444-555555555555 -E offset=$((43008*512)) ../../base.raw 40M 2>/dev/null
qemu-img convert -O qcow2 ../../base.raw disk0.0001-full.qcow2
qemu-img create -q -f qcow2 disk1.0001-full.qcow2 16M; qemu-io -f qcow2 -c 'write -P 7 1M 300k' disk1.0001-full.qcow2 >/dev/null
echo '{"name":"web01","disks":[{"name":"disk0","file":"disk0.0001-full.qcow2"},{"name":"disk1","file":"disk1.0001-full.qcow2"}]}' > machine.json
point() { for d in 0 1; do f=$(ls disk$d.*.qcow2 | tail -1); qemu-img convert -O raw $f $WORK/p.raw; echo "$1 disk$d $f $(sha256sum < $WORK/p.raw | cut -d' ' -f1) $(stat -c %s $WORK/p.raw)" >> $OUT/points.tsv; done; }
id=$($LAB backup web01 Full | awk '{print $NF}'); point $id
for i in 2 3 4 5; do for d in 0 1; do prev=$(ls disk$d.*.qcow2 | tail -1); n=$(printf disk$d.%04d-inc.qcow2 $i)
[ $d = 1 ] && [ $i = 3 ] && continue
[ $d = 1 ] && [ $i = 4 ] && size=20M || size=
qemu-img create -q -f qcow2 -b $prev -F qcow2 $n $size
for k in 1 2 3; do qemu-io -f qcow2 -c "write -P $((i*16+k)) $((4096*(i*397+k*911) % 16000000)) 70000" $n >/dev/null; done
[ $i = 5 ] && qemu-io -f qcow2 -c "write -z 2M 1M" $n >/dev/null
done
sleep 1; id=$($LAB backup web01 Incremental | awk '{print $NF}'); point $id; done
$LAB stop
zstd -q -19 -f "$BACULA_LAB_DIR/volumes/web01/web01-0001" -o "$OUT/web01-0001.zst"
$LAB down
rm -rf "$WORK"
