//! Answers that are remembered: a client that lost its connection asks again, and what was done once must not be done
//! twice (a file that was removed is not there any more, one that was made is).
//!
//! A call is known by its number and everything else that it says, its caller included.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Answers that are remembered, at most. Each has some 300 bytes.
const REMEMBERED: usize = 4096;
/// How long they are: clients ask again within a minute or two.
const LIFETIME: Duration = Duration::from_secs(300);

/// What stands for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u32, u64);

impl Key {
    /// That of the call `message` with the number `xid`.
    pub(super) fn of(xid: u32, message: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        Self(xid, hasher.finish())
    }
}

/// The answers.
#[derive(Default)]
pub(super) struct Replies {
    state: Mutex<State>,
    /// A call was answered.
    answered: Condvar,
}

#[derive(Default)]
struct State {
    /// `None`: it is being worked on.
    known: HashMap<Key, Option<Arc<[u8]>>>,
    /// The answered ones, oldest first.
    order: VecDeque<(Instant, Key)>,
}

impl State {
    fn expire(&mut self, now: Instant) {
        while let Some((since, key)) = self.order.front().copied() {
            if self.order.len() <= REMEMBERED && now.duration_since(since) < LIFETIME {
                return;
            }
            self.order.pop_front();
            self.known.remove(&key);
        }
    }
}

/// What is known of a call.
pub(super) enum Answer<'a> {
    /// This is the answer that was given before.
    Known(Arc<[u8]>),
    /// It is new.
    Wanted(Pending<'a>),
}

/// A call that is being worked on. When this goes without an answer, the call was never there.
pub(super) struct Pending<'a> {
    replies: &'a Replies,
    key: Key,
}

impl Replies {
    /// Begin to work on a call, unless it was answered before. Waits while somebody else works on it.
    pub(super) fn begin(&self, key: Key) -> Answer<'_> {
        let mut state = self.state.lock();
        loop {
            state.expire(Instant::now());
            match state.known.get(&key) {
                None => break,
                Some(Some(reply)) => return Answer::Known(Arc::clone(reply)),
                Some(None) => self.answered.wait(&mut state),
            }
        }
        state.known.insert(key, None);
        Answer::Wanted(Pending { replies: self, key })
    }
}

impl Pending<'_> {
    /// Remember the answer.
    pub(super) fn finish(self, reply: &[u8]) {
        let mut state = self.replies.state.lock();
        state.known.insert(self.key, Some(reply.into()));
        state.order.push_back((Instant::now(), self.key));
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut state = self.replies.state.lock();
        if state.known.get(&self.key).is_some_and(Option::is_none) {
            state.known.remove(&self.key);
        }
        drop(state);
        self.replies.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_once_and_forgotten_in_time() {
        let replies = Replies::default();
        let key = Key::of(7, b"remove");
        let Answer::Wanted(pending) = replies.begin(key) else { panic!("nobody knows it") };
        std::thread::scope(|scope| {
            // Who asks meanwhile gets the same answer, later.
            let other = scope.spawn(|| match replies.begin(key) {
                Answer::Known(reply) => reply.to_vec(),
                Answer::Wanted(_) => panic!("twice"),
            });
            std::thread::sleep(Duration::from_millis(20));
            pending.finish(b"done");
            assert_eq!(other.join().unwrap(), b"done");
        });
        assert!(matches!(replies.begin(Key::of(8, b"remove")), Answer::Wanted(_)));
        assert!(matches!(replies.begin(Key::of(7, b"other")), Answer::Wanted(_)));
        // Given up: it can be begun again.
        assert!(matches!(replies.begin(Key::of(8, b"remove")), Answer::Wanted(_)));
        for n in 0..2 * REMEMBERED as u32 {
            let Answer::Wanted(pending) = replies.begin(Key::of(n, b"many")) else { panic!("{n}") };
            pending.finish(b"x");
        }
        assert!(replies.state.lock().known.len() <= REMEMBERED + 1);
        assert!(matches!(replies.begin(key), Answer::Wanted(_)), "forgotten");
        replies.state.lock().expire(Instant::now() + LIFETIME);
        assert!(replies.state.lock().order.is_empty());
    }
}
