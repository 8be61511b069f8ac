//! The MOUNT protocol, version 3 (RFC 1813, appendix I): from a path to a first file handle.
//!
//! The export is `/`, and by another name if it has one; every directory below can be mounted by its path. Who has mounted what is not kept: it was never
//! more than a guess.

use std::sync::Arc;

use vfs::{door::Place, node::is_name};

use super::{
    Clients,
    export::Export,
    protocol::{PATH_MAX, Status},
    rpc::{AUTH_SYS, Refusal},
    xdr::{Decoder, Encoder},
};

const NULL: u32 = 0;
const MNT: u32 = 1;
const DUMP: u32 = 2;
const UMNT: u32 = 3;
const UMNTALL: u32 = 4;
const EXPORT: u32 = 5;

/// Do what a call asks for.
pub(super) fn run(
    export: &Export,
    clients: &Clients,
    procedure: u32,
    mut arguments: Decoder<'_>,
    out: &mut Encoder,
) -> Result<(), Refusal> {
    match procedure {
        NULL | UMNTALL => {}
        MNT => match find(export, arguments.opaque(PATH_MAX)?) {
            Ok(place) => {
                out.u32(Status::Ok as u32);
                out.opaque(&export.handle(&place));
                // One flavor of credentials.
                [1, AUTH_SYS].into_iter().for_each(|word| out.u32(word));
            }
            Err(status) => out.u32(status as u32),
        },
        UMNT => {
            arguments.opaque(PATH_MAX)?;
        }
        DUMP => out.bool(false),
        EXPORT => {
            out.bool(true);
            out.opaque(format!("/{}", export.name()).as_bytes());
            for name in clients.names() {
                out.bool(true);
                out.opaque(name.as_bytes());
            }
            // No more groups, no more exports.
            out.bool(false);
            out.bool(false);
        }
        _ => return Err(Refusal::Procedure),
    }
    Ok(())
}

/// The directory at `path`. Links are not followed: they mean something on the machine that the backup is of.
fn find(export: &Export, path: &[u8]) -> Result<Arc<Place>, Status> {
    let mut place = Arc::clone(export.places.root());
    let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".").peekable();
    let _own = names.next_if(|name| *name == export.name().as_bytes());
    for name in names {
        if place.dir().is_none() {
            return Err(Status::NotDirectory);
        }
        if !is_name(name) {
            return Err(Status::NotFound);
        }
        let found = export.places.look_up(&place, name).map_err(|e| export.status(&e))?;
        place = found.ok_or(Status::NotFound)?.0;
    }
    if place.dir().is_none() { Err(Status::NotDirectory) } else { Ok(place) }
}
