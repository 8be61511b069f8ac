//! How fast it is: run by hand, in a release build. Times are of the processor, since others may use it too.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, time::Duration};

use blockdev::ReadAt;

use crate::{
    common::{device, entries, filesystem, lab, open},
    lab::at,
    mounted::Made,
    wof,
};

/// Processor time of this thread.
struct Started(Duration);

impl Started {
    fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Self(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0 - self.0
    }
}

#[test]
#[ignore = "measures: cargo test --release -p guestfs --test ntfs -- --ignored --nocapture"]
fn figures() {
    let Some(path) = lab("vol/big-ntfs.raw") else { return };
    let started = Started::now();
    let fs = filesystem(&[device(&path)]);
    let root = entries(fs.as_ref(), fs.root()).unwrap();
    println!("open and list the root: {:?} ({} entries)", started.elapsed(), root.len());

    let started = Started::now();
    let dir = at(fs.as_ref(), "dir100k");
    let all = entries(fs.as_ref(), dir).unwrap();
    println!("list {} entries: {:?}", all.len(), started.elapsed());
    let started = Started::now();
    for entry in &all {
        fs.metadata(entry.id).unwrap();
    }
    println!("metadata of each: {:?}", started.elapsed());
    let started = Started::now();
    for entry in &all {
        assert_eq!(fs.lookup(dir, &entry.name).unwrap(), Some(entry.id));
    }
    println!("lookup of each: {:?}", started.elapsed());

    let mut buf = vec![0; 1 << 20];
    let mut rate = |what: &str, size: u64, read: &dyn Fn(&mut [u8], u64)| {
        let started = Started::now();
        for at in (0..size).step_by(buf.len()) {
            let n = buf.len().min((size - at) as usize);
            read(&mut buf[..n], at);
        }
        println!("{what}: {:.0} MB/s", size as f64 / 1e6 / started.elapsed().as_secs_f64());
    };
    let content = open(fs.as_ref(), at(fs.as_ref(), "one-gib.bin")).unwrap();
    let raw = File::open(&path).unwrap();
    for _ in 0..3 {
        rate("raw file", content.size(), &|buf, at| raw.read_exact_at(buf, at + (256 << 20)).unwrap());
        rate("1 GiB file", content.size(), &|buf, at| assert_eq!(content.read_at(buf, at).unwrap(), buf.len()));
    }

    let Some(path) = lab("vol/ntfs.raw") else { return };
    let fs = filesystem(&[device(&path)]);
    for name in ["text.log", "mixed.bin", "zeros.bin", "random.bin"] {
        let file = at(fs.as_ref(), &format!("compressed/{name}"));
        for _ in 0..3 {
            // Opened anew each time, so that nothing is unpacked yet.
            let content = open(fs.as_ref(), file).unwrap();
            rate(name, content.size(), &|buf, at| assert_eq!(content.read_at(buf, at).unwrap(), buf.len()));
        }
    }

    let samples = wof::samples();
    let samples = BTreeMap::from([("text", samples["text"].repeat(20)), ("code", samples["code"].clone())]);
    let Some(made) = Made::new(64, &[]) else { return };
    for (method, chunk, number) in wof::METHODS {
        let Some(packed) = wof::packed(&samples, method, chunk) else { return };
        let mount = made.mount("streams_interface=windows");
        for (bytes, size) in &packed {
            wof::make(&mount, &format!("{number}-{size}"), bytes, *size, number);
        }
        drop(mount);
        let fs = made.filesystem();
        for (bytes, size) in &packed {
            let content = open(fs.as_ref(), at(fs.as_ref(), &format!("{number}-{size}"))).unwrap();
            let what = format!("{method} {chunk}, packed to {} %", bytes.len() as u64 * 100 / size);
            rate(&what, *size, &|buf, at| assert_eq!(content.read_at(buf, at).unwrap(), buf.len()));
        }
    }
}
