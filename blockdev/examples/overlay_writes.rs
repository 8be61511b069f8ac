//! Random 4 KiB writes to a new overlay, to compare with `qemu-img bench` on a qcow2 overlay of the same base.
//!
//! `overlay_writes BASE OVERLAY [WRITES] [WRITES PER FLUSH, 0 for none but the last] [THREADS] [REPEAT]`: writes a
//! shuffled set of blocks spread over the whole disk; with REPEAT the same blocks again, which are then in their places.

use std::{path::Path, process::exit, sync::Arc, time::Instant};

use blockdev::{
    ReadAt, Result, WriteAt,
    file::HostFile,
    overlay::{Options, Overlay},
};

const BLOCK: u64 = 4096;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [base, path, numbers @ ..] = args.as_slice() else {
        eprintln!("usage: overlay_writes BASE OVERLAY [WRITES] [WRITES PER FLUSH] [THREADS] [REPEAT]");
        exit(2);
    };
    let number = |i: usize, default: u64| numbers.get(i).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (writes, per_flush, threads) = (number(0, 50_000), number(1, 0), number(2, 1).max(1));
    let run = || -> Result<()> {
        let base = Arc::new(HostFile::open(Path::new(base))?);
        let overlay = Overlay::create(Path::new(path), base, &Options::new("bench"))?;
        for turn in 0..=number(3, 0) {
            measure(&overlay, writes, per_flush, threads, turn)?;
        }
        overlay.close()
    };
    if let Err(error) = run() {
        eprintln!("{error}");
        exit(1);
    }
}

fn measure(overlay: &Overlay, writes: u64, per_flush: u64, threads: u64, turn: u64) -> Result<()> {
    let mut blocks: Vec<u64> = (0..overlay.size() / BLOCK).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut blocks);
    blocks.truncate(usize::try_from(writes).unwrap_or(usize::MAX));
    let begun = Instant::now();
    let part = blocks.len().div_ceil(threads as usize).max(1);
    std::thread::scope(|scope| {
        let write = |blocks: &[u64]| -> Result<()> {
            let data = [turn as u8 + 1; BLOCK as usize];
            for (i, block) in (1..).zip(blocks) {
                overlay.write_at(&data, block * BLOCK)?;
                if per_flush > 0 && i % per_flush == 0 {
                    overlay.flush()?;
                }
            }
            Ok(())
        };
        let workers: Vec<_> = blocks.chunks(part).map(|blocks| scope.spawn(move || write(blocks))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    let written = begun.elapsed();
    overlay.flush()?;
    let rate = |time: std::time::Duration| blocks.len() as f64 / time.as_secs_f64();
    println!(
        "turn {turn}: {} writes, {:.0}/s; with the last flush {:.0}/s; {} MiB used",
        blocks.len(),
        rate(written),
        rate(begun.elapsed()),
        overlay.used() >> 20
    );
    Ok(())
}
