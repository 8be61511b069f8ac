//! Published vectors (IEEE 1619, annex B). Real volumes of both ciphers are in `tests/decoders.rs`.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn key(cipher: &str, hex: &str) -> VolumeKey {
    let text = format!("comment: a: b\ncipher: {cipher}\ncipher_key: {}\r\n", Base64::encode_string(&bytes(hex)));
    VolumeKey::parse(text.as_bytes()).unwrap()
}

const ZERO: BlockIdentity = BlockIdentity { number: 0, session_id: 0, session_time: 0 };

#[test]
fn whole_units() {
    let key = key("AES_128_XTS", &"00".repeat(32));
    let mut data = bytes("917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e");
    key.decrypt_block(ZERO, &mut data).unwrap();
    assert_eq!(data, [0; 32]);
}

/// Vectors 15 to 18: 17 to 20 bytes, tweak 9a78563412 as a little-endian number.
#[test]
fn ciphertext_stealing() {
    let key = key("AES_128_XTS", "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0bfbebdbcbbbab9b8b7b6b5b4b3b2b1b0");
    let block = BlockIdentity { number: 0x9a78_5634, session_id: 0x1200_0000, session_time: 0 };
    for vector in [
        "6c1625db4671522d3d7599601de7ca09ed",
        "d069444b7a7e0cab09e24447d24deb1fedbf",
        "e5df1351c0544ba1350b3363cd8ef4beedbf9d",
        "9d84c813f719aa2c7be3f66171c7c5c2edbf9dac",
    ] {
        let mut data = bytes(vector);
        key.decrypt_block(block, &mut data).unwrap();
        assert!(data.iter().copied().eq(0..data.len() as u8), "{data:02x?}");
    }
}

/// Any range of any length gives what the whole gives, and is as small as promised.
#[test]
fn ranges_agree_with_the_whole() {
    let key = key("AES_256_XTS", &"0123456789abcdef".repeat(8));
    let block = BlockIdentity { number: 7, session_id: 3, session_time: 1_795_237_634 };
    for total in [16, 17, 31, 32, 33, 47, 48, 1040, 1041, 3000] {
        let cipher: Vec<u8> = (0..total).map(|i| (i * 7 + i / 256) as u8).collect();
        let mut whole = cipher.clone();
        key.decrypt_block(block, &mut whole).unwrap();
        for start in (0..total).step_by(1 + total / 40) {
            for end in (start..=total).step_by(1 + total / 40) {
                let range = VolumeKey::decryptable(start..end, total);
                assert!(range.start <= start && range.end >= end && range.end <= total);
                assert!(start - range.start <= 31 && range.end - end <= 31, "{range:?} for {start}..{end}");
                let mut part = cipher[range.clone()].to_vec();
                key.decrypt_range(block, range.start, total, &mut part).unwrap();
                assert_eq!(part, whole[range], "{start}..{end} of {total}");
            }
        }
    }
}

#[test]
fn ranges_that_cannot_be_decrypted_are_refused() {
    let key = key("AES_128_XTS", &"00".repeat(32));
    for (offset, total, len) in [(1, 64, 16), (0, 64, 15), (0, 64, 80), (16, 33, 16), (32, 33, 1), (usize::MAX, 64, 16)]
    {
        let error = key.decrypt_range(ZERO, offset, total, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{offset} {total} {len}");
    }
    assert_eq!(key.decrypt_block(ZERO, &mut [0; 15]).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn key_files_that_make_no_sense_are_refused() {
    let base64 = Base64::encode_string(&[7; 32]);
    for (text, kind) in [
        (String::new(), ErrorKind::Invalid),
        ("cipher: AES_128_XTS\n".to_owned(), ErrorKind::Invalid),
        (format!("cipher: AES_256_XTS\ncipher_key: {base64}\n"), ErrorKind::Invalid),
        (format!("cipher: AES_128_XTS\ncipher_key: {base64}!\n"), ErrorKind::Invalid),
        (format!("cipher: AES_128_CBC\ncipher_key: {base64}\n"), ErrorKind::Unsupported),
        ("error: no such volume\n".to_owned(), ErrorKind::Locked),
    ] {
        let error = VolumeKey::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!error.to_string().contains(&base64), "{error}");
    }
}
