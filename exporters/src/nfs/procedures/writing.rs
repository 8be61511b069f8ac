//! Changes of files: SETATTR, WRITE, COMMIT.

use std::sync::Arc;

use vfs::{
    door::{Place, WRITE},
    node::{Attributes, Changes, OpenFile, SetAttributes, SetTime, Stamp, Time, Update},
};

use super::{
    super::{
        protocol::{Status, stable},
        xdr::{Decoder, Garbage},
    },
    Work,
    changes::Told,
};

impl Work<'_> {
    pub(super) fn setattr(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let handle = Self::handle(&mut arguments)?;
        let set = Self::sattr(&mut arguments)?;
        let guard = if arguments.bool()? { Some(Self::time(&mut arguments)?) } else { None };
        let found = self.found(handle);
        let done = match &found {
            Ok((place, attributes)) => self.set(place, attributes, &set, guard),
            Err(status) => Err(*status),
        };
        self.told(done, found.ok().map(|(_, attributes)| attributes));
        Ok(())
    }

    fn set(
        &self,
        place: &Arc<Place>,
        attributes: &Attributes,
        set: &SetAttributes,
        guard: Option<Time>,
    ) -> Result<Update, Status> {
        let changes = place.node().inode().changes().ok_or(Status::ReadOnly)?;
        self.may_set(place, attributes, set)?;
        if let Some(size) = set.size {
            let file = self.export.open_file(place)?;
            if size > file.limit() {
                return Err(Status::FileTooBig);
            }
        }
        let done = changes.set_attributes(set, guard).map_err(|e| self.export.status(&e))?;
        let update = done.ok_or(Status::NotSync)?;
        self.export.sync(changes)?;
        Ok(update)
    }

    /// Fail unless the caller may set these attributes.
    fn may_set(&self, place: &Arc<Place>, attributes: &Attributes, set: &SetAttributes) -> Result<(), Status> {
        let who = &self.call.credentials;
        if self.export.is_root(who) {
            return Ok(());
        }
        let owner = self.export.owns(attributes, who);
        let given_away = set.uid.is_some_and(|uid| uid != attributes.uid);
        let other_group = set.gid.is_some_and(|gid| gid != attributes.gid && !(owner && who.gids.contains(&gid)));
        let exact = |time: Option<SetTime>| matches!(time, Some(SetTime::At(_)));
        let owners = set.permissions.is_some() || exact(set.atime) || exact(set.mtime);
        if given_away || other_group || (owners && !owner) {
            return Err(Status::Permission);
        }
        let writers = set.size.is_some() || set.atime.is_some() || set.mtime.is_some();
        if writers && !owner {
            self.export.require(place, attributes, who, WRITE)?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let handle = Self::handle(&mut arguments)?;
        let (offset, count, how) = (arguments.u64()?, arguments.u32()?, arguments.u32()?);
        if how > stable::FILE_SYNC {
            return Err(Garbage);
        }
        // Whatever was kept of the call.
        let bytes = arguments.opaque(usize::MAX)?;
        let bytes = bytes.get(..count as usize).ok_or(Garbage)?;
        let file = self.opened(handle);
        let done = match &file {
            Ok((file, attributes, place)) => self.written(file, attributes, place, bytes, offset, how),
            Err(status) => Err(*status),
        };
        let (ok, verifier) = (done.is_ok(), self.export.verifier());
        self.told(done, file.ok().map(|(_, attributes, _)| attributes));
        if ok {
            self.out.u32(count);
            self.out.u32(if how == stable::UNSTABLE { stable::UNSTABLE } else { stable::FILE_SYNC });
            self.out.u64(verifier);
        }
        Ok(())
    }

    fn written(
        &self,
        file: &OpenFile,
        attributes: &Attributes,
        place: &Arc<Place>,
        bytes: &[u8],
        offset: u64,
        how: u32,
    ) -> Result<Update, Status> {
        self.may_write(place, attributes)?;
        if bytes.is_empty() {
            return Ok(Update { before: Stamp::from(attributes), after: attributes.clone() });
        }
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > file.limit()) {
            return Err(Status::FileTooBig);
        }
        let update = file.write_at(bytes, offset).map_err(|e| self.export.status(&e))?;
        if how != stable::UNSTABLE {
            self.export.sync(file.as_ref())?;
        }
        Ok(update)
    }

    pub(super) fn commit(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let handle = Self::handle(&mut arguments)?;
        // All of the file is, whatever part was meant.
        let (_offset, _count) = (arguments.u64()?, arguments.u32()?);
        let file = self.opened(handle);
        let done = match &file {
            Ok((file, attributes, place)) => self.may_write(place, attributes).and_then(|()| {
                self.export.sync(file.as_ref() as &dyn Changes)?;
                Ok(Update { before: Stamp::from(attributes), after: attributes.clone() })
            }),
            Err(status) => Err(*status),
        };
        let (ok, verifier) = (done.is_ok(), self.export.verifier());
        self.told(done, file.ok().map(|(_, attributes, _)| attributes));
        if ok {
            self.out.u64(verifier);
        }
        Ok(())
    }

    /// A file that can be changed, opened, with its attributes.
    fn opened(&self, handle: &[u8]) -> Result<(OpenFile, Attributes, Arc<Place>), Status> {
        let place = self.export.find(handle)?;
        let (file, attributes) = self.export.changing(&place)?;
        Ok((file, attributes, place))
    }

    /// Fail unless the caller may write. The owner may have opened the file while that was allowed (RFC 1813, section 4.4).
    fn may_write(&self, place: &Arc<Place>, attributes: &Attributes) -> Result<(), Status> {
        let who = &self.call.credentials;
        if self.export.owns(attributes, who) {
            return Ok(());
        }
        self.export.require(place, attributes, who, WRITE)
    }

    /// Answer with a status, and what the file was before and is now.
    fn told(&mut self, done: Result<Update, Status>, attributes: Option<Attributes>) {
        let (status, told) = match done {
            Ok(update) => (Status::Ok, Told::Done(update)),
            Err(status) => (status, attributes.map_or(Told::Nothing, Told::As)),
        };
        self.status(status);
        self.consistency(&told);
    }

    /// `wcc_data`.
    pub(super) fn consistency(&mut self, told: &Told) {
        let after = match told {
            Told::Nothing => None,
            Told::As(attributes) => Some(attributes),
            Told::Done(update) => Some(&update.after),
        };
        let before = if let Told::Done(update) = told { Some(update.before) } else { None };
        self.out.bool(before.is_some());
        if let Some(before) = before {
            self.out.u64(before.size);
            [before.mtime, before.ctime].into_iter().for_each(|time| self.put_time(time));
        }
        self.optional_attributes(after);
    }

    /// `sattr3`.
    pub(super) fn sattr(arguments: &mut Decoder<'_>) -> Result<SetAttributes, Garbage> {
        let mut number = || if arguments.bool()? { arguments.u32().map(Some) } else { Ok(None) };
        let (permissions, uid, gid) = (number()?, number()?, number()?);
        let size = if arguments.bool()? { Some(arguments.u64()?) } else { None };
        let mut time = || {
            Ok(match arguments.u32()? {
                0 => None,
                1 => Some(SetTime::Now),
                2 => Some(SetTime::At(Self::time(arguments)?)),
                _ => return Err(Garbage),
            })
        };
        let (atime, mtime) = (time()?, time()?);
        Ok(SetAttributes { permissions, uid, gid, size, atime, mtime })
    }

    /// `nfstime3`.
    fn time(arguments: &mut Decoder<'_>) -> Result<Time, Garbage> {
        let (seconds, nanos) = (arguments.u32()?, arguments.u32()?);
        Ok(Time { seconds: seconds.into(), nanos: nanos.min(999_999_999) })
    }
}
