//! Real payloads, broken at random: no decoder panics, takes more memory than its bound, or does not come back.
//!
//! The randomness is seeded, so a failure comes back too. `cargo xtask fuzz` goes further; this runs always.

mod common;

#[path = "../../tests/src/random.rs"]
mod random;

use std::time::{Duration, Instant};

use common::{case, records};
use random::Random;
use volreader::{
    ErrorKind, Result, acl, codec,
    codec::win32::Demuxer,
    crypto::{pki::KeyRing, signature::SignedDigest, volume::VolumeKey},
    plugin::{PluginName, PluginObject, RestoreObject},
    stream::{Compression, StreamId, StreamKind},
    xattr,
};

/// Far above what any of the inputs here needs, far below what hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// `bytes` with one to four things wrong: flipped bits, extreme bytes, a cut, a repeated or a removed part.
fn broken(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.index(4) {
        // Half of the time near the front, where headers are.
        let reach = if random.index(2) == 0 { bytes.len() } else { bytes.len().min(48) };
        let at = random.index(reach);
        match random.index(6) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << random.index(8),
            2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.index(5)],
            3 => bytes.truncate(random.index(bytes.len() + 1)),
            4 => {
                let part = bytes[at..bytes.len().min(at + 1 + random.index(64))].to_vec();
                bytes.splice(at..at, part);
            }
            _ => drop(bytes.drain(at..bytes.len().min(at + random.index(64)))),
        }
    }
    bytes
}

/// Feed `rounds` broken variants of each of `seeds` to `decoder`, which says how many bytes it holds, and
/// compare that with `bound(input length)`. Some have to be refused, else nothing was tried.
fn torture(
    what: &str,
    seeds: &[Vec<u8>],
    rounds: usize,
    bound: impl Fn(usize) -> usize,
    mut decoder: impl FnMut(&[u8]) -> Result<usize>,
) {
    assert!(!seeds.is_empty(), "{what}: nothing to break");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut refused = 0;
    for _ in 0..rounds {
        let seed = &seeds[random.index(seeds.len())];
        let input = broken(seed, &mut random);
        let start = Instant::now();
        match decoder(&input) {
            Ok(held) => assert!(held <= bound(input.len()), "{what}: {held} bytes from {}", input.len()),
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(text.len() < 1000 && !text.contains('\n'), "{what}: {text}");
            }
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {:?} for {} bytes", start.elapsed(), input.len());
    }
    assert!(refused > rounds / 20, "{what}: only {refused} of {rounds} refused");
}

/// Payloads of the streams that `wanted` picks, in the named cases.
fn payloads(cases: &[&str], wanted: impl Fn(StreamKind) -> bool) -> Vec<Vec<u8>> {
    let records = cases.iter().filter_map(|name| case(name)).flat_map(|case| records(&case, None));
    records.filter(|record| wanted(StreamId::from_header(record.stream).kind())).map(|record| record.payload).collect()
}

const LIMIT: usize = 65536;

fn decode(kind: Compression, piece: &[u8]) -> Result<usize> {
    let mut output = Vec::new();
    let result = codec::decode(kind, piece, &mut output, LIMIT);
    assert!(output.capacity() <= 2 * LIMIT && (result.is_ok() || output.is_empty()));
    result.map(|()| output.len())
}

fn data_of(compression: Compression) -> impl Fn(StreamKind) -> bool {
    move |kind| matches!(kind, StreamKind::Data(data) if data.compression == compression && !data.encrypted)
}

/// A broken header would be refused before its decoder is reached: make the length agree again.
fn repair_header(piece: &mut [u8], id: [u8; 4]) {
    let len = piece.len().saturating_sub(12) as u32;
    if let Some(header) = piece.first_chunk_mut::<12>() {
        header[..4].copy_from_slice(&id);
        header[4..8].copy_from_slice(&len.to_be_bytes());
        header[8..].copy_from_slice(&[0, 0, 0, 1]);
    }
}

#[test]
fn zlib() {
    let seeds = payloads(&["r15-gzip"], data_of(Compression::Zlib));
    torture("zlib", &seeds, 10_000, |_| LIMIT, |input| decode(Compression::Zlib, input));
}

#[test]
fn lzo() {
    let seeds = payloads(&["r15-lzo-xxhash64"], data_of(Compression::Header));
    torture(
        "LZO",
        &seeds,
        3000,
        |_| LIMIT,
        |input| {
            let mut piece = input.to_vec();
            repair_header(&mut piece, *b"LZOX");
            decode(Compression::Header, &piece)
        },
    );
    torture("compression header", &seeds, 1000, |_| LIMIT, |input| decode(Compression::Header, input));
}

/// What two decoders of different origin make of broken LZO data: the same bytes, or both refuse.
#[test]
fn lzo_agrees_with_another_decoder() {
    let seeds = payloads(&["r15-lzo-xxhash64"], data_of(Compression::Header));
    let (mut random, mut both) = (Random(42), 0);
    for round in 0..10_000 {
        let seed = &seeds[random.index(seeds.len())];
        let mut piece = broken(seed, &mut random);
        repair_header(&mut piece, *b"LZOX");
        let mut ours = Vec::new();
        let result = codec::decode(Compression::Header, &piece, &mut ours, LIMIT);
        let mut room = vec![0; LIMIT];
        let theirs = lzokay::decompress::decompress(piece.get(12..).unwrap_or_default(), &mut room);
        match (result, theirs) {
            (Ok(()), Ok(len)) => {
                assert!(ours == room[..len], "round {round}");
                both += 1;
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!("round {round}: {ours:?}, {theirs:?}"),
        }
    }
    assert!(both > 100, "only {both} were still valid");
}

#[test]
fn zstandard() {
    let mut seeds = payloads(&["sha256"], data_of(Compression::None));
    for seed in &mut seeds {
        *seed = [vec![0; 12], zstd::bulk::compress(seed, 3).unwrap()].concat();
    }
    torture(
        "Zstandard",
        &seeds,
        3000,
        |_| LIMIT,
        |input| {
            let mut piece = input.to_vec();
            repair_header(&mut piece, *b"LZOY");
            decode(Compression::Header, &piece)
        },
    );
}

#[test]
fn backup_read() {
    let stream = |id: u8, name: &str, len: u8| {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let head = [id, 0, 0, 0, 0, 0, 0, 0, len, 0, 0, 0, 0, 0, 0, 0, name.len() as u8, 0, 0, 0];
        [&head[..], &name, &vec![7; usize::from(len)]].concat()
    };
    let seed = [stream(3, "", 40), stream(1, "", 200), stream(9, "", 50), stream(4, ":a:$DATA", 9)].concat();
    torture(
        "BackupRead",
        &[seed],
        20_000,
        |len| 64 * len,
        |input| {
            let (mut demuxer, mut held) = (Demuxer::new(), 0);
            for part in input.chunks(7) {
                demuxer.feed(part, |found| {
                    assert!(found.position.checked_add(found.len).is_some());
                    held += size_of_val(&found) + found.name.capacity();
                })?;
            }
            demuxer.finish().map(|()| held)
        },
    );
}

#[test]
fn attributes_and_acls() {
    struct Everybody;
    impl acl::Names for Everybody {
        fn user(&self, name: &[u8]) -> Option<u32> {
            Some(name.len() as u32)
        }
        fn group(&self, name: &[u8]) -> Option<u32> {
            Some(name.len() as u32)
        }
    }
    let xattrs = payloads(&["xattr-acl"], |kind| matches!(kind, StreamKind::Xattr(_)));
    torture(
        "extended attributes",
        &xattrs,
        10_000,
        |len| 8 * len,
        |input| {
            let parsed = xattr::parse(input)?;
            Ok(parsed.iter().map(|(name, value)| 48 + name.capacity() + value.capacity()).sum())
        },
    );
    let acls = payloads(&["xattr-acl"], |kind| matches!(kind, StreamKind::Acl(_)));
    torture(
        "ACL",
        &acls,
        10_000,
        |len| 8 * len + 48,
        |input| Ok(acl::parse(input, &Everybody)?.to_kernel().capacity()),
    );
}

#[test]
fn plugin_records() {
    let names = payloads(&["bpipe"], |kind| kind == StreamKind::PluginName);
    torture(
        "plugin name",
        &names,
        10_000,
        |len| len,
        |input| {
            Ok(match PluginName::parse(input)? {
                PluginName::Start { command, .. } => command.capacity(),
                PluginName::End => 0,
            })
        },
    );
    let mut objects = payloads(&["r15-cancelled"], |kind| kind == StreamKind::RestoreObject);
    // The same kind of record, compressed.
    let packed = [&b"3 27 1 27 70000 1 p\0n\0"[..], &zlib_of(&[0; 70_000])].concat();
    objects.push(packed);
    torture(
        "restore object",
        &objects,
        10_000,
        |len| len + (1 << 20),
        |input| {
            let object = RestoreObject::parse(input)?;
            Ok(object.content()?.capacity() + object.name.capacity() + object.plugin.capacity())
        },
    );
    let object = b"/@vm/a\x01b/ plug Virtual\x01Machine VM my\x01vm host uuid-1 42 T 3\0".to_vec();
    torture(
        "plugin object",
        &[object],
        10_000,
        |len| 2 * len,
        |input| PluginObject::parse(input).map(|object| object.path.capacity() + object.name.capacity()),
    );
}

fn zlib_of(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut room = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let len = compressor.zlib_compress(bytes, &mut room).unwrap();
    room.truncate(len);
    room
}

#[test]
fn keys_and_signatures() {
    let Some(case) = case("pki-lzo") else { return };
    let pem = std::fs::read(case.join("keys/fd.pem")).unwrap();
    let mut ring = KeyRing::new();
    ring.add_pem(&pem).unwrap();

    let sessions = payloads(&["pki-lzo"], |kind| kind == StreamKind::SessionData);
    // Without a key only the parsing is tried, thousands of times; with one, RSA takes its time.
    torture(
        "session data",
        &sessions,
        10_000,
        |_| 0,
        |input| {
            let error = KeyRing::new().session_key(input).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Locked | ErrorKind::Damaged | ErrorKind::Unsupported), "{error}");
            Err(error)
        },
    );
    torture("session data with a key", &sessions, 100, |_| 0, |input| ring.session_key(input).map(|_| 0));

    let signatures = payloads(&["pki-lzo"], |kind| kind == StreamKind::SignedDigest);
    torture(
        "signed digest",
        &signatures,
        1000,
        |_| 0,
        |input| {
            let signed = SignedDigest::parse(input)?;
            signed.verify(&ring, &vec![0; signed.algorithm().value_len()]).map(|_| 0)
        },
    );

    torture("PEM", &[pem], 200, |_| 0, |input| KeyRing::new().add_pem(input).map(|()| 0));
}

#[test]
fn volume_keys() {
    let Some(case) = case("r15-volume-encryption-256") else { return };
    let seed = std::fs::read(case.join("keys/volumes/job-0001")).unwrap();
    torture("volume key", &[seed], 10_000, |_| 0, |input| VolumeKey::parse(input).map(|_| 0));
}
