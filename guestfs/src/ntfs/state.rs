//! In which state the guest left the volume: its label and flags, its log, and whether Windows sleeps.
//!
//! What `$LogFile` has not yet brought to its place is changes of metadata in a form of Windows' own. They are not applied
//! here: the volume is read as it is, and the operator told.

use blockdev::{
    ReadAt, Result,
    fields::{le16, le32, le64, slice, utf16},
};

use super::{file::File, fixup, record::kind};

/// Flag of the volume: to be checked.
const DIRTY: u16 = 1;

/// Flag of a log: all it has was brought to its place.
const LOG_IS_CLEAN: u16 = 2;
/// No client has it open.
const NO_CLIENT: u16 = 0xffff;
/// Sizes that pages of a log have.
const LOG_PAGES: [usize; 4] = [4096, 8192, 16384, 65536];

/// The file `$Volume`.
#[derive(Default)]
pub struct Volume {
    /// Its label.
    pub label: Option<String>,
    /// Whether Windows wants it to be checked.
    pub is_dirty: bool,
}

impl Volume {
    /// That in `file`.
    pub fn of(file: &File) -> Result<Self> {
        let value = |kind| file.value(kind, &[])?.map(|value| value.bytes(file.mft(), 1024)).transpose();
        let label = value(kind::VOLUME_NAME)?.and_then(|name| utf16(&name));
        let information = value(kind::VOLUME_INFORMATION)?.unwrap_or_default();
        Ok(Self { label, is_dirty: le16(&information, 10) & DIRTY != 0 })
    }
}

/// Whether the log in `file` has changes that are not in their place.
pub fn log_is_dirty(file: &File) -> Result<bool> {
    let Some(value) = file.value(kind::DATA, &[])? else { return Ok(false) };
    let log = value.reader(file.mft())?;
    // There are two restart pages, of which the one that was written later is right.
    let first = restart_page(&log, 0)?;
    let second = match &first {
        Some(page) => restart_page(&log, page.size)?,
        None => None,
    };
    let latest = [first, second].into_iter().flatten().max_by_key(|page| page.lsn);
    Ok(latest.is_some_and(|page| page.is_dirty))
}

struct RestartPage {
    size: u64,
    lsn: u64,
    is_dirty: bool,
}

/// The restart page at byte `offset`, if there is a sound one: a log that was never used is all ones.
fn restart_page(log: &dyn ReadAt, offset: u64) -> Result<Option<RestartPage>> {
    let mut bytes = vec![0; LOG_PAGES[0]];
    log.read_at(&mut bytes, offset)?;
    let size = le32(&bytes, 16) as usize;
    if !bytes.starts_with(b"RSTR") || !LOG_PAGES.contains(&size) {
        return Ok(None);
    }
    bytes.resize(size, 0);
    log.read_at(&mut bytes, offset)?;
    if fixup::restore(&mut bytes, b"RSTR").is_err() {
        return Ok(None);
    }
    let area = slice(&bytes, le16(&bytes, 24).into(), bytes.len());
    let is_dirty = le16(area, 12) != NO_CLIENT && le16(area, 14) & LOG_IS_CLEAN == 0;
    Ok(Some(RestartPage { size: size as u64, lsn: le64(area, 0), is_dirty }))
}

/// Whether `file`, which is the root's `hiberfil.sys`, has the memory of a Windows that sleeps.
pub fn is_hibernated(file: &File) -> Result<bool> {
    let Some(value) = file.value(kind::DATA, &[])? else { return Ok(false) };
    let mut head = [0; 4];
    value.reader(file.mft())?.read_at(&mut head, 0)?;
    Ok(matches!(&head, b"hibr" | b"HIBR"))
}

/// What an operator should know of the state.
pub fn notes(volume_is_dirty: bool, log_is_dirty: bool, is_hibernated: bool) -> Vec<String> {
    let notes = [
        (volume_is_dirty, "The volume is marked to be checked (`chkdsk`): it is read as it is."),
        (
            log_is_dirty,
            "The volume was in use when it was copied: the last changes of names and metadata may be in $LogFile only, \
             and are not shown.",
        ),
        (is_hibernated, "Windows was hibernated, or shut down for a fast start: what it kept in memory is not shown."),
    ];
    notes.into_iter().filter(|(is_so, _)| *is_so).map(|(_, note)| note.to_owned()).collect()
}
