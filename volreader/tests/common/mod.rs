//! Whole records of the real volumes in the corpus, by a reader of its own.
//!
//! Fifty lines straight from the format reference (sections 2 and 3), trusting and slow: the decoders are
//! proved with what it yields, and it shares no code with the reader they will serve.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// A whole record of a job.
pub struct Record {
    pub file_index: i32,
    pub stream: i32,
    pub payload: Vec<u8>,
}

/// What a manifest says of a file, and the records with its attributes' name.
pub struct StoredFile {
    pub name: Vec<u8>,
    pub records: Vec<Record>,
}

/// The folder of corpus case `name`: in the repository, or where `REVENANT_TESTDATA` says. Says so if there is none.
pub fn case(name: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/bacula").join(name);
    let shared = std::env::var_os("REVENANT_TESTDATA").map(|root| Path::new(&root).join("bacula").join(name));
    let found = [Some(own), shared].into_iter().flatten().find(|dir| dir.join("case.json").exists());
    if found.is_none() {
        eprintln!("skipped: no corpus case {name}; set REVENANT_TESTDATA");
    }
    found
}

/// Decrypts the bytes of a block from 32 on, given its number, session id and session time.
pub type BlockCipher<'a> = &'a dyn Fn([u32; 3], &mut [u8]);

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// All whole records with a positive FileIndex of a case's volumes, per session in their order.
pub fn records(case: &Path, cipher: Option<BlockCipher<'_>>) -> Vec<Record> {
    let mut volumes: Vec<_> = fs::read_dir(case.join("volumes")).unwrap().map(|e| e.unwrap().path()).collect();
    volumes.sort();
    let mut pending: HashMap<[u32; 2], (Record, usize)> = HashMap::new();
    let mut out = Vec::new();
    for volume in volumes {
        let mut bytes = zstd::decode_all(fs::File::open(volume).unwrap()).unwrap();
        let mut at = 0;
        while at < bytes.len() {
            let len = u32_at(&bytes, at + 4) as usize;
            let block = &mut bytes[at..at + len];
            at += len;
            let header = if &block[12..16] == b"BB03" { 32 } else { 24 };
            let session = [u32_at(block, 16), u32_at(block, 20)];
            if header == 32 && u32_at(block, 0) & 4 != 0 {
                let number = u32_at(block, 8);
                cipher.expect("an encrypted block needs a cipher")([number, session[0], session[1]], &mut block[32..]);
            }
            let mut p = header;
            while p + 12 <= len {
                let (index, stream) = (u32_at(block, p) as i32, u32_at(block, p + 4) as i32);
                let left = u32_at(block, p + 8) as usize;
                let end = len.min(p + 12 + left);
                let here = &block[p + 12..end];
                p = end;
                if index <= 0 {
                    continue;
                }
                let (mut record, mut missing) = match stream {
                    ..0 => pending.remove(&session).expect("a continuation has a beginning"),
                    _ => (Record { file_index: index, stream, payload: Vec::new() }, left),
                };
                assert_eq!((record.file_index, record.stream, missing), (index, stream.abs(), left));
                record.payload.extend_from_slice(here);
                missing -= here.len();
                if missing == 0 {
                    out.push(record);
                } else {
                    pending.insert(session, (record, missing));
                }
            }
        }
    }
    out
}

/// The records of a case by file, in order, with the name from the attributes record.
pub fn files(case: &Path, cipher: Option<BlockCipher<'_>>) -> Vec<StoredFile> {
    let mut files: Vec<StoredFile> = Vec::new();
    let mut index = 0;
    for record in records(case, cipher) {
        if record.file_index != index {
            index = record.file_index;
            files.push(StoredFile { name: Vec::new(), records: Vec::new() });
        }
        let file = files.last_mut().unwrap();
        if record.stream & 0x7ff == 1 {
            let text = &record.payload;
            let start = text.iter().enumerate().filter(|(_, b)| **b == b' ').nth(1).unwrap().0 + 1;
            let name = text[start..].split(|b| *b == 0).next().unwrap();
            file.name = name.strip_suffix(b"/").unwrap_or(name).to_vec();
        }
        file.records.push(record);
    }
    files
}

/// The entries of restore point `number` with a UTF-8 path, by path.
pub fn manifest(case: &Path, number: usize) -> HashMap<Vec<u8>, serde_json::Value> {
    let text = fs::read(case.join(format!("manifest-{number}.json"))).unwrap();
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    entries.into_iter().filter_map(|e| Some((e["path"].as_str()?.as_bytes().to_vec(), e))).collect()
}
