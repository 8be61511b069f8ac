//! x
use super::Running; use crate::{Result, driver::{Target, Progress}};
/// x
pub struct Migration;
/// x
#[derive(Default)]
pub struct Completion;
impl Migration { 
/// x
pub fn begin(_r:&Running,_t:&[Target])->Result<Self>{Ok(Self)}
/// x
pub fn find(_r:&Running)->Result<Option<Self>>{Ok(None)}
/// x
pub fn progress(&self)->Result<Progress>{Ok(Progress::default())}
/// x
pub fn complete(&self,_c:&Completion)->Result<()>{Ok(())}
/// x
pub fn cancel(&self)->Result<()>{Ok(())}
}
pub(super) fn write_durably(path:&std::path::Path, text:&[u8])->std::io::Result<()> { std::fs::write(path,text) }
