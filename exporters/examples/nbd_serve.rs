//! Serves raw files read-only until its standard input ends: what measurements and experiments talk to.
//!
//!     cargo run --release -p exporters --example nbd_serve -- 127.0.0.1:10809 disk.raw...
//!     cargo run --release -p exporters --example nbd_serve -- /run/disk.sock disk.raw
//!
//! The address `activated` stands for sockets of socket activation. Each export is named after its file.

use std::{error::Error, io::Read, path::Path, sync::Arc, time::Duration};

use blockdev::file::HostFile;
use exporters::nbd::{Config, Disk, Export, Exports, Listener, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let at = arguments.next().ok_or("usage: nbd_serve ADDRESS|SOCKET|activated FILE...")?;
    let exports = Exports::new();
    for file in arguments {
        let path = Path::new(&file);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        exports.insert(Export::new(name, Disk::ReadOnly(Arc::new(HostFile::open(path)?))))?;
    }
    let listeners = match at.as_str() {
        "activated" => Listener::activated()?,
        path if path.contains('/') => vec![Listener::unix(Path::new(path))?],
        address => Listener::tcp(address)?,
    };
    let config = Config { report: Some(Box::new(|line| eprintln!("{line}"))), ..Config::default() };
    let server = Server::start(config, Arc::new(exports), listeners)?;
    server.addresses().iter().for_each(|address| println!("{address}"));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    server.shutdown(Duration::from_secs(10))?;
    Ok(())
}
