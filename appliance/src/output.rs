//! What people and programs get to see.

use std::io::{self, IsTerminal, Write};

use blockdev::{Error, Result};

/// One line on standard error: what, where, what to do.
pub fn error(e: &Error) {
    // Nobody is left to be told when this fails.
    let _ = writeln!(io::stderr().lock(), "revenant: {e}");
}

/// A line on standard error that is no error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "revenant: {text}");
}

/// Standard output, buffered: whoever writes flushes it in the end.
pub fn stdout() -> io::BufWriter<io::StdoutLock<'static>> {
    io::BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

/// What a failed write to standard output means: a closed pipe is a quiet end, anything else an error.
pub fn written(outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|e| Error::io("cannot write to standard output", e)),
    }
}

/// Bytes for people: `1.4 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A name for the terminal: control characters and bytes that are no text are escaped; into a pipe it goes as it is.
pub fn name(bytes: &[u8]) -> Vec<u8> {
    if !io::stdout().is_terminal() {
        return bytes.to_vec();
    }
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
        }
        for b in chunk.invalid() {
            shown.push_str(&format!("\\x{b:02x}"));
        }
    }
    shown.into_bytes()
}

/// A table with aligned columns; the columns in `right` are aligned to the right.
pub fn table(out: &mut dyn Write, head: &[&str], right: &[usize], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let last = head.len().saturating_sub(1);
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (i, (cell, w)) in cells.zip(&widths).enumerate() {
            let pad = " ".repeat(w - cell.chars().count());
            match (right.contains(&i), i == last) {
                (true, _) => text.extend([&pad, cell]),
                (false, true) => text.push_str(cell),
                (false, false) => text.extend([cell, &pad]),
            }
            if i != last {
                text.push_str("  ");
            }
        }
        writeln!(out, "{text}")
    };
    line(&mut head.iter().copied())?;
    rows.iter().try_for_each(|row| line(&mut row.iter().map(String::as_str)))
}
