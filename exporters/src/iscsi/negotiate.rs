//! What both sides agree on at login (RFC 7143 section 13).

use super::{
    limits::Limits,
    text::{self, Text},
};

/// What was agreed on.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    /// Longest data segment that the initiator takes.
    pub(crate) send_segment: usize,
    pub(crate) max_connections: u16,
    pub(crate) initial_r2t: bool,
    pub(crate) immediate_data: bool,
    pub(crate) max_burst: usize,
    pub(crate) first_burst: usize,
}

impl Parameters {
    /// What is true when nobody says anything.
    pub(crate) const DEFAULT: Self = Self {
        header_digest: false,
        data_digest: false,
        send_segment: 8192,
        max_connections: 1,
        initial_r2t: true,
        immediate_data: true,
        max_burst: 262_144,
        first_burst: 65536,
    };

    /// Take a key of the initiator and answer it. `false` when it makes no sense.
    pub(crate) fn negotiate(&mut self, key: &str, value: &str, limits: &Limits, out: &mut Text) -> bool {
        match key {
            "HeaderDigest" => self.header_digest = choose_digest(key, value, out),
            "DataDigest" => self.data_digest = choose_digest(key, value, out),
            "MaxRecvDataSegmentLength" => match segment(value) {
                // It is told, and not negotiated.
                Some(length) => self.send_segment = length.min(limits.segment.max(8192)) as usize,
                None => return false,
            },
            "MaxBurstLength" => match segment(value) {
                Some(length) => self.max_burst = lesser(key, length, limits.burst, out) as usize,
                None => return false,
            },
            "FirstBurstLength" => match segment(value) {
                Some(length) => self.first_burst = lesser(key, length, limits.first_burst, out) as usize,
                None => return false,
            },
            "MaxConnections" => match text::number(value) {
                Some(number @ 1..=65535) => {
                    let agreed = lesser(key, number, limits.session_connections.into(), out);
                    self.max_connections = u16::try_from(agreed).unwrap_or(1);
                }
                _ => return false,
            },
            // Yes of either side is yes; this side says no.
            "InitialR2T" => match boolean(value) {
                Some(yes) => {
                    self.initial_r2t = yes;
                    out.add(key, yes_or_no(yes));
                }
                None => return false,
            },
            // Yes of both sides is yes; this side says yes.
            "ImmediateData" => match boolean(value) {
                Some(yes) => {
                    self.immediate_data = yes;
                    out.add(key, yes_or_no(yes));
                }
                None => return false,
            },
            // Yes of either side is yes, which is what this side says.
            "DataPDUInOrder" | "DataSequenceInOrder" => match boolean(value) {
                Some(_) => out.add(key, "Yes"),
                None => return false,
            },
            "DefaultTime2Wait" => match text::number(value) {
                Some(seconds @ 0..=3600) => out.add(key, seconds),
                _ => return false,
            },
            // A session that has lost its connections is gone.
            "DefaultTime2Retain" => match text::number(value) {
                Some(0..=3600) => out.add(key, 0),
                _ => return false,
            },
            "ErrorRecoveryLevel" => match text::number(value) {
                Some(0..=2) => out.add(key, 0),
                _ => return false,
            },
            "MaxOutstandingR2T" => match text::number(value) {
                Some(1..=65535) => out.add(key, 1),
                _ => return false,
            },
            "iSCSIProtocolLevel" => match text::number(value) {
                Some(level) => out.add(key, level.min(1)),
                None => return false,
            },
            // Markers went with RFC 7143.
            "OFMarker" | "IFMarker" | "RDMAExtensions" => out.add(key, "No"),
            "OFMarkInt" | "IFMarkInt" => out.add(key, "Irrelevant"),
            "TaskReporting" => out.add(key, "RFC3720"),
            _ => out.add(key, "NotUnderstood"),
        }
        true
    }

    /// What follows once all was said.
    pub(crate) fn settle(&mut self) {
        self.first_burst = self.first_burst.min(self.max_burst);
    }
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "Yes" } else { "No" }
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// A length from 512 to 2^24 - 1 bytes.
fn segment(value: &str) -> Option<u32> {
    text::number(value).filter(|length| (512..1 << 24).contains(length))
}

/// The lesser number is agreed on.
fn lesser(key: &str, theirs: u32, ours: u32, out: &mut Text) -> u32 {
    let agreed = theirs.min(ours);
    out.add(key, agreed);
    agreed
}

/// The initiator's first choice that is known here. Returns whether there will be digests.
fn choose_digest(key: &str, list: &str, out: &mut Text) -> bool {
    let chosen = list.split(',').find(|name| matches!(*name, "CRC32C" | "None"));
    out.add(key, chosen.unwrap_or("Reject"));
    chosen == Some("CRC32C")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(key: &str, value: &str) -> Option<String> {
        let mut out = Text::default();
        let fine = Parameters::DEFAULT.clone().negotiate(key, value, &Limits::default(), &mut out);
        fine.then(|| String::from_utf8(out.into_bytes()).unwrap())
    }

    #[test]
    fn answers() {
        for (key, value, expected) in [
            ("HeaderDigest", "CRC32C,None", "HeaderDigest=CRC32C\0"),
            ("HeaderDigest", "None,CRC32C", "HeaderDigest=None\0"),
            ("DataDigest", "X-own", "DataDigest=Reject\0"),
            ("InitialR2T", "No", "InitialR2T=No\0"),
            ("ImmediateData", "Yes", "ImmediateData=Yes\0"),
            ("MaxBurstLength", "16776192", "MaxBurstLength=4194304\0"),
            ("FirstBurstLength", "0x10000", "FirstBurstLength=65536\0"),
            ("MaxRecvDataSegmentLength", "65536", ""),
            ("ErrorRecoveryLevel", "2", "ErrorRecoveryLevel=0\0"),
            ("X-com.example", "?", "X-com.example=NotUnderstood\0"),
        ] {
            assert_eq!(answer(key, value).as_deref(), Some(expected));
        }
        for (key, value) in [("MaxBurstLength", "0"), ("InitialR2T", "Maybe"), ("MaxConnections", "-1")] {
            assert_eq!(answer(key, value), None, "{key}={value}");
        }
    }
}
