//! The port mapper, version 2 (RFC 1833, section 3): tells clients the ports of the other programs.
//!
//! It only answers questions: nobody registers anything here. Over UDP it does not list all that there is, or it could be
//! used to flood somebody else with what he did not ask for.

use super::{
    protocol::{program, version},
    rpc::Refusal,
    xdr::{Decoder, Encoder},
};

const NULL: u32 = 0;
const SET: u32 = 1;
const UNSET: u32 = 2;
const GETPORT: u32 = 3;
const DUMP: u32 = 4;

const TCP: u32 = 6;
const UDP: u32 = 17;

/// Where the programs are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ports {
    pub(super) nfs: u16,
    pub(super) mount: u16,
    /// Of the port mapper itself, if it has one of its own.
    pub(super) portmap: Option<u16>,
}

impl Ports {
    /// Program, version, protocol and port of all there are.
    fn all(self) -> impl Iterator<Item = [u32; 4]> {
        let portmap = self.portmap.map(u32::from);
        let own = move |protocol| portmap.map(|port| [program::PORTMAP, version::PORTMAP, protocol, port]);
        let others = [
            [program::NFS, version::NFS, TCP, u32::from(self.nfs)],
            [program::MOUNT, version::MOUNT, TCP, u32::from(self.mount)],
        ];
        [own(TCP), own(UDP)].into_iter().flatten().chain(others)
    }
}

/// Do what a call asks for; `briefly` over UDP.
pub(super) fn run(
    ports: Ports,
    briefly: bool,
    procedure: u32,
    mut arguments: Decoder<'_>,
    out: &mut Encoder,
) -> Result<(), Refusal> {
    match procedure {
        NULL => {}
        SET | UNSET => out.bool(false),
        GETPORT => {
            let wanted = [arguments.u32()?, arguments.u32()?, arguments.u32()?];
            let _port = arguments.u32()?;
            let exact = ports.all().find(|[rest @ .., _]| *rest == wanted);
            // With another version the client is told which ones there are, by the program itself.
            let other = || ports.all().find(|[p, _, t, _]| [*p, *t] == [wanted[0], wanted[2]]);
            out.u32(exact.or_else(other).map_or(0, |[.., port]| port));
        }
        DUMP if !briefly => {
            for mapping in ports.all() {
                out.bool(true);
                mapping.into_iter().for_each(|word| out.u32(word));
            }
            out.bool(false);
        }
        _ => return Err(Refusal::Procedure),
    }
    Ok(())
}
