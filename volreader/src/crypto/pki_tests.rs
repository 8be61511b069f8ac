//! The key ring with the keys and session data of a real volume; whole files are in `tests/decoders.rs`.

use rsa::{pkcs1::EncodeRsaPrivateKey, pkcs8::LineEnding};

use super::*;

/// Certificate and key of a File daemon, and of its master key.
const FD: &[u8] = include_bytes!("../../../tests/data/bacula/pki-lzo/keys/fd.pem");
const MASTER: &[u8] = include_bytes!("../../../tests/data/bacula/pki-lzo/keys/master.pem");
/// A record of stream 22 made for both.
const SESSION: &[u8] = include_bytes!("../../tests/data/session.der");

fn sections(pem: &[u8]) -> (&str, &str) {
    let pem = str::from_utf8(pem).unwrap();
    pem.split_at(pem.find("-----BEGIN PRIVATE").unwrap())
}

fn ring(pem: &str) -> KeyRing {
    let mut ring = KeyRing::new();
    ring.add_pem(pem.as_bytes()).unwrap();
    ring
}

/// A ciphertext block decrypted: tells keys apart without looking at them.
fn mark(key: &SessionKey) -> [u8; 16] {
    let mut block = [0; 16];
    key.decrypt(key.iv(), &mut block).unwrap();
    block
}

#[test]
fn either_key_unwraps_the_same() {
    let keys = [FD, MASTER].map(|pem| ring(str::from_utf8(pem).unwrap()).session_key(SESSION).unwrap());
    assert_eq!(mark(&keys[0]), mark(&keys[1]));
    assert_eq!(format!("{:?}", keys[0]), "SessionKey(AES-128-CBC)");
}

#[test]
fn unwrapped_once_only() {
    let ring = ring(str::from_utf8(FD).unwrap());
    let keys = [(); 2].map(|()| ring.session_key(SESSION).unwrap());
    assert!(Arc::ptr_eq(&keys[0], &keys[1]));
    for n in 0..2 * CACHED_KEYS {
        let mut other = SESSION.to_vec();
        // The IV: another record for another job with the same key.
        let iv = other.windows(2).position(|window| window == [4, 16]).unwrap() + 2;
        other[iv..iv + 2].copy_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
        ring.session_key(&other).unwrap();
    }
    assert_eq!(ring.cache.lock().unwrap().len(), CACHED_KEYS);
}

#[test]
fn a_key_without_certificate_is_enough() {
    let (_, key) = sections(FD);
    let pkcs1 = RsaPrivateKey::from_pkcs8_pem(key.trim()).unwrap().to_pkcs1_pem(LineEnding::LF).unwrap();
    let expected = mark(&ring(str::from_utf8(FD).unwrap()).session_key(SESSION).unwrap());
    for pem in [key, &pkcs1] {
        assert_eq!(mark(&ring(pem).session_key(SESSION).unwrap()), expected);
    }
    // Nor need its identifier be the usual one.
    let mut renamed = SESSION.to_vec();
    let ids: Vec<_> = (0..renamed.len() - 2).filter(|&at| renamed[at..at + 2] == [4, 20]).collect();
    assert_eq!(ids.len(), 2);
    ids.into_iter().for_each(|at| renamed[at + 2] ^= 0xff);
    assert_eq!(mark(&ring(key).session_key(&renamed).unwrap()), expected);
    // With its certificate it says which it is: not one of these.
    let error = ring(str::from_utf8(FD).unwrap()).session_key(&renamed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
}

#[test]
fn without_a_key_it_is_told_which() {
    let (certificate, _) = sections(FD);
    for ring in [KeyRing::new(), ring(certificate)] {
        let error = ring.session_key(SESSION).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        let id = SessionData::parse(SESSION).unwrap().recipients[0].key_id;
        assert!(error.to_string().contains(&Hex(id).to_string()), "{error}");
    }
}

#[test]
fn damaged_wrapping_is_told() {
    let data = SessionData::parse(SESSION).unwrap();
    let mut damaged = SESSION.to_vec();
    for recipient in &data.recipients {
        let at = SESSION.windows(recipient.wrapped.len()).position(|window| window == recipient.wrapped).unwrap();
        damaged[at + 100] ^= 1;
    }
    let error = ring(str::from_utf8(FD).unwrap()).session_key(&damaged).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
}

#[test]
fn ciphers_that_are_not_there_are_told() {
    // aes-128-cbc is 2.16.840.1.101.3.4.1.2; make it .99.
    let mut other = SESSION.to_vec();
    let at = other.windows(4).position(|window| window == [3, 4, 1, 2]).unwrap();
    other[at + 3] = 99;
    assert_eq!(KeyRing::new().session_key(&other).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(CipherName::from_oid(BLOWFISH_CBC).unwrap_err().to_string().contains("Blowfish"));
}

#[test]
fn key_files_that_are_none_are_told() {
    let add = |pem: &str| KeyRing::new().add_pem(pem.as_bytes()).unwrap_err().kind();
    let (certificate, key) = sections(FD);
    assert_eq!(add(""), ErrorKind::Invalid);
    assert_eq!(add(&key[..key.len() / 2]), ErrorKind::Invalid);
    assert_eq!(add(&certificate.replace("MII", "AAA")), ErrorKind::Invalid);
    assert_eq!(add(&key.replace("PRIVATE", "ENCRYPTED PRIVATE")), ErrorKind::Locked);
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    assert_eq!(add(old), ErrorKind::Locked);
}

#[test]
fn text_around_the_sections_does_not_matter() {
    let pem = format!("Bag Attributes: \u{e4}\r\n{}", str::from_utf8(FD).unwrap().replace('\n', "\r\n"));
    assert!(ring(&pem).session_key(SESSION).is_ok());
}

/// One ring serves all threads.
#[test]
fn threads_share_a_ring() {
    let ring = ring(str::from_utf8(FD).unwrap());
    let expected = mark(&ring.session_key(SESSION).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(mark(&ring.session_key(SESSION).unwrap()), expected));
        }
    });
}

#[test]
fn nothing_secret_is_shown() {
    let ring = ring(str::from_utf8(FD).unwrap());
    assert_eq!(format!("{ring:?}"), "KeyRing(1 private keys, 1 certificates)");
}

#[test]
fn padding() {
    assert_eq!(padding_len(&[16; 16]).unwrap(), 16);
    assert_eq!(padding_len(&[9, 9, 1]).unwrap(), 1);
    for bad in [&[][..], &[0; 16], &[17; 32], &[3, 2, 3], &[5; 4]] {
        assert_eq!(padding_len(bad).unwrap_err().kind(), ErrorKind::Damaged, "{bad:?}");
    }
}

#[test]
fn odd_lengths_are_damage() {
    let key = ring(str::from_utf8(FD).unwrap()).session_key(SESSION).unwrap();
    assert_eq!(key.decrypt(key.iv(), &mut [0; 17]).unwrap_err().kind(), ErrorKind::Damaged);
}
