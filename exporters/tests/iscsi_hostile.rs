//! Initiators that are wrong, slow, gone or hostile: the server neither falls nor waits nor grows, and serves others.

mod common;
#[path = "common/iscsi.rs"]
mod iscsi;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Ram, noise};
use exporters::{
    Disk,
    iscsi::{Chap, Config, Limits, Secret, Target},
};
use iscsi::{INITIATOR, Initiator, Pdu, Served, TARGET, cdb10, unit};

fn served() -> Served {
    Served::new(Disk::Writable(Arc::new(Ram::new(noise(1 << 20)))))
}

/// Serves others still.
fn alive(served: &Served) {
    let mut initiator = Initiator::second(served);
    assert_eq!(initiator.read10(1000, 1).len(), 512);
}

/// Garbage at each stage ends the connection.
#[test]
fn garbage() {
    let served = served();
    let mut stranger = Initiator::connect(&served);
    let _ = stranger.stream.write_all(&noise(100_000));
    stranger.ends();
    let mut initiator = Initiator::normal(&served);
    let _ = initiator.stream.write_all(&[0xff; 100_000]);
    initiator.ends();
    alive(&served);
}

/// What is no login, or a wrong one, gets no further.
#[test]
fn bad_logins() {
    let served = served();
    let text = |more: &str| format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0{more}");
    for (flags, text, status) in [
        (0x87, "TargetName=iqn.2026-01.example.test:disk\0".to_owned(), [2, 7]),
        (0x87, format!("InitiatorName={INITIATOR}\0"), [2, 7]),
        (0x87, text("SessionType=Odd\0"), [2, 0]),
        (0x87, text("MaxBurstLength=many\0"), [2, 0]),
        (0x87, text("no value\0"), [2, 0]),
        (0x87, format!("InitiatorName=a\nb\0TargetName={TARGET}\0"), [2, 0]),
        (0x82, text(""), [2, 11]),
        (0x80, text(""), [2, 11]),
        (0x8b, text(""), [2, 11]),
        (0x81, text("AuthMethod=CHAP\0"), [2, 1]),
    ] {
        let mut initiator = Initiator::connect(&served);
        assert_eq!(initiator.login_step(flags, &text).0, status, "{text:?}");
        initiator.ends();
    }
    let mut initiator = Initiator::connect(&served);
    initiator.handle = 77;
    assert_eq!(initiator.login(TARGET, &[]), [2, 10], "a session that is not there");
    // A text without end.
    let mut initiator = Initiator::connect(&served);
    let endless = Pdu::new(0x43, 0x44).data(&[b'a'; 8000]);
    for _ in 0..20 {
        let _ = initiator.stream.write_all(&endless.bytes([false; 2]));
    }
    initiator.ends();
    // Questions without end.
    let mut initiator = Initiator::connect(&served);
    for _ in 0..100 {
        let again = Pdu::new(0x43, 0x04).data(text("").as_bytes());
        let _ = initiator.stream.write_all(&again.bytes([false; 2]));
    }
    initiator.ends();
    // A segment of 16 MiB.
    let mut initiator = Initiator::connect(&served);
    let _ = initiator.stream.write_all(&Pdu::new(0x43, 0x87).with(5, &[0xff; 3]).head);
    initiator.ends();
    alive(&served);
}

/// Nobody gets in without the secret.
#[test]
fn without_the_secret() {
    let chap = Chap::new(Secret::new("user", "correct horse").unwrap(), None).unwrap();
    let target = Target::new(TARGET).unwrap().with_chap(chap);
    let served = Served::with(Config::default(), target, vec![unit(Disk::ReadOnly(Arc::new(Ram::new(noise(4096)))))]);
    assert_eq!(Initiator::connect(&served).login(TARGET, &[]), [2, 1], "it skips the question");
    let identity = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0");
    let mut initiator = Initiator::connect(&served);
    let (status, _) = initiator.login_step(0x81, &format!("{identity}AuthMethod=None\0"));
    assert_eq!(status, [2, 1]);
    let mut initiator = Initiator::connect(&served);
    let (status, flags) = initiator.login_step(0x81, &format!("{identity}AuthMethod=CHAP,None\0"));
    assert_eq!((status, flags & 0x80), ([0, 0], 0), "not yet");
    assert_eq!(initiator.login_step(0x00, "CHAP_A=7,5\0").0, [0, 0]);
    assert_eq!(initiator.agreed["CHAP_A"], "7");
    let (status, _) = initiator.login_step(0x81, "CHAP_N=user\0CHAP_R=0x0000\0");
    assert_eq!(status, [2, 1]);
    // The answer is wanted, and the next stage is not begun without it.
    let mut initiator = Initiator::connect(&served);
    initiator.login_step(0x81, &format!("{identity}AuthMethod=CHAP\0"));
    assert_eq!(initiator.login_step(0x87, "").0, [2, 1]);
    assert!(served.target.sessions().is_empty());
}

/// PDUs that break a rule in the full feature phase.
#[test]
fn broken_rules() {
    let served = served();
    // Heads, and data that they say follow.
    let command = |flags: u8, expected: u32| Pdu::new(0x01, flags).with32(16, 5).with32(20, expected).with32(24, 100);
    let bad: Vec<(&str, Pdu)> = vec![
        ("a segment of 16 MiB", Pdu::new(0x00, 0x80)),
        ("immediate data with a read", command(0xc0, 512).data(&[0; 512])),
        ("more data than are expected", command(0xa0, 100).data(&[0; 512])),
        ("unsolicited data against what was agreed on", command(0x20, 4096).with(32, &cdb10(0x2a, 0, 8))),
    ];
    for (number, (what, pdu)) in bad.into_iter().enumerate() {
        let mut initiator = Initiator::normal(&served);
        let mut bytes = pdu.bytes([false; 2]);
        if number == 0 {
            bytes[5..8].copy_from_slice(&[0xff; 3]);
        }
        let _ = initiator.stream.write_all(&bytes);
        println!("{what}");
        initiator.ends();
    }
    // Those that are answered.
    let mut initiator = Initiator::normal(&served);
    for (opcode, why) in [(0x10, 3), (0x03, 4), (0x1c, 5), (0x3f, 5)] {
        initiator.send(&Pdu::new(opcode, 0x80).with32(16, 5));
        let answer = initiator.receive().unwrap();
        assert_eq!((answer.opcode(), answer.head[2], answer.data.len()), (0x3f, why, 48));
        initiator.count(&answer);
    }
    // Data for nobody, and additional segments.
    initiator.send(&Pdu::new(0x05, 0x80).with32(16, 4711).with32(20, 9).data(&[1; 4096]));
    let mut long = Pdu::new(0x00, 0x80).with32(16, 6).with32(24, initiator.command_number).bytes([false; 2]);
    initiator.command_number += 1;
    long[4] = 255;
    long.extend([0; 1020]);
    initiator.stream.write_all(&long).unwrap();
    let answer = initiator.receive().unwrap();
    assert_eq!(answer.opcode(), 0x20);
    initiator.count(&answer);
    // Data that are not those that were asked for end the command, not the connection.
    initiator.immediate = false;
    let _ = initiator.command(&[0; 6], 0, &[]);
    for (offset, number, len) in [(512, 0, 512), (0, 3, 512), (0, 0, 1024), (0, 0, 256)] {
        let tag = initiator.start(0, &cdb10(0x2a, 0, 1), 0, &[1; 512]);
        let request = initiator.receive().unwrap();
        assert_eq!(request.opcode(), 0x31);
        let data = Pdu::new(0x05, 0x80).with32(16, tag).with32(20, request.be32(20)).with32(36, number);
        initiator.send(&data.with32(40, offset).data(&vec![9; len]));
        let ended = initiator.finish(tag, &[]);
        assert_eq!(ended.sense_code(), (0x0b, 0x0c, 0x0d), "{offset} {number} {len}");
    }
    assert_eq!(initiator.read10(0, 1), noise(512));
    alive(&served);
}

/// A wrong digest ends the connection.
#[test]
fn wrong_digests() {
    let served = served();
    for which in [48, 52 + 512] {
        let mut initiator = Initiator::connect(&served);
        assert_eq!(initiator.login(TARGET, &["HeaderDigest=CRC32C", "DataDigest=CRC32C"]), [0, 0]);
        let _ = initiator.command(&[0; 6], 0, &[]);
        let write = Pdu::new(0x01, 0xa0)
            .with32(16, 77)
            .with32(20, 512)
            .with32(24, initiator.command_number)
            .with(32, &cdb10(0x2a, 0, 1))
            .data(&[1; 512]);
        let mut bytes = write.bytes([true; 2]);
        bytes[which] ^= 1;
        initiator.stream.write_all(&bytes).unwrap();
        initiator.ends();
    }
    let mut initiator = Initiator::second(&served);
    assert_eq!(initiator.read10(0, 1), noise(512));
}

/// A client that goes in the middle of anything leaves nothing behind.
#[test]
fn leaving() {
    let served = served();
    for len in [1, 47, 48, 60] {
        let mut initiator = Initiator::normal(&served);
        let bytes =
            Pdu::new(0x01, 0xa0).with32(16, 7).with32(20, 512).with32(24, 100).data(&[1; 512]).bytes([false; 2]);
        initiator.stream.write_all(&bytes[..len]).unwrap();
        initiator.stream.shutdown(Shutdown::Both).unwrap();
    }
    for _ in 0..20 {
        let mut initiator = Initiator::normal(&served);
        (0..50).for_each(|_| _ = initiator.start(0, &cdb10(0x28, 0, 2000), 2000 * 512, &[]));
    }
    let started = Instant::now();
    while served.server.as_ref().unwrap().connections() > 0 || !served.target.sessions().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    alive(&served);
}

/// Who does not log in is cut off in time, who stalls in a PDU too, and there are not more than may be.
#[test]
fn limits() {
    let limits = Limits {
        connections: 2,
        login: Duration::from_millis(500),
        stall: Duration::from_millis(500),
        ..Limits::default()
    };
    let config = Config { limits, ..Config::default() };
    let served = Served::with(
        config,
        Target::new(TARGET).unwrap(),
        vec![unit(Disk::ReadOnly(Arc::new(Ram::new(noise(1 << 20)))))],
    );
    let started = Instant::now();
    let mut slow = Initiator::connect(&served);
    slow.stream.write_all(&[0x43; 10]).unwrap();
    slow.ends();
    let mut first = Initiator::normal(&served);
    first.stream.write_all(&[0; 10]).unwrap();
    first.ends();
    while served.server.as_ref().unwrap().connections() > 0 {
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    let one = Initiator::normal(&served);
    let two = Initiator::second(&served);
    Initiator::connect(&served).ends();
    drop((one, two));
}

/// More data than there is memory for are asked for one after the other.
#[test]
fn memory() {
    let limits = Limits { in_flight_bytes: 256 << 10, ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    let disk = Arc::new(Ram::new(vec![0; 16 << 20]));
    let served = Served::with(config, Target::new(TARGET).unwrap(), vec![unit(Disk::Writable(disk.clone()))]);
    let mut initiator = Initiator::connect(&served);
    assert_eq!(initiator.login(TARGET, &["ImmediateData=No", "MaxBurstLength=131072"]), [0, 0]);
    let _ = initiator.command(&[0; 6], 0, &[]);
    let data = noise(128 << 10);
    let tags: Vec<_> = (0..32).map(|n| initiator.start(0, &cdb10(0x2a, n * 256, 256), 0, &data)).collect();
    // Two are asked for; the third only when one is done.
    let asked = [initiator.receive().unwrap(), initiator.receive().unwrap()];
    initiator.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(initiator.stream.peek(&mut [0]).is_err(), "there is no memory for more");
    initiator.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let give = |initiator: &mut Initiator, request: &Pdu| {
        let (from, len) = (request.be32(40) as usize, request.be32(44) as usize);
        initiator.data_out(request.be32(16), request.be32(20), from, &data[from..from + len]);
    };
    asked.iter().for_each(|request| give(&mut initiator, request));
    let mut done = 0;
    while done < tags.len() {
        let pdu = initiator.receive().unwrap();
        match pdu.opcode() {
            0x31 => give(&mut initiator, &pdu),
            0x21 => {
                assert_eq!(pdu.head[3], 0);
                done += 1;
            }
            other => panic!("{other:#x}"),
        }
    }
    assert!(disk.bytes.read()[..32 * (128 << 10)].chunks(128 << 10).all(|piece| piece == data));
}

/// An initiator that goes in the middle of a write leaves nothing behind: a session has its target as long as it is there.
#[test]
fn gone_in_a_write() {
    let served = served();
    let before = Arc::strong_count(&served.target);
    let mut initiator = Initiator::connect(&served);
    assert_eq!(initiator.login(TARGET, &["ImmediateData=No"]), [0, 0]);
    let _ = initiator.command(&[0; 6], 0, &[]);
    let data = noise(128 << 10);
    initiator.start(0, &cdb10(0x2a, 0, 256), 0, &data);
    assert_eq!(initiator.receive().unwrap().opcode(), 0x31, "data are asked for");
    drop(initiator);
    let started = Instant::now();
    while Arc::strong_count(&served.target) > before {
        assert!(started.elapsed() < Duration::from_secs(10), "its session is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A session that a stock initiator could have had, recorded and then damaged in every place: nothing falls, and the
/// server serves the next one.
#[test]
fn mutated_sessions() {
    let limits = Limits { login: Duration::from_millis(300), stall: Duration::from_millis(100), ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    let disk = Disk::Writable(Arc::new(Ram::new(noise(1 << 20))));
    let served = Served::with(config, Target::new(TARGET).unwrap(), vec![unit(disk)]);
    let identity = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0InitialR2T=No\0HeaderDigest=None\0");
    let command = |tag: u32, flags: u8, expected: u32, cdb: &[u8]| {
        Pdu::new(0x01, flags).with32(16, tag).with32(20, expected).with32(24, 99 + tag).with(32, cdb)
    };
    let mut session =
        Pdu::new(0x43, 0x87).with(8, &[0x80]).with32(16, 1).with32(24, 100).data(identity.as_bytes()).bytes([false; 2]);
    for pdu in [
        command(1, 0xc0, 36, &[0x12, 0, 0, 0, 36, 0]),
        command(2, 0xc0, 4096, &cdb10(0x28, 0, 8)),
        command(3, 0x20, 4096, &cdb10(0x2a, 8, 8)).data(&[1; 512]),
        Pdu::new(0x05, 0x80).with32(16, 3).with32(20, u32::MAX).with32(40, 512).data(&[2; 3584]),
        command(4, 0xa0, 24, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0]).data(&[0; 24]),
        command(5, 0xc0, 255, &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0]),
        command(6, 0xa0, 24, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0])
            .data(&[0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 0]),
        Pdu::new(0x42, 0x81).with32(16, 7).with32(20, 2),
        Pdu::new(0x40, 0x80).with32(16, 8).with32(20, u32::MAX).data(b"ping"),
        Pdu::new(0x04, 0x80).with32(16, 9).with32(20, u32::MAX).with32(24, 106).data(b"SendTargets=\0"),
        Pdu::new(0x46, 0x80).with32(16, 10).with32(24, 107),
    ] {
        session.extend(pdu.bytes([false; 2]));
    }
    let talk = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(served.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    let whole = talk(&session);
    let mut kinds = Vec::new();
    let mut rest = &whole[..];
    while let Some((head, after)) = rest.split_first_chunk::<48>() {
        kinds.push(head[0]);
        let len = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        rest = &after[len.next_multiple_of(4)..];
    }
    // Commands are answered in the order in which they are done; login comes first. The read is answered, or aborted before.
    assert_eq!(kinds.first(), Some(&0x23));
    let data = kinds.iter().filter(|kind| **kind == 0x25).count();
    kinds.retain(|kind| *kind != 0x25);
    kinds.sort_unstable();
    assert_eq!(kinds, [0x20, 0x21, 0x21, 0x21, 0x22, 0x23, 0x24, 0x26], "as it is, it works");
    assert!((2..=3).contains(&data), "{data}");
    let odd = noise(session.len());
    for (at, odd) in odd.iter().enumerate() {
        let mut damaged = session.clone();
        damaged[at] ^= odd;
        talk(&damaged);
        if at % 7 == 0 {
            talk(&session[..at]);
        }
    }
    alive(&served);
}
