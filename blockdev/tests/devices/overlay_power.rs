//! Losses of power at random moments, with any subset and mixture of the writes since the last sync on the disk.

use std::sync::Arc;

use blockdev::{
    WriteAt,
    overlay::{Options, Overlay},
};

use crate::{
    model::{Model, areas},
    overlay_qemu::checks_but_for_leaks,
    sim::SimFile,
    source::Source,
};

/// After each loss: it opens, every byte is what the last flush left or something written since, and QEMU finds
/// nothing worse than leaks.
#[test]
fn any_mixture_of_unsynced_writes() {
    let folder = tempfile::tempdir().unwrap();
    let rounds = 60;
    for seed in 0..rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        // With hardly any memory, tables are written between flushes too.
        let memory = if random.bool() { 0 } else { 1 << 20 };
        let options = Options { memory, ..Options::new("the source") };
        let mut file = SimFile::default();
        let mut model = Model::new(&areas(), &Source);
        let made = Overlay::create_on(Box::new(file.clone()), "sim".to_owned(), Arc::new(Source), &options);
        drop(made.unwrap());
        for life in 0..4 {
            let what = format!("seed {seed}, life {life}");
            file.fail_after(random.u64(1..400));
            if let Ok(overlay) = Overlay::open_on(Box::new(file.clone()), "sim".to_owned(), Arc::new(Source), &options)
            {
                run_until_the_power_fails(&overlay, &mut model, &mut random);
            }
            let kept = [0.0, 0.5, 0.9, 1.0][random.usize(..4)];
            file = file.after_power_loss(&mut random, kept);
            if seed % 10 == 0 {
                let path = folder.path().join("lost.qcow2");
                file.save(&path);
                checks_but_for_leaks(&path, &what);
            }
            let opened = Overlay::open_on(Box::new(file.clone()), "sim".to_owned(), Arc::new(Source), &options);
            let overlay = opened.unwrap_or_else(|e| panic!("{what}: {e}"));
            model.check_crashed(&overlay, &what);
        }
    }
}

fn run_until_the_power_fails(overlay: &Overlay, model: &mut Model, random: &mut fastrand::Rng) {
    loop {
        let op = model.random_op(random);
        let done = op.perform(overlay);
        // A failed one may have done anything within its range.
        model.apply(&op);
        if done.is_err() {
            return;
        }
        if random.u32(..12) == 0 {
            match overlay.flush() {
                Ok(()) => model.flushed(),
                Err(_) => return,
            }
        }
    }
}
