//! What the tests of the iSCSI server share: a target on loopback, and an initiator that says what it is told to.
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use exporters::{
    Disk,
    iscsi::{Address, Config, Listener, Server, Target, Targets},
    scsi::{LogicalUnit, Options},
};

pub const TARGET: &str = "iqn.2026-01.example.test:disk";
pub const INITIATOR: &str = "iqn.2026-01.example.test:initiator";

/// A server of one target at a port of loopback.
pub struct Served {
    pub server: Option<Server>,
    pub target: Arc<Target>,
    pub address: SocketAddr,
}

impl Served {
    pub fn new(disk: Disk) -> Self {
        Self::with(Config::default(), Target::new(TARGET).unwrap(), vec![unit(disk)])
    }

    pub fn with(config: Config, target: Target, units: Vec<LogicalUnit>) -> Self {
        Self::at("127.0.0.1:0", config, target, units)
    }

    pub fn at(address: &str, config: Config, target: Target, units: Vec<LogicalUnit>) -> Self {
        let targets = Arc::new(Targets::new());
        let target = targets.insert(target).unwrap();
        for (lun, unit) in (0..).zip(units) {
            target.insert(lun, Arc::new(unit)).unwrap();
        }
        let server = Server::start(config, targets, Listener::tcp(address).unwrap()).unwrap();
        let Address::Tcp(address) = server.addresses()[0].clone() else { panic!("not TCP") };
        Self { server: Some(server), target, address }
    }

    /// The URL of a unit, as libiscsi has them.
    pub fn url(&self, lun: u16) -> String {
        format!("iscsi://{}/{}/{lun}", self.address, self.target.name())
    }
}

pub fn unit(disk: Disk) -> LogicalUnit {
    LogicalUnit::new(disk, Options { identity: b"the disk of a test".to_vec(), ..Options::default() }).unwrap()
}

/// CRC32C, bit by bit.
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    (!bytes.iter().fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))).to_le_bytes()
}

/// A PDU: its head and its data.
#[derive(Debug, Clone)]
pub struct Pdu {
    pub head: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn new(opcode: u8, flags: u8) -> Self {
        let mut head = [0; 48];
        (head[0], head[1]) = (opcode, flags);
        Self { head, data: Vec::new() }
    }

    pub fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.head[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn with32(self, at: usize, number: u32) -> Self {
        self.with(at, &number.to_be_bytes())
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    pub fn opcode(&self) -> u8 {
        self.head[0] & 0x3f
    }

    pub fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.head[at..at + 4].try_into().unwrap())
    }

    pub fn bytes(&self, digests: [bool; 2]) -> Vec<u8> {
        let mut bytes = self.head.to_vec();
        bytes[5..8].copy_from_slice(&u32::try_from(self.data.len()).unwrap().to_be_bytes()[1..]);
        if digests[0] {
            bytes.extend(crc32c(&bytes));
        }
        let start = bytes.len();
        bytes.extend(&self.data);
        bytes.resize(start + self.data.len().next_multiple_of(4), 0);
        if digests[1] && !self.data.is_empty() {
            bytes.extend(crc32c(&bytes[start..]));
        }
        bytes
    }
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub status: u8,
    pub data: Vec<u8>,
    pub sense: Vec<u8>,
    /// Flags O and U, and the residual.
    pub residual: (u8, u32),
}

impl Ended {
    /// Key and additional code of the sense data.
    pub fn sense_code(&self) -> (u8, u8, u8) {
        match self.sense.first().map(|first| first & 0x7f) {
            Some(0x70) => (self.sense[2] & 15, self.sense[12], self.sense[13]),
            Some(0x72) => (self.sense[1] & 15, self.sense[2], self.sense[3]),
            _ => panic!("no sense data: {self:?}"),
        }
    }
}

/// An initiator with one connection. What it receives is checked for its numbers.
pub struct Initiator {
    pub stream: TcpStream,
    pub name: String,
    pub isid: [u8; 6],
    pub cid: u16,
    pub handle: u16,
    pub digests: [bool; 2],
    pub command_number: u32,
    pub status_number: u32,
    pub last_command: u32,
    pub tag: u32,
    /// What the target has agreed to.
    pub agreed: BTreeMap<String, String>,
    /// Longest burst that is sent unasked.
    pub unasked: usize,
    pub immediate: bool,
    /// Longest data segment that is sent.
    pub segment: usize,
}

impl Initiator {
    pub fn connect(served: &Served) -> Self {
        let stream = TcpStream::connect(served.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            name: INITIATOR.into(),
            isid: [0x80, 0, 0, 0, 0, 1],
            cid: 0,
            handle: 0,
            digests: [false; 2],
            command_number: 100,
            status_number: 0,
            last_command: 100,
            tag: 1,
            agreed: BTreeMap::new(),
            unasked: 0,
            immediate: true,
            segment: 8192,
        }
    }

    /// Logged in to the target, with what it and this side say when nothing is said.
    pub fn normal(served: &Served) -> Self {
        let mut initiator = Self::connect(served);
        assert_eq!(initiator.login(served.target.name(), &[]), [0, 0]);
        initiator
    }

    /// The same as another initiator port.
    pub fn second(served: &Served) -> Self {
        let mut initiator = Self::connect(served);
        initiator.isid[5] = 2;
        initiator.name.push('2');
        assert_eq!(initiator.login(served.target.name(), &[]), [0, 0]);
        initiator
    }

    pub fn send(&mut self, pdu: &Pdu) {
        self.stream.write_all(&pdu.bytes(self.digests)).unwrap();
    }

    /// The next PDU; `None` when the target has hung up.
    pub fn receive(&mut self) -> Option<Pdu> {
        let mut head = [0; 48];
        if let Err(e) = self.stream.read_exact(&mut head) {
            assert!(matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{e}");
            return None;
        }
        let read = |stream: &mut TcpStream, n| {
            let mut bytes = vec![0; n];
            stream.read_exact(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(head[4], 0, "no additional segments");
        if self.digests[0] {
            assert_eq!(read(&mut self.stream, 4), crc32c(&head), "header digest");
        }
        let len = (u32::from_be_bytes(head[4..8].try_into().unwrap()) & 0xff_ffff) as usize;
        let mut data = read(&mut self.stream, len.next_multiple_of(4));
        if self.digests[1] && len > 0 {
            assert_eq!(read(&mut self.stream, 4), crc32c(&data), "data digest");
        }
        data.truncate(len);
        let pdu = Pdu { head, data };
        let expected = pdu.be32(28);
        assert!(pdu.be32(32).wrapping_sub(expected) <= 1 << 16, "MaxCmdSN is not behind ExpCmdSN - 1");
        self.last_command = pdu.be32(32);
        Some(pdu)
    }

    /// A request of a login, and its answer: the status, and the flags.
    pub fn login_step(&mut self, flags: u8, text: &str) -> ([u8; 2], u8) {
        let request = Pdu::new(0x43, flags)
            .with(8, &self.isid)
            .with(14, &self.handle.to_be_bytes())
            .with32(16, 7)
            .with(20, &self.cid.to_be_bytes())
            .with32(24, self.command_number)
            .data(text.as_bytes());
        self.send(&request);
        let Some(answer) = self.receive() else { panic!("no answer to the login") };
        assert_eq!(answer.opcode(), 0x23);
        self.status_number = answer.be32(24).wrapping_add(1);
        for pair in String::from_utf8(answer.data).unwrap().split_terminator('\0') {
            let (key, value) = pair.split_once('=').unwrap();
            self.agreed.insert(key.into(), value.into());
        }
        if answer.head[36..38] == [0, 0] && answer.head[1] & 0x83 == 0x83 {
            self.handle = u16::from_be_bytes([answer.head[14], answer.head[15]]);
            assert_ne!(self.handle, 0);
        }
        ([answer.head[36], answer.head[37]], answer.head[1])
    }

    /// Log in with these keys, without authentication.
    pub fn login(&mut self, target: &str, keys: &[&str]) -> [u8; 2] {
        let mut text = format!("InitiatorName={}\0TargetName={target}\0SessionType=Normal\0", self.name);
        keys.iter().for_each(|key| text.push_str(&format!("{key}\0")));
        let (status, _) = self.login_step(0x87, &text);
        if status == [0, 0] {
            self.settle();
        }
        status
    }

    /// Do as was agreed on.
    pub fn settle(&mut self) {
        let is = |key: &str, value: &str| self.agreed.get(key).is_some_and(|agreed| agreed == value);
        self.digests = [is("HeaderDigest", "CRC32C"), is("DataDigest", "CRC32C")];
        self.immediate = !is("ImmediateData", "No");
        if is("InitialR2T", "No") {
            self.unasked = self.agreed.get("FirstBurstLength").map_or(65536, |n| n.parse().unwrap());
        }
    }

    /// Send a command with the data that may go with it unasked; its tag.
    pub fn start(&mut self, lun: u8, cdb: &[u8], reads: u32, writes: &[u8]) -> u32 {
        let expected = if writes.is_empty() { reads } else { u32::try_from(writes.len()).unwrap() };
        let flags = if writes.is_empty() { 0 } else { 0x20 } | if reads > 0 { 0x40 } else { 0 };
        let now = if self.immediate { writes.len().min(self.segment).min(65536) } else { 0 };
        let unasked = self.unasked.min(writes.len()).max(now);
        self.tag += 1;
        let tag = self.tag;
        let command = Pdu::new(0x01, flags | if unasked > now { 0 } else { 0x80 })
            .with(9, &[lun])
            .with32(16, tag)
            .with32(20, expected)
            .with32(24, self.command_number)
            .with32(28, self.status_number)
            .with(32, cdb)
            .data(&writes[..now]);
        self.command_number = self.command_number.wrapping_add(1);
        self.send(&command);
        if unasked > now {
            self.data_out(tag, u32::MAX, now, &writes[now..unasked]);
        }
        tag
    }

    /// Send data of a command from an offset on.
    pub fn data_out(&mut self, tag: u32, transfer: u32, offset: usize, data: &[u8]) {
        let mut at = 0;
        for (number, piece) in (0..).zip(data.chunks(self.segment)) {
            let last = at + piece.len() == data.len();
            let pdu = Pdu::new(0x05, if last { 0x80 } else { 0 })
                .with32(16, tag)
                .with32(20, transfer)
                .with32(28, self.status_number)
                .with32(36, number)
                .with32(40, u32::try_from(offset + at).unwrap())
                .data(piece);
            self.send(&pdu);
            at += piece.len();
        }
    }

    /// How the command `tag` ends; it is sent what it asks for.
    pub fn finish(&mut self, tag: u32, writes: &[u8]) -> Ended {
        let mut data = Vec::new();
        let mut pdus = 0;
        loop {
            let pdu = self.receive().expect("the target has hung up");
            match pdu.opcode() {
                0x31 => {
                    assert_eq!(pdu.be32(16), tag);
                    let (from, len) = (pdu.be32(40) as usize, pdu.be32(44) as usize);
                    self.data_out(tag, pdu.be32(20), from, &writes[from..from + len]);
                }
                0x25 => {
                    assert_eq!((pdu.be32(16), pdu.be32(36), pdu.be32(40) as usize), (tag, pdus, data.len()));
                    pdus += 1;
                    data.extend(&pdu.data);
                    if pdu.head[1] & 1 != 0 {
                        self.count(&pdu);
                        let residual = (pdu.head[1] & 6, pdu.be32(44));
                        return Ended { status: pdu.head[3], data, sense: Vec::new(), residual };
                    }
                }
                0x21 => {
                    assert_eq!((pdu.be32(16), pdu.be32(36)), (tag, pdus));
                    self.count(&pdu);
                    let sense = pdu.data.get(2..).unwrap_or_default().to_vec();
                    return Ended { status: pdu.head[3], data, sense, residual: (pdu.head[1] & 6, pdu.be32(44)) };
                }
                other => panic!("an unexpected PDU {other:#x}: {pdu:?}"),
            }
        }
    }

    /// Status numbers are one after the other.
    pub fn count(&mut self, pdu: &Pdu) {
        assert_eq!(pdu.be32(24), self.status_number, "StatSN");
        self.status_number = self.status_number.wrapping_add(1);
    }

    /// Do a command. A unit attention is taken, and the command repeated.
    pub fn command(&mut self, cdb: &[u8], reads: u32, writes: &[u8]) -> Ended {
        let ended = self.command_once(cdb, reads, writes);
        if ended.status == 2 && ended.sense_code().0 == 6 {
            return self.command(cdb, reads, writes);
        }
        ended
    }

    pub fn command_once(&mut self, cdb: &[u8], reads: u32, writes: &[u8]) -> Ended {
        let tag = self.start(0, cdb, reads, writes);
        self.finish(tag, writes)
    }

    pub fn good(&mut self, cdb: &[u8], reads: u32, writes: &[u8]) -> Vec<u8> {
        let ended = self.command(cdb, reads, writes);
        assert_eq!(ended.status, 0, "{cdb:02x?}: {ended:?}");
        ended.data
    }

    pub fn read10(&mut self, lba: u32, blocks: u16) -> Vec<u8> {
        self.good(&cdb10(0x28, lba, blocks), u32::from(blocks) * 512, &[])
    }

    pub fn write10(&mut self, lba: u32, data: &[u8]) {
        self.good(&cdb10(0x2a, lba, u16::try_from(data.len() / 512).unwrap()), 0, data);
    }

    /// The target hangs up, soon.
    pub fn ends(mut self) {
        while self.receive().is_some() {}
    }

    /// Do a task management function, and return what is answered.
    pub fn manage(&mut self, function: u8, tag: u32) -> u8 {
        self.tag += 1;
        let request = Pdu::new(0x42, 0x80 | function)
            .with32(16, self.tag)
            .with32(20, tag)
            .with32(24, self.command_number)
            .with32(28, self.status_number);
        self.send(&request);
        let answer = self.receive().expect("an answer");
        assert_eq!((answer.opcode(), answer.be32(16)), (0x22, self.tag));
        self.count(&answer);
        answer.head[2]
    }
}

/// A CDB of ten bytes with an address and a length.
pub fn cdb10(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A CDB of sixteen bytes with an address and a length.
pub fn cdb16(opcode: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}
