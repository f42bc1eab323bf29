//! Exports a hub's channels for an upgrade, and imports those of another process.

use std::sync::Arc;

use super::{
    Cause, ChannelId, CursorOrigin, GroupId, Hole, Hub, Journaled, Reader, ReportedLoss, Subscription, base_weight,
    history::History,
};
use crate::{clock::Uptime, cursor::Position, event::Event, index, name::ChannelName};

/// A channel and its history.
#[derive(Debug, Clone)]
pub struct ChannelSnapshot {
    /// The channel's name.
    pub name: ChannelName,
    /// Whether the channel's subscription is confirmed.
    pub open: bool,
    /// The position after which the history is complete.
    pub complete_since: Position,
    /// Why `complete_since` was last raised.
    pub cause: Cause,
    /// The stretches in which a source was disconnected.
    pub holes: Vec<Hole>,
    /// What is known of the channel by its journal, if it belongs to one.
    pub journaled: Option<Journaled>,
    /// The events of the history, in order, and when each one arrived.
    pub events: Vec<(Arc<Event>, Uptime)>,
}

impl Hub {
    /// A snapshot of each channel.
    pub fn export(&self) -> impl Iterator<Item = (ChannelId, ChannelSnapshot)> {
        self.channels.iter().map(|(id, channel)| {
            let history = &channel.history;
            let snapshot = ChannelSnapshot {
                name: channel.name.clone(),
                open: channel.subscription == Subscription::Confirmed,
                complete_since: history.complete_since(),
                cause: history.cause(),
                holes: history.holes().to_vec(),
                journaled: history.journaled().copied(),
                events: history.events().map(|(event, arrived)| (Arc::clone(event), arrived)).collect(),
            };
            (index::to_u32(id), snapshot)
        })
    }

    /// Adds the channel of a snapshot. The hub must not have it yet.
    pub fn import(&mut self, snapshot: ChannelSnapshot, now: Uptime) -> ChannelId {
        let id = self.open(snapshot.name);
        // A pattern may have collected a history, which that of the snapshot replaces.
        while !self.channels[id as usize].history.is_empty() {
            self.bytes -= self.channels[id as usize].history.drop_oldest();
        }
        let channel = &mut self.channels[id as usize];
        let mut complete = (snapshot.complete_since, snapshot.cause);
        if !snapshot.open {
            // Its clients waited for a confirmation, which this process may not need.
            complete = complete.max((channel.history.complete_since(), channel.history.cause()));
        }
        // A predecessor without journals knew its positions alone.
        let unknown = || Some(Journaled { others_since: complete.0, ..*channel.history.journaled()? });
        let begins = channel.history.journaled().map_or(Position(0), |journaled| journaled.begins);
        let journaled = snapshot.journaled.or_else(unknown).map(|journaled| Journaled { begins, ..journaled });
        channel.history = History::new(complete.0, complete.1, base_weight(&channel.name)).with_journal(journaled);
        if snapshot.open {
            channel.subscription = Subscription::Confirmed;
            // The dispatcher subscribes every shard to each open channel of a snapshot.
            channel.wanted = channel.on_demand;
        }
        channel.idle_since = Some(now);
        for hole in snapshot.holes {
            self.bytes -= self.channels[id as usize].history.add_hole(hole);
        }
        for (event, arrived) in snapshot.events {
            self.keep(id, &event, arrived.min(now));
        }
        // Its clients are added later. A sweep removes a channel that gets none.
        self.idle += usize::from(self.channels[id as usize].on_demand);
        id
    }

    /// The reader of a client that another process served. `reported`: its [`Reader::reported`], with this hub's channels.
    #[must_use]
    pub fn import_reader(
        &self,
        cursor: Position,
        origin: CursorOrigin,
        reported: impl IntoIterator<Item = ReportedLoss>,
    ) -> Reader {
        let mut reader = Reader::new(cursor, origin);
        for loss in reported {
            reader.restore_reported(loss, &self.channels[loss.channel as usize].history);
        }
        reader
    }

    /// The position since which channels are complete that the hub does not have, and why it was last raised.
    #[must_use]
    pub fn floor(&self) -> (Position, Cause) {
        self.floor
    }

    /// Sets [`Hub::floor`].
    pub fn set_floor(&mut self, since: Position, cause: Cause) {
        self.floor = (since, cause);
    }

    /// The channels of a group.
    pub fn channels_of(&self, group: GroupId) -> impl Iterator<Item = ChannelId> {
        self.groups.channels(group)
    }
}
