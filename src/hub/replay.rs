//! The events and gap events after a cursor, in order. Resuming and catching up both use this. It writes to no socket.
//!
//! Invariants:
//! - Events of all the channels come in the order of their positions, each once, also if several of the histories have it (that of
//!   its channel, and those of patterns).
//! - A gap event comes before every event that is later than the beginning of the loss.
//! - The id of a gap event is before the next event, and not after the beginning of a loss that was not reported yet.
//!
//! So a client may be cut off after any item and resume with that item's id, at this hub or at another one whose histories are
//! longer or shorter: it misses nothing unreported.
//!
//! A client that is cut off between a gap event and the end of its loss, with events of other channels in between, gets
//! the gap event again. A client that stays connected does not ([`Reader`] remembers).

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    Channel, ChannelId,
    arrival::Arrival,
    history::History,
    reader::{Loss, Reader},
};
use crate::{
    cursor::{Cursor, NodeId, Position},
    event::{Event, Form},
    name::ChannelName,
    sse::{self, GapReason},
};

/// One item that a reader gets.
#[derive(Debug)]
pub enum ReplayItem {
    /// An event, with the id that it has for this client, if that is another one than for all clients.
    Event(Arc<Event>, Option<Box<Cursor>>),
    /// A gap event: events of `channels` may be missing here.
    Gap {
        /// The gap event's id: the client's cursor after it.
        id: Box<Cursor>,
        /// Channels that may lack events.
        channels: Vec<ChannelName>,
        /// The reason that the gap event gives.
        reason: GapReason,
        /// The losses that the gap event reports.
        losses: Vec<Loss>,
        /// The hub's last position when the gap event was made.
        known: Position,
    },
}

impl ReplayItem {
    /// The item's bytes, in `form`. A gap event, and an event with an id of its own, is encoded at each call.
    #[must_use]
    pub fn frame(&self, form: Form) -> Bytes {
        match self {
            Self::Event(event, None) => event.frame(form).clone(),
            Self::Event(event, Some(id)) => sse::with_cursor(event.frame(form), id),
            Self::Gap { id, channels, reason, .. } => sse::encode_gap(id, channels, *reason),
        }
    }

    /// The reader's cursor after this item.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Event(event, _) => event.position(),
            Self::Gap { id, .. } => id.position,
        }
    }
}

impl Reader {
    /// Moves the cursor past `item`, which the client was given.
    pub fn pass(&mut self, item: &ReplayItem) {
        self.advance(item.position());
        match item {
            ReplayItem::Event(_, Some(id)) => self.set_passed(id.entries),
            ReplayItem::Event(event, None) if !self.passed().is_empty() => {
                self.set_passed(event.passed());
                self.settle(event);
            }
            ReplayItem::Event(_, None) => {}
            ReplayItem::Gap { losses, known, .. } => self.note_reported(losses, *known),
        }
    }
}

/// A channel's events that are due.
struct Head<'a> {
    history: &'a History,
    /// The index of the next event that the client needs.
    next: usize,
}

/// An iterator over the items after a reader's cursor on some channels.
pub struct Replay<'a> {
    /// The reader after the items that were given.
    reader: Reader,
    node: NodeId,
    heads: Vec<Head<'a>>,
    /// Losses that were not reported yet, ordered by where they begin.
    losses: VecDeque<(Loss, &'a ChannelName)>,
    /// The hub's last position.
    last: Position,
}

impl<'a> Replay<'a> {
    /// `node`: the name of this node; `last`: the hub's last position.
    pub(super) fn new(
        channels: impl Iterator<Item = (ChannelId, &'a Channel)>,
        reader: &Reader,
        node: NodeId,
        last: Position,
    ) -> Self {
        let mut heads = Vec::new();
        let mut losses = Vec::new();
        for (id, channel) in channels {
            let history = &channel.history;
            losses.extend(reader.unreported(id, channel).map(|loss| (loss, &channel.name)));
            let mut next = history.index_after(reader.cursor);
            if let Some(arrival) = reader.arrival() {
                next = arrival.first_lacking(history, history.journal()).max(next);
            }
            if next < history.len() {
                heads.push(Head { history, next });
            }
        }
        losses.sort_by_key(|&(loss, name)| (loss.begin, loss.reason.as_str(), name));
        Self { reader: reader.clone(), node, heads, losses: losses.into(), last }
    }

    /// The index in `heads` and the position of the next event. Skips events that the client has.
    fn next_event(&mut self) -> Option<(usize, Position)> {
        if let Some(arrival) = self.reader.arrival() {
            self.heads.iter_mut().for_each(|head| head.skip(arrival));
        }
        self.heads
            .iter()
            .enumerate()
            .filter_map(|(at, head)| Some((at, head.history.get(head.next)?.position())))
            .min_by_key(|&(_, position)| position)
    }

    fn take_event(&mut self, at: usize) -> Option<ReplayItem> {
        let head = &mut self.heads[at];
        let event = head.history.get(head.next)?;
        head.next += 1;
        let event = Arc::clone(event);
        // A pattern has the event too. No earlier head has it: `at` is the first one with its position.
        for head in &mut self.heads[at + 1..] {
            let same = head.history.get(head.next).is_some_and(|other| other.position() == event.position());
            head.next += usize::from(same);
        }
        let id = self.reader.id_of(self.node, &event);
        self.give(ReplayItem::Event(event, id))
    }

    fn give(&mut self, item: ReplayItem) -> Option<ReplayItem> {
        self.reader.pass(&item);
        Some(item)
    }
}

impl Head<'_> {
    fn skip(&mut self, arrival: &Arrival) {
        while let Some(event) = self.history.get(self.next)
            && !arrival.lacks(event, self.history.journal())
        {
            self.next += 1;
        }
    }
}

impl Iterator for Replay<'_> {
    type Item = ReplayItem;

    fn next(&mut self) -> Option<ReplayItem> {
        let event = self.next_event();
        let Some(&(Loss { begin, reason, .. }, _)) = self.losses.front() else {
            return event.and_then(|(at, _)| self.take_event(at));
        };
        if let Some((at, position)) = event
            && position <= begin
        {
            return self.take_event(at);
        }
        // Losses are reported together if they have the same reason and no event lies between their beginnings.
        let together = |loss: &Loss| loss.reason == reason && event.is_none_or(|(_, next)| next > loss.begin);
        let (mut losses, mut channels) = (Vec::new(), Vec::<ChannelName>::new());
        while let Some(&(loss, name)) = self.losses.front().filter(|(loss, _)| together(loss)) {
            self.losses.pop_front();
            losses.push(loss);
            if !channels.contains(name) {
                channels.push(name.clone());
            }
        }
        // The id is the latest position that hides nothing from a client that is cut off right after the gap event and resumes:
        // not after the end of the loss (4 in this example), before the next event (so at most 2), and not after the beginning
        // of the next loss (1). So it is 1 here.
        //
        //   position   0   1   2   3   4   5   6
        //   a          ├──── lost ─────┤   a5        reported now
        //   b                      b3                the next event
        //   c              ├────── lost ───────┤     the next loss, for another reason
        let end = losses.iter().map(|loss| loss.end).max().unwrap_or(begin);
        let before_event = event.map(|(_, next)| Position(next.0 - 1));
        let next_begin = self.losses.front().map(|(loss, _)| loss.begin);
        let position = [before_event, next_begin].into_iter().flatten().fold(end, Position::min);
        let id = Box::new(self.reader.id_after(self.node, position, &losses));
        self.give(ReplayItem::Gap { id, channels, reason, losses, known: self.last })
    }
}
