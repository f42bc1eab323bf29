//! How one process's dispatcher succeeds another's, so that each message of a source is passed on by exactly one of them.
//!
//! Both subscribe to a marker channel; a message on it divides the sources' messages: the predecessor passes on what comes
//! before it, the successor what comes after it. From the marker on the predecessor keeps messages (it may have to go on
//! after all), and until the marker the successor drops them.

use std::{collections::HashSet, mem, sync::Arc};

use super::{
    dispatcher::{Dispatcher, Generation, Mode, State, Wanted},
    outlet::Delivery,
};
use crate::{
    clock::unix_micros,
    event::Message,
    hub::{Hole, Sequencer},
    name::ChannelName,
};

impl Dispatcher {
    /// Resolves when publishes are passed on.
    pub async fn forwarding(&self) {
        loop {
            let mode_changed = self.mode_changed.notified();
            if matches!(self.lock().mode, Mode::Forwarding) {
                return;
            }
            mode_changed.await;
        }
    }

    /// Subscribes to the marker, on this process's way to be succeeded.
    pub fn set_marker(&self, name: &ChannelName) {
        let mut state = self.lock();
        state.marker = Some(name.clone());
        self.demand_open(&mut state, name, 0);
    }

    /// Whether every source has said whether it delivers the marker's channel.
    #[must_use]
    pub fn marker_is_answered(&self) -> bool {
        let state = self.lock();
        let wanted = state.marker.as_ref().and_then(|marker| state.wanted.get(marker));
        wanted.is_none_or(|wanted| wanted.awaiting == 0)
    }

    /// Whether there is a marker that no source has refused.
    #[must_use]
    pub fn has_marker(&self) -> bool {
        self.lock().marker.is_some()
    }

    /// Whether messages are kept: the marker has come.
    #[must_use]
    pub fn is_buffering(&self) -> bool {
        matches!(self.lock().mode, Mode::Buffering(_))
    }

    /// Whether a source was lost since [`Dispatcher::note_subscribed`], and with it perhaps the marker.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.lock().broken
    }

    /// Whether all that is wanted, the marker included, is confirmed by every source.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        let state = self.lock();
        state.heard == self.all_sources() && state.wanted.values().all(|wanted| wanted.awaiting == 0)
    }

    /// All that is wanted was confirmed: only what is lost from now on has to be told.
    pub fn note_subscribed(&self) {
        self.lock().broken = false;
    }

    /// Keeps messages from now on: where there is no marker to wait for.
    pub fn buffer(&self) {
        let mut state = self.lock();
        if !matches!(state.mode, Mode::Buffering(_)) {
            self.set_mode(&mut state, Mode::Buffering(Vec::new()));
        }
    }

    /// Resolves when messages are kept: the marker has come.
    pub async fn buffering(&self) {
        loop {
            let mode_changed = self.mode_changed.notified();
            if self.is_buffering() {
                return;
            }
            mode_changed.await;
        }
    }

    /// Goes on as if nothing had been: passes on what was kept.
    pub fn resume(&self) {
        let mut state = self.lock();
        self.drop_marker(&mut state);
        self.start_forwarding(&mut state);
    }

    /// Channels that the sources were asked for.
    #[must_use]
    pub fn wanted_channels(&self) -> Vec<ChannelName> {
        let state = self.lock();
        state.wanted.keys().filter(|name| state.marker.as_ref() != Some(name)).cloned().collect()
    }

    /// Prepares to succeed another process: subscribes to `names`, which its shards have, and to the marker, and drops messages
    /// until that comes. May be called again with more names.
    pub fn prepare(&self, names: &[ChannelName], marker: Option<&ChannelName>) {
        let mut state = self.lock();
        if state.begun {
            state.begun = false;
            state.mode = Mode::Discarding;
        }
        if let Some(marker) = marker.filter(|_| state.marker.is_none()) {
            state.marker = Some(marker.clone());
            self.demand_open(&mut state, marker, 0);
        }
        for name in names {
            if !state.wanted.contains_key(name) {
                self.demand_open(&mut state, name, self.all_shards());
            }
        }
    }

    /// Succeeds the other process: goes on from its last position, passes on what was kept. `open` are the channels that its
    /// shards have. If not `exact`, clients are told that they may have missed something. Gives back whether it was exact.
    pub fn begin(&self, sequencer: Sequencer, open: &[ChannelName], exact: bool) -> bool {
        let mut state = self.lock();
        state.sequencer = sequencer;
        let mut inexact = Vec::new();
        // What was let go meanwhile, no shard has; whoever needs it asks anew.
        let kept: HashSet<&ChannelName> = open.iter().collect();
        let let_go: Vec<ChannelName> = state.wanted.keys().filter(|name| !kept.contains(name)).cloned().collect();
        for name in let_go {
            self.forget(&mut state, &name);
        }
        for name in open {
            match state.wanted.get(name) {
                // It was wanted so late that nobody has asked for it here; its confirmation tells the gap.
                None if !self.sources.is_empty() => self.demand_open(&mut state, name, self.all_shards()),
                // Where a source is away, the gap is told when it is back.
                Some(wanted) if wanted.awaiting != 0 => {}
                _ if !exact || state.broken => inexact.push(name.clone()),
                _ => {}
            }
        }
        let told = inexact.is_empty();
        state.marker = None;
        state.begun = true;
        if !inexact.is_empty() {
            let begin = state.sequencer.last();
            let hole = Hole { begin, end: state.sequencer.next(unix_micros()) };
            let names: Arc<[ChannelName]> = inexact.into();
            self.to_all(|| Delivery::Reconnected(Arc::clone(&names), hole));
        }
        self.start_forwarding(&mut state);
        told
    }

    pub(super) fn route_during_cutover(&self, state: &mut State, message: Message) {
        if state.marker.as_ref() == Some(&message.channel) {
            if !matches!(state.mode, Mode::Buffering(_)) {
                self.set_mode(state, Mode::Buffering(Vec::new()));
            }
            return;
        }
        match &mut state.mode {
            Mode::Forwarding => drop(self.forward(state, &[message], None)),
            Mode::Buffering(kept) => kept.push(message),
            Mode::Discarding => {}
        }
    }

    /// Asks for a channel that the shards take to be open.
    fn demand_open(&self, state: &mut State, name: &ChannelName, shards: u64) {
        let awaiting = self.all_sources();
        let generation = Generation(0);
        let wanted = Wanted { shards, awaiting, open: true, generation, incomplete_after: None, early: Vec::new() };
        self.demand(state, name, wanted);
    }

    pub(super) fn drop_marker(&self, state: &mut State) {
        if let Some(marker) = state.marker.take() {
            self.forget(state, &marker);
        }
    }

    fn start_forwarding(&self, state: &mut State) {
        let before = mem::replace(&mut state.mode, Mode::Forwarding);
        if let Mode::Buffering(kept) = before {
            self.forward(state, &kept, None);
        }
        self.mode_changed.notify_waiters();
    }

    fn set_mode(&self, state: &mut State, mode: Mode) {
        state.mode = mode;
        self.mode_changed.notify_waiters();
    }

    fn all_shards(&self) -> u64 {
        (0..self.outlets.len()).fold(0, |bits, shard| bits | (1 << shard))
    }
}
