//! The dispatcher's part in an upgrade: begins, divides and ends it for all sources at once. `cutover` decides what happens to
//! each message.

use std::collections::HashSet;

use super::{
    cutover::{Item, Marker},
    dispatcher::{Dispatcher, State},
    spec::{Checkpoint, Delivers},
    subscriptions::{Action, Answer, Interest, SourceId},
};
use crate::{config::ChannelRules, hub::Sequencer, name::ChannelName};

impl Dispatcher {
    /// Resolves when publishes that come by no source are forwarded.
    pub async fn forwarding(&self) {
        loop {
            let changed = self.role_changed.notified();
            if !self.lock().held {
                return;
            }
            changed.await;
        }
    }

    /// Predecessor: subscribes to the marker.
    pub fn set_marker(&self, name: &ChannelName) {
        let mut state = self.lock();
        self.add_marker(&mut state, name);
        for source in &mut state.sources {
            source.role.begin_sending();
            if source.spec.delivers == Delivers::Durable {
                source.role.marker_refused();
            }
        }
    }

    fn add_marker(&self, state: &mut State, name: &ChannelName) {
        let generation = state.subscriptions.next_generation();
        state.marker = Some((name.clone(), generation));
        self.ask_for_marker(state, || Interest::Subscribe(name.clone(), generation));
    }

    /// Whether every source has answered whether it delivers the marker.
    #[must_use]
    pub fn marker_is_answered(&self) -> bool {
        self.lock().sources.iter().all(|source| source.role.marker() != Marker::Asked)
    }

    /// Whether every source that delivers by fan-out has confirmed the marker's channel, or has not answered yet.
    #[must_use]
    pub fn has_marker(&self) -> bool {
        let state = self.lock();
        state.marker.is_some() && fanout(&state).all(|source| source.role.marker() != Marker::None)
    }

    /// Whether messages of every source are buffered: the marker has arrived.
    #[must_use]
    pub fn is_buffering(&self) -> bool {
        fanout(&self.lock()).all(|source| source.role.is_keeping())
    }

    /// Whether every source that delivers by fan-out is connected.
    #[must_use]
    pub fn is_fanout_connected(&self) -> bool {
        let state = self.lock();
        let disconnected = state.subscriptions.disconnected_sources();
        disconnected.into_iter().all(|source| state.sources[source].spec.delivers == Delivers::Durable)
    }

    /// Resolves when the marker has come by every source.
    pub async fn buffering(&self) {
        loop {
            let changed = self.role_changed.notified();
            if self.is_buffering() {
                return;
            }
            changed.await;
        }
    }

    /// Whether a source was disconnected since [`Dispatcher::note_subscribed`] and before its marker came.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.lock().sources.iter().any(|source| source.role.is_broken())
    }

    /// Whether every source that delivers by fan-out has answered all subscriptions, including the marker's. Durable sources are
    /// started later, with their checkpoints.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        let state = self.lock();
        let marker = state.sources.iter().all(|source| source.role.marker() != Marker::Asked);
        marker && state.subscriptions.is_answered(fanout_bits(&state))
    }

    /// Successor: notes that all subscriptions are confirmed. Only losses after this must be reported.
    pub fn note_subscribed(&self) {
        for source in &mut self.lock().sources {
            source.role.note_subscribed();
        }
    }

    /// Predecessor: buffers everything from now on.
    pub fn buffer(&self) {
        let mut state = self.lock();
        state.held = true;
        for source in &mut state.sources {
            source.role.keep();
        }
        self.role_changed.notify_waiters();
    }

    /// Predecessor: the upgrade has failed. Forwards what was buffered, and serves on.
    pub fn resume(&self) {
        let mut state = self.lock();
        self.drop_marker(&mut state);
        self.finish(&mut state);
    }

    /// How far a durable source has read, if it has reported that.
    #[must_use]
    pub fn checkpoint(&self, source: SourceId) -> Option<Checkpoint> {
        self.lock().sources[source].checkpoint.clone()
    }

    /// Channels to which shards are subscribed, confirmed or pending. Without those that a rule keeps always: a successor has rules
    /// of its own.
    #[must_use]
    pub fn wanted_channels(&self) -> Vec<ChannelName> {
        self.lock().subscriptions.wanted().cloned().collect()
    }

    /// Subscribes to the channels that `rules` keep always. Called before the sources are started. A successor calls it before
    /// [`Dispatcher::prepare`], and its shards may have these channels from its predecessor.
    pub fn keep_always(&self, rules: ChannelRules, successor: bool) {
        let state = &mut *self.lock();
        self.apply(state, |subscriptions, actions| {
            for (_, name) in rules.kept() {
                subscriptions.pin(name, successor, actions);
            }
        });
        state.rules = Some(rules);
    }

    /// Successor: subscribes to `names`, which the predecessor's shards have, and to the marker, and discards messages until
    /// that comes. May be called again with more names.
    pub fn prepare(&self, names: &[ChannelName], marker: Option<&ChannelName>) {
        let state = &mut *self.lock();
        if !state.receiving {
            (state.receiving, state.held) = (true, true);
            for source in &mut state.sources {
                let fanout = source.spec.delivers == Delivers::Fanout;
                source.role.begin_receiving(if marker.is_some() && fanout { Marker::Asked } else { Marker::None });
            }
            if let Some(marker) = marker {
                self.add_marker(state, marker);
            }
        }
        let shards = self.all_shards();
        let names: Vec<&ChannelName> = names.iter().filter(|name| !state.is_kept_always(name)).collect();
        self.apply(state, |subscriptions, actions| {
            for name in names {
                subscriptions.subscribe_open(shards, name, actions);
            }
        });
    }

    /// Successor: continues after the predecessor's last position, and forwards what was buffered. `open` are the channels that the
    /// shards have, `kept` the names and patterns of the rules whose channels they have always had. `checkpoints`: those of the durable sources that continue where the predecessor's have stopped. If not
    /// `exact`, clients get a gap event. Returns whether it was exact.
    pub fn begin(
        &self,
        sequencer: Sequencer,
        open: &[ChannelName],
        kept: &[ChannelName],
        exact: bool,
        checkpoints: impl IntoIterator<Item = (SourceId, Checkpoint)>,
    ) -> bool {
        let state = &mut *self.lock();
        let exact = exact && !state.sources.iter().any(|source| source.role.is_broken());
        state.sequencer = sequencer;
        // The predecessor may have been ahead of the clock.
        self.stamp(state);
        let mut resumed = Vec::new();
        for (source, checkpoint) in checkpoints {
            state.sources[source].checkpoint = Some(checkpoint);
            state.subscriptions.resumed(source);
            resumed.push(source);
        }
        // The predecessor may have released channels after it sent their names. They belong to no shard; a shard that needs one
        // asks for it again.
        let open: HashSet<&ChannelName> = open.iter().filter(|name| !state.is_kept_always(name)).collect();
        let released: Vec<ChannelName> =
            state.subscriptions.wanted().filter(|name| !open.contains(name)).cloned().collect();
        let (shards, on_demand) = (self.all_shards(), state.subscriptions.is_on_demand());
        let mut inexact = Vec::new();
        self.apply(state, |subscriptions, actions| {
            for name in &released {
                subscriptions.remove(name, actions);
            }
            for name in open {
                match subscriptions.is_pending(name) {
                    // The sources were not asked for it here, since it was joined late. Their answer leads to the gap.
                    None if on_demand => subscriptions.subscribe_open(shards, name, actions),
                    // If a source is disconnected, the gap event follows when it is reconnected.
                    Some(true) => {}
                    None | Some(false) if !exact => inexact.push(name.clone()),
                    None | Some(false) => {}
                }
            }
            for (name, answer) in subscriptions.pinned() {
                match (answer, kept.contains(&name)) {
                    // The predecessor's rules did not keep these channels, or its sources did not deliver them.
                    (Answer::Confirmed, false) => actions.push(Action::Open { name, complete: true }),
                    (Answer::Pending, false) => actions.push(Action::Open { name, complete: false }),
                    (Answer::Confirmed, true) if !exact => inexact.push(name),
                    (Answer::Confirmed | Answer::Pending, true) | (Answer::Refused, _) => {}
                }
            }
        });
        for source in resumed {
            state.subscriptions.resumed(source); // Of what was subscribed to just now as well.
        }
        let was_exact = inexact.is_empty();
        self.drop_marker(state);
        state.receiving = false;
        let last = state.sequencer.last();
        for source in &mut state.sources {
            // The predecessor has delivered or reported what this process lost before.
            source.lost_after = last;
        }
        self.push_gap(state, inexact, last);
        self.finish(state);
        was_exact
    }

    fn drop_marker(&self, state: &mut State) {
        if let Some((marker, _)) = state.marker.take() {
            self.ask_for_marker(state, || Interest::Unsubscribe(marker.clone()));
        }
    }

    /// Forwards what was buffered, and everything from now on.
    fn finish(&self, state: &mut State) {
        for source in 0..state.sources.len() {
            let items: Vec<Item> = state.sources[source].role.finish();
            for item in items {
                self.forward_item(state, source, item);
            }
        }
        state.held = false;
        self.role_changed.notify_waiters();
    }
}

/// A bit for each source whose messages a marker divides.
fn fanout_bits(state: &State) -> u64 {
    let sources = state.sources.iter().enumerate();
    sources.fold(0, |bits, (id, source)| bits | (u64::from(source.spec.delivers == Delivers::Fanout) << id))
}

/// The sources whose messages a marker divides.
fn fanout(state: &State) -> impl Iterator<Item = &super::dispatcher::SourceState> {
    state.sources.iter().filter(|source| source.spec.delivers == Delivers::Fanout)
}
