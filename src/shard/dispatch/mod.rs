//! The one way into the shards: gives events their positions and keeps what the shards have asked of the sources.
//!
//! Invariant: everything whose order matters is pushed to the shards' queues while [`Dispatcher::state`] is locked, so every
//! shard sees the same events, openings and gaps in the same order, and a join can't race with a publish.

mod demand;
mod handing;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{Notify, mpsc::UnboundedSender, oneshot};

use super::queue::{Op, Queue, Receipt};
use crate::{
    cursor::{Cursor, Position},
    event::{Event, Message},
    hub::Sequencer,
    metrics::Metrics,
    name::ChannelName,
};

/// What a source is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// Deliver the channel's messages from now on, and say with the ticket when that is certain.
    Subscribe(ChannelName, Ticket),
    /// Stop delivering them.
    Unsubscribe(ChannelName),
}

/// Tells one demand for a channel from the next: a channel may be let go and wanted again before a source has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// A shard that takes nothing for so long is stuck; braking for it would help nobody.
const LONGEST_BRAKE: Duration = Duration::from_secs(10);

/// Most bytes of messages that are kept while their channels are not confirmed. What comes beyond is not, and is before the
/// position from which the channel is complete, so whoever needs it is told.
const EARLY_BYTES: usize = 16 << 20;

/// Sources and shards are few: a bit for each.
type Bits = u64;

struct Wanted {
    /// Shards that want the channel.
    shards: Bits,
    /// Sources that have not confirmed it.
    awaiting: Bits,
    /// Whether the shards were told that it is open.
    open: bool,
    ticket: Ticket,
    /// Messages that came from a source before it has confirmed the channel: they come after the gap, if there is one.
    early: Vec<Message>,
}

struct State {
    sequencer: Sequencer,
    wanted: HashMap<ChannelName, Wanted>,
    /// Sources that are away.
    away: Bits,
    /// Sources that have said once whether they are there.
    heard: Bits,
    tickets: u64,
    /// When each source was last known to have delivered everything, in microseconds since 1970.
    alive: Vec<u64>,
    /// Bytes of the messages that came early.
    early_bytes: usize,
    mode: Mode,
    /// Whether the shards have begun: a successor's don't before they have what they inherit.
    begun: bool,
    /// Whether a source was lost before the shards had begun.
    broken: bool,
    /// The channel whose next message divides what this process passes on from what its successor does.
    marker: Option<ChannelName>,
}

impl State {
    /// Whether messages go straight to the shards: no process succeeds another.
    fn passes_on(&self) -> bool {
        matches!(self.mode, Mode::Live) && self.marker.is_none()
    }
}

/// What becomes of messages.
enum Mode {
    /// They are passed on.
    Live,
    /// They are kept until it is known which process passes them on.
    Holding(Vec<Message>),
    /// They are another process's, which this one is to succeed.
    Deaf,
}

/// See the module.
pub struct Dispatcher {
    /// A lock, and not a task, since it is held for little more than the encoding of what is published, and publishers need no answer from it.
    state: Mutex<State>,
    queues: Vec<Arc<Queue>>,
    sources: Vec<UnboundedSender<Demand>>,
    metrics: Arc<Metrics>,
    /// The mode has changed.
    turned: Notify,
}

impl Dispatcher {
    /// A dispatcher to the shards behind `queues`; `sources` are those that must be asked for each channel (at most 64).
    #[must_use]
    pub fn new(
        sequencer: Sequencer,
        queues: Vec<Arc<Queue>>,
        sources: Vec<UnboundedSender<Demand>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = Mutex::new(State {
            sequencer,
            wanted: HashMap::new(),
            away: 0,
            heard: 0,
            tickets: 0,
            early_bytes: 0,
            alive: vec![0; sources.len()],
            mode: Mode::Live,
            begun: true,
            broken: false,
            marker: None,
        });
        Self { state, queues, sources, metrics, turned: Notify::new() }
    }

    /// Passes messages of source `source` on as events, in order, all in one turn of the lock. A message is dropped if no
    /// shard wants its channel (any more), and waits while the source has not confirmed the channel.
    pub fn publish(&self, source: usize, messages: impl IntoIterator<Item = Message>) {
        let state = &mut *self.lock();
        // Only a message on the marker changes this, and then each goes its own way already.
        let live = state.passes_on();
        let mut ready = Vec::new();
        for message in messages {
            let Some(wanted) = state.wanted.get_mut(&message.channel) else { continue };
            if wanted.awaiting & (1 << source) == 0 {
                if live {
                    ready.push(message);
                } else {
                    self.publish_while_handing(state, message);
                }
            } else if state.early_bytes < EARLY_BYTES {
                state.early_bytes += message.data.len();
                wanted.early.push(message);
            }
        }
        if !ready.is_empty() {
            self.pass_on(state, &ready, None);
        }
    }

    fn pass_on_or_keep(&self, state: &mut State, message: Message) {
        if state.passes_on() {
            self.pass_on(state, &[message], None);
        } else {
            self.publish_while_handing(state, message);
        }
    }

    /// Passes messages on as events, in order; the receipt learns how many clients each had. Gives back the cursor of each,
    /// or nothing while the process is being succeeded: then [`Dispatcher::live`] tells when to try again.
    pub fn publish_counted(&self, messages: &[Message], receipt: &Arc<Receipt>) -> Option<Vec<Cursor>> {
        let mut state = self.lock();
        if !matches!(state.mode, Mode::Live) {
            return None;
        }
        let node = *state.sequencer.node();
        let events = self.pass_on(&mut state, messages, Some(receipt));
        Some(events.into_iter().map(|position| Cursor { node, position }).collect())
    }

    /// Gives messages their positions, which it gives back where there is a receipt, and pushes the events to every shard.
    fn pass_on(&self, state: &mut State, messages: &[Message], receipt: Option<&Arc<Receipt>>) -> Vec<Position> {
        let node = *state.sequencer.node();
        let now = now_micros();
        let mut next = |message| -> Arc<Event> { Arc::new(Event::new(&node, state.sequencer.next(now), message)) };
        let events: Vec<Arc<Event>> = messages.iter().map(&mut next).collect();
        let positions = receipt.map(|_| events.iter().map(|event| event.position()).collect()).unwrap_or_default();
        self.metrics.events.add(messages.len() as u64);
        let op = |(event, index)| Op::Publish(event, receipt.map(|receipt| (Arc::clone(receipt), index)));
        if let Some((last, others)) = self.queues.split_last() {
            for queue in others {
                queue.push(events.iter().cloned().zip(0..).map(op));
            }
            last.push(events.into_iter().zip(0..).map(op));
        }
        positions
    }

    /// Moves the position on towards the time where nothing is published, so that cursors of quiet channels are not old.
    pub fn advance(&self) {
        let mut state = self.lock();
        // Only as far as every source is known to have delivered: another node takes a cursor at its word.
        let until = if self.sources.is_empty() { now_micros() } else { state.alive.iter().copied().min().unwrap_or(0) };
        if matches!(state.mode, Mode::Live) && state.away == 0 && until > state.sequencer.last().0 {
            let position = state.sequencer.next(until);
            self.to_all(|| Op::Advance(position));
        }
    }

    /// Blocks a source's thread while more waits for the shards than is reasonable.
    pub fn wait_for_room(&self) {
        for queue in &self.queues {
            queue.wait_for_room(LONGEST_BRAKE);
        }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.queues.len()
    }

    /// The shards' queues.
    #[must_use]
    pub fn queues(&self) -> &[Arc<Queue>] {
        &self.queues
    }

    /// How many clients each of `names` has, over all shards.
    pub async fn subscribers(&self, names: Vec<ChannelName>) -> Vec<u32> {
        let (receipt, counted) = Receipt::new(names.len(), self.queues.len());
        let names: Arc<[ChannelName]> = names.into();
        for queue in &self.queues {
            let (names, receipt) = (Arc::clone(&names), Arc::clone(&receipt));
            queue.push([Op::Ask(Box::new(move |shard| {
                for (name, index) in names.iter().zip(0..) {
                    receipt.count(index, shard.hub().subscribers_of(name));
                }
            }))]);
        }
        // Shards that end while they are asked count as none.
        let _ = counted.await;
        (0..names.len()).map(|index| receipt.clients(index)).collect()
    }

    /// How many clients each channel has that has any, over all shards; by name.
    pub async fn all_subscribers(&self) -> BTreeMap<ChannelName, u32> {
        let mut all = BTreeMap::new();
        for queue in &self.queues {
            let (answer, answered) = oneshot::channel();
            queue.push([Op::Ask(Box::new(move |shard| {
                let counts: Vec<_> = shard.hub().subscribers().map(|(name, count)| (name.clone(), count)).collect();
                let _ = answer.send(counts); // Whoever asked may have gone.
            }))]);
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

    fn to_all(&self, op: impl Fn() -> Op) {
        for queue in &self.queues {
            queue.push([op()]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, positions are still right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time, in microseconds since 1970.
#[must_use]
pub fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
