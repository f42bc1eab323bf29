//! Drops events that exceed the limits of the histories, and channels that nothing needs. It adds nothing.
//!
//! Invariant: after [`Hub::trim`] all histories together take at most `history.bytes`, whatever clients do.

use std::{collections::HashSet, time::Duration};

use super::{Cause, Channel, ChannelId, Hub, Subscription, history::History};
use crate::{
    clock::Uptime,
    config::{self, ChannelRules},
    event::Event,
    index,
    name::ChannelName,
};

/// One sweep looks at this many channels at least.
const SWEEP_AT_LEAST: usize = 1024;
/// If more channels on demand than this have no client, they are unsubscribed without waiting for `history.linger`.
const MOST_IDLE: usize = 10_000;
/// If there are many channels, each one is looked at once in this many sweeps.
const SWEEPS_A_ROUND: usize = 30;

impl Hub {
    /// Enforces the limits on the channels that were published to since the last call. Called after the batches were sent: then
    /// it is known which clients are behind, and which forms of the events were made.
    pub fn trim(&mut self, now: Uptime) {
        // If memory is short, no history is kept longer for slow clients: other channels would lose theirs.
        let stretch = self.bytes <= self.limits.bytes;
        while let Some(id) = self.touched.pop() {
            let Some(channel) = self.channels.get_mut(id as usize) else { continue };
            self.bytes += channel.history.weigh_new();
            let stretches = stretch && channel.behind > 0;
            let bounds = Bounds::of(channel, now, &self.rules, &self.limits);
            self.bytes -= bounds.enforce(&mut channel.history, stretches);
        }
        while self.bytes > self.limits.bytes && self.evict_one() {}
    }

    /// Looks at some channels: drops events that are too old, and removes channels that nothing needs. Called every second.
    /// Returns the channels to unsubscribe from: they have had no client for `history.linger`.
    pub fn sweep(&mut self, now: Uptime) -> Vec<ChannelName> {
        // A client that subscribes to thousands of channels and leaves must not keep them subscribed.
        let linger = if self.idle > MOST_IDLE { Duration::ZERO } else { self.limits.linger };
        let idle_from = now.before(linger);
        let mut emptied = HashSet::new();
        let slots = self.channels.capacity();
        let mut unwanted = Vec::new();
        let mut looked_at = Vec::new();
        for _ in 0..slots.min(SWEEP_AT_LEAST.max(slots / SWEEPS_A_ROUND)) {
            let at = self.sweep_at;
            self.sweep_at = if at + 1 >= slots { 0 } else { at + 1 };
            let Some(channel) = self.channels.get_mut(at) else { continue };
            let stretches = channel.behind > 0;
            let bounds = Bounds::of(channel, now, &self.rules, &self.limits);
            self.bytes -= bounds.enforce(&mut channel.history, stretches);
            let idle = channel.idle_since.is_some_and(|since| since <= idle_from);
            if idle && channel.is_pattern && !channel.on_demand {
                // It can be collected again from the histories of its channels.
                while !channel.history.is_empty() {
                    self.bytes -= channel.history.drop_oldest();
                }
            }
            if channel.history.is_empty() && channel.queued_at.take().is_some() {
                emptied.insert(index::to_u32(at));
            }
            if idle && channel.wanted {
                channel.wanted = false;
                unwanted.push(channel.name.clone());
            }
            looked_at.push(index::to_u32(at));
        }
        if !emptied.is_empty() {
            self.eviction.retain(|id| !emptied.contains(id));
        }
        for id in looked_at {
            self.remove_if_unused(id);
        }
        unwanted
    }

    /// Counts the bytes of an event's forms that were made for a client that catches up, if the event is kept.
    pub fn weigh(&mut self, event: &Event) {
        if let Some(&id) = self.names.get(event.channel()) {
            self.bytes += self.channels[id as usize].history.weigh(event.position());
        }
        self.weigh_in_patterns(event);
    }

    /// Drops the oldest event of the channel that was published to least recently. False if no event is kept.
    fn evict_one(&mut self) -> bool {
        while let Some(id) = self.eviction.pop_front() {
            let Some(channel) = self.channels.get_mut(id as usize) else { continue };
            let Some(newest) = channel.history.newest() else {
                channel.queued_at = None;
                self.remove_if_unused(id);
                continue;
            };
            if channel.queued_at != Some(newest) {
                // It was published to since it was put into the queue: other channels lose events first.
                channel.queued_at = Some(newest);
                self.eviction.push_back(id);
                continue;
            }
            self.bytes -= channel.history.drop_oldest();
            self.eviction.push_front(id);
            return true;
        }
        false
    }

    /// Removes the channel if it has no events, no client, no hold and no subscription.
    pub(super) fn remove_if_unused(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get(id as usize) else { return };
        let subscribed = channel.on_demand && channel.subscription == Subscription::Confirmed;
        if channel.is_in_use()
            || channel.wanted
            || subscribed
            || !channel.history.is_empty()
            || channel.queued_at.is_some()
        {
            return;
        }
        let channel = self.channels.remove(id as usize);
        self.names.remove(&channel.name);
        self.idle -= usize::from(channel.idle_since.is_some() && channel.on_demand);
        if let Some(journaled) = channel.history.journaled().filter(|_| !channel.is_pattern) {
            self.journals.forget(journaled);
        }
        if channel.is_pattern {
            self.patterns.remove(&channel.name);
        }
        // If the channel is made again, it is not complete before this either. A channel on demand is complete since it is
        // confirmed again, and the history of another pattern is collected again.
        if !channel.on_demand && !channel.is_pattern {
            let complete = (channel.history.complete_since(), channel.history.cause());
            let hole = channel.history.holes().last().map(|hole| (hole.end, Cause::Began));
            self.floor = hole.into_iter().fold(self.floor.max(complete), Ord::max);
        }
    }
}

/// The limits of one history at one time.
struct Bounds {
    /// Most events, unless the history stretches (`messages` of the rule).
    messages: usize,
    /// Events that arrived earlier are dropped (`age` of the rule).
    kept_from: Uptime,
    /// Events that arrived earlier don't count as needed by clients that are behind (`history.stretch`).
    stretched_from: Uptime,
}

impl Bounds {
    fn of(channel: &Channel, now: Uptime, rules: &ChannelRules, limits: &config::History) -> Self {
        let rule = rules.get(channel.rule);
        Self {
            messages: if channel.is_pattern { rule.pattern_messages } else { rule.messages },
            kept_from: now.before(rule.age),
            stretched_from: now.before(limits.stretch),
        }
    }

    /// Drops events that are too old, and events that are too many. `stretches`: clients are behind, so too many events are
    /// kept until they are older than `history.stretch`. Returns the freed bytes.
    fn enforce(&self, history: &mut History, stretches: bool) -> usize {
        let mut freed = 0;
        while let Some(oldest) = history.oldest_arrived() {
            let too_many = history.len() > self.messages && (!stretches || oldest < self.stretched_from);
            if !too_many && oldest >= self.kept_from {
                break;
            }
            freed += history.drop_oldest();
        }
        freed
    }
}
