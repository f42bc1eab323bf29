//! Which messages of a queue the shards have, which of them may be acknowledged, and which messages of a new connection are the
//! same again: a pure state machine. It knows no connection.
//!
//! A queue delivers again, in their order and before all others, the messages whose acknowledgement it has not had. The window
//! keeps a print of each message whose acknowledgement is not known to have arrived. So what a new connection delivers first
//! begins with the end of the window. Where more than one end fits, since messages are equal, the longest is taken, and the
//! messages that may be new after all are [`Verdict::Doubtful`]: they are dropped, and reported as a loss.
//!
//! Invariants:
//! - `acked <= sent <= entries.len()` and `acked <= seen <= entries.len()`.
//! - Of two messages that follow each other, the later one is acknowledged only if nothing else came for a while. So the window
//!   nearly always has a message that must come again, and the place where it fits is certain.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Prints of acknowledged messages that are kept. A server that was killed may have forgotten their acknowledgements.
const HISTORY: usize = 16_384;

/// Distinguishes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Print {
    hash: u64,
    /// Whether the message has an id: no other message has the same print.
    unique: bool,
}

impl Print {
    /// The print of a message with the id `id`, if it has one, and with these contents. It is the same in every process.
    pub(super) fn of(id: Option<&str>, contents: [&[u8]; 3]) -> Self {
        let mut hash = Fnv::new();
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            hash.add(id.as_bytes());
            hash.add(contents[0]);
            return Self { hash: hash.0, unique: true };
        }
        for part in contents {
            hash.add(part);
        }
        Self { hash: hash.0, unique: false }
    }
}

/// FNV-1a, with 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a part, and its length, so that parts can't be mistaken for each other.
    fn add(&mut self, part: &[u8]) {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// What a message of the queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was not delivered before.
    New,
    /// The shards have it.
    Again,
    /// The shards have it, or one that is equal to it: it is to be dropped and reported as lost.
    Doubtful,
}

/// What a successor needs to know of the window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// Number of messages that the shards have of this run.
    pub(super) taken: u64,
    /// Whether the last message is not acknowledged before a later checkpoint says that it may be.
    pub(super) holds_last: bool,
    prints: Vec<Print>,
}

/// What is done with redelivered messages.
enum Redelivery {
    /// There are none, or no more.
    Done,
    /// The window's end that they begin with is not certain. `starts`: where it may begin; the messages in `held` fit all of them.
    Comparing { starts: Vec<usize>, held: Vec<Print> },
    /// It is certain: what follows are the entries from `seen` on.
    Following,
    /// The server has not delivered what it should have, so messages were taken from the queue, or a killed server has lost some.
    /// Those of `old` may still come, in this order.
    Searching { old: VecDeque<Print> },
}

/// See the module.
pub(super) struct Window {
    /// Acknowledged for certain, before `entries`.
    history: VecDeque<Print>,
    /// Messages that the shards have.
    entries: VecDeque<Print>,
    /// Number of entries whose acknowledgement may have arrived.
    sent: usize,
    /// Number of entries that were acknowledged on this connection.
    acked: usize,
    /// Number of entries that this connection has delivered.
    seen: usize,
    /// The delivery tag of the entry before the first one.
    tag: u64,
    /// Number of messages of this run up to the last entry.
    taken: u64,
    redelivery: Redelivery,
}

impl Window {
    /// The window of a new queue.
    pub(super) fn new() -> Self {
        Self {
            history: VecDeque::new(),
            entries: VecDeque::new(),
            sent: 0,
            acked: 0,
            seen: 0,
            tag: 0,
            taken: 0,
            redelivery: Redelivery::Done,
        }
    }

    /// The window of the process before.
    pub(super) fn restore(saved: Saved) -> Self {
        let entries: VecDeque<Print> = saved.prints.into();
        let sent = if saved.holds_last { entries.len().saturating_sub(1) } else { entries.len() };
        Self { entries, sent, taken: saved.taken, ..Self::new() }
    }

    /// The window for the checkpoint. `holds_last`: the last message is not acknowledged now.
    pub(super) fn save(&self, holds_last: bool) -> Saved {
        let holds_last = holds_last && self.sent < self.entries.len();
        Saved { taken: self.taken, holds_last, prints: self.entries.iter().copied().collect() }
    }

    /// A new connection to the same queue begins. `restarted`: the server was restarted, and may have forgotten acknowledgements.
    pub(super) fn begin(&mut self, restarted: bool) {
        if restarted {
            self.sent += self.history.len();
            let entries = std::mem::take(&mut self.entries);
            self.entries = std::mem::take(&mut self.history);
            self.entries.extend(entries);
        }
        (self.seen, self.acked, self.tag) = (0, 0, 0);
        self.redelivery = if self.entries.is_empty() {
            Redelivery::Done
        } else if self.sent == 0 {
            Redelivery::Following
        } else {
            Redelivery::Comparing { starts: (0..=self.sent).collect(), held: Vec::new() }
        };
    }

    /// Whether every message is new from now on, so that [`Window::add`] will do.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.redelivery, Redelivery::Done)
    }

    /// Whether no message is waiting for its verdict.
    pub(super) fn holds_nothing(&self) -> bool {
        !matches!(&self.redelivery, Redelivery::Comparing { held, .. } if !held.is_empty())
    }

    /// Adds a message that is new.
    pub(super) fn add(&mut self, print: Print) {
        self.entries.push_back(print);
        self.seen = self.entries.len();
        self.taken += 1;
    }

    /// Takes the next message. `redelivered`: as the server says. Returns the verdicts on the oldest messages that have none, in
    /// their order; there are fewer than messages while it is not certain.
    pub(super) fn take(&mut self, print: Print, redelivered: bool) -> Vec<Verdict> {
        if self.is_settled() {
            self.add(print);
            return vec![Verdict::New];
        }
        if !redelivered {
            let mut verdicts = self.settle();
            self.add(print);
            verdicts.push(Verdict::New);
            return verdicts;
        }
        match std::mem::replace(&mut self.redelivery, Redelivery::Done) {
            Redelivery::Done => vec![],
            Redelivery::Following => vec![self.follow(print)],
            Redelivery::Searching { old } => vec![self.search(old, print)],
            Redelivery::Comparing { starts, held } => self.compare(starts, held, print),
        }
    }

    /// Nothing more is delivered again. Returns the verdicts on all messages that have none.
    pub(super) fn settle(&mut self) -> Vec<Verdict> {
        match std::mem::replace(&mut self.redelivery, Redelivery::Done) {
            Redelivery::Done | Redelivery::Searching { .. } => vec![],
            Redelivery::Following => {
                self.forget_unseen();
                vec![]
            }
            Redelivery::Comparing { mut starts, held } => {
                // What begins further back would have been delivered up to its end.
                let complete = |start: &usize| self.entries.len() - start <= held.len();
                if starts.iter().any(complete) {
                    starts.retain(complete);
                }
                let verdicts = self.choose(&starts, &held);
                self.forget_unseen();
                self.redelivery = Redelivery::Done;
                verdicts
            }
        }
    }

    fn compare(&mut self, mut starts: Vec<usize>, mut held: Vec<Print>, print: Print) -> Vec<Verdict> {
        let (len, place) = (self.entries.len(), held.len());
        let fits = |start: usize| match self.entries.get(start + place) {
            Some(entry) => *entry == print,
            None => !(print.unique && self.entries.contains(&print)),
        };
        starts.retain(|start| fits(*start));
        if starts.is_empty() {
            let mut old = std::mem::take(&mut self.history);
            old.extend(self.entries.drain(..));
            (self.sent, self.acked, self.seen, self.tag) = (0, 0, 0, 0);
            self.redelivery = Redelivery::Searching { old };
            held.push(print);
            return held.into_iter().flat_map(|print| self.take(print, true)).collect();
        }
        held.push(print);
        // All that can be certain is known once the longest is complete.
        if starts.len() == 1 || len - starts[0] <= held.len() {
            return self.choose(&starts, &held);
        }
        self.redelivery = Redelivery::Comparing { starts, held };
        vec![]
    }

    /// Takes the first of `starts`, in ascending order, as the one that is true.
    fn choose(&mut self, starts: &[usize], held: &[Print]) -> Vec<Verdict> {
        let (Some(&first), Some(&last)) = (starts.first(), starts.last()) else { return vec![] };
        let (longest, shortest) = (self.entries.len() - first, self.entries.len() - last);
        self.retire(first);
        (self.sent, self.acked, self.seen, self.tag) = (0, 0, held.len().min(longest), 0);
        let mut verdicts = Vec::with_capacity(held.len());
        for (place, print) in held.iter().enumerate() {
            verdicts.push(match place {
                _ if place < shortest => Verdict::Again,
                _ if place < longest && print.unique => Verdict::Again,
                _ if place < longest => Verdict::Doubtful,
                _ => {
                    self.add(*print);
                    Verdict::New
                }
            });
        }
        self.redelivery = if self.seen < self.entries.len() { Redelivery::Following } else { Redelivery::Done };
        verdicts
    }

    fn follow(&mut self, print: Print) -> Verdict {
        if self.entries[self.seen] != print {
            let old = self.entries.drain(self.seen..).collect();
            self.sent = self.sent.min(self.seen);
            return self.search(old, print);
        }
        self.seen += 1;
        self.redelivery = if self.seen < self.entries.len() { Redelivery::Following } else { Redelivery::Done };
        Verdict::Again
    }

    fn search(&mut self, mut old: VecDeque<Print>, print: Print) -> Verdict {
        let found = old.iter().position(|known| *known == print);
        self.add(print);
        let Some(place) = found else { return Verdict::New };
        old.drain(..=place);
        self.redelivery = Redelivery::Searching { old };
        if print.unique { Verdict::Again } else { Verdict::Doubtful }
    }

    /// The entries that this connection has not delivered are not in the queue.
    fn forget_unseen(&mut self) {
        let unseen: Vec<Print> = self.entries.drain(self.seen..).collect();
        self.keep_in_history(unseen);
        self.sent = self.sent.min(self.seen);
    }

    /// Removes the first `count` entries, which are acknowledged.
    fn retire(&mut self, count: usize) {
        let retired: Vec<Print> = self.entries.drain(..count).collect();
        self.keep_in_history(retired);
    }

    fn keep_in_history(&mut self, prints: Vec<Print>) {
        self.history.extend(prints);
        let excess = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..excess);
    }

    /// The delivery tag up to which messages may be acknowledged now, if that is more than before. `forwarded`: number of
    /// messages of this run that the shards have. `last`: whether the last one may be acknowledged as well.
    pub(super) fn acknowledge(&mut self, forwarded: u64, last: bool) -> Option<u64> {
        if matches!(self.redelivery, Redelivery::Comparing { .. }) {
            return None;
        }
        let first = self.taken - self.entries.len() as u64;
        let forwarded = usize::try_from(forwarded.saturating_sub(first)).unwrap_or(usize::MAX);
        let most = if last { self.entries.len() } else { self.entries.len().saturating_sub(1) };
        let count = forwarded.min(most).min(self.seen);
        if count <= self.acked {
            return None;
        }
        self.acked = count;
        self.sent = self.sent.max(count);
        Some(self.tag + count as u64)
    }

    /// Number of entries that wait to be acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.seen - self.acked
    }

    /// Whether the window has no entries.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of messages that the shards have of this run.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The delivery tag of the last acknowledgement. If the server answers what is asked now, it has had that:
    /// [`Window::confirm`].
    pub(super) fn acknowledged(&self) -> u64 {
        self.tag + self.acked as u64
    }

    /// The server has had the acknowledgements up to the delivery tag `tag`, of this connection.
    pub(super) fn confirm(&mut self, tag: u64) {
        let count = usize::try_from(tag.saturating_sub(self.tag)).unwrap_or(0).min(self.acked);
        self.retire(count);
        self.tag += count as u64;
        self.sent -= count;
        self.acked -= count;
        self.seen -= count;
    }
}

#[cfg(test)]
mod tests;
