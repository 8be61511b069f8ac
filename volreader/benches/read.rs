//! Reading a big file out of a volume against `pread` of the raw file, in one process, page cache warm.
//!
//! ```text
//! cargo bench -p volreader --bench read -- VOLUME PATH-IN-JOB RAW-FILE
//! ```
//!
//! `PATH-IN-JOB` is without a leading slash, in the first job of the volume. Prints one line a figure: bytes a
//! second or reads a second, ours, raw, and the ratio.

use std::{fs::File, hint::black_box, os::unix::fs::FileExt, path::Path, sync::Arc, time::Instant};

use blockdev::{Error, ReadAt, Result};
use volreader::{
    archive::{Archive, Options},
    content::ahead,
    file::StoredFile,
};

const CHUNK: usize = 1 << 20;
const PAGE: usize = 4096;
const RANDOM_READS: u64 = 200_000;
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [volume, path, raw] = args.as_slice() else {
        println!("skipped: give VOLUME PATH-IN-JOB RAW-FILE");
        return Ok(());
    };
    let raw = File::open(raw).map_err(|e| Error::io(format!("cannot open {raw}"), e))?;
    let size = raw.metadata().map_err(|e| Error::io("cannot stat the raw file", e))?.len();
    let random = || random_offsets(size);

    // Both files into the page cache.
    offsets(size).try_for_each(|o| pread(&raw, CHUNK, o))?;
    let content = open(volume, path)?;
    offsets(size).try_for_each(|o| read(content.as_ref(), CHUNK, o))?;
    let content = open(volume, path)?;
    let first_touch = time(|| random().take(20_000).try_for_each(|o| read(content.as_ref(), PAGE, o)))?;
    println!("random 4 KiB, first touch: {:.0} reads/s", 20_000.0 / first_touch);

    let mut sequential = Vec::new();
    let mut verified = Vec::new();
    let mut in_two = Vec::new();
    let mut random_4k = Vec::new();
    for _ in 0..ROUNDS {
        let base = time(|| offsets(size).try_for_each(|o| pread(&raw, CHUNK, o)))?;
        let fresh = open(volume, path)?;
        sequential.push(base / time(|| offsets(size).try_for_each(|o| read(fresh.as_ref(), CHUNK, o)))?);
        verified.push(base / time(|| offsets(size).try_for_each(|o| read(fresh.as_ref(), CHUNK, o)))?);
        let fresh = open(volume, path)?;
        in_two.push(base / time(|| ahead::read(fresh.as_ref(), 0..size, &mut |_, b| Ok(_ = black_box(b))))?);
        let base = time(|| random().try_for_each(|o| pread(&raw, PAGE, o)))?;
        random_4k.push(base / time(|| random().try_for_each(|o| read(fresh.as_ref(), PAGE, o)))?);
        println!("pread sequential {:.1} GB/s", size as f64 / base / 1e9);
    }
    for (what, mut ratios) in [
        ("sequential 1 MiB, first touch (verifying)", sequential),
        ("sequential 1 MiB, verified before", verified),
        ("sequential with read-ahead, first touch", in_two),
        ("random 4 KiB, verified before", random_4k),
    ] {
        ratios.sort_by(f64::total_cmp);
        println!(
            "{what}: {:.2} of pread (median of {ROUNDS}, {:.2} to {:.2})",
            ratios[ROUNDS / 2],
            ratios[0],
            ratios[ROUNDS - 1]
        );
    }
    Ok(())
}

fn open(volume: &str, path: &str) -> Result<Arc<dyn ReadAt>> {
    let archive = Archive::open(Options { volumes: vec![Path::new(volume).to_owned()], ..Options::default() })?;
    let jobs = archive.jobs()?;
    let job = jobs.first().ok_or_else(|| Error::not_found("no job in the volume"))?;
    let table = job.table()?;
    let (mut dir, mut found) = (table.root(), None);
    for component in path.split('/') {
        let entry = table.lookup(dir, component.as_bytes())?.into_iter().next();
        let entry = entry.ok_or_else(|| Error::not_found(format!("{component} is not there")))?;
        dir = entry.dir.unwrap_or(dir);
        found = Some(entry);
    }
    let entry = found.ok_or_else(|| Error::invalid("an empty path"))?;
    let pos = archive.position(job, &entry)?;
    let file = StoredFile { data: Arc::clone(job.data()), pos, file_index: entry.file_index };
    Ok(file.open(u64::try_from(entry.stat.size).ok(), archive.keys())?.bytes)
}

fn offsets(size: u64) -> impl Iterator<Item = u64> {
    (0..size).step_by(CHUNK)
}

fn random_offsets(size: u64) -> impl Iterator<Item = u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..RANDOM_READS).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) % (size / PAGE as u64) * PAGE as u64
    })
}

fn read(content: &dyn ReadAt, len: usize, offset: u64) -> Result<()> {
    with_buffer(len, |buf| content.read_at(buf, offset).map(|n| _ = black_box(n)))
}

fn pread(file: &File, len: usize, offset: u64) -> Result<()> {
    with_buffer(len, |buf| file.read_at(buf, offset).map(|n| _ = black_box(n)).map_err(|e| Error::io("pread", e)))
}

/// One buffer for all reads of a length, as a program that reads a file has one.
fn with_buffer<T>(len: usize, f: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local!(static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; CHUNK]));
    BUFFER.with_borrow_mut(|b| f(&mut b[..len]))
}

fn time(f: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    f()?;
    Ok(start.elapsed().as_secs_f64())
}
