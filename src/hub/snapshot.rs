//! What a hub knows of its channels, given to and taken from the hub of another process.

use std::sync::Arc;

use super::{Cause, Channel, ChannelId, GroupId, Hole, Hub, Subscription, base_weight, history::History};
use crate::{clock::Uptime, cursor::Position, event::Event, index, name::ChannelName};

/// A channel and its history.
#[derive(Debug, Clone)]
pub struct ChannelSnapshot {
    /// Its name.
    pub name: ChannelName,
    /// Whether its events arrive.
    pub open: bool,
    /// Since when the history is complete.
    pub complete_since: Position,
    /// What last raised that.
    pub cause: Cause,
    /// Where a source was disconnected.
    pub holes: Vec<Hole>,
    /// The history, in order, and when each event has arrived.
    pub events: Vec<(Arc<Event>, Uptime)>,
}

impl Hub {
    /// All channels.
    pub fn export(&self) -> impl Iterator<Item = (ChannelId, ChannelSnapshot)> {
        self.channels.iter().map(|(id, channel)| {
            let history = &channel.history;
            let image = ChannelSnapshot {
                name: channel.name.clone(),
                open: channel.subscription == Subscription::Confirmed,
                complete_since: history.complete_since(),
                cause: history.cause(),
                holes: history.holes().to_vec(),
                events: history.events().map(|(event, arrived)| (Arc::clone(event), arrived)).collect(),
            };
            (index::to_u32(id), image)
        })
    }

    /// Takes a channel over, which the hub must not have yet.
    pub fn import(&mut self, image: ChannelSnapshot, now: Uptime) -> ChannelId {
        let id = self.open(image.name);
        let channel = &mut self.channels[id as usize];
        *channel = Channel {
            history: History::new(image.complete_since, image.cause, base_weight(&channel.name)),
            subscription: if image.open { Subscription::Confirmed } else { channel.subscription },
            // Whoever had asked for it before, the sources are asked anew for all that is open.
            wanted: self.on_demand && image.open,
            idle_since: Some(now),
            ..Channel::new(
                channel.name.clone(),
                History::new(Position(0), Cause::Began, base_weight(&channel.name)),
                channel.subscription,
            )
        };
        for hole in image.holes {
            self.bytes -= self.channels[id as usize].history.add_hole(hole);
        }
        for (event, arrived) in image.events {
            self.keep(id, &event, arrived.min(now));
        }
        // Its clients come after it; a channel without any is forgotten by a sweep.
        self.idle += 1;
        id
    }

    /// Since when channels are complete that are not here, and what last raised that.
    #[must_use]
    pub fn floor(&self) -> (Position, Cause) {
        self.floor
    }

    /// Sets what [`Hub::floor`] gives.
    pub fn set_floor(&mut self, since: Position, cause: Cause) {
        self.floor = (since, cause);
    }

    /// The channels of a group.
    pub fn channels_of(&self, group: GroupId) -> impl Iterator<Item = ChannelId> {
        self.groups.channels(group)
    }
}
