//! The one way into the shards: gives events their positions, encodes them once, and pushes them to every shard in one order.
//! It does no I/O.
//!
//! Invariant: everything whose order matters is pushed to the shards' outlets while [`Dispatcher::state`] is locked, so every
//! shard sees the same events, openings and gaps in the same order, and a join can't race with a publish.

use std::{
    collections::{BTreeMap, HashMap},
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, mpsc::UnboundedSender, oneshot};

use super::{
    outlet::{Delivery, Outlet, ShardQuery},
    receipt::Receipt,
};
use crate::{
    clock::unix_micros,
    cursor::{Cursor, Position},
    event::{Event, Message},
    hub::Sequencer,
    metrics::Metrics,
    name::ChannelName,
};

/// What a source is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    /// Deliver the channel's messages from now on, and say with the generation when that is certain.
    Subscribe(ChannelName, Generation),
    /// Stop delivering them.
    Unsubscribe(ChannelName),
}

/// Distinguishes one subscription to a channel from the next: a channel may be released and subscribed to again before a
/// source has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub(super) u64);

/// A shard that takes nothing for so long is stuck; braking for it would help nobody.
const LONGEST_BRAKE: Duration = Duration::from_secs(10);

/// Most bytes of messages that are kept while their channels are not confirmed. What comes beyond is not, and is before the
/// position from which the channel is complete, so whoever needs it is told.
const EARLY_BYTES: usize = 16 << 20;

/// Sources and shards are few: a bit for each.
pub(super) type Bits = u64;

pub(super) struct Wanted {
    /// Shards that are subscribed to the channel.
    pub(super) shards: Bits,
    /// Sources that have not confirmed it.
    pub(super) awaiting: Bits,
    /// Whether the shards were told that it is open.
    pub(super) open: bool,
    pub(super) generation: Generation,
    /// The last position before the first of the sources that have not confirmed the channel was disconnected.
    pub(super) incomplete_after: Option<Position>,
    /// Messages that came from a source before it has confirmed the channel: they come after the gap, if there is one.
    pub(super) early: Vec<Message>,
}

pub(super) struct State {
    pub(super) sequencer: Sequencer,
    pub(super) wanted: HashMap<ChannelName, Wanted>,
    /// Sources that are away.
    pub(super) away: Bits,
    /// Sources that have said once whether they are there.
    pub(super) heard: Bits,
    pub(super) generations: u64,
    /// When each source was last known to have delivered everything, in microseconds since 1970.
    pub(super) watermarks: Vec<u64>,
    /// Bytes of the messages that came early.
    pub(super) early_bytes: usize,
    pub(super) mode: Mode,
    /// Whether the shards have begun: a successor's don't before they have what they inherit.
    pub(super) begun: bool,
    /// Whether a source was lost before the shards had begun.
    pub(super) broken: bool,
    /// The channel whose next message divides what this process passes on from what its successor does.
    pub(super) marker: Option<ChannelName>,
}

impl State {
    /// Whether messages go straight to the shards: no process succeeds another.
    pub(super) fn forwards(&self) -> bool {
        matches!(self.mode, Mode::Forwarding) && self.marker.is_none()
    }
}

/// What becomes of messages.
pub(super) enum Mode {
    /// They are forwarded to the shards.
    Forwarding,
    /// They are kept until it is known which process passes them on.
    Buffering(Vec<Message>),
    /// They are another process's, which this one is to succeed.
    Discarding,
}

/// See the module.
pub struct Dispatcher {
    /// A lock, and not a task, since it is held for little more than the encoding of what is published, and publishers need no answer from it.
    state: Mutex<State>,
    pub(super) outlets: Vec<Arc<dyn Outlet>>,
    pub(super) sources: Vec<UnboundedSender<Interest>>,
    metrics: Arc<Metrics>,
    /// Notified when the mode has changed.
    pub(super) mode_changed: Notify,
}

impl Dispatcher {
    /// A dispatcher to the shards behind `outlets`; `sources` are those that must be asked for each channel (at most 64).
    #[must_use]
    pub fn new(
        sequencer: Sequencer,
        outlets: Vec<Arc<dyn Outlet>>,
        sources: Vec<UnboundedSender<Interest>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = Mutex::new(State {
            sequencer,
            wanted: HashMap::new(),
            away: 0,
            heard: 0,
            generations: 0,
            early_bytes: 0,
            watermarks: vec![0; sources.len()],
            mode: Mode::Forwarding,
            begun: true,
            broken: false,
            marker: None,
        });
        Self { state, outlets, sources, metrics, mode_changed: Notify::new() }
    }

    /// Passes messages of source `source` on as events, in order, all in one turn of the lock. A message is dropped if no
    /// shard wants its channel (any more), and waits while the source has not confirmed the channel.
    pub fn publish(&self, source: usize, messages: impl IntoIterator<Item = Message>) {
        let state = &mut *self.lock();
        // Only a message on the marker changes this, and then each goes its own way already.
        let live = state.forwards();
        let mut ready = Vec::new();
        for message in messages {
            let Some(wanted) = state.wanted.get_mut(&message.channel) else { continue };
            if wanted.awaiting & (1 << source) == 0 {
                if live {
                    ready.push(message);
                } else {
                    self.route_during_cutover(state, message);
                }
            } else if state.early_bytes < EARLY_BYTES {
                state.early_bytes += message.data.len();
                wanted.early.push(message);
            }
        }
        if !ready.is_empty() {
            self.forward(state, &ready, None);
        }
    }

    pub(super) fn route(&self, state: &mut State, message: Message) {
        if state.forwards() {
            self.forward(state, &[message], None);
        } else {
            self.route_during_cutover(state, message);
        }
    }

    /// Passes messages on as events, in order; the receipt learns how many clients each had. Gives back the cursor of each,
    /// or nothing while the process is being succeeded: then [`Dispatcher::forwarding`] tells when to try again.
    pub fn publish_counted(&self, messages: &[Message], receipt: &Arc<Receipt>) -> Option<Vec<Cursor>> {
        let mut state = self.lock();
        if !matches!(state.mode, Mode::Forwarding) {
            return None;
        }
        let node = *state.sequencer.node();
        let events = self.forward(&mut state, messages, Some(receipt));
        Some(events.into_iter().map(|position| Cursor { node, position }).collect())
    }

    /// Gives messages their positions, which it gives back where there is a receipt, and pushes the events to every shard.
    pub(super) fn forward(
        &self,
        state: &mut State,
        messages: &[Message],
        receipt: Option<&Arc<Receipt>>,
    ) -> Vec<Position> {
        let node = *state.sequencer.node();
        let now = unix_micros();
        let mut next = |message| -> Arc<Event> { Arc::new(Event::new(&node, state.sequencer.next(now), message)) };
        let events: Vec<Arc<Event>> = messages.iter().map(&mut next).collect();
        let positions = receipt.map(|_| events.iter().map(|event| event.position()).collect()).unwrap_or_default();
        self.metrics.events.add(messages.len() as u64);
        let op = |(event, index)| Delivery::Publish(event, receipt.map(|receipt| (Arc::clone(receipt), index)));
        if let Some((last, others)) = self.outlets.split_last() {
            for outlet in others {
                outlet.push(&mut events.iter().cloned().zip(0..).map(op));
            }
            last.push(&mut events.into_iter().zip(0..).map(op));
        }
        positions
    }

    /// Moves the position on towards the time where nothing is published, so that cursors of quiet channels are not old.
    pub fn advance(&self) {
        let mut state = self.lock();
        // Only as far as every source is known to have delivered: another node takes a cursor at its word.
        let until =
            if self.sources.is_empty() { unix_micros() } else { state.watermarks.iter().copied().min().unwrap_or(0) };
        if matches!(state.mode, Mode::Forwarding) && state.away == 0 && until > state.sequencer.last().0 {
            let position = state.sequencer.next(until);
            self.to_all(|| Delivery::Advance(position));
        }
    }

    /// Blocks a source's thread while more waits for the shards than is reasonable.
    pub fn wait_for_room(&self) {
        for outlet in &self.outlets {
            outlet.wait_for_room(LONGEST_BRAKE);
        }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.outlets.len()
    }

    /// How many clients each of `names` has, over all shards.
    pub async fn subscribers(&self, names: Vec<ChannelName>) -> Vec<u32> {
        let (receipt, counted) = Receipt::new(names.len(), self.outlets.len());
        let names: Arc<[ChannelName]> = names.into();
        for outlet in &self.outlets {
            let (names, receipt) = (Arc::clone(&names), Arc::clone(&receipt));
            outlet.push(&mut iter::once(Delivery::Query(ShardQuery::Subscribers { names, receipt })));
        }
        // Shards that end while they are asked count as none.
        let _ = counted.await;
        (0..names.len()).map(|index| receipt.clients(index)).collect()
    }

    /// How many clients each channel has that has any, over all shards; by name.
    pub async fn all_subscribers(&self) -> BTreeMap<ChannelName, u32> {
        let mut all = BTreeMap::new();
        for outlet in &self.outlets {
            let (answer, answered) = oneshot::channel();
            outlet.push(&mut iter::once(Delivery::Query(ShardQuery::Channels(answer))));
            for (name, count) in answered.await.unwrap_or_default() {
                *all.entry(name).or_default() += count;
            }
        }
        all
    }

    /// The cursor of the last event that got a position.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.lock().sequencer.cursor()
    }

    pub(super) fn to_all(&self, op: impl Fn() -> Delivery) {
        for outlet in &self.outlets {
            outlet.push(&mut iter::once(op()));
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, positions are still right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
