//! The architecture of a program, by its ELF header.

use blockdev::fields::{be16, le16};

/// Bytes of the header that are looked at.
pub const HEAD: usize = 20;

/// The architecture of the program that begins with `head`, as `uname -m` says on Linux; `None` when it is no program.
pub fn architecture(head: &[u8]) -> Option<&'static str> {
    if head.len() < HEAD || !head.starts_with(b"\x7fELF") {
        return None;
    }
    let is_64 = head.get(4) == Some(&2);
    let is_le = head.get(5) == Some(&1);
    let machine = if is_le { le16(head, 18) } else { be16(head, 18) };
    // Numbers of the generic ABI's list of machines.
    Some(match (machine, is_64, is_le) {
        (3, ..) => "i686",
        (62, ..) => "x86_64",
        (183, _, true) => "aarch64",
        (183, _, false) => "aarch64_be",
        (40, ..) => "arm",
        (20, ..) => "ppc",
        (21, _, true) => "ppc64le",
        (21, _, false) => "ppc64",
        (22, true, _) => "s390x",
        (22, false, _) => "s390",
        (243, true, _) => "riscv64",
        (243, false, _) => "riscv32",
        (258, ..) => "loongarch64",
        (8, true, true) => "mips64el",
        (8, true, false) => "mips64",
        (8, false, true) => "mipsel",
        (8, false, false) => "mips",
        (2, ..) => "sparc",
        (43, ..) => "sparc64",
        (50, ..) => "ia64",
        (0x9026, ..) => "alpha",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(class: u8, order: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut head = b"\x7fELF".to_vec();
        head.extend([class, order]);
        head.resize(18, 0);
        head.extend(machine);
        head
    }

    #[test]
    fn architectures_are_told() {
        assert_eq!(architecture(&head(2, 1, [62, 0])), Some("x86_64"));
        assert_eq!(architecture(&head(2, 1, [21, 0])), Some("ppc64le"));
        assert_eq!(architecture(&head(2, 2, [0, 21])), Some("ppc64"));
        assert_eq!(architecture(&head(2, 2, [0, 22])), Some("s390x"));
        assert_eq!(architecture(&head(2, 1, [0xff, 0xff])), None);
        assert_eq!(architecture(&head(2, 1, [62, 0])[..19]), None);
        assert_eq!(architecture(b"#!/bin/busybox ash\nexit"), None);
    }
}
