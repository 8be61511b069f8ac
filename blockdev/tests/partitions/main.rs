//! Volumes of disks against the software that made them: partitioning tools, `mkfs`, LVM2 and md.
//!
//! Tables and filesystems are made here by the real tools, where those are installed. Arrays and volume groups need
//! kernel drivers and are kept in `tests/data/disks`; its README tells how they came about.

mod assembled;
mod contents;
mod mutations;
mod support;
mod tables;
