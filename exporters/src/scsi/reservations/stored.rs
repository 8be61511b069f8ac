//! The file that keeps persistent reservations over a loss of power (APTPL).
//!
//! Lines of text: a heading, `generation N`, `registrant KEY PORT` for each, `holder TYPE PORT`. It is replaced as a whole:
//! a new file is written, made durable, and takes the name.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use blockdev::{Error, Result};

use super::{Held, Kind, MOST_REGISTRATIONS, State};

const HEADING: &str = "revenant persistent reservations 1";
/// More than the most registrations take.
const LARGEST: u64 = 1 << 20;

/// What is in the file; `None` when there is no file.
pub(super) fn load(path: &Path) -> Result<Option<State>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?,
    };
    let mut text = String::new();
    let read = file.take(LARGEST).read_to_string(&mut text);
    read.map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
    let damaged = || {
        Error::damaged(format!(
            "{} does not hold persistent reservations; remove it to begin without any",
            path.display()
        ))
    };
    parse(&text).map(Some).ok_or_else(damaged)
}

fn parse(text: &str) -> Option<State> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADING) {
        return None;
    }
    let mut state = State { persists: true, ..State::default() };
    let mut complete = false;
    for line in lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "generation" => state.generation = rest.parse().ok()?,
            "registrant" => {
                let (key, port) = rest.split_once(' ')?;
                state.keys.insert(port.to_owned(), u64::from_str_radix(key, 16).ok()?);
            }
            "holder" => {
                let (kind, port) = rest.split_once(' ')?;
                state.held = Some(Held { kind: Kind::from_code(kind.parse().ok()?)?, holder: port.to_owned() });
            }
            "end" => complete = true,
            _ => return None,
        }
    }
    let held = state.held.as_ref();
    let holder_is_there = held.is_none_or(|held| match held.kind.held_by_all() {
        true => !state.keys.is_empty(),
        false => state.keys.contains_key(&held.holder),
    });
    (complete && holder_is_there && state.keys.len() <= MOST_REGISTRATIONS).then_some(state)
}

fn text(state: &State) -> String {
    let mut text = format!("{HEADING}\ngeneration {}\n", state.generation);
    for (port, key) in &state.keys {
        text.push_str(&format!("registrant {key:016x} {port}\n"));
    }
    if let Some(held) = &state.held {
        text.push_str(&format!("holder {} {}\n", held.kind as u8, held.holder));
    }
    text.push_str("end\n");
    text
}

/// Replace the file.
pub(super) fn store(path: &Path, state: &State) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = File::create(&new)?;
    file.write_all(text(state).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder(path)
}

/// Remove the file; there may be none.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => sync_folder(path),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> State {
        State {
            generation: 7,
            keys: [("iqn.a,i,0x000000000001".to_owned(), 0xdead_beef), ("iqn.b,i,0x1".to_owned(), 1)].into(),
            held: Some(Held { kind: Kind::WriteExclusiveRegistrants, holder: "iqn.b,i,0x1".into() }),
            persists: true,
            legacy: None,
        }
    }

    #[test]
    fn there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.reservations");
        assert_eq!(load(&path).unwrap(), None);
        store(&path, &sample()).unwrap();
        assert_eq!(load(&path).unwrap(), Some(sample()));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(load(&path).unwrap(), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Cut off or changed anywhere, it is refused or it is something that makes sense, and nothing panics.
    #[test]
    fn damage() {
        let whole = text(&sample());
        for end in 0..whole.len() - 1 {
            assert_eq!(parse(&whole[..end]), None, "{end}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] = b'x';
            let _ = parse(std::str::from_utf8(&bytes).unwrap());
        }
        assert_eq!(parse(&whole.replace("holder 5 iqn.b", "holder 5 iqn.c")), None);
    }
}
