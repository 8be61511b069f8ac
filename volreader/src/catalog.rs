//! Stand-in for the catalog readers while they are written.
use blockdev::Result;
use std::{collections::HashMap, sync::Arc};
#[allow(missing_docs)]
#[derive(Debug, Clone)]
pub struct CatalogJob {
    pub job_id: u32,
    pub unique_name: String,
    pub name: String,
    pub client: String,
    pub fileset: String,
    pub pool: String,
    pub kind: u8,
    pub level: u8,
    pub status: u8,
    pub sched_time: Option<String>,
    pub start_time: Option<String>,
    pub end_time: Option<String>,
    pub job_tdate: i64,
    pub session_id: u32,
    pub session_time: u32,
    pub files: u64,
    pub bytes: u64,
    pub prior_job_id: u32,
    pub purged_files: bool,
    pub has_base: bool,
}
#[allow(missing_docs)]
#[derive(Debug, Clone)]
pub struct MediaRange {
    pub volume: String,
    pub media_type: String,
    pub first_index: u32,
    pub last_index: u32,
    pub start: u64,
    pub end: u64,
}
#[allow(missing_docs)]
pub struct CatalogFile<'a> {
    pub file_index: i32,
    pub path: &'a [u8],
    pub name: &'a [u8],
    pub lstat: &'a [u8],
    pub digest: &'a [u8],
    pub delta_seq: i32,
}
#[allow(missing_docs)]
pub struct OwnedCatalogFile {
    pub file_index: i32,
    pub path: Vec<u8>,
    pub name: Vec<u8>,
    pub lstat: Vec<u8>,
    pub digest: Vec<u8>,
    pub delta_seq: i32,
}
#[allow(missing_docs)]
pub trait Catalog: Send + Sync {
    fn jobs(&self) -> Result<Vec<CatalogJob>>;
    fn job_media(&self, job_id: u32) -> Result<Vec<MediaRange>>;
    fn all_job_media(&self) -> Result<HashMap<u32, Vec<MediaRange>>>;
    fn for_each_file(&self, job_id: u32, sink: &mut dyn FnMut(CatalogFile<'_>) -> Result<()>) -> Result<()>;
    fn find_file(&self, job_id: u32, path: &[u8], name: &[u8]) -> Result<Option<OwnedCatalogFile>>;
}
#[allow(missing_docs)]
pub fn open(_url: &str) -> Result<Arc<dyn Catalog>> {
    Err(blockdev::Error::unsupported("no catalog yet"))
}
