//! An initramfs: what is in it, and a further archive for its end.
//!
//! It is a row of cpio archives ("newc", `070701`), each perhaps compressed, with zeros between them
//! (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel). The kernel unpacks them one over the other.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read},
};

use blockdev::{Error, Result};

/// Bytes that are unpacked at most to find the names.
const UNPACKED_MAX: u64 = 2 << 30;
const HEADER: usize = 110;
const NAME_MAX: usize = 4096;
const ENTRIES_MAX: usize = 200_000;

/// What is in an initramfs: names, with the targets of symbolic links.
#[derive(Debug, Default)]
pub struct Contents(BTreeMap<String, Option<String>>);

impl Contents {
    /// Reads the names of all archives.
    ///
    /// # Errors
    ///
    /// When it is compressed in a way that is not known here, or damaged.
    pub fn read(initramfs: &[u8]) -> Result<Self> {
        let mut names = BTreeMap::new();
        let mut rest = initramfs;
        loop {
            while rest.first() == Some(&0) {
                rest = rest.get(1..).unwrap_or_default();
            }
            let Some(first) = rest.first_chunk::<6>() else { break };
            let damaged =
                |e| Error::new(blockdev::ErrorKind::Damaged, "the initramfs cannot be unpacked").with_source(e);
            match first {
                b"070701" | b"070702" => entries(&mut rest, &mut names).map_err(damaged)?,
                [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                    let decoder = zstd::stream::read::Decoder::with_buffer(&mut rest).map_err(damaged)?.single_frame();
                    all(decoder, &mut names).map_err(damaged)?;
                }
                [0x1f, 0x8b, ..] => all(flate2::bufread::GzDecoder::new(&mut rest), &mut names).map_err(damaged)?,
                [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(unknown("xz")),
                [0x02, 0x21, 0x4c, 0x18, ..] => return Err(unknown("lz4")),
                [b'B', b'Z', b'h', ..] => return Err(unknown("bzip2")),
                _ => return Err(Error::damaged("what is behind the first archives of the initramfs is none")),
            }
        }
        Ok(Self(names))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The folder of the modules of a kernel, as the initramfs has it, or as it would: the kernel's unpacker would replace
    /// a link by a folder.
    pub fn modules_folder(&self, version: &str) -> String {
        let end = format!("lib/modules/{version}");
        if let Some(name) = self.names().find(|name| name.ends_with(&end)) {
            return name.to_owned();
        }
        let is_merged = matches!(self.0.get("lib"), Some(Some(_)));
        if is_merged { format!("usr/{end}") } else { end }
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

fn unknown(method: &str) -> Error {
    Error::unsupported(format!("the initramfs is compressed by {method}, which is not read here"))
}

/// The archives of what `unpacker` gives, to its end.
fn all(unpacker: impl Read, names: &mut BTreeMap<String, Option<String>>) -> io::Result<()> {
    let mut unpacked = BufReader::with_capacity(256 << 10, unpacker.take(UNPACKED_MAX));
    loop {
        let buffer = unpacked.fill_buf()?;
        let zeros = buffer.iter().take_while(|b| **b == 0).count();
        if buffer.is_empty() {
            return Ok(());
        }
        if zeros == 0 {
            entries(&mut unpacked, names)?;
        } else {
            unpacked.consume(zeros);
        }
    }
}

/// One archive, to its trailer.
fn entries(archive: &mut impl Read, names: &mut BTreeMap<String, Option<String>>) -> io::Result<()> {
    let wrong = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    loop {
        let mut header = [0; HEADER];
        archive.read_exact(&mut header)?;
        let field = |number: usize| {
            let digits = header.get(6 + number * 8..14 + number * 8).and_then(|d| std::str::from_utf8(d).ok());
            digits.and_then(|d| u32::from_str_radix(d, 16).ok()).ok_or(wrong("a header of its archive is none"))
        };
        if !header.starts_with(b"07070") {
            return Err(wrong("a header of its archive is none"));
        }
        let (mode, size, length) = (field(1)?, u64::from(field(6)?), field(11)? as usize);
        if length == 0 || length > NAME_MAX || names.len() > ENTRIES_MAX {
            return Err(wrong("a name of its archive is too long, or there are too many"));
        }
        let mut name = vec![0; length.saturating_add(padding(HEADER + length))];
        archive.read_exact(&mut name)?;
        name.truncate(length - 1);
        let name = String::from_utf8_lossy(&name).into_owned();
        let padded = size + padding(usize::try_from(size % 4).unwrap_or(0)) as u64;
        if mode & 0o170_000 == 0o120_000 && size <= NAME_MAX as u64 {
            let mut target = vec![0; usize::try_from(padded).unwrap_or(0)];
            archive.read_exact(&mut target)?;
            target.truncate(usize::try_from(size).unwrap_or(0));
            names.insert(name, Some(String::from_utf8_lossy(&target).into_owned()));
            continue;
        }
        if io::copy(&mut archive.take(padded), &mut io::sink())? != padded {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if name == "TRAILER!!!" {
            return Ok(());
        }
        names.insert(name.trim_start_matches("./").to_owned(), None);
    }
}

/// Bytes that are missing to a multiple of four.
const fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// An archive that is being made.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Archive {
    pub fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_644, content);
    }

    /// The archive with its trailer.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inodes += 1;
        let (size, length) = (content.len(), name.len() + 1);
        // ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.inodes, mode, 0, 0, 1, 0, size as u32, 0, 0, 0, 0, length as u32, 0];
        self.bytes.extend_from_slice(b"070701");
        fields.iter().for_each(|field| self.bytes.extend_from_slice(format!("{field:08X}").as_bytes()));
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend(std::iter::repeat_n(0, 1 + padding(HEADER + length)));
        self.bytes.extend_from_slice(content);
        self.bytes.extend(std::iter::repeat_n(0, padding(size)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(names: &[&str]) -> Vec<u8> {
        let mut archive = Archive::default();
        archive.folder("kernel");
        names.iter().for_each(|name| archive.file(name, b"some content"));
        archive.finish()
    }

    /// A row as distributions make it: microcode, then what is compressed, then ours.
    #[test]
    fn archives_in_a_row() {
        let row = [
            archive(&["kernel/microcode"]),
            vec![0; 508],
            zstd::bulk::compress(&archive(&["usr/lib/modules/6.1/x.ko"]), 1).unwrap(),
            vec![0; 3],
            archive(&["usr/lib/modules/6.1/y.ko"]),
        ]
        .concat();
        let contents = Contents::read(&row).unwrap();
        let names: Vec<_> = contents.names().collect();
        assert_eq!(names, ["kernel", "kernel/microcode", "usr/lib/modules/6.1/x.ko", "usr/lib/modules/6.1/y.ko"]);
        assert!(Contents::read(&row[..row.len() - 200]).is_err());
        assert!(Contents::read(b"\xfd7zXZ\0...").is_err());
        for cut in (0..row.len()).step_by(7) {
            let _ = Contents::read(&row[..cut]);
        }
    }

    /// GNU cpio takes it for an archive.
    #[test]
    fn cpio_reads_ours() {
        use std::{
            io::Write,
            process::{Command, Stdio},
        };
        let list = Command::new("cpio").args(["-it", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut list) = list else { return eprintln!("SKIPPED: cpio is not installed") };
        list.stdin.take().unwrap().write_all(&archive(&["a/b", "c"])).unwrap();
        let out = list.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "kernel\na/b\nc\n");
    }
}
