//! PostgreSQL catalogs, by a server that the test starts.

mod common;
#[path = "common/catalog.rs"]
mod expected;
#[path = "common/server.rs"]
mod server;

use server::Server;
use volreader::catalog;

fn postgres() -> Option<(Server, std::path::PathBuf)> {
    let case = common::case("pgsql")?;
    let server = server::postgres()?;
    server
        .sql("postgres", b"CREATE DATABASE bacula ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    let dump = server.dir().join("catalog.sql");
    assert!(expected::unpack(&case, "catalog.sql.zst", &dump));
    server.sql("bacula", &std::fs::read(dump).unwrap());
    Some((server, case))
}

fn url(server: &Server, database: &str) -> String {
    format!("postgresql://postgres:s3cret@127.0.0.1:{}/{database}", server.port)
}

#[test]
fn a_catalog_of_bacula_9() {
    let Some((mut server, case)) = postgres() else { return };
    let catalog = catalog::open(&url(&server, "bacula")).unwrap();
    assert!(expected::check(&*catalog, &case) >= 16);

    // By the socket.
    let socket = format!("postgresql://postgres@:{}/bacula?host={}", server.port, server.dir().display());
    assert_eq!(catalog::open(&socket).unwrap().jobs().unwrap(), catalog.jobs().unwrap());

    // A sink that asks the catalog, and stops.
    let stopped = catalog.for_each_file(1, &mut |row| {
        assert!(catalog.find_file(1, row.path, row.name)?.is_some());
        Err(blockdev::Error::invalid("enough"))
    });
    assert_eq!(stopped.unwrap_err().to_string(), "enough");

    // The server was restarted meanwhile.
    let jobs = catalog.jobs().unwrap();
    server.stop();
    let down = catalog.jobs().unwrap_err().to_string();
    assert!(down.contains("cannot connect") && !down.contains("s3cret"), "{down}");
    server.start();
    assert_eq!(catalog.jobs().unwrap(), jobs);
    server.stop();
    server.start();
    assert_eq!(catalog.jobs().unwrap(), jobs, "a connection that broke while at rest is made anew");

    let missing = catalog::open(&url(&server, "nothing")).err().unwrap().to_string();
    assert!(missing.contains("there is no such database") && !missing.contains("s3cret"), "{missing}");
    let other = catalog::open(&url(&server, "postgres")).err().unwrap().to_string();
    assert!(other.contains("not readable as a Bacula catalog") && !other.contains("s3cret"), "{other}");
}

#[test]
fn names_are_bytes() {
    let Some((server, _)) = postgres() else { return };
    let sql = b"SET client_encoding = 'SQL_ASCII';
        INSERT INTO path (pathid, path) VALUES (9001, E'/\\377\\360/');
        INSERT INTO filename (filenameid, name) VALUES (9001, E'\\344 f'), (9002, 'na\xefve');
        INSERT INTO file (fileindex, jobid, pathid, filenameid, lstat, md5)
          VALUES (7, 1, 9001, 9001, 'A', '0'), (9, 1, 9001, 9001, 'B', '0'), (10, 1, 9001, 9002, 'C', '0');";
    server.sql("bacula", sql);
    let catalog = catalog::open(&url(&server, "bacula")).unwrap();
    let found = catalog.find_file(1, b"/\xff\xf0/", b"\xe4 f").unwrap().unwrap();
    assert_eq!((found.file_index, found.lstat.as_slice(), found.name.as_slice()), (9, &b"B"[..], &b"\xe4 f"[..]));
    assert!(catalog.find_file(1, b"/\xff\xf0/", b"na\xefve").unwrap().is_some());
    assert!(expected::rows(&*catalog, 1).contains(&found));
    assert_eq!(catalog.find_file(1, b"/\xff\xf0/", b"n\0l").unwrap(), None);
    assert_eq!(catalog.find_file(1, b"/'; DROP TABLE file; --", b"").unwrap(), None);
    assert!(catalog.find_file(1, b"/\xff\xf0/", b"\xe4 f").unwrap().is_some());
}

/// The schema of release 15 differs where we look: the name is a column of File. Here in a database in UTF-8.
#[test]
fn a_schema_of_bacula_15_in_utf8() {
    let Some(server) = server::postgres() else { return };
    server.sql("postgres", b"CREATE DATABASE new ENCODING 'UTF8' TEMPLATE template0");
    server.sql(
        "new",
        "CREATE TABLE version (versionid integer); INSERT INTO version VALUES (1026);
         CREATE TABLE path (pathid serial, path text NOT NULL UNIQUE); INSERT INTO path VALUES (1, '/ä/');
         CREATE TABLE file (fileid bigserial, fileindex integer, jobid integer, pathid integer,
           filename text NOT NULL DEFAULT '', deltaseq smallint DEFAULT 0, lstat text, md5 text);
         INSERT INTO file (fileindex, jobid, pathid, filename, lstat, md5)
           SELECT n, 5, 1, 'ö' || n, 'L', 'D' FROM generate_series(1, 200000) n;"
            .as_bytes(),
    );
    let catalog = catalog::open(&url(&server, "new")).unwrap();
    assert_eq!(catalog.find_file(5, "/ä/".as_bytes(), "ö77".as_bytes()).unwrap().unwrap().file_index, 77);
    assert_eq!(catalog.find_file(5, b"/\xff/", b"").unwrap(), None, "what UTF-8 cannot hold is not there");
    let mut sum = 0;
    catalog
        .for_each_file(5, &mut |row| {
            sum += u64::from(row.file_index.unsigned_abs());
            Ok(())
        })
        .unwrap();
    assert_eq!(sum, 200_000 * 200_001 / 2);
}
