//! The NFS server, call by call: what stock clients rarely or never send.

#[path = "common/rpc.rs"]
mod rpc;
#[path = "common/tree.rs"]
mod tree;

use std::{
    collections::BTreeSet,
    io::Write,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use exporters::nfs::{Address, Clients, Config, Export, ExportOptions, Limits, Listener, Server, Sockets};
use rpc::{Client, MOUNT, NFS, PORTMAP, Results, Words};
use tree::{fifo, file, folder, link, special_file};
use vfs::{door::TRAIL_MAX, node::Node};

const STALE: u32 = 70;
const READ_ONLY: u32 = 30;

fn start(root: Node, config: Config) -> (Server, SocketAddr) {
    start_with(root, config, ExportOptions::default())
}

fn start_with(root: Node, config: Config, options: ExportOptions) -> (Server, SocketAddr) {
    let nfs = Listener::tcp("127.0.0.1:0").unwrap();
    let export = Export::new(root, options).unwrap();
    let server = Server::start(config, export, Sockets { nfs, ..Sockets::default() }).unwrap();
    let Address::Tcp(address) = server.addresses()[0] else { unreachable!() };
    (server, address)
}

fn numbered(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8).collect()
}

fn small() -> Node {
    small_at(1)
}

fn small_at(ino: u64) -> Node {
    folder(
        ino,
        vec![
            ("file", file(10, 0o644, numbered(10_000))),
            ("secret", file(11, 0o600, b"secret".to_vec())),
            ("link", link(12, "file")),
            ("fifo", fifo(13)),
            ("bad", special_file(14, 0o644, numbered(100), |item| item.bad = true)),
            ("short", special_file(15, 0o644, numbered(100), |item| item.attributes.size = 200)),
            ("dir", folder(20, vec![("inner", folder(21, vec![("deep", file(22, 0o444, b"deep".to_vec()))]))])),
            ("program", file(16, 0o711, b"#!".to_vec())),
        ],
    )
}

/// What is no call of ours is answered as the protocol of calls says, or hung up on.
#[test]
fn calls_that_make_no_sense() {
    let (_server, address) = start(small(), Config::default());
    let mut client = Client::new(address);
    let none = Words::default();
    assert!(client.nfs(0, &none).is_empty());
    assert!(client.call_for(0, [MOUNT, 3, 0], &none).is_empty());
    // The lock manager is refused by not being there.
    assert!(client.call_for(1, [100_021, 4, 0], &none).is_empty());
    let versions = &client.call_for(2, [NFS, 4, 0], &none)[..];
    assert_eq!([Results(versions).u32(), Results(&versions[4..]).u32()], [3, 3]);
    client.call_for(3, [NFS, 3, 22], &none);
    client.call_for(3, [MOUNT, 3, 77], &none);
    for arguments in [none.clone(), Words::default().u32(u32::MAX), Words::default().bytes(&[1; 65])] {
        for procedure in [1, 3, 4, 5, 6, 16, 17, 18, 19, 20] {
            client.call_for(4, [NFS, 3, procedure], &arguments);
        }
    }
    client.call_for(4, [MOUNT, 3, 1], &Words::default().bytes(&[b'x'; 1025]));

    // Another version of the protocol of calls, and credentials that are not spoken here.
    let mut message = client.message(NFS, 3, 0, &none);
    message[11] = 3;
    client.send(&message);
    let reply = client.receive().unwrap();
    assert_eq!(reply[4..], Words::default().u32(1).u32(1).u32(0).u32(2).u32(2).0);
    let mut message = client.message(NFS, 3, 0, &none);
    message[27] = 6;
    client.send(&message);
    let reply = client.receive().unwrap();
    assert_eq!(reply[4..], Words::default().u32(1).u32(1).u32(1).u32(2).0);
    // Groups beyond the 16 that there may be.
    let mut message = client.message(NFS, 3, 0, &none);
    let groups = 24 + 4 + 4 + 4 + 8 + 8;
    message[groups..groups + 4].copy_from_slice(&17_u32.to_be_bytes());
    client.send(&message);
    assert_eq!(client.receive().unwrap()[12..16], [0, 0, 0, 1]);

    for garbage in [&b"short"[..], &[0, 0, 0, 9, 0, 0, 0, 1], &[0xff; 64]] {
        let mut client = Client::new(address);
        client.send(garbage);
        assert_eq!(client.receive(), None, "{garbage:?}");
    }
}

/// A record may come in pieces of any size; one that is absurdly long ends the connection at once.
#[test]
fn records_in_pieces() {
    let (_server, address) = start(small(), Config::default());
    let mut client = Client::new(address);
    let root = client.mount("/").unwrap();
    let message = client.message(NFS, 3, 1, &Words::default().bytes(&root));
    let mut pieces = Vec::new();
    for (at, byte) in message.iter().enumerate() {
        let last = if at + 1 == message.len() { 1 << 31 } else { 0 };
        pieces.extend((1_u32 | last).to_be_bytes());
        pieces.push(*byte);
    }
    for byte in pieces {
        client.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.receive().unwrap().len(), 24 + 4 + 84);

    let started = Instant::now();
    for marks in [vec![u32::MAX], vec![0x7fff_ffff], vec![0; (4 << 20) / 4 + 1]] {
        let mut client = Client::new(address);
        // The server may hang up before it has all of it.
        let _ = client.stream.write_all(&marks.iter().flat_map(|mark| mark.to_be_bytes()).collect::<Vec<_>>());
        assert_eq!(client.receive(), None);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Everything that writes is refused in the words that belong to it, also a write of a megabyte.
#[test]
fn nothing_is_written() {
    let (_server, address) = start(small(), Config::default());
    let mut client = Client::new(address);
    let root = client.mount("/").unwrap();
    let file = client.lookup(&root, b"file").unwrap();
    let named = || Words::default().bytes(&root).bytes(b"new");
    for (procedure, arguments, words) in [
        (2, Words::default().bytes(&file).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0), 2),
        (7, Words::default().bytes(&file).u64(0).u32(1 << 20).u32(2).bytes(&vec![7; 1 << 20]), 2),
        (8, named().u32(0), 2),
        (9, named(), 2),
        (10, named(), 2),
        (11, named(), 2),
        (12, Words::default().bytes(&root).bytes(b"file"), 2),
        (13, Words::default().bytes(&root).bytes(b"dir"), 2),
        (14, Words::default().bytes(&root).bytes(b"file").bytes(&root).bytes(b"other"), 4),
        (15, Words::default().bytes(&file).bytes(&root).bytes(b"other"), 3),
        (21, Words::default().bytes(&file).u64(0).u32(0), 2),
    ] {
        let reply = client.nfs(procedure, &arguments);
        assert_eq!(Results(&reply).u32(), READ_ONLY, "procedure {procedure}");
        assert!(reply.len() == 4 + 4 * words && reply[4..].iter().all(|&byte| byte == 0), "procedure {procedure}");
    }
    assert_eq!(client.read(&file, 0, 20_000).unwrap(), (numbered(10_000), true));
}

/// Reads: whole, in part, at and past the end, of what is no file, of what cannot be read.
#[test]
fn reads() {
    let (_server, address) = start(small(), Config::default());
    let mut client = Client::new(address);
    let root = client.mount("").unwrap();
    let handle = |client: &mut Client, name: &str| client.lookup(&root, name.as_bytes()).unwrap();
    let content = numbered(10_000);
    let file = handle(&mut client, "file");
    assert_eq!(client.read(&file, 0, u32::MAX), Ok((content.clone(), true)));
    assert_eq!(client.read(&file, 4097, 100), Ok((content[4097..4197].to_vec(), false)));
    assert_eq!(client.read(&file, 9_999, 1), Ok((content[9_999..].to_vec(), true)));
    for offset in [10_000, 10_001, u64::MAX] {
        assert_eq!(client.read(&file, offset, 5), Ok((Vec::new(), true)));
    }
    assert_eq!(client.read(&root, 0, 5), Err(21));
    for (name, status) in [("link", 22), ("fifo", 22), ("bad", 5)] {
        let handle = handle(&mut client, name);
        assert_eq!(client.read(&handle, 0, 5), Err(status), "{name}");
    }
    // Whatever its attributes say, a file ends where its content does.
    let short = handle(&mut client, "short");
    assert_eq!(client.read(&short, 0, 200), Ok((numbered(100), true)));

    let link = handle(&mut client, "link");
    let reply = client.nfs(5, &Words::default().bytes(&link));
    let mut reply = Results(&reply);
    assert_eq!(reply.u32(), 0);
    reply.attributes().unwrap();
    assert_eq!(reply.bytes(), b"file");
    assert_eq!(Results(&client.nfs(5, &Words::default().bytes(&file))).u32(), 22);
}

/// Names: as they are, the two dots, those that cannot be.
#[test]
fn names() {
    let (_server, address) = start(small(), Config::default());
    let mut client = Client::new(address);
    let root = client.mount("///").unwrap();
    let inner = client.mount("/dir/./inner/").unwrap();
    assert_eq!(client.getattr(&inner), Ok(21));
    let up = client.lookup(&inner, b"..").unwrap();
    assert_eq!(client.getattr(&up), Ok(20));
    assert_eq!(client.lookup(&inner, b"."), Ok(inner.clone()));
    assert_eq!(client.lookup(&root, b".."), Ok(root.clone()));
    for (name, status) in [(&b"nothing"[..], 2), (b"", 2), (b"dir/inner", 2), (b"a\0", 2), (&[b'x'; 256], 63)] {
        assert_eq!(client.lookup(&root, name), Err(status), "{}", name.escape_ascii());
    }
    let file = client.lookup(&root, b"file").unwrap();
    assert_eq!(client.lookup(&file, b"x"), Err(20));
    for (path, status) in [("/file", 20), ("/file/x", 20), ("/dir/nothing", 2), ("/link", 20), ("/dir/..", 2)] {
        assert_eq!(client.mount(path), Err(status), "{path}");
    }
}

/// A page of a listing: the entries with their cookies, and whether there are no more.
fn page(
    client: &mut Client,
    plus: bool,
    dir: &[u8],
    cookie: u64,
    count: u32,
) -> Result<(Vec<(String, u64)>, bool), u32> {
    let arguments = Words::default().bytes(dir).u64(cookie).u64(0).u32(count);
    let reply = if plus { client.nfs(17, &arguments.u32(count)) } else { client.nfs(16, &arguments) };
    assert!(reply.len() <= count.max(96) as usize + 4, "{} bytes, {count} asked for", reply.len());
    let mut reply = Results(&reply);
    let status = reply.u32();
    if status != 0 {
        return Err(status);
    }
    reply.attributes().unwrap();
    reply.u64();
    let mut entries = Vec::new();
    while reply.u32() == 1 {
        let ino = reply.u64();
        let name = String::from_utf8(reply.bytes().to_vec()).unwrap();
        let cookie = reply.u64();
        if plus {
            assert_eq!(reply.attributes().map(|(ino, _)| ino), Some(ino), "{name}");
            assert_eq!(reply.u32(), 1);
            let handle = reply.bytes();
            if entries.len() % 97 == 0 {
                let handle = handle.to_vec();
                assert_eq!(Client::new(client.stream.peer_addr().unwrap()).getattr(&handle), Ok(ino), "{name}");
            }
        }
        entries.push((name, cookie));
    }
    Ok((entries, reply.u32() == 1))
}

/// A long listing comes in pages of any size, each entry once, in order; going on is possible from every cookie.
#[test]
fn listings_in_pages() {
    let names: Vec<String> = (0..3000).map(|n| format!("{n:0width$}", width = 4 + n % 180)).collect();
    let children = names.iter().zip(100..).map(|(name, ino)| (name.as_str(), file(ino, 0o644, Vec::new()))).collect();
    let (_server, address) = start(folder(1, vec![("long", folder(2, children))]), Config::default());
    let mut client = Client::new(address);
    let dir = client.mount("/long").unwrap();
    for (plus, count) in [(false, 512), (false, 65_536), (true, 1024), (true, 1 << 20)] {
        let (mut found, mut cookie) = (Vec::new(), 0);
        loop {
            let (entries, eof) = page(&mut client, plus, &dir, cookie, count).unwrap();
            assert!(!entries.is_empty() || eof);
            cookie = entries.last().map_or(cookie, |(_, cookie)| *cookie);
            found.extend(entries);
            if eof {
                break;
            }
        }
        let wanted: Vec<&str> = [".", ".."].into_iter().chain(names.iter().map(String::as_str)).collect();
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), wanted, "{plus} {count}");
        for (at, (_, cookie)) in found.iter().enumerate().step_by(501) {
            let (entries, _) = page(&mut client, plus, &dir, *cookie, 4096).unwrap();
            assert_eq!(entries[0].0, wanted[at + 1]);
        }
    }
    for count in [0, 8, 90] {
        assert_eq!(page(&mut client, false, &dir, 0, count), Err(10005), "{count}");
    }
    // Behind the end there is nothing.
    assert_eq!(page(&mut client, true, &dir, 1 << 40, 4096), Ok((Vec::new(), true)));
    let short = client.mount("/").unwrap();
    assert_eq!(page(&mut client, false, &short, 0, 4096).unwrap().0.len(), 3);
}

/// A handle is as good after a restart as before; of another tree, of what has gone, and of noise it is not.
#[test]
fn handles_outlive_the_server() {
    let deep = |depth: u64| {
        let mut node = file(5000, 0o644, b"at the bottom".to_vec());
        for level in (0..depth).rev() {
            // Others beside it, with marks of their own.
            node = folder(1000 + level, vec![("a", folder(2000 + level, Vec::new())), ("d", node)]);
        }
        folder(1, vec![("top", node), ("file", file(3000, 0o644, b"top".to_vec()))])
    };
    let path = |depth: usize| format!("/top{}", "/d".repeat(depth - 1));
    let depth = TRAIL_MAX;
    let handles = {
        let (_server, address) = start(deep(depth as u64), Config::default());
        let mut client = Client::new(address);
        let dir = client.mount(&path(depth)).unwrap();
        let root = client.mount("/").unwrap();
        [client.lookup(&dir, b"d").unwrap(), client.lookup(&root, b"file").unwrap(), root, dir]
    };
    let (_server, address) = start(deep(depth as u64), Config::default());
    let mut client = Client::new(address);
    assert_eq!(client.read(&handles[0], 3, 3), Ok((b"the".to_vec(), false)));
    assert_eq!(client.getattr(&handles[1]), Ok(3000));
    assert_eq!(client.getattr(&handles[2]), Ok(1));
    let up = client.lookup(&handles[3], b"..").unwrap();
    assert_eq!(client.getattr(&up), Ok(1000 + depth as u64 - 2));
    for bad in [&handles[0][..20], &handles[0][..61], b"", b"\x01", &[7; 64], &[1; 62]] {
        assert_eq!(client.getattr(bad), Err(10001), "{bad:?}");
    }
    let mut gone = handles[0].clone();
    gone[17] ^= 1;
    assert_eq!(client.getattr(&gone), Err(STALE));
    let mut misled = handles[0].clone();
    misled[30] ^= 1;
    assert_eq!(Client::new(address).getattr(&misled), Ok(5000), "it is remembered");

    // Without what leads there, and of another root.
    let (_server, address) = start(deep(3), Config::default());
    assert_eq!(Client::new(address).getattr(&handles[0]), Err(STALE));
    let (_server, address) = start(folder(4, vec![("file", file(3000, 0o644, Vec::new()))]), Config::default());
    assert_eq!(Client::new(address).getattr(&handles[1]), Err(STALE));

    // Deeper than a handle can tell: good as long as the server remembers.
    let (_server, address) = start(deep(40), Config::default());
    let mut client = Client::new(address);
    let dir = client.mount(&path(40)).unwrap();
    let bottom = client.lookup(&dir, b"d").unwrap();
    assert_eq!(client.getattr(&bottom), Ok(5000));
}

/// Users are who they say they are, and may do what the modes say; root may read everything.
#[test]
fn permissions() {
    let access = |client: &mut Client, handle: &[u8]| {
        let reply = client.nfs(4, &Words::default().bytes(handle).u32(0x3f));
        let mut reply = Results(&reply);
        assert_eq!(reply.u32(), 0);
        reply.attributes().unwrap();
        reply.u32()
    };
    let closed = special_file(30, 0, b"x".to_vec(), |_| {});
    let root = folder(1, vec![("tree", small_at(2)), ("closed", closed)]);
    let (_server, address) = start(root.clone(), Config::default());
    let mut client = Client::new(address);
    let tree = client.mount("/tree").unwrap();
    let secret = client.lookup(&tree, b"secret").unwrap();
    let program = client.lookup(&tree, b"program").unwrap();
    for (user, readable, bits) in [((0, 0), true, 1), ((1000, 100), true, 1), ((1001, 100), false, 0)] {
        client.user = user;
        assert_eq!(
            client.read(&secret, 0, 6).map_err(|status| status == 13),
            if readable { Ok((b"secret".to_vec(), true)) } else { Err(true) }
        );
        assert_eq!(access(&mut client, &secret), bits, "{user:?}");
    }
    assert_eq!(access(&mut client, &program), 0x20);
    assert!(client.read(&program, 0, 2).is_ok(), "what may be run may be read");
    assert_eq!(access(&mut client, &tree), 0x03);

    let options = ExportOptions { ignore_permissions: true, ..ExportOptions::default() };
    let (_server, address) = start_with(root, Config::default(), options);
    let mut client = Client::new(address);
    client.user = (1001, 1);
    assert!(client.read(&secret, 0, 6).is_ok());
}

/// A slow file holds up nobody else, neither on its connection nor on others; and it is opened once.
#[test]
fn slow_reads_overlap() {
    let slow = special_file(50, 0o644, numbered(1 << 20), |item| item.delay = Duration::from_millis(200));
    let root = folder(1, vec![("slow", slow), ("file", file(51, 0o644, numbered(10)))]);
    let (_server, address) = start(root, Config::default());
    let mut client = Client::new(address);
    let root = client.mount("/").unwrap();
    let (slow, quick) = (client.lookup(&root, b"slow").unwrap(), client.lookup(&root, b"file").unwrap());
    // It has to turn out to be slow first.
    for _ in 0..3 {
        client.read(&slow, 0, 100).unwrap();
    }
    let started = Instant::now();
    // Together: a slow one that came alone would be answered before the next is looked at.
    let mut message = |file: &[u8], offset: u64, length| {
        client.message(NFS, 3, 6, &Words::default().bytes(file).u64(offset).u32(length))
    };
    let mut messages: Vec<_> = (0..15).map(|n| message(&slow, n * 1000, 1000)).collect();
    messages.push(message(&quick, 0, 10));
    client.send_together(&messages);
    let first = client.receive().unwrap();
    assert_eq!(first.len(), 24 + 4 + 88 + 12 + 12, "the quick one overtakes");
    let xids: BTreeSet<Vec<u8>> = (0..15).map(|_| client.receive().unwrap()[..4].to_vec()).collect();
    assert_eq!(xids.len(), 15);
    assert!(started.elapsed() < Duration::from_millis(2000), "{:?}", started.elapsed());
}

/// Only so many connections, and only from where it is allowed.
#[test]
fn connections_are_limited() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let (server, address) = start(small(), Config { limits, ..Config::default() });
    let mut two = [Client::new(address), Client::new(address)];
    two.iter_mut().for_each(|client| assert!(client.mount("/").is_ok()));
    assert_eq!(server.connections(), 2);
    assert_eq!(Client::new(address).receive(), None);
    drop(two);
    let until = Instant::now() + Duration::from_secs(10);
    while server.connections() > 0 {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(Client::new(address).mount("/").is_ok());

    let clients = Clients::new(["192.0.2.0/24"], false).unwrap();
    let (_server, address) = start(small(), Config { clients, ..Config::default() });
    assert_eq!(Client::new(address).receive(), None);
    let clients = Clients::new(["127.0.0.0/8"], true).unwrap();
    let (_server, address) = start(small(), Config { clients, ..Config::default() });
    assert_eq!(Client::new(address).receive(), None, "not a privileged port");
    let clients = Clients::new(["127.0.0.0/8"], false).unwrap();
    let (_server, address) = start(small(), Config { clients, ..Config::default() });
    let mut client = Client::new(address);
    let reply = client.call_for(0, [MOUNT, 3, 5], &Words::default());
    assert_eq!(reply, Words::default().u32(1).bytes(b"/").u32(1).bytes(b"127.0.0.0/8").u32(0).u32(0).0);
}

/// The end: what had arrived is answered, and then the server hangs up.
#[test]
fn an_orderly_end() {
    let slow = special_file(50, 0o644, numbered(1000), |item| item.delay = Duration::from_millis(200));
    let (server, address) = start(folder(1, vec![("slow", slow)]), Config::default());
    let mut client = Client::new(address);
    let root = client.mount("/").unwrap();
    let slow = client.lookup(&root, b"slow").unwrap();
    for _ in 0..3 {
        let message = client.message(NFS, 3, 6, &Words::default().bytes(&slow).u64(0).u32(1000));
        client.send(&message);
    }
    thread::sleep(Duration::from_millis(50));
    let ended = thread::spawn(move || server.shutdown(Duration::from_secs(10)));
    (0..3).for_each(|_| assert_eq!(client.receive().expect("a reply").len(), 24 + 4 + 88 + 12 + 1000));
    assert_eq!(client.receive(), None);
    ended.join().unwrap();
}

/// A peer that stops in the middle of a request is not waited for.
#[test]
fn stalled_peers() {
    let limits = Limits { stall: Duration::from_millis(200), ..Limits::default() };
    let (_server, address) = start(small(), Config { limits, ..Config::default() });
    let mut stalled = Client::new(address);
    stalled.stream.write_all(&[0x80, 0, 0, 100, 1, 2, 3]).unwrap();
    let mut idle = Client::new(address);
    let started = Instant::now();
    assert_eq!(stalled.receive(), None);
    assert!(started.elapsed() < Duration::from_secs(5));
    thread::sleep(Duration::from_millis(400));
    assert!(idle.mount("/").is_ok(), "who says nothing may stay");
}

/// The port mapper tells the ports, by stream and by datagram; by datagram not the whole list.
#[test]
fn ports() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagrams = udp.local_addr().unwrap();
    let listen = || Listener::tcp("127.0.0.1:0").unwrap();
    let sockets = Sockets { nfs: listen(), mount: listen(), portmap: listen(), portmap_datagrams: Some(udp) };
    let export = Export::new(small(), ExportOptions::default()).unwrap();
    let server = Server::start(Config::default(), export, sockets).unwrap();
    let addresses: Vec<SocketAddr> = server
        .addresses()
        .iter()
        .map(|address| match address {
            Address::Tcp(address) => *address,
            Address::Unix(_) => unreachable!(),
        })
        .collect();
    let port = |n: usize| u32::from(addresses[n].port());
    let mut client = Client::new(addresses[2]);
    let question = |program, version, protocol| Words::default().u32(program).u32(version).u32(protocol).u32(0);
    for (wanted, answer) in [
        (question(NFS, 3, 6), port(0)),
        (question(MOUNT, 3, 6), port(1)),
        (question(MOUNT, 1, 6), port(1)),
        (question(PORTMAP, 2, 17), port(2)),
        (question(NFS, 3, 17), 0),
        (question(100_021, 4, 6), 0),
    ] {
        let reply = client.call_for(0, [PORTMAP, 2, 3], &wanted);
        assert_eq!(Results(&reply).u32(), answer, "{wanted:?}");
        let message = client.message(PORTMAP, 2, 3, &wanted);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(&message, datagrams).unwrap();
        let mut reply = [0; 100];
        let (n, _) = socket.recv_from(&mut reply).unwrap();
        assert_eq!((n, Results(&reply[24..]).u32()), (28, answer));
    }
    let list = client.call_for(0, [PORTMAP, 2, 4], &Words::default());
    assert_eq!(list.len(), 4 * 20 + 4);
    let message = client.message(PORTMAP, 2, 4, &Words::default());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(&message, datagrams).unwrap();
    let mut reply = [0; 100];
    assert_eq!(socket.recv_from(&mut reply).unwrap().0, 24, "no answer longer than the question");
    // All is served at each port.
    assert!(Client::new(addresses[1]).mount("/dir").is_ok());
    let shared: Arc<Server> = Arc::new(server);
    drop(shared);
}
