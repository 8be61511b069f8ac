//! A client of remote procedure calls that shares no code with the server, and says whatever it is told to say.
#![allow(dead_code, reason = "each user takes a part")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

pub const NFS: u32 = 100_003;
pub const MOUNT: u32 = 100_005;
pub const PORTMAP: u32 = 100_000;

/// Arguments and results.
#[derive(Debug, Clone, Default)]
pub struct Words(pub Vec<u8>);

impl Words {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut with_length = self.u32(bytes.len() as u32);
        with_length.0.extend_from_slice(bytes);
        with_length.0.resize(with_length.0.len().next_multiple_of(4), 0);
        with_length
    }
}

/// Reads results.
pub struct Results<'a>(pub &'a [u8]);

impl<'a> Results<'a> {
    pub fn u32(&mut self) -> u32 {
        let (word, rest) = self.0.split_first_chunk::<4>().expect("a word");
        self.0 = rest;
        u32::from_be_bytes(*word)
    }

    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    pub fn bytes(&mut self) -> &'a [u8] {
        let len = self.u32() as usize;
        let (bytes, rest) = self.0.split_at(len.next_multiple_of(4));
        self.0 = rest;
        &bytes[..len]
    }

    /// Optional attributes: the inode number and the size, if they are there.
    pub fn attributes(&mut self) -> Option<(u64, u64)> {
        (self.u32() == 1).then(|| self.plain_attributes())
    }

    pub fn plain_attributes(&mut self) -> (u64, u64) {
        let (attributes, rest) = self.0.split_at(84);
        self.0 = rest;
        let number = |at: usize| u64::from_be_bytes(attributes[at..at + 8].try_into().unwrap());
        (number(52), number(20))
    }
}

/// A connection.
pub struct Client {
    pub stream: TcpStream,
    xid: u32,
    /// Credentials: a user with one group.
    pub user: (u32, u32),
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, xid: 7, user: (0, 0) }
    }

    /// A whole call as a message.
    pub fn message(&mut self, program: u32, version: u32, procedure: u32, arguments: &Words) -> Vec<u8> {
        self.xid += 1;
        let (uid, gid) = self.user;
        let credentials = Words::default().u32(0).bytes(b"test").u32(uid).u32(gid).u32(0);
        let head = Words::default().u32(self.xid).u32(0).u32(2).u32(program).u32(version).u32(procedure);
        let mut message = head.u32(1).bytes(&credentials.0).u32(0).u32(0).0;
        message.extend_from_slice(&arguments.0);
        message
    }

    pub fn send(&mut self, message: &[u8]) {
        self.send_together(&[message.to_vec()]);
    }

    /// Sends messages in one piece, so that the server finds them all at once.
    pub fn send_together(&mut self, messages: &[Vec<u8>]) {
        let mut records = Vec::new();
        for message in messages {
            records.extend_from_slice(&(message.len() as u32 | 1 << 31).to_be_bytes());
            records.extend_from_slice(message);
        }
        self.stream.write_all(&records).unwrap();
    }

    /// The next reply; `None` when the server has hung up.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut mark = [0; 4];
        match self.stream.read_exact(&mut mark) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("the server says nothing"),
            Err(_) => return None,
        }
        let mark = u32::from_be_bytes(mark);
        assert!(mark & 1 << 31 != 0, "one fragment");
        let mut reply = vec![0; (mark & !(1 << 31)) as usize];
        self.stream.read_exact(&mut reply).unwrap();
        Some(reply)
    }

    /// The results of a call that is accepted with `accepted`.
    pub fn call_for(&mut self, accepted: u32, [program, version, procedure]: [u32; 3], arguments: &Words) -> Vec<u8> {
        let message = self.message(program, version, procedure, arguments);
        self.send(&message);
        let reply = self.receive().expect("a reply");
        let mut head = Results(&reply);
        assert_eq!([head.u32(), head.u32(), head.u32()], [self.xid, 1, 0], "an accepted reply to the call");
        assert_eq!([head.u32(), head.u32(), head.u32()], [0, 0, accepted]);
        head.0.to_vec()
    }

    /// The results of a procedure of NFS.
    pub fn nfs(&mut self, procedure: u32, arguments: &Words) -> Vec<u8> {
        self.call_for(0, [NFS, 3, procedure], arguments)
    }

    /// The handle of a path.
    pub fn mount(&mut self, path: &str) -> Result<Vec<u8>, u32> {
        let reply = self.call_for(0, [MOUNT, 3, 1], &Words::default().bytes(path.as_bytes()));
        let mut reply = Results(&reply);
        match reply.u32() {
            0 => Ok(reply.bytes().to_vec()),
            status => Err(status),
        }
    }

    /// The handle of a child.
    pub fn lookup(&mut self, dir: &[u8], name: &[u8]) -> Result<Vec<u8>, u32> {
        let reply = self.nfs(3, &Words::default().bytes(dir).bytes(name));
        let mut reply = Results(&reply);
        match reply.u32() {
            0 => Ok(reply.bytes().to_vec()),
            status => Err(status),
        }
    }

    /// The inode number of a handle.
    pub fn getattr(&mut self, handle: &[u8]) -> Result<u64, u32> {
        let reply = self.nfs(1, &Words::default().bytes(handle));
        let mut reply = Results(&reply);
        match reply.u32() {
            0 => Ok(reply.plain_attributes().0),
            status => Err(status),
        }
    }

    /// Bytes of a file, and whether they are the last ones.
    pub fn read(&mut self, handle: &[u8], offset: u64, count: u32) -> Result<(Vec<u8>, bool), u32> {
        let reply = self.nfs(6, &Words::default().bytes(handle).u64(offset).u32(count));
        let mut reply = Results(&reply);
        match reply.u32() {
            0 => {
                reply.attributes().expect("attributes");
                let (count, eof) = (reply.u32() as usize, reply.u32() == 1);
                let bytes = reply.bytes().to_vec();
                assert_eq!(bytes.len(), count);
                assert!(reply.0.is_empty());
                Ok((bytes, eof))
            }
            status => Err(status),
        }
    }
}
