//! Disks as SCSI logical units.
//!
//! The standards are SAM-5 (the model), SPC-4 (commands of all devices) and SBC-3 (commands of disks); comments name
//! their sections. A transport such as [`iscsi`](crate::iscsi) carries commands to a [`LogicalUnit`] and data both ways,
//! in two steps, so that it moves the data itself and as it likes: [`LogicalUnit::begin`] judges a command and tells
//! how many bytes it wants or has ([`Command`]); [`LogicalUnit::finish`] does it.
//!
//! **Where what is.** `opcodes` has one table of all commands: which function understands it, which reservations keep
//! it away, and what REPORT SUPPORTED OPERATION CODES tells of it. `blocks` moves data, `provisioning` is about blocks
//! that hold nothing, `inquiry`, `mode` and `report` answer questions. `reservations` decides who may do what; persistent
//! ones can be kept in a file. `attention` remembers what initiators have to be told.
//!
//! **What hypervisors stand on.** The identity in VPD page 83h is the same for the same disk for ever. COMPARE AND
//! WRITE is atomic against all writes of the unit (ESXi's locks). A write that finds no room fails with SPACE ALLOCATION
//! FAILED WRITE PROTECT, at which hypervisors halt the guest instead of failing its write.

mod attention;
mod blocks;
mod cdb;
mod inquiry;
mod mode;
mod opcodes;
mod provisioning;
mod report;
mod reservations;
mod sense;
mod unit;
mod units;

pub use cdb::Cdb;
pub(crate) use opcodes::REPORT_LUNS;
pub use sense::{Failure, Sense, Status};
pub use unit::{Command, Counters, Done, LogicalUnit, Options};
pub(crate) use units::decode_lun;
pub use units::{Lun, Units};
