//! Every decoder against what stock Bacula wrote: content, digests and signatures of whole cases, compared with
//! manifests that were made from the original files.

mod common;

use std::{collections::HashSet, path::Path};

use common::{Record, StoredFile, case, files, manifest};
use sha2::{Digest, Sha256};
use volreader::{
    codec,
    crypto::{
        pki::{KeyRing, padding_len},
        signature::{SignedDigest, Verdict},
        volume::{BlockIdentity, VolumeKey},
    },
    digest::Hasher,
    stream::{DataKind, StreamId, StreamKind},
};

/// Bacula's buffer: no piece decodes to more.
const PIECE: usize = 65536;

/// Streams that were met, and what was compared.
#[derive(Default)]
struct Seen {
    kinds: HashSet<StreamKind>,
    contents: usize,
    digests: usize,
    signatures: usize,
}

/// Content as restored, and the bytes that digests cover.
fn content(file: &StoredFile, ring: &KeyRing) -> (Vec<u8>, Vec<u8>) {
    let data: Vec<(DataKind, &[u8])> = file.records.iter().filter_map(data_record).collect();
    let Some(&(kind, _)) = data.first() else { return Default::default() };
    let mut pieces: Vec<(Option<u64>, Vec<u8>)> = Vec::new();
    if kind.encrypted {
        let session = file.records.iter().find(|record| record.stream == 22).expect("stream 22 precedes the data");
        let key = ring.session_key(&session.payload).unwrap();
        let mut stream: Vec<u8> = data.iter().flat_map(|(_, payload)| payload.iter().copied()).collect();
        // In two parts, the second one first, as a random-access reader would.
        let middle = stream.len() / 32 * 16;
        let before = if middle == 0 { *key.iv() } else { stream[middle - 16..middle].try_into().unwrap() };
        let (start, end) = stream.split_at_mut(middle);
        key.decrypt(&before, end).unwrap();
        key.decrypt(key.iv(), start).unwrap();
        stream.truncate(stream.len() - padding_len(&stream).unwrap());
        let mut rest = &stream[..];
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let (piece, after) = after.split_at(u32::from_be_bytes(*len) as usize);
            pieces.push((None, piece.to_vec()));
            rest = after;
        }
        assert!(rest.is_empty());
    } else {
        for (kind, payload) in data {
            let (offset, piece) = payload.split_at(kind.offset_len());
            let offset = offset.try_into().map(u64::from_be_bytes).ok().filter(|_| kind.sparse);
            pieces.push((offset, piece.to_vec()));
        }
    }
    let (mut whole, mut covered) = (Vec::new(), Vec::new());
    for (offset, piece) in pieces {
        let start = covered.len();
        codec::decode(kind.compression, &piece, &mut covered, PIECE).unwrap();
        if let Some(offset) = offset {
            whole.resize(offset as usize, 0);
        }
        whole.extend_from_slice(&covered[start..]);
    }
    (whole, covered)
}

fn data_record(record: &Record) -> Option<(DataKind, &[u8])> {
    match StreamId::from_header(record.stream).kind() {
        StreamKind::Data(kind) => Some((kind, &record.payload)),
        _ => None,
    }
}

fn check(case: &Path, ring: &KeyRing, cipher: Option<common::BlockCipher<'_>>) -> Seen {
    let manifest = manifest(case, 0);
    let mut seen = Seen::default();
    let mut missing: HashSet<_> = manifest.iter().filter(|(_, e)| e["sha256"].is_string()).map(|(p, _)| p).collect();
    for file in files(case, cipher) {
        let name = file.name.escape_ascii().to_string();
        seen.kinds.extend(file.records.iter().map(|record| StreamId::from_header(record.stream).kind()));
        let (whole, covered) = content(&file, ring);
        // A hard link to a file stored before has no data of its own, only perhaps its digest.
        let has_data = file.records.iter().any(|record| data_record(record).is_some());
        let entry = manifest.get(&file.name).unwrap_or_else(|| panic!("{name} is not in the manifest"));
        let empty = entry["size"].as_u64() == Some(0);
        if let Some(expected) = entry["sha256"].as_str().filter(|_| has_data || empty) {
            let actual: String = Sha256::digest(&whole).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(actual, expected, "{name}: {} bytes", whole.len());
            seen.contents += 1;
            missing.remove(&file.name);
        }
        for record in file.records.iter().filter(|_| has_data || empty) {
            match StreamId::from_header(record.stream).kind() {
                StreamKind::Digest(algorithm) => {
                    let mut hasher = Hasher::new(algorithm);
                    covered.chunks(1000).for_each(|part| hasher.update(part));
                    assert_eq!(hasher.finish(), record.payload, "{algorithm} of {name}");
                    seen.digests += 1;
                }
                StreamKind::SignedDigest => {
                    let signed = SignedDigest::parse(&record.payload).unwrap();
                    let mut hasher = Hasher::new(signed.algorithm());
                    hasher.update(&covered);
                    let mut digest = hasher.finish();
                    assert_eq!(signed.verify(ring, &digest).unwrap(), Verdict::Valid, "{name}");
                    digest[7] ^= 1;
                    assert_eq!(signed.verify(ring, &digest).unwrap(), Verdict::Wrong, "{name}");
                    assert_eq!(signed.verify(&KeyRing::new(), &digest).unwrap(), Verdict::NoKey, "{name}");
                    seen.signatures += 1;
                }
                _ => {}
            }
        }
    }
    assert!(missing.is_empty(), "never seen: {missing:?}");
    assert!(seen.contents > 0);
    seen
}

/// Check case `name` with no keys; the named streams have to be in it.
fn plain_case(name: &str, streams: &[i32]) {
    let Some(case) = case(name) else { return };
    let seen = check(&case, &KeyRing::new(), None);
    for &stream in streams {
        let kind = StreamId::from_header(stream).kind();
        assert!(seen.kinds.contains(&kind), "{name} has no {kind}");
    }
    assert!(seen.digests > 0, "{name}");
}

/// Check case `name` with each of its key pairs; returns what was seen with the last.
fn pki_case(name: &str, streams: &[i32]) {
    let Some(case) = case(name) else { return };
    for key in ["fd.pem", "master.pem"] {
        let (fd, key) = (case.join("keys/fd.pem"), case.join("keys").join(key));
        // The signer is always the FD; its certificate alone does not decrypt.
        let mut ring = KeyRing::from_pem_files(&[key]).unwrap();
        let fd = std::fs::read(fd).unwrap();
        let end = fd.windows(13).position(|window| window == b"BEGIN PRIVATE").unwrap() - 5;
        ring.add_pem(&fd[..end]).unwrap();
        let seen = check(&case, &ring, None);
        for &stream in streams {
            let kind = StreamId::from_header(stream).kind();
            assert!(seen.kinds.contains(&kind), "{name} has no {kind}");
        }
        assert!(seen.signatures > 0, "{name}");
    }
}

fn encrypted_volume_case(name: &str) {
    let Some(case) = case(name) else { return };
    let key = std::fs::read(case.join("keys/volumes/job-0001")).unwrap();
    let key = VolumeKey::parse(&key).unwrap();
    let seen = check(
        &case,
        &KeyRing::new(),
        Some(&|[number, session_id, session_time], bytes| {
            let block = BlockIdentity { number, session_id, session_time };
            // By parts first, unaligned ones, then the whole: they have to agree.
            let total = bytes.len();
            let parts: Vec<_> = [0..12, 5..37, 100..101, total / 2..total / 2 + 70, total - 3..total, 0..total]
                .into_iter()
                .map(|wanted| wanted.start.min(total)..wanted.end.min(total))
                .map(|wanted| VolumeKey::decryptable(wanted, total))
                .map(|range| {
                    let mut part = bytes[range.clone()].to_vec();
                    key.decrypt_range(block, range.start, total, &mut part).unwrap();
                    (range, part)
                })
                .collect();
            key.decrypt_block(block, bytes).unwrap();
            for (range, part) in parts {
                assert_eq!(part, bytes[range.clone()], "{range:?} of {total}");
            }
        }),
    );
    assert!(seen.digests > 0);
}

#[test]
fn gzip() {
    plain_case("gzip6", &[4, 3]);
    plain_case("r15-gzip", &[4, 41]);
}

#[test]
fn lzo() {
    plain_case("lzo", &[29]);
    plain_case("r15-lzo-xxhash64", &[29, 39]);
}

#[test]
fn sparse() {
    plain_case("sparse", &[6]);
    plain_case("sparse-gzip", &[7]);
    plain_case("sparse-lzo", &[30]);
}

#[test]
fn digests() {
    plain_case("plain", &[3]);
    plain_case("sha1", &[10]);
    plain_case("sha256", &[17]);
    plain_case("sha512", &[18]);
}

#[test]
fn encrypted_files() {
    pki_case("pki", &[20, 22, 19]);
    pki_case("pki-gzip", &[23]);
    pki_case("pki-lzo", &[32]);
    pki_case("pki-aes256", &[20]);
    pki_case("r15-pki", &[20]);
}

#[test]
fn signed_files() {
    pki_case("pki-sign-only", &[2, 19]);
}

#[test]
fn encrypted_volumes() {
    encrypted_volume_case("r15-volume-encryption-128");
    encrypted_volume_case("r15-volume-encryption-256");
}
