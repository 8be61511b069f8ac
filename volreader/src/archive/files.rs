//! A job's files, from wherever they are known: the index, or the catalog.

use std::sync::{Arc, OnceLock};

use blockdev::Result;

use crate::{
    attributes::{FileType, Stat},
    catalog::{Catalog, CatalogFile},
    index::{
        builder::{Builder, NewEntry},
        entry::{EntryKind, Flags},
        store::Writer,
        table::Table,
    },
    session::SessionData,
};

/// Where a job's table comes from.
pub enum Files {
    /// It was made by scanning the volumes.
    Indexed(Table),
    /// It is made from the catalog's rows when it is first asked for.
    Catalog {
        /// The catalog.
        catalog: Arc<dyn Catalog>,
        /// The job.
        job_id: u32,
        /// The table once it was made, with the data where that was found in the same way.
        table: OnceLock<(Table, Option<Arc<SessionData>>)>,
        /// When the catalog has no rows of the job (pruned, or the job did not end): the volumes tell.
        otherwise: Box<dyn Fn() -> Result<(Table, Arc<SessionData>)> + Send + Sync>,
    },
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Indexed(table) => f.debug_tuple("Indexed").field(table).finish(),
            Self::Catalog { job_id, .. } => f.debug_struct("Catalog").field("job_id", job_id).finish_non_exhaustive(),
        }
    }
}

impl Files {
    /// The table.
    ///
    /// # Errors
    ///
    /// When it has to be made and cannot.
    pub fn table(&self) -> Result<&Table> {
        match self {
            Self::Indexed(table) => Ok(table),
            Self::Catalog { catalog, job_id, table, otherwise } => {
                if let Some((table, _)) = table.get() {
                    return Ok(table);
                }
                let made = match from_catalog(catalog.as_ref(), *job_id)? {
                    Some(made) => (made, None),
                    None => otherwise().map(|(table, data)| (table, Some(data)))?,
                };
                Ok(&table.get_or_init(|| made).0)
            }
        }
    }

    /// The job's data, when it had to be found in the volumes together with the files.
    pub fn data(&self) -> Option<&Arc<SessionData>> {
        match self {
            Self::Indexed(_) => None,
            Self::Catalog { table, .. } => table.get()?.1.as_ref(),
        }
    }

    /// The file at `path` (no slash in front), found by the catalog's own index; `None` when the table is as good.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be asked.
    pub fn find_in_catalog(&self, path: &[u8]) -> Result<Option<crate::index::entry::Entry>> {
        let Self::Catalog { catalog, job_id, table, .. } = self else { return Ok(None) };
        if table.get().is_some() {
            return Ok(None);
        }
        let split = path.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
        let (folder, name) = path.split_at(split);
        // Unix paths begin with a slash, Windows paths with a drive.
        for root in [&b"/"[..], b""] {
            let folder = [root, folder].concat();
            let Some(row) = catalog.find_file(*job_id, &folder, name)? else { continue };
            let Some((kind, flags, stat)) = interpret(row.file_index, row.name.is_empty(), &row.lstat, &row.digest)
            else {
                continue;
            };
            if kind != EntryKind::File {
                return Ok(None);
            }
            let file_index = row.file_index.unsigned_abs();
            let name = name.to_vec();
            return Ok(Some(crate::index::entry::Entry { name, kind, flags, file_index, pos: None, stat, dir: None }));
        }
        Ok(None)
    }
}

/// Make a table from the catalog's rows; `None` when there are none.
fn from_catalog(catalog: &dyn Catalog, job_id: u32) -> Result<Option<Table>> {
    let mut builder = Builder::default();
    let mut path = Vec::new();
    catalog.for_each_file(job_id, &mut |row: CatalogFile<'_>| {
        path.clear();
        path.extend_from_slice(row.path);
        path.extend_from_slice(row.name);
        if let Some((kind, flags, stat)) = interpret(row.file_index, row.name.is_empty(), row.lstat, row.digest) {
            let file_index = row.file_index.unsigned_abs();
            builder.add(NewEntry { path: &path, kind, flags, file_index, pos: None, stat: &stat });
        }
        Ok(())
    })?;
    if builder.is_empty() {
        return Ok(None);
    }
    Writer::create(None)?.table(builder).map(Some)
}

/// What a row is. The catalog does not keep the file type; `stat` and the name tell.
fn interpret(file_index: i32, is_dir: bool, lstat: &[u8], digest: &[u8]) -> Option<(EntryKind, Flags, Stat)> {
    let stat = Stat::parse(lstat)?;
    if file_index <= 0 {
        return Some((EntryKind::Deleted, Flags::default().with_if(is_dir, Flags::DIR_PATH), stat));
    }
    // A device or fifo that was read has a digest of what was read; a node has none.
    let was_read = !matches!(digest, b"" | b"0");
    let kind = match EntryKind::of(FileType::Special, stat.mode, false)? {
        _ if is_dir => EntryKind::Dir,
        EntryKind::BlockDevice | EntryKind::Fifo if was_read => EntryKind::File,
        kind => kind,
    };
    let link = stat.link_index > 0 && i64::from(stat.link_index) != i64::from(file_index);
    Some((kind, Flags::default().with_if(link, Flags::HARD_LINK), stat))
}
