//! CHAP, one-way and mutual (RFC 7143 section 12.1.3, RFC 1994).

use std::fmt;

use blockdev::{Error, Result};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::text::{self, Text};

/// Shortest secret in bytes; the RFC wants twelve where there is no IPsec.
const SHORTEST: usize = 12;
/// Longest name and secret in bytes (12.1.3: names up to 223; initiators have 16 to 255 for secrets).
const LONGEST: usize = 255;
/// Bytes of a challenge that is sent, and most of one that is received.
const CHALLENGE: usize = 32;
const MOST_CHALLENGE: usize = 1024;

/// A name and a secret.
#[derive(Clone)]
pub struct Secret {
    name: String,
    secret: Vec<u8>,
}

impl Secret {
    /// A name with its secret.
    ///
    /// # Errors
    ///
    /// When the secret has less than 12 bytes or either has more than 255.
    pub fn new(name: impl Into<String>, secret: impl Into<Vec<u8>>) -> Result<Self> {
        let (name, secret) = (name.into(), secret.into());
        if name.is_empty() || name.len() > LONGEST || name.contains('\0') {
            return Err(Error::invalid(format!("a CHAP name has 1 to {LONGEST} bytes")));
        }
        if secret.len() < SHORTEST || secret.len() > LONGEST {
            return Err(Error::invalid(format!(
                "the CHAP secret of {name} has {} bytes: give it {SHORTEST} to {LONGEST} (Windows takes 12 to 16)",
                secret.len()
            )));
        }
        Ok(Self { name, secret })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who may log in, and how the target proves itself.
#[derive(Debug, Clone)]
pub struct Chap {
    /// What initiators authenticate by.
    pub initiator: Secret,
    /// What the target authenticates by to initiators that ask for it.
    pub target: Option<Secret>,
}

impl Chap {
    /// # Errors
    ///
    /// When both directions have one secret: then who is asked could have the answer made by who asks (RFC 7143 12.1.3).
    pub fn new(initiator: Secret, target: Option<Secret>) -> Result<Self> {
        if target.as_ref().is_some_and(|target| target.secret == initiator.secret) {
            return Err(Error::invalid("the CHAP secrets of both directions are the same: choose different ones"));
        }
        Ok(Self { initiator, target })
    }
}

/// Ways to digest, by the numbers of the RFC; the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha256 = 7,
    Sha1 = 6,
    Md5 = 5,
}

impl Algorithm {
    /// The best of an initiator's list.
    fn choose(list: &str) -> Option<Self> {
        let offered = |algorithm: &Self| list.split(',').any(|text| text::number(text) == Some(*algorithm as u32));
        [Self::Sha256, Self::Sha1, Self::Md5].into_iter().find(offered)
    }

    fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        let parts = [&[identifier][..], secret, challenge];
        match self {
            Self::Sha256 => digest::<Sha256>(parts),
            Self::Sha1 => digest::<Sha1>(parts),
            Self::Md5 => digest::<Md5>(parts),
        }
    }
}

fn digest<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
    let mut digest = D::new();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize().to_vec()
}

/// How far an exchange is.
#[derive(Debug)]
pub(super) enum Exchange {
    /// The initiator has to name algorithms.
    Begun,
    /// It has to answer this challenge.
    Challenged(Challenge),
    /// It is who it says.
    Done,
}

#[derive(Debug)]
pub(super) struct Challenge {
    algorithm: Algorithm,
    identifier: u8,
    challenge: [u8; CHALLENGE],
}

impl Exchange {
    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Take the initiator's keys and answer them. `None`: it is not who it says, or does not speak CHAP.
    pub(super) fn step(self, chap: &Chap, keys: &[(&str, &str)], out: &mut Text) -> Option<Self> {
        let value = |key: &str| keys.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        match self {
            Self::Begun => {
                let Some(list) = value("CHAP_A") else { return Some(Self::Begun) };
                let algorithm = Algorithm::choose(list)?;
                let (mut identifier, mut challenge) = ([0], [0; CHALLENGE]);
                random(&mut identifier)?;
                random(&mut challenge)?;
                let identifier = identifier[0];
                out.add("CHAP_A", algorithm as u8);
                out.add("CHAP_I", identifier);
                out.add("CHAP_C", text::hexadecimal(&challenge));
                Some(Self::Challenged(Challenge { algorithm, identifier, challenge }))
            }
            Self::Challenged(Challenge { algorithm, identifier, challenge }) => {
                let response = text::binary(value("CHAP_R")?, LONGEST)?;
                let expected = algorithm.response(identifier, &chap.initiator.secret, &challenge);
                let same =
                    value("CHAP_N")?.as_bytes().ct_eq(chap.initiator.name.as_bytes()) & response.ct_eq(&expected);
                if !bool::from(same) {
                    return None;
                }
                match (value("CHAP_I"), value("CHAP_C")) {
                    (None, None) => {}
                    (Some(identifier), Some(theirs)) => {
                        let target = chap.target.as_ref()?;
                        let identifier = u8::try_from(text::number(identifier)?).ok()?;
                        let theirs = text::binary(theirs, MOST_CHALLENGE)?;
                        // Our own challenge, sent back, would have us answer it for them.
                        if theirs.is_empty() || theirs == challenge {
                            return None;
                        }
                        let answer = algorithm.response(identifier, &target.secret, &theirs);
                        out.add("CHAP_N", &target.name);
                        out.add("CHAP_R", text::hexadecimal(&answer));
                    }
                    _ => return None,
                }
                Some(Self::Done)
            }
            Self::Done => Some(Self::Done),
        }
    }
}

fn random(bytes: &mut [u8]) -> Option<()> {
    // Less than 256 bytes come all at once.
    let n = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()).ok()?;
    (n == bytes.len()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both sides compute from the same things; MD5's is from `printf '\x01secretsecret\x02\x03' | md5sum`.
    #[test]
    fn responses() {
        let response = Algorithm::Md5.response(1, b"secretsecret", &[2, 3]);
        assert_eq!(text::hexadecimal(&response), MD5_EXAMPLE);
        assert_eq!(Algorithm::Sha1.response(1, b"a", b"b").len(), 20);
        assert_eq!(Algorithm::Sha256.response(1, b"a", b"b").len(), 32);
    }

    const MD5_EXAMPLE: &str = "0x4e0fa60928ffa35cd05aed34a0fa6226";

    fn chap(mutual: bool) -> Chap {
        let target = mutual.then(|| Secret::new("target", "secret of target").unwrap());
        Chap::new(Secret::new("user", "secret of user").unwrap(), target).unwrap()
    }

    /// Run an initiator that has `secret` against a target; what the target answered last.
    fn run(list: &str, name: &str, secret: &[u8], chap: &Chap, mutual: bool) -> Option<String> {
        let mut out = Text::default();
        let exchange = Exchange::Begun.step(chap, &[("CHAP_A", list)], &mut out)?;
        let asked = out.into_bytes();
        let asked = text::parse(&asked).unwrap();
        let algorithm = Algorithm::choose(asked[0].1).unwrap();
        let identifier = u8::try_from(text::number(asked[1].1).unwrap()).unwrap();
        let challenge = text::binary(asked[2].1, 64).unwrap();
        let response = text::hexadecimal(&algorithm.response(identifier, secret, &challenge));
        let mut keys = vec![("CHAP_N", name), ("CHAP_R", &response)];
        if mutual {
            keys.extend([("CHAP_I", "9"), ("CHAP_C", "0x0102030405")]);
        }
        let mut out = Text::default();
        let done = exchange.step(chap, &keys, &mut out)?;
        assert!(done.is_done());
        Some(String::from_utf8(out.into_bytes()).unwrap())
    }

    #[test]
    fn who_gets_in() {
        for list in ["5", "6,5", "7", "5,6,7", "1,2,7"] {
            assert_eq!(run(list, "user", b"secret of user", &chap(false), false).as_deref(), Some(""));
        }
        assert_eq!(run("8", "user", b"secret of user", &chap(false), false), None, "no algorithm in common");
        assert_eq!(run("5", "user", b"secret of users", &chap(false), false), None);
        assert_eq!(run("5", "users", b"secret of user", &chap(false), false), None);
        assert_eq!(run("5", "user", b"secret of user", &chap(false), true), None, "the target has nothing to prove by");
    }

    #[test]
    fn mutual() {
        let proof = run("7", "user", b"secret of user", &chap(true), true).unwrap();
        let expected = Algorithm::Sha256.response(9, b"secret of target", &[1, 2, 3, 4, 5]);
        assert_eq!(proof, format!("CHAP_N=target\0CHAP_R={}\0", text::hexadecimal(&expected)));
    }

    #[test]
    fn reflection_is_refused() {
        let chap = chap(true);
        let mut out = Text::default();
        let exchange = Exchange::Begun.step(&chap, &[("CHAP_A", "7")], &mut out).unwrap();
        let Exchange::Challenged(ref asked) = exchange else { panic!("{exchange:?}") };
        let response =
            text::hexadecimal(&asked.algorithm.response(asked.identifier, b"secret of user", &asked.challenge));
        let reflected = text::hexadecimal(&asked.challenge);
        let keys = [("CHAP_N", "user"), ("CHAP_R", &*response), ("CHAP_I", "1"), ("CHAP_C", &*reflected)];
        assert!(exchange.step(&chap, &keys, &mut Text::default()).is_none());
    }

    #[test]
    fn secrets_that_are_none() {
        assert!(Secret::new("user", "too short").is_err());
        assert!(Secret::new("", "long enough for it").is_err());
        let same = || Secret::new("user", "long enough for it").unwrap();
        assert!(Chap::new(same(), Some(same())).is_err());
        assert!(!format!("{:?}", same()).contains("long enough"));
    }
}
