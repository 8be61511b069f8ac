//! Fuzzes a whole small volume: indexing it, listing everything in it, reading a bounded part of every file.
//!
//! Checksums are not verified: they would keep the fuzzer out.
//!
//!     cargo xtask fuzz volume

#![no_main]

use std::{collections::HashSet, fs::File, io::Write, ops::ControlFlow, os::fd::AsRawFd, sync::Arc};

use volreader::{
    archive::{Archive, Job, Options, point::Point},
    file::StoredFile,
    index::entry::Entry,
    session::store::Integrity,
};

/// Bytes read of one file at each of its ends.
const READ: usize = 200_000;
/// Entries that are looked at.
const ENTRIES_MAX: usize = 200;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let memory = rustix::fs::memfd_create("volume", rustix::fs::MemfdFlags::empty()).expect("memory");
    let mut file = File::from(memory);
    file.write_all(data).expect("room in memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    let options = Options {
        volumes: vec![path],
        integrity: Integrity::Never,
        cache_bytes: Some(1 << 20),
        ..Options::default()
    };
    let Ok(archive) = Archive::open(options) else { return };
    let Ok(jobs) = archive.jobs() else { return };
    let mut left = ENTRIES_MAX;
    for job in &jobs {
        for entry in entries(job, &mut left) {
            read(&archive, job, &entry);
        }
        if let Some(point) = Point::of(job, &jobs) {
            list(&point);
        }
    }
});

fn entries(job: &Job, left: &mut usize) -> Vec<Entry> {
    let table = job.table().expect("the table of an indexed job");
    let (mut dirs, mut seen, mut found) = (vec![table.root()], HashSet::new(), Vec::new());
    while let Some(dir) = dirs.pop().filter(|_| *left > 0) {
        if !seen.insert(dir) {
            continue;
        }
        let listed = table.list(dir, 0, &mut |_, entry| {
            dirs.extend(entry.dir);
            found.push(entry);
            *left = left.saturating_sub(1);
            if *left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        listed.expect("a table that was just made");
    }
    found
}

fn read(archive: &Archive, job: &Job, entry: &Entry) {
    let Some(pos) = entry.pos else { return };
    let file = StoredFile { data: Arc::clone(job.data()), pos, file_index: entry.file_index };
    let size = u64::try_from(entry.stat.size).ok();
    let content = file.open(size, archive.keys()).ok();
    let _ = file.metadata(content.as_ref(), size);
    let Some(content) = content else { return };
    let mut buf = vec![0; READ];
    for at in [0, content.bytes.size().saturating_sub(READ as u64)] {
        let _ = content.bytes.read_at(&mut buf, at);
        let _ = content.bytes.extent_at(at);
    }
}

fn list(point: &Point) {
    let mut dirs: Vec<_> = point.root().into_iter().collect();
    for _ in 0..ENTRIES_MAX {
        let Some(dir) = dirs.pop() else { return };
        let listed = point.list(&dir).expect("a table that was just made");
        dirs.extend(listed.into_iter().filter_map(|entry| entry.dir));
    }
}
