//! Where a catalog is: its URL taken apart, and the form of it that may be shown.

use std::{path::PathBuf, time::Duration};

use blockdev::{Error, Result};
use zeroize::Zeroizing;

const FORMS: &str =
    "sqlite:FILE, postgresql://USER:PASSWORD@HOST:PORT/DATABASE or mysql://USER:PASSWORD@HOST:PORT/DATABASE";
const DEFAULT_DATABASE: &str = "bacula";
/// Long enough for the first row of any query here, short enough to tell a server that hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A catalog's URL.
pub struct Location {
    /// The URL without its password, for messages.
    pub shown: String,
    /// What it names.
    pub place: Place,
}

/// What a URL names.
pub enum Place {
    /// A database file.
    Sqlite(PathBuf),
    /// A PostgreSQL server.
    Postgres(Server),
    /// A MySQL or MariaDB server.
    Mysql(Server),
}

/// A server, and a database on it.
pub struct Server {
    /// Name or address; empty for this machine. Begins with a slash when it is a socket (or a folder of sockets).
    pub host: String,
    /// TCP port, when it is not the usual one.
    pub port: Option<u16>,
    /// User name, when it is not the usual one.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Zeroizing<String>>,
    /// Database.
    pub database: String,
    /// How long it may keep us waiting for a word; one that accepts a connection may still never answer.
    pub patience: Duration,
}

impl Location {
    /// Take `url` apart.
    ///
    /// # Errors
    ///
    /// When it has none of the known forms.
    pub fn parse(url: &str) -> Result<Self> {
        // What is no URL may hold a password anywhere: messages show its scheme at most.
        let (scheme, rest) =
            url.split_once(':').ok_or_else(|| Error::invalid(format!("a catalog is named by a URL: {FORMS}")))?;
        match scheme {
            "sqlite" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() {
                    return Err(Error::invalid("the catalog URL sqlite: names no file; use sqlite:FILE"));
                }
                Ok(Self { shown: url.to_owned(), place: Place::Sqlite(PathBuf::from(path)) })
            }
            "postgres" | "postgresql" => {
                let server = Server::parse(scheme, rest, "PGPASSWORD")?;
                Ok(Self { shown: server.shown(scheme), place: Place::Postgres(server) })
            }
            "mysql" | "mariadb" => {
                let server = Server::parse(scheme, rest, "MYSQL_PWD")?;
                Ok(Self { shown: server.shown(scheme), place: Place::Mysql(server) })
            }
            _ => Err(Error::invalid(format!("this kind of catalog URL is not known; use {FORMS}"))),
        }
    }
}

impl Server {
    fn parse(scheme: &str, rest: &str, password_variable: &str) -> Result<Self> {
        let bad = |what: &str| Error::invalid(format!("the {scheme}: catalog URL {what}; use {FORMS}"));
        let rest = rest.strip_prefix("//").ok_or_else(|| bad("has no // behind its scheme"))?;
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let at = rest.rfind('@');
        let (user_info, rest) = at.and_then(|at| rest.split_at_checked(at)).unwrap_or(("", rest));
        let rest = rest.strip_prefix('@').unwrap_or(rest);
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, password) = match user_info.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (user_info, None),
        };
        let decode = |text: &str| percent_decode(text).ok_or_else(|| bad("has a % that begins no code"));
        let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
            Some((address, port)) => (address, port.strip_prefix(':')),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.filter(|p| !p.is_empty());
        let mut server = Self {
            host: decode(host)?,
            port: port.map(str::parse).transpose().map_err(|_| bad("has a port that is no number below 65536"))?,
            user: Some(decode(user)?).filter(|u| !u.is_empty()),
            password: match password {
                Some(text) => Some(Zeroizing::new(decode(text)?)),
                None => std::env::var(password_variable).ok().map(Zeroizing::new),
            },
            database: Some(decode(database)?).filter(|d| !d.is_empty()).unwrap_or_else(|| DEFAULT_DATABASE.into()),
            patience: PATIENCE,
        };
        for option in options.split('&').filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some(("host" | "socket", value)) => server.host = decode(value)?,
                _ => return Err(bad("has an option other than host= and socket=")),
            }
        }
        Ok(server)
    }

    fn shown(&self, scheme: &str) -> String {
        let user = self.user.as_ref().map(|u| format!("{u}@")).unwrap_or_default();
        let port = self.port.map(|p| format!(":{p}")).unwrap_or_default();
        let colon = self.host.contains(':') && !self.host.starts_with('/');
        let host = if colon { format!("[{}]", self.host) } else { self.host.replace('/', "%2F") };
        format!("{scheme}://{user}{host}{port}/{}", self.database)
    }
}

/// `text` with its `%XX` replaced; `None` when that is not valid.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> (String, Server) {
        let location = Location::parse(url).unwrap();
        let (Place::Postgres(server) | Place::Mysql(server)) = location.place else { panic!("no server") };
        (location.shown, server)
    }

    #[test]
    fn parts_of_a_server_url() {
        let (shown, s) = server("postgresql://ba%40cula:p%3Aw@d/x@db.example:5433/cat%20alog");
        assert_eq!((s.host.as_str(), s.port, s.user.as_deref()), ("db.example", Some(5433), Some("ba@cula")));
        assert_eq!(s.password.unwrap().as_str(), "p:w@d/x");
        assert_eq!(s.database, "cat alog");
        assert_eq!(shown, "postgresql://ba@cula@db.example:5433/cat alog");
    }

    #[test]
    fn sockets_and_addresses() {
        assert_eq!(server("postgres://%2Fvar%2Frun/bacula").1.host, "/var/run");
        assert_eq!(server("postgres:///bacula?host=/var/run").1.host, "/var/run");
        assert_eq!(server("mariadb://u@[::1]:3307/b").1.host, "::1");
        assert_eq!(server("mysql://h").1.database, "bacula");
    }

    #[test]
    fn no_message_tells_the_password() {
        for url in [
            "postgres://u:s3cret@h:99999/b",
            "postgres://u:s3cret%@h/b",
            "mysql:u:s3cret@h/b",
            "mysql://u:s3cret@h/b?x=s3cret",
            "oracle://u:s3cret@h/b",
            "s3cret",
        ] {
            let Err(error) = Location::parse(url) else { panic!("{url} was taken") };
            assert!(!error.to_string().contains("s3cret"), "{error}");
            assert!(error.to_string().contains("sqlite:FILE"), "{error}");
        }
        assert!(!server("postgres://u:s3cret@h/b").0.contains("s3cret"));
    }
}
