//! Many small things checked at once.

use std::{
    panic,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// Checks all of `items` on a few threads; each check returns what is wrong, one line a fault.
///
/// # Panics
///
/// With all faults, when there is one.
pub fn check<T: Sync>(items: &[T], one: impl Fn(&T) -> Vec<String> + Sync) {
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Relaxed)) {
                    // A panic has been printed; the other items are checked all the same.
                    let found = panic::catch_unwind(panic::AssertUnwindSafe(|| one(item)));
                    let found = found.unwrap_or_else(|_| vec!["a check panicked, see above".to_owned()]);
                    faults.lock().expect("no panic with the lock held").extend(found);
                }
            });
        }
    });
    let faults = faults.into_inner().expect("no panic with the lock held");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
