//! The one way into the shards: gives events their positions, encodes them once, and pushes them to every shard in one order.
//! It carries out the actions of the state machines (`subscriptions`, `cutover`). It does no I/O.
//!
//! Invariant: everything whose order matters is pushed to the shards' outlets while `Dispatcher::state` is locked, so every
//! shard sees the same events, openings and gaps in the same order, and a join can't race with a publish.

use std::{
    iter,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc::UnboundedSender};

use super::{
    cutover::{Item, Role},
    journal::JournalReport,
    outlet::{Delivery, Outlet},
    receipt::Receipt,
    spec::{Checkpoint, Delivers, Interested, Spec},
    stamp::{Stamps, Step},
    subscriptions::{Action, Admission, Generation, Interest, SourceId, Subscriptions},
};
use crate::{
    clock::unix_micros,
    config::ChannelRules,
    cursor::{Cursor, Entry, NodeId, Position},
    event::{Event, Message},
    hub::{Hole, LagSpan, Sequencer},
    metrics::Metrics,
    name::ChannelName,
};

/// Longest time for which a source waits for a shard. A shard that takes nothing for longer is stuck, and waiting does not
/// help.
const LONGEST_BRAKE: Duration = Duration::from_secs(10);

/// The outcome for messages that a source has published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// Messages that went to the shards, or are buffered until an upgrade ends or a channel is confirmed.
    pub delivered: usize,
    /// Messages that were dropped: no shard is subscribed to their channels, too many are buffered (a gap event follows), or
    /// the predecessor delivers them.
    pub dropped: usize,
}

/// A source as the dispatcher knows it.
pub(super) struct SourceState {
    pub(super) spec: Spec,
    pub(super) role: Role,
    /// Asks the source for channels. Where the source has ended, the reason is in the log, and its channels stay unconfirmed.
    interest: UnboundedSender<Interest>,
    /// Why it is disconnected; `None` while it is connected.
    pub(super) trouble: Option<Arc<str>>,
    /// Whether its server refuses the login, so that waiting does not help.
    pub(super) login_refused: bool,
    /// The last position before it was disconnected the last time: a gap begins there.
    pub(super) lost_after: Position,
    /// How far a durable source has read: the shards have all its messages up to there, and none later.
    pub(super) checkpoint: Option<Checkpoint>,
}

pub(super) struct State {
    pub(super) sequencer: Sequencer,
    pub(super) stamps: Stamps,
    /// Whether positions are times, and not ahead of the clock.
    timed: bool,
    pub(super) subscriptions: Subscriptions,
    /// Which channels are kept always; `None` until [`Dispatcher::keep_always`].
    pub(super) rules: Option<ChannelRules>,
    pub(super) sources: Vec<SourceState>,
    /// Whether this process waits for its predecessor's state.
    pub(super) receiving: bool,
    /// Whether publishes that come by no source wait: this process has sent its snapshot, or has not received its
    /// predecessor's.
    pub(super) held: bool,
    /// The marker's channel, with its generation.
    pub(super) marker: Option<(ChannelName, Generation)>,
}

impl State {
    /// Whether the subscription of a rule that keeps channels always delivers the channel, so that shards don't subscribe to it.
    pub(super) fn is_kept_always(&self, name: &ChannelName) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.delivering(name).is_some())
    }

    /// The node's name, as ids have it now.
    fn node(&self) -> NodeId {
        let node = *self.sequencer.node();
        if self.timed { node } else { node.untimed() }
    }
}

/// See the module.
pub struct Dispatcher {
    /// A lock and not a task: it is held only while messages are encoded and pushed, and a publisher needs no answer from a
    /// task.
    state: Mutex<State>,
    pub(super) outlets: Vec<Arc<dyn Outlet>>,
    metrics: Arc<Metrics>,
    /// The start of the monotonic clock.
    began: Instant,
    /// Notified when a source's messages begin or cease to be buffered.
    pub(super) role_changed: Notify,
}

impl Dispatcher {
    /// A dispatcher to the shards behind `outlets`, with its sources (at most 64). `skew`: `history.skew`.
    #[must_use]
    pub fn new(
        sequencer: Sequencer,
        outlets: Vec<Arc<dyn Outlet>>,
        sources: Vec<(Spec, UnboundedSender<Interest>)>,
        metrics: Arc<Metrics>,
        skew: Duration,
    ) -> Self {
        let sequencer = sequencer.with_journals(sources.iter().map(|(spec, _)| spec.journals).sum());
        let subscriptions = Subscriptions::new(sources.iter().map(|(spec, _)| spec.interest == Interested::OnDemand));
        let stamps = Stamps::new(sources.iter().map(|(spec, _)| spec.journals == 0), skew, unix_micros(), 0);
        let lost_after = sequencer.last();
        let source = |(spec, interest)| SourceState {
            spec,
            role: Role::Serving,
            interest,
            trouble: None,
            login_refused: false,
            lost_after,
            checkpoint: None,
        };
        let sources = sources.into_iter().map(source).collect();
        let state = State {
            sequencer,
            stamps,
            timed: true,
            subscriptions,
            rules: None,
            sources,
            receiving: false,
            held: false,
            marker: None,
        };
        Self { state: Mutex::new(state), outlets, metrics, began: Instant::now(), role_changed: Notify::new() }
    }

    /// Publishes messages of a source as events, in order, all in one turn of the lock. `checkpoint`: how far a durable source
    /// has read with them.
    pub fn publish(
        &self,
        source: SourceId,
        messages: impl IntoIterator<Item = Message>,
        checkpoint: Option<Checkpoint>,
    ) -> Accepted {
        let state = &mut *self.lock();
        let mut accepted = Accepted::default();
        // Only the marker changes the role, and where one is expected this is false already.
        let serving = matches!(state.sources[source].role, Role::Serving);
        let mut ready = Vec::new();
        for message in messages {
            if !serving && state.marker.as_ref().is_some_and(|(marker, _)| *marker == message.channel) {
                state.sources[source].role.marker_passed();
                self.role_changed.notify_waiters();
                continue;
            }
            let taken = match state.subscriptions.admit(source, &message.channel) {
                Admission::Ready if serving => {
                    ready.push(message);
                    true
                }
                Admission::Ready => self.route(state, source, Item::Message(message)),
                Admission::Early => state.subscriptions.keep_early(source, message),
                Admission::Unsubscribed => false,
            };
            *(if taken { &mut accepted.delivered } else { &mut accepted.dropped }) += 1;
        }
        if !ready.is_empty() {
            self.forward(state, &ready, None);
        }
        if let Some(checkpoint) = checkpoint {
            self.route(state, source, Item::Checkpoint(checkpoint));
        }
        accepted
    }

    /// Publishes messages that come by no source, in order; the receipt counts the clients of each. Gives the cursor of each,
    /// or `None` while publishes wait for an upgrade: try again after [`Dispatcher::forwarding`].
    pub fn publish_counted(&self, messages: &[Message], receipt: &Arc<Receipt>) -> Option<Vec<Cursor>> {
        let mut state = self.lock();
        if state.held {
            return None;
        }
        let events = self.forward(&mut state, messages, Some(receipt));
        let cursor = Cursor { node: state.node(), ..state.sequencer.cursor() };
        Some(events.into_iter().map(|position| Cursor { position, ..cursor }).collect())
    }

    /// Forwards, buffers or discards what a source reports, depending on its role. False if it was discarded.
    pub(super) fn route(&self, state: &mut State, source: SourceId, item: Item) -> bool {
        let role = &mut state.sources[source].role;
        match role.route(item) {
            Some(item) => self.forward_item(state, source, item),
            None => return role.is_keeping(),
        }
        true
    }

    /// Pushes what a source has reported to the shards.
    pub(super) fn forward_item(&self, state: &mut State, source: SourceId, item: Item) {
        let last = state.sequencer.last();
        match item {
            Item::Message(message) => drop(self.forward(state, &[message], None)),
            Item::Loss => state.sources[source].lost_after = last,
            Item::Gap(names) => self.push_gap(state, names, state.sources[source].lost_after),
            Item::Dropped(names) => self.push_gap(state, names, last),
            Item::Journal(journal, report) => self.push_journal(state, journal, report),
            Item::Checkpoint(checkpoint) => state.sources[source].checkpoint = Some(checkpoint),
            Item::Overflow => self.push_gap(state, state.subscriptions.names().cloned().collect(), last),
        }
    }

    /// Gives messages their positions, which it returns where there is a receipt, and pushes the events to every shard.
    fn forward(&self, state: &mut State, messages: &[Message], receipt: Option<&Arc<Receipt>>) -> Vec<Position> {
        let now = self.stamp(state);
        let node = state.node();
        let mut next = |message: &Message| -> Arc<Event> {
            let position = state.sequencer.next(now);
            if let Some(entry) = message.entry {
                state.sequencer.passed.set(entry);
            }
            Arc::new(Event::new(&node, position, &state.sequencer.passed, message))
        };
        let events: Vec<Arc<Event>> = messages.iter().map(&mut next).collect();
        let positions = receipt.map(|_| events.iter().map(|event| event.position()).collect()).unwrap_or_default();
        self.metrics.events.add(messages.len() as u64);
        let delivery = |(event, index)| Delivery::Publish(event, receipt.map(|receipt| (Arc::clone(receipt), index)));
        if let Some((last, others)) = self.outlets.split_last() {
            for outlet in others {
                outlet.push(&mut events.iter().cloned().zip(0..).map(delivery));
            }
            last.push(&mut events.into_iter().zip(0..).map(delivery));
        }
        positions
    }

    /// Reports what a source has said about one of its journals.
    fn push_journal(&self, state: &mut State, journal: u8, report: JournalReport) {
        let begin = state.sequencer.last();
        let hole = Hole::new(begin, self.next_position(state));
        match report {
            JournalReport::Began { since: id, .. } | JournalReport::Lost { end: id } => {
                state.sequencer.passed.set(Entry { journal, id });
            }
            JournalReport::Reached { end: id, .. } => state.sequencer.passed.pass(Entry { journal, id }),
        }
        self.push(|| Delivery::Journal(journal, report, hole));
    }

    /// Reports that events of the channels may have been lost after `begin` and before now.
    pub(super) fn push_gap(&self, state: &mut State, names: Vec<ChannelName>, begin: Position) {
        if names.is_empty() {
            return;
        }
        let hole = Hole::new(begin, self.next_position(state));
        let names: Arc<[ChannelName]> = names.into();
        self.push(|| Delivery::Reconnected(Arc::clone(&names), hole));
    }

    /// Carries out the actions of the subscriptions' state machine.
    pub(super) fn perform(&self, state: &mut State, actions: Vec<Action>) {
        // All channels that one input opens share a position.
        let mut since = None;
        for action in actions {
            match action {
                Action::Ask(source, interest) => {
                    let _ = state.sources[source].interest.send(interest);
                }
                Action::Open { name, complete } => {
                    if complete && since.is_none() {
                        since = Some(self.next_position(state));
                    }
                    self.push(|| Delivery::Confirmed(name.clone(), since.filter(|_| complete)));
                }
                // What is lost of a journal is reported by its source, which knows it.
                Action::Gap(source, _) if state.sources[source].spec.journals > 0 => {}
                Action::Gap(source, names) => {
                    self.route(state, source, Item::Gap(names));
                }
                Action::Refuse(name, reason) => self.push(|| Delivery::Refused(name.clone(), Arc::clone(&reason))),
                Action::Unsubscribed(name) => self.push(|| Delivery::Unsubscribed(name.clone())),
                Action::Release(source, message) => {
                    self.route(state, source, Item::Message(message));
                }
            }
        }
    }

    /// The next position, for what is no event.
    fn next_position(&self, state: &mut State) -> Position {
        let stamp = self.stamp(state);
        state.sequencer.next(stamp)
    }

    /// The time for what happens now: see `stamp`. Called before each position is made. The shards are notified where positions
    /// begin or cease to be times, and where they are older than the time.
    pub(super) fn stamp(&self, state: &mut State) -> u64 {
        let now = self.now(state);
        let stamp = state.stamps.stamp(now);
        if let Some(until) = state.stamps.begin_lag(now) {
            let span = LagSpan { until, after: state.sequencer.last() };
            self.push(|| Delivery::Lag(span));
        }
        let timed = !state.stamps.is_ahead(state.sequencer.last().0, now);
        if timed != state.timed {
            state.timed = timed;
            self.push(|| Delivery::Timed(timed));
        }
        stamp
    }

    pub(super) fn now(&self, state: &mut State) -> u64 {
        let monotonic = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (now, step) = state.stamps.now(unix_micros(), monotonic);
        match step {
            None => {}
            Some(Step::Seen(by)) => tracing::warn!(
                seconds = by / 1_000_000,
                "the system's clock has stepped; ids go on with the time before, and follow if it stays"
            ),
            Some(Step::Undone) => tracing::info!("the system's clock is back where it was before its step"),
            Some(Step::Followed(by)) => tracing::warn!(
                seconds = by / 1_000_000,
                "ids follow the step of the system's clock; clients that change nodes may get events twice or a gap event"
            ),
        }
        now
    }

    /// The time by which watermarks are reported, in microseconds since 1970.
    pub fn source_time(&self) -> u64 {
        self.now(&mut self.lock())
    }

    /// Moves the position towards the present while nothing is published, so that cursors of quiet channels are not old.
    pub fn advance(&self) {
        let mut state = self.lock();
        let until = self.stamp(&mut state);
        let forwards = !state.held && state.sources.iter().all(|source| !source.role.is_keeping());
        if forwards && until > state.sequencer.last().0 {
            let position = state.sequencer.next(until);
            self.push(|| Delivery::Advance(position));
        }
    }

    /// Blocks a source's thread while a shard's queue is over its bound.
    pub fn wait_for_space(&self) {
        for outlet in &self.outlets {
            outlet.wait_for_space(LONGEST_BRAKE);
        }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.outlets.len()
    }

    /// The cursor of the last event that got a position. With [`Cursor::with_entry`], the one from before a publish is the id of
    /// what was published to a journal.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.lock().sequencer.cursor()
    }

    /// Number of journals that a source has. With journals and nothing else, all channels are exact on every node.
    #[must_use]
    pub fn journals(&self) -> usize {
        self.lock().sequencer.passed.count()
    }

    /// Whether a source delivers messages that are no entries of a journal.
    #[must_use]
    pub fn has_unjournaled(&self) -> bool {
        let state = self.lock();
        state.sources.is_empty() || state.sources.iter().any(|source| source.spec.journals == 0)
    }

    /// Passes an input to the subscriptions' state machine, and carries out its actions.
    pub(super) fn input<T>(&self, input: impl FnOnce(&mut Subscriptions, &mut Vec<Action>) -> T) -> T {
        self.apply(&mut self.lock(), input)
    }

    pub(super) fn apply<T>(
        &self,
        state: &mut State,
        input: impl FnOnce(&mut Subscriptions, &mut Vec<Action>) -> T,
    ) -> T {
        let mut actions = Vec::new();
        let given = input(&mut state.subscriptions, &mut actions);
        self.perform(state, actions);
        given
    }

    /// Asks every source that delivers by fan-out for the marker.
    pub(super) fn ask_for_marker(&self, state: &State, interest: impl Fn() -> Interest) {
        for source in state.sources.iter().filter(|source| source.spec.delivers == Delivers::Fanout) {
            let _ = source.interest.send(interest());
        }
    }

    /// A bit for each shard.
    pub(super) fn all_shards(&self) -> u64 {
        (0..self.outlets.len()).fold(0, |bits, shard| bits | (1 << shard))
    }

    fn push(&self, delivery: impl Fn() -> Delivery) {
        for outlet in &self.outlets {
            outlet.push(&mut iter::once(delivery()));
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        crate::lock::lock(&self.state)
    }
}
