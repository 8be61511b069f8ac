//! Round trips with compressors of other origin, bounds, and what must be refused.

use lzokay::compress::compress;

use super::*;

const LIMIT: usize = 1 << 20;

/// Text, runs, noise and mixtures: every kind of instruction of the formats.
fn samples() -> Vec<Vec<u8>> {
    let mut seed = 1_u32;
    let mut noise = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    let random: Vec<u8> = (0..70_000).map(|_| noise()).collect();
    let text: Vec<u8> = b"The quick brown fox. ".iter().copied().cycle().take(65_536).collect();
    let mut samples: Vec<Vec<u8>> = (0..40).map(|len| random[..len].to_vec()).collect();
    samples.extend([text.clone(), random.clone(), vec![0; 65_536], vec![7; 300]]);
    // Repeats at every distance below and above a wide copy, and around the borders of the match kinds.
    for distance in (1..40).chain([2047, 2048, 2049, 3072, 16_383, 16_384, 16_385, 32_768, 49_000]) {
        let mut bytes = random[..distance].to_vec();
        for len in [3, 4, 8, 9, 15, 16, 17, 33, 34, 264, 265, 600] {
            let start = bytes.len() - distance;
            (0..len).for_each(|i| bytes.push(bytes[start + i]));
            bytes.extend_from_slice(&random[len..len + len % 7]);
        }
        samples.push(bytes);
    }
    samples.push([&random[..9000], &text[..9000], &vec![0; 9000], &random[4000..30_000]].concat());
    samples
}

fn with_header(id: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&id[..], &len, &[0, 0, 0, 1], data].concat()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut room = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let len = compressor.zlib_compress(bytes, &mut room).unwrap();
    room.truncate(len);
    room
}

fn pieces(bytes: &[u8]) -> Vec<(Compression, Vec<u8>)> {
    let zstd = ::zstd::bulk::compress(bytes, 3).unwrap();
    // The compressor's idea of an empty stream is refused by every decoder, its own included.
    let lzo = if bytes.is_empty() { vec![17, 0, 0] } else { compress(bytes).unwrap() };
    vec![
        (Compression::None, bytes.to_vec()),
        (Compression::Zlib, zlib(bytes)),
        (Compression::Header, with_header(b"LZOX", &lzo)),
        (Compression::Header, with_header(b"LZOY", &zstd)),
        (Compression::Header, with_header(b"GZIP", &zlib(bytes))),
        (Compression::Header, with_header(b"NONE", bytes)),
    ]
}

#[test]
fn round_trips() {
    let mut output = b"before".to_vec();
    for sample in samples() {
        for (kind, piece) in pieces(&sample) {
            decode(kind, &piece, &mut output, LIMIT).unwrap();
            assert_eq!(&output[..6], b"before");
            assert!(output[6..] == sample[..], "{kind:?}, {} bytes", sample.len());
            output.truncate(6);
        }
    }
}

#[test]
fn the_limit_is_exact_and_the_output_untouched() {
    for len in [1, 1000, USUAL_PIECE, USUAL_PIECE + 1, 300_000] {
        let sample = vec![b'x'; len];
        for (kind, piece) in pieces(&sample) {
            let mut output = Vec::new();
            decode(kind, &piece, &mut output, len).unwrap();
            assert_eq!(output.len(), len);
            let mut output = b"before".to_vec();
            let error = decode(kind, &piece, &mut output, len - 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit, "{kind:?} {len}: {error}");
            assert_eq!(output, b"before");
        }
    }
}

/// A bomb costs the limit, not what it would become.
#[test]
fn bombs_are_bounded() {
    let bomb = vec![0; 64 << 20];
    for (kind, piece) in pieces(&bomb).into_iter().filter(|(_, piece)| piece.len() < 1 << 20) {
        let mut output = Vec::new();
        assert_eq!(decode(kind, &piece, &mut output, LIMIT).unwrap_err().kind(), ErrorKind::Limit);
        assert!(output.capacity() <= 4 * LIMIT, "{kind:?} took {}", output.capacity());
    }
}

#[test]
fn every_cut_is_noticed() {
    let sample = samples().pop().unwrap();
    for (kind, piece) in pieces(&sample).into_iter().filter(|(kind, _)| *kind != Compression::None) {
        for len in (0..200).chain(piece.len() - 200..piece.len()) {
            let mut cut = piece[..len].to_vec();
            // Make the header agree, so that the decoder behind it is what notices.
            if kind == Compression::Header && len >= 12 && &piece[..4] != b"NONE" {
                cut[4..8].copy_from_slice(&u32::try_from(len - 12).unwrap().to_be_bytes());
            }
            let mut output = Vec::new();
            assert!(decode(kind, &cut, &mut output, LIMIT).is_err(), "{kind:?} cut to {len}");
            assert!(output.is_empty());
        }
    }
}

#[test]
fn headers_are_checked() {
    let good = with_header(b"NONE", b"abc");
    let header = CompressionHeader { algorithm: Algorithm::None, length: 3, level: 0 };
    assert_eq!(CompressionHeader::split(&good).unwrap(), (header, &b"abc"[..]));
    let bad = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        CompressionHeader::split(&bytes).unwrap_err().kind()
    };
    assert_eq!(bad(0, b'X'), ErrorKind::Unsupported);
    assert_eq!(bad(7, 2), ErrorKind::Damaged);
    assert_eq!(bad(7, 4), ErrorKind::Damaged);
    assert_eq!(bad(11, 2), ErrorKind::Unsupported);
}

/// The worked example of the format's description: literals, end mark; and what breaks its rules.
#[test]
fn lzo_by_hand() {
    let lzo = |stream: &[u8]| {
        let mut output = Vec::new();
        decode(Compression::Header, &with_header(b"LZOX", stream), &mut output, LIMIT).map(|()| output)
    };
    assert_eq!(lzo(&[20, b'a', b'b', b'c', 17, 0, 0]).unwrap(), b"abc");
    assert_eq!(lzo(&[17, 0, 0]).unwrap(), b"");
    // Three literals, then 6 bytes from a distance of 3: 101 sss ddd rr = length 6, distance 3.
    assert_eq!(lzo(&[20, b'a', b'b', b'c', 0b1010_1000, 0, 17, 0, 0]).unwrap(), b"abcabcabc");
    for bad in [
        &[][..],
        &[17],
        &[17, 0],
        &[17, 0, 0, 0],
        &[18, 0, 0, b'x'],
        &[20, b'a', b'b', b'c', 0b1010_1100, 0, 17, 0, 0],
        &[0, 0, 0, 0],
        &[20, b'a', b'b'],
    ] {
        assert_eq!(lzo(bad).unwrap_err().kind(), ErrorKind::Damaged, "{bad:?}");
    }
}
