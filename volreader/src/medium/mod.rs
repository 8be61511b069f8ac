//! Where a volume's bytes are: a file, or the numbered parts of a cloud volume's cache folder.
//!
//! A volume is addressed as Bacula does it. In a file an address is the offset. In a cloud volume the top 20
//! bits are the part's number and the low 44 the offset in it, so that the parts, in order, are one run of blocks.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use blockdev::{Error, Result};

/// Bits of an address that are the offset within a part.
const PART_SHIFT: u32 = 44;

/// A place in a volume, as JobMedia rows and block maps have it.
pub type Address = u64;

/// An open volume's bytes.
#[derive(Debug)]
pub struct Medium {
    path: PathBuf,
    segments: Vec<Segment>,
}

/// One file of the medium and the address of its first byte.
#[derive(Debug)]
struct Segment {
    base: Address,
    file: File,
}

impl Medium {
    /// Open a volume file, or a folder that holds `part.1` and its successors.
    ///
    /// # Errors
    ///
    /// When nothing can be opened there.
    pub fn open(path: &Path) -> Result<Self> {
        let open = |p: &Path| File::open(p).map_err(|e| Error::io(format!("cannot open volume {}", p.display()), e));
        let segments = if path.is_dir() {
            let mut numbers = part_numbers(path)?;
            numbers.sort_unstable();
            let part = |n: u64| Ok(Segment { base: n << PART_SHIFT, file: open(&path.join(format!("part.{n}")))? });
            numbers.into_iter().map(part).collect::<Result<Vec<_>>>()?
        } else {
            vec![Segment { base: 0, file: open(path)? }]
        };
        Ok(Self { path: path.to_owned(), segments })
    }

    /// Whether a folder is a cloud volume.
    #[must_use]
    pub fn is_parts_folder(path: &Path) -> bool {
        path.join("part.1").is_file()
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The address of the first byte.
    #[must_use]
    pub fn start(&self) -> Address {
        self.segments.first().map_or(0, |s| s.base)
    }

    /// The address ranges that exist now; a volume that is being written grows.
    ///
    /// # Errors
    ///
    /// When the operating system does not tell a file's length.
    pub fn ranges(&self) -> Result<Vec<std::ops::Range<Address>>> {
        self.segments.iter().map(|s| Ok(s.base..s.base + self.file_len(&s.file)?)).collect()
    }

    /// Bytes that exist now.
    ///
    /// # Errors
    ///
    /// As [`ranges`](Self::ranges).
    pub fn present_len(&self) -> Result<u64> {
        Ok(self.ranges()?.iter().map(|r| r.end - r.start).sum())
    }

    /// Read at an address; short where the file (or part) ends.
    ///
    /// # Errors
    ///
    /// What the operating system reports, and addresses in parts that are not here.
    pub fn read_at(&self, buf: &mut [u8], address: Address) -> Result<usize> {
        let (file, offset) = self.resolve(address)?;
        let mut done = 0;
        while done < buf.len() {
            match file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.read_error(address + done as u64, e)),
            }
        }
        Ok(done)
    }

    /// Scatter one contiguous range over several buffers; short where the file ends or the system stops.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    pub fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], address: Address) -> Result<usize> {
        let (file, offset) = self.resolve(address)?;
        loop {
            match rustix::io::preadv(file, bufs, offset) {
                Ok(n) => return Ok(n),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(self.read_error(address, e.into())),
            }
        }
    }

    /// The file that holds an address, and the offset in it.
    ///
    /// # Errors
    ///
    /// `Missing` for a part that is not here.
    pub fn resolve(&self, address: Address) -> Result<(&File, u64)> {
        let index = self.segments.partition_point(|s| s.base <= address);
        let segment = index.checked_sub(1).and_then(|i| self.segments.get(i));
        match segment {
            Some(s) if s.base >> PART_SHIFT == address >> PART_SHIFT => Ok((&s.file, address - s.base)),
            _ => Err(Error::new(
                blockdev::ErrorKind::Missing,
                format!(
                    "{}/part.{} is not in the cache folder; fetch it from the cloud (bconsole: cloud truncate/upload, or copy it)",
                    self.path.display(),
                    address >> PART_SHIFT
                ),
            )),
        }
    }

    fn file_len(&self, file: &File) -> Result<u64> {
        use std::io::Seek;
        let fail = |e| Error::io(format!("cannot read the length of {}", self.path.display()), e);
        let metadata = file.metadata().map_err(fail)?;
        if metadata.is_file() {
            return Ok(metadata.len());
        }
        // A block device has no length of its own; the file position is used for nothing else.
        let mut file = file;
        file.seek(io::SeekFrom::End(0)).map_err(fail)
    }

    fn read_error(&self, address: Address, e: io::Error) -> Error {
        Error::io(format!("cannot read volume {} at address {address}", self.path.display()), e)
    }
}

fn part_numbers(folder: &Path) -> Result<Vec<u64>> {
    let fail = |e| Error::io(format!("cannot list cloud volume {}", folder.display()), e);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        // Other names (`part20260101120000.3`) are kept versions of overwritten parts.
        let number = name.to_str().and_then(|n| n.strip_prefix("part.")).filter(|n| !n.starts_with('0'));
        if let Some(n) = number.and_then(|n| n.parse().ok()).filter(|n| *n < 1 << (64 - PART_SHIFT)) {
            numbers.push(n);
        }
    }
    Ok(numbers)
}
