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
    /// An event.
    Event(Arc<Event>),
    /// A gap event: events of `channels` may be missing here.
    Gap {
        /// The position in the gap event's id: the reader's cursor after it.
        position: Position,
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
    /// The item's bytes, in `form`. A gap event is encoded at each call, with an id of `node`.
    #[must_use]
    pub fn frame(&self, node: NodeId, form: Form) -> Bytes {
        match self {
            Self::Event(event) => event.frame(form).clone(),
            Self::Gap { position, channels, reason, .. } => {
                sse::encode_gap(&Cursor::new(node, *position), channels, *reason)
            }
        }
    }

    /// The reader's cursor after this item.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Event(event) => event.position(),
            Self::Gap { position, .. } => *position,
        }
    }
}

impl Reader {
    /// Moves the cursor past `item`, which the client was given.
    pub fn pass(&mut self, item: &ReplayItem) {
        self.advance(item.position());
        if let ReplayItem::Gap { losses, known, .. } = item {
            self.note_reported(losses, *known);
        }
    }
}

/// An iterator over the items after a reader's cursor on some channels.
pub struct Replay<'a> {
    /// Each channel's history and the index of the next event in it.
    heads: Vec<(&'a History, usize)>,
    /// Losses that were not reported yet, ordered by where they begin.
    losses: VecDeque<(Loss, &'a ChannelName)>,
    /// The hub's last position.
    last: Position,
}

impl<'a> Replay<'a> {
    /// `last`: the hub's last position.
    pub(super) fn new(
        channels: impl Iterator<Item = (ChannelId, &'a Channel)>,
        reader: &'a Reader,
        last: Position,
    ) -> Self {
        let mut heads = Vec::new();
        let mut losses = Vec::new();
        for (id, channel) in channels {
            let history = &channel.history;
            losses.extend(reader.unreported(id, history).map(|loss| (loss, &channel.name)));
            let index = history.index_after(reader.cursor);
            if index < history.len() {
                heads.push((history, index));
            }
        }
        losses.sort_by_key(|&(loss, name)| (loss.begin, loss.reason.as_str(), name));
        Self { heads, losses: losses.into(), last }
    }

    /// The index in `heads` and the position of the next event.
    fn next_event(&self) -> Option<(usize, Position)> {
        self.heads
            .iter()
            .enumerate()
            .filter_map(|(at, (history, index))| Some((at, history.get(*index)?.position())))
            .min_by_key(|&(_, position)| position)
    }

    fn take_event(&mut self, at: usize) -> Option<ReplayItem> {
        let (history, index) = &mut self.heads[at];
        let event = history.get(*index)?;
        *index += 1;
        // A pattern has the event too. No earlier head has it: `at` is the first one with its position.
        for (history, index) in &mut self.heads[at + 1..] {
            *index += usize::from(history.get(*index).is_some_and(|other| other.position() == event.position()));
        }
        Some(ReplayItem::Event(Arc::clone(event)))
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
        Some(ReplayItem::Gap { position, channels, reason, losses, known: self.last })
    }
}
