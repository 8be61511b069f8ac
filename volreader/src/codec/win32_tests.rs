//! Streams made by hand after the documented layout (no Windows volume is at hand), cut everywhere.

use blockdev::ErrorKind;

use super::*;

fn stream(id: u32, attributes: u32, name: &str, payload: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut bytes = Vec::new();
    bytes.extend(id.to_le_bytes());
    bytes.extend(attributes.to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
    bytes.extend(name);
    bytes.extend(payload);
    bytes
}

fn sparse_block(offset: u64, data: &[u8]) -> Vec<u8> {
    stream(9, 8, "", &[&offset.to_le_bytes()[..], data].concat())
}

/// Payload, name, offset and bytes.
type Expected = (Payload, &'static str, u64, &'static [u8]);

/// A file with all there is, and what has to be found in it.
fn file() -> (Vec<u8>, Vec<Expected>) {
    let bytes = [
        stream(3, 2, "", b"security"),
        stream(1, 8, "", b"main data"),
        sparse_block(65_536, b"block"),
        sparse_block(1 << 40, b""),
        stream(4, 0, ":Zone.Identifier:$DATA", b"[ZoneTransfer]"),
        stream(4, 8, ":schön:$DATA", b""),
        sparse_block(4096, "of schön".as_bytes()),
        stream(2, 0, "", b"ea"),
        stream(7, 0, "", &[9; 64]),
        stream(8, 0, "", b"reparse"),
        stream(77, 0, "", b"?"),
    ]
    .concat();
    let found = vec![
        (Payload::SecurityDescriptor, "", 0, &b"security"[..]),
        (Payload::Main, "", 0, b"main data"),
        (Payload::Main, "", 65_536, b"block"),
        (Payload::Main, "", 1 << 40, b""),
        (Payload::Alternate, "Zone.Identifier", 0, b"[ZoneTransfer]"),
        (Payload::Alternate, "schön", 0, b""),
        (Payload::Alternate, "schön", 4096, "of schön".as_bytes()),
        (Payload::ExtendedAttributes, "", 0, b"ea"),
        (Payload::ObjectId, "", 0, &[9; 64]),
        (Payload::ReparsePoint, "", 0, b"reparse"),
        (Payload::Unknown(77), "", 0, b"?"),
    ];
    (bytes, found)
}

fn check(bytes: &[u8], found: &[Found]) {
    let actual: Vec<_> = found
        .iter()
        .map(|found| {
            let (start, len) = (found.position as usize, found.len as usize);
            (found.payload, str::from_utf8(&found.name).unwrap(), found.offset, &bytes[start..start + len])
        })
        .collect();
    assert_eq!(actual, file().1);
}

#[test]
fn found_however_it_is_cut() {
    let (bytes, _) = file();
    for size in (1..60).chain([bytes.len()]) {
        let (mut demuxer, mut found) = (Demuxer::new(), Vec::new());
        for part in bytes.chunks(size) {
            demuxer.feed(part, |event| found.push(event)).unwrap();
        }
        demuxer.finish().unwrap();
        check(&bytes, &found);
    }
}

/// Payload that is skipped is never looked at, and headers alone suffice.
#[test]
fn found_when_payload_is_skipped() {
    let (bytes, _) = file();
    let (mut demuxer, mut found, mut fed) = (Demuxer::new(), Vec::new(), 0);
    while (demuxer.position() as usize) < bytes.len() {
        match demuxer.skippable() {
            0 => {
                let at = demuxer.position() as usize;
                fed += 1;
                demuxer.feed(&bytes[at..=at], |event| found.push(event)).unwrap();
            }
            skippable => demuxer.skip(skippable).unwrap(),
        }
    }
    demuxer.finish().unwrap();
    check(&bytes, &found);
    let payload: usize = found.iter().map(|found| found.len as usize).sum();
    assert_eq!(fed + payload, bytes.len());
}

#[test]
fn skipping_into_a_header_is_refused() {
    let mut demuxer = Demuxer::new();
    assert_eq!(demuxer.skip(1).unwrap_err().kind(), ErrorKind::Invalid);
    demuxer.feed(&stream(1, 0, "", b"abc")[..20], |_| {}).unwrap();
    assert_eq!(demuxer.skippable(), 3);
    assert!(demuxer.skip(4).is_err());
    demuxer.skip(3).unwrap();
    demuxer.finish().unwrap();
}

#[test]
fn every_early_end_is_noticed() {
    let (bytes, _) = file();
    let complete = (1..bytes.len()).filter(|&len| {
        let mut demuxer = Demuxer::new();
        demuxer.feed(&bytes[..len], |_| {}).unwrap();
        demuxer.finish().is_ok()
    });
    // Ten places between its eleven streams.
    assert_eq!(complete.count(), 10);
}

#[test]
fn impossible_headers_are_refused() {
    let mut long_name = stream(4, 0, &"n".repeat(1024), b"");
    assert!(Demuxer::new().feed(&long_name, |_| {}).is_ok());
    long_name[17] += 1;
    let mut odd_name = stream(4, 0, "name", b"");
    odd_name[16] -= 1;
    let mut short_block = sparse_block(0, b"");
    short_block[8] = 7;
    let mut huge = stream(1, 0, "", b"");
    huge[8..16].fill(0xff);
    let far = sparse_block(u64::MAX - 3, b"12345678");
    for (what, bytes) in [("long", long_name), ("odd", odd_name), ("block", short_block), ("huge", huge), ("far", far)]
    {
        let error = Demuxer::new().feed(&bytes, |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{what}");
        assert!(error.to_string().contains("header at 0"), "{error}");
    }
}

/// Names need not be valid UTF-16, and different names stay different.
#[test]
fn lone_surrogates_are_kept_apart() {
    let name = |unit: u16| stream_name(&unit.to_le_bytes());
    assert_eq!(name(0xd800), b"\xed\xa0\x80");
    assert_ne!(name(0xd800), name(0xd801));
}
