//! Disks that are full and quotas that are reached.

use std::sync::Arc;

use blockdev::{
    ErrorKind, WriteAt,
    overlay::{Options, Overlay},
};

use crate::{
    model::{Model, areas},
    sim::SimFile,
    source::Source,
};

fn open(file: &SimFile, options: &Options, new: bool) -> Overlay {
    let open = if new { Overlay::create_on } else { Overlay::open_on };
    open(Box::new(file.clone()), "sim".to_owned(), Arc::new(Source), options).unwrap()
}

/// A write that finds no room fails with `NoSpace`, leaves everything else right, and works when there is room again.
#[test]
fn a_full_disk() {
    for seed in 0..20 {
        let options = Options { memory: 0, ..Options::new("the source") };
        let mut random = fastrand::Rng::with_seed(seed);
        let file = SimFile::default();
        let mut model = Model::new(&areas(), &Source);
        let overlay = open(&file, &options, true);
        let mut refused = 0;
        file.set_room(Some(random.u64(..200_000)));
        for _ in 0..200 {
            let op = model.random_op(&mut random);
            match op.perform(&overlay) {
                Ok(()) => model.apply(&op),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
                    refused += 1;
                    model.apply_failed(&op, &overlay);
                    // Room for the tables was kept, so what was written can still be made durable.
                    overlay.flush().unwrap();
                    if refused % 10 == 0 {
                        file.set_room(Some(random.u64(..50_000)));
                        let _ = op
                            .perform(&overlay)
                            .map(|()| model.apply(&op))
                            .map_err(|_| model.apply_failed(&op, &overlay));
                    }
                }
            }
        }
        assert!(refused > 5, "seed {seed}: {refused} refused");
        model.check(&overlay, &format!("seed {seed}, full"));
        file.set_room(None);
        let op = model.random_op(&mut random);
        op.perform(&overlay).unwrap();
        model.apply(&op);
        overlay.close().unwrap();
        model.check(&open(&file, &options, false), &format!("seed {seed}, reopened"));
    }
}

/// The quota is kept, counts what is there at opening, and is free again after a discard.
#[test]
fn a_quota() {
    let options = Options { quota: Some(2 << 20), ..Options::new("the source") };
    let file = SimFile::default();
    let overlay = open(&file, &options, true);
    let refused =
        |overlay: &Overlay| (0..2048).find_map(|i| overlay.write_at(&[5; 4096], i * 4096).err()).map(|e| e.kind());
    assert_eq!(refused(&overlay), Some(ErrorKind::NoSpace));
    assert!((1 << 20..=2 << 20).contains(&overlay.used()), "{}", overlay.used());
    overlay.write_at(&[6; 4096], 0).unwrap();
    overlay.close().unwrap();
    let overlay = open(&file, &options, false);
    assert_eq!(refused(&overlay), Some(ErrorKind::NoSpace));
    overlay.discard(0..1 << 20).unwrap();
    overlay.write_at(&[7; 500_000], 40 << 20).unwrap();
    assert_eq!(overlay.write_at(&[7; 700_000], 50 << 20).unwrap_err().kind(), ErrorKind::NoSpace);
    overlay.flush().unwrap();
    assert!(overlay.used() <= 2 << 20);
}
