//! Running machines as files that a stock File daemon backs up.
//!
//! `revenant backup begin` and `end` stand around a Bacula job, as its client's RunScripts. In between, the folder
//! `backup/<hypervisor>/<machine>` of the mounted tree has the machine as it was at one moment:
//!
//! ```text
//! machine.json                 what the machine is made of
//! qemu.cmdline                 the same in its hypervisor's own words
//! RESTORE.txt                  how to get it back without this program
//! vd0.0003-full.qcow2          earlier members of the chain: unchanged, so that the job passes them over
//! vd0.0004-inc.qcow2           what has changed since, on top of it
//! 0004.digests                 a digest of each cluster in it
//! ```
//!
//! * `record`: what is written down of a machine's chain, and `store`: where; `chain`: which files a job has, their names
//!   and times: all that Bacula decides by;
//! * `digests`: the digest of every cluster, while it is delivered and afterwards; `delivery`: who has read what;
//!   `proof`: what the tracker calls unchanged, looked at;
//! * `shown`: the files as the tree has them; `stored`: what of a disk holds data; `run`: one job's point in time; `runs`:
//!   all machines', begun, ended, cleaned up after a crash;
//! * `file_daemon`: whether the one that reads is still there; `room`: for what the guest overwrites;
//! * `hypervisors`: the drivers as they are configured.

mod chain;
mod delivery;
pub mod digests;
pub mod file_daemon;
pub mod hypervisors;
mod proof;
pub mod record;
mod restore_text;
mod room;
mod run;
pub mod runs;
mod shown;
mod store;
mod stored;
