//! Unit attentions: what an initiator is told instead of its next command being done (SAM-5 5.14).

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::sense::Sense;

/// Additional sense codes of unit attentions.
pub(crate) mod code {
    /// BUS DEVICE RESET FUNCTION OCCURRED: a logical unit reset.
    pub(crate) const RESET: u16 = 0x2903;
    /// MODE PARAMETERS CHANGED.
    pub(crate) const MODE_CHANGED: u16 = 0x2a01;
    /// RESERVATIONS PREEMPTED.
    pub(crate) const RESERVATIONS_PREEMPTED: u16 = 0x2a03;
    /// RESERVATIONS RELEASED.
    pub(crate) const RESERVATIONS_RELEASED: u16 = 0x2a04;
    /// REGISTRATIONS PREEMPTED.
    pub(crate) const REGISTRATIONS_PREEMPTED: u16 = 0x2a05;
    /// REPORTED LUNS DATA HAS CHANGED.
    pub(crate) const LUNS_CHANGED: u16 = 0x3f0e;
}

/// More than there are kinds of, so nothing is ever left out that is not there already.
const MOST: usize = 16;

/// The initiator ports of a unit, and what each has to be told.
#[derive(Debug, Default)]
pub(super) struct Attentions {
    ports: Mutex<HashMap<String, VecDeque<u16>>>,
    /// All that wait; mostly none, and then nobody has to look.
    waiting: AtomicUsize,
}

impl Attentions {
    /// A port has come. It is told nothing of what was before: POWER ON OCCURRED, which SAM-5 has for this, makes
    /// libiscsi's tools give up, and tells nobody anything (LIO and tgtd do not send it either).
    pub(super) fn attach(&self, port: &str) {
        self.ports.lock().entry(port.to_owned()).or_default();
    }

    /// A port has gone.
    pub(super) fn detach(&self, port: &str) {
        if let Some(lost) = self.ports.lock().remove(port) {
            self.waiting.fetch_sub(lost.len(), Ordering::Release);
        }
    }

    /// Tell each port for which `whom` says so.
    pub(super) fn tell(&self, code: u16, whom: impl Fn(&str) -> bool) {
        for (port, queue) in self.ports.lock().iter_mut() {
            if whom(port) && queue.len() < MOST && !queue.contains(&code) {
                queue.push_back(code);
                self.waiting.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// What `port` is told next; it counts as told.
    pub(super) fn take(&self, port: &str) -> Option<Sense> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let code = self.ports.lock().get_mut(port)?.pop_front()?;
        self.waiting.fetch_sub(1, Ordering::Release);
        Some(Sense::attention(code))
    }

    /// `port` has seen the list of units.
    pub(super) fn forget(&self, port: &str, code: u16) {
        if let Some(queue) = self.ports.lock().get_mut(port) {
            let before = queue.len();
            queue.retain(|waiting| *waiting != code);
            self.waiting.fetch_sub(before - queue.len(), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_told_once() {
        let attentions = Attentions::default();
        attentions.attach("a");
        attentions.attach("b");
        assert_eq!(attentions.take("a"), None);
        attentions.tell(code::RESET, |_| true);
        attentions.tell(code::RESET, |port| port == "a");
        attentions.detach("b");
        assert_eq!(attentions.take("b"), None);
        assert_eq!(attentions.take("a"), Some(Sense::attention(code::RESET)));
        assert_eq!(attentions.take("a"), None);
        assert_eq!(attentions.waiting.load(Ordering::Acquire), 0);
    }
}
