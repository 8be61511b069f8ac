//! MySQL catalogs, by a MariaDB server that the test starts: the column types of Bacula's own schema there, filled
//! from the SQLite catalogs that Bacula wrote.

mod common;
#[path = "common/catalog.rs"]
mod expected;
#[path = "common/server.rs"]
mod server;

use std::fmt::Write;

use rusqlite::{Connection, types::ValueRef};
use server::Server;
use volreader::catalog;

const INT: &str = "INTEGER UNSIGNED";
const BIG: &str = "BIGINT UNSIGNED";
/// Name and type of each column.
type Columns = &'static [(&'static str, &'static str)];

/// Tables: name, columns, keys.
const TABLES: [(&str, Columns, &str); 8] = [
    ("Version", &[("VersionId", INT)], "INDEX (VersionId)"),
    ("Client", &[("ClientId", INT), ("Name", "TINYBLOB NOT NULL")], "PRIMARY KEY (ClientId)"),
    ("FileSet", &[("FileSetId", INT), ("FileSet", "TINYBLOB NOT NULL")], "PRIMARY KEY (FileSetId)"),
    ("Pool", &[("PoolId", INT), ("Name", "TINYBLOB NOT NULL")], "PRIMARY KEY (PoolId)"),
    ("Path", &[("PathId", INT), ("Path", "BLOB NOT NULL")], "PRIMARY KEY (PathId), INDEX (Path(255))"),
    (
        "Media",
        &[("MediaId", INT), ("VolumeName", "TINYBLOB NOT NULL"), ("MediaType", "TINYBLOB NOT NULL")],
        "PRIMARY KEY (MediaId)",
    ),
    (
        "JobMedia",
        &[
            ("JobMediaId", INT),
            ("JobId", INT),
            ("MediaId", INT),
            ("FirstIndex", INT),
            ("LastIndex", INT),
            ("StartFile", INT),
            ("EndFile", INT),
            ("StartBlock", INT),
            ("EndBlock", INT),
        ],
        "PRIMARY KEY (JobMediaId), INDEX (JobId, MediaId)",
    ),
    (
        "Job",
        &[
            ("JobId", INT),
            ("Job", "TINYBLOB NOT NULL"),
            ("Name", "TINYBLOB NOT NULL"),
            ("Type", "BINARY(1) NOT NULL"),
            ("Level", "BINARY(1) NOT NULL"),
            ("ClientId", "INTEGER DEFAULT 0"),
            ("JobStatus", "BINARY(1) NOT NULL"),
            ("SchedTime", "DATETIME"),
            ("StartTime", "DATETIME"),
            ("EndTime", "DATETIME"),
            ("JobTDate", BIG),
            ("VolSessionId", INT),
            ("VolSessionTime", INT),
            ("JobFiles", INT),
            ("JobBytes", BIG),
            ("PoolId", INT),
            ("FileSetId", INT),
            ("PriorJobId", INT),
            ("PurgedFiles", "TINYINT DEFAULT 0"),
            ("HasBase", "TINYINT DEFAULT 0"),
        ],
        "PRIMARY KEY (JobId)",
    ),
];
const FILE: [(&str, &str); 7] = [
    ("FileId", BIG),
    ("FileIndex", "INTEGER DEFAULT 0"),
    ("JobId", INT),
    ("PathId", INT),
    ("DeltaSeq", "SMALLINT UNSIGNED DEFAULT 0"),
    ("LStat", "TINYBLOB NOT NULL"),
    ("MD5", "TINYBLOB"),
];

/// SQL that makes table `name` and fills it from the table of `from`.
fn table(from: &Connection, name: &str, columns: &[(&str, &str)], keys: &str) -> String {
    let list: Vec<_> = columns.iter().map(|(name, ty)| format!("{name} {ty}")).collect();
    let mut sql = format!("CREATE TABLE {name} ({}, {keys});\n", list.join(", "));
    let names: Vec<_> = columns.iter().map(|c| c.0).collect();
    let mut select = from.prepare(&format!("SELECT {} FROM {name}", names.join(", "))).unwrap();
    let mut rows = select.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let values: Vec<_> = (0..columns.len())
            .map(|i| match row.get_ref(i).unwrap() {
                ValueRef::Integer(0) if columns[i].1 == "DATETIME" => "'0000-00-00 00:00:00'".to_owned(),
                ValueRef::Integer(n) => n.to_string(),
                ValueRef::Text(t) | ValueRef::Blob(t) => format!("x'{}'", hex(t)),
                ValueRef::Null | ValueRef::Real(_) => "NULL".to_owned(),
            })
            .collect();
        writeln!(sql, "INSERT INTO {name} VALUES ({});", values.join(", ")).unwrap();
    }
    sql
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").unwrap();
        text
    })
}

/// Copy the SQLite catalog of `case` into database `name`.
fn copy(server: &Server, case: &std::path::Path, name: &str) {
    let file = server.dir().join(format!("{name}.db"));
    assert!(expected::unpack(case, "catalog.sqlite.zst", &file));
    let from = Connection::open(&file).unwrap();
    let mut sql = format!("SET sql_mode = ''; CREATE DATABASE {name}; USE {name};\n");
    for (name, columns, keys) in TABLES {
        sql += &table(&from, name, columns, keys);
    }
    let mut file = FILE.to_vec();
    if from.prepare("SELECT Filename FROM File").is_ok() {
        file.push(("Filename", "BLOB NOT NULL"));
        sql +=
            &table(&from, "File", &file, "PRIMARY KEY (FileId), INDEX (JobId), INDEX (JobId, PathId, Filename(255))");
    } else {
        file.push(("FilenameId", INT));
        sql += &table(&from, "File", &file, "PRIMARY KEY (FileId), INDEX (JobId), INDEX (JobId, PathId, FilenameId)");
        let filename = [("FilenameId", INT), ("Name", "BLOB NOT NULL")];
        sql += &table(&from, "Filename", &filename, "PRIMARY KEY (FilenameId), INDEX (Name(255))");
    }
    server.sql("", sql.as_bytes());
}

fn url(server: &Server, database: &str) -> String {
    format!("mysql://reader:s3%63ret@127.0.0.1:{}/{database}", server.port)
}

#[test]
fn catalogs_of_bacula_9_and_15() {
    let (Some(old), Some(new)) = (common::case("chain-accurate"), common::case("r15-chain")) else { return };
    let Some(mut server) = server::mariadb() else { return };
    copy(&server, &old, "old");
    copy(&server, &new, "new");
    // Rights to read are enough. The name in ISO 8859-1 is what a file daemon of old sent.
    server.sql(
        "new",
        b"CREATE DATABASE other; CREATE USER reader@'127.0.0.1' IDENTIFIED BY 's3cret';
          GRANT SELECT ON *.* TO reader@'127.0.0.1';
          INSERT INTO Path VALUES (9001, x'2ffff02f');
          INSERT INTO File (FileId, FileIndex, JobId, PathId, Filename, LStat, MD5)
            VALUES (9001, 7, 6, 9001, x'e42066', 'A', '0'), (9002, 9, 6, 9001, x'e42066', 'B', NULL),
                   (9003, 9, 6, 9001, x'c42066', 'C', '0');
          INSERT INTO JobMedia VALUES (9001, 9, 1, 0, 0, 0, 0, 0, 4294967295);
          SET sql_mode = ''; INSERT INTO Job (JobId, Job, Name, Type, Level, JobStatus, StartTime, JobTDate)
            VALUES (9, 'v.1', 'v', 'V', 'V', 'T', NULL, 0);",
    );
    for (database, case) in [("old", &old), ("new", &new)] {
        assert!(expected::check(&*catalog::open(&url(&server, database)).unwrap(), case) >= 16);
    }

    let catalog = catalog::open(&url(&server, "new")).unwrap();
    let found = catalog.find_file(6, b"/\xff\xf0/", b"\xe4 f").unwrap().unwrap();
    assert_eq!((found.file_index, found.lstat.as_slice(), found.name.as_slice()), (9, &b"B"[..], &b"\xe4 f"[..]));
    assert!(expected::rows(&*catalog, 6).contains(&found));
    assert_eq!(catalog.find_file(6, b"/' OR 1 = 1 -- /", b"").unwrap(), None);

    server.sql(
        "new",
        b"SET sql_mode = ''; UPDATE Job SET StartTime = '0000-00-00 00:00:00', PoolId = NULL WHERE JobId = 1",
    );
    let jobs = catalog.jobs().unwrap();
    assert_eq!((&jobs[0].start_time, jobs[0].pool.as_str()), (&None, ""));

    let socket = format!("mariadb://root@/new?socket={}", server.dir().join("socket").display());
    assert_eq!(catalog::open(&socket).unwrap().jobs().unwrap(), jobs);

    let stopped = catalog.for_each_file(1, &mut |row| {
        assert!(catalog.find_file(1, row.path, row.name)?.is_some());
        Err(blockdev::Error::invalid("enough"))
    });
    assert_eq!(stopped.unwrap_err().to_string(), "enough");

    let message = |url: &str| {
        let text = catalog::open(url).err().unwrap().to_string();
        assert!(!text.contains("s3cret") && !text.contains("s3%63ret") && !text.contains("wr0ng"), "{text}");
        text
    };
    assert!(message(&url(&server, "nothing")).contains("there is no such database"));
    assert!(message(&url(&server, "other")).contains("not readable as a Bacula catalog"));
    let wrong = format!("mysql://reader:wr0ng@127.0.0.1:{}/new", server.port);
    assert!(message(&wrong).contains("does not let this user in"));

    server.stop();
    let down = catalog.jobs().unwrap_err().to_string();
    assert!(down.contains("cannot connect") && !down.contains("s3cret"), "{down}");
    server.start();
    assert_eq!(catalog.jobs().unwrap(), jobs);
    server.stop();
    server.start();
    assert_eq!(catalog.jobs().unwrap(), jobs, "a connection that broke while at rest is made anew");
}
