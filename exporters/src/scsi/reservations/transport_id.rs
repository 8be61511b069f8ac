//! Names of initiator ports as TransportIDs (SPC-4 7.6.4.6).

use blockdev::fields::{be16, slice};

/// Format 01b (name and session), protocol iSCSI.
const PORT: u8 = 0x45;

/// The TransportID of a port `NAME,i,0xISID`: padded with NULs to a multiple of four bytes, of which there are at least 20.
pub(super) fn encode(port: &str) -> Vec<u8> {
    let mut name = port.as_bytes().to_vec();
    name.push(0);
    name.resize(name.len().next_multiple_of(4).max(20), 0);
    let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![PORT, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend(name);
    bytes
}

/// The port that a TransportID names; `None` when it names none, or a whole initiator.
pub(super) fn decode(bytes: &[u8]) -> Option<String> {
    if bytes.first() != Some(&PORT) {
        return None;
    }
    let length = usize::from(be16(bytes, 2));
    if length % 4 != 0 || length < 20 || bytes.len() != length + 4 {
        return None;
    }
    let name = slice(bytes, 4, length).split(|byte| *byte == 0).next()?;
    let name = std::str::from_utf8(name).ok()?;
    let (initiator, session) = name.split_once(",i,0x")?;
    (!initiator.is_empty() && session.len() == 12).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let port = "iqn.2026-01.example:a,i,0x00023d000001";
        let bytes = encode(port);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(decode(&bytes).as_deref(), Some(port));
        assert_eq!(decode(&bytes[..20]), None);
        assert_eq!(decode(b"\x05\0\0\x14iqn.2026-01.example\0"), None, "all ports of an initiator");
    }
}
