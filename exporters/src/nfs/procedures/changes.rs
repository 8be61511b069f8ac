//! Changes of names: CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME, LINK.
//!
//! What is answered as done is durable (RFC 1813, section 4.8). Each answer says what the directory was before and after,
//! so that the client knows whether somebody else changed it, too.

use std::sync::Arc;

use vfs::{
    door::{EXECUTE, Place, WRITE},
    node::{Attributes, Create, Kind, Made, SetAttributes, Update, WritableDir, is_name},
};

use super::{
    super::{
        protocol::{NAME_MAX, PATH_MAX, Status, create},
        xdr::{Decoder, Garbage},
    },
    Work,
};

/// The sticky bit: of such a directory only owners remove entries.
const STICKY: u32 = 0o1000;

/// Modes of what is made without one being said.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;

/// What an answer says of a node that may have been changed (`wcc_data`).
pub(super) enum Told {
    /// Nothing is known.
    Nothing,
    /// It is like this, and was not changed.
    As(Attributes),
    /// This was done.
    Done(Update),
}

/// A directory in which names are to be changed.
struct Target {
    place: Arc<Place>,
    attributes: Attributes,
}

impl Target {
    fn dir(&self) -> Result<&dyn WritableDir, Status> {
        self.place.dir().ok_or(Status::NotDirectory)?.writable().ok_or(Status::ReadOnly)
    }
}

impl Work<'_> {
    pub(super) fn create(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, name) = Self::named(&mut arguments)?;
        let how = match arguments.u32()? {
            create::UNCHECKED => Create::Any(Self::sattr(&mut arguments)?),
            create::GUARDED => Create::New(Self::sattr(&mut arguments)?),
            create::EXCLUSIVE => Create::Exclusive(arguments.fixed()?),
            _ => return Err(Garbage),
        };
        self.make(handle, name, |work, dir| {
            let how = match how {
                Create::Any(set) => Create::Any(work.of_caller(set, FILE_MODE)),
                Create::New(set) => Create::New(work.of_caller(set, FILE_MODE)),
                exclusive => exclusive,
            };
            let made = dir.create(name, &how).map_err(|e| work.export.status(&e))?;
            if let (Create::Exclusive(_), Some(changes)) = (how, made.node.inode().changes()) {
                // The call has no attributes, and the next one sets them as this user. Where the server may not give files
                // away the user cannot either.
                let owner = work.of_caller(SetAttributes::default(), FILE_MODE);
                let _not_root = changes.set_attributes(&SetAttributes { permissions: None, ..owner }, None);
            }
            Ok(made)
        });
        Ok(())
    }

    pub(super) fn mkdir(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, name) = Self::named(&mut arguments)?;
        let set = Self::sattr(&mut arguments)?;
        self.make(handle, name, |work, dir| {
            let set = SetAttributes { size: None, ..work.of_caller(set, DIR_MODE) };
            dir.make_dir(name, &set).map_err(|e| work.export.status(&e))
        });
        Ok(())
    }

    pub(super) fn symlink(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, name) = Self::named(&mut arguments)?;
        let (set, target) = (Self::sattr(&mut arguments)?, arguments.opaque(PATH_MAX)?);
        self.make(handle, name, |work, dir| {
            let set = SetAttributes { size: None, permissions: None, ..work.of_caller(set, 0) };
            dir.make_symlink(name, target, &set).map_err(|e| work.export.status(&e))
        });
        Ok(())
    }

    /// No devices, sockets and fifos: nobody here has a use for them.
    pub(super) fn mknod(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, _name) = Self::named(&mut arguments)?;
        let told = self.found(handle).map_or(Told::Nothing, |(_, attributes)| Told::As(attributes));
        self.status(Status::NotSupported);
        self.consistency(&told);
        Ok(())
    }

    pub(super) fn remove(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, name) = Self::named(&mut arguments)?;
        self.change(handle, |work, target| {
            let (gone, attributes) = work.removable(target, name)?;
            if attributes.kind == Kind::Dir {
                return Err(Status::IsDirectory);
            }
            let update = target.dir()?.remove_file(name).map_err(|e| work.export.status(&e))?;
            work.export.places.forget(gone.ino());
            Ok(update)
        });
        Ok(())
    }

    pub(super) fn rmdir(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, name) = Self::named(&mut arguments)?;
        self.change(handle, |work, target| {
            match name {
                b"." => return Err(Status::Invalid),
                b".." => return Err(Status::Exists),
                _ => {}
            }
            let (gone, attributes) = work.removable(target, name)?;
            if attributes.kind != Kind::Dir {
                return Err(Status::NotDirectory);
            }
            let update = target.dir()?.remove_dir(name).map_err(|e| work.export.status(&e))?;
            work.export.places.forget(gone.ino());
            Ok(update)
        });
        Ok(())
    }

    pub(super) fn rename(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, name) = Self::named(&mut arguments)?;
        let (to_handle, to_name) = Self::named(&mut arguments)?;
        let (from, to) = (self.target(handle), self.target(to_handle));
        let renamed = match (&from, &to) {
            (Ok(from), Ok(to)) => self.renamed((from, name), (to, to_name)),
            (Err(status), _) | (_, Err(status)) => Err(*status),
        };
        let told = |target: Result<Target, Status>| target.map_or(Told::Nothing, |target| Told::As(target.attributes));
        let (status, from, to) = match renamed {
            Ok((own, other)) => (Status::Ok, Told::Done(own), Told::Done(other)),
            Err(status) => (status, told(from), told(to)),
        };
        self.status(status);
        self.consistency(&from);
        self.consistency(&to);
        Ok(())
    }

    fn renamed(
        &self,
        (from, name): (&Target, &[u8]),
        (to, to_name): (&Target, &[u8]),
    ) -> Result<(Update, Update), Status> {
        self.may_change(from)?;
        self.may_change(to)?;
        let (dir, to_dir) = (from.dir()?, to.dir()?);
        if dir.tree() != to_dir.tree() {
            return Err(Status::OtherDevice);
        }
        let (moved, _) = self.removable(from, name)?;
        let replaced = match self.removable(to, to_name) {
            Ok((replaced, _)) => Some(replaced),
            Err(Status::NotFound) => None,
            Err(status) => return Err(status),
        };
        let updates = dir.rename(name, to.place.ino(), to_name).map_err(|e| self.export.status(&e))?;
        for place in replaced.iter().chain([&moved]) {
            self.export.places.forget(place.ino());
        }
        self.export.sync(dir)?;
        if to.place.ino() != from.place.ino() {
            self.export.sync(to_dir)?;
        }
        Ok(updates)
    }

    pub(super) fn link(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let file = Self::handle(&mut arguments)?;
        let (handle, name) = Self::named(&mut arguments)?;
        let (found, target) = (self.found(file), self.target(handle));
        let linked = match (&found, &target) {
            (Ok((place, attributes)), Ok(target)) => self.linked(place, attributes, target, name),
            (Err(status), _) | (_, Err(status)) => Err(*status),
        };
        let now = found.ok().and_then(|(place, _)| self.export.attributes(&place).ok());
        let (status, told) = match linked {
            Ok(update) => (Status::Ok, Told::Done(update)),
            Err(status) => (status, target.map_or(Told::Nothing, |target| Told::As(target.attributes))),
        };
        self.status(status);
        self.optional_attributes(now.as_ref());
        self.consistency(&told);
        Ok(())
    }

    fn linked(&self, place: &Place, attributes: &Attributes, target: &Target, name: &[u8]) -> Result<Update, Status> {
        self.may_change(target)?;
        check_name(name)?;
        if attributes.kind == Kind::Dir {
            return Err(Status::Invalid);
        }
        let update = target.dir()?.link(name, place.ino()).map_err(|e| self.export.status(&e))?;
        self.export.sync(target.dir()?)?;
        Ok(update)
    }

    /// A directory and a name in it.
    fn named<'b>(arguments: &mut Decoder<'b>) -> Result<(&'b [u8], &'b [u8]), Garbage> {
        Ok((Self::handle(arguments)?, arguments.opaque(PATH_MAX)?))
    }

    fn target(&self, handle: &[u8]) -> Result<Target, Status> {
        let (place, attributes) = self.found(handle)?;
        Ok(Target { place, attributes })
    }

    /// Fail unless the caller may change names in the directory.
    fn may_change(&self, target: &Target) -> Result<(), Status> {
        target.dir()?;
        let allowed = self.export.allowed(&target.place, &target.attributes, &self.call.credentials)?;
        if allowed & (WRITE | EXECUTE) == WRITE | EXECUTE { Ok(()) } else { Err(Status::Access) }
    }

    /// The child that is to be removed or moved, when the caller may do that.
    fn removable(&self, target: &Target, name: &[u8]) -> Result<(Arc<Place>, Attributes), Status> {
        check_name(name)?;
        let found = self.export.places.look_up(&target.place, name).map_err(|e| self.export.status(&e))?;
        let (place, attributes) = found.ok_or(Status::NotFound)?;
        let who = &self.call.credentials;
        let sticky = target.attributes.permissions & STICKY != 0;
        if sticky && !self.export.owns(&target.attributes, who) && !self.export.owns(&attributes, who) {
            return Err(Status::Permission);
        }
        Ok((place, attributes))
    }

    /// Attributes of what the caller makes: it is the caller's.
    fn of_caller(&self, set: SetAttributes, mode: u32) -> SetAttributes {
        let who = &self.call.credentials;
        let root = self.export.is_root(who);
        let uid = set.uid.filter(|_| root).or(Some(who.uid));
        let gid = set.gid.filter(|gid| root || who.gids.contains(gid)).or(who.gids.first().copied());
        SetAttributes { uid, gid, permissions: set.permissions.or(Some(mode)), ..set }
    }

    /// Do `change` in a directory, and answer.
    fn change(&mut self, handle: &[u8], change: impl FnOnce(&Self, &Target) -> Result<Update, Status>) {
        let target = self.target(handle);
        let done = target.as_ref().map_err(|status| *status).and_then(|target| {
            self.may_change(target)?;
            let update = change(self, target)?;
            self.export.sync(target.dir()?)?;
            Ok(update)
        });
        let (status, told) = match (done, target) {
            (Ok(update), _) => (Status::Ok, Told::Done(update)),
            (Err(status), Ok(target)) => (status, Told::As(target.attributes)),
            (Err(status), Err(_)) => (status, Told::Nothing),
        };
        self.status(status);
        self.consistency(&told);
    }

    /// Make something in a directory by `make`, and answer.
    fn make(&mut self, handle: &[u8], name: &[u8], make: impl FnOnce(&Self, &dyn WritableDir) -> Result<Made, Status>) {
        let target = self.target(handle);
        let made = target.as_ref().map_err(|status| *status).and_then(|target| {
            self.may_change(target)?;
            check_name(name)?;
            let made = make(self, target.dir()?)?;
            // The node first: an entry that is there after a crash is to be one of something.
            if let Some(changes) = made.node.inode().changes() {
                self.export.sync(changes)?;
            }
            self.export.sync(target.dir()?)?;
            let place = self.export.places.remember(&target.place, name, made.node, made.attributes.ino);
            let attributes = self.export.attributes(&place)?;
            Ok((self.export.handle(&place), attributes, made.dir))
        });
        match made {
            Ok((handle, attributes, update)) => {
                self.status(Status::Ok);
                self.out.bool(true);
                self.out.opaque(&handle);
                self.optional_attributes(Some(&attributes));
                self.consistency(&Told::Done(update));
            }
            Err(status) => {
                self.status(status);
                self.consistency(&target.map_or(Told::Nothing, |target| Told::As(target.attributes)));
            }
        }
    }
}

/// Fail unless a node can be called so.
fn check_name(name: &[u8]) -> Result<(), Status> {
    match name {
        name if name.len() > NAME_MAX => Err(Status::NameTooLong),
        b"." | b".." => Err(Status::Exists),
        name if is_name(name) => Ok(()),
        _ => Err(Status::Invalid),
    }
}
