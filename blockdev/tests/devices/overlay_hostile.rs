//! Overlay files that somebody has tampered with: an error or wrong data, never a panic, a hang or a big allocation.

use std::sync::Arc;

use blockdev::{
    ReadAt, WriteAt,
    overlay::{Medium, Options, Overlay},
};

use crate::{
    model::{Model, areas},
    sim::SimFile,
    source::Source,
};

#[test]
fn tampered_files() {
    let options = Options::new("the source");
    let file = SimFile::default();
    let overlay = Overlay::create_on(Box::new(file.clone()), "sim".to_owned(), Arc::new(Source), &options).unwrap();
    let mut random = fastrand::Rng::with_seed(9);
    let model = Model::new(&areas(), &Source);
    (0..200).for_each(|_| model.random_op(&mut random).perform(&overlay).unwrap());
    overlay.close().unwrap();

    // Where the metadata is: the header, the tables, and every page that is stored.
    let mut places: Vec<u64> = (0..200).collect();
    let mut at = 200;
    while let Some(data) = file.next_data(at).unwrap().filter(|data| *data < 9 << 17) {
        places.extend((data..data + 512).step_by(4));
        at = data + 512;
    }
    let (mut refused, mut opened) = (0, 0);
    for _ in 0..600 {
        let bad = file.copy();
        for _ in 0..random.usize(1..4) {
            let at = places[random.usize(..places.len())];
            let value = [0, 1, 0x7f, 0x80, 0xff, random.u8(..)][random.usize(..6)];
            let bytes = [value; 8];
            bad.overwrite(&bytes[..random.usize(1..=8)], at);
        }
        if random.u32(..5) == 0 {
            bad.set_len(random.u64(..2 << 20)).unwrap();
        }
        if random.bool() {
            // As after a crash, so that it is repaired.
            bad.overwrite(&[0x11], 79);
        }
        match Overlay::open_on(Box::new(bad), "bad".to_owned(), Arc::new(Source), &options) {
            Err(_) => refused += 1,
            Ok(overlay) => {
                opened += 1;
                for area in areas() {
                    let mut bytes = vec![0; (area.end - area.start) as usize];
                    let _ = overlay.read_at(&mut bytes, area.start);
                    let _ = overlay.extent_at(area.start);
                }
                (0..10).for_each(|_| drop(model.random_op(&mut random).perform(&overlay)));
                let _ = overlay.flush();
            }
        }
    }
    assert!(refused > 50 && opened > 50, "{refused} refused, {opened} opened: the test does not test");
}
