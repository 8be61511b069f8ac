//! Records what stock clients say to the server, as seeds of the fuzz target `nfs_requests`. Not a test: run it by hand
//! when a client is to be added.
//!
//!     NFS_SEEDS=fuzz/seeds/nfs_requests cargo test -p exporters --test nfs_record -- --ignored
//!
//! With `REVENANT_GUEST` (see `tests/tests/kernel.rs`) the kernel's client is recorded, too.

#[path = "common/tree.rs"]
mod tree;

use std::{
    env, fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use exporters::nfs::{Address, Config, Export, ExportOptions, Listener, Server, Sockets};

/// Stands between clients and the server, and writes down what each connection says, a zero in front (see the target).
fn recorder(server: SocketAddr, folder: PathBuf, name: Arc<parking_lot::Mutex<String>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = AtomicUsize::new(0);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(server).unwrap());
            let (mut back, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let file = format!("{}-{}", name.lock(), count.fetch_add(1, Ordering::SeqCst));
            let mut seed = fs::File::create(folder.join(file)).unwrap();
            seed.write_all(&[0]).unwrap();
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            thread::spawn(move || {
                let mut piece = vec![0; 1 << 16];
                while let Ok(n @ 1..) = client.read(&mut piece) {
                    seed.write_all(&piece[..n]).unwrap();
                    server.write_all(&piece[..n]).unwrap();
                }
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

#[test]
#[ignore = "makes seeds, tests nothing"]
fn record() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folder = root.join(env::var("NFS_SEEDS").unwrap());
    fs::create_dir_all(&folder).unwrap();
    let export = Export::new(tree::sample(), ExportOptions::default()).unwrap();
    let sockets = Sockets { nfs: Listener::tcp("127.0.0.1:0").unwrap(), ..Sockets::default() };
    let server = Server::start(Config::default(), export, sockets).unwrap();
    let Address::Tcp(address) = server.addresses()[0] else { unreachable!() };
    let name = Arc::new(parking_lot::Mutex::new(String::new()));
    let port = recorder(address, folder, name.clone());
    let url = |path: &str| format!("nfs://127.0.0.1/{path}?version=3&nfsport={port}&mountport={port}");
    for (label, program, args) in [
        ("ls", "nfs-ls", vec!["-R".to_owned(), url("")]),
        ("cat", "nfs-cat", vec![url("file")]),
        ("cat-inner", "nfs-cat", vec![url("folder/inner/file")]),
        ("cat-bad", "nfs-cat", vec![url("bad")]),
        ("write", "nfs-cp", vec!["/etc/hostname".to_owned(), url("folder/new")]),
    ] {
        *name.lock() = label.to_owned();
        let _ = Command::new(program).args(args).output().unwrap();
    }
    if let Some(guest) = env::var_os("REVENANT_GUEST") {
        *name.lock() = "kernel".to_owned();
        let script = format!(
            "nfs_up / /mnt vers=3,proto=tcp,mountproto=tcp,port={port},mountport={port}; cd /mnt; ls -laR; cat file link bad \
             | wc -c; touch file; mkdir d; mv file x; ln file y; rm file; df .; cd /; umount /mnt"
        );
        let mut run = Command::new(root.join("tests/lab/make-client-guest.sh"));
        let _ = run.arg("run").arg(guest).arg("--").arg(script).status().unwrap();
    }
}
