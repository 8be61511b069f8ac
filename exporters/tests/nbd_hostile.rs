//! Clients that are wrong, slow, gone or hostile: the server neither falls nor waits nor grows, and serves others.

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Ram, Served, noise, read_only, writable};
use exporters::nbd::{Config, Limits};

/// A client that says what it is told to.
struct Client(UnixStream);

impl Client {
    fn new(served: &Served) -> Self {
        let stream = UnixStream::connect(&served.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    /// Greeted, and with fixed newstyle without zeros agreed on.
    fn greeted(served: &Served) -> Self {
        let mut client = Self::new(served);
        assert_eq!(client.read::<18>(), *b"NBDMAGICIHAVEOPT\0\x03");
        client.write(&3_u32.to_be_bytes());
        client
    }

    /// In the transmission phase of the default export, with simple replies.
    fn transmitting(served: &Served) -> Self {
        let mut client = Self::greeted(served);
        client.option(1, b"");
        client.read::<10>();
        client
    }

    /// The server may have hung up already.
    fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn option_head(&mut self, option: u32, length: u32) {
        self.write(&[&b"IHAVEOPT"[..], &option.to_be_bytes(), &length.to_be_bytes()].concat());
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        self.option_head(option, u32::try_from(data.len()).unwrap());
        self.write(data);
    }

    /// The type of the next reply to an option.
    fn option_reply(&mut self) -> u32 {
        let head = self.read::<20>();
        let length = u32::from_be_bytes(head[16..].try_into().unwrap());
        (0..length).for_each(|_| _ = self.read::<1>());
        u32::from_be_bytes(head[12..16].try_into().unwrap())
    }

    fn request(&mut self, command: u16, flags: u16, offset: u64, length: u32) {
        let head = [&0x2560_9513_u32.to_be_bytes()[..], &flags.to_be_bytes(), &command.to_be_bytes(), b"a cookie"];
        self.write(&[&head.concat()[..], &offset.to_be_bytes(), &length.to_be_bytes()].concat());
    }

    /// The error of the next simple reply.
    fn error(&mut self) -> u32 {
        let reply = self.read::<16>();
        assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes());
        assert_eq!(reply[8..], *b"a cookie");
        u32::from_be_bytes(reply[4..8].try_into().unwrap())
    }

    /// The server hangs up, soon.
    fn ends(mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{e}"),
        }
    }
}

fn small() -> Vec<exporters::nbd::Export> {
    vec![read_only("", Ram::new(noise(1 << 20)))]
}

fn limited(limits: Limits) -> Served {
    Served::with(Config { limits, ..Config::default() }, small())
}

/// Serves others still.
fn alive(served: &Served) {
    let mut client = Client::transmitting(served);
    client.request(0, 0, 0, 16);
    assert_eq!(client.error(), 0);
    assert_eq!(client.read::<16>()[..], noise(16)[..]);
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Garbage at each stage ends the connection.
#[test]
fn garbage() {
    let served = Served::new(small());
    let mut client = Client::new(&served);
    client.write(&noise(100_000));
    client.ends();
    let mut client = Client::greeted(&served);
    client.write(&noise(100_000));
    client.ends();
    let mut client = Client::transmitting(&served);
    client.write(&noise(100_000));
    client.ends();
    alive(&served);
}

/// Options that are too long, contradict themselves or are unknown are refused, and the next one is answered.
#[test]
fn bad_options() {
    let served = Served::new(small());
    let mut client = Client::greeted(&served);
    let error = |number: u32| 1 << 31 | number;
    client.option(99, b"unknown");
    assert_eq!(client.option_reply(), error(1));
    client.option(3, b"LIST has no data");
    assert_eq!(client.option_reply(), error(3));
    client.option(5, b"");
    assert_eq!(client.option_reply(), error(2), "STARTTLS without TLS");
    client.option(7, b"\xff\xff\xff\xff\0\0");
    assert_eq!(client.option_reply(), error(3), "a name of 4 GiB");
    client.option(7, b"\0\0\0\0\xff\xff");
    assert_eq!(client.option_reply(), error(3), "65535 requests that are not there");
    client.option(7, b"\0\0\0\x02\xff\xfe\0\0");
    assert_eq!(client.option_reply(), error(3), "a name that is not UTF-8");
    client.option(7, b"\0\0\0\x01x\0\0");
    assert_eq!(client.option_reply(), error(6), "no such export");
    client.option(10, b"\0\0\0\0\0\0\0\0");
    assert_eq!(client.option_reply(), error(3), "contexts without structured replies");
    client.option(8, b"");
    assert_eq!(client.option_reply(), 1);
    client.option(10, b"\0\0\0\0\xff\xff\xff\xff");
    assert_eq!(client.option_reply(), error(3), "4 thousand million queries");
    client.option(11, b"");
    assert_eq!(client.option_reply(), 1);
    client.option(8, b"");
    assert_eq!(client.option_reply(), error(10), "there is no way back from extended headers");
    client.option(3, &noise(1 << 20));
    assert_eq!(client.option_reply(), error(9));
    client.option(2, b"");
    assert_eq!(client.option_reply(), 1);
    client.ends();
}

/// An option of 4 GiB, an unknown export by its name only, and unknown client flags cannot be answered.
#[test]
fn unanswerable_options() {
    let served = Served::new(small());
    let mut client = Client::greeted(&served);
    client.option_head(3, u32::MAX);
    client.ends();
    let mut client = Client::greeted(&served);
    client.option(1, b"nothing");
    client.ends();
    let mut client = Client::new(&served);
    client.read::<18>();
    client.write(&0xffff_ffff_u32.to_be_bytes());
    client.ends();
    alive(&served);
}

/// Requests with wrong flags, of unknown kinds and with absurd ranges are refused, and the next one is served.
#[test]
fn bad_requests() {
    let disk = Arc::new(Ram::new(vec![0; 1 << 20]));
    let served = Served::new(vec![writable("", &disk)]);
    let mut client = Client::transmitting(&served);
    client.request(99, 0, 0, 0);
    assert_eq!(client.error(), 22, "unknown");
    client.request(0, 1 << 15, 0, 512);
    assert_eq!(client.error(), 22, "unknown flag");
    client.request(0, 1 << 2, 0, 512);
    assert_eq!(client.error(), 22, "DF without structured replies");
    client.request(0, 0, u64::MAX, u32::MAX);
    assert_eq!(client.error(), 22, "the end overflows");
    client.request(7, 0, 0, 512);
    assert_eq!(client.error(), 22, "block status without contexts");
    client.request(1, 1 << 4, 0, 512);
    client.write(&[1; 512]);
    assert_eq!(client.error(), 22, "a write with a wrong flag; its payload is not taken for requests");
    client.request(1, 0, 1 << 20, 512);
    client.write(&[1; 512]);
    assert_eq!(client.error(), 28, "a write past the end");
    client.request(0, 0, 0, 0);
    assert_eq!(client.error(), 0, "nothing is nothing");
    client.request(1, 0, 0, 0);
    assert_eq!(client.error(), 0);
    assert!(disk.bytes.read().iter().all(|&byte| byte == 0));
    client.request(1, 0, 0, u32::MAX);
    client.ends();
}

/// A client that goes in the middle of a request, or without taking its replies, leaves nothing behind.
#[test]
fn disconnect_in_a_request() {
    let disk = Arc::new(Ram::new(noise(8 << 20)));
    let served = Served::new(vec![writable("", &disk)]);
    let mut client = Client::transmitting(&served);
    client.request(1, 0, 0, 1 << 20);
    client.write(&[0; 1000]);
    drop(client);
    let mut client = Client::transmitting(&served);
    (0..100).for_each(|_| client.request(0, 0, 0, 4 << 20));
    drop(client);
    until("both are gone", || served.server.as_ref().unwrap().connections() == 0);
    assert!(*disk.bytes.read() == noise(8 << 20), "half a write was done");
}

/// Who does not negotiate in time is cut off, however he fills the time.
#[test]
fn half_open_connections() {
    let served = limited(Limits { handshake: Duration::from_millis(300), ..Limits::default() });
    let silent = Client::new(&served);
    let stuck = Client::greeted(&served);
    let mut slow = Client::greeted(&served);
    let started = Instant::now();
    while slow.0.write_all(b"I").is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20), "a byte now and then keeps a connection open");
        std::thread::sleep(Duration::from_millis(50));
    }
    silent.ends();
    stuck.ends();
    until("all are gone", || served.server.as_ref().unwrap().connections() == 0);
}

/// Who stalls within a request, or does not take its replies, is cut off; who is idle between requests is not.
#[test]
fn stalled_clients() {
    let served = limited(Limits { stall: Duration::from_millis(200), ..Limits::default() });
    let mut idle = Client::transmitting(&served);
    let mut half = Client::transmitting(&served);
    half.write(b"\x25\x60");
    let mut deaf = Client::transmitting(&served);
    deaf.0.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    (0..100).for_each(|_| deaf.request(0, 0, 0, 1 << 20));
    half.ends();
    until("the deaf one is gone", || served.server.as_ref().unwrap().connections() == 1);
    std::thread::sleep(Duration::from_millis(500));
    idle.request(0, 0, 0, 1);
    assert_eq!(idle.error(), 0);
}

/// One client more than allowed is refused; there is room again when one goes.
#[test]
fn connection_limit() {
    let served = limited(Limits { connections: 2, ..Limits::default() });
    let first = Client::transmitting(&served);
    let _second = Client::transmitting(&served);
    Client::new(&served).ends();
    drop(first);
    until("there is room", || served.server.as_ref().unwrap().connections() == 1);
    alive(&served);
}

/// Requests that had arrived when the end began are answered, those that come later are refused or met by the end.
#[test]
fn graceful_drain() {
    let disk = Ram { delay: Duration::from_millis(100), ..Ram::new(noise(1 << 20)) };
    let mut served = Served::new(vec![read_only("", disk)]);
    let mut busy = Client::transmitting(&served);
    let idle = Client::transmitting(&served);
    let negotiating = Client::greeted(&served);
    (0..4).for_each(|_| busy.request(0, 0, 0, 16));
    std::thread::sleep(Duration::from_millis(50));
    let started = Instant::now();
    served.server.take().unwrap().shutdown(Duration::from_secs(20)).unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    for _ in 0..4 {
        assert_eq!(busy.error(), 0);
        assert_eq!(busy.read::<16>()[..], noise(16)[..]);
    }
    busy.ends();
    idle.ends();
    negotiating.ends();
    assert!(UnixStream::connect(&served.socket).is_err());
}

/// A client that never takes its replies does not hold up the end for longer than the grace.
#[test]
fn drain_is_bounded() {
    let mut served = Served::new(small());
    let mut deaf = Client::transmitting(&served);
    (0..100).for_each(|_| deaf.request(0, 0, 0, 1 << 20));
    std::thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    served.server.take().unwrap().shutdown(Duration::from_millis(200)).unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
}
