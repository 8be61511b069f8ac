//! Attributes: of nodes (GETATTR, ACCESS), and of the filesystem (FSSTAT, FSINFO, PATHCONF).

use vfs::{
    door::{EXECUTE, READ, WRITE},
    node::{Attributes, Kind, Space, Time},
};

use super::{
    super::{
        protocol::{CAN_SET_TIME, NAME_MAX, PROPERTIES, Status, access},
        xdr::{Decoder, Garbage},
    },
    Work,
};

/// Bytes of the attributes of a node (`fattr3`).
pub(super) const ATTRIBUTES_LEN: usize = 84;

/// Reads and listings are best multiples of this size.
const UNIT: u32 = 4096;
/// Listings that clients are to ask for.
const LISTING: u32 = 64 << 10;

impl Work<'_> {
    pub(super) fn getattr(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let handle = Self::handle(&mut arguments)?;
        match self.found(handle) {
            Ok((_, attributes)) => {
                self.status(Status::Ok);
                self.attributes(&attributes);
            }
            Err(status) => self.status(status),
        }
        Ok(())
    }

    pub(super) fn access(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, wanted) = (Self::handle(&mut arguments)?, arguments.u32()?);
        let found = self.found(handle).and_then(|(place, attributes)| {
            let allowed = self.export.allowed(&place, &attributes, &self.call.credentials)?;
            Ok((attributes, allowed))
        });
        match found {
            Ok((attributes, allowed)) => {
                let enter = if attributes.kind == Kind::Dir { access::LOOKUP } else { access::EXECUTE };
                let mut bits = if allowed & READ != 0 { access::READ } else { 0 };
                bits |= if allowed & EXECUTE != 0 { enter } else { 0 };
                let change = if attributes.kind == Kind::Dir { access::DELETE } else { 0 };
                bits |= if allowed & WRITE != 0 { access::MODIFY | access::EXTEND | change } else { 0 };
                self.status(Status::Ok);
                self.optional_attributes(Some(&attributes));
                self.out.u32(bits & wanted);
            }
            Err(status) => {
                self.status(status);
                self.optional_attributes(None);
            }
        }
        Ok(())
    }

    pub(super) fn fsstat(&mut self, arguments: Decoder<'_>) -> Result<(), Garbage> {
        self.of_filesystem(arguments, |work, space| {
            // Total, free, and available bytes; the same of files.
            let numbers = match space {
                Some(s) => [s.bytes, s.free_bytes, s.free_bytes, s.files, s.free_files, s.free_files],
                None => {
                    let totals = work.export.totals();
                    [totals.bytes, 0, 0, totals.files, 0, 0]
                }
            };
            numbers.into_iter().for_each(|number| work.out.u64(number));
            // For how many seconds it is likely not to change.
            work.out.u32(0);
        })
    }

    pub(super) fn fsinfo(&mut self, arguments: Decoder<'_>) -> Result<(), Garbage> {
        self.of_filesystem(arguments, |work, _| {
            let (read, write) = (work.limits.read, work.limits.write);
            let listing = LISTING.min(work.limits.listing);
            // Reads: the longest, the best, and what they are best multiples of; then the same of writes, also where there
            // are none: 0 would make clients think.
            [read, read, UNIT, write, write, UNIT, listing].into_iter().for_each(|number| work.out.u32(number));
            // The longest file, as clients can count.
            work.out.u64(i64::MAX.unsigned_abs());
            // The resolution of times: seconds, nanoseconds.
            let properties = PROPERTIES | if work.export.is_writable() { CAN_SET_TIME } else { 0 };
            [0, 1, properties].into_iter().for_each(|number| work.out.u32(number));
        })
    }

    pub(super) fn pathconf(&mut self, arguments: Decoder<'_>) -> Result<(), Garbage> {
        self.of_filesystem(arguments, |work, _| {
            [u32::MAX, NAME_MAX as u32].into_iter().for_each(|number| work.out.u32(number));
            // Long names are refused, owners are not given away; names differ by case, and keep it.
            [true, true, false, true].into_iter().for_each(|answer| work.out.bool(answer));
        })
    }

    fn of_filesystem(
        &mut self,
        mut arguments: Decoder<'_>,
        results: impl FnOnce(&mut Self, Option<Space>),
    ) -> Result<(), Garbage> {
        let handle = Self::handle(&mut arguments)?;
        let found = self.found(handle).and_then(|(place, attributes)| Ok((attributes, self.export.space(&place)?)));
        match found {
            Ok((attributes, space)) => {
                self.status(Status::Ok);
                self.optional_attributes(Some(&attributes));
                results(self, space);
            }
            Err(status) => {
                self.status(status);
                self.optional_attributes(None);
            }
        }
        Ok(())
    }

    /// `post_op_attr`.
    pub(super) fn optional_attributes(&mut self, attributes: Option<&Attributes>) {
        self.out.bool(attributes.is_some());
        if let Some(attributes) = attributes {
            self.attributes(attributes);
        }
    }

    /// `fattr3`.
    fn attributes(&mut self, a: &Attributes) {
        let id = self.export.id();
        let out = &mut self.out;
        [kind(a.kind), a.permissions & 0o7777, a.nlink, a.uid, a.gid].into_iter().for_each(|n| out.u32(n));
        [a.size, a.allocated].into_iter().for_each(|n| out.u64(n));
        [a.rdev.0, a.rdev.1].into_iter().for_each(|n| out.u32(n));
        [id, a.ino].into_iter().for_each(|n| out.u64(n));
        [a.atime, a.mtime, a.ctime].into_iter().for_each(|time| self.put_time(time));
    }

    /// `nfstime3`.
    pub(super) fn put_time(&mut self, moment: Time) {
        time(moment).into_iter().for_each(|n| self.out.u32(n));
    }
}

const fn kind(kind: Kind) -> u32 {
    match kind {
        Kind::File => 1,
        Kind::Dir => 2,
        Kind::BlockDevice => 3,
        Kind::CharDevice => 4,
        Kind::Symlink => 5,
        Kind::Socket => 6,
        Kind::Fifo => 7,
    }
}

/// The protocol counts from 1970 to 2106; what is outside is shown as the nearest second in it.
fn time(time: Time) -> [u32; 2] {
    match u32::try_from(time.seconds) {
        Ok(seconds) => [seconds, time.nanos.min(999_999_999)],
        Err(_) if time.seconds < 0 => [0, 0],
        Err(_) => [u32::MAX, 999_999_999],
    }
}
