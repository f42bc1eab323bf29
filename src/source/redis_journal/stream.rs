//! How far one stream has been read, and whether entries were lost: a pure state machine. It does no I/O, and knows no messages.
//!
//! A read begins one entry early, at the last entry that was delivered. While that entry is there, none after it was trimmed,
//! since a stream is trimmed from its beginning. Where it is not there, the stream is read again in one transaction with
//! `XINFO STREAM`, whose answer [`Stream::judge`] judges.
//!
//! Invariants:
//! - No entry is delivered twice, unless the stream was replaced by one that has none of the last entries.
//! - Entries after `last` are delivered, or [`Stream::judge`] has found a loss before it goes on.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
};

use crate::cursor::EntryId;

/// How many delivered entries are remembered, to find one of them in a stream that has gone back.
const REMEMBERED: usize = 16 << 10;

/// What `XINFO STREAM` says of a stream that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Info {
    /// The first entry.
    pub(super) first: Option<EntryId>,
    /// The last entry.
    pub(super) last: Option<EntryId>,
    /// The last id that was given to an entry, whether it is there or not.
    pub(super) generated: EntryId,
    /// How many entries there are.
    pub(super) length: u64,
    /// How many entries were ever added. `None`: the server is older than Redis 7.0.
    pub(super) added: Option<u64>,
    /// The greatest id of an entry that XDEL removed. `None`: the server is older than Redis 7.0.
    pub(super) deleted: Option<EntryId>,
}

/// How the last delivered entry relates to the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anchor {
    /// It was an entry of the stream at the last read.
    Held,
    /// It is not known to be an entry of the stream.
    Loose,
    /// The stream did not exist at the last read, or was another one. The loss has been reported.
    Lost,
    /// Reading begins anew at the stream's first entry, and nothing is claimed of what came before.
    Anew,
}

/// What the entries of a read say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// None has come.
    Nothing,
    /// The first one was the last delivered one.
    Continues,
    /// The first one was another.
    Broken,
}

/// What is to be done after [`Stream::judge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing is missing: the entries of the read follow the last delivered one.
    Intact,
    /// Entries are missing before those of the read.
    Trimmed,
    /// The stream does not exist any more, and entries may have been lost.
    Deleted,
    /// Entries may have been lost. [`Stream::resume_after`] must be called with the newest remembered entry that the stream has.
    Replaced,
    /// As `Replaced`, and the loss was found before.
    Returned,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intact => "nothing is missing",
            Self::Trimmed => "entries were removed before they were read (MAXLEN, XTRIM or XDEL)",
            Self::Deleted => "the stream was removed (DEL, FLUSHALL, or Redis has restarted without its data)",
            Self::Replaced | Self::Returned => {
                "the stream lacks entries that it had (DEL, or a replica that lagged has become the primary)"
            }
        })
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    last: EntryId,
    anchor: Anchor,
    reading: Reading,
    /// How many entries had ever been added to the stream when `last` was; `None` if that is unknown. With what Redis says later,
    /// it shows whether entries were removed before they were read.
    added: Option<u64>,
    /// The last delivered entries, in order.
    delivered: VecDeque<EntryId>,
    /// Whether the next entry may have been delivered: the stream is read from its beginning.
    may_repeat: bool,
}

impl Stream {
    /// A stream whose entries up to `last` have been delivered, or are not wanted. `added`: how many had been added then; `None` if
    /// that is unknown.
    pub(super) fn after(last: EntryId, added: Option<u64>) -> Self {
        // The first read shows whether it is an entry of the stream.
        let anchor = if last == EntryId::ZERO { Anchor::Loose } else { Anchor::Held };
        Self { last, anchor, reading: Reading::Nothing, added, delivered: VecDeque::new(), may_repeat: false }
    }

    /// A stream that is read after `last`, without a claim that nothing is missing there.
    pub(super) fn anew_after(last: EntryId) -> Self {
        Self { anchor: Anchor::Anew, ..Self::after(last, None) }
    }

    /// How many entries had been added when [`Stream::last`] was, if that is known.
    pub(super) fn added(&self) -> Option<u64> {
        self.added
    }

    /// The last delivered entry. 0-0 stands before the first one; it is also the answer while the stream is lost.
    pub(super) fn last(&self) -> EntryId {
        if self.anchor == Anchor::Lost { EntryId::ZERO } else { self.last }
    }

    /// Has the stream judged at the next read.
    pub(super) fn doubt(&mut self) {
        if self.anchor == Anchor::Held {
            self.anchor = Anchor::Loose;
        }
    }

    /// Begins a read. Returns the id after which to read so that the last delivered entry comes first; `None`: there is no such
    /// entry, so the stream has to be judged.
    pub(super) fn begin_read(&mut self) -> Option<EntryId> {
        self.reading = Reading::Nothing;
        (self.anchor == Anchor::Held).then(|| self.last.before())
    }

    /// Takes an entry of a read. Returns whether it is to be delivered.
    pub(super) fn take(&mut self, id: EntryId) -> bool {
        match self.reading {
            Reading::Nothing if id == self.last => self.reading = Reading::Continues,
            Reading::Nothing => self.reading = Reading::Broken,
            Reading::Continues if id > self.last => return self.deliver(id),
            Reading::Continues | Reading::Broken => {}
        }
        false
    }

    /// Ends a read. Returns whether the stream has to be judged.
    pub(super) fn end_read(&mut self) -> bool {
        if self.reading != Reading::Continues {
            self.doubt();
        }
        self.anchor != Anchor::Held
    }

    /// Takes an entry that follows. Returns whether it is to be delivered.
    pub(super) fn deliver(&mut self, id: EntryId) -> bool {
        (self.last, self.anchor) = (id, Anchor::Held);
        self.added = self.added.map(|added| added + 1);
        // An older state of a stream may have returned only after its search.
        self.may_repeat = self.may_repeat && self.delivered.contains(&id);
        if self.may_repeat {
            return false;
        }
        if self.delivered.len() == REMEMBERED {
            self.delivered.pop_front();
        }
        self.delivered.push_back(id);
        true
    }

    /// Judges what `XINFO STREAM` says; `None`: there is no such stream. Then the stream's entries after [`Stream::last`], which
    /// were read in the same transaction, are to be delivered, unless it was deleted or replaced.
    pub(super) fn judge(&mut self, info: Option<Info>) -> Finding {
        let Some(info) = info else {
            let is_lost = matches!(self.anchor, Anchor::Held | Anchor::Loose) && self.last != EntryId::ZERO;
            if is_lost {
                self.anchor = Anchor::Lost;
            }
            return if is_lost { Finding::Deleted } else { Finding::Intact };
        };
        let finding = match self.anchor {
            Anchor::Lost => return Finding::Returned,
            Anchor::Anew => Finding::Intact,
            Anchor::Held | Anchor::Loose => self.compare(&info),
        };
        if finding == Finding::Replaced {
            self.anchor = Anchor::Lost;
            return finding;
        }
        if self.all_follow(&info) {
            self.added = info.added.and_then(|added| added.checked_sub(info.length));
        } else if info.first == Some(self.last) {
            (self.anchor, self.added) = (Anchor::Held, info.added.and_then(|added| added.checked_sub(info.length - 1)));
        } else if info.last == Some(self.last) {
            (self.anchor, self.added) = (Anchor::Held, info.added);
        }
        if finding == Finding::Trimmed && info.length == 0 {
            // No entry follows: without this, the same loss would be found again.
            self.last = info.generated;
        }
        finding
    }

    /// Whether the stream has no entry up to the last delivered one.
    fn all_follow(&self, info: &Info) -> bool {
        info.first.is_none_or(|first| first > self.last)
    }

    fn compare(&self, info: &Info) -> Finding {
        let is_last = |id: Option<EntryId>| self.last != EntryId::ZERO && id == Some(self.last);
        if is_last(info.first) || is_last(info.last) || is_last(info.deleted) {
            return Finding::Intact;
        }
        if info.generated < self.last || !self.all_follow(info) {
            return Finding::Replaced;
        }
        match self.added.zip(info.added).map(|(before, now)| now.checked_sub(before)) {
            Some(Some(new)) if new == info.length => Finding::Intact,
            Some(Some(new)) if new > info.length => Finding::Trimmed,
            Some(_) => Finding::Replaced,
            // It is unknown whether entries after the last delivered one were removed.
            None if self.last == EntryId::ZERO || info.generated == self.last => Finding::Intact,
            None => Finding::Trimmed,
        }
    }

    /// The entries that are remembered, of which the stream may still have some.
    pub(super) fn remembered(&self) -> BTreeSet<EntryId> {
        self.delivered.iter().copied().collect()
    }

    /// Goes on after `common`, the newest remembered entry that the stream has; `None`: it has none, and is read from its
    /// beginning.
    pub(super) fn resume_after(&mut self, common: Option<EntryId>) {
        match common {
            Some(id) => (self.last, self.anchor, self.added) = (id, Anchor::Held, None),
            None => {
                (self.last, self.anchor) = (EntryId::ZERO, Anchor::Anew);
                self.may_repeat = !self.delivered.is_empty();
            }
        }
    }
}
