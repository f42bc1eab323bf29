//! Patterns that clients read. A pattern is a channel of the hub: it has a history, groups and a subscription of its own, and gets
//! every event whose channel it matches while it is confirmed. It does not decide who may read by a pattern.
//!
//! Invariants:
//! - `Hub::patterns` has each channel of the hub that is a pattern, and no other.
//! - A group that reads an event's channel and patterns that match it, gets the event once.
//!
//! An event is one object in all histories that keep it. Each history counts its bytes, so `history.bytes` is reached earlier
//! than memory says, never later.

use std::sync::Arc;

use super::{ChannelId, GroupId, Hole, Hub, Journaled, Subscription, history::History};
use crate::{clock::Uptime, cursor::Position, event::Event, index, name::ChannelName, pattern};

impl Hub {
    /// [`Hub::publish`] where clients read by patterns. `id`: the event's channel, if it is in the hub. Returns the number of
    /// clients that the event goes to.
    pub(super) fn publish_to_patterns(&mut self, id: Option<ChannelId>, event: &Arc<Event>, now: Uptime) -> u32 {
        let mut readers = std::mem::take(&mut self.readers);
        // What is not confirmed is complete only later, and has no clients.
        let is_confirmed = |id: &ChannelId| self.channels[*id as usize].subscription == Subscription::Confirmed;
        readers.extend(self.patterns.matching(event.channel()).map(|(_, &pattern)| pattern).filter(is_confirmed));
        for &pattern in &readers {
            self.keep(pattern, event, now);
        }
        readers.extend(id);
        let channels = &self.channels;
        let groups = readers.iter().flat_map(|&id| &channels[id as usize].groups);
        let clients = self.groups.batch_once(groups, event);
        readers.clear();
        self.readers = readers;
        clients
    }

    /// Keeps an event for the clients that resume by patterns. Connected clients don't get it.
    pub(super) fn keep_in_patterns(&mut self, event: &Arc<Event>, now: Uptime) {
        let patterns: Vec<ChannelId> = self.patterns.matching(event.channel()).map(|(_, &pattern)| pattern).collect();
        for pattern in patterns {
            if self.channels[pattern as usize].subscription == Subscription::Confirmed {
                self.keep(pattern, event, now);
            }
        }
    }

    /// Number of clients that get what is published on the channel.
    #[must_use]
    pub fn subscribers_of(&self, name: &ChannelName) -> u32 {
        let own = self.id(name);
        if self.patterns.is_empty() {
            return own.map_or(0, |id| self.channels[id as usize].subscribers);
        }
        let readers = own.into_iter().chain(self.patterns.matching(name).map(|(_, &id)| id));
        let mut groups: Vec<GroupId> = readers.flat_map(|id| &self.channels[id as usize].groups).copied().collect();
        groups.sort_unstable();
        groups.dedup();
        groups.iter().map(|&group| index::to_u32(self.clients(group).len())).sum()
    }

    /// Adds a hole of a channel to the histories of the patterns that match it and that no source is asked for: such a pattern gets
    /// no gap of its own. Adds their groups to `groups`.
    pub(super) fn add_hole_to_patterns(&mut self, name: &ChannelName, hole: Hole, groups: &mut Vec<GroupId>) {
        let matching: Vec<ChannelId> = self.patterns.matching(name).map(|(_, &id)| id).collect();
        for id in matching {
            let channel = &self.channels[id as usize];
            if !channel.on_demand && channel.history.holes().last() != Some(&hole) {
                self.add_hole(id, hole, groups);
            }
        }
    }

    /// Counts the bytes of an event's forms in the histories of the patterns that keep it.
    pub(super) fn weigh_in_patterns(&mut self, event: &Event) {
        for (_, &id) in self.patterns.matching(event.channel()) {
            self.bytes += self.channels[id as usize].history.weigh(event.position());
        }
    }

    /// Fills the history of a new pattern from those of the channels that it matches. No source is asked for it, so these histories
    /// have all that was kept.
    pub(super) fn collect_history(&mut self, id: ChannelId) {
        let pattern = self.channels[id as usize].name.clone();
        let limit = self.rules.get(self.channels[id as usize].rule).pattern_messages;
        let matching = self.channels.iter().map(|(_, channel)| channel).filter(|channel| {
            let name = &channel.name;
            !channel.is_pattern && !name.is_reserved() && pattern::matches(pattern.as_str(), name.as_str())
        });
        let histories: Vec<&History> = matching.map(|channel| &channel.history).collect();
        let own = &self.channels[id as usize].history;
        // It is complete where all of them are.
        let complete = histories.iter().map(|history| (history.complete_since(), history.cause())).max();
        let complete = complete.into_iter().fold((own.complete_since(), own.cause()), Ord::max);
        let mut newest = Newest { events: Vec::new(), after: complete.0, limit };
        for history in &histories {
            newest.extend(history);
        }
        let (events, after) = newest.finish();
        let mut holes: Vec<Hole> = histories.iter().flat_map(|history| history.holes()).copied().collect();
        holes.sort_unstable_by_key(|hole| (hole.end, hole.begin));
        holes.dedup();
        let known: Vec<Journaled> = histories.iter().filter_map(|history| history.journaled().copied()).collect();
        let in_journals = histories.iter().filter(|history| history.journaled().is_some());
        let left_out = in_journals.flat_map(|history| history.events()).map(|(event, _)| Arc::clone(event));
        let left_out: Vec<Arc<Event>> = left_out.filter(|event| event.position() <= after).collect();
        let history = &mut self.channels[id as usize].history;
        history.lack(complete, after, &known, &left_out);
        for hole in holes {
            self.bytes -= self.channels[id as usize].history.add_hole(hole);
        }
        for (event, arrived) in events {
            self.keep(id, &event, arrived);
        }
    }
}

/// Collects the newest events of many histories. It never has many more than it keeps.
struct Newest {
    /// Events after `after`, in no order.
    events: Vec<(Arc<Event>, Uptime)>,
    /// Events up to this position are not kept.
    after: Position,
    /// Most events kept.
    limit: usize,
}

impl Newest {
    fn extend(&mut self, history: &History) {
        let skipped = history.index_after(self.after);
        self.events.extend(history.events().skip(skipped).map(|(event, arrived)| (Arc::clone(event), arrived)));
        if self.events.len() > self.limit.saturating_mul(2) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(last) = self.events.len().checked_sub(self.limit + 1) else { return };
        let (_, (event, _), _) = self.events.select_nth_unstable_by_key(last, |(event, _)| event.position());
        self.after = event.position();
        self.events.drain(..=last);
    }

    /// The events in order, and the position after which they are complete.
    fn finish(mut self) -> (Vec<(Arc<Event>, Uptime)>, Position) {
        self.drop_oldest();
        self.events.sort_unstable_by_key(|(event, _)| event.position());
        (self.events, self.after)
    }
}
