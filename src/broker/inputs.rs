//! Takes the reports of shards and sources to the dispatcher: subscriptions and their outcomes. Each input goes to the state machines
//! under the lock, and their actions are carried out there. It makes no decisions.

use std::sync::Arc;

use super::{
    cutover::Item,
    dispatcher::{Dispatcher, SourceState, State},
    journal::JournalReport,
    outlet::Delivery,
    subscriptions::{Admission, Generation, SourceId},
};
use crate::{cursor::Position, name::ChannelName};

impl Dispatcher {
    /// Shard `shard` subscribes to the channel. [`Delivery::Confirmed`] or [`Delivery::Refused`] follows, behind all that the shard
    /// has not taken yet: where the channel is open already, without a position, since the shard got that before.
    pub fn subscribe(&self, shard: usize, name: &ChannelName) {
        let mut state = self.lock();
        if self.apply(&mut state, |subscriptions, actions| subscriptions.subscribe(shard, name, actions))
            && let Some(outlet) = self.outlets.get(shard)
        {
            outlet.push(&mut std::iter::once(Delivery::Confirmed(name.clone(), Some(Position::default()))));
        }
    }

    /// Ends shard `shard`'s subscription to the channel.
    pub fn release(&self, shard: usize, name: &ChannelName) {
        self.input(|subscriptions, actions| subscriptions.release(shard, name, actions));
    }

    /// Whether sources must be asked for channels before their events arrive.
    #[must_use]
    pub fn is_on_demand(&self) -> bool {
        self.lock().subscriptions.is_on_demand()
    }

    /// Source `source` delivers the channels of these subscriptions from now on.
    pub fn confirmed<'a>(&self, source: SourceId, confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>) {
        let mut state = self.lock();
        let confirmed = note_marker(&mut state, source, confirmed);
        self.apply(&mut state, |subscriptions, actions| subscriptions.confirmed(source, confirmed, actions));
    }

    /// Source `source` may not deliver the channel of this subscription.
    pub fn refused(&self, source: SourceId, name: &ChannelName, generation: Generation, reason: &str) {
        let mut state = self.lock();
        if state.marker.as_ref().is_some_and(|(marker, _)| marker == name) {
            state.sources[source].role.marker_refused();
            return;
        }
        let reason: Arc<str> = reason.into();
        self.apply(&mut state, |subscriptions, actions| {
            subscriptions.refused(source, name, generation, &reason, actions);
        });
    }

    /// Source `source` is disconnected, for this reason: its messages may be lost from now on.
    pub fn disconnected(&self, source: SourceId, reason: &str) {
        let mut state = self.lock();
        let last = state.sequencer.last();
        let lost = &mut state.sources[source];
        // Where several tries to connect fail, the first one counts.
        lost.login_refused = false;
        if lost.trouble.replace(reason.into()).is_none() {
            lost.lost_after = last;
            lost.role.disconnected();
        }
        self.apply(&mut state, |subscriptions, actions| subscriptions.disconnected(source, actions));
    }

    /// Source `source` is disconnected because its server refuses the login, with this reason: only another configuration helps.
    pub fn login_refused(&self, source: SourceId, reason: &str) {
        self.disconnected(source, reason);
        self.lock().sources[source].login_refused = true;
    }

    /// Source `source` is connected (again), and delivers the channels of these subscriptions from now on. `at`: when it was
    /// asked for them, by [`Dispatcher::source_time`]; what was published before is delivered, or lost and now reported.
    pub fn reconnected<'a>(
        &self,
        source: SourceId,
        at: u64,
        confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>,
    ) {
        self.connected(source, at, false, confirmed);
    }

    /// As [`Dispatcher::reconnected`], but nothing was lost of the channels that the source delivered before it was disconnected.
    pub fn continued<'a>(
        &self,
        source: SourceId,
        at: u64,
        confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>,
    ) {
        self.connected(source, at, true, confirmed);
    }

    fn connected<'a>(
        &self,
        source: SourceId,
        at: u64,
        lossless: bool,
        confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>,
    ) {
        let mut state = self.lock();
        state.sources[source].trouble = None;
        state.sources[source].login_refused = false;
        let now = self.now(&mut state);
        state.stamps.watermark(source, at, now);
        let confirmed = note_marker(&mut state, source, confirmed);
        self.apply(&mut state, |subscriptions, actions| {
            subscriptions.connected(source, lossless, confirmed, actions);
        });
    }

    /// Source `source` has lost a message of this channel, after everything that it has published.
    pub fn lost(&self, source: SourceId, name: &ChannelName) {
        let mut state = self.lock();
        if state.subscriptions.admit(source, name) == Admission::Ready {
            let names = state.subscriptions.with_patterns(name);
            self.route(&mut state, source, Item::Dropped(names));
        }
    }

    /// Source `source` reports something about one of its journals, after everything that it has published.
    pub fn journal(&self, source: SourceId, journal: u8, report: JournalReport) {
        let mut state = self.lock();
        self.route(&mut state, source, Item::Journal(journal, report));
    }

    /// All that was published at source `source` before `at` (by [`Dispatcher::source_time`]) has been delivered.
    pub fn watermark(&self, source: SourceId, at: u64) {
        let mut state = self.lock();
        let now = self.now(&mut state);
        state.stamps.watermark(source, at, now);
    }

    /// Names of the sources that are not connected, each with the reason.
    #[must_use]
    pub fn disconnected_sources(&self) -> Vec<(&'static str, Arc<str>)> {
        let state = self.lock();
        let reason = |source: &SourceState| source.trouble.clone().unwrap_or_else(|| "not connected yet".into());
        let sources = state.subscriptions.disconnected_sources().into_iter();
        sources.map(|source| (state.sources[source].spec.id, reason(&state.sources[source]))).collect()
    }

    /// Whether a source's server refuses the login.
    #[must_use]
    pub fn is_login_refused(&self) -> bool {
        self.lock().sources.iter().any(|source| source.login_refused)
    }

    /// Whether every source has reported that it is connected or disconnected.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.lock().subscriptions.is_settled()
    }
}

/// Notes whether a source confirms the marker; returns the other channels that it confirms.
fn note_marker<'a>(
    state: &mut State,
    source: SourceId,
    confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>,
) -> Vec<(&'a ChannelName, Generation)> {
    let State { marker, sources, .. } = state;
    let mut rest = Vec::new();
    for (name, generation) in confirmed {
        if marker.as_ref().is_some_and(|(marker, asked)| marker == name && *asked == generation) {
            sources[source].role.marker_confirmed();
        } else {
            rest.push((name, generation));
        }
    }
    rest
}
