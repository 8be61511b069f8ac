//! What a client says that changes something, and what it is answered.
#![allow(dead_code, reason = "each user takes a part")]

use super::rpc::{Client, Results, Words};

/// Attributes of a file before it was changed: length, and the times of the last changes of content and inode.
pub type Before = (u64, u64, u64);

/// What a client is told about a node that it may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub before: Option<Before>,
    /// The same after, and the inode number.
    pub after: Option<(Before, u64)>,
}

/// Attributes that are not set.
pub fn nothing_set() -> Words {
    (0..6).fold(Words::default(), |words, _| words.u32(0))
}

/// Attributes of which a mode and a length are set.
pub fn set(mode: Option<u32>, size: Option<u64>) -> Words {
    let words = mode.map_or(Words::default().u32(0), |mode| Words::default().u32(1).u32(mode)).u32(0).u32(0);
    size.map_or(words.clone().u32(0), |size| words.u32(1).u64(size)).u32(0).u32(0)
}

/// Words behind others.
pub fn with(mut words: Words, more: &Words) -> Words {
    words.0.extend_from_slice(&more.0);
    words
}

/// Reads `wcc_data`.
pub fn told(results: &mut Results<'_>) -> Told {
    let before = (results.u32() == 1).then(|| (results.u64(), results.u64(), results.u64()));
    let after = (results.u32() == 1).then(|| {
        let (attributes, rest) = results.0.split_at(84);
        results.0 = rest;
        let number = |at: usize| u64::from_be_bytes(attributes[at..at + 8].try_into().unwrap());
        ((number(20), number(68), number(76)), number(52))
    });
    Told { before, after }
}

/// A directory and a name in it.
pub fn named(dir: &[u8], name: &[u8]) -> Words {
    Words::default().bytes(dir).bytes(name)
}

impl Client {
    /// The handle of what `procedure` made, or its status; and what became of the directory.
    pub fn make(&mut self, procedure: u32, arguments: &Words) -> (Result<Vec<u8>, u32>, Told) {
        let reply = self.nfs(procedure, arguments);
        let mut reply = Results(&reply);
        let made = match reply.u32() {
            0 => {
                assert_eq!(reply.u32(), 1, "a handle");
                let handle = reply.bytes().to_vec();
                reply.attributes().expect("attributes");
                Ok(handle)
            }
            status => Err(status),
        };
        let told = told(&mut reply);
        assert!(reply.0.is_empty());
        (made, told)
    }

    /// A new file.
    pub fn create(&mut self, dir: &[u8], name: &[u8]) -> Result<Vec<u8>, u32> {
        self.make(8, &with(named(dir, name).u32(1), &nothing_set())).0
    }

    /// A file by a number.
    pub fn create_exclusive(&mut self, dir: &[u8], name: &[u8], number: u64) -> Result<Vec<u8>, u32> {
        self.make(8, &named(dir, name).u32(2).u64(number)).0
    }

    /// The status of a change of names, and what became of the directory.
    pub fn remove(&mut self, procedure: u32, dir: &[u8], name: &[u8]) -> (u32, Told) {
        let reply = self.nfs(procedure, &named(dir, name));
        let mut reply = Results(&reply);
        let status = reply.u32();
        let told = told(&mut reply);
        assert!(reply.0.is_empty());
        (status, told)
    }

    pub fn rename(&mut self, from: (&[u8], &[u8]), to: (&[u8], &[u8])) -> u32 {
        let reply = self.nfs(14, &with(named(from.0, from.1), &named(to.0, to.1)));
        let mut reply = Results(&reply);
        let status = reply.u32();
        let _both = (told(&mut reply), told(&mut reply));
        assert!(reply.0.is_empty());
        status
    }

    /// Write; what became of the file, how durable it is, and the verifier.
    pub fn write(&mut self, file: &[u8], offset: u64, bytes: &[u8], how: u32) -> Result<(Told, u32, u64), u32> {
        let arguments = Words::default().bytes(file).u64(offset).u32(bytes.len() as u32).u32(how).bytes(bytes);
        let reply = self.nfs(7, &arguments);
        let mut reply = Results(&reply);
        let status = reply.u32();
        let told = told(&mut reply);
        if status != 0 {
            assert!(reply.0.is_empty());
            return Err(status);
        }
        assert_eq!(reply.u32() as usize, bytes.len());
        let done = (told, reply.u32(), reply.u64());
        assert!(reply.0.is_empty());
        Ok(done)
    }

    /// Make durable; the verifier.
    pub fn commit(&mut self, file: &[u8]) -> Result<u64, u32> {
        let reply = self.nfs(21, &Words::default().bytes(file).u64(0).u32(0));
        let mut reply = Results(&reply);
        let status = reply.u32();
        told(&mut reply);
        if status == 0 { Ok(reply.u64()) } else { Err(status) }
    }

    /// The status of SETATTR, and what became of the node; `guard` is its ctime as it should be.
    pub fn setattr(&mut self, file: &[u8], set: &Words, guard: Option<u64>) -> (u32, Told) {
        let arguments = with(Words::default().bytes(file), set);
        let arguments = guard.map_or(arguments.clone().u32(0), |guard| arguments.u32(1).u64(guard));
        let reply = self.nfs(2, &arguments);
        let mut reply = Results(&reply);
        (reply.u32(), told(&mut reply))
    }
}
