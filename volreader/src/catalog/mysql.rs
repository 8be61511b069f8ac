//! Catalogs in MySQL and MariaDB.
//!
//! All names of a Bacula schema are BLOBs there, and the session's character set is `binary`: nothing is converted.

use std::{error::Error as StdError, io};

use blockdev::{Error, ErrorKind, Result};
use mysql::{Conn, Opts, OptsBuilder, Value, prelude::Queryable};

use super::{
    location::Server,
    query::{
        CONNECT_TIMEOUT, EachRow, Engine, Failure, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, NO_ANSWER,
        Param,
    },
    row::{Column, Kind, Row},
};

/// Where a server on this machine has its socket; tried when the URL names no host.
const SOCKET: &str = "/run/mysqld/mysqld.sock";
const DEFAULT_USER: &str = "bacula";

/// Codes of errors that the server sends.
const ACCESS_DENIED: [u16; 3] = [1044, 1045, 1698];
const NO_SUCH_DATABASE: u16 = 1049;
/// It shuts down, or ended the connection: shutdown in progress, query interrupted, killed, idle for too long.
const CONNECTION_ENDED: [u16; 4] = [1053, 1317, 1927, 4031];

/// A database on a MySQL or MariaDB server.
pub struct Mysql {
    /// The server.
    pub server: Server,
}

impl Mysql {
    fn options(&self) -> Opts {
        let server = &self.server;
        let socket = match server.host.as_str() {
            "" => Some(SOCKET),
            path => Some(path).filter(|p| p.starts_with('/')),
        };
        let mut options = OptsBuilder::new()
            // Otherwise a server that is reached by TCP may move us to its socket.
            .prefer_socket(false)
            .user(Some(server.user.as_deref().unwrap_or(DEFAULT_USER)))
            .pass(server.password.as_ref().map(|p| p.as_str()))
            .db_name(Some(&server.database))
            .init(vec!["SET NAMES binary", "SET SESSION TRANSACTION READ ONLY"])
            .tcp_connect_timeout(Some(CONNECT_TIMEOUT))
            .read_timeout(Some(server.patience))
            .write_timeout(Some(server.patience))
            .tcp_keepalive_time_ms(u32::try_from(KEEPALIVE_IDLE.as_millis()).ok())
            .tcp_keepalive_probe_interval_secs(u32::try_from(KEEPALIVE_INTERVAL.as_secs()).ok())
            .tcp_keepalive_probe_count(Some(KEEPALIVE_PROBES));
        options = match socket {
            Some(path) => options.socket(Some(path)),
            None => options.ip_or_hostname(Some(&server.host)),
        };
        if let Some(port) = server.port {
            options = options.tcp_port(port);
        }
        options.into()
    }
}

impl Engine for Mysql {
    type Connection = Conn;

    fn connect(&self, shown: &str) -> Result<Conn> {
        Conn::new(self.options()).map_err(|error| {
            let (kind, remedy) = match &error {
                mysql::Error::MySqlError(e) if ACCESS_DENIED.contains(&e.code) => {
                    (ErrorKind::Locked, "the server does not let this user in; check user, password and grants")
                }
                mysql::Error::MySqlError(e) if e.code == NO_SUCH_DATABASE => {
                    (ErrorKind::NotFound, "there is no such database; name it at the end of the URL")
                }
                _ => (ErrorKind::Io, "cannot connect; check that the server is up, its host and its port"),
            };
            Error::new(kind, format!("catalog {shown}: {remedy}")).with_source(cause(error))
        })
    }

    fn query(
        &self,
        connection: &mut Conn,
        sql: &str,
        params: &[Param<'_>],
        each: &mut EachRow<'_>,
    ) -> std::result::Result<(), Failure> {
        // The rows are read from the connection one by one.
        let values: Vec<Value> = params.iter().map(Value::from).collect();
        for row in connection.exec_iter(sql, values)? {
            each(&row?)?;
        }
        Ok(())
    }

    fn column(&self, (name, kind): Column) -> String {
        match kind {
            // Also where there is a date that no calendar has.
            Kind::Time => format!("CAST({name} AS CHAR)"),
            Kind::Int | Kind::Bytes => name.to_owned(),
        }
    }

    fn placeholder(&self, _: usize, _: Kind) -> String {
        "?".to_owned()
    }
}

impl Row for mysql::Row {
    fn int(&self, column: usize) -> Option<i64> {
        match self.as_ref(column)? {
            Value::Int(number) => Some(*number),
            Value::UInt(number) => i64::try_from(*number).ok(),
            _ => None,
        }
    }

    fn bytes(&self, column: usize) -> Option<&[u8]> {
        match self.as_ref(column)? {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl From<&Param<'_>> for Value {
    fn from(param: &Param<'_>) -> Self {
        match param {
            Param::Int(number) => Self::Int(*number),
            Param::Name(bytes) => Self::Bytes(bytes.to_vec()),
        }
    }
}

impl From<mysql::Error> for Failure {
    fn from(error: mysql::Error) -> Self {
        match &error {
            mysql::Error::MySqlError(e) if !CONNECTION_ENDED.contains(&e.code) => Self::Refused(cause(error)),
            _ => Self::Lost(cause(error)),
        }
    }
}

/// What to tell of `error`. A wait that took too long comes as the operating system's words for it, deep inside.
fn cause(error: mysql::Error) -> Box<dyn StdError + Send + Sync> {
    let io = match &error {
        mysql::Error::IoError(io) => Some(io),
        mysql::Error::CodecError(codec) => codec.source().and_then(|e| e.downcast_ref()),
        _ => None,
    };
    match io.map(io::Error::kind) {
        Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => NO_ANSWER.into(),
        _ => error.into(),
    }
}
