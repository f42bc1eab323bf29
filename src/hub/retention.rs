//! What the hub drops, and when: the bounds of the histories, and channels that nobody listens to.
//!
//! Invariant: after [`Hub::trim`] the histories of all channels hold at most `history.bytes`, whatever clients do.

use std::{collections::HashSet, time::Duration};

use super::{ChannelId, Hub, Subscription, history::History};
use crate::{clock::Uptime, config, event::Event, index, name::ChannelName};

/// Fewest channels that one sweep looks at.
const SWEEP_AT_LEAST: usize = 1024;
/// With more channels that nobody listens to, `history.linger` is not waited for.
const MOST_IDLE: usize = 10_000;
/// A whole round of sweeps takes this many calls, with many channels.
const SWEEPS_A_ROUND: usize = 30;

impl Hub {
    /// Drops what the bounds don't allow of the channels published to since the last call. Called once the batches are
    /// sent, so that it is known who is behind, and what forms of the events were made.
    pub fn trim(&mut self, now: Uptime) {
        let bounds = Bounds::at(now, &self.limits);
        // Where memory is short, nobody's slowness costs others their history.
        let stretch = self.bytes <= self.limits.bytes;
        while let Some(id) = self.touched.pop() {
            let Some(channel) = self.channels.get_mut(id as usize) else { continue };
            self.bytes += channel.history.weigh_new();
            let stretches = stretch && channel.behind > 0;
            self.bytes -= bounds.enforce(&mut channel.history, stretches);
        }
        while self.bytes > self.limits.bytes && self.evict_one() {}
    }

    /// Looks at some channels: drops events past their age and channels of no more use. Called every second.
    /// Gives back the channels that the shard no longer wants: nobody has listened for `history.linger`.
    pub fn sweep(&mut self, now: Uptime) -> Vec<ChannelName> {
        let bounds = Bounds::at(now, &self.limits);
        // Whoever asks for channels by the thousand, to leave at once, does not keep them subscribed.
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
            self.bytes -= bounds.enforce(&mut channel.history, stretches);
            if channel.history.is_empty() && channel.queued_at.take().is_some() {
                emptied.insert(index::to_u32(at));
            }
            let idle = channel.idle_since.is_some_and(|since| since <= idle_from);
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
            self.forget_if_unused(id);
        }
        unwanted
    }

    /// Counts the forms of a kept event that were made for a client's replay.
    pub fn weigh(&mut self, event: &Event) {
        if let Some(&id) = self.names.get(event.channel()) {
            self.bytes += self.channels[id as usize].history.weigh(event.position());
        }
    }

    /// Drops the oldest event of the channel that was published to least recently; false if nothing is kept.
    fn evict_one(&mut self) -> bool {
        while let Some(id) = self.eviction.pop_front() {
            let Some(channel) = self.channels.get_mut(id as usize) else { continue };
            let Some(newest) = channel.history.newest() else {
                channel.queued_at = None;
                self.forget_if_unused(id);
                continue;
            };
            if channel.queued_at != Some(newest) {
                // Published to since it was queued: others give way first.
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

    /// Removes the channel if it holds nothing and nobody listens or has asked.
    pub(super) fn forget_if_unused(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get(id as usize) else { return };
        let fed = self.on_demand && channel.subscription == Subscription::Confirmed;
        if channel.is_in_use() || channel.wanted || fed || !channel.history.is_empty() || channel.queued_at.is_some() {
            return;
        }
        let channel = self.channels.remove(id as usize);
        self.names.remove(&channel.name);
        self.idle -= usize::from(channel.idle_since.is_some());
        // What the channel could not vouch for, nobody can for a channel that is not here.
        if channel.history.complete_since() > self.floor.0 {
            self.floor = (channel.history.complete_since(), channel.history.cause());
        }
    }
}

/// What one history may keep at some time.
struct Bounds {
    messages: usize,
    kept_from: Uptime,
    stretched_from: Uptime,
}

impl Bounds {
    fn at(now: Uptime, limits: &config::History) -> Self {
        Self {
            messages: limits.messages,
            kept_from: now.before(limits.age),
            stretched_from: now.before(limits.stretch),
        }
    }

    /// Drops what is too old, or too much; where the history `stretches`, too much only if it is past the stretch. Gives
    /// back the bytes that are free now.
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
