//! Which clients read which channels, and which requests hold them. It delivers nothing.
//!
//! Invariant: channels without clients and holds, and no others, have `Channel::idle_since`. `Hub::idle` is the number of those that
//! sources were asked for: nothing is unsubscribed for the others, which a rule may keep in great numbers.

use super::{ChannelId, ClientIndex, GroupId, Hub, Kind};
use crate::{clock::Uptime, name::ChannelName};

impl Hub {
    /// Finds or makes the channel, and holds it for a request: it is not removed before [`Hub::release`].
    pub fn hold(&mut self, name: &ChannelName) -> ChannelId {
        let id = self.names.get(name).copied().unwrap_or_else(|| self.open(name.clone()));
        let channel = &mut self.channels[id as usize];
        channel.holds += 1;
        self.set_in_use(id);
        id
    }

    /// Ends a hold.
    pub fn release(&mut self, id: ChannelId, now: Uptime) {
        let channel = &mut self.channels[id as usize];
        channel.holds -= 1;
        self.set_idle_if_unused(id, now);
    }

    /// Adds a client to the group of `channels` (in any order, without repeats) and `kind`. Returns the group and the client's
    /// place in it.
    pub fn join(&mut self, mut channels: Vec<ChannelId>, kind: Kind, client: ClientIndex) -> (GroupId, u32) {
        channels.sort_unstable();
        for &id in &channels {
            let channel = &mut self.channels[id as usize];
            channel.subscribers += 1;
            self.set_in_use(id);
        }
        self.groups.join(&channels, kind, client, &mut self.channels)
    }

    /// Removes the client at `place` from its group. Returns the client that was moved to `place`, if one was.
    pub fn leave(&mut self, group: GroupId, place: u32, now: Uptime) -> Option<ClientIndex> {
        let channels: Vec<ChannelId> = self.groups.channels(group).collect();
        let moved = self.groups.leave(group, place, &mut self.channels);
        for id in channels {
            self.channels[id as usize].subscribers -= 1;
            self.set_idle_if_unused(id, now);
        }
        moved
    }

    fn set_in_use(&mut self, id: ChannelId) {
        let channel = &mut self.channels[id as usize];
        self.idle -= usize::from(channel.idle_since.take().is_some() && channel.on_demand);
    }

    fn set_idle_if_unused(&mut self, id: ChannelId, now: Uptime) {
        let channel = &mut self.channels[id as usize];
        if !channel.is_in_use() {
            self.idle += usize::from(channel.idle_since.replace(now).is_none() && channel.on_demand);
            self.remove_if_unused(id);
        }
    }

    /// Counts a client of `group` that is behind (`true`), or that is no longer behind (`false`).
    pub fn set_behind(&mut self, group: GroupId, behind: bool) {
        for id in self.groups.channels(group) {
            let count = &mut self.channels[id as usize].behind;
            *count = if behind { *count + 1 } else { *count - 1 };
        }
    }

    /// Whether a group's clients are streams or polls, and of which form.
    #[must_use]
    pub fn kind(&self, group: GroupId) -> Kind {
        self.groups.kind(group)
    }

    /// The clients of a group.
    #[must_use]
    pub fn clients(&self, group: GroupId) -> &[ClientIndex] {
        self.groups.clients(group)
    }

    /// The clients that read the channel, in all groups.
    #[must_use]
    pub fn clients_of(&self, id: ChannelId) -> Vec<ClientIndex> {
        let groups = self.channels[id as usize].groups.iter();
        groups.flat_map(|&group| self.groups.clients(group)).copied().collect()
    }

    /// Each channel that has clients, and how many it has.
    pub fn subscribers(&self) -> impl Iterator<Item = (&ChannelName, u32)> {
        self.channels
            .iter()
            .filter(|(_, channel)| channel.subscribers > 0)
            .map(|(_, channel)| (&channel.name, channel.subscribers))
    }
}
