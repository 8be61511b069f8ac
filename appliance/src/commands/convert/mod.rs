//! `revenant convert`: any disk into an image file of any kind.
//!
//! The target is a container of the source, whose bytes are known before they are written: so it is written by several
//! threads, in any order, and an interrupted conversion goes on where it stopped. `package` does the same for whole
//! machines.

mod package;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Instant,
};

use blockdev::{
    BlockDevice, Error, ReadAt, Result,
    containers::{self, Content, Kind},
    copy,
    images::Disk,
    zeros::WithoutZeros,
};
use serde_json::json;

use super::{
    cancel_flag,
    source::{DiskSource, Disks},
};
use crate::{
    cli::{Cli, ConvertOptions},
    output::{self, size},
    progress::Bytes,
};

pub fn run(cli: &Cli, from: &OsStr, to: &Path, options: &ConvertOptions) -> Result<u8> {
    let writer = Writer { cli, options, cancel: cancel_flag()? };
    if let Some(form) = package::form_of(to, options.output_format.as_deref()) {
        return package::run(&writer, from, to, form);
    }
    let kind = kind_of(to, options.output_format.as_deref())?;
    let source = Disks::new(cli).one(from, options.format.as_deref().map(str::parse).transpose()?)?;
    let started = Instant::now();
    let job = Conversion { writer, source: &source };
    let files = job.convert(kind, to)?;
    let verified = options.verify.then(|| job.verify(kind, to)).transpose()?;
    job.tell(kind, to, &files, started, verified.is_some())?;
    Ok(0)
}

/// The kind of image that is wanted: as said, or else as the name of the target ends.
fn kind_of(to: &Path, named: Option<&str>) -> Result<Kind> {
    let extension = to.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match (named, extension) {
        (Some(name), _) => name.parse(),
        (None, Some(extension)) => extension
            .parse()
            .map_err(|_| Error::invalid(format!("{} tells no image format by its name; say it by -O", to.display()))),
        (None, None) => Err(Error::invalid(format!("{} tells no image format; say it by -O", to.display()))),
    }
}

/// How files are written, whatever is in them.
struct Writer<'a> {
    cli: &'a Cli,
    options: &'a ConvertOptions,
    cancel: Arc<AtomicBool>,
}

impl Writer<'_> {
    fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(8);
        self.options.workers.unwrap_or_else(cores)
    }

    fn is_quiet(&self) -> bool {
        self.cli.sources.quiet || self.cli.sources.json
    }

    /// `disk`, whose stored zeros are holes, unless they are to be kept.
    fn without_zeros(&self, disk: Arc<dyn BlockDevice>) -> Result<Arc<dyn BlockDevice>> {
        if self.options.keep_zeros {
            return Ok(disk);
        }
        let counted = Arc::new(AtomicU64::new(0));
        let bar = Bytes::show("looking for zeros", disk.size(), &counted, self.is_quiet());
        let disk = WithoutZeros::find(disk, self.workers(), &counted, &self.cancel)?;
        bar.finish();
        Ok(disk)
    }

    /// Write `file`, which is `what`, to `path`; what was interrupted goes on.
    fn write(&self, file: &dyn ReadAt, what: &str, path: &Path) -> Result<()> {
        let mut journal = path.as_os_str().to_owned();
        journal.push(".revenant-part");
        let journal = PathBuf::from(journal);
        if path.exists() && !journal.exists() && !self.options.force {
            return Err(Error::invalid(format!("{} is there already; --force overwrites it", path.display())));
        }
        let failed = |e| Error::io(format!("cannot write {}", path.display()), e);
        let target = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
        let counted = Arc::new(AtomicU64::new(0));
        let bar = Bytes::show("converting", file.size(), &counted, self.is_quiet());
        let options = copy::Options {
            workers: self.workers(),
            progress: Some(&counted),
            cancel: Some(&self.cancel),
            journal: Some((journal, what.to_owned())),
        };
        let copied = copy::copy(file, &target, &options);
        bar.finish();
        copied.map_err(|e| e.context(format_args!("{} (the same command goes on where it stopped)", path.display())))
    }

    /// Compare what was written with the disk that it is to be.
    fn compare(&self, source: &DiskSource, written: &DiskSource) -> Result<()> {
        let counted = Arc::new(AtomicU64::new(0));
        let (a, b) = (&source.image.disk, &written.image.disk);
        let bar = Bytes::show("verifying", a.size(), &counted, self.is_quiet());
        let differs =
            blockdev::compare::first_difference(a.as_ref(), b.as_ref(), self.workers(), &counted, &self.cancel);
        bar.finish();
        match differs? {
            None => Ok(()),
            Some(at) => Err(Error::damaged(format!("{} differs from {} at byte {at}", written.label, source.label))),
        }
    }
}

struct Conversion<'a> {
    writer: Writer<'a>,
    source: &'a DiskSource,
}

impl Conversion<'_> {
    /// Write the files of the image; their paths.
    fn convert(&self, kind: Kind, to: &Path) -> Result<Vec<PathBuf>> {
        let mut disk: Arc<dyn BlockDevice> = Arc::<Disk>::clone(&self.source.image.disk);
        // A raw file is made sparse as it is written; in other files room has to be left out beforehand.
        if !matches!(kind, Kind::Raw | Kind::VmdkFlat | Kind::VmdkVmfs) {
            disk = self.writer.without_zeros(disk)?;
        }
        let name = to.file_name().ok_or_else(|| Error::invalid(format!("{} is no file name", to.display())))?;
        let name = name.to_string_lossy();
        let stem = name.strip_suffix(&format!(".{}", kind.extension())).unwrap_or(&name);
        let mut paths = Vec::new();
        for (number, part) in kind.parts(stem).into_iter().enumerate() {
            let path = if number == 0 { to.to_owned() } else { to.with_file_name(&part.name) };
            let file = match part.content {
                Content::Image => containers::open(kind, &name, &disk, &self.source.identity)?,
                Content::Flat => containers::open_flat(&disk)?,
            };
            let what = format!("{kind} of {}", String::from_utf8_lossy(&self.source.identity));
            self.writer.write(file.as_ref(), &what, &path)?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// Read the image back and compare it with the source.
    fn verify(&self, kind: Kind, to: &Path) -> Result<()> {
        let written = Disks::new(self.writer.cli).one(absolute(to).as_os_str(), Some(kind.format()))?;
        self.writer.compare(self.source, &written)
    }

    fn tell(&self, kind: Kind, to: &Path, files: &[PathBuf], started: Instant, verified: bool) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let seconds = started.elapsed().as_secs_f64();
        let metadata: Vec<_> = files.iter().filter_map(|p| fs::metadata(p).ok()).collect();
        let (length, stored) = metadata.iter().fold((0, 0), |(l, s), m| (l + m.len(), s + m.blocks() * 512));
        let virtual_size = self.source.image.disk.size();
        let mut out = output::stdout();
        let text = if self.writer.cli.sources.json {
            let files: Vec<_> = files.iter().map(|p| p.to_string_lossy()).collect();
            let value = json!({
                "source": self.source.label,
                "output": to.to_string_lossy(),
                "files": files,
                "format": kind.name(),
                "virtual_size": virtual_size,
                "output_size": length,
                "output_allocated": stored,
                "seconds": seconds,
                "verified": verified,
            });
            format!("{value:#}")
        } else {
            let checked = if verified { ", verified" } else { "" };
            let rate = size((virtual_size as f64 / seconds.max(1e-3)) as u64);
            format!(
                "{}: {kind}, a disk of {}, {} on disk; {seconds:.1} s, {rate}/s{checked}",
                to.display(),
                size(virtual_size),
                size(stored)
            )
        };
        output::written(writeln!(out, "{text}").and_then(|()| out.flush()))
    }
}

/// A path that cannot be taken for one of the tree.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
