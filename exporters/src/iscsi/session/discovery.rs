//! SendTargets: which targets there are (RFC 7143 appendix C).

use std::net::SocketAddr;

use super::{
    super::{
        target::Targets,
        text::{self, Text},
    },
    Session,
};

/// The answer to a text: targets where it asks for them. `None` when it is no text.
pub(super) fn answer(
    session: &Session,
    targets: &Targets,
    portal: Option<SocketAddr>,
    asked: &[u8],
) -> Option<Vec<u8>> {
    let mut answer = Text::default();
    for (key, value) in text::parse(asked)? {
        match key {
            "SendTargets" => send_targets(session, targets, portal, value, &mut answer),
            // What was agreed on at login stays so.
            "MaxRecvDataSegmentLength" => answer.add(key, "Reject"),
            "InitiatorName" | "InitiatorAlias" | "TargetAlias" => {}
            _ => answer.add(key, "NotUnderstood"),
        }
    }
    Some(answer.into_bytes())
}

fn send_targets(session: &Session, targets: &Targets, portal: Option<SocketAddr>, which: &str, answer: &mut Text) {
    let wanted = match (which, &session.target) {
        // All are only told in a session for that.
        ("All", Some(_)) => return answer.add("SendTargets", "Reject"),
        ("All", None) => targets.list(),
        // That of the session itself.
        ("", Some(target)) => vec![target.clone()],
        (name, _) => targets.get(name).into_iter().collect(),
    };
    for target in wanted.iter().filter(|target| target.admits(&session.initiator)) {
        answer.add("TargetName", target.name());
        // Without an address it is at the one that was connected to.
        if let Some(portal) = portal {
            answer.add("TargetAddress", format_args!("{portal},1"));
        }
    }
}
