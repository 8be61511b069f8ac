//! A client of NFS version 3 that does nothing but read one file, with as many reads under way as wished: the load of the
//! group `nfs`. It shares no code with the server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;

/// What to read.
#[derive(Debug, Args)]
pub struct Load {
    /// Ports for files and for mounting, on this machine
    ports: Vec<u16>,
    /// What to mount
    #[arg(long)]
    export: String,
    /// A path below it
    #[arg(long)]
    file: String,
    /// Bytes of a read
    #[arg(long)]
    block: u32,
    /// Reads under way
    #[arg(long)]
    depth: usize,
    /// Anywhere in the file instead of one after the other
    #[arg(long)]
    random: bool,
    /// Seconds to go on
    #[arg(long)]
    seconds: u64,
}

/// A connection for one program.
struct Client {
    stream: TcpStream,
    xid: u32,
    reply: Vec<u8>,
}

fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

impl Client {
    fn new(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, xid: 0, reply: Vec::new() })
    }

    fn send(&mut self, [program, procedure]: [u32; 2], arguments: &[u8]) -> Result<()> {
        self.xid += 1;
        let mut message = vec![0; 4];
        // Root, with a machine name and no more groups.
        let words = [self.xid, 0, 2, program, 3, procedure, 1, 24, 0, 4, 0x6265_6e63, 0, 0, 0, 0, 0];
        message.extend(words.into_iter().flat_map(u32::to_be_bytes));
        message.extend_from_slice(arguments);
        let mark = (message.len() - 4) as u32 | 1 << 31;
        message[..4].copy_from_slice(&mark.to_be_bytes());
        Ok(self.stream.write_all(&message)?)
    }

    /// The results of the next reply, the status taken off.
    fn receive(&mut self) -> Result<&[u8]> {
        let mut mark = [0; 4];
        let (mut last, mut len) = (false, 0);
        while !last {
            self.stream.read_exact(&mut mark)?;
            let word = u32::from_be_bytes(mark);
            last = word >> 31 == 1;
            let end = len + (word & !(1 << 31)) as usize;
            if self.reply.len() < end {
                self.reply.resize(end, 0);
            }
            self.stream.read_exact(&mut self.reply[len..end])?;
            len = end;
        }
        let results = self.reply.get(24..len).context("a reply without results")?;
        ensure!(results.get(..4) == Some(&[0; 4][..]), "refused: {:?}", results.get(..8));
        Ok(&results[4..])
    }

    fn call(&mut self, what: [u32; 2], arguments: &[u8]) -> Result<&[u8]> {
        self.send(what, arguments)?;
        self.receive()
    }
}

fn handle(results: &[u8]) -> Result<Vec<u8>> {
    let (len, rest) = results.split_first_chunk::<4>().context("no handle")?;
    Ok(rest.get(..u32::from_be_bytes(*len) as usize).context("no handle")?.to_vec())
}

/// Reads, and prints the bytes of a second.
pub fn run(load: &Load) -> Result<()> {
    let [port, mount_port] = load.ports[..] else { anyhow::bail!("two ports: for files and for mounting") };
    let mut at = handle(Client::new(mount_port)?.call([MOUNT, 1], &opaque(load.export.as_bytes()))?)?;
    let mut client = Client::new(port)?;
    for name in load.file.split('/').filter(|name| !name.is_empty()) {
        at = handle(client.call([NFS, 3], &[opaque(&at), opaque(name.as_bytes())].concat())?)?;
    }
    let attributes = client.call([NFS, 1], &opaque(&at))?;
    let size = u64::from_be_bytes(*attributes.get(20..).and_then(<[u8]>::first_chunk::<8>).context("no size")?);
    let blocks = size / u64::from(load.block);
    ensure!(blocks > 0, "the file is shorter than a block");
    let (mut next, mut state) = (0, 0x9e37_79b9_7f4a_7c15_u64);
    let mut read = |client: &mut Client| {
        let block = if load.random {
            // Xorshift: the same reads in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % blocks
        } else {
            next += 1;
            (next - 1) % blocks
        };
        let offset = block * u64::from(load.block);
        let arguments = [opaque(&at), offset.to_be_bytes().to_vec(), load.block.to_be_bytes().to_vec()].concat();
        client.send([NFS, 6], &arguments)
    };
    for _ in 0..load.depth {
        read(&mut client)?;
    }
    let (start, mut bytes) = (Instant::now(), 0_u64);
    while start.elapsed() < Duration::from_secs(load.seconds) {
        ensure!(client.receive()?.len() >= load.block as usize, "a short read");
        bytes += u64::from(load.block);
        read(&mut client)?;
    }
    println!("{:.0}", bytes as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
