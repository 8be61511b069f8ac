//! What a machine shows: as a picture, and as text where it shows text.

use std::{fs, path::Path};

use serde_json::json;

use super::Running;
use crate::{Error, ErrorKind, Result};

/// Where a PC's text mode has its characters: at most 32 KiB from here.
const TEXT_AT: u64 = 0xb_8000;
const TEXT_LEN: u64 = 32 << 10;
/// Characters of a row.
const COLUMNS: usize = 80;
/// The largest picture that is read, in bytes.
const PICTURE_MAX: u64 = 64 << 20;

impl Running {
    /// Write what it shows to `path` as a PNG picture.
    ///
    /// # Errors
    ///
    /// `Unsupported` when this QEMU cannot write PNG (before 7.1), and when the picture cannot be written.
    pub fn screenshot(&self, path: &Path) -> Result<()> {
        let fresh = self.folder().join("screen.png");
        let name = super::source::path(&fresh)?;
        let taken = self.execute("screendump", &json!({ "filename": name, "format": "png" }));
        taken.map_err(|e| match e.kind() {
            ErrorKind::Invalid => Error::unsupported("this QEMU writes no pictures as PNG (7.1 does)").with_source(e),
            _ => e,
        })?;
        let failed = |e| Error::io(format!("cannot write the picture {}", path.display()), e);
        // The picture may be wanted on another filesystem.
        let copied = match fs::metadata(&fresh) {
            Ok(m) if m.len() > PICTURE_MAX => Err(std::io::Error::other("it is larger than a screen can be")),
            Ok(_) => fs::copy(&fresh, path).map(drop),
            Err(e) => Err(e),
        };
        let _ = fs::remove_file(&fresh);
        copied.map_err(failed)
    }

    /// The text that it shows, as far as it shows text: firmware, boot loaders and consoles without a graphics driver. A
    /// picture gives characters without sense.
    ///
    /// # Errors
    ///
    /// When QEMU does not answer.
    pub fn screen_text(&self) -> Result<String> {
        let fresh = self.folder().join("screen.text");
        let name = super::source::path(&fresh)?;
        self.execute("pmemsave", &json!({ "val": TEXT_AT, "size": TEXT_LEN, "filename": name }))?;
        let cells = fs::read(&fresh);
        let _ = fs::remove_file(&fresh);
        let cells = cells.map_err(|e| Error::io(format!("cannot read {}", fresh.display()), e))?;
        Ok(text(&cells))
    }
}

/// The characters of a text mode's memory, of each cell the first byte (code page 437, of which ASCII is taken).
fn text(cells: &[u8]) -> String {
    let characters: Vec<u8> = cells.chunks_exact(2).map(|cell| cell.first().copied().unwrap_or(0)).collect();
    let row = |row: &[u8]| {
        let row: String = row.iter().map(|c| if c.is_ascii_graphic() { char::from(*c) } else { ' ' }).collect();
        row.trim_end().to_owned()
    };
    let rows: Vec<String> = characters.chunks(COLUMNS).map(row).filter(|row| !row.is_empty()).collect();
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_of_text_memory() {
        let mut cells = vec![0; 32 << 10];
        for (at, c) in b"login: ".iter().enumerate() {
            cells[(2 * 80 + at) * 2] = *c;
            cells[(2 * 80 + at) * 2 + 1] = 7;
        }
        cells[0] = 0xdb;
        assert_eq!(super::text(&cells), "login:");
    }
}
