//! Database servers that a test starts, in a folder of their own, for this machine alone.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A running server; it ends with this.
pub struct Server {
    /// TCP port on the loopback interface.
    pub port: u16,
    dir: tempfile::TempDir,
    command: fn(&Path, u16) -> Command,
    client: fn(&Path, u16, &str) -> Command,
    /// What makes it end at once.
    signal: &'static str,
    child: Option<Child>,
}

impl Server {
    fn new(
        dir: tempfile::TempDir,
        signal: &'static str,
        command: fn(&Path, u16) -> Command,
        client: fn(&Path, u16, &str) -> Command,
    ) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { port, dir, command, client, signal, child: None };
        server.start();
        server
    }

    /// The server's folder, with its socket.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Start it, and wait until it answers.
    pub fn start(&mut self) {
        let log = fs::File::create(self.dir().join("log")).unwrap();
        let mut command = (self.command)(self.dir(), self.port);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        for _ in 0..600 {
            let answers = TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && self
                    .client_for("")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .stdin(Stdio::null())
                    .status()
                    .is_ok_and(|s| s.success());
            if answers {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the server does not start: {}", fs::read_to_string(self.dir().join("log")).unwrap_or_default());
    }

    /// End it at once.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The server's own process is asked, so that it takes its children along.
            let _ = Command::new("kill").args([self.signal, &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }

    fn client_for(&self, database: &str) -> Command {
        (self.client)(self.dir(), self.port, database)
    }

    /// Run `sql` with the server's own client.
    pub fn sql(&self, database: &str, sql: &[u8]) {
        let mut client = self.client_for(database).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        client.stdin.take().unwrap().write_all(sql).unwrap();
        assert!(client.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// `program` as `user` when we are root, as both servers refuse to run as root.
fn command_as(user: &str, program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--init-groups", "--reuid", user, "--regid", user, "--"]).arg(program);
    command
}

fn dir_of(user: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    if is_root() {
        assert!(Command::new("chown").arg(user).arg(dir.path()).status().unwrap().success());
    }
    dir
}

fn find(folders: &[PathBuf], program: &str) -> Option<PathBuf> {
    let found = folders.iter().map(|d| d.join(program)).find(|p| p.exists());
    if found.is_none() {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn postgres_folder() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = versions.map(|e| e.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    let initdb = find(&folders, "initdb")?;
    initdb.parent().map(Path::to_owned)
}

/// A PostgreSQL server, `None` when there is none here.
pub fn postgres() -> Option<Server> {
    let bin = postgres_folder()?;
    let dir = dir_of("postgres");
    let mut initdb = command_as("postgres", &bin.join("initdb"));
    initdb
        .args(["-A", "trust", "-U", "postgres", "-E", "SQL_ASCII", "--no-locale", "-N", "-D"])
        .arg(dir.path().join("data"));
    assert!(initdb.current_dir("/").stdout(Stdio::null()).status().unwrap().success());
    let command = |dir: &Path, port: u16| {
        let mut postgres = command_as("postgres", &postgres_folder().unwrap().join("postgres"));
        postgres.arg("-D").arg(dir.join("data")).args(["-p", &port.to_string(), "-c", "fsync=off"]);
        postgres.args(["-c", "listen_addresses=127.0.0.1", "-c"]);
        postgres.arg(format!("unix_socket_directories={}", dir.display())).current_dir("/");
        postgres
    };
    let client = |_: &Path, port: u16, database: &str| {
        let mut psql = Command::new("psql");
        let database = if database.is_empty() { "postgres" } else { database };
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]);
        psql.args(["-p", &port.to_string(), "-d", database, "-f", "-"]);
        psql
    };
    Some(Server::new(dir, "-INT", command, client))
}

/// A MariaDB server with an empty database `bacula`, `None` when there is none here.
pub fn mariadb() -> Option<Server> {
    let folders = ["/usr/sbin", "/usr/libexec", "/usr/bin"].map(PathBuf::from);
    find(&folders, "mariadbd")?;
    let install = find(&folders, "mariadb-install-db")?;
    let dir = dir_of("mysql");
    let mut install = command_as("mysql", &install);
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    install.arg(format!("--datadir={}", dir.path().join("data").display()));
    assert!(install.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let command = |dir: &Path, port: u16| {
        let folders = ["/usr/sbin", "/usr/libexec", "/usr/bin"].map(PathBuf::from);
        let mut mariadbd = command_as("mysql", &find(&folders, "mariadbd").unwrap());
        mariadbd.args(["--no-defaults", "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=0"]);
        for (option, value) in [("datadir", "data"), ("socket", "socket"), ("pid-file", "pid")] {
            mariadbd.arg(format!("--{option}={}", dir.join(value).display()));
        }
        mariadbd.arg(format!("--port={port}")).current_dir("/");
        mariadbd
    };
    let client = |dir: &Path, _: u16, database: &str| {
        let mut mariadb = Command::new("mariadb");
        mariadb
            .args(["--no-defaults", "-u", "root", "--binary-mode"])
            .arg(format!("--socket={}", dir.join("socket").display()));
        mariadb.arg(database);
        mariadb
    };
    Some(Server::new(dir, "-TERM", command, client))
}
