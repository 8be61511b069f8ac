//! The kinds of hardware that descriptions name, and the names that hypervisors have for them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Kinds that have one name of ours and others elsewhere.
macro_rules! named {
    ($(#[$about:meta])* $kind:ident { $($(#[$doc:meta])* $variant:ident = $name:literal $(| $other:literal)*,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $kind { $($(#[$doc])* $variant,)* }

        impl $kind {
            /// Its name in descriptions.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The one that `name` means, in any hypervisor's words.
            #[must_use]
            pub fn of_name(name: &str) -> Option<Self> {
                match name.to_ascii_lowercase().as_str() {
                    $($name $(| $other)* => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                Self::of_name(&name).ok_or_else(|| D::Error::custom(format_args!("there is no {name}")))
            }
        }

        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}

named! {
    /// What starts a machine.
    Firmware {
        /// A BIOS.
        Bios = "bios" | "seabios" | "legacy",
        /// UEFI.
        Uefi = "uefi" | "efi" | "ovmf",
        /// UEFI that starts only what is signed.
        SecureBoot = "secure-boot" | "secureboot" | "uefi-secure",
    }
}

impl Firmware {
    /// Whether it is UEFI of either kind.
    #[must_use]
    pub const fn is_uefi(self) -> bool {
        matches!(self, Self::Uefi | Self::SecureBoot)
    }
}

named! {
    /// A PC's board, as QEMU has them.
    Chipset {
        /// Intel 440FX of 1996: PCI, IDE.
        I440fx = "i440fx" | "pc" | "440bx",
        /// Intel Q35 of 2007: PCI Express, SATA.
        Q35 = "q35",
    }
}

named! {
    /// What disks hang on.
    Bus {
        /// virtio, a device for each disk.
        VirtioBlk = "virtio-blk" | "virtio" | "virtio-blk-pci",
        /// virtio, SCSI.
        VirtioScsi = "virtio-scsi" | "virtio-scsi-pci" | "virtio-scsi-single" | "scsi",
        /// VMware's paravirtual SCSI.
        Pvscsi = "pvscsi" | "vmpvscsi" | "virtualscsi",
        /// LSI Logic SAS 1068.
        LsiSas = "lsisas1068" | "lsi-sas" | "lsilogicsas" | "lsilogic-sas" | "mptsas1068",
        /// LSI Logic parallel (53C1030), as VMware has it.
        LsiParallel = "lsilogic" | "lsi-parallel",
        /// BusLogic.
        BusLogic = "buslogic",
        /// LSI 53C895A, as QEMU has it.
        Lsi53c895a = "lsi53c895a" | "lsi" | "lsi53c810",
        /// LSI MegaRAID SAS.
        MegaSas = "megasas" | "megasas-gen2",
        /// Hyper-V's SCSI.
        HyperV = "hyperv" | "hyperv-scsi" | "storvsc" | "vmbus",
        /// Xen's block devices.
        Xen = "xen" | "xvd",
        /// SATA (AHCI).
        Sata = "sata" | "ahci" | "ide-ahci",
        /// IDE.
        Ide = "ide" | "ata" | "piix3-ide" | "piix4-ide",
        /// NVMe.
        Nvme = "nvme" | "nvme-controller",
    }
}

named! {
    /// Kinds of network cards.
    NicModel {
        /// virtio.
        Virtio = "virtio" | "virtio-net" | "virtio-net-pci",
        /// VMware's paravirtual card.
        Vmxnet3 = "vmxnet3" | "vmxnet",
        /// Intel 82574L.
        E1000e = "e1000e",
        /// Intel 82540EM.
        E1000 = "e1000" | "e1000-82540em",
        /// Realtek 8139.
        Rtl8139 = "rtl8139",
        /// AMD PCnet.
        Pcnet = "pcnet" | "pcnet32" | "flexible",
        /// Hyper-V's card.
        Netvsc = "netvsc" | "hyperv" | "synthetic",
    }
}

/// The address of a network card.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address written in six pairs of hexadecimal digits, with colons, hyphens or nothing between them. Not one of
    /// several cards, and not all zeros.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.bytes().filter(|b| !matches!(b, b':' | b'-' | b'.')).collect();
        if digits.len() != 12 || text.len() > 17 {
            return None;
        }
        let mut bytes = [0; 6];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        (bytes != [0; 6] && bytes[0] & 1 == 0).then_some(Self(bytes))
    }

    /// A new one in QEMU's range.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0x52, 0x54, 0, 0, 0, 0];
        for byte in &mut bytes[3..] {
            *byte = fastrand::u8(..);
        }
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_hypervisors() {
        assert_eq!(Firmware::of_name("OVMF"), Some(Firmware::Uefi));
        assert_eq!(Bus::of_name("VirtualSCSI"), Some(Bus::Pvscsi));
        assert_eq!(Bus::of_name("lsilogic"), Some(Bus::LsiParallel));
        assert_eq!(NicModel::of_name("floppy"), None);
    }

    #[test]
    fn addresses() {
        let mac = Mac::parse("00-50-56-AA-bb-01").expect("an address");
        assert_eq!(mac.to_string(), "00:50:56:aa:bb:01");
        assert_eq!(Mac::parse("005056aabb01"), Some(mac));
        for wrong in
            ["", "00:50:56:aa:bb", "01:00:5e:00:00:01", "00:00:00:00:00:00", "00:50:56:aa:bb:0g", "é:50:56:aa:bb:01"]
        {
            assert_eq!(Mac::parse(wrong), None, "{wrong}");
        }
        assert!(Mac::parse(&Mac::random().to_string()).is_some());
    }
}
