//! What the shards want of the sources, and what the sources say of it.

use std::sync::Arc;

use super::{
    dispatcher::{Bits, Dispatcher, Generation, Interest, State, Wanted},
    outlet::Delivery,
};
use crate::{clock::unix_micros, cursor::Position, event::Message, hub::Hole, name::ChannelName};

impl Dispatcher {
    /// Shard `shard` wants the channel. True if its events arrive already; else [`Delivery::Confirmed`] follows.
    pub fn subscribe(&self, shard: usize, name: &ChannelName) -> bool {
        let mut state = self.lock();
        if let Some(wanted) = state.wanted.get_mut(name) {
            wanted.shards |= 1 << shard;
            return wanted.open;
        }
        let awaiting = self.all_sources();
        let open = awaiting & !state.away == 0;
        let incomplete_after = open.then(|| state.sequencer.last());
        self.demand(
            &mut state,
            name,
            Wanted {
                shards: 1 << shard,
                awaiting,
                open,
                generation: Generation(0),
                incomplete_after,
                early: Vec::new(),
            },
        );
        if open {
            self.to_all(|| Delivery::Confirmed(name.clone(), None));
        }
        false
    }

    /// Asks the sources for a channel.
    pub(super) fn demand(&self, state: &mut State, name: &ChannelName, wanted: Wanted) {
        state.generations += 1;
        let generation = Generation(state.generations);
        state.wanted.insert(name.clone(), Wanted { generation, ..wanted });
        for source in &self.sources {
            // A source that has ended has told why; its channels stay unconfirmed.
            let _ = source.send(Interest::Subscribe(name.clone(), generation));
        }
    }

    /// Shard `shard` no longer wants the channel.
    pub fn release(&self, shard: usize, name: &ChannelName) {
        let mut state = self.lock();
        let Some(wanted) = state.wanted.get_mut(name) else { return };
        wanted.shards &= !(1 << shard);
        if wanted.shards == 0 {
            self.forget(&mut state, name);
            self.to_all(|| Delivery::Unsubscribed(name.clone()));
        }
    }

    /// Lets a channel go at the sources.
    pub(super) fn forget(&self, state: &mut State, name: &ChannelName) {
        if let Some(wanted) = state.wanted.remove(name) {
            state.early_bytes -= wanted.early.iter().map(|message| message.data.len()).sum::<usize>();
        }
        for source in &self.sources {
            // A source that has ended has nothing to unsubscribe from.
            let _ = source.send(Interest::Unsubscribe(name.clone()));
        }
    }

    /// A source may not deliver the channel: whoever waits for it is told so.
    pub fn refuse(&self, name: &ChannelName, generation: Generation) {
        let mut state = self.lock();
        if state.marker.as_ref() == Some(name) {
            // Nobody waits for it but whoever hands over, who does without.
            self.drop_marker(&mut state);
        } else if state.wanted.get(name).is_some_and(|wanted| wanted.generation == generation) {
            self.forget(&mut state, name);
            self.to_all(|| Delivery::Refused(name.clone()));
        }
    }

    /// Source `source` has been there at `at` (microseconds since 1970): what was published there before has arrived.
    pub fn watermark(&self, source: usize, at: u64) {
        self.lock().watermarks[source] = at;
    }

    /// Source `source` delivers the channel from now on, as the demand with `generation` has asked.
    pub fn confirm(&self, source: usize, name: &ChannelName, generation: Generation) {
        let mut state = self.lock();
        self.confirm_all(&mut state, source, [(name, generation)].into_iter());
    }

    /// Source `source` is away: joins don't wait for it.
    pub fn disconnected(&self, source: usize) {
        let mut state = self.lock();
        state.away |= 1 << source;
        state.heard |= 1 << source;
        state.broken |= !state.begun;
        let last = state.sequencer.last();
        let State { wanted, away, begun, .. } = &mut *state;
        for (name, wanted) in wanted {
            wanted.awaiting |= 1 << source;
            wanted.incomplete_after.get_or_insert(last);
            if *begun && !wanted.open && wanted.awaiting & !*away == 0 {
                wanted.open = true;
                self.to_all(|| Delivery::Confirmed(name.clone(), None));
            }
        }
    }

    /// Source `source` is back, and delivers the channels of these demands from now on.
    pub fn reconnected<'a>(&self, source: usize, demands: impl Iterator<Item = (&'a ChannelName, Generation)>) {
        let mut state = self.lock();
        state.away &= !(1 << source);
        state.heard |= 1 << source;
        self.confirm_all(&mut state, source, demands);
    }

    /// Opens the channels that no other source has yet to confirm, or tells those who listen already that they may have
    /// missed something; and then passes on what came early.
    fn confirm_all<'a>(
        &self,
        state: &mut State,
        source: usize,
        demands: impl Iterator<Item = (&'a ChannelName, Generation)>,
    ) {
        let State { sequencer, wanted: all, begun, marker, early_bytes, .. } = state;
        let last = sequencer.last();
        let since = sequencer.next(unix_micros());
        let mut hole = Hole { begin: last, end: since };
        let mut restored = Vec::new();
        let mut early = Vec::new();
        for (name, generation) in demands {
            let Some(wanted) = all.get_mut(name).filter(|wanted| wanted.generation == generation) else { continue };
            if wanted.awaiting & (1 << source) == 0 {
                continue;
            }
            wanted.awaiting &= !(1 << source);
            if wanted.awaiting == 0 && *begun && marker.as_ref() != Some(name) {
                let incomplete_after = wanted.incomplete_after.take();
                if wanted.open {
                    // The channels share one gap event, so the earliest begin is that of all.
                    hole.begin = hole.begin.min(incomplete_after.unwrap_or(Position(0)));
                    restored.push(name.clone());
                } else {
                    wanted.open = true;
                    self.to_all(|| Delivery::Confirmed(name.clone(), Some(since)));
                }
            }
            early.append(&mut wanted.early);
        }
        *early_bytes -= early.iter().map(|message: &Message| message.data.len()).sum::<usize>();
        if !restored.is_empty() {
            let restored: Arc<[ChannelName]> = restored.into();
            self.to_all(|| Delivery::Reconnected(Arc::clone(&restored), hole));
        }
        for message in early {
            self.route(state, message);
        }
    }

    /// Sources that are away, or have not been there yet, by their number.
    #[must_use]
    pub fn disconnected_sources(&self) -> Vec<usize> {
        let away = {
            let state = self.lock();
            state.away | !state.heard
        };
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
