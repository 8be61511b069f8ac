//! How fast it is: run by hand, in a release build.

use std::{fs::File, os::unix::fs::FileExt, time::Instant};

use blockdev::ReadAt;

use crate::common::{device, entries, filesystem, lab, open};

#[test]
#[ignore = "measures: cargo test --release -p guestfs --test xfs -- --ignored --nocapture"]
fn figures() {
    let Some(path) = lab("vol/big-xfs.raw") else { return };
    for _ in 0..2 {
        let started = Instant::now();
        let fs = filesystem(&[device(&path)]);
        let root = entries(fs.as_ref(), fs.root()).unwrap();
        println!("open and list the root: {:?} ({} entries)", started.elapsed(), root.len());
    }
    let fs = filesystem(&[device(&path)]);
    let at = |name: &[u8]| fs.lookup(fs.root(), name).unwrap().unwrap();
    let dir = at(b"dir100k");
    let started = Instant::now();
    let all = entries(fs.as_ref(), dir).unwrap();
    println!("list {} entries: {:?}", all.len(), started.elapsed());
    let started = Instant::now();
    for entry in &all {
        fs.metadata(entry.id).unwrap();
    }
    println!("metadata of each: {:?}", started.elapsed());
    let started = Instant::now();
    for entry in &all {
        assert_eq!(fs.lookup(dir, &entry.name).unwrap(), Some(entry.id));
    }
    println!("lookup of each: {:?}", started.elapsed());

    let mut buf = vec![0; 1 << 20];
    let mut rate = |what: &str, size: u64, read: &dyn Fn(&mut [u8], u64)| {
        let started = Instant::now();
        for at in (0..size).step_by(buf.len()) {
            let n = buf.len().min((size - at) as usize);
            read(&mut buf[..n], at);
        }
        println!("{what}: {:.0} MB/s", size as f64 / 1e6 / started.elapsed().as_secs_f64());
    };
    let content = open(fs.as_ref(), at(b"one-gib.bin")).unwrap();
    let raw = File::open(&path).unwrap();
    for _ in 0..3 {
        rate("raw file", content.size(), &|buf, at| raw.read_exact_at(buf, at + (128 << 20)).unwrap());
        rate("1 GiB file", content.size(), &|buf, at| assert_eq!(content.read_at(buf, at).unwrap(), buf.len()));
    }
}
