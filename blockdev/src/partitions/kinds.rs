//! Readable names of partition types: the MBR's type bytes and GPT's type GUIDs.

/// What a partition table says a partition is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionKind {
    /// The type byte in two hexadecimal digits, or the type GUID in upper case.
    pub code: String,
    /// Its usual name; `unknown` where there is none.
    pub name: &'static str,
}

impl PartitionKind {
    /// Of an MBR type byte.
    #[must_use]
    pub fn mbr(byte: u8) -> Self {
        Self { code: format!("{byte:02x}"), name: MBR.iter().find(|(b, _)| *b == byte).map_or(UNKNOWN, |(_, n)| n) }
    }

    /// Of a GPT type GUID.
    #[must_use]
    pub fn gpt(guid: String) -> Self {
        let name = GPT.iter().find(|(g, _)| *g == guid).map_or(UNKNOWN, |(_, n)| n);
        Self { code: guid, name }
    }

    /// Whether Windows' logical disk manager has the partition: the table then does not tell the volumes.
    pub(super) fn is_dynamic_disk(&self) -> bool {
        self.code == "42" || self.code == LDM_DATA || self.code == LDM_METADATA
    }
}

const UNKNOWN: &str = "unknown";
const LDM_METADATA: &str = "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3";
const LDM_DATA: &str = "AF9B60A0-1431-4F62-BC68-3311714A69AD";

/// Type bytes, as `sfdisk -T` and the tools of other systems call them.
const MBR: [(u8, &str); 38] = [
    (0x01, "FAT12"),
    (0x04, "FAT16 under 32 MiB"),
    (0x06, "FAT16"),
    (0x07, "NTFS, exFAT or HPFS"),
    (0x0b, "FAT32"),
    (0x0c, "FAT32 (LBA)"),
    (0x0e, "FAT16 (LBA)"),
    (0x11, "hidden FAT12"),
    (0x12, "Compaq diagnostics"),
    (0x14, "hidden FAT16 under 32 MiB"),
    (0x16, "hidden FAT16"),
    (0x17, "hidden NTFS or exFAT"),
    (0x1b, "hidden FAT32"),
    (0x1c, "hidden FAT32 (LBA)"),
    (0x1e, "hidden FAT16 (LBA)"),
    (0x27, "Windows recovery"),
    (0x39, "Plan 9"),
    (0x41, "PReP boot"),
    (0x42, "Windows dynamic disk"),
    (0x63, "GNU Hurd"),
    (0x82, "Linux swap or Solaris"),
    (0x83, "Linux"),
    (0x84, "hibernation"),
    (0x88, "Linux plaintext"),
    (0x8e, "Linux LVM"),
    (0xa0, "hibernation"),
    (0xa5, "FreeBSD"),
    (0xa6, "OpenBSD"),
    (0xa8, "macOS UFS"),
    (0xa9, "NetBSD"),
    (0xaf, "macOS HFS"),
    (0xbe, "Solaris boot"),
    (0xbf, "Solaris"),
    (0xda, "data without a filesystem"),
    (0xef, "EFI system"),
    (0xfb, "VMware VMFS"),
    (0xfc, "VMware swap"),
    (0xfd, "Linux RAID"),
];

/// Type GUIDs, from the UEFI specification and the Discoverable Partitions Specification.
const GPT: [(&str, &str); 36] = [
    ("024DEE41-33E7-11D3-9D69-0008C781F39F", "MBR partition scheme"),
    ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI system"),
    ("21686148-6449-6E6F-744E-656564454649", "BIOS boot"),
    ("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "Microsoft reserved"),
    ("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "Microsoft basic data"),
    (LDM_METADATA, "Windows dynamic disk metadata"),
    (LDM_DATA, "Windows dynamic disk data"),
    ("DE94BBA4-06D1-4D40-A16A-BFD50179D6AC", "Windows recovery"),
    ("E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D", "Microsoft Storage Spaces"),
    ("558D43C5-A1AC-43C0-AAC8-D1472B2923D1", "Microsoft Storage Replica"),
    ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux filesystem"),
    ("A19D880F-05FC-4D3B-A006-743F0F84911E", "Linux RAID"),
    ("44479540-F297-41B2-9AF7-D131D5F0458A", "Linux root (x86)"),
    ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "Linux root (x86-64)"),
    ("69DAD710-2CE4-4E3C-B16C-21A1D49ABED3", "Linux root (ARM)"),
    ("B921B045-1DF0-41C3-AF44-4C6F280D3FAE", "Linux root (ARM-64)"),
    ("8484680C-9521-48C6-9C11-B0720656F69E", "Linux /usr (x86-64)"),
    ("BC13C2FF-59E6-4262-A352-B275FD6F7172", "Linux extended boot"),
    ("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "Linux swap"),
    ("E6D6D379-F507-44C2-A23C-238F2A3DF928", "Linux LVM"),
    ("933AC7E1-2EB4-4F13-B844-0E14E2AEF915", "Linux home"),
    ("3B8F8425-20E0-4F3B-907F-1A25A76F98E8", "Linux server data"),
    ("4D21B016-B534-45C2-A9FB-5C16E091FD2D", "Linux variable data"),
    ("8DA63339-0007-60C0-C436-083AC8230908", "Linux reserved"),
    ("CA7D7CCB-63ED-4C53-861C-1742536059CC", "LUKS"),
    ("83BD6B9D-7F41-11DC-BE0B-001560B84F0F", "FreeBSD boot"),
    ("516E7CB4-6ECF-11D6-8FF8-00022D09712B", "FreeBSD data"),
    ("516E7CB5-6ECF-11D6-8FF8-00022D09712B", "FreeBSD swap"),
    ("516E7CB6-6ECF-11D6-8FF8-00022D09712B", "FreeBSD UFS"),
    ("516E7CBA-6ECF-11D6-8FF8-00022D09712B", "FreeBSD ZFS"),
    ("48465300-0000-11AA-AA11-00306543ECAC", "macOS HFS+"),
    ("7C3457EF-0000-11AA-AA11-00306543ECAC", "macOS APFS"),
    ("6A898CC3-1DD2-11B2-99A6-080020736631", "ZFS or macOS /usr"),
    ("AA31E02A-400F-11DB-9590-000C2911D1B8", "VMware VMFS"),
    ("9D275380-40AD-11DB-BF97-000C2911D1B8", "VMware diagnostics"),
    ("9198EFFC-31C0-11DB-8F78-000C2911D1B8", "VMware reserved"),
];
