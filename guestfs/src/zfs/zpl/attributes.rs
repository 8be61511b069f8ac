//! The attributes of files. Since version 5 of the layer they are *system attributes*: values one after the other in the
//! order of a layout, of which a dataset has many, in the bonus and in a further block ("spill"). Before, and in files that
//! have not changed since, they are a structure of fixed fields ("znode").

use std::collections::BTreeMap;

use blockdev::{Error, ErrorKind, Result, fields::slice};

use super::Files;
use crate::{
    Kind, Metadata, Time,
    zfs::{dnode::Dnode, objset::Objset, order::Order, zap::Zap},
};

// Types of a bonus.
const ZNODE: u8 = 17;
const SYSTEM_ATTRIBUTES: u8 = 44;

const MAGIC: u32 = 0x2f_505a;

/// Layouts there may be: their number has 10 bits.
const LAYOUTS_MAX: usize = 1024;

/// Attributes that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    Mode,
    Size,
    Links,
    User,
    Group,
    Device,
    Accessed,
    Modified,
    Changed,
    Created,
    /// Object of the directory with extended attributes.
    XattrDirectory,
    /// Extended attributes.
    Xattrs,
    /// Target of a symbolic link.
    Target,
    Other,
}

impl Attribute {
    fn named(name: &[u8]) -> Self {
        match name {
            b"ZPL_MODE" => Self::Mode,
            b"ZPL_SIZE" => Self::Size,
            b"ZPL_LINKS" => Self::Links,
            b"ZPL_UID" => Self::User,
            b"ZPL_GID" => Self::Group,
            b"ZPL_RDEV" => Self::Device,
            b"ZPL_ATIME" => Self::Accessed,
            b"ZPL_MTIME" => Self::Modified,
            b"ZPL_CTIME" => Self::Changed,
            b"ZPL_CRTIME" => Self::Created,
            b"ZPL_XATTR" => Self::XattrDirectory,
            b"ZPL_DXATTR" => Self::Xattrs,
            b"ZPL_SYMLINK" => Self::Target,
            _ => Self::Other,
        }
    }
}

/// Which attributes are in what order: each with its length where that is fixed.
type Layout = Vec<(Attribute, Option<u16>)>;

/// The layouts of a dataset.
pub struct Layouts(BTreeMap<u16, Layout>);

impl Layouts {
    /// Those that object `number` tells.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn read(objset: &Objset, number: u64) -> Result<Self> {
        let pool = &objset.pool;
        let open = |name: &str| -> Result<Option<Dnode>> {
            let dnode = objset.object(number)?;
            let number = Zap::open(pool, &dnode)?.number(name)?;
            number.map(|number| objset.object(number)).transpose()
        };
        // Name: number in the lowest 16 bits, length in those from 24 on, 0 when each file has its own.
        let mut registered: BTreeMap<u16, (Attribute, Option<u16>)> = BTreeMap::new();
        if let Some(registry) = open("REGISTRY")? {
            Zap::open(pool, &registry)?.list(0, &mut |entry| {
                let fields = entry.value.one().unwrap_or(0);
                let len = (fields >> 24) as u16;
                registered.insert(fields as u16, (Attribute::named(&entry.name), (len != 0).then_some(len)));
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
        }
        let mut layouts = BTreeMap::new();
        if let Some(all) = open("LAYOUTS")? {
            Zap::open(pool, &all)?.list(0, &mut |entry| {
                let number = std::str::from_utf8(&entry.name).ok().and_then(|name| name.parse().ok());
                let number = number.ok_or_else(|| Error::damaged("a layout of attributes has no number"))?;
                let attributes = entry.value.all().iter().map(|n| registered.get(&(*n as u16)).copied());
                let attributes: Option<Layout> = attributes.collect();
                let unknown = || Error::damaged("a layout has an attribute that is not registered");
                layouts.insert(number, attributes.ok_or_else(unknown)?);
                if layouts.len() > LAYOUTS_MAX {
                    return Err(Error::new(ErrorKind::Limit, "more layouts of attributes than there are numbers"));
                }
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
        }
        Ok(Self(layouts))
    }

    /// Calls `found` for the attributes in `buffer`.
    fn each<'b>(&self, buffer: &'b [u8], order: Order, found: &mut dyn FnMut(Attribute, &'b [u8])) -> Result<()> {
        let information = order.u16(buffer, 4);
        let header = usize::from(information >> 10) * 8;
        let layout = self.0.get(&(information & 0x3ff));
        let layout = layout.filter(|_| order.u32(buffer, 0) == MAGIC);
        let layout = layout.ok_or_else(|| Error::damaged("its attributes have no known layout"))?;
        let (mut at, mut lengths) = (header, (6..).step_by(2));
        for (attribute, len) in layout {
            let len = match len {
                Some(len) => *len,
                // The header has the lengths of those that have their own.
                None => lengths.next().filter(|at| at + 2 <= header).map_or(0, |at| order.u16(buffer, at)),
            };
            let value = slice(buffer, at, usize::from(len));
            if value.len() < usize::from(len) {
                return Err(Error::damaged("its attributes end too early"));
            }
            found(*attribute, value);
            at += usize::from(len).next_multiple_of(8);
        }
        Ok(())
    }
}

impl Files {
    /// Calls `found` for the attributes of `dnode`, in the block of further ones too when it says so by then.
    fn attributes(
        &self,
        dnode: &Dnode,
        found: &mut dyn FnMut(Attribute, &[u8], Order),
        wants_more: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        let order = dnode.order();
        match dnode.bonus_kind() {
            ZNODE => znode(dnode.bonus(), &mut |attribute, value| found(attribute, value, order)),
            SYSTEM_ATTRIBUTES => {
                let layouts = self.layouts.as_ref().ok_or_else(|| Error::damaged("its attributes have no layouts"))?;
                layouts.each(dnode.bonus(), order, &mut |attribute, value| found(attribute, value, order))?;
                let spill = dnode.spill().filter(|pointer| !pointer.is_hole());
                let Some(pointer) = spill.filter(|_| wants_more()) else { return Ok(()) };
                let block = self.objset.pool.metadata(&pointer)?;
                layouts.each(&block, block.order, &mut |attribute, value| found(attribute, value, block.order))?;
            }
            other => return Err(Error::damaged(format!("it is no file (its bonus is of type {other})"))),
        }
        Ok(())
    }

    /// The value of `wanted` of `dnode`, and its byte order.
    pub(super) fn attribute(&self, dnode: &Dnode, wanted: Attribute) -> Result<Option<(Vec<u8>, Order)>> {
        let value = std::cell::RefCell::new(None);
        self.attributes(
            dnode,
            &mut |attribute, bytes, order| {
                if attribute == wanted {
                    value.replace(Some((bytes.to_vec(), order)));
                }
            },
            &mut || value.borrow().is_none(),
        )?;
        Ok(value.into_inner())
    }

    /// What `stat` says of object `number`.
    ///
    /// # Errors
    ///
    /// When it does not exist or cannot be read.
    pub fn metadata(&self, number: u64) -> Result<Metadata> {
        self.metadata_of(&self.object(number)?)
    }

    pub(super) fn metadata_of(&self, dnode: &Dnode) -> Result<Metadata> {
        let mut metadata = Metadata {
            kind: Kind::File,
            permissions: 0,
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            size: 0,
            allocated: dnode.used(),
            accessed: Time::default(),
            modified: Time::default(),
            changed: Time::default(),
            created: None,
        };
        let mut mode = None;
        self.attributes(
            dnode,
            &mut |attribute, value, order| {
                let number = order.u64(value, 0);
                match attribute {
                    Attribute::Mode => mode = Some(number),
                    Attribute::Size => metadata.size = number,
                    Attribute::Links => metadata.nlink = u32::try_from(number).unwrap_or(u32::MAX),
                    // The upper half counts domains of Windows, of which Unix shows nothing.
                    Attribute::User => metadata.uid = number as u32,
                    Attribute::Group => metadata.gid = number as u32,
                    Attribute::Device => metadata.rdev = device(number),
                    Attribute::Accessed => metadata.accessed = time(value, order),
                    Attribute::Modified => metadata.modified = time(value, order),
                    Attribute::Changed => metadata.changed = time(value, order),
                    Attribute::Created => metadata.created = Some(time(value, order)),
                    Attribute::XattrDirectory | Attribute::Xattrs | Attribute::Target | Attribute::Other => {}
                }
            },
            // All of them fit in the bonus.
            &mut || false,
        )?;
        let mode = mode.ok_or_else(|| Error::damaged("it has no mode"))?;
        metadata.kind = kind(mode >> 12 & 0xf)
            .ok_or_else(|| Error::unsupported(format!("it is of a type that Linux does not have (mode {mode:o})")))?;
        metadata.permissions = (mode & 0o7777) as u32;
        if i64::try_from(metadata.size).is_err() {
            return Err(Error::damaged(format!("it claims a size of {} bytes", metadata.size)));
        }
        Ok(metadata)
    }
}

/// The fixed fields of `bonus`.
fn znode<'b>(bonus: &'b [u8], found: &mut dyn FnMut(Attribute, &'b [u8])) {
    const FIELDS: [(Attribute, usize, usize); 12] = [
        (Attribute::Accessed, 0, 16),
        (Attribute::Modified, 16, 16),
        (Attribute::Changed, 32, 16),
        (Attribute::Created, 48, 16),
        (Attribute::Mode, 72, 8),
        (Attribute::Size, 80, 8),
        (Attribute::Links, 96, 8),
        (Attribute::XattrDirectory, 104, 8),
        (Attribute::Device, 112, 8),
        (Attribute::User, 128, 8),
        (Attribute::Group, 136, 8),
        // What is behind the structure: the target of a short symbolic link.
        (Attribute::Target, 264, usize::MAX),
    ];
    for (attribute, at, len) in FIELDS {
        let value = slice(bonus, at, len);
        if !value.is_empty() {
            found(attribute, value);
        }
    }
}

/// The type of a file, by the four bits that mode and directory entry have.
pub fn kind(bits: u64) -> Option<Kind> {
    Some(match bits {
        1 => Kind::Fifo,
        2 => Kind::CharDevice,
        4 => Kind::Dir,
        6 => Kind::BlockDevice,
        8 => Kind::File,
        10 => Kind::Symlink,
        12 => Kind::Socket,
        _ => return None,
    })
}

fn time(value: &[u8], order: Order) -> Time {
    Time { seconds: order.u64(value, 0) as i64, nanos: (order.u64(value, 8) % 1_000_000_000) as u32 }
}

/// Major and minor number: Linux stores its own (12 and 20 bits), the others 32 bits each.
fn device(number: u64) -> (u32, u32) {
    match number >> 32 {
        0 => ((number >> 20) as u32, number as u32 & 0xf_ffff),
        major => (major as u32, number as u32),
    }
}
