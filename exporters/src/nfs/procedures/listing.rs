//! READDIR and READDIRPLUS.
//!
//! A cookie is a position as [`vfs::door`] has them: the order of a directory stays the same, so it needs no verifier.

use std::{ops::ControlFlow, sync::Arc};

use vfs::{
    door::{AFTER_DOT, AFTER_DOTDOT, More, Place, READ, names, nodes},
    node::Attributes,
};

use super::{
    super::{
        protocol::{HANDLE_MAX, Status},
        xdr::{Decoder, Garbage, opaque_len},
    },
    Work,
    attributes::ATTRIBUTES_LEN,
};

/// What closes a listing: no further entry, and whether that was all.
const TRAILER: usize = 8;

/// Attributes and handle of an entry, at most.
const PLUS: usize = 4 + ATTRIBUTES_LEN + 4 + opaque_len(HANDLE_MAX);

/// A listing on its way.
struct Page<'w, 'a> {
    work: &'w mut Work<'a>,
    place: Arc<Place>,
    own: Attributes,
    position: u64,
    /// With attributes and handles.
    plus: bool,
    /// Where the results end at the latest, the trailer excepted.
    end: usize,
    /// Bytes for numbers, names and cookies that are left.
    names: usize,
    entries: usize,
}

/// How a listing ended.
enum Ended {
    /// There is nothing behind the last entry.
    All,
    /// There is no room for more.
    Full,
}

impl Work<'_> {
    pub(super) fn readdir(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, position) = (Self::handle(&mut arguments)?, arguments.u64()?);
        let _verifier = arguments.u64()?;
        let most = arguments.u32()?;
        self.list(handle, position, false, most, most);
        Ok(())
    }

    pub(super) fn readdirplus(&mut self, mut arguments: Decoder<'_>) -> Result<(), Garbage> {
        let (handle, position) = (Self::handle(&mut arguments)?, arguments.u64()?);
        let _verifier = arguments.u64()?;
        let (names, most) = (arguments.u32()?, arguments.u32()?);
        self.list(handle, position, true, names, most);
        Ok(())
    }

    /// At most `most` bytes of results, of which numbers, names and cookies take at most `names`.
    fn list(&mut self, handle: &[u8], position: u64, plus: bool, names: u32, most: u32) {
        let start = self.out.len();
        let listed = self.found(handle).and_then(|(place, own)| {
            if place.dir().is_none() {
                return Err(Status::NotDirectory);
            }
            self.export.require(&place, &own, &self.call.credentials, READ)?;
            self.status(Status::Ok);
            // The status does not count.
            let end = self.out.len() + (most.min(self.limits.listing) as usize).saturating_sub(TRAILER);
            self.optional_attributes(Some(&own));
            // The verifier of cookies.
            self.out.u64(0);
            let mut page = Page { work: self, place, own, position, plus, end, names: names as usize, entries: 0 };
            let ended = page.fill();
            let (entries, eof) = (page.entries, matches!(ended, Ok(Ended::All)));
            match ended {
                // What was found before the failure is delivered; the next request meets the failure alone.
                Err(status) if entries == 0 => return Err(status),
                Ok(Ended::Full) if entries == 0 => return Err(Status::TooSmall),
                _ => {}
            }
            self.out.bool(false);
            self.out.bool(eof);
            Ok(())
        });
        if let Err(status) = listed {
            self.out.truncate(start);
            self.status(status);
            self.optional_attributes(None);
        }
    }
}

impl Page<'_, '_> {
    fn fill(&mut self) -> Result<Ended, Status> {
        let place = Arc::clone(&self.place);
        let (export, position) = (self.work.export, self.position);
        let Some(dir) = place.dir() else { return Err(Status::NotDirectory) };
        for (after, name, shown) in [(AFTER_DOT, &b"."[..], &place), (AFTER_DOTDOT, b"..", place.parent())] {
            if position < after && self.dot(name, after, shown).is_break() {
                return Ok(Ended::Full);
            }
        }
        let mut full = false;
        let listed = if self.plus {
            nodes(dir, position, &export.report, &mut |entry, after, found| {
                let found = match found {
                    Ok((node, attributes)) => {
                        Some((export.places.remember(&place, &entry.name, node, attributes.ino), attributes))
                    }
                    Err(e) => {
                        // It is shown, and asking for it fails.
                        export.status(&e);
                        None
                    }
                };
                let more = self.add(entry.ino, &entry.name, after, found.as_ref().map(|(p, a)| (p, a)));
                full = more.is_break();
                more
            })
        } else {
            names(dir, position, &export.report, &mut |entry, after| {
                let more = self.add(entry.ino, &entry.name, after, None);
                full = more.is_break();
                more
            })
        };
        match listed {
            Ok(()) if full => Ok(Ended::Full),
            Ok(()) => Ok(Ended::All),
            Err(e) => Err(export.status(&e)),
        }
    }

    fn dot(&mut self, name: &[u8], after: u64, shown: &Arc<Place>) -> More {
        if shown.ino() == self.place.ino() {
            let own = self.own.clone();
            return self.add(shown.ino(), name, after, Some((shown, &own)));
        }
        let attributes = self.work.export.attributes(shown).ok();
        self.add(shown.ino(), name, after, attributes.as_ref().map(|a| (shown, a)))
    }

    /// Add an entry, if there is room.
    fn add(&mut self, ino: u64, name: &[u8], after: u64, found: Option<(&Arc<Place>, &Attributes)>) -> More {
        let named = 8 + opaque_len(name.len()) + 8;
        let len = 4 + named + if self.plus { PLUS } else { 0 };
        // At least one entry, however little was wished for names.
        if self.work.out.len() + len > self.end || (self.entries > 0 && named > self.names) {
            return ControlFlow::Break(());
        }
        self.names = self.names.saturating_sub(named);
        self.entries += 1;
        let work = &mut *self.work;
        work.out.bool(true);
        work.out.u64(ino);
        work.out.opaque(name);
        work.out.u64(after);
        if self.plus {
            work.optional_attributes(found.map(|(_, attributes)| attributes));
            work.out.bool(found.is_some());
            if let Some((place, _)) = found {
                let handle = work.export.handle(place);
                work.out.opaque(&handle);
            }
        }
        ControlFlow::Continue(())
    }
}
