//! What the filesystems of Windows share: [`filetime`]s and [`reparse`] points.

pub mod filetime;
pub mod reparse;
