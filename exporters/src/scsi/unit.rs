//! A logical unit: a disk, and what initiators have arranged with it.

use std::{
    ops::Range,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use blockdev::{BlockDevice, Error, Result, WriteAt};
use parking_lot::RwLock;

use super::{
    attention::{Attentions, code},
    blocks::BlockRun,
    cdb::Cdb,
    inquiry::Identity,
    opcodes,
    reservations::Reservations,
    sense::{Failure, Sense, Status},
};
use crate::Disk;

/// What a unit is called and how it behaves.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Stands for this disk and no other, for ever: initiators know it again by what is made of this. Two exports of a
    /// disk over different overlays are different disks.
    pub identity: Vec<u8>,
    /// File in which persistent reservations are kept that have to survive a restart. `None`: they cannot.
    pub reservations: Option<PathBuf>,
    /// Every write is durable when it is acknowledged, and initiators are told so. Otherwise they are told that there is
    /// a cache, and flush it. ESXi never does.
    pub write_through: bool,
}

/// What was done, since the unit was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that initiators have read.
    pub read: u64,
    /// Bytes that initiators have written.
    pub written: u64,
}

/// A disk as a SCSI device server (SAM-5 4.6).
#[derive(Debug)]
pub struct LogicalUnit {
    pub(super) disk: Disk,
    pub(super) identity: Identity,
    /// Bytes of a block, a power of two.
    pub(super) block: u32,
    /// Blocks.
    pub(super) count: u64,
    pub(super) attentions: Attentions,
    pub(super) reservations: Reservations,
    /// Held for reading by every write, and for writing by a command that reads and then writes.
    pub(super) gate: RwLock<()>,
    pub(super) cache: AtomicBool,
    pub(super) software_protected: AtomicBool,
    pub(super) descriptor_sense: AtomicBool,
    write_through: bool,
    read: AtomicU64,
    written: AtomicU64,
}

/// A command that was judged and can be done.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    pub(super) action: Action,
}

/// What a command does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing, or nothing any more.
    Nothing,
    /// Answers with these bytes.
    Answer(Vec<u8>),
    /// Delivers a range of bytes of the disk.
    Read(Range<u64>),
    /// Writes; durably if so wanted; and reads it back.
    Write { range: Range<u64>, durable: bool, verify: bool },
    /// Reads, and compares with data where there are any.
    Verify { range: Range<u64>, compare: Compare },
    /// Ors data into a range.
    OrWrite { range: Range<u64>, durable: bool },
    /// Compares the first half of the data with a range, and writes the second half if they are the same.
    CompareAndWrite { range: Range<u64>, durable: bool },
    /// Writes one block again and again, or zeros.
    WriteSame { range: Range<u64>, keep: bool, pattern: bool },
    /// Makes the ranges of the parameter list hold nothing.
    Unmap { anchor: bool, length: usize },
    /// Has the host read ahead.
    Prefetch(Range<u64>),
    /// Tells which blocks hold something, from one on.
    Status { lba: u64, allocation: usize },
    /// Makes durable.
    Flush,
    /// Changes mode parameters.
    ModeSelect { long: bool, length: usize },
    /// Changes persistent reservations.
    Reserve { service: u8, kind: u8, length: usize },
}

/// What VERIFY compares (SBC-3 5.40, BYTCHK).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    /// Nothing: it is only read.
    Nothing,
    /// Each block with one of the data.
    All,
    /// Each block with the one block of the data.
    One,
}

impl Command {
    /// Bytes of data-out that it wants.
    #[must_use]
    pub fn wants(&self, block: u32) -> usize {
        let len = |range: &Range<u64>| usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        match &self.action {
            Action::Write { range, .. } | Action::OrWrite { range, .. } => len(range),
            Action::Verify { range, compare: Compare::All } => len(range),
            Action::Verify { range, compare: Compare::One } if !range.is_empty() => block as usize,
            Action::CompareAndWrite { range, .. } => len(range).saturating_mul(2),
            Action::WriteSame { pattern: true, .. } => block as usize,
            Action::Unmap { length, .. } | Action::ModeSelect { length, .. } | Action::Reserve { length, .. } => {
                *length
            }
            _ => 0,
        }
    }

    /// Whether a transport that announces another number of bytes than it wants must not have it done: what is compared
    /// or repeated is one thing, of which a part means nothing.
    pub(crate) const fn is_exact(&self) -> bool {
        matches!(
            &self.action,
            Action::Verify { compare: Compare::All | Compare::One, .. }
                | Action::OrWrite { .. }
                | Action::CompareAndWrite { .. }
                | Action::WriteSame { pattern: true, .. }
        )
    }

    /// The bytes of the disk that it delivers, if that is what it does.
    #[must_use]
    pub const fn reads(&self) -> Option<&Range<u64>> {
        match &self.action {
            Action::Read(range) => Some(range),
            _ => None,
        }
    }

    /// Whether it may change something, so that it has to end before it counts as aborted.
    #[must_use]
    pub const fn changes(&self) -> bool {
        !matches!(
            &self.action,
            Action::Nothing
                | Action::Answer(_)
                | Action::Read(_)
                | Action::Status { .. }
                | Action::Verify { .. }
                | Action::Prefetch(_)
        )
    }
}

/// What a command that was done leaves to its transport.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// How it ended.
    pub status: Status,
    /// Data for the initiator.
    pub data: Vec<u8>,
    /// Initiator ports all of whose commands have to be aborted (PREEMPT AND ABORT).
    pub abort: Vec<String>,
}

impl Done {
    pub(super) const GOOD: Self = Self { status: Status::Good, data: Vec::new(), abort: Vec::new() };
}

impl LogicalUnit {
    /// A disk as a unit. Bytes after its last whole block are not shown.
    ///
    /// # Errors
    ///
    /// When a block of it has a size that no disk has, or its reservations cannot be read.
    pub fn new(disk: Disk, options: Options) -> Result<Self> {
        let device = disk.device();
        let block = device.block_sizes().logical;
        if !block.is_power_of_two() || !(512..=65536).contains(&block) {
            return Err(Error::unsupported(format!("a disk with blocks of {block} bytes cannot be a SCSI unit")));
        }
        let count = device.size() / u64::from(block);
        if count == 0 {
            return Err(Error::invalid(format!("a disk of {} bytes has not one block", device.size())));
        }
        Ok(Self {
            block,
            count,
            identity: Identity::new(&options.identity),
            attentions: Attentions::default(),
            reservations: Reservations::open(options.reservations)?,
            gate: RwLock::new(()),
            cache: AtomicBool::new(!options.write_through),
            software_protected: AtomicBool::new(false),
            descriptor_sense: AtomicBool::new(false),
            write_through: options.write_through,
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            disk,
        })
    }

    /// The disk.
    #[must_use]
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The NAA identifier of VPD page 83h (SPC-4 7.8.5.6), as hypervisors show it.
    #[must_use]
    pub fn naa(&self) -> String {
        self.identity.naa().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The serial number of VPD page 80h.
    #[must_use]
    pub fn serial(&self) -> &str {
        self.identity.serial()
    }

    /// What was read and written.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters { read: self.read.load(Ordering::Relaxed), written: self.written.load(Ordering::Relaxed) }
    }

    /// Whether there is a write cache at first.
    pub(super) const fn caches(&self) -> bool {
        !self.write_through
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_size(&self) -> u32 {
        self.block
    }

    /// An initiator port has come.
    pub(crate) fn attach(&self, port: &str) {
        self.attentions.attach(port);
    }

    /// An initiator port has gone: what it reserved by RESERVE is free (SPC-2 5.5.1).
    pub(crate) fn detach(&self, port: &str) {
        self.attentions.detach(port);
        self.reservations.release_legacy(port);
    }

    /// LOGICAL UNIT RESET (SAM-5 6.3.3), by the port `by` when an initiator asked for it. Its commands were aborted
    /// before.
    pub(crate) fn reset(&self, by: Option<&str>) {
        self.reservations.reset_legacy();
        self.cache.store(!self.write_through, Ordering::Relaxed);
        self.software_protected.store(false, Ordering::Relaxed);
        self.descriptor_sense.store(false, Ordering::Relaxed);
        self.attentions.tell(code::RESET, |port| Some(port) != by);
    }

    /// Tell an initiator port something.
    pub(crate) fn tell(&self, code: u16, whom: impl Fn(&str) -> bool) {
        self.attentions.tell(code, whom);
    }

    /// Judge a command of an initiator port.
    ///
    /// # Errors
    ///
    /// How the command ends instead of being done.
    pub fn begin(&self, port: &str, cdb: &Cdb) -> std::result::Result<Command, Failure> {
        let opcode = opcodes::find(cdb);
        if opcode.is_none_or(|found| found.attention)
            && let Some(sense) = self.attentions.take(port)
        {
            return Err(sense.into());
        }
        let unknown = || if opcodes::has_services(cdb) { Sense::in_cdb(1) } else { Sense::INVALID_OPCODE };
        let opcode = opcode.ok_or_else(unknown)?;
        let access = (opcode.access)(cdb);
        self.reservations.admits(port, access)?;
        // NACA (SAM-5 5.2): this unit has no auto contingent allegiance.
        let control = match cdb.opcode() >> 5 {
            0 => 5,
            4 => 15,
            5 => 11,
            _ => 9,
        };
        if cdb.bit(control, 0x04) {
            return Err(Sense::in_cdb(u16::try_from(control).unwrap_or(0)).into());
        }
        let action = (opcode.decode)(self, port, cdb)?;
        Ok(Command { action })
    }

    /// Do a command for which all data are here.
    ///
    /// # Errors
    ///
    /// How the command ends instead.
    pub fn finish(&self, port: &str, command: Command, data: &[u8]) -> std::result::Result<Done, Failure> {
        if data.len() < command.wants(self.block) {
            return Err(Sense::SHORT_DATA.into());
        }
        match command.action {
            Action::Nothing | Action::Read(_) => Ok(Done::GOOD),
            Action::Answer(data) => Ok(Done { data, ..Done::GOOD }),
            Action::Write { range, durable, verify } => self.write(&range, data, durable, verify).map(|()| Done::GOOD),
            Action::Verify { range, compare } => self.verify(&range, compare, data).map(|()| Done::GOOD),
            Action::OrWrite { range, durable } => self.or_write(&range, data, durable).map(|()| Done::GOOD),
            Action::CompareAndWrite { range, durable } => {
                self.compare_and_write(&range, data, durable).map(|()| Done::GOOD)
            }
            Action::WriteSame { range, keep, pattern } => {
                self.write_same(&range, if pattern { data } else { &[] }, keep).map(|()| Done::GOOD)
            }
            Action::Unmap { anchor, length } => {
                self.unmap(data.get(..length).unwrap_or(data), anchor).map(|()| Done::GOOD)
            }
            Action::Prefetch(range) => {
                self.prefetch(&range);
                Ok(Done { status: Status::ConditionMet, ..Done::GOOD })
            }
            Action::Status { lba, allocation } => {
                self.lba_status(lba, allocation).map(|data| Done { data, ..Done::GOOD })
            }
            Action::Flush => self.flush().map(|()| Done::GOOD),
            Action::ModeSelect { long, length } => {
                self.mode_select(port, long, data.get(..length).unwrap_or(data)).map(|()| Done::GOOD)
            }
            Action::Reserve { service, kind, length } => {
                let abort = self.reserve(port, service, kind, data.get(..length).unwrap_or(data))?;
                Ok(Done { abort, ..Done::GOOD })
            }
        }
    }

    /// The bytes of the sense data of a failure.
    pub(crate) fn sense_bytes(&self, sense: &Sense) -> Vec<u8> {
        sense.encode(self.descriptor_sense.load(Ordering::Relaxed))
    }

    pub(super) fn device(&self) -> &dyn BlockDevice {
        self.disk.device()
    }

    /// The side that writes.
    ///
    /// # Errors
    ///
    /// WRITE PROTECTED.
    pub(super) fn writable(&self) -> std::result::Result<&dyn WriteAt, Failure> {
        if self.software_protected.load(Ordering::Relaxed) {
            return Err(Sense::WRITE_PROTECTED.into());
        }
        self.disk.writable().ok_or_else(|| Sense::WRITE_PROTECTED.into())
    }

    /// Whether nothing can be written.
    pub(super) fn is_protected(&self) -> bool {
        self.writable().is_err()
    }

    /// The range of bytes of some blocks.
    ///
    /// # Errors
    ///
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    pub(super) fn range(&self, (lba, blocks): BlockRun) -> std::result::Result<Range<u64>, Failure> {
        let end = lba.checked_add(blocks).filter(|end| *end <= self.count).ok_or(Sense::OUT_OF_RANGE)?;
        // Neither overflows: they are within the disk, whose size is a number of bytes.
        let bytes = |block: u64| block.saturating_mul(u64::from(self.block));
        Ok(bytes(lba)..bytes(end))
    }

    /// The block that holds a byte.
    pub(super) fn lba(&self, offset: u64) -> u64 {
        offset / u64::from(self.block)
    }

    pub(super) fn count_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }
}
