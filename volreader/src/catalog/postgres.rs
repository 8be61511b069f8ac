//! Catalogs in PostgreSQL.
//!
//! A Bacula database has the encoding `SQL_ASCII`: its text is bytes of any sort. The client library asks for UTF-8,
//! and then the server refuses to send a name that is not valid in it; so the session is told to take `SQL_ASCII` as
//! its own encoding too, and text goes to and fro as bytes that no one looks at. That holds for a database in UTF-8
//! as well: its text arrives as it is stored.
//!
//! The library's blocking face has no bound on how long a server may stay silent, and reads a result to its end when
//! it is dropped. So each connection has a small runtime of its own here, in which every wait has its bound.

use std::{error::Error as StdError, io, pin::pin};

use blockdev::{Error, ErrorKind, Result};
use bytes::BytesMut;
use futures_util::TryStreamExt;
use tokio::{runtime, runtime::Runtime, time};
use tokio_postgres::{
    Client, Config, NoTls, Statement,
    error::SqlState,
    types::{self, FromSql, IsNull, ToSql, Type},
};

use super::{
    location::Server,
    query::{
        CONNECT_TIMEOUT, EachRow, Engine, Failure, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, NO_ANSWER,
        Param,
    },
    row::{Column, Kind, Row},
};

/// Where servers on this machine have their sockets; tried when the URL names no host.
const SOCKET_FOLDER: &str = "/var/run/postgresql";

/// A database on a PostgreSQL server.
pub struct Postgres {
    /// The server.
    pub server: Server,
}

/// A connection and the statements prepared on it.
pub struct Connected {
    client: Client,
    statements: Vec<(String, Statement)>,
    /// What drives the connection while something is waited for. Its end ends the connection at once.
    runtime: Runtime,
}

/// Why the server did not do what it was asked.
enum Problem {
    /// It, or the library, says why.
    Stated(tokio_postgres::Error),
    /// It said nothing for too long, or nothing can be asked at all.
    Io(io::Error),
}

impl Postgres {
    fn config(&self) -> Config {
        let server = &self.server;
        let mut config = Config::new();
        match server.host.as_str() {
            "" => config.host_path(SOCKET_FOLDER),
            path if path.starts_with('/') => config.host_path(path),
            host => config.host(host),
        };
        server.port.map(|port| config.port(port));
        server.user.as_ref().map(|user| config.user(user));
        server.password.as_ref().map(|password| config.password(password.as_bytes()));
        config
            .dbname(&server.database)
            .application_name("revenant")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_PROBES);
        config
    }

    fn connected(&self) -> std::result::Result<Connected, Problem> {
        let config = self.config();
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(Problem::Io)?;
        let client = self.wait(&runtime, async {
            let (client, connection) = config.connect(NoTls).await?;
            // Its failure is told to whoever waits for an answer.
            tokio::spawn(async { drop(connection.await) });
            client.batch_execute("SET default_transaction_read_only = on; SET client_encoding = 'SQL_ASCII'").await?;
            Ok(client)
        })?;
        Ok(Connected { client, statements: Vec::new(), runtime })
    }

    /// What `answer` gives, if the server gives it in time.
    fn wait<T>(
        &self,
        runtime: &Runtime,
        answer: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> std::result::Result<T, Problem> {
        match runtime.block_on(async { time::timeout(self.server.patience, answer).await }) {
            Ok(answer) => answer.map_err(Problem::Stated),
            Err(_) => Err(Problem::Io(io::Error::new(io::ErrorKind::TimedOut, NO_ANSWER))),
        }
    }
}

impl Engine for Postgres {
    type Connection = Connected;

    fn connect(&self, shown: &str) -> Result<Connected> {
        self.connected().map_err(|problem| {
            let (kind, remedy) = match problem.code() {
                Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
                    (ErrorKind::Locked, "the server does not let this user in; check user, password and pg_hba.conf")
                }
                Some(&SqlState::INVALID_CATALOG_NAME) => {
                    (ErrorKind::NotFound, "there is no such database; name it at the end of the URL")
                }
                _ => (ErrorKind::Io, "cannot connect; check that the server is up, its host and its port"),
            };
            Error::new(kind, format!("catalog {shown}: {remedy}")).with_source(problem.into_cause())
        })
    }

    fn query(
        &self,
        connected: &mut Connected,
        sql: &str,
        params: &[Param<'_>],
        each: &mut EachRow<'_>,
    ) -> std::result::Result<(), Failure> {
        let Connected { client, statements, runtime } = connected;
        let statement = match statements.iter().find(|(known, _)| known == sql) {
            Some((_, statement)) => statement.clone(),
            None => {
                let statement = self.wait(runtime, client.prepare(sql))?;
                statements.push((sql.to_owned(), statement.clone()));
                statement
            }
        };
        // Rows come as the server sends them, and it sends no faster than they are taken.
        let params = params.iter().map(|p| p as &dyn ToSql);
        let mut rows = pin!(self.wait(runtime, client.query_raw(&statement, params))?);
        while let Some(row) = self.wait(runtime, rows.try_next())? {
            each(&row)?;
        }
        Ok(())
    }

    fn column(&self, (name, kind): Column) -> String {
        match kind {
            Kind::Int => format!("{name}::int8"),
            Kind::Bytes => name.to_owned(),
            Kind::Time => format!("to_char({name}, 'YYYY-MM-DD HH24:MI:SS')"),
        }
    }

    fn placeholder(&self, number: usize, kind: Kind) -> String {
        match kind {
            Kind::Int => format!("${number}::int8"),
            Kind::Bytes | Kind::Time => format!("${number}::text"),
        }
    }
}

/// Bytes of a text column, whatever they are.
struct Bytes<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Bytes<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Row for tokio_postgres::Row {
    fn int(&self, column: usize) -> Option<i64> {
        self.try_get(column).ok().flatten()
    }

    fn bytes(&self, column: usize) -> Option<&[u8]> {
        let bytes: Option<Bytes<'_>> = self.try_get(column).ok()?;
        bytes.map(|b| b.0)
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> std::result::Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self {
            Self::Int(number) => out.extend_from_slice(&number.to_be_bytes()),
            Self::Name(bytes) => out.extend_from_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::INT8 || *ty == Type::TEXT
    }

    types::to_sql_checked!();
}

impl Problem {
    /// The server's code for it.
    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Stated(error) => error.code(),
            Self::Io(_) => None,
        }
    }

    fn into_cause(self) -> Box<dyn StdError + Send + Sync> {
        match self {
            Self::Stated(error) => error.into(),
            Self::Io(error) => error.into(),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match problem.code() {
            // Bytes that text in this database cannot hold: a NUL, or what is not its encoding.
            Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE | &SqlState::UNTRANSLATABLE_CHARACTER) => Self::NoSuchName,
            // The server was told to end the connection, or is not up yet.
            Some(code) if !code.code().starts_with("57P") => Self::Refused(problem.into_cause()),
            _ => Self::Lost(problem.into_cause()),
        }
    }
}
