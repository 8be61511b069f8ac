#!/bin/sh
# Makes the disks and the manifest in this folder; see README.md. Run as root in a virtual machine that has busybox,
# lvm and mdadm, and nothing to lose: the disks are left in /o.
modprobe crc32c_generic; for m in loop dm_mod dm_thin_pool dm_mirror dm_raid dm_snapshot dm_cache dm_cache_smq dm_writecache md_mod raid0 raid1 raid10 raid456 linear; do modprobe $m || echo NOMOD $m; done
mkdir -p /o /etc/lvm; mount -t tmpfs -o size=1500m t /o; cd /o
# fill DEV NAME [SKIPBLOCKS COUNT]: every 4 KiB block says whose it is
fill() { n=$(( $(blockdev --getsize64 $1) / 4096 )); awk -v name=$2 -v n=${4:-$n} -v s=${3:-0} 'BEGIN{for(i=s;i<s+n;i++)printf "%-4096s", name " " i}' | dd of=$1 bs=4096 seek=${3:-0} conv=notrunc 2>/dev/null; sync; }
sum() { blockdev --flushbufs $2 2>/dev/null; echo "$CASE $1 $(blockdev --getsize64 $2) $(sha256sum < $2 | cut -d' ' -f1)" >> /o/manifest.txt; }
mk() { truncate -s $2 $1; l=$(losetup -f); losetup $l $1; echo $l; }
export MDADM_NO_UDEV=1
export LVM_SUPPRESS_FD_WARNINGS=1 DM_DISABLE_UDEV=1
CFG='devices{use_devicesfile=0 dir="/dev" scan=["/dev"]} activation{udev_sync=0 udev_rules=0 verify_udev_operations=1 monitoring=0 raid_fault_policy="warn"} backup{backup=0 archive=0} global{event_activation=0 thin_check_executable="" cache_check_executable=""}'
L() { c=$1; shift; lvm $c --config "$CFG" "$@"; }
CASE=lvm; mkdir /o/lvm; D=
for i in 0 1 2 3 4; do l=$(mk /o/lvm/d$i.raw 64M); D="$D $l"; done
set -- $D
L pvcreate --metadatasize 256k --dataalignment 64k $D
L vgcreate -s 64k vgdata $D
L lvcreate -y -l 20 -n gap vgdata $1
L lvcreate -y -L 1m -n linear vgdata $1
L lvcreate -y -l 5 -n gap2 vgdata $1
L lvextend -L 2m vgdata/linear $1
L lvextend -L 3m vgdata/linear $2
L lvcreate -y -L 3m -i 3 -I 8k -n striped vgdata
L lvcreate -y -L 1m --type mirror -m 1 --mirrorlog core -n mirror vgdata
L lvcreate -y -L 1m --type raid1 -m 1 -n raid-1 vgdata
L lvcreate -y -L 2m --type raid0 -i 2 -I 4k -n raid0 vgdata
L lvcreate -y -L 2m --type raid0_meta -i 2 -I 4k -n raid0m vgdata
L lvcreate -y -L 2m --type raid4 -i 2 -I 4k -n raid4 vgdata
L lvcreate -y -L 2m --type raid5 -i 3 -I 4k -n raid5 vgdata
L lvcreate -y -L 2m --type raid5_ra -i 2 -I 8k -n raid5ra vgdata
L lvcreate -y -L 3m --type raid6 -i 3 -I 4k -n raid6 vgdata
L lvcreate -y -L 3m --type raid6_nc -i 3 -I 4k -n raid6nc vgdata
L lvcreate -y -L 2m --type raid10 -i 2 -m 1 -I 4k -n raid10 vgdata
L lvcreate -y -L 1m -n origin vgdata $3
L lvcreate -y --type thin-pool -L 8m --poolmetadatasize 2m -c 64k -n pool vgdata
L lvcreate -y -V 40m --thinpool pool -n thin vgdata
L lvcreate -y -V 3m --thinpool pool -n thin2 vgdata
L lvcreate -y -L 1m -n cached vgdata $4
ls -l /dev/mapper
M=/dev/mapper/vgdata
for v in linear striped mirror raid--1 raid0 raid0m raid4 raid5 raid5ra raid6 raid6nc raid10 origin thin2 cached; do fill $M-$v $v; done
fill $M-thin thin 0 100; fill $M-thin thin 5000 50; fill $M-thin thin 10200 40
L lvcreate -y -s -n thinsnap -kn vgdata/thin; L lvchange -ay -K vgdata/thinsnap
fill $M-thin changed 5010 20
fill $M-thinsnap snapped 90 3
L lvcreate -y -s -L 512k -c 4k -n snap vgdata/origin
fill $M-origin changed 10 20
sleep 5; sync
L lvcreate -y --type cache-pool -L 1m --poolmetadatasize 1m -n cpool vgdata $5 || L lvcreate -y --type cache-pool -L 8m --poolmetadatasize 8m -n cpool vgdata $5
L lvconvert -y --type cache --cachepool cpool vgdata/cached
for i in $(seq 60); do L lvs --noheadings -a -o lv_name,segtype,sync_percent vgdata; L lvs --noheadings -o sync_percent vgdata | grep -q '[0-9]' && ! L lvs --noheadings -o sync_percent vgdata | grep -v '100.00' | grep -q '[0-9]' && break; sleep 1; done
L lvs -a -o +segtype,devices vgdata
for v in linear striped mirror raid--1 raid0 raid0m raid4 raid5 raid5ra raid6 raid6nc raid10 origin thin2 thin thinsnap snap cached; do sum vgdata-$(echo $v | sed s/--/-/) $M-$v; done
L vgcfgbackup -f /o/lvm/vgcfg.txt vgdata
L vgchange -an vgdata; sync
for d in $D; do losetup -d $d; done
# --- md
md() { # case meta level members chunk extra
  CASE=$1; mkdir -p /o/$1; D=; i=0; sz=${7:-3M}
  while [ $i -lt $4 ]; do s=$sz; [ "$8" ] && [ $i = 1 ] && s=$8; D="$D $(mk /o/$1/d$i.raw $s)"; i=$((i+1)); done
  ch=; [ "$5" = 0 ] || ch=--chunk=$5
  mdadm --create /dev/md9 --run --force --homehost=any --name=$1 --metadata=$2 --level=$3 --raid-devices=$4 $ch $6 $D || { echo FAILED $1; return; }
  mdadm --wait /dev/md9; cat /proc/mdstat
  fill /dev/md9 $1; mdadm --wait /dev/md9; sum $1 /dev/md9
  mdadm --detail /dev/md9 | grep -E 'Layout|Level|UUID|Version|State :'
  mdadm --stop /dev/md9; for d in $D; do losetup -d $d; done; }
md md-raid0 1.2 0 2 4 ""
md md-raid0-zones 1.2 0 3 8 "--layout=original" 3M 2M
md md-raid0-zones-alt 1.2 0 3 8 "--layout=alternate" 3M 2M
md md-raid1 1.0 1 2 0 "--bitmap=none"
md md-raid1-11 1.1 1 2 0 "--bitmap=internal"
md md-raid1-090 0.90 1 2 0 "--bitmap=none"
md md-linear 1.2 linear 3 0 "" 2500K 2M
md md-raid10-n2 1.2 10 3 4 "--layout=n2 --bitmap=none"
md md-raid10-n3 1.2 10 4 8 "--layout=n3 --bitmap=none"
md md-raid10-f2 1.2 10 3 4 "--layout=f2 --bitmap=none"
md md-raid10-o2 1.2 10 3 4 "--layout=o2 --bitmap=none"
md md-raid4 1.2 4 3 4 "--bitmap=none"
for l in la ra ls rs parity-first parity-last; do md md-raid5-$l 1.2 5 4 4 "--bitmap=none --layout=$l" 2500K; done
for l in la ra ls rs; do md md-raid6-$l 1.0 6 5 4 "--bitmap=none --layout=$l" 2500K; done
for l in parity-first ddf-zero-restart ddf-N-restart ddf-N-continue left-asymmetric-6 right-symmetric-6 parity-first-6; do md md-raid6-$l 1.2 6 5 4 "--bitmap=none --layout=$l" 2500K; done
md md-raid5-090 0.90 5 3 4 "--bitmap=none" 2500K
CASE=lvm-raid; mkdir /o/lvm-raid; D=
for i in 0 1 2 3 4; do l=$(mk /o/lvm-raid/d$i.raw 24M); D="$D $l"; done
set -- $D
L pvcreate --metadatasize 256k --dataalignment 64k $D
L vgcreate -s 64k vgr $D
for t in raid5_la raid5_rs raid5_n; do L lvcreate -y -l 24 --type $t -i 3 -I 4k -n $t vgr; done
for t in raid6_nr raid6_zr; do L lvcreate -y -l 24 --type $t -i 3 -I 4k -n $t vgr; done
L lvcreate -y -l 24 --type raid6_ls_6 -i 3 -I 4k -n raid6_ls_6 vgr
L lvcreate -y -l 24 --type raid6_ra_6 -i 3 -I 4k -n raid6_ra_6 vgr
L lvcreate -y -l 24 --type raid6_n_6 -i 3 -I 4k -n raid6_n_6 vgr
L lvcreate -y -l 16 -n back vgr $2
L lvcreate -y -l 16 -n base vgr $3
fill /dev/mapper/vgr-back back; fill /dev/mapper/vgr-base base
L lvcreate -y --type thin-pool -L 2m --poolmetadatasize 2m -c 64k -n pool vgr
L lvchange -an vgr/base; L lvchange -pr vgr/base
L lvcreate -y -s --thinpool vgr/pool -n external vgr/base
L lvchange -ay -K vgr/external
fill /dev/mapper/vgr-external external 40 7
L lvcreate -y --type cache-pool -L 1m --poolmetadatasize 2m --cachemode writeback -n cpool vgr $5
L lvconvert -y --type cache --cachemode writeback --cachepool cpool vgr/back
ls /dev/mapper
V="raid5_la raid5_rs raid5_n raid6_nr raid6_zr raid6_ls_6 raid6_ra_6 raid6_n_6"
for v in $V; do [ -e /dev/mapper/vgr-$v ] && fill /dev/mapper/vgr-$v $v; done
for i in $(seq 40); do L lvs --noheadings -o sync_percent vgr | grep -v '100.00' | grep -q '[0-9]' || break; sleep 1; done
for v in $V external; do [ -e /dev/mapper/vgr-$v ] && sum vgr-$v /dev/mapper/vgr-$v; done
L lvs -a -o +segtype,devices vgr
L vgcfgbackup -f /o/vgr.txt vgr
L vgchange -an vgr; sync; for d in $D; do losetup -d $d; done
CASE=lvm-on-md; mkdir /o/lvm-on-md; D=
for i in 0 1; do l=$(mk /o/lvm-on-md/d$i.raw 16M); D="$D $l"; done
mdadm --create /dev/md9 --run --force --homehost=any --name=system --metadata=1.2 --level=1 --raid-devices=2 --assume-clean --bitmap=none $D
L pvcreate --metadatasize 256k --dataalignment 64k /dev/md9; L vgcreate -s 64k vg-on-md /dev/md9; L lvcreate -y -l 16 -n root vg-on-md
ls /dev/mapper
fill /dev/vg-on-md/root root || fill /dev/mapper/vg--on--md-root root; sum vg-on-md-root /dev/mapper/vg--on--md-root
L vgchange -an vg-on-md; mdadm --stop /dev/md9; sync; for d in $D; do losetup -d $d; done
