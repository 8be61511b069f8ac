#!/usr/bin/env bash
# make.sh - how SYSTEM.zst and SOFTWARE.zst were made: an empty hive, filled by hivexregedit; and the .tsv files, which are
# what libhivex reads in each hive (path, then name, type and data of a value).
#
# usage: make.sh      needs libwin-hivex-perl, python3-hivex, zstd
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cat > "$WORK/empty.py" <<'PY'
# An empty hive: header, one bin, a root key, a security descriptor (owner and group SYSTEM), free space.
import struct, sys
def cell(data, used=True):
    size = (len(data) + 4 + 7) // 8 * 8
    return struct.pack('<i', -size if used else size) + data.ljust(size - 4, b'\0')
sid = bytes.fromhex('010100000000000512000000')
sd = struct.pack('<BBHIIII', 1, 0, 0x8000, 20, 32, 0, 0) + sid + sid
name = b'$$$PROTO.HIV'
nk = lambda sk: struct.pack('<2sHQIIIIIIIIIIIIIIIHH', b'nk', 0x2c, 0x01d60000_00000000, 0, 0xffffffff, 0, 0, 0xffffffff,
                            0xffffffff, 0, 0xffffffff, sk, 0xffffffff, 0, 0, 0, 0, 0, len(name), 0) + name
root = cell(nk(0))
at = 32 + len(root)
root = cell(nk(at))
sk = cell(struct.pack('<2sHIIII', b'sk', 0, at, at, 1, len(sd)) + sd)
used = 32 + len(root) + len(sk)
free = struct.pack('<i', 4096 - used) + bytes(4096 - used - 4)
hbin = struct.pack('<4sIIQQI', b'hbin', 0, 4096, 0, 0, 0) + root + sk + free
head = bytearray(struct.pack('<4sIIQIIIIIII', b'regf', 1, 1, 0x01d60000_00000000, 1, 5, 0, 1, 32, 4096, 1).ljust(4096, b'\0'))
head[508:512] = struct.pack('<I', __import__('functools').reduce(lambda a, b: a ^ b, struct.unpack('<127I', head[:508])))
open(sys.argv[1], 'wb').write(head + hbin)
PY
cat > "$WORK/dump.py" <<'PY'
import hivex, sys
hive, out = hivex.Hivex(sys.argv[1]), []
def walk(node, path):
    for value in hive.node_values(node):
        kind, data = hive.value_value(value)
        out.append(f'{path}\t{hive.value_key(value)}\t{kind}\t{data.hex()}')
    for child in hive.node_children(node):
        below = path + '\\' + hive.node_name(child)
        out.append(below)
        walk(child, below)
walk(hive.root(), '')
print(*sorted(out), sep='\n')
PY
w() { printf '%s' "$1" | iconv -t UTF-16LE | xxd -p | tr -d '\n' | sed 's/../&,/g; s/,$//'; }
sz() { echo "hex(1):$(w "$1"),00,00"; }
cat > "$WORK/SOFTWARE.reg" <<REG
Windows Registry Editor Version 5.00

[HKEY_LOCAL_MACHINE\\SOFTWARE\\Microsoft\\Windows NT\\CurrentVersion]
"ProductName"=$(sz 'Windows Server 2022 Standard')
"EditionID"=$(sz ServerStandard)
"CurrentBuild"=$(sz 20348)
"CurrentVersion"=$(sz 6.3)
"CurrentMajorVersionNumber"=dword:0000000a
"CurrentMinorVersionNumber"=dword:00000000
"UBR"=dword:00000841
"DisplayVersion"=$(sz 21H2)
"SystemRoot"=$(sz 'C:\WINDOWS')
@=hex:00,01,02

[HKEY_LOCAL_MACHINE\\SOFTWARE\\Umlaute äöü 日本]
"Wert ß"=dword:00000007
"leer"=hex(1):
"lang"=hex:$(seq 1 9000 | xxd -p | tr -d '\n' | sed 's/../&,/g; s/,$//')
REG
for i in $(seq 1 400); do printf '\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Classes\\Key%04d]\n"n"=dword:%08x\n' "$i" "$i"; done >> "$WORK/SOFTWARE.reg"
cat > "$WORK/SYSTEM.reg" <<REG
Windows Registry Editor Version 5.00

[HKEY_LOCAL_MACHINE\\SYSTEM\\Select]
"Current"=dword:00000002
"Default"=dword:00000002

[HKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet001\\Control\\ComputerName\\ComputerName]
"ComputerName"=$(sz OLDNAME)

[HKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet002\\Control]
"PEFirmwareType"=dword:00000002

[HKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet002\\Control\\ComputerName\\ComputerName]
"ComputerName"=$(sz FILESERVER-WITH)

[HKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet002\\Services\\Tcpip\\Parameters]
"NV Hostname"=$(sz fileserver-with-a-long-name)

[HKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet002\\Control\\Session Manager\\Environment]
"PROCESSOR_ARCHITECTURE"=$(sz AMD64)

[HKEY_LOCAL_MACHINE\\SYSTEM\\MountedDevices]
"\\\\DosDevices\\\\C:"=hex:44,4d,49,4f,3a,49,44,3a,78,56,34,12,34,12,78,56,9a,bc,de,f0,12,34,56,78
"\\\\DosDevices\\\\D:"=hex:dd,cc,bb,aa,00,00,10,00,00,00,00,00
"\\\\DosDevices\\\\E:"=hex:$(w '\??\SCSI#CdRom&Ven_QEMU')
"\\\\DosDevices\\\\F:"=hex:01,02,03
"\\\\??\\\\Volume{00000000-0000-0000-0000-000000000000}"=hex:dd,cc,bb,aa,00,00,10,00,00,00,00,00
REG
# hivexregedit makes no key whose parent is not there: each parent gets a line before.
parents() { awk -F'\\' '/^\[/ { sub(/\]\r?$/, ""); p = $1 "\\" $2; for (i = 3; i <= NF; i++) { p = p "\\" $i; if (!seen[p]++ && i < NF) print p "]\n" } print p "]"; next } { print }'; }
for hive in SOFTWARE SYSTEM; do
  parents < "$WORK/$hive.reg" > "$WORK/all.reg"
  python3 "$WORK/empty.py" "$WORK/$hive"
  hivexregedit --merge --encoding UTF-8 --prefix "HKEY_LOCAL_MACHINE\\$hive" "$WORK/$hive" "$WORK/all.reg"
  zstd -q -19 -f "$WORK/$hive" -o "$hive.zst"
done
zstd -q -d -f BCD.zst -o "$WORK/BCD"
for hive in SOFTWARE SYSTEM BCD; do /usr/bin/python3 "$WORK/dump.py" "$WORK/$hive" | zstd -q -19 -f -o "$hive.tsv.zst"; done
