//! "Deliver what follows this cursor": the one piece of code behind resuming and catching up.
//!
//! Invariants, so that a client that is cut off after any item and resumes with that item's id misses nothing unreported,
//! at this hub or at another one whose histories are longer or shorter:
//! - Events of all the channels come in the order of their positions, each once.
//! - A gap event comes before any event that is later than the begin of the loss.
//! - The id of a gap event is before the next event, and not after the begin of a loss that is still to be reported.
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

/// What a reader gets next.
#[derive(Debug)]
pub enum ReplayItem {
    /// An event.
    Event(Arc<Event>),
    /// Events of `channels` may be missing here.
    Gap {
        /// The reader's cursor once it has the gap event.
        position: Position,
        /// The channels.
        channels: Vec<ChannelName>,
        /// Why.
        reason: GapReason,
        /// The losses it reports.
        losses: Vec<Loss>,
        /// The hub's last position when it was reported.
        known: Position,
    },
}

impl ReplayItem {
    /// Its bytes on the wire. A gap event is encoded at each call, with an id of `node`.
    #[must_use]
    pub fn frame(&self, node: NodeId, form: Form) -> Bytes {
        match self {
            Self::Event(event) => event.frame(form).clone(),
            Self::Gap { position, channels, reason, .. } => {
                sse::encode_gap(&Cursor { node, position: *position }, channels, *reason)
            }
        }
    }

    /// The reader's cursor once it has this.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Event(event) => event.position(),
            Self::Gap { position, .. } => *position,
        }
    }
}

impl Reader {
    /// Notes that the client was given `item`.
    pub fn has(&mut self, item: &ReplayItem) {
        self.advance(item.position());
        if let ReplayItem::Gap { losses, known, .. } = item {
            self.note_reported(losses, *known);
        }
    }
}

/// Walks what follows a reader's cursor on some channels.
pub struct Replay<'a> {
    /// Each channel's history and the index of the next event in it.
    heads: Vec<(&'a History, usize)>,
    /// Losses still to be reported, in the order of their begins.
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
        // Losses with no event between their begins are reported together.
        let together = |loss: &Loss| loss.reason == reason && event.is_none_or(|(_, next)| next > loss.begin);
        let (mut losses, mut channels) = (Vec::new(), Vec::<ChannelName>::new());
        while let Some(&(loss, name)) = self.losses.front().filter(|(loss, _)| together(loss)) {
            self.losses.pop_front();
            losses.push(loss);
            if !channels.contains(name) {
                channels.push(name.clone());
            }
        }
        let end = losses.iter().map(|loss| loss.end).max().unwrap_or(begin);
        let before_event = event.map(|(_, next)| Position(next.0 - 1));
        let next_begin = self.losses.front().map(|(loss, _)| loss.begin);
        let position = [before_event, next_begin].into_iter().flatten().fold(end, Position::min);
        Some(ReplayItem::Gap { position, channels, reason, losses, known: self.last })
    }
}
