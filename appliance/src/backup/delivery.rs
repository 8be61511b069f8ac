//! Who has read what of a file: the only proof that Bacula has it.
//!
//! A File daemon that cannot read a file at all ends its job "OK -- with warnings". So each reader of a file of a running
//! job is watched: what it was given, and what it could not be given. A file is delivered when everybody who read any of
//! it read all of it, without an error; somebody has to have done so.
//!
//! Bytes may be asked for twice by one reader: Bacula's File daemon announces what it will read (`posix_fadvise` with
//! `WILLNEED`), and the kernel then fetches the beginning of a file on its own account, too.

use std::{ops::Range, sync::Arc};

use blockdev::{Error, Extent, MappedRun, ReadAt, Result};
use parking_lot::Mutex;

use crate::output::size;

/// Ranges that a reader may leave between what it reads; beyond that it is no File daemon.
const GAPS_MAX: usize = 4096;

/// The readers of a file.
#[derive(Debug, Default)]
pub struct Readers {
    all: Mutex<Vec<Arc<Mutex<Reader>>>>,
}

/// A reader.
#[derive(Debug, Default)]
struct Reader {
    /// What it was given: ascending, not touching.
    given: Vec<Range<u64>>,
    /// Bytes that it was given.
    bytes: u64,
    /// What went wrong, first.
    errors: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// All of it.
    Whole,
    /// Why not.
    Not(String),
}

impl Readers {
    /// `content` for another reader.
    pub fn open(&self, content: Arc<dyn ReadAt>) -> Arc<dyn ReadAt> {
        let reader = Arc::new(Mutex::new(Reader::default()));
        self.all.lock().push(Arc::clone(&reader));
        Arc::new(Watched { content, reader })
    }

    /// Whether a file of `len` bytes was delivered.
    pub fn delivered(&self, len: u64) -> Delivered {
        let all = self.all.lock();
        let mut whole = false;
        for reader in all.iter() {
            let reader = reader.lock();
            let most = reader.given.iter().map(|range| range.end - range.start).sum::<u64>();
            if let Some(error) = reader.errors.first() {
                let more = match reader.errors.len() - 1 {
                    0 => String::new(),
                    more => format!(", and {more} more"),
                };
                return Delivered::Not(format!("delivered {} of {}: {error}{more}", size(most), size(len)));
            }
            match most {
                0 if len > 0 => continue,
                most if most < len => return Delivered::Not(format!("delivered {} of {}", size(most), size(len))),
                _ => whole = true,
            }
        }
        match (whole, all.is_empty()) {
            (true, _) => Delivered::Whole,
            (false, true) => Delivered::Not("never opened: is it excluded by the FileSet?".to_owned()),
            (false, false) => Delivered::Not(format!("nothing of its {} was read", size(len))),
        }
    }

    /// Bytes that were given to readers.
    pub fn bytes(&self) -> u64 {
        self.all.lock().iter().map(|reader| reader.lock().bytes).sum()
    }
}

impl Reader {
    fn take(&mut self, range: Range<u64>) {
        self.bytes += range.end - range.start;
        let index = self.given.partition_point(|known| known.end < range.start);
        let touching = self.given.iter().skip(index).take_while(|known| known.start <= range.end).count();
        let merged = self.given.get(index..index + touching).unwrap_or_default();
        let start = merged.first().map_or(range.start, |first| first.start.min(range.start));
        let end = merged.last().map_or(range.end, |last| last.end.max(range.end));
        self.given.splice(index..index + touching, [start..end]);
        if self.given.len() > GAPS_MAX {
            self.fail("it was read here and there, not in order".to_owned());
            self.given.truncate(1);
        }
    }

    fn fail(&mut self, why: String) {
        /// Errors that are remembered: the count is for people.
        const ERRORS_MAX: usize = 1000;
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(why);
        }
    }
}

/// A file's content, watched.
struct Watched {
    content: Arc<dyn ReadAt>,
    reader: Arc<Mutex<Reader>>,
}

impl ReadAt for Watched {
    fn size(&self) -> u64 {
        self.content.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let read = self.content.read_at(buf, offset);
        let mut reader = self.reader.lock();
        match &read {
            Ok(0) => {}
            Ok(n) => reader.take(offset..offset + *n as u64),
            Err(e) => reader.fail(format!("at byte {offset}: {e}")),
        }
        read
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        // Who looks for holes does not read them: here everything is to be read.
        let size = self.size();
        Ok((offset < size).then_some(Extent { range: offset..size, kind: blockdev::ExtentKind::Data }))
    }

    fn map(&self, _offset: u64, _len: u64) -> Option<MappedRun<'_>> {
        // Bytes that go by here unseen would not be counted.
        None
    }
}

/// A file that is not here any more.
pub fn elsewhere(name: &str, job: &str) -> Error {
    Error::unsupported(format!("{name} is in the job {job}: restore it from there (or look into `machines/`)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &Arc<dyn ReadAt>, range: Range<u64>) {
        let mut buf = vec![0; usize::try_from(range.end - range.start).expect("small")];
        content.read_at(&mut buf, range.start).expect("a read");
    }

    fn not(readers: &Readers, len: u64) -> String {
        match readers.delivered(len) {
            Delivered::Not(why) => why,
            Delivered::Whole => panic!("it was not delivered"),
        }
    }

    #[test]
    fn all_of_it_once() {
        let readers = Readers::default();
        assert!(not(&readers, 1000).contains("never opened"));
        let file: Arc<dyn ReadAt> = Arc::new(vec![7_u8; 1000]);
        let one = readers.open(Arc::clone(&file));
        assert!(not(&readers, 1000).contains("nothing of its"));
        read(&one, 0..400);
        read(&one, 600..1000);
        assert_eq!(not(&readers, 1000), "delivered 800 B of 1000 B");
        read(&one, 400..600);
        // The end, as readers find it.
        assert_eq!(one.read_at(&mut [0; 10], 1000).expect("the end"), 0);
        assert_eq!(readers.delivered(1000), Delivered::Whole);
        // Somebody else, who does not read to the end: who of the two was the File daemon?
        let two = readers.open(Arc::clone(&file));
        read(&two, 0..10);
        assert_eq!(not(&readers, 1000), "delivered 10 B of 1000 B");
        read(&two, 10..1000);
        assert_eq!(readers.delivered(1000), Delivered::Whole);
        // What the kernel fetches on its own account.
        read(&two, 0..100);
        assert_eq!(readers.delivered(1000), Delivered::Whole);
    }

    #[test]
    fn nothing_of_an_empty_file() {
        let readers = Readers::default();
        let _open = readers.open(Arc::new(Vec::new()));
        assert_eq!(readers.delivered(0), Delivered::Whole);
    }
}
