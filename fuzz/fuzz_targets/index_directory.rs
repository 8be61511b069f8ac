//! Fuzzes the directory of an index, with a trailer that always fits: its checksum would keep the fuzzer out.
//!
//!     cargo xtask fuzz index_directory

#![no_main]

use std::{fs, io::Write, sync::LazyLock};

use volreader::index::store;

/// A folder in memory where the system has one.
static PLACE: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
    let folder = ["/dev/shm", "/tmp"].into_iter().find(|f| fs::metadata(f).is_ok()).unwrap_or(".");
    std::path::Path::new(folder).join(format!("revenant-fuzz-{}.rvindex", std::process::id()))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut file = fs::File::create(&*PLACE).expect("a file");
    file.write_all(data).expect("room");
    file.write_all(&store::trailer(0, data)).expect("room");
    if let Some((_, directory)) = store::read(&PLACE) {
        let _ = directory.sessions.len() + directory.volumes.len();
    }
});
