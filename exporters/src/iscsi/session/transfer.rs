//! Data on their way from the initiator (RFC 7143 sections 4.2.4.2, 11.7, 11.8).
//!
//! Data come in order (DataPDUInOrder, DataSequenceInOrder), unasked at first where that was agreed on, and then by one
//! request at a time (MaxOutstandingR2T is 1). A command that wants more than there is memory for waits until others are
//! done.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use super::{
    super::pdu::{Head, NO_TAG, opcode},
    Connection,
    execute::{Ready, Verdict},
    outbox::{Number, Outbox},
    task::Task,
};

/// The data of the commands of a connection that are not complete.
#[derive(Debug)]
pub(super) struct Transfers {
    /// Bytes that may be asked for at a time.
    limit: usize,
    by_tag: HashMap<u32, Transfer>,
    /// Bytes that were asked for and are not used up.
    promised: usize,
    /// Commands that wait for memory.
    waiting: VecDeque<u32>,
    /// The last target transfer tag.
    tags: u32,
}

impl Transfers {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, by_tag: HashMap::new(), promised: 0, waiting: VecDeque::new(), tags: 0 }
    }
}

/// The data of a command.
#[derive(Debug)]
pub(super) struct Transfer {
    task: Arc<Task>,
    data: Vec<u8>,
    /// Bytes of `data` that were received.
    filled: usize,
    /// Data come that were not asked for.
    unsolicited: bool,
    /// What was asked for, and has not come: its tag, and where it ends.
    burst: Option<(u32, usize)>,
    /// Number of the next Data-Out PDU.
    next: u32,
    /// Requests that were made.
    requests: u32,
    /// What the command turned out to be, when its turn came, and how many bytes it wants.
    verdict: Option<(Verdict, usize)>,
    /// Bytes that are promised to it.
    reserved: usize,
}

/// What has become of a transfer.
pub(super) enum Progress {
    /// More has to come.
    Waits,
    /// Everything is here.
    Complete(Ready),
}

impl Transfer {
    /// For a command that came with `data`, and that `unsolicited` data follow.
    pub(super) fn new(task: Arc<Task>, data: Vec<u8>, unsolicited: bool) -> Self {
        Self {
            filled: data.len(),
            task,
            data,
            unsolicited,
            burst: None,
            next: 0,
            requests: 0,
            verdict: None,
            reserved: 0,
        }
    }

    /// Where data of a Data-Out PDU go, if it is the one that comes next.
    pub(super) fn place(&mut self, head: &Head) -> Option<&mut [u8]> {
        let unasked = head.other_tag() == NO_TAG;
        let end = match self.burst {
            Some((tag, end)) if tag == head.other_tag() => end,
            None if unasked && self.unsolicited => {
                let most = self.task.connection.session.parameters.first_burst;
                most.min(usize::try_from(self.task.expected).unwrap_or(usize::MAX))
            }
            _ => return None,
        };
        let len = head.data();
        let place = self.filled..self.filled.checked_add(len)?;
        if place.end > end || head.be32(40) as usize != self.filled || head.be32(36) != self.next {
            return None;
        }
        if self.data.len() < place.end {
            self.data.resize(place.end, 0);
        }
        self.data.get_mut(place)
    }

    /// The data of that PDU are in their place. `false` when it should not have been the last of its sequence.
    pub(super) fn filled(&mut self, head: &Head) -> bool {
        self.filled += head.data();
        self.next = self.next.wrapping_add(1);
        if head.is_final() {
            self.next = 0;
            self.unsolicited = false;
            return self.burst.take().is_none_or(|(_, end)| end == self.filled);
        }
        self.burst.is_none_or(|(_, end)| end > self.filled)
    }

    pub(super) const fn task(&self) -> &Arc<Task> {
        &self.task
    }
}

impl Connection {
    /// Keep a transfer.
    pub(super) fn keep(&self, transfer: Transfer) {
        self.transfers.lock().by_tag.insert(transfer.task.tag, transfer);
    }

    /// Take a transfer out, to put data into it.
    pub(super) fn take_transfer(&self, tag: u32) -> Option<Transfer> {
        self.transfers.lock().by_tag.remove(&tag)
    }

    /// Nothing more comes of a transfer that was taken out.
    pub(super) fn forget(&self, transfer: &Transfer, out: &mut Outbox) -> io::Result<()> {
        self.release(transfer.reserved, out)
    }

    /// The command's turn has come: this is what it is, and wants.
    pub(super) fn judged(
        &self,
        task: &Arc<Task>,
        data: Vec<u8>,
        verdict: Verdict,
        out: &mut Outbox,
    ) -> io::Result<Progress> {
        let kept = self.take_transfer(task.tag);
        let mut transfer = kept.unwrap_or_else(|| Transfer::new(task.clone(), data, false));
        let wants = verdict.wants().min(usize::try_from(task.expected).unwrap_or(usize::MAX));
        transfer.verdict = Some((verdict, if task.writes { wants } else { 0 }));
        self.advance(transfer, out)
    }

    /// Go on with a transfer that was taken out.
    pub(super) fn advance(&self, mut transfer: Transfer, out: &mut Outbox) -> io::Result<Progress> {
        if transfer.task.is_aborted() {
            self.forget(&transfer, out)?;
            return Ok(Progress::Waits);
        }
        let Some((_, wants)) = transfer.verdict.as_ref().filter(|_| !transfer.unsolicited) else {
            self.keep(transfer);
            return Ok(Progress::Waits);
        };
        let wants = *wants;
        if transfer.filled >= wants {
            let Transfer { task, mut data, verdict, reserved, filled, .. } = transfer;
            data.truncate(wants.min(filled));
            let Some((verdict, _)) = verdict else { return Ok(Progress::Waits) };
            return Ok(Progress::Complete(Ready { task, verdict, data, reserved }));
        }
        if transfer.burst.is_some() {
            self.keep(transfer);
            return Ok(Progress::Waits);
        }
        let mut transfers = self.transfers.lock();
        let tag = transfer.task.tag;
        if transfer.reserved == 0 {
            let rest = wants - transfer.filled;
            if transfers.promised > 0 && transfers.promised.saturating_add(rest) > transfers.limit {
                transfers.waiting.push_back(tag);
                transfers.by_tag.insert(tag, transfer);
                return Ok(Progress::Waits);
            }
            transfers.promised += rest;
            transfer.reserved = rest;
            transfer.data.resize(wants, 0);
        }
        let request = transfers.request(&mut transfer, wants, self.session.parameters.max_burst);
        transfers.by_tag.insert(tag, transfer);
        drop(transfers);
        out.push(request, Number::Next, &[])?;
        Ok(Progress::Waits)
    }

    /// Give back what was promised to a command that is done, so that others get it.
    pub(super) fn release(&self, reserved: usize, out: &mut Outbox) -> io::Result<()> {
        if reserved == 0 {
            return Ok(());
        }
        let requests = {
            let mut transfers = self.transfers.lock();
            transfers.promised = transfers.promised.saturating_sub(reserved);
            transfers.grant(self.session.parameters.max_burst)
        };
        requests.into_iter().try_for_each(|request| out.push(request, Number::Next, &[]))
    }

    /// Nothing more comes of a command that was aborted.
    pub(super) fn discard(self: &Arc<Self>, tag: u32) {
        let requests = {
            let mut transfers = self.transfers.lock();
            let Some(transfer) = transfers.by_tag.remove(&tag) else { return };
            transfers.promised = transfers.promised.saturating_sub(transfer.reserved);
            transfers.grant(self.session.parameters.max_burst)
        };
        for request in requests {
            if self.send(request, Number::Next, &[]).is_err() {
                self.transport.close();
            }
        }
    }
}

impl Transfer {
    /// Bytes that have to be asked for, of a transfer that waits for memory.
    fn rest(&self) -> Option<usize> {
        let (_, wants) = self.verdict.as_ref()?;
        (self.reserved == 0).then(|| wants.saturating_sub(self.filled))
    }
}

impl Transfers {
    /// Nothing more comes of any of them.
    pub(super) fn forget(&mut self) {
        self.by_tag.clear();
        self.waiting.clear();
    }

    /// Promise what there is to commands that wait for it, and ask for their first bursts.
    fn grant(&mut self, burst: usize) -> Vec<Head> {
        let mut requests = Vec::new();
        while let Some(tag) = self.waiting.front().copied() {
            let rest = self.by_tag.get(&tag).and_then(Transfer::rest).unwrap_or(0);
            if rest > 0 && self.promised > 0 && self.promised.saturating_add(rest) > self.limit {
                break;
            }
            self.waiting.pop_front();
            // One that was aborted meanwhile is not there, or wants nothing.
            if rest == 0 {
                continue;
            }
            let Some(mut transfer) = self.by_tag.remove(&tag) else { continue };
            self.promised += rest;
            transfer.reserved = rest;
            let wants = transfer.filled + rest;
            transfer.data.resize(wants, 0);
            requests.push(self.request(&mut transfer, wants, burst));
            self.by_tag.insert(tag, transfer);
        }
        requests
    }

    /// Ask for the next burst (11.8).
    fn request(&mut self, transfer: &mut Transfer, wants: usize, burst: usize) -> Head {
        self.tags = self.tags.wrapping_add(1);
        if self.tags == NO_TAG {
            self.tags = 0;
        }
        let end = wants.min(transfer.filled.saturating_add(burst));
        transfer.burst = Some((self.tags, end));
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        let head = Head::new(opcode::READY_TO_TRANSFER)
            .with_lun(transfer.task.address)
            .with_tag(transfer.task.tag)
            .with_other_tag(self.tags)
            .with(36, &transfer.requests.to_be_bytes())
            .with(40, &number(transfer.filled))
            .with(44, &number(end - transfer.filled));
        transfer.requests += 1;
        head
    }
}
