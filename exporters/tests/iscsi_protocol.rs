//! The iSCSI server with an initiator of our own: what no stock tool sends.

mod common;
#[path = "common/iscsi.rs"]
mod iscsi;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blockdev::overlay::{self, Overlay};
use common::{Ram, checkered, noise};
use exporters::{
    Disk,
    iscsi::{Config, Limits, Target, Targets},
    scsi::{LogicalUnit, Options},
};
use iscsi::{INITIATOR, Initiator, Pdu, Served, TARGET, cdb10, cdb16, unit};

fn writable(bytes: Vec<u8>) -> (Served, Arc<Ram>) {
    let disk = Arc::new(Ram::new(bytes));
    (Served::new(Disk::Writable(disk.clone())), disk)
}

fn limited(limits: Limits, disk: Disk) -> Served {
    Served::with(Config { limits, ..Config::default() }, Target::new(TARGET).unwrap(), vec![unit(disk)])
}

/// Every way in which data may come, with and without digests, delivers the same bytes.
#[test]
fn ways_of_data() {
    let (served, _disk) = writable(vec![0; 8 << 20]);
    let mut seed = 0;
    for digests in ["None", "CRC32C"] {
        for (r2t, immediate) in [("Yes", "Yes"), ("Yes", "No"), ("No", "Yes"), ("No", "No")] {
            let mut initiator = Initiator::connect(&served);
            let keys = [
                &*format!("HeaderDigest={digests}"),
                &*format!("DataDigest={digests}"),
                &*format!("InitialR2T={r2t}"),
                &*format!("ImmediateData={immediate}"),
                "MaxRecvDataSegmentLength=65536",
                "MaxBurstLength=131072",
                "FirstBurstLength=16384",
            ];
            assert_eq!(initiator.login(TARGET, &keys), [0, 0]);
            for blocks in [1, 15, 16, 17, 32, 33, 129, 2048] {
                seed += 1;
                let mut data = noise(512 * (blocks + seed));
                let data = data.split_off(512 * seed);
                initiator.write10(7, &data);
                assert!(initiator.read10(7, u16::try_from(blocks).unwrap()) == data, "{keys:?} {blocks}");
            }
        }
    }
    assert!(served.target.unit(0).unwrap().counters().written > 8 << 20);
}

/// A long read comes in bursts of the agreed length, of which the last PDU of each is marked.
#[test]
fn bursts() {
    let (served, _disk) = writable(noise(1 << 20));
    let mut initiator = Initiator::connect(&served);
    assert_eq!(initiator.login(TARGET, &["MaxRecvDataSegmentLength=4096", "MaxBurstLength=8192"]), [0, 0]);
    let _ = initiator.command(&[0; 6], 0, &[]);
    let tag = initiator.start(0, &cdb10(0x28, 0, 50), 25600, &[]);
    let (mut got, mut marks) = (Vec::<u8>::new(), Vec::new());
    while got.len() < 25600 {
        let pdu = initiator.receive().unwrap();
        assert_eq!((pdu.opcode(), pdu.be32(16), pdu.be32(40) as usize), (0x25, tag, got.len()));
        got.extend(&pdu.data);
        marks.push(pdu.head[1]);
    }
    assert!(got == noise(25600));
    assert_eq!(marks, [0, 0x80, 0, 0x80, 0, 0x80, 0x81]);
}

/// What the CDB says and what the initiator expects may differ; both are told.
#[test]
fn residuals() {
    let (served, disk) = writable(noise(1 << 20));
    let mut initiator = Initiator::normal(&served);
    let less = initiator.command(&cdb10(0x28, 0, 2), 512, &[]);
    assert_eq!((less.status, less.data.len(), less.residual), (0, 512, (4, 512)));
    let more = initiator.command(&cdb10(0x28, 0, 2), 4096, &[]);
    assert_eq!((more.status, more.data.len(), more.residual), (0, 1024, (2, 3072)));
    let before = disk.bytes.read().clone();
    let longer = initiator.command(&cdb10(0x2a, 0, 1), 0, &[7; 1024]);
    assert_eq!((longer.status, longer.residual), (0, (2, 512)));
    assert!(disk.bytes.read()[..512] == [7; 512] && disk.bytes.read()[512..] == before[512..]);
    let inquiry = initiator.command(&[0x12, 0, 0, 0, 36, 0], 255, &[]);
    assert_eq!((inquiry.data.len(), inquiry.residual), (36, (2, 219)));
    assert_eq!(&inquiry.data[8..16], b"REVENANT");
}

/// Commands are done in the order of their numbers, by whichever connection they come.
#[test]
fn two_connections() {
    let (served, _disk) = writable(vec![0; 1 << 20]);
    let mut first = Initiator::connect(&served);
    assert_eq!(first.login(TARGET, &["MaxConnections=4"]), [0, 0]);
    let _ = first.command(&[0; 6], 0, &[]);
    let mut second = Initiator::connect(&served);
    (second.handle, second.cid, second.command_number) = (first.handle, 1, first.command_number);
    assert_eq!(second.login(TARGET, &[]), [0, 0]);
    assert_eq!(second.handle, first.handle);
    // The second write comes first, and waits.
    second.command_number = first.command_number.wrapping_add(1);
    let late = second.start(0, &cdb10(0x2a, 0, 1), 0, &[2; 512]);
    second.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut byte = [0];
    assert!(std::io::Read::read(&mut second.stream, &mut byte).is_err(), "not before its turn");
    second.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let early = first.start(0, &cdb10(0x2a, 0, 1), 0, &[1; 512]);
    assert_eq!(first.finish(early, &[1; 512]).status, 0);
    assert_eq!(second.finish(late, &[2; 512]).status, 0);
    first.command_number = first.command_number.wrapping_add(1);
    assert_eq!(first.read10(0, 1), [2; 512]);
    // A connection goes; the session stays.
    second.command_number = first.command_number;
    second.send(&Pdu::new(0x46, 0x81).with32(16, 99).with(20, &1_u16.to_be_bytes()).with32(24, second.command_number));
    let answer = second.receive().unwrap();
    assert_eq!((answer.opcode(), answer.head[2]), (0x26, 0));
    second.ends();
    assert_eq!(first.read10(0, 1), [2; 512]);
    // Five are one too many.
    let mut others: Vec<_> = (2..6)
        .map(|cid| {
            let mut other = Initiator::connect(&served);
            (other.handle, other.cid) = (first.handle, cid);
            let status = other.login(TARGET, &[]);
            (other, status)
        })
        .collect();
    assert_eq!(others.pop().unwrap().1, [2, 6]);
    assert!(others.iter().all(|(_, status)| *status == [0, 0]));
}

/// A number outside of the window is ignored, a tag that is in use is rejected.
#[test]
fn numbers_and_tags() {
    let disk = Ram { delay: Duration::from_millis(300), ..Ram::new(noise(1 << 20)) };
    let served = Served::new(Disk::ReadOnly(Arc::new(disk)));
    let mut initiator = Initiator::normal(&served);
    let _ = initiator.command(&[0; 6], 0, &[]);
    let next = initiator.command_number;
    for wrong in [initiator.last_command.wrapping_add(1), next.wrapping_sub(1)] {
        initiator.command_number = wrong;
        initiator.start(0, &[0; 6], 0, &[]);
    }
    initiator.command_number = next;
    let tag = initiator.start(0, &cdb10(0x28, 0, 1), 512, &[]);
    initiator.tag -= 1;
    initiator.start(0, &[0; 6], 0, &[]);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let pdu = initiator.receive().unwrap();
        seen.push((pdu.opcode(), pdu.head[2], pdu.be32(16)));
    }
    seen.sort_unstable();
    assert_eq!(seen, [(0x25, 0, tag), (0x3f, 7, u32::MAX)]);
}

/// While the disk takes long, pings and aborts are answered at once, and what was aborted says nothing more.
#[test]
fn slow_disk() {
    let disk = Ram { delay: Duration::from_secs(2), ..Ram::new(noise(1 << 20)) };
    let served = Served::new(Disk::ReadOnly(Arc::new(disk)));
    let mut initiator = Initiator::normal(&served);
    let _ = initiator.command(&[0; 6], 0, &[]);
    let started = Instant::now();
    let tags: Vec<_> = (0..8).map(|lba| initiator.start(0, &cdb10(0x28, lba, 1), 512, &[])).collect();
    initiator.send(&Pdu::new(0x40, 0x80).with32(16, 5000).with32(20, u32::MAX).data(b"are you there"));
    let answer = initiator.receive().unwrap();
    assert_eq!((answer.opcode(), &*answer.data), (0x20, &b"are you there"[..]));
    initiator.count(&answer);
    assert_eq!(initiator.manage(1, tags[0]), 0, "the one that the disk is at");
    assert_eq!(initiator.manage(1, tags[7]), 0, "one that waits");
    assert_eq!(initiator.manage(1, 4711), 1, "there is none");
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    let mut left: Vec<_> = tags[1..7].to_vec();
    while !left.is_empty() {
        let pdu = initiator.receive().unwrap();
        assert_eq!(pdu.opcode(), 0x25);
        assert!(left.contains(&pdu.be32(16)), "{pdu:?}");
        left.retain(|tag| *tag != pdu.be32(16));
        initiator.count(&pdu);
    }
    // At the same time, not one after the other.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(initiator.read10(0, 1), noise(512));
}

/// A reset aborts everybody's commands, and the others are told.
#[test]
fn reset() {
    let (served, _disk) = writable(vec![0; 1 << 20]);
    let (mut one, mut two) = (Initiator::normal(&served), Initiator::second(&served));
    for initiator in [&mut one, &mut two] {
        assert_eq!(initiator.command_once(&[0; 6], 0, &[]).status, 0);
    }
    one.good(&[0x16, 0, 0, 0, 0, 0], 0, &[]);
    assert_eq!(two.command_once(&cdb10(0x28, 0, 1), 512, &[]).status, 0x18, "reserved");
    // A write whose data never come.
    two.immediate = false;
    let stuck = two.start(0, &cdb10(0x2a, 0, 1), 0, &[1; 512]);
    let _ = stuck;
    one.immediate = false;
    let tag = one.start(0, &cdb10(0x2a, 0, 1), 0, &[1; 512]);
    let request = one.receive().unwrap();
    assert_eq!((request.opcode(), request.be32(16)), (0x31, tag));
    assert_eq!(two.finish(stuck, &[]).status, 0x18);
    assert_eq!(two.manage(5, 0), 0);
    assert_eq!(two.command_once(&[0; 6], 0, &[]).sense_code(), (6, 0x29, 3));
    assert_eq!(two.read10(0, 1), [0; 512]);
    // Its data find no command, and it is told why.
    one.data_out(tag, request.be32(20), 0, &[1; 512]);
    assert_eq!(one.command_once(&[0; 6], 0, &[]).sense_code(), (6, 0x29, 3));
    assert_eq!(one.read10(0, 1), [0; 512]);
    assert_eq!(one.manage(14, 0), 5, "no such function");
}

/// An initiator that logs in again has lost its old session, whatever the server thinks of it, and what it reserved.
#[test]
fn reinstatement() {
    let (served, _disk) = writable(vec![0; 1 << 20]);
    let mut old = Initiator::normal(&served);
    old.good(&[0x16, 0, 0, 0, 0, 0], 0, &[]);
    let mut new = Initiator::normal(&served);
    old.ends();
    let mut other = Initiator::second(&served);
    assert_eq!(other.read10(0, 1), [0; 512]);
    assert_eq!(new.read10(0, 1), [0; 512]);
    assert_eq!(served.target.sessions().len(), 2);
    new.send(&Pdu::new(0x46, 0x80).with32(16, 9).with32(24, new.command_number));
    let answer = new.receive().unwrap();
    assert_eq!((answer.opcode(), answer.head[2]), (0x26, 0));
    new.ends();
    let started = Instant::now();
    while served.target.sessions().len() > 1 {
        assert!(started.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(5));
    }
}

/// The list of targets, whole, though it does not fit into one answer; and who asks for what may not.
#[test]
fn discovery() {
    let served = Served::new(Disk::ReadOnly(Arc::new(Ram::new(vec![0; 4096]))));
    let targets: Arc<Targets> = served.server.as_ref().unwrap().targets().clone();
    for number in 0..100 {
        targets.insert(Target::new(format!("iqn.2026-01.example.test:more{number:03}")).unwrap()).unwrap();
    }
    let hidden = Target::new("iqn.2026-01.example.test:hidden").unwrap();
    targets.insert(hidden.with_initiators(vec!["iqn.2026-01.example.test:somebody".into()])).unwrap();
    let mut initiator = Initiator::connect(&served);
    let text = format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0MaxRecvDataSegmentLength=512\0");
    assert_eq!(initiator.login_step(0x87, &text).0, [0, 0]);
    let (mut list, mut tag) = (Vec::new(), u32::MAX);
    let mut asked = &b"SendTargets=All\0"[..];
    loop {
        let request = Pdu::new(0x04, 0x80).with32(16, 3).with32(20, tag).with32(24, initiator.command_number);
        initiator.send(&request.data(asked));
        initiator.command_number += 1;
        asked = b"";
        let answer = initiator.receive().unwrap();
        assert!(answer.opcode() == 0x24 && answer.data.len() <= 512);
        initiator.count(&answer);
        list.extend(&answer.data);
        tag = answer.be32(20);
        if answer.head[1] & 0x80 != 0 {
            break;
        }
    }
    let list = String::from_utf8(list).unwrap();
    assert_eq!(list.matches("TargetName=").count(), 101);
    assert_eq!(list.matches(&format!("TargetAddress={},1", served.address)).count(), 101);
    for (target, status) in [("iqn.2026-01.example.test:hidden", [2, 2]), ("iqn.2026-01.example.test:none", [2, 3])] {
        assert_eq!(Initiator::connect(&served).login(target, &[]), status);
    }
}

/// Units come and go, and initiators are told; a target goes, and with it its sessions.
#[test]
fn comings_and_goings() {
    let (served, _disk) = writable(vec![0; 1 << 20]);
    let mut initiator = Initiator::normal(&served);
    let luns = |initiator: &mut Initiator| {
        let mut cdb = [0; 12];
        (cdb[0], cdb[8]) = (0xa0, 1);
        let list = initiator.good(&cdb, 256, &[]);
        list[8..].chunks(8).map(|lun| lun[1]).collect::<Vec<_>>()
    };
    assert_eq!(luns(&mut initiator), [0]);
    let _ = initiator.command(&[0; 6], 0, &[]);
    let ram = || Disk::ReadOnly(Arc::new(Ram::new(vec![3; 4096])));
    served.target.insert(5, Arc::new(unit(ram()))).unwrap();
    assert!(served.target.insert(5, Arc::new(unit(ram()))).is_err());
    assert_eq!(initiator.command_once(&[0; 6], 0, &[]).sense_code(), (6, 0x3f, 0x0e));
    assert_eq!(luns(&mut initiator), [0, 5]);
    let tag = initiator.start(5, &cdb10(0x28, 0, 1), 512, &[]);
    assert_eq!(initiator.finish(tag, &[]).data, [3; 512]);
    assert!(served.target.remove(5).is_some());
    let tag = initiator.start(5, &[0; 6], 0, &[]);
    assert_eq!(initiator.finish(tag, &[]).sense_code(), (5, 0x25, 0));
    let tag = initiator.start(5, &[0x12, 0, 0, 0, 96, 0], 96, &[]);
    assert_eq!(initiator.finish(tag, &[]).data[0], 0x7f);
    let targets = served.server.as_ref().unwrap().targets().clone();
    assert!(targets.remove(TARGET).is_some());
    let message = initiator.receive().unwrap();
    assert_eq!((message.opcode(), message.head[36]), (0x32, 3));
    initiator.ends();
    assert_eq!(Initiator::connect(&served).login(TARGET, &[]), [2, 3]);
}

/// Persistent reservations that were to survive are there after a restart, and keep the others away.
#[test]
fn reservations_survive() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reservations");
    let disk = Arc::new(Ram::new(vec![0; 1 << 20]));
    let start = |address: &str| {
        let options = Options { identity: b"disk".to_vec(), reservations: Some(file.clone()), ..Options::default() };
        let unit = LogicalUnit::new(Disk::Writable(disk.clone()), options).unwrap();
        Served::at(address, Config::default(), Target::new(TARGET).unwrap(), vec![unit])
    };
    let out = |initiator: &mut Initiator, service: u8, kind: u8, key: u64, other: u64, flags: u8| {
        let mut list = [key.to_be_bytes(), other.to_be_bytes(), [0; 8]].concat();
        list[20] = flags;
        initiator.command(&[0x5f, service, kind, 0, 0, 0, 0, 0, 24, 0], 0, &list).status
    };
    let mut served = start("127.0.0.1:0");
    {
        let mut owner = Initiator::normal(&served);
        assert_eq!(out(&mut owner, 0, 0, 0, 0xabc, 1), 0, "register, to survive");
        assert_eq!(out(&mut owner, 1, 5, 0xabc, 0, 0), 0, "reserve for registrants to write");
        assert_eq!(owner.good(&[0x12, 1, 0x83, 0, 255, 0], 255, &[])[8] >> 4, 3, "NAA of local assignment");
    }
    let identity = served.target.unit(0).unwrap().naa();
    served.server.take().unwrap().shutdown(Duration::from_secs(5)).unwrap();
    let served = start(&served.address.to_string());
    assert_eq!(served.target.unit(0).unwrap().naa(), identity);
    let mut other = Initiator::second(&served);
    assert_eq!(other.command(&cdb10(0x2a, 0, 1), 0, &[1; 512]).status, 0x18);
    assert_eq!(other.read10(0, 1), [0; 512]);
    let mut owner = Initiator::normal(&served);
    owner.write10(0, &[1; 512]);
    let keys = owner.good(&[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0], 256, &[]);
    assert_eq!(keys[8..16], 0xabc_u64.to_be_bytes());
    let full = owner.good(&[0x5e, 3, 0, 0, 0, 0, 0, 1, 0, 0], 256, &[]);
    assert_eq!((full[8 + 12], full[8 + 13]), (1, 5), "it holds it");
    assert!(String::from_utf8_lossy(&full).contains(INITIATOR));
    // Another takes over.
    assert_eq!(out(&mut other, 6, 0, 0, 0xdef, 1), 0);
    assert_eq!(out(&mut other, 5, 1, 0xdef, 0xabc, 0), 0, "preempt and abort");
    assert_eq!(owner.command_once(&[0; 6], 0, &[]).sense_code(), (6, 0x2a, 5));
    assert_eq!(owner.command(&cdb10(0x2a, 0, 1), 0, &[1; 512]).status, 0x18);
    other.write10(0, &[2; 512]);
    assert_eq!(out(&mut other, 3, 0, 0xdef, 0, 0), 0, "clear");
    owner.write10(0, &[3; 512]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("registrant"), "{text}");
}

/// COMPARE AND WRITE is a lock: of many who count at once, none is lost.
#[test]
fn compare_and_write_is_atomic() {
    let (served, disk) = writable(vec![0; 1 << 20]);
    let (served, rounds) = (&served, 40_u64);
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                let mut initiator = Initiator::connect(served);
                initiator.isid[5] = 10 + number;
                assert_eq!(initiator.login(TARGET, &[]), [0, 0]);
                let mut cdb = cdb16(0x89, 3, 0);
                cdb[13] = 1;
                let mut counted = 0;
                while counted < rounds {
                    let mut both = initiator.read10(3, 1);
                    both.extend_from_within(..);
                    let value = u64::from_be_bytes(both[..8].try_into().unwrap());
                    both[512..520].copy_from_slice(&(value + 1).to_be_bytes());
                    let ended = initiator.command(&cdb, 0, &both);
                    match ended.status {
                        0 => counted += 1,
                        _ => assert_eq!(ended.sense_code(), (0x0e, 0x1d, 0)),
                    }
                }
            });
        }
    });
    assert_eq!(disk.bytes.read()[3 * 512..][..8], (4 * rounds).to_be_bytes());
}

/// Bytes that cannot be read, no room, nothing to write to: each is told as what it is.
#[test]
fn failures() {
    let bad = Ram { bad: Some(70_000..70_100), ..Ram::new(noise(1 << 20)) };
    let served = Served::new(Disk::ReadOnly(Arc::new(bad)));
    let mut initiator = Initiator::normal(&served);
    let ended = initiator.command(&cdb10(0x28, 100, 100), 51200, &[]);
    assert_eq!(ended.sense_code(), (3, 0x11, 0));
    assert_eq!(ended.sense[3..7], 136_u32.to_be_bytes(), "the block at byte 69632 is the first");
    assert_eq!(initiator.read10(0, 136), noise(136 * 512));
    let ended = initiator.command(&cdb10(0x2a, 0, 1), 0, &[1; 512]);
    assert_eq!(ended.sense_code(), (7, 0x27, 0));
    assert_eq!(initiator.good(&[0x1a, 0, 0x3f, 0, 255, 0], 255, &[])[2] & 0x80, 0x80, "WP");
    let past = initiator.command(&cdb10(0x28, 2047, 2), 1024, &[]);
    assert_eq!(past.sense_code(), (5, 0x21, 0));

    let folder = tempfile::tempdir().unwrap();
    let base = Arc::new(Ram::new(vec![0; 64 << 20]));
    let options = overlay::Options { quota: Some(4 << 20), ..overlay::Options::new("base") };
    let disk = Overlay::create(&folder.path().join("overlay"), base, &options).unwrap();
    let served = Served::new(Disk::Writable(Arc::new(disk)));
    let mut initiator = Initiator::normal(&served);
    let full = (0..64).map(|mib| initiator.command(&cdb10(0x2a, mib * 2048, 128), 0, &[5; 65536]));
    let full = full.into_iter().find(|ended| ended.status != 0).expect("no room");
    assert_eq!(full.sense_code(), (7, 0x27, 7), "hypervisors pause on this");
    assert_eq!(initiator.read10(0, 128), [5; 65536], "what was there is there");
}

/// Holes of the disk are what GET LBA STATUS tells, and UNMAP and WRITE SAME make more of them.
#[test]
fn holes() {
    let (served, disk) = writable(checkered());
    let mut initiator = Initiator::normal(&served);
    let status = |initiator: &mut Initiator, lba: u64| {
        let mut cdb = cdb16(0x9e, lba, 4096);
        cdb[1] = 0x12;
        let list = initiator.good(&cdb, 4096, &[]);
        let run = |d: &[u8]| {
            let be = |at: usize, n: usize| d[at..at + n].iter().fold(0_u64, |v, b| v << 8 | u64::from(*b));
            (be(0, 8), be(8, 4), d[12])
        };
        list[8..].chunks(16).map(run).collect::<Vec<_>>()
    };
    let found = status(&mut initiator, 1000);
    assert_eq!(found[..3], [(1000, 1048, 0), (2048, 2048, 1), (4096, 2048, 0)]);
    assert_eq!(*found.last().unwrap(), (16384, 1, 0));
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (lba, blocks) in [(0_u64, 16_u32), (4096, 2048)] {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    initiator.good(&[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], 0, &list);
    assert_eq!(status(&mut initiator, 0)[..3], [(0, 16, 1), (16, 2032, 0), (2048, 6144, 1)]);
    // WRITE SAME(16) of a pattern, and with NDOB.
    initiator.good(&cdb16(0x93, 100, 5000), 0, &[0x5a; 512]);
    assert!(disk.bytes.read()[100 * 512..5100 * 512].iter().all(|byte| *byte == 0x5a));
    let mut cdb = cdb16(0x93, 104, 4000);
    cdb[1] = 0x09;
    initiator.good(&cdb, 0, &[]);
    assert!(disk.bytes.read()[104 * 512..4104 * 512].iter().all(|byte| *byte == 0));
    assert_eq!(disk.bytes.read()[103 * 512], 0x5a);
    initiator.good(&cdb10(0x35, 0, 0), 0, &[]);
    assert_eq!(disk.flushes.load(std::sync::atomic::Ordering::SeqCst), 1);
    // Without a cache, every write is flushed.
    let page = initiator.good(&[0x1a, 8, 8, 0, 255, 0], 255, &[]);
    assert_eq!(page[6] & 4, 4, "WCE");
    let mut select = page;
    (select[0], select[6]) = (0, 0);
    let len = u8::try_from(select.len()).unwrap();
    initiator.good(&[0x15, 0x10, 0, 0, len, 0], 0, &select);
    let before = disk.flushes.load(std::sync::atomic::Ordering::SeqCst);
    initiator.write10(0, &[1; 512]);
    assert_eq!(disk.flushes.load(std::sync::atomic::Ordering::SeqCst), before + 1);
}

/// A peer that says nothing is asked whether it is there, and cut off when it does not answer.
#[test]
fn silence() {
    let limits = Limits { silence: Duration::from_millis(600), ..Limits::default() };
    let served = limited(limits, Disk::ReadOnly(Arc::new(Ram::new(noise(1 << 20)))));
    let mut initiator = Initiator::normal(&served);
    for _ in 0..3 {
        let ping = initiator.receive().unwrap();
        assert_eq!((ping.opcode(), ping.be32(16)), (0x20, u32::MAX));
        assert_eq!(ping.be32(24), initiator.status_number, "it takes no number");
        initiator.send(&Pdu::new(0x40, 0x80).with32(16, u32::MAX).with32(20, ping.be32(20)));
    }
    let _ = initiator.command(&[0; 6], 0, &[]);
    assert_eq!(initiator.read10(0, 1), noise(512));
    let started = Instant::now();
    initiator.ends();
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// At the end, what has arrived is done, initiators are told, and what was written is durable.
#[test]
fn shutdown() {
    let disk = Arc::new(Ram { delay: Duration::from_millis(200), ..Ram::new(noise(1 << 20)) });
    let mut served = Served::new(Disk::Writable(disk.clone()));
    let mut initiator = Initiator::normal(&served);
    let _ = initiator.command(&[0; 6], 0, &[]);
    let tags: Vec<_> = (0..6).map(|lba| initiator.start(0, &cdb10(0x28, lba, 1), 512, &[])).collect();
    thread::sleep(Duration::from_millis(100));
    let server = served.server.take().unwrap();
    let ending = thread::spawn(move || server.shutdown(Duration::from_secs(10)));
    let mut seen = 0;
    let message = loop {
        let pdu = initiator.receive().expect("not without a word");
        match pdu.opcode() {
            0x25 => seen += 1,
            _ => break pdu,
        }
    };
    assert_eq!((message.opcode(), message.head[36]), (0x32, 3));
    assert_eq!(seen, tags.len());
    initiator.ends();
    ending.join().unwrap().unwrap();
    assert!(disk.flushes.load(std::sync::atomic::Ordering::SeqCst) > 0);
}
