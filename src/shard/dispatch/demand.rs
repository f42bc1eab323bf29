//! What the shards want of the sources, and what the sources say of it.

use std::sync::Arc;

use super::{Bits, Demand, Dispatcher, Op, State, Ticket, Wanted, now_micros};
use crate::event::ChannelName;

impl Dispatcher {
    /// Shard `shard` wants the channel. True if its events arrive already; else [`Op::Open`] follows.
    pub fn want(&self, shard: usize, name: &ChannelName) -> bool {
        let mut state = self.lock();
        if let Some(wanted) = state.wanted.get_mut(name) {
            wanted.shards |= 1 << shard;
            return wanted.open;
        }
        let awaiting = self.all_sources();
        let open = awaiting & !state.away == 0;
        self.demand(&mut state, name, Wanted { shards: 1 << shard, awaiting, open, ticket: Ticket(0) });
        if open {
            self.to_all(|| Op::Open(name.clone(), None));
        }
        false
    }

    /// Asks the sources for a channel.
    pub(super) fn demand(&self, state: &mut State, name: &ChannelName, wanted: Wanted) {
        state.tickets += 1;
        let ticket = Ticket(state.tickets);
        state.wanted.insert(name.clone(), Wanted { ticket, ..wanted });
        for source in &self.sources {
            // A source that has ended has told why; its channels stay unconfirmed.
            let _ = source.send(Demand::Subscribe(name.clone(), ticket));
        }
    }

    /// Shard `shard` no longer wants the channel.
    pub fn unwant(&self, shard: usize, name: &ChannelName) {
        let mut state = self.lock();
        let Some(wanted) = state.wanted.get_mut(name) else { return };
        wanted.shards &= !(1 << shard);
        if wanted.shards == 0 {
            state.wanted.remove(name);
            self.to_all(|| Op::Unasked(name.clone()));
            for source in &self.sources {
                let _ = source.send(Demand::Unsubscribe(name.clone()));
            }
        }
    }

    /// Source `source` delivers the channel from now on, as the demand with `ticket` has asked.
    pub fn confirm(&self, source: usize, name: &ChannelName, ticket: Ticket) {
        let mut state = self.lock();
        let State { sequencer, wanted, begun, marker, .. } = &mut *state;
        let Some(wanted) = wanted.get_mut(name).filter(|wanted| wanted.ticket == ticket) else { return };
        let was_awaited = wanted.awaiting & (1 << source) != 0;
        wanted.awaiting &= !(1 << source);
        if !was_awaited || wanted.awaiting != 0 || !*begun || marker.as_ref() == Some(name) {
            return;
        }
        let since = sequencer.next(now_micros());
        if wanted.open {
            // It was opened while the source was away: its clients have to be told.
            let names: Arc<[ChannelName]> = [name.clone()].into();
            self.to_all(|| Op::Restored(Arc::clone(&names), since));
        } else {
            wanted.open = true;
            self.to_all(|| Op::Open(name.clone(), Some(since)));
        }
    }

    /// Source `source` is away: joins don't wait for it.
    pub fn lost(&self, source: usize) {
        let mut state = self.lock();
        state.away |= 1 << source;
        state.heard |= 1 << source;
        state.broken |= !state.begun;
        let State { wanted, away, begun, .. } = &mut *state;
        for (name, wanted) in wanted {
            wanted.awaiting |= 1 << source;
            if *begun && !wanted.open && wanted.awaiting & !*away == 0 {
                wanted.open = true;
                self.to_all(|| Op::Open(name.clone(), None));
            }
        }
    }

    /// Source `source` is back, and delivers the channels of these demands from now on.
    pub fn restored<'a>(&self, source: usize, demands: impl Iterator<Item = (&'a ChannelName, Ticket)>) {
        let mut state = self.lock();
        let State { sequencer, wanted: all, away, heard, begun, marker, .. } = &mut *state;
        *away &= !(1 << source);
        *heard |= 1 << source;
        let since = sequencer.next(now_micros());
        let mut complete = Vec::new();
        for (name, ticket) in demands {
            let Some(wanted) = all.get_mut(name).filter(|wanted| wanted.ticket == ticket) else { continue };
            wanted.awaiting &= !(1 << source);
            if wanted.awaiting != 0 || !*begun || marker.as_ref() == Some(name) {
                continue;
            }
            if wanted.open {
                complete.push(name.clone());
            } else {
                wanted.open = true;
                self.to_all(|| Op::Open(name.clone(), Some(since)));
            }
        }
        if !complete.is_empty() {
            let complete: Arc<[ChannelName]> = complete.into();
            self.to_all(|| Op::Restored(Arc::clone(&complete), since));
        }
    }

    /// Sources that are away, by their number.
    #[must_use]
    pub fn away(&self) -> Vec<usize> {
        let away = self.lock().away;
        (0..self.sources.len()).filter(|source| away & (1 << source) != 0).collect()
    }

    /// Whether every source has said that it is there, or away.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.lock().heard == self.all_sources()
    }

    pub(super) fn all_sources(&self) -> Bits {
        (0..self.sources.len()).fold(0, |bits, source| bits | (1 << source))
    }
}
